//! Who serves new clients in place of workers that are stuck in a call of a service.

#[cfg(test)]
mod tests;

use std::time::Instant;

use super::turns::{Rounds, Turns};
use crate::running::Running;

/// Finds workers that take no turns. Others accept in their place, and are dealt what they would be, until they do again. What they have
/// already they keep.
pub(super) struct Relief {
    rounds: Rounds,
    /// By worker, as it was found last.
    stuck: Vec<bool>,
}

impl Relief {
    /// None where every name has one worker only.
    pub(super) fn begin(running: &Running, now: Instant) -> Option<Self> {
        running.has_deputies().then(|| Relief {
            rounds: Rounds::begin(Turns::of_awake(), running, now),
            stuck: vec![false; running.turns().count()],
        })
    }

    /// Looks whether the workers take turns, if that is due. Returns when it is the next time.
    pub(super) fn update(&mut self, running: &Running, now: Instant) -> Instant {
        let found = self.rounds.look(running, now);
        let before = self.stuck.clone();
        for found in found.into_iter().flatten() {
            let worker = found.worker;
            let is_stuck = found.looks > 0;
            if std::mem::replace(&mut self.stuck[worker], is_stuck) != is_stuck {
                match is_stuck {
                    true => tracing::debug!("worker {worker} is busy: new clients go to others"),
                    false => tracing::debug!("new clients go to worker {worker} again"),
                }
            }
        }
        // Of all at once: who is stuck as well is nobody's deputy, not even for a moment.
        if self.stuck != before {
            running.set_stuck(&self.stuck);
        }
        self.rounds.next
    }
}
