//! From the abstract service table to the kernel.

pub mod nftables;
