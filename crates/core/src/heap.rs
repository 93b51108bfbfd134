//! Giving memory back to the system after a burst of connections.
//!
//! glibc's allocator shrinks a heap only at its end, where as a rule something small is still in use, so that the process
//! would stay as large as it ever was. A worker notices that a burst is over; the main thread, which nobody waits for,
//! gives the memory back.

/// Fewer connections than this are not worth the trouble.
const BURST_MIN: usize = 500;

/// One worker's connections, as far as bursts of them go.
#[derive(Default)]
pub(crate) struct Burst {
    /// The most since the last burst was over.
    most: usize,
}

impl Burst {
    /// There are so many connections now, one more than before.
    pub(crate) fn grown(&mut self, open: usize) {
        self.most = self.most.max(open);
    }

    /// There are so many connections now, one fewer than before. Returns whether that means that a burst is over: most
    /// of them have gone, and not just a few.
    pub(crate) fn is_over(&mut self, open: usize) -> bool {
        let gone = self.most - open;
        let over = gone >= BURST_MIN && gone > self.most / 2;
        if over {
            self.most = open;
        }
        over
    }
}

/// Gives every free page of every heap back: malloc_trim(3). Takes some milliseconds if there is much to give.
#[cfg(target_env = "gnu")]
pub(crate) fn give_back() {
    // SAFETY: it may be called at any time and from any thread, and moves nothing that is in use.
    #[expect(unsafe_code, reason = "a call of the C library")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other C libraries' allocators see to it themselves.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn give_back() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_over_when_most_of_it_has_gone() {
        let mut burst = Burst::default();
        let mut over = |from: usize, to: usize| {
            (from + 1..=to).for_each(|open| burst.grown(open));
            let ends = (to..from).rev().filter(|open| burst.is_over(*open));
            ends.collect::<Vec<_>>()
        };
        assert!(over(0, 10_000).is_empty());
        assert_eq!(over(10_000, 0), [4_999, 2_499, 1_249, 624, 124]);
        assert!(over(0, 499).is_empty());
        assert!(over(499, 0).is_empty(), "a few come and go all the time");
        assert!(over(0, 600).is_empty());
        assert_eq!(over(600, 0), [100]);
    }
}
