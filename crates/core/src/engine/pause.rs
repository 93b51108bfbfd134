//! Not trying again at once what the kernel says can be done, and does not do.

/// How long that pauses, in milliseconds, lest the worker spins. It happens when memory for sockets runs out, or when a socket has news
/// of a kind that nobody reads.
pub(crate) const PAUSE_MS: u64 = 10;

/// What pauses on one worker. All of it goes on at the same time.
pub(crate) struct Pause<T> {
    what: Vec<T>,
    /// On the worker's clock; of no meaning if nothing pauses.
    ends: u64,
}

impl<T> Pause<T> {
    pub(crate) fn new() -> Self {
        Pause {
            what: Vec::new(),
            ends: 0,
        }
    }

    /// This pauses, too, from `now` on the worker's clock.
    pub(crate) fn add(&mut self, what: T, now: u64) {
        if self.what.is_empty() {
            self.ends = now + PAUSE_MS;
        }
        self.what.push(what);
    }

    /// When something is to go on, if anything pauses.
    pub(crate) fn ends(&self) -> Option<u64> {
        (!self.what.is_empty()).then_some(self.ends)
    }

    /// What goes on `now`.
    pub(crate) fn over(&mut self, now: u64) -> Vec<T> {
        if now < self.ends {
            return Vec::new();
        }
        std::mem::take(&mut self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_go_on_when_the_first_one_has_waited() {
        let mut pause = Pause::new();
        assert_eq!(pause.ends(), None);
        pause.add('a', 5);
        pause.add('b', 9);
        assert_eq!(pause.ends(), Some(15));
        assert_eq!(pause.over(14), []);
        assert_eq!(pause.over(15), ['a', 'b']);
        assert_eq!(pause.ends(), None);
        pause.add('c', 20);
        assert_eq!(pause.ends(), Some(30));
    }
}
