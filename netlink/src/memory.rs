//! The allocator.

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
