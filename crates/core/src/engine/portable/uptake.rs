//! What the kernel has certainly taken of what was submitted.
//!
//! When its runtime parks, tokio-uring submits and ignores the result. Where io_uring_enter(2) has failed (EAGAIN for want
//! of memory, EBUSY) or has taken a part only, the rest stays in the submission queue until the runtime parks the next time,
//! which may be never, since what would wake it is among them. Nothing says so, and the queue is out of reach.
//!
//! But the kernel takes entries in their order, so a completion tells of all that were submitted before. And some operations
//! complete while they are submitted: one of those that does not complete has not been taken.

/// Counts what one engine submits and what comes back.
#[derive(Debug, Default)]
pub(super) struct Uptake {
    /// So many operations were submitted; the number of the last one.
    submitted: u64,
    /// The kernel has certainly taken the operations up to this number.
    taken: u64,
    /// The last one that completes while it is submitted.
    prompt: u64,
    /// So many checks in a row found one of those missing.
    missed: u32,
}

/// What a check comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// Nothing is open.
    Fine,
    /// It cannot be told yet. An operation that completes while it is submitted will tell.
    Ask,
    /// Not all was taken, so many checks ago or more. It is to be submitted again.
    Missing(u32),
}

impl Uptake {
    /// Gives an operation its number; `is_prompt` if it completes while it is submitted.
    pub(super) fn submitted(&mut self, is_prompt: bool) -> u64 {
        self.submitted += 1;
        if is_prompt {
            self.prompt = self.submitted;
        }
        self.submitted
    }

    /// The operation of this number has completed.
    pub(super) fn completed(&mut self, number: u64) {
        self.taken = self.taken.max(number);
        if !self.lags() {
            self.missed = 0;
        }
    }

    /// Whether everything that was submitted has certainly been taken.
    pub(super) fn is_known(&self) -> bool {
        self.taken == self.submitted
    }

    /// How many operations may not have been taken.
    pub(super) fn open(&self) -> u64 {
        self.submitted - self.taken
    }

    /// Whether an operation is missing that would have completed if it had been taken.
    pub(super) fn lags(&self) -> bool {
        self.prompt > self.taken
    }

    /// To be called from time to time as long as not all is known to be taken.
    pub(super) fn check(&mut self) -> Check {
        if self.lags() {
            self.missed += 1;
            Check::Missing(self.missed)
        } else if self.is_known() {
            Check::Fine
        } else {
            Check::Ask
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use seccompiler::{SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};

    use super::super::flights::{Flights, Operation};
    use super::super::{probe, setup};
    use super::*;
    use crate::seccomp::deny_where;

    /// From now on io_uring_enter(2) fails on this thread whenever it is to submit exactly one entry.
    fn deny_single_entries() {
        let is_one = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, 1);
        let rule = SeccompRule::new(vec![is_one.unwrap()]).unwrap();
        deny_where(libc::SYS_io_uring_enter, vec![rule], libc::EAGAIN);
    }

    /// What asks about it goes along with it the next time, and two are taken.
    #[test]
    fn a_poll_that_the_kernel_has_not_taken_is_submitted_again() {
        if probe().is_err() {
            return;
        }
        let (sender, landed) = channel();
        std::thread::spawn(move || {
            let (runtime, entries) = setup::runtime(8).unwrap();
            let mut flights = Flights::new(entries);
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(b"?").unwrap();
            deny_single_entries();
            flights.readable(Operation::Wake, ours.as_fd());
            let mut operations = Vec::new();
            while !operations.contains(&Operation::Wake) {
                flights.park(&runtime, None);
                flights.collect();
                operations.extend(std::iter::from_fn(|| flights.next()).map(|(it, _)| it));
            }
            sender.send(operations).unwrap();
        });
        // For ever, if it is not.
        let operations = landed.recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!(operations, [Operation::Wake, Operation::Turn]);
    }

    #[test]
    fn a_completion_tells_of_what_was_submitted_before() {
        let mut uptake = Uptake::default();
        assert!(uptake.is_known());
        let poll = uptake.submitted(false);
        let nop = uptake.submitted(true);
        assert!(!uptake.is_known());
        uptake.completed(nop);
        assert!(uptake.is_known());
        assert_eq!(uptake.check(), Check::Fine);
        uptake.submitted(false);
        uptake.completed(poll);
        assert!(!uptake.is_known());
    }

    #[test]
    fn what_may_still_wait_is_asked_about_once() {
        let mut uptake = Uptake::default();
        uptake.submitted(false);
        assert_eq!(uptake.check(), Check::Ask);
        let nop = uptake.submitted(true);
        assert!(uptake.lags());
        uptake.completed(nop);
        assert_eq!(uptake.check(), Check::Fine);
    }

    #[test]
    fn what_completes_at_once_is_missed_until_it_comes() {
        let mut uptake = Uptake::default();
        let nop = uptake.submitted(true);
        uptake.submitted(false);
        assert_eq!(uptake.check(), Check::Missing(1));
        assert_eq!(uptake.check(), Check::Missing(2));
        uptake.completed(nop);
        assert!(!uptake.lags());
        // The poll behind it may have stayed behind.
        assert_eq!(uptake.check(), Check::Ask);
        uptake.submitted(true);
        assert_eq!(uptake.check(), Check::Missing(1));
    }
}
