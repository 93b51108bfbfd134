//! How many of the free receive buffers the kernel has.
//!
//! It uses them in the order in which it got them. So whoever receives through all of them in turn finds none of them in the cache,
//! if only one connection has something to say. What the kernel is not given is used again in the reverse order, and the one that was used last is
//! the next one that it gets.

/// So many are always in circulation, if there are so many.
const LEAST: u16 = 8;

/// How long the turns must have needed few for the rest to be taken out of circulation, in milliseconds. It is long beside the
/// stalls of a machine, behind which all connections have something at once: then a receive that finds none has to wait for another turn.
const PERIOD_MS: u64 = 1_000;

#[derive(Debug)]
pub(super) struct Circulation {
    /// All that there are.
    all: u16,
    /// The kernel is to have so many at the beginning of a turn,
    size: u16,
    /// and has at most so many.
    there: u16,
    /// So many came back in this turn.
    used: u16,
    /// And at most so many in any turn of this period,
    used_most: u16,
    /// which ends at this time on the worker's clock.
    ends: u64,
}

impl Circulation {
    /// Of so many, a power of two.
    pub(super) fn new(all: u16) -> Self {
        Circulation {
            all,
            size: LEAST.min(all),
            there: 0,
            used: 0,
            used_most: 0,
            ends: PERIOD_MS,
        }
    }

    /// The kernel has used one.
    pub(super) fn used(&mut self) {
        debug_assert!(self.there > 0, "it uses what it was given");
        self.there = self.there.saturating_sub(1);
        self.used += 1;
    }

    /// The kernel found none. It gets all that are free.
    pub(super) fn starved(&mut self) {
        self.size = self.all;
    }

    /// A turn is over, at this time on the worker's clock. Returns how many more the kernel is to get.
    pub(super) fn wanted(&mut self, now: u64) -> u16 {
        let used = std::mem::take(&mut self.used);
        self.used_most = self.used_most.max(used);
        if used > self.size / 2 {
            self.size = self.all.min(self.size.saturating_mul(2));
        }
        if now >= self.ends {
            if self.used_most <= self.size / 4 {
                let size = (2 * self.used_most).next_power_of_two();
                self.size = size.max(LEAST).min(self.all);
            }
            self.used_most = 0;
            self.ends = now + PERIOD_MS;
        }
        self.size.saturating_sub(self.there)
    }

    /// The kernel was given so many.
    pub(super) fn given(&mut self, count: u16) {
        self.there += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One turn: the kernel uses so many, and gets what it is to have. Returns how many it has.
    fn turn(circulation: &mut Circulation, used: u16, now: u64) -> u16 {
        (0..used).for_each(|_| circulation.used());
        let wanted = circulation.wanted(now);
        circulation.given(wanted);
        circulation.there
    }

    fn full() -> Circulation {
        let mut circulation = Circulation::new(64);
        assert_eq!(turn(&mut circulation, 0, 0), 8);
        circulation
    }

    #[test]
    fn who_needs_few_uses_the_same_few() {
        let mut circulation = full();
        for now in 0..5 * PERIOD_MS {
            assert_eq!(turn(&mut circulation, 4, now), 8);
        }
        assert_eq!(turn(&mut Circulation::new(2), 0, 0), 2);
    }

    #[test]
    fn they_become_more_before_there_is_none() {
        let mut circulation = full();
        let mut sizes = Vec::new();
        for used in [4, 5, 8, 9, 16, 17, 60] {
            sizes.push(turn(&mut circulation, used, 0));
        }
        assert_eq!(sizes, [8, 16, 16, 32, 32, 64, 64]);
    }

    #[test]
    fn who_found_none_gets_all() {
        let mut circulation = full();
        circulation.starved();
        assert_eq!(turn(&mut circulation, 8, 0), 64);
        // As many as a ring can have.
        let mut circulation = Circulation::new(1 << 15);
        circulation.starved();
        assert_eq!(turn(&mut circulation, 0, 0), 1 << 15);
        assert_eq!(turn(&mut circulation, 1 << 15, 0), 1 << 15);
    }

    #[test]
    fn they_become_fewer_when_a_period_has_needed_few() {
        let mut circulation = full();
        circulation.starved();
        assert_eq!(turn(&mut circulation, 8, 1), 64);
        // Of the first period one turn needed more.
        assert_eq!(turn(&mut circulation, 17, 2), 64);
        assert_eq!(turn(&mut circulation, 3, PERIOD_MS), 64);
        assert_eq!(turn(&mut circulation, 7, PERIOD_MS + 1), 64);
        // What is there is there, and comes back bit by bit.
        assert_eq!(turn(&mut circulation, 7, 2 * PERIOD_MS), 57);
        assert_eq!(turn(&mut circulation, 8, 2 * PERIOD_MS + 1), 49);
        let rest = (0..9).map(|_| turn(&mut circulation, 5, 2 * PERIOD_MS + 2));
        assert_eq!(rest.last(), Some(16));
        assert_eq!(turn(&mut circulation, 2, 3 * PERIOD_MS), 16);
        assert_eq!(turn(&mut circulation, 2, 4 * PERIOD_MS), 14);
        let rest = (0..9).map(|_| turn(&mut circulation, 1, 4 * PERIOD_MS + 1));
        assert_eq!(rest.last(), Some(8));
    }
}
