//! When an open loop wants its messages sent.

/// A schedule of one message every so many nanoseconds.
#[derive(Debug)]
pub(crate) struct Pace {
    start: u64,
    interval: f64,
    issued: u64,
}

impl Pace {
    /// A schedule that begins at `start`, in nanoseconds, with `rate` messages a second.
    pub(crate) fn new(start: u64, rate: f64) -> Self {
        Self {
            start,
            interval: 1e9 / rate,
            issued: 0,
        }
    }

    /// The time at which the next message is due. Computed from the start each time, so that
    /// rounding does not add up.
    pub(crate) fn next_at(&self) -> u64 {
        self.start + (self.issued as f64 * self.interval) as u64
    }

    /// How many of the messages that are due by `at` were not taken.
    pub(crate) fn overdue(&self, at: u64) -> u64 {
        let Some(time) = at.checked_sub(self.start) else {
            return 0;
        };
        let due = ((time + 1) as f64 / self.interval).ceil() as u64;
        due.saturating_sub(self.issued)
    }

    /// Takes the next message if it is due: the time at which it was.
    pub(crate) fn take(&mut self, now: u64) -> Option<u64> {
        let at = self.next_at();
        if at > now {
            return None;
        }
        self.issued += 1;
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_to_the_schedule_when_late() {
        let mut pace = Pace::new(1000, 1e6);
        assert_eq!(pace.take(999), None);
        assert_eq!(pace.take(1000), Some(1000));
        assert_eq!(pace.take(1000), None);
        let late: Vec<u64> = std::iter::from_fn(|| pace.take(4500)).collect();
        assert_eq!(late, [2000, 3000, 4000]);
        assert_eq!(pace.next_at(), 5000);
    }

    #[test]
    fn what_is_overdue_is_what_could_be_taken() {
        for rate in [3.0, 999.0, 1e6, 7e8, 1e9] {
            for late in [0, 1, 999, 1000, 1001, 333_333_333, 1_000_000] {
                let mut pace = Pace::new(1000, rate);
                assert_eq!(pace.overdue(999), 0);
                assert!(pace.take(1000).is_some());
                let overdue = pace.overdue(1000 + late);
                let taken = std::iter::from_fn(|| pace.take(1000 + late)).take(2_000_000);
                let taken = taken.count() as u64;
                assert_eq!(taken, overdue.min(2_000_000), "{rate} {late}");
            }
        }
    }

    #[test]
    fn does_not_drift() {
        let mut pace = Pace::new(0, 3.0);
        let count = std::iter::from_fn(|| pace.take(1_000_000_000_000)).count();
        assert_eq!(count, 3001);
    }
}
