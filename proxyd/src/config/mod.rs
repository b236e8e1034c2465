//! Settings: flags and KubeProxyConfiguration files, merged and validated once.
