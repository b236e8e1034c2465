//! What the pod network does, scenario by scenario, with real packets.

mod bridge;
