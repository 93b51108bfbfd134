//! Waiting for what the kernel has none of at the moment, where connections of a predecessor depend on it.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::control::is_told_to_stop;
use crate::handover::exec;
use crate::notify;

/// So long a successor tries to get what its workers need, as long as it waits for the service manager.
const LONGEST: Duration = Duration::from_secs(20);

/// How soon it is tried again.
pub(crate) const INTERVAL: Duration = Duration::from_millis(10);

/// What a start may have to wait for. Workers take their steps at the same time, and wait for the same in each.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Engine,
    State,
    Thread,
    Ring,
    Buffers,
}

/// How long a start waits for what cannot be had at first, which by default is not at all. All its threads have a clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Patience {
    until: Option<Instant>,
    /// Of which steps it was said that one of them waits: a bit for each.
    said: Arc<AtomicU8>,
}

/// Why an attempt failed.
pub(crate) trait Obstacle: fmt::Display {
    /// Whether it may pass by itself.
    fn may_pass(&self) -> bool;
}

impl Obstacle for io::Error {
    /// Threads, memory and open files of the machine are given back by others. A process that starts does not give back what it has.
    fn may_pass(&self) -> bool {
        matches!(
            self.raw_os_error(),
            Some(libc::EAGAIN | libc::ENOMEM | libc::ENFILE)
        )
    }
}

impl Patience {
    /// That of a process which has been handed connections: its clients notice a wait less than an end.
    pub(crate) fn of_successor() -> Self {
        Patience {
            until: Some(Instant::now() + LONGEST),
            said: Arc::default(),
        }
    }

    /// Makes the attempt until it succeeds, or fails for something that does not pass, or the time is over, or a process that was started
    /// is told to stop: what it has been handed is left as it was, as by any start that fails.
    pub(crate) fn insist<T, E: Obstacle>(
        &self,
        step: Step,
        mut attempt: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        loop {
            let error = match attempt() {
                Err(error) if error.may_pass() => error,
                result => return result,
            };
            let left = self.until.map_or(Duration::ZERO, |until| {
                until.saturating_duration_since(Instant::now())
            });
            if left.is_zero() {
                return Err(error);
            }
            // After a reload nobody else may have the connections, whose requests are still to be answered.
            if is_told_to_stop() && !exec::is_replacement() {
                tracing::info!("told to stop, and so not waiting for it any longer: {error}");
                return Err(error);
            }
            if self.waits_first(step) {
                tracing::warn!(
                    "the predecessor's connections wait for what cannot be had yet, for at most {} s: {error}",
                    (left + INTERVAL).as_secs()
                );
                // What comes behind it has its time as well.
                notify::extend(2 * LONGEST);
            }
            thread::sleep(INTERVAL);
        }
    }

    /// Whether nobody has waited in this step before, on whichever thread.
    fn waits_first(&self, step: Step) -> bool {
        let bit = 1 << step as u8;
        self.said.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Attempts that fail for these reasons, one after the other. Returns what came of it, and how many were made.
    fn attempts(patience: &Patience, errors: &[i32]) -> (Option<i32>, usize) {
        let mut count = 0;
        let result = patience.insist(Step::Thread, || {
            let error = errors.get(count).copied();
            count += 1;
            error.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
        });
        let error = result.err().and_then(|error| error.raw_os_error());
        (error, count)
    }

    #[test]
    fn what_passes_is_waited_for_and_nothing_else() {
        let patience = Patience::of_successor();
        let passing = [libc::EAGAIN, libc::ENOMEM, libc::ENFILE];
        assert_eq!(attempts(&patience, &passing), (None, 4));
        for errno in [libc::EPERM, libc::EINVAL, libc::EMFILE, libc::ENOSYS] {
            let errors = [libc::EAGAIN, errno, libc::EAGAIN];
            assert_eq!(attempts(&patience, &errors), (Some(errno), 2));
        }
    }

    #[test]
    fn who_has_no_time_makes_one_attempt() {
        let over = Patience {
            until: Some(Instant::now()),
            ..Patience::default()
        };
        for patience in [Patience::default(), over] {
            let made = attempts(&patience, &[libc::EAGAIN]);
            assert_eq!(made, (Some(libc::EAGAIN), 1));
        }
    }

    #[test]
    fn of_all_that_wait_in_a_step_one_says_so() {
        let patience = Patience::of_successor();
        attempts(&patience, &[]);
        let workers = [(); 4].map(|()| patience.clone());
        for step in [
            Step::Engine,
            Step::State,
            Step::Thread,
            Step::Ring,
            Step::Buffers,
        ] {
            let waited = workers
                .each_ref()
                .map(|patience| patience.waits_first(step));
            assert_eq!(waited, [true, false, false, false], "{step:?}");
        }
        assert!(!patience.waits_first(Step::Engine));
    }
}
