//! Giving memory back to the system after a burst of connections.

/// From so many connections fewer on it is worth the trouble.
const GONE_MIN: u64 = 1000;

/// Watches how many connections there are.
///
/// glibc's allocator shrinks a heap only at its end, where as a rule something small is still in use, so that the
/// process would stay as large as it ever was.
#[derive(Default)]
pub(crate) struct Heap {
    /// The most connections since memory was given back last.
    most: u64,
}

impl Heap {
    /// Call it now and then, not on a worker's thread: it takes some milliseconds if there is much to give back.
    pub(crate) fn update(&mut self, open: u64) {
        if self.is_worthwhile(open) {
            give_back();
        }
    }

    /// Whether more than half of the connections have gone, and not just a few.
    fn is_worthwhile(&mut self, open: u64) -> bool {
        self.most = self.most.max(open);
        let gone = self.most - open;
        let worthwhile = gone >= GONE_MIN && gone > self.most / 2;
        if worthwhile {
            self.most = open;
        }
        worthwhile
    }
}

/// malloc_trim(3): gives back every free page of every heap.
#[cfg(target_env = "gnu")]
fn give_back() {
    // SAFETY: it may be called at any time and from any thread, and moves nothing that is in use.
    #[expect(unsafe_code, reason = "a call of the C library")]
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(not(target_env = "gnu"))]
fn give_back() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_most_of_a_burst_is_gone() {
        let mut heap = Heap::default();
        let steps = [
            (10, false),
            (10_000, false),
            (5_000, false),
            (4_999, true),
            (4_000, false),
            (0, true),
            (900, false),
            (0, false),
            (1_000, false),
            (0, true),
        ];
        for (open, worthwhile) in steps {
            assert_eq!(heap.is_worthwhile(open), worthwhile, "{open}");
        }
    }
}
