//! Connections that no successor can go on with, because their services cannot save the sessions: they end before a
//! handover, as in a plain stop.
//!
//! They are asked about when a handover has no deferred reply to wait for any more; again when nobody is read any more, each
//! when nothing is received on it, and behind frames of it that had waited; and when a connection is let go. The last answer
//! counts, but comes too late for what was not read by then.

use super::{Entry, Phase, Shard};
use crate::close::Close;
use crate::connection::{LINGER, Life, milliseconds};
use crate::crew::Step;
use crate::desk::Desk;
use crate::peer::Link;
use crate::reply::Abandoned;
use crate::service::Saved;
use crate::tickets::Kind;

impl<L: Link> Shard<L> {
    /// Finds those that cannot be handed over as soon as no deferred reply is awaited, which may need more of a session than
    /// is left then. The others are served until those have ended.
    pub(super) fn find_unsaved(&mut self) {
        let me = self.desk.worker;
        if self.desk.crew.open_tickets.count() == 0 && !self.desk.crew.has_reached(me, Step::Asked)
        {
            for slot in self.slots() {
                self.ask(slot);
            }
            self.desk.crew.reach(me, Step::Asked);
            for slot in self.slots() {
                self.give_up_repeatable(slot);
            }
        }
    }

    /// Asks whether a connection can be handed over, and returns whether it cannot, which may be known by now. What has arrived
    /// for one that cannot is answered, for no successor will do that.
    pub(super) fn ask(&mut self, slot: u32) -> bool {
        let Some(entry) = self.connections.get(slot as usize) else {
            return false;
        };
        if entry.is_unsaved {
            return true;
        }
        if !entry.connection.may_part() || self.save(slot) != Saved::Close {
            return false;
        }
        if let Some(entry) = self.connections.get_mut(slot as usize) {
            entry.is_unsaved = true;
            if matches!(self.phase, Phase::Waiting { .. }) && !entry.is_awaited {
                entry.is_awaited = true;
                self.desk.crew.endings.opened(self.desk.worker);
            }
        }
        self.conclude(slot);
        true
    }

    /// A connection is about to be given frames that have waited. What its session is worth may change with them: if it was said not
    /// to be read any more before a handover, that is asked again in [`Shard::read_last`]. One whose socket has failed is not asked.
    pub(super) fn ask_behind(&mut self, slot: u32) {
        let is_parting = self.is_parting();
        if let Some(entry) = self.connections.get_mut(slot as usize)
            && is_parting
            && !entry.is_unsaved
            && entry.connection.life != Life::Failed
        {
            entry.connection.quiet = false;
        }
    }

    /// What the session of a connection is worth to the successor by now. If the service panics the connection ends; the
    /// conclusions are the caller's.
    pub(super) fn save(&mut self, slot: u32) -> Saved {
        self.call_host(slot, |host, reply| host.save(reply))
            .unwrap_or(Saved::Close)
    }

    /// Whether a connection ends now that everything is answered that had arrived for it. In a handover that is found out
    /// when all are at rest, if it has come so far.
    pub(super) fn ends_when_answered(&self, slot: u32) -> bool {
        let is_unsaved = |entry: &Entry<L>| entry.is_unsaved;
        let is_waiting = matches!(self.phase, Phase::Waiting { .. });
        !self.stop.hands_over
            || is_waiting && self.connections.get(slot as usize).is_some_and(is_unsaved)
    }

    /// Everything that had arrived for a connection is answered, and nothing more will be received on it.
    pub(super) fn answered_last(&mut self, slot: u32) {
        // The last frames may have changed that.
        if self.stop.hands_over && self.save(slot) != Saved::Close {
            if let Some(entry) = self.connections.get_mut(slot as usize) {
                entry.is_unsaved = false;
                // What comes now is the successor's, unless that changes again.
                (entry.is_frozen, entry.is_settled) = (true, true);
                entry.connection.quiet = false;
                if std::mem::take(&mut entry.is_awaited) {
                    self.desk.crew.ending_over(self.desk.worker);
                }
            }
            self.conclude(slot);
        } else {
            self.with(slot, |connection, desk| {
                connection.close(Close::Stopping, desk)
            });
        }
    }

    /// Gives up on repeatable requests of a connection that no successor goes on with, of which nothing is waited for any more.
    pub(super) fn give_up_repeatable(&mut self, slot: u32) {
        let (is_last, ends_refused) = match self.phase {
            Phase::Serving => return,
            Phase::Waiting { .. } => {
                let crew = &self.desk.crew;
                let has_asked = crew.has_reached(self.desk.worker, Step::Asked);
                (false, self.stop.hands_over && has_asked)
            }
            // Other deferred replies may be owed yet, but these are no reason to wait.
            Phase::Draining { .. } => (!self.stop.hands_over, true),
        };
        let ends = |entry: &Entry<L>| {
            let is_refused = matches!(entry.connection.life, Life::Refused { .. });
            let ends_here = entry.is_unsaved || is_last || is_refused && ends_refused;
            ends_here && entry.connection.tickets.repeatable() > 0
        };
        // It ends with conclusions, which come here again.
        if !self.stop.gives_up && self.connections.get(slot as usize).is_some_and(ends) {
            self.stop.gives_up = true;
            let last = self.desk.last_ticket;
            self.abandon_of(slot, last, Kind::Repeatable, Abandoned::Stopping);
            self.stop.gives_up = false;
        }
    }

    /// Ends a connection that is at rest and cannot be handed over, with what it still has to write. No service may be given
    /// a frame any more, so that what has arrived meanwhile is not answered.
    pub(super) fn end_unsaved(&mut self, slot: u32) {
        if let Some(entry) = self.connections.get_mut(slot as usize) {
            entry.is_unsaved = true;
        }
        self.give_up_repeatable(slot);
        // It has only just begun to end.
        let soonest = self.desk.now.saturating_add(milliseconds(LINGER));
        self.stop.cut_at = self.stop.cut_at.map(|at| at.max(soonest));
        self.with(slot, |connection, desk| {
            let why = match connection.has_backlog() {
                true => Close::Unserved,
                false => Close::Stopping,
            };
            connection.close(why, desk)
        });
    }
}

impl<L> Entry<L> {
    /// Whether frames may still be given to its service before a handover.
    pub(super) fn is_loud(&self) -> bool {
        let connection = &self.connection;
        let goes_on = connection.why.is_none();
        // What one has received whose socket has failed is nobody's but its service's.
        connection.life == Life::Failed
            || goes_on && (!connection.quiet || self.is_unsaved && connection.has_backlog())
    }

    /// Whether it is ending, and not handed over whatever comes.
    pub(super) fn ends_here(&self) -> bool {
        let connection = &self.connection;
        connection.why.is_some() && (self.is_unsaved || !connection.may_part())
    }

    /// Whether everything is answered that was received before a stop.
    pub(super) fn has_answered_last(&self) -> bool {
        let connection = &self.connection;
        connection.quiet
            && connection.is_read()
            && !connection.is_ready()
            && !connection.is_paused()
            && connection.tickets.is_empty()
    }

    /// Counts a connection that has ended because it could not be handed over.
    pub(super) fn count_unsaved(&self, why: &Close, desk: &Desk) {
        if self.is_unsaved
            && matches!(
                why,
                Close::Stopping | Close::Untaken | Close::Unserved | Close::Panicked
            )
        {
            desk.name_counters(self.connection.name).unsaved.add(1);
        }
    }
}
