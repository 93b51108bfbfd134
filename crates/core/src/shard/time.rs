//! The time of a worker, and the limits that run on it.

use std::sync::atomic::Ordering;

use super::parting::Rest;
use super::{Entry, Phase, Shard};
use crate::close::Close;
use crate::connection::{Clock, Life, Over, Pause, milliseconds};
use crate::peer::Link;
use crate::reply::Abandoned;
use crate::tickets::Kind;

/// Stands for a time that does not come.
pub(super) const NEVER: u64 = u64::MAX;

/// An entry of the timer wheel. It is void if its connection is gone, or as long as that has an earlier one.
pub(super) struct Timed {
    slot: u32,
    generation: u32,
    at: u64,
}

/// An engine that does not catch up has at least so many turns before limits take effect all the same, and one more for so many
/// connections: some kernels run no more than 20 of the completions that they have deferred in one call.
const TURNS_MIN: usize = 8;
const CONNECTIONS_PER_TURN: usize = 16;

/// And at least so much time, or as much as the shortest limit: connections that take turns get one piece or one buffer in each.
const HOLDUP_MS_MAX: u64 = 1000;

/// A connection that exceeds a limit, which has not taken effect. A worker that slept, was frozen, or was held up by a service may
/// not have received by then what arrived in time.
pub(super) struct Overdue {
    slot: u32,
    generation: u32,
    /// When it was noticed. What had happened by then is to be known before the limit takes effect.
    noticed: u64,
    /// The turn until which the engine is given the time to find that out.
    turn: u64,
}

impl<L: Link> Shard<L> {
    /// The time, in milliseconds on the worker's clock. It is told after every wait and before what happened meanwhile,
    /// since that has happened now and not when the wait began; and before output is sent, since services have taken their
    /// time.
    pub(crate) fn woken(&mut self, now: u64) {
        self.desk.now = now;
        self.desk.stopwatch.start();
    }

    /// Looks for time limits that are exceeded by now. They take effect in [`Shard::caught_up`], behind everything that has
    /// happened; or here, if the engine has had its chance to call that.
    pub(crate) fn tick(&mut self) {
        let now = self.desk.now;
        self.turn += 1;
        if self.desk.pools.tick(now) {
            self.desk.crew.has_surplus.store(true, Ordering::Relaxed);
        }
        if self.desk.warnings.next_due().is_some_and(|due| due <= now) {
            let goes_on = self.phase == Phase::Serving;
            self.desk.warnings.say_held(self.desk.worker, goes_on);
        }
        self.tick_services();
        self.sources.end_rests(now);
        if self.next_limit().is_some_and(|due| due <= now) {
            self.notice_limits();
        }
        let holdup = self.patience.min(HOLDUP_MS_MAX);
        let turn = self.turn;
        let has_waited =
            |first: &Overdue| first.turn < turn && now >= first.noticed.saturating_add(holdup);
        while self.overdue.front().is_some_and(has_waited) {
            self.enforce_first();
        }
    }

    /// When a time limit may be exceeded next. None is before the first byte may move: they begin in [`Shard::resume`].
    fn next_limit(&self) -> Option<u64> {
        (!self.holds).then(|| self.wheel.next_due()).flatten()
    }

    /// How many entries the timer wheel has.
    #[cfg(test)]
    pub(crate) fn timers(&self) -> usize {
        self.wheel.len()
    }

    /// How many limits that are exceeded wait.
    #[cfg(test)]
    pub(crate) fn overdue(&self) -> usize {
        self.overdue.len()
    }

    /// Whether limits are exceeded and wait. The worker must not sleep then, but take up what has happened, and call
    /// [`Shard::caught_up`] when it finds nothing more.
    pub(crate) fn is_catching_up(&self) -> bool {
        !self.overdue.is_empty()
    }

    /// Everything was told that had happened when limits were found to be exceeded: they take effect, as of then.
    pub(crate) fn caught_up(&mut self) {
        while self.is_catching_up() {
            self.enforce_first();
        }
    }

    /// Looks at the connections that come up in the wheel. Only those wait that exceed a limit.
    fn notice_limits(&mut self) {
        let now = self.desk.now;
        let mut due = std::mem::take(&mut self.due);
        self.wheel.advance(now, &mut due);
        for Timed {
            slot,
            generation,
            at,
        } in due.drain(..)
        {
            let Some(entry) = self.entry_of(slot, generation) else {
                continue;
            };
            // The wheel's horizon may be nearer than the earlier one.
            if entry.timed_after == at {
                entry.timed_after = NEVER;
            }
            if entry.timed != at {
                continue;
            }
            entry.timed = std::mem::replace(&mut entry.timed_after, NEVER);
            match self.exceeded(slot, now) {
                // It comes up again when it is due.
                None => self.conclude(slot),
                Some((since, _)) => self.notice(slot, since),
            }
        }
        self.due = due;
    }

    /// A connection exceeds a limit since then. It waits once for that, however often it comes up meanwhile.
    fn notice(&mut self, slot: u32, since: u64) {
        let turns = TURNS_MIN + self.connections.len() / CONNECTIONS_PER_TURN;
        let Some(entry) = self.connections.get_mut(slot as usize) else {
            return;
        };
        if since > entry.noticed {
            entry.noticed = self.desk.now;
            self.overdue.push_back(Overdue {
                slot,
                generation: entry.connection.id.generation,
                noticed: self.desk.now,
                turn: self.turn + turns as u64,
            });
        }
    }

