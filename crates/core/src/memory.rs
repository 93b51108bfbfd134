//! The bound on what the whole process holds for its connections.
//!
//! Each worker counts the bytes of its partial frames and outboxes and adds the difference to one shared sum before it
//! sleeps, and in a turn if that is [much](STEP_MAX) or too much. Most of what is taken is given back before that, and then costs
//! no memory that all workers write to. Above the limit the worker that holds the largest connection is told to cut it. It may
//! be busy: then the limit may be exceeded by [a part of it](EXCESS), and above that the others cut what they have.
//!
//! Whoever adds to the sum looks behind that whether the worker was told, and that worker takes this back before it looks at the sum.
//! These accesses are sequentially consistent, so that one of the two sees what the other did, and somebody cuts.

use std::sync::Arc;

use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

#[cfg(test)]
#[cfg(ringhold_loom)]
mod models;

/// The limit may be exceeded by so much of it, one sixteenth, while the worker that was told to cut has not looked.
const EXCESS: u64 = 16;

/// What a worker that does not sleep holds more or less than the others know of it, at most.
const STEP_MAX: u64 = 64 * 1024;

/// All workers together hold so much of the limit more or less than is known, at most.
const UNKNOWN: u64 = 256;

/// The sum over all workers, and what is known of each.
pub(crate) struct Memory {
    limit: u64,
    /// As [`STEP_MAX`], or less if there are many workers for the limit.
    step: u64,
    /// What connections hold, as far as it is known.
    total: AtomicU64,
    /// What is under way to connections; see [`crate::transit`]. Nobody is cut for it, since that would not free it.
    under_way: AtomicU64,
    workers: Vec<Holder>,
}

/// What is known of a worker, apart from the others', since only that worker changes most of it.
#[derive(Default)]
#[repr(align(64))]
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
            step: STEP_MAX.min(limit / UNKNOWN / workers as u64),
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

/// What was answered should be sent when connections hold so much more than before: the replies, and what was received for them, are in a
/// usual second-level cache then.
const GROWTH_MAX: u64 = 256 * 1024;

/// One worker's view of [`Memory`].
pub(crate) struct Meter {
    memory: Arc<Memory>,
    worker: usize,
    /// What this worker's connections hold.
    held: u64,
    /// What of `held` is in the shared sum.
    published: u64,
    /// What the others read as [`Holder::largest`].
    largest: usize,
    /// The least that was held since the engine last sent what there was to be sent.
    least: u64,
}

impl Meter {
    pub(crate) fn new(memory: Arc<Memory>, worker: usize) -> Self {
        Meter {
            memory,
            worker,
            held: 0,
            published: 0,
            largest: 0,
            least: 0,
        }
    }

    /// A connection that held `before` bytes now holds `after`.
    pub(crate) fn change(&mut self, before: usize, after: usize) {
        debug_assert!(self.held >= before as u64);
        self.held = self.held - before as u64 + after as u64;
        self.least = self.least.min(self.held);
        if after > self.largest {
            self.set_largest(after);
        }
    }

    fn set_largest(&mut self, largest: usize) {
        self.largest = largest;
        let known = &self.memory.workers[self.worker].largest;
        known.store(largest, Ordering::Relaxed);
    }

    pub(crate) fn held(&self) -> u64 {
        self.held
    }

    /// What is to be sent is being sent.
    pub(crate) fn begin_growth(&mut self) {
        self.least = self.held;
    }

    /// Whether so much is held since then that what is to be sent should be, before anything else is answered.
    pub(crate) fn has_grown(&self) -> bool {
        self.held - self.least >= GROWTH_MAX
    }

    /// Whether what changed since the last call of [`Meter::publish`] is too much to be added only before the worker sleeps.
    pub(crate) fn must_publish(&self) -> bool {
        let Memory {
            limit, step, total, ..
        } = &*self.memory;
        let of_others = total.load(Ordering::Relaxed) - self.published;
        self.held.abs_diff(self.published) > *step || of_others + self.held > *limit
    }

    /// Adds what changed since the last call to the shared sum. Above the limit: the worker that is to cut its
    /// largest connection.
    pub(crate) fn publish(&mut self) -> Option<usize> {
        if self.held != self.published {
            // Modulo 2^64, so that it may be less than before.
            let change = self.held.wrapping_sub(self.published);
            self.memory.total.fetch_add(change, Ordering::SeqCst);
            self.published = self.held;
        }
        self.over_limit()
    }

    fn over_limit(&self) -> Option<usize> {
        let Memory {
            limit,
            total,
            workers,
            ..
        } = &*self.memory;
        let total = total.load(Ordering::SeqCst);
        if total <= *limit {
            return None;
        }
        let largest = |worker: &usize| workers[*worker].largest.load(Ordering::Relaxed);
        let looks = |worker: &usize| {
            *worker == self.worker || !workers[*worker].is_told.load(Ordering::SeqCst)
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
        !is_told.swap(true, Ordering::SeqCst)
    }

    /// The worker was told to cut, and is about to look what it has.
    pub(crate) fn hear(&self) {
        let is_told = &self.memory.workers[self.worker].is_told;
        is_told.store(false, Ordering::SeqCst);
    }

    /// States what this worker's largest connection holds, after a look at all of them. If another worker is known to
    /// have a larger one, or the limit is kept by now, there is nothing to cut here: `false`.
    pub(crate) fn must_cut(&mut self, largest: usize) -> bool {
        self.set_largest(largest);
        largest > 0 && self.publish() == Some(self.worker)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.held = 0;
        self.publish();
        self.set_largest(0);
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
    fn little_is_not_told_before_a_worker_sleeps() {
        let limit = 1 << 30;
        let memory = Memory::new(limit, 2);
        let mut meters = [Meter::new(memory.clone(), 0), Meter::new(memory.clone(), 1)];
        let step = STEP_MAX as usize;
        for (before, after, must) in [
            (0, step, false),
            (step, 0, false),
            (0, step + 1, true),
            (step + 1, 0, false),
        ] {
            meters[0].change(before, after);
            assert_eq!(meters[0].must_publish(), must, "{before} to {after}");
            assert_eq!(memory.total(), 0);
        }
        meters[0].change(0, step);
        meters[0].publish();
        assert_eq!(memory.total(), STEP_MAX);
        meters[1].change(0, limit as usize - step);
        meters[1].publish();
        assert!(!meters[0].must_publish());
        meters[0].change(0, 1);
        assert!(meters[0].must_publish(), "it is too much, however little");
    }

    #[test]
    fn what_is_held_has_grown_since_it_was_least() {
        let mut meter = Meter::new(Memory::new(1 << 30, 1), 0);
        let much = GROWTH_MAX as usize;
        let mut held = 100;
        meter.change(0, held);
        meter.begin_growth();
        for (after, has_grown) in [
            (99 + much, false),
            (100 + much, true),
            (10, false),
            (9 + much, false),
            (10 + much, true),
        ] {
            meter.change(held, after);
            held = after;
            assert_eq!(meter.has_grown(), has_grown, "{after}");
        }
        meter.begin_growth();
        assert!(!meter.has_grown());
        meter.change(held, 2 * held);
        assert!(meter.has_grown());
    }

    #[test]
    fn what_is_not_told_is_a_small_part_of_the_limit() {
        for (limit, workers) in [(1, 1), (1 << 20, 1), (1 << 20, 64), (1 << 30, 64)] {
            let step = Memory::new(limit, workers).step;
            assert!(step <= STEP_MAX && step * workers as u64 <= limit / UNKNOWN);
        }
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
