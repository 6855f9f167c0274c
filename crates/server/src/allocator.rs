//! The allocator, and how soon what is free goes back to the system.

use std::ffi::{c_int, c_long};

/// A sixth of the CPU time under writes went to the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of `mimalloc.h`, which the bindings don't name: for how many
/// milliseconds free memory is kept for whoever wants some next.
const PURGE_DELAY: c_int = 15;
/// What it is where nobody sets it.
const USUAL_MS: c_long = 1_000;
/// A flush lets go of tens of MiB at once: a server that is asked for nothing but reads for a while
/// has an eighth less memory with this. With no delay at all ranges took half as much CPU again.
const SOON_MS: c_long = 200;

/// Sets that delay, unless the environment (`MIMALLOC_PURGE_DELAY`) says otherwise. To be called
/// first, before there are other threads.
#[allow(unsafe_code, reason = "the allocator's options are set by a foreign function")]
pub(crate) fn give_back_soon() {
    // SAFETY: both take numbers only and are called from the one thread there is. Another version
    // of the allocator that numbers its options otherwise does not have this default there.
    unsafe {
        if libmimalloc_sys::mi_option_get(PURGE_DELAY) == USUAL_MS {
            libmimalloc_sys::mi_option_set(PURGE_DELAY, SOON_MS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(unsafe_code, reason = "reads an option of the allocator")]
    fn the_option_is_the_one_that_is_meant() {
        give_back_soon();
        // SAFETY: it takes a number only.
        let delay = unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        let is_given = std::env::var_os("MIMALLOC_PURGE_DELAY").is_some();
        assert!(is_given || delay == SOON_MS, "{delay} ms");
    }
}
