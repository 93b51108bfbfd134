//! What a router does from time to time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use ringhold_core::panics::Caught;

/// The least time between two calls.
const INTERVAL_MIN: Duration = Duration::from_millis(1);

/// Work that is due again and again, each after an interval of its own.
#[derive(Default)]
pub(crate) struct Clock {
    works: Vec<Work>,
    /// How long it slept until now.
    slept: Duration,
}

struct Work {
    interval: Duration,
    /// How much of it is left.
    left: Duration,
    is_due: bool,
    /// How often it has panicked.
    panics: u64,
    work: Box<dyn FnMut()>,
}

impl Clock {
    pub(crate) fn add(&mut self, interval: Duration, work: impl FnMut() + 'static) {
        let interval = interval.max(INTERVAL_MIN);
        self.works.push(Work {
            interval,
            left: interval,
            is_due: false,
            panics: 0,
            work: Box::new(work),
        });
    }

    /// The time that was returned last is over: does what is due. Returns the time until something is again.
    pub(crate) fn tick(&mut self) -> Option<Duration> {
        for work in &mut self.works {
            work.left = work.left.saturating_sub(self.slept);
            if work.left.is_zero() {
                work.left = work.interval;
                work.is_due = true;
            }
        }
        let next = self.works.iter().map(|work| work.left).min();
        self.slept = next.unwrap_or_default();
        for work in self.works.iter_mut().filter(|work| work.is_due) {
            work.is_due = false;
            if let Err(panic) = catch_unwind(AssertUnwindSafe(&mut work.work)) {
                let panic = Caught::new(panic);
                work.panics += 1;
                // Bounded, since it may be due a thousand times a second.
                if work.panics.is_power_of_two() {
                    let (count, interval) = (work.panics, work.interval);
                    tracing::error!(
                        "what a router does every {interval:?} panicked ({count} so far): {panic}"
                    );
                }
            }
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    #[test]
    fn each_has_its_interval() {
        let log = Rc::new(RefCell::new(Vec::new()));
        let mut clock = Clock::default();
        assert_eq!(clock.tick(), None);
        for interval in [20, 30, 0] {
            let log = log.clone();
            let interval = Duration::from_millis(interval);
            clock.add(interval, move || {
                log.borrow_mut().push(interval.as_millis())
            });
        }
        let mut now = Duration::ZERO;
        let mut at = Vec::new();
        while now <= Duration::from_millis(60) {
            let next = clock.tick().unwrap();
            at.extend(
                log.take()
                    .into_iter()
                    .filter(|interval| *interval > 0)
                    .map(|interval| (now.as_millis(), interval)),
            );
            now += next;
        }
        assert_eq!(at, [(20, 20), (30, 30), (40, 20), (60, 20), (60, 30)]);
    }

    #[test]
    fn a_panic_changes_nothing_for_anybody() {
        let log = Rc::new(RefCell::new(Vec::new()));
        let mut clock = Clock::default();
        for minutes in [60, 59] {
            let log = log.clone();
            clock.add(Duration::from_secs(60 * minutes), move || {
                log.borrow_mut().push(minutes);
                assert_eq!(minutes, 59, "on purpose");
            });
        }
        let mut now = Duration::ZERO;
        let mut at = Vec::new();
        for _ in 0..5 {
            let next = clock.tick().unwrap();
            at.extend(
                log.take()
                    .into_iter()
                    .map(|minutes| (now.as_secs() / 60, minutes)),
            );
            now += next;
        }
        assert_eq!(at, [(59, 59), (60, 60), (118, 59), (120, 60)]);
    }
}
