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
    work: Box<dyn FnMut()>,
}

impl Clock {
    pub(crate) fn add(&mut self, interval: Duration, work: impl FnMut() + 'static) {
        let interval = interval.max(INTERVAL_MIN);
        self.works.push(Work {
            interval,
            left: interval,
            is_due: false,
            work: Box::new(work),
        });
    }

    /// The time that was returned last is over: does what is due. Returns the time until something is again. `report` is told
    /// what has panicked.
    pub(crate) fn tick(&mut self, report: impl Fn(&str, &Caught)) -> Option<Duration> {
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
                let what = format!("what is due every {:?}", work.interval);
                report(&what, &Caught::new(panic));
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
        assert_eq!(clock.tick(|_, _| ()), None);
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
            let next = clock.tick(|_, _| ()).unwrap();
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
            let next = clock.tick(|_, _| ()).unwrap();
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
