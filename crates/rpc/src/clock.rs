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
}

struct Work {
    interval: Duration,
    /// When it is due next; `None` until the worker begins to serve.
    due: Option<Duration>,
    work: Box<dyn FnMut()>,
}

impl Clock {
    pub(crate) fn add(&mut self, interval: Duration, work: impl FnMut() + 'static) {
        self.works.push(Work {
            interval: interval.max(INTERVAL_MIN),
            due: None,
            work: Box::new(work),
        });
    }

    /// Does what is due `now`, which counts from anywhere. Returns the time until something is again. `report` is told what has
    /// panicked.
    pub(crate) fn tick(
        &mut self,
        now: Duration,
        report: impl Fn(&str, &Caught),
    ) -> Option<Duration> {
        for Work {
            interval,
            due,
            work,
        } in &mut self.works
        {
            let next = now.saturating_add(*interval);
            let Some(at) = due.filter(|at| *at <= now) else {
                due.get_or_insert(next);
                continue;
            };
            // Being late once makes it no later the next time, and what was missed is not made up for.
            let regular = at.saturating_add(*interval);
            *due = Some(if regular > now { regular } else { next });
            if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
                let what = format!("what is due every {interval:?}");
                report(&what, &Caught::new(panic));
            }
        }
        let next = self.works.iter().filter_map(|work| work.due).min()?;
        Some(next.saturating_sub(now))
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
        assert_eq!(clock.tick(Duration::ZERO, |_, _| ()), None);
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
            let next = clock.tick(now, |_, _| ()).unwrap();
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
    fn who_is_called_late_is_not_late_for_ever() {
        let ms = Duration::from_millis;
        let counts = Rc::new(RefCell::new([0; 3]));
        let mut clock = Clock::default();
        for (index, interval) in [1, 50, 3000].into_iter().enumerate() {
            let counts = counts.clone();
            clock.add(ms(interval), move || counts.borrow_mut()[index] += 1);
        }
        let mut now = ms(7);
        while now < ms(60_000) {
            // The worker is held up for a while each time.
            now += clock.tick(now, |_, _| ()).unwrap() + ms(10);
        }
        let [often, seldom, rarely] = *counts.borrow();
        assert!((5000..6000).contains(&often), "as often as it was called");
        assert!((1100..1200).contains(&seldom), "{seldom}");
        assert_eq!(rarely, 19);
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
            let next = clock.tick(now, |_, _| ()).unwrap();
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
