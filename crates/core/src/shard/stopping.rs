//! The way of a worker to its end.

use std::time::Duration;

use super::Shard;
use super::owed::OWED_NAMED_AFTER_MS;
use super::parting::Rest;
use super::thawing::Thawing;
use crate::close::Close;
use crate::connection::{Connection, LINGER, Life, milliseconds};
use crate::crew::Step;
use crate::mailbox::Mail;
use crate::peer::{ConnectionId, Link};

/// How long a stop waits for workers that are busy with what they have received, which they may push to the connections of others,
/// from when nothing more is. Whoever takes no turn for longer is left behind in a handover by
/// [`Control::wait_for_end`](crate::control::Control::wait_for_end).
pub(crate) const REST_MAX: Duration = Duration::from_secs(15);

/// How far the worker is on its way to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It serves.
    Serving,
    /// It serves, and until `until` it waits for deferred replies. First for those that were promised before the stop began, on
    /// any worker: others are promised and given meanwhile. Only connections that wait for a slow one are no longer read, or
    /// what they ask for next would have to be waited for as long again. When none of the first is left it `freezes`: nor are those
    /// that wait for any, so that soon nobody is owed one. If nothing comes for long it [thaws](super::thawing).
    /// Before a handover it goes on accepting, and then waits for those that cannot be handed over to end.
    Waiting { until: u64, freezes: bool },
    /// It reads no more. What was received is answered and written. At `until` deferred replies are given up that were
    /// promised before the stop began, the others when as much time again is over; what has not been written a linger time
    /// after the last of them is not, or after the last frame that was given to a service. Before a handover that is only waited
    /// for where a connection cannot be handed over.
    Draining { until: u64 },
}

/// What a worker keeps for a stop.
#[derive(Default)]
pub(super) struct Stop {
    /// It ends in a handover.
    pub(super) hands_over: bool,
    /// When it was looked last whether it moves on.
    pub(super) advanced: u64,
    /// The last ticket that was opened before it began, until those are given up.
    pub(super) promised: Option<u64>,
    /// The last ticket that there was when all that were open were given up.
    given_up: Option<u64>,
    /// Who was owed such a ticket's reply. Each turn looks at the last one, and takes it off if it has that by now.
    pub(super) owed: Vec<ConnectionId>,
    /// When the next deferred reply may be slow.
    pub(super) slow_at: u64,
    pub(super) thawing: Thawing,
    /// When the log says, the next time, which deferred replies it waits for; `None` while it serves.
    pub(super) names_owed_at: Option<u64>,
    /// When the log said so the last time.
    pub(super) owed_named: Option<u64>,
    /// When peers that have not taken their replies are cut; `None` until the last deferred replies are there or given up, from
    /// when on the peers have some time, however late that is.
    pub(super) cut_at: Option<u64>,
    pub(super) rest: Rest,
    /// Until then it waits for services that have no time for what has arrived, and for workers that do not come to rest before a
    /// handover.
    pub(super) rest_until: u64,
    /// Repeatable requests of a connection are being given up, or are not yet, since answers to it are being taken.
    pub(super) gives_up: bool,
    /// How many connections are [loud](super::Entry::is_loud).
    pub(super) loud: usize,
}

impl<L: Link> Shard<L> {
    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether a stopping worker has nothing left to do and cannot be given anything any more. Before a handover none has before all have:
    /// what services leave is what all answers were given from, those of other workers too.
    pub(crate) fn is_done(&self) -> bool {
        self.has_nothing_left()
            && (!self.stop.hands_over || self.desk.crew.have_all_reached(Step::Idle))
    }

    /// A worker that has nothing left has found no mail since. The others are told, if a handover waits for it. Returns whether
    /// it is done.
    pub(crate) fn becomes_idle(&self) -> bool {
        if self.stop.hands_over {
            self.desk.crew.reach(self.desk.worker, Step::Idle);
        }
        self.is_done()
    }

    /// Whether a stopping worker has nothing left to do, unless it has mail. Every acceptor has ended then, but one may have dealt
    /// it a connection since it looked for mail: it has to look once more.
    pub(crate) fn has_nothing_left(&self) -> bool {
        matches!(self.phase, Phase::Draining { .. })
            && self.connections.is_empty()
            && (!self.stop.hands_over || self.rests())
            && self.desk.crew.is_dealt_no_more(self.desk.worker)
    }

