//! The bound on what the whole process holds for its connections.
//!
//! Each worker counts the bytes of its partial frames and outboxes and adds the difference to one shared sum at the
//! end of a turn. Above the limit the worker that holds the largest connection is told to cut it. It may be busy: then the limit
//! may be exceeded by [a part of it](EXCESS), and above that the others cut what they have.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// The limit may be exceeded by so much of it, one sixteenth, while the worker that was told to cut has not looked.
const EXCESS: u64 = 16;

/// The sum over all workers, and what is known of each.
pub(crate) struct Memory {
    limit: u64,
    /// What connections hold.
    total: AtomicU64,
    /// What is under way to connections; see [`crate::transit`]. Nobody is cut for it, since that would not free it.
    under_way: AtomicU64,
    workers: Vec<Holder>,
}

/// What is known of a worker.
#[derive(Default)]
struct Holder {
    /// What its largest connection holds, or held not long ago.
    largest: AtomicUsize,
    /// It was told to cut, and has not come to that mail.
    is_told: AtomicBool,
}

impl Memory {
    pub(crate) fn new(limit: u64, workers: usize) -> Arc<Self> {
        Arc::new(Memory {
            limit,
            total: AtomicU64::new(0),
            under_way: AtomicU64::new(0),
            workers: (0..workers).map(|_| Holder::default()).collect(),
        })
    }

    /// What connections hold, and what is under way to them.
    pub(crate) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed) + self.under_way.load(Ordering::Relaxed)
    }

    /// Counts bytes that are about to be under way. If that makes more than the limit, nothing is counted: `false`.
    pub(crate) fn depart(&self, bytes: usize) -> bool {
        self.under_way.fetch_add(bytes as u64, Ordering::Relaxed);
        let fits = self.total() <= self.limit;
        if !fits {
            self.arrive(bytes);
        }
        fits
    }

    /// Bytes are no longer under way.
    pub(crate) fn arrive(&self, bytes: usize) {
        self.under_way.fetch_sub(bytes as u64, Ordering::Relaxed);
    }
}

/// One worker's view of [`Memory`].
pub(crate) struct Meter {
    memory: Arc<Memory>,
    worker: usize,
    /// What this worker's connections hold.
    held: u64,
    /// What of `held` is in the shared sum.
    published: u64,
}

impl Meter {
    pub(crate) fn new(memory: Arc<Memory>, worker: usize) -> Self {
        Meter {
            memory,
            worker,
            held: 0,
            published: 0,
        }
    }

    /// A connection that held `before` bytes now holds `after`.
    pub(crate) fn change(&mut self, before: usize, after: usize) {
        debug_assert!(self.held >= before as u64);
        self.held = self.held - before as u64 + after as u64;
        let largest = &self.memory.workers[self.worker].largest;
        if after > largest.load(Ordering::Relaxed) {
            largest.store(after, Ordering::Relaxed);
        }
    }

    pub(crate) fn held(&self) -> u64 {
        self.held
    }

    /// Adds what changed since the last call to the shared sum. Above the limit: the worker that is to cut its
    /// largest connection.
    pub(crate) fn publish(&mut self) -> Option<usize> {
        if self.held >= self.published {
            self.memory
                .total
                .fetch_add(self.held - self.published, Ordering::Relaxed);
        } else {
            self.memory
                .total
                .fetch_sub(self.published - self.held, Ordering::Relaxed);
        }
        self.published = self.held;
        self.over_limit()
    }

    fn over_limit(&self) -> Option<usize> {
        let Memory {
            limit,
            total,
            workers,
            ..
        } = &*self.memory;
        let total = total.load(Ordering::Relaxed);
        if total <= *limit {
            return None;
        }
        let largest = |worker: &usize| workers[*worker].largest.load(Ordering::Relaxed);
        let looks = |worker: &usize| {
            *worker == self.worker || !workers[*worker].is_told.load(Ordering::Relaxed)
        };
        let holder = (0..workers.len()).max_by_key(largest)?;
        if looks(&holder) {
            Some(holder)
        } else if total - limit <= limit / EXCESS {
            None
        } else {
            (0..workers.len()).filter(looks).max_by_key(largest)
        }
    }

    /// Notes that the worker is told to cut its largest connection. Returns whether it has to be, because it was not before.
    pub(crate) fn tell(&self, worker: usize) -> bool {
        let is_told = &self.memory.workers[worker].is_told;
        !is_told.swap(true, Ordering::Relaxed)
    }

    /// The worker was told to cut, and is about to look what it has.
    pub(crate) fn hear(&self) {
        let is_told = &self.memory.workers[self.worker].is_told;
        is_told.store(false, Ordering::Relaxed);
    }

    /// States what this worker's largest connection holds, after a look at all of them. If another worker is known to
    /// have a larger one, or the limit is kept by now, there is nothing to cut here: `false`.
    pub(crate) fn must_cut(&mut self, largest: usize) -> bool {
        let known = &self.memory.workers[self.worker].largest;
        known.store(largest, Ordering::Relaxed);
        largest > 0 && self.publish() == Some(self.worker)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.held = 0;
        self.publish();
        let known = &self.memory.workers[self.worker].largest;
        known.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worker_with_the_largest_connection_is_named_above_the_limit_only() {
        let memory = Memory::new(1000, 2);
        let mut meters = [Meter::new(memory.clone(), 0), Meter::new(memory.clone(), 1)];
        meters[0].change(0, 600);
        meters[1].change(0, 300);
        assert_eq!(meters[0].publish(), None);
        assert_eq!(meters[1].publish(), None);
        meters[1].change(300, 500);
        assert_eq!(meters[1].publish(), Some(0));
        assert!(!meters[1].must_cut(500), "worker 0 holds a larger one");
        assert!(meters[0].must_cut(600));
        meters[0].change(600, 0);
        assert_eq!(meters[0].publish(), None);
        assert!(!meters[0].must_cut(0));
        drop(meters);
        assert_eq!(memory.total(), 0);
    }

    #[test]
    fn a_worker_that_has_ended_is_not_named_any_more() {
        let memory = Memory::new(1000, 2);
        let mut meters = [Meter::new(memory.clone(), 0), Meter::new(memory.clone(), 1)];
        meters[1].change(0, 900);
        let [mut left, ended] = meters;
        drop(ended);
        left.change(0, 600);
        left.change(0, 600);
        assert_eq!(left.publish(), Some(0));
    }

    #[test]
    fn a_worker_whose_largest_connection_has_gone_is_not_named_again() {
        let memory = Memory::new(1000, 2);
        let mut meters = [Meter::new(memory.clone(), 0), Meter::new(memory.clone(), 1)];
        meters[0].change(0, 900);
        meters[0].change(900, 0);
        meters[0].change(0, 10);
        meters[1].change(0, 600);
        meters[1].change(0, 600);
        meters[0].publish();
        assert_eq!(meters[1].publish(), Some(0), "as far as is known");
        assert!(!meters[0].must_cut(10));
        assert_eq!(meters[0].publish(), Some(1));
        assert!(meters[1].must_cut(600));
    }
}
