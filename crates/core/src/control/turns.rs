//! Whether the workers take turns.

use std::time::{Duration, Instant};

use crate::running::Running;

/// How often it is looked whether a worker takes turns for which others are to go on without it.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The workers' turns, looked at from time to time. What counts is how many looks in a row have found a worker in the same turn, so
/// that a process that was frozen as a whole (the cgroup freezer, a paused virtual machine) finds nobody stuck when it goes on.
pub(super) struct Turns {
    /// Who sleeps is asked for a turn, too.
    wakes: bool,
    /// Of each worker.
    seen: Vec<Seen>,
}

/// What was seen of one worker.
#[derive(Clone, Default)]
struct Seen {
    /// How many turns it had taken when it was asked for another one; `None` if it was not.
    asked_at: Option<u64>,
    /// How many looks in a row have found no more since.
    looks: u32,
}

impl Seen {
    /// What a look finds of a worker that has taken so many turns. Who `rests` need not take any.
    fn look(&mut self, turns: u64, rests: bool) {
        let is_same = !rests && self.asked_at == Some(turns);
        self.looks = if is_same { self.looks + 1 } else { 0 };
        // One that rests wakes up in this turn, and was not asked for another.
        self.asked_at = (!rests).then_some(turns);
    }

    /// Whether it is to be asked for a turn. Otherwise it has the last one still to take, or rests.
    fn is_to_be_asked(&self) -> bool {
        self.looks == 0 && self.asked_at.is_some()
    }
}

/// What a look has found of a worker that has something to do.
pub(super) struct Found {
    pub(super) worker: usize,
    /// How many looks in a row had found it in the same turn before this one.
    pub(super) before: u32,
    /// How many have by now; zero if it has taken a turn.
    pub(super) looks: u32,
}

impl Turns {
    /// Every worker is asked for turns, so that one is found, too, that cannot be woken.
    pub(super) fn of_all() -> Self {
        Turns {
            wakes: true,
            seen: Vec::new(),
        }
    }

    /// Those that sleep, and so are in no call of a service, are left alone.
    pub(super) fn of_awake() -> Self {
        Turns {
            wakes: false,
            seen: Vec::new(),
        }
    }

    pub(super) fn look(&mut self, running: &Running) -> Vec<Found> {
        let ended = running.have_ended();
        self.seen.resize(ended.len(), Seen::default());
        let mut found = Vec::with_capacity(ended.len());
        for (worker, turns) in running.turns().enumerate() {
            let seen = &mut self.seen[worker];
            if ended[worker] || running.has_finished(worker) {
                *seen = Seen::default();
                continue;
            }
            let before = seen.looks;
            seen.look(turns, !self.wakes && running.is_asleep(worker));
            if seen.is_to_be_asked() {
                running.nudge(worker);
            }
            found.push(Found {
                worker,
                before,
                looks: seen.looks,
            });
        }
        found
    }
}

/// Looks at the turns every [`LOOK_INTERVAL`].
pub(super) struct Rounds {
    /// When the next look is due.
    pub(super) next: Instant,
    turns: Turns,
}

impl Rounds {
    /// Looks for the first time.
    pub(super) fn begin(mut turns: Turns, running: &Running, now: Instant) -> Self {
        turns.look(running);
        Rounds {
            next: now + LOOK_INTERVAL,
            turns,
        }
    }

    /// What a look finds, if one is due.
    pub(super) fn look(&mut self, running: &Running, now: Instant) -> Option<Vec<Found>> {
        if now < self.next {
            return None;
        }
        self.next = now + LOOK_INTERVAL;
        Some(self.turns.look(running))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What looks find that see these turns of a worker, and whether it rests: how often in a row it was the same turn, and whether it is
    /// asked for another one.
    fn looks<const N: usize>(seen: [(u64, bool); N]) -> [(u32, bool); N] {
        let mut worker = Seen::default();
        seen.map(|(turns, rests)| {
            worker.look(turns, rests);
            (worker.looks, worker.is_to_be_asked())
        })
    }

    #[test]
    fn who_is_asked_for_a_turn_and_takes_none_is_found_in_the_same() {
        let seen = [0, 0, 0, 1, 1, 2].map(|turns| (turns, false));
        let expected = [
            (0, true),
            (1, false),
            (2, false),
            (0, true),
            (1, false),
            (0, true),
        ];
        assert_eq!(looks(seen), expected);
    }

    #[test]
    fn who_sleeps_is_neither_asked_nor_found() {
        assert_eq!(looks([(7, true); 3]), [(0, false); 3]);
        // It has come to the end of a long turn.
        assert_eq!(
            looks([(7, false), (7, false), (7, true)]),
            [(0, true), (1, false), (0, false)]
        );
    }

    /// It wakes up in the turn in which it slept, so that it may have begun a moment ago.
    #[test]
    fn who_has_slept_is_asked_before_it_is_found() {
        let seen = [(7, true), (7, false), (7, false), (7, false)];
        assert_eq!(looks(seen), [(0, false), (0, true), (1, false), (2, false)]);
        let seen = [(7, true), (7, false), (8, false), (8, true)];
        assert_eq!(looks(seen), [(0, false), (0, true), (0, true), (0, false)]);
    }
}
