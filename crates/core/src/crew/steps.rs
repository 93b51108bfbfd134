//! How far the workers have come in a stop.

use crate::sync::atomic::{AtomicU8, Ordering};

/// What each worker comes to in a stop, and others wait for. All but the first and the last are of a handover.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(crate) enum Step {
    /// It owes no deferred reply any more that it had promised before it began to stop.
    Kept,
    /// It has counted those of its connections that end before a handover.
    Asked,
    /// It knows that nothing is waited for any more. Until all do everybody is served: one that is busy is of no use to the
    /// clients of the others.
    Parts,
    /// Its services have been given all frames that came before.
    Served,
    /// It calls its services no more. What they pushed is in the mailboxes.
    Rests,
    /// It has nothing left to do, and can be given nothing any more: its services are only asked what they leave.
    Idle,
    /// It takes no more turns. It may still drop its services.
    Finished,
}

impl Step {
    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// By worker, the set of its steps. What is read and written is sequentially consistent, so that of two workers that come to the same
/// step at least one sees that both have.
pub(super) struct Steps(Vec<AtomicU8>);

impl Steps {
    pub(super) fn new(workers: usize) -> Self {
        Steps((0..workers).map(|_| AtomicU8::new(0)).collect())
    }

    /// Notes that a worker has come so far, and tells whether it was missing and now all have.
    pub(super) fn reach(&self, worker: usize, step: Step) -> bool {
        let before = self.0[worker].fetch_or(step.bit(), Ordering::SeqCst);
        before & step.bit() == 0 && self.have_all_reached(step)
    }

    /// Notes that nobody waits for a worker, whatever it has come to.
    pub(super) fn pass_over(&self, worker: usize) {
        self.0[worker].fetch_or(!Step::Finished.bit(), Ordering::SeqCst);
    }

    pub(super) fn has_reached(&self, worker: usize, step: Step) -> bool {
        self.0[worker].load(Ordering::SeqCst) & step.bit() != 0
    }

    pub(super) fn have_all_reached(&self, step: Step) -> bool {
        (0..self.0.len()).all(|worker| self.has_reached(worker, step))
    }
}
