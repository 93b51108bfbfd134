//! Connections that a stop does not read any more are read again if it waits in vain: what it waits for may be answered only behind
//! the next request of one of them.

use super::{Phase, Shard};
use crate::peer::Link;

/// What a worker keeps for that.
#[derive(Default)]
pub(super) struct Thawing {
    /// The fewest deferred replies that were owed, in the whole process, since the stop began, froze, or thawed, or none was.
    fewest: Option<usize>,
    /// When it thaws, unless there are fewer before.
    pub(super) at: u64,
    /// Until when it does not freeze, since it has thawed.
    pub(super) until: u64,
    /// How often the workers had thawed when this one looked last.
    count: usize,
}

impl<L: Link> Shard<L> {
    /// For how long a stop waits in vain before it thaws, and is thawed then, in milliseconds. Calls that are not slow take less:
    /// while it is frozen all are answered, whenever they were made.
    fn thaws_for(&self) -> u64 {
        self.slow().max(1)
    }

    /// Looks whether the stop waits in vain, and thaws if a worker has found so. All do at once: if each did in its time, calls that
    /// one lets in would be waited for when the next one does, and so on.
    pub(super) fn thaw_if_stuck(&mut self, until: u64) {
        let (now, crew) = (self.desk.now, &self.desk.crew);
        let owed = crew.open_tickets.count();
        let is_less = |fewest: Option<usize>| fewest.is_none_or(|fewest| owed < fewest);
        let thawing = &self.stop.thawing;
        if !is_less(thawing.fewest) && now >= thawing.at && now < until {
            crew.thaw(thawing.count);
        }
        let count = crew.thaws();
        if count != thawing.count {
            self.stop.thawing.count = count;
            self.thaw(until);
        }
        if owed == 0 {
            // Ends are waited for, which come without anybody's request.
            self.count_owed_anew();
        } else if is_less(self.stop.thawing.fewest) {
            self.stop.thawing.fewest = Some(owed);
            self.stop.thawing.at = now.saturating_add(self.thaws_for());
        }
    }

    /// For a while everybody is served again but who waits for a slow deferred reply, as at the beginning of the stop. Who does
    /// one job after another for those who wait would have to be let in for each.
    fn thaw(&mut self, until: u64) {
        self.phase = Phase::Waiting {
            until,
            freezes: false,
        };
        self.stop.thawing.until = self.desk.now.saturating_add(self.thaws_for());
        self.count_owed_anew();
        for slot in self.slots() {
            if let Some(entry) = self.connections.get_mut(slot as usize)
                && entry.is_frozen
                && !entry.is_settled
            {
                entry.is_frozen = false;
                entry.excuse_silence(self.desk.now);
                // It freezes again if it waits for a slow one.
                self.conclude(slot);
            }
        }
    }

    /// From now on it is looked at once more whether fewer deferred replies are owed.
    pub(super) fn count_owed_anew(&mut self) {
        self.stop.thawing.fewest = None;
    }
}
