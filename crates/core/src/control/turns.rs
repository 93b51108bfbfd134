//! Whether the workers take turns.

use std::time::{Duration, Instant};

use crate::running::Running;

/// How often it is looked whether a worker takes turns for which others are to go on without it.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The workers' turns, looked at from time to time. What counts is how many looks in a row have found a worker in the same turn, so
/// that a process that was frozen as a whole (the cgroup freezer, a paused virtual machine) finds nobody stuck when it goes on.
#[derive(Default)]
pub(super) struct Turns {
    /// Of each worker, its turns at the last look, and how many looks in a row have found no more.
    seen: Vec<(u64, u32)>,
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
    pub(super) fn look(&mut self, running: &Running) -> Vec<Found> {
        let ended = running.have_ended();
        // A number that no worker comes to.
        self.seen.resize(ended.len(), (u64::MAX, 0));
        let mut found = Vec::with_capacity(ended.len());
        for (worker, turns) in running.turns().enumerate() {
            let (last, looks) = &mut self.seen[worker];
            let before = *looks;
            *looks = if *last == turns { before + 1 } else { 0 };
            *last = turns;
            if ended[worker] || running.has_finished(worker) {
                *looks = 0;
                continue;
            }
            if *looks == 0 {
                // An idle worker takes a turn because of this, before the next look. Otherwise it has the last one still to take.
                running.nudge(worker);
            }
            found.push(Found {
                worker,
                before,
                looks: *looks,
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
    pub(super) fn begin(running: &Running, now: Instant) -> Self {
        let mut turns = Turns::default();
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
