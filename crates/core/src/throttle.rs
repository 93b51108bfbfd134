//! A bound on what is logged about connections, which peers could otherwise make write as fast as they connect.

use std::cell::Cell;

/// So many warnings are let through in each window.
const WARNINGS_MAX: u32 = 10;

/// The length of a window, on the worker's clock.
const WINDOW_MS: u64 = 1_000;

/// What becomes of a warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is logged. So many before it were not, which has not been said yet.
    Log { unsaid: u64 },
    /// It is not logged, as a warning.
    Hold,
}

/// One worker's warnings about connections, counted by the second.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    window: Cell<u64>,
    logged: Cell<u32>,
    unsaid: Cell<u64>,
}

impl Throttle {
    /// Counts a warning at the time `now`, in milliseconds on the worker's clock.
    pub(crate) fn warn(&self, now: u64) -> Verdict {
        let window = now / WINDOW_MS;
        if self.window.replace(window) != window {
            self.logged.set(0);
        }
        if self.logged.get() == WARNINGS_MAX {
            self.unsaid.set(self.unsaid.get() + 1);
            return Verdict::Hold;
        }
        self.logged.set(self.logged.get() + 1);
        Verdict::Log {
            unsaid: self.unsaid.take(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_a_second_are_logged_and_the_next_says_how_many_were_not() {
        let throttle = Throttle::default();
        let logged = |now: u64, count: usize| {
            let verdicts = (0..count).map(|_| throttle.warn(now));
            let logs = |verdict: &Verdict| matches!(verdict, Verdict::Log { .. });
            verdicts.filter(logs).count()
        };
        assert_eq!(logged(1, 7), 7);
        assert_eq!(logged(999, 1_000), 3);
        assert_eq!(throttle.warn(1_000), Verdict::Log { unsaid: 997 });
        assert_eq!(logged(1_001, 1_000), 9);
        assert_eq!(throttle.warn(50_000), Verdict::Log { unsaid: 991 });
        assert_eq!(throttle.warn(50_000), Verdict::Log { unsaid: 0 });
    }
}
