//! What the daemon answers over HTTP, and the two small user-space servers.
