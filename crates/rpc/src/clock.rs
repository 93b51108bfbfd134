//! What a router does from time to time.

use std::time::Duration;

use crate::drops::OneByOne;

/// The least time between two calls.
const INTERVAL_MIN: Duration = Duration::from_millis(1);

/// Work that is due again and again, each after an interval of its own.
pub(crate) struct Clock<W> {
    works: OneByOne<Work<W>>,
}

struct Work<W> {
    interval: Duration,
    /// When it is due next; `None` is at once, when the worker begins to serve.
    due: Option<Duration>,
    work: W,
}

impl<W> Default for Clock<W> {
    fn default() -> Self {
        Clock {
            works: OneByOne::default(),
        }
    }
}

impl<W> Clock<W> {
    pub(crate) fn add(&mut self, interval: Duration, work: W) {
        self.works.push(Work {
            interval: interval.max(INTERVAL_MIN),
            due: None,
            work,
        });
    }

    /// Has what is due `now`, which counts from anywhere, done by `act`, which is told its interval. Returns the time until something is
    /// again.
    pub(crate) fn tick(
        &mut self,
        now: Duration,
        mut act: impl FnMut(Duration, &mut W),
    ) -> Option<Duration> {
        for Work {
            interval,
            due,
            work,
        } in self.works.iter_mut()
        {
            let at = due.unwrap_or(now);
            if at > now {
                continue;
            }
            // Being late once makes it no later the next time, and what was missed is not made up for.
            let regular = at.saturating_add(*interval);
            let next = now.saturating_add(*interval);
            *due = Some(if regular > now { regular } else { next });
            act(*interval, work);
        }
        let next = self.works.iter().filter_map(|work| work.due).min()?;
        Some(next.saturating_sub(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_interval() {
        let mut clock = Clock::default();
        assert_eq!(clock.tick(Duration::ZERO, |_, _| ()), None);
        for interval in [20, 30, 0] {
            clock.add(Duration::from_millis(interval), interval);
        }
        // The worker has been running for a while.
        let mut now = Duration::from_millis(7);
        let mut at = Vec::new();
        while now <= Duration::from_millis(67) {
            let next = clock.tick(now, |_, interval| {
                if *interval > 0 {
                    at.push((now.as_millis(), *interval));
                }
            });
            now += next.unwrap();
        }
        let expected = [
            (7, 20),
            (7, 30),
            (27, 20),
            (37, 30),
            (47, 20),
            (67, 20),
            (67, 30),
        ];
        assert_eq!(at, expected);
    }

    #[test]
    fn who_is_called_late_is_not_late_for_ever() {
        let ms = Duration::from_millis;
        let mut counts = [0; 3];
        let mut clock = Clock::default();
        for (index, interval) in [1, 50, 3000].into_iter().enumerate() {
            clock.add(ms(interval), index);
        }
        let mut now = ms(7);
        while now < ms(60_000) {
            // The worker is held up for a while each time.
            let next = clock.tick(now, |_, index| counts[*index] += 1);
            now += next.unwrap() + ms(10);
        }
        let [often, seldom, rarely] = counts;
        assert!((5000..6000).contains(&often), "as often as it was called");
        assert!((1100..=1200).contains(&seldom), "{seldom}");
        assert_eq!(rarely, 20);
    }
}
