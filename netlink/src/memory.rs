//! The allocator.

/// From this size on, in bytes, a block is mapped by itself.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 64 << 10;

/// Keeps large blocks apart from small ones, so that they leave no holes when they are freed. glibc does so at the
/// start, and ever less the larger the blocks are that it has seen. Does nothing with another C library.
pub fn keep_large_blocks_apart() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "the standard library has no such call")]
    // SAFETY: it takes no pointer and may be called at any time, from any thread.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Gives memory that is free back to the system: what was needed once, to read everything, is not needed again.
/// Does nothing where the C library is not glibc.
pub fn give_back_free_memory() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "the standard library has no such call")]
    // SAFETY: it takes no pointer and may be called at any time, from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
