//! Marks receive buffers that are the kernel's for AddressSanitizer, which then finds whoever reads or writes one: only the bytes that were
//! received are allowed, from the completion until the buffer is given back. Nothing happens unless `.ci/sanitize address` builds it.

/// Nobody may use these bytes until they are [allowed](allow).
#[cfg(not(ringhold_asan))]
pub(super) fn forbid(_: *const u8, _: usize) {}

/// Ends what [`forbid`] has begun.
#[cfg(not(ringhold_asan))]
pub(super) fn allow(_: *const u8, _: usize) {}

#[cfg(ringhold_asan)]
pub(super) use asan::{allow, forbid};

#[cfg(ringhold_asan)]
mod asan {
    // <sanitizer/asan_interface.h>
    #[expect(unsafe_code, reason = "what the sanitizer is told")]
    unsafe extern "C" {
        safe fn __asan_poison_memory_region(address: *const u8, bytes: usize);
        safe fn __asan_unpoison_memory_region(address: *const u8, bytes: usize);
        #[cfg(test)]
        safe fn __asan_region_is_poisoned(address: *const u8, bytes: usize) -> *const u8;
    }

    pub(in crate::engine::ring) fn forbid(address: *const u8, bytes: usize) {
        __asan_poison_memory_region(address, bytes);
    }

    pub(in crate::engine::ring) fn allow(address: *const u8, bytes: usize) {
        __asan_unpoison_memory_region(address, bytes);
    }

    /// How many of the bytes are allowed before the first one that is not.
    #[cfg(test)]
    pub(in crate::engine::ring) fn allowed(address: *const u8, bytes: usize) -> usize {
        let first = __asan_region_is_poisoned(address, bytes);
        if first.is_null() {
            return bytes;
        }
        first.addr() - address.addr()
    }
}

#[cfg(all(test, ringhold_asan))]
pub(super) use asan::allowed;
