//! Our nftables messages compared, attribute by attribute, with what libnftnl makes of the same objects.
//!
//! (The `nftnl` crate's safe half cannot express maps, so this uses its raw half.)

#![allow(clippy::unwrap_used, reason = "a failed expectation is how a test fails")]
#![expect(unsafe_code, reason = "libnftnl is a C library; this is a test of ours beside it")]

mod elements;
mod expressions;
mod libnftnl;
mod objects;
mod sets;