    /// Begins to stop: notes what was promised before.
    pub(super) fn begin_stop(&mut self, hand_over: bool) {
        self.desk.crew.begin_stop();
        let until = self.desk.now.saturating_add(milliseconds(self.drain));
        self.phase = Phase::Waiting {
            until,
            freezes: false,
        };
        let connections = self.connections.iter().map(|(_, entry)| &entry.connection);
        let owed = connections.filter(|connection| connection.tickets.is_awaited());
        self.stop = Stop {
            hands_over: hand_over,
            promised: Some(self.desk.last_ticket),
            owed: owed.map(|connection| connection.id).collect(),
            names_owed_at: Some(self.desk.now + OWED_NAMED_AFTER_MS),
            ..Stop::default()
        };
        self.touch_all();
        self.find_slow();
    }

    /// From now on nothing is read. Before a handover all workers begin at once, since those that are first are of no use to
    /// their clients until the last is through.
    fn begin_drain(&mut self, until: u64) {
        self.phase = Phase::Draining { until };
        self.stop.owed = Vec::new();
        self.stop.rest_until = self.desk.now.saturating_add(milliseconds(REST_MAX));
        for slot in self.slots() {
            self.give_up_repeatable(slot);
            self.note_loud(slot);
            self.touch(slot);
        }
        if self.stop.hands_over {
            let own = &self.desk.crew.posts[self.desk.worker];
            // It reaches us, who are not gone.
            let _ = own.send(Mail::StopAccepting);
        }
    }

    /// If the connection is read no more because the server stops, or its socket has failed: takes what the kernel has for it by
    /// now, unless a successor will, so that the service is given every request that arrived whole. If it is paused before it has
    /// got all, or behind, it has the rest when it goes on and this is called again. Nothing may be receiving on the socket.
    ///
    /// `there` says how much there is, and `piece` receives one and says how long it was: `None` if there is nothing left.
    pub(crate) fn read_last(
        &mut self,
        slot: u32,
        there: impl FnOnce(&L) -> u64,
        mut piece: impl FnMut(&mut Self) -> Option<u64>,
    ) {
        let Some(entry) = self.connections.get(slot as usize) else {
            return;
        };
        let has_failed = entry.connection.life == Life::Failed;
        let is_last = match self.phase {
            Phase::Serving => has_failed,
            Phase::Waiting { .. } => has_failed || entry.is_unsaved,
            Phase::Draining { .. } => true,
        };
        if entry.connection.quiet || !is_last {
            return;
        }
        // What no service may be given any more stays there, too.
        if self.stop.hands_over && (self.rests() || !has_failed && !self.ask(slot)) {
            self.quiet(slot);
            return;
        }
        let Some(entry) = self.connections.get(slot as usize) else {
            return;
        };
        let known = self.last_bytes.get(&slot).copied();
        let mut left = known.unwrap_or_else(|| there(&entry.link));
        while self.is_open_to(slot, Connection::takes_input) {
            let taken = piece(self);
            // When nothing is left the end may still come.
            match taken.and_then(|taken| left.checked_sub(taken)) {
                Some(rest) => left = rest,
                None => {
                    left = 0;
                    break;
                }
            }
        }
        if left > 0 && self.is_open_to(slot, Connection::is_read_out) {
            self.last_bytes.insert(slot, left);
        } else {
            self.quiet(slot);
        }
    }

    pub(super) fn is_open_to(&self, slot: u32, holds: impl FnOnce(&Connection) -> bool) -> bool {
        let entry = self.connections.get(slot as usize);
        entry.is_some_and(|entry| holds(&entry.connection))
    }

    /// Nothing more will be received on this connection.
    fn quiet(&mut self, slot: u32) {
        self.last_bytes.remove(&slot);
        self.with(slot, |connection, _| connection.quiet = true);
    }

    /// Whether frames wait for a service whose connections end with this stop.
    pub(super) fn serves_last(&self) -> bool {
        let waits = |slot: u32| self.is_to_cut(slot) && self.is_open_to(slot, Connection::is_ready);
        matches!(self.phase, Phase::Draining { .. }) && self.ready.iter().any(|slot| waits(*slot))
    }

