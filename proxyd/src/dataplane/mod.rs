//! From the abstract service table to the kernel.

pub mod leftovers;
pub mod nftables;
pub mod policy;
