//! What a router does from time to time.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

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
        // A panic keeps nothing else from being done. The worker logs it.
        let mut panic = None;
        for work in self.works.iter_mut().filter(|work| work.is_due) {
            work.is_due = false;
            if let Err(caught) = catch_unwind(AssertUnwindSafe(&mut work.work)) {
                panic.get_or_insert(caught);
            }
        }
        if let Some(panic) = panic {
            resume_unwind(panic);
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
    fn a_panic_costs_nobody_a_turn() {
        let count = Rc::new(RefCell::new([0; 2]));
        let mut clock = Clock::default();
        let second = Duration::from_secs(1);
        let first = count.clone();
        clock.add(second, move || {
            first.borrow_mut()[0] += 1;
            panic!("on purpose");
        });
        let other = count.clone();
        clock.add(second, move || other.borrow_mut()[1] += 1);
        assert_eq!(clock.tick(), Some(second));
        let mut counts = Vec::new();
        for _ in 0..3 {
            assert!(catch_unwind(AssertUnwindSafe(|| clock.tick())).is_err());
            counts.push(*count.borrow());
        }
        assert_eq!(counts, [[1, 1], [2, 2], [3, 3]]);
    }
}