    /// Moves a stop to its next phase when what it waits for has come, or its time is over. In this turn it `serves_last`, or does
    /// not.
    pub(super) fn advance_stop(&mut self, serves_last: bool) {
        let now = self.desk.now;
        self.stop.advanced = now;
        if let Phase::Waiting { until, freezes } = self.phase {
            if !freezes && self.is_all_kept() && now >= self.stop.thawing.until {
                self.freeze(until);
            } else if !freezes && now >= self.stop.slow_at {
                self.find_slow();
            }
            self.thaw_if_stuck(until);
            if self.stop.hands_over {
                self.find_unsaved();
            }
            let crew = &self.desk.crew;
            let waits_no_more = if self.stop.hands_over {
                if crew.may_part() || now >= until {
                    crew.part();
                }
                crew.all_part(self.desk.worker)
            } else {
                crew.open_tickets.count() == 0 || now >= until
            };
            if waits_no_more {
                // Meanwhile others were waited for, and promises made.
                self.begin_drain(until.max(now));
            }
        }
        if self.is_parting() {
            self.put_off_rest();
            self.advance_rest(now >= self.stop.rest_until);
        }
        if let Phase::Draining { until } = self.phase
            && now >= until
        {
            self.end_drain(self.end_of_promises(until), serves_last);
        }
        if self.stop.names_owed_at.take_if(|at| *at <= now).is_some() {
            self.name_owed();
        }
    }

    /// A handover calls services for as long as anything is owed that they could give, until it is given up.
    fn put_off_rest(&mut self) {
        if let Phase::Draining { until } = self.phase
            && self.desk.crew.open_tickets.count() > 0
        {
            let given_up = self.end_of_promises(until);
            let over = given_up.saturating_add(milliseconds(LINGER));
            let later = self.desk.now.saturating_add(milliseconds(REST_MAX));
            self.stop.rest_until = self.stop.rest_until.max(later.min(over));
        }
    }

    /// Gives up what has taken too long. `last` is when every deferred reply has.
    fn end_drain(&mut self, last: u64, serves_last: bool) {
        let now = self.desk.now;
        if let Some(promised) = self.stop.promised.take() {
            self.abandon_until(promised);
        }
        if now >= last {
            // Each turn comes here. It looks at all connections only if something has been promised since.
            if self.stop.given_up != Some(self.desk.last_ticket) {
                let last = self.desk.last_ticket;
                self.abandon_until(last);
                self.stop.given_up = self.end_owed().then_some(last);
            }
        } else if self.desk.crew.open_tickets.count() > 0 {
            self.stop.cut_at = None;
            return;
        }
        if serves_last {
            let is_over = now >= self.stop.rest_until;
            if is_over {
                self.end_unserved();
            }
            // Peers have their time when all that was answered has been sent to them. How long that took is known in the next
            // turn, which comes at once. Who goes on to read his replies later than that is not waited for any longer.
            if !is_over || self.stop.cut_at.is_none() {
                self.stop.cut_at = None;
                self.stop.advanced = 0;
                return;
            }
        }
        let linger = milliseconds(LINGER);
        let cut_at = *self.stop.cut_at.get_or_insert(now.saturating_add(linger));
        if now >= cut_at {
            // Peers that did not take their replies in time: the service manager waits for us.
            for slot in self.slots() {
                if self.is_to_cut(slot) && !self.waits_for_rest(slot) {
                    self.cut(slot, Close::Untaken);
                }
            }
        }
    }

    /// Whether a connection that cannot be handed over has had everything: it ends when it would be given away, and its peer has
    /// its time from then on, since until then others may push to it.
    fn waits_for_rest(&self, slot: u32) -> bool {
        let has_had_all = |connection: &Connection| {
            connection.quiet && connection.is_read() && !connection.has_backlog()
        };
        self.is_parting() && self.is_open_to(slot, has_had_all)
    }

    /// Ends those of which not all has been given to their services in time. They are written what was answered.
    fn end_unserved(&mut self) {
        for slot in self.slots() {
            if self.is_to_cut(slot) && self.is_open_to(slot, Connection::is_ready) {
                self.cut(slot, Close::Unserved);
            }
        }
    }

    fn is_to_cut(&self, slot: u32) -> bool {
        self.connections.get(slot as usize).is_some_and(|entry| {
            let is_over = entry.connection.life == Life::Over;
            !is_over && (!self.stop.hands_over || entry.is_unsaved)
        })
    }
}