    /// What a connection exceeds by the time `then`, as far as is known now, and since when.
    fn exceeded(&mut self, slot: u32, then: u64) -> Option<(u64, Over)> {
        let entry = self.connections.get_mut(slot as usize)?;
        let is_held = entry.is_frozen || entry.connection.quiet;
        if is_held {
            entry.excuse_silence(self.desk.now);
        }
        let over = entry.connection.over(&self.desk);
        over.filter(|(at, _)| *at <= then)
    }

    /// What has waited longest takes effect, if it is exceeded still.
    fn enforce_first(&mut self) {
        let Some(first) = self.overdue.pop_front() else {
            return;
        };
        let slot = first.slot;
        let Some(entry) = self.entry_of(slot, first.generation) else {
            return;
        };
        if entry.noticed == first.noticed {
            entry.noticed = 0;
        }
        match self.exceeded(slot, first.noticed) {
            Some((_, Over::Connection(why))) => self.cut(slot, why),
            Some((_, Over::Write)) => self.write_is_over(slot),
            Some((_, Over::Replies)) => {
                let last = self.desk.last_ticket;
                self.abandon_of(slot, last, Kind::Any, Abandoned::TimedOut);
            }
            Some((_, Over::Promise)) => self.promises_are_over(slot, first.noticed),
            // It comes up in the wheel when it is due.
            None => self.conclude(slot),
        }
    }

    /// The connection of this generation, if it is still there.
    fn entry_of(&mut self, slot: u32, generation: u32) -> Option<&mut Entry<L>> {
        let entry = self.connections.get_mut(slot as usize)?;
        (entry.connection.id.generation == generation).then_some(entry)
    }

    /// The kernel has taken nothing for `write_timeout`. It reports room only when much of its buffer is free, so the
    /// peer may read all the same: then it has another such time.
    fn write_is_over(&mut self, slot: u32) {
        let Some(entry) = self.connections.get(slot as usize) else {
            return;
        };
        let now_unread = entry.link.unread();
        let before = match now_unread {
            Some(unread) => self.unread.insert(slot, unread),
            None => Some(0),
        };
        // What was there before is known from the second time on.
        let reads = before.is_none_or(|before| now_unread.is_some_and(|unread| unread < before));
        if reads {
            self.with(slot, |connection, desk| connection.clock.write = desk.now);
        } else {
            self.cut(slot, Close::WriteTimeout);
        }
    }

    /// Deferred replies that had been promised `promise_timeout` before the time `then`, or earlier, are given up.
    fn promises_are_over(&mut self, slot: u32, then: u64) {
        let now = self.desk.now;
        let last = self.connections.get(slot as usize).and_then(|entry| {
            let limits = self.desk.limits_of(entry.connection.name);
            let age = milliseconds(limits.promise_timeout).saturating_add(now - then);
            entry.connection.tickets.last_of_age(now, age)
        });
        match last {
            Some(last) => self.abandon_of(slot, last, Kind::Any, Abandoned::Late),
            None => self.conclude(slot),
        }
    }

    /// When [`Shard::tick`] must be called at the latest, on the worker's clock, unless it is catching up.
    pub(crate) fn next_due(&self) -> Option<u64> {
        let stop = match self.phase {
            Phase::Serving => [None; 4],
            Phase::Waiting { until, freezes } => {
                let slow_at = (!freezes).then_some(self.stop.slow_at);
                let thawing = &self.stop.thawing;
                [Some(until), slow_at, Some(thawing.at), Some(thawing.until)]
            }
            Phase::Draining { until } => [
                Some(until),
                Some(self.end_of_promises(until)),
                self.stop.cut_at,
                None,
            ],
        };
        // Behind those everything is waited for that comes as mail.
        let stop = stop.into_iter().flatten();
        let stop = stop.filter(|at| *at > self.stop.advanced).min();
        let rest =
            (self.is_parting() && self.stop.rest != Rest::All).then_some(self.stop.rest_until);
        let dues = [
            self.next_limit(),
            stop,
            self.stop.names_owed_at,
            rest,
            self.desk.pools.next_due(),
            self.desk.warnings.next_due(),
            self.next_service_tick(),
            self.next_source_due(),
        ];
        dues.into_iter().flatten().min()
    }

    /// Sees to it that the connection comes up in the wheel before any of its time limits can be over.
    pub(super) fn note_limits(&mut self, slot: u32) {
        let Some(entry) = self.connections.get_mut(slot as usize) else {
            return;
        };
        // None can be over before this entry if it begins now, and those that began before were noted then.
        let patient = entry.connection.life == Life::Open
            && entry.connection.pause != Pause::Ahead
            && entry.timed <= self.desk.now.saturating_add(self.patience);
        if patient {
            return;
        }
        // An entry that comes up too early is looked at again then; only one that would come too late is replaced.
        if let Some(at) = entry.connection.due(&self.desk)
            && at < entry.timed
        {
            entry.timed_after = std::mem::replace(&mut entry.timed, at);
            let generation = entry.connection.id.generation;
            self.wheel.insert(
                at,
                Timed {
                    slot,
                    generation,
                    at,
                },
            );
        }
    }
}

impl<L> Entry<L> {
    /// It was not read: what it is silent about waits in the kernel, for us or for a successor.
    pub(super) fn excuse_silence(&mut self, now: u64) {
        if self.connection.is_read() {
            let write = self.connection.clock.write;
            self.connection.clock = Clock {
                write,
                ..Clock::new(now)
            };
        }
    }
}
