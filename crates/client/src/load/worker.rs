//! One thread of a load: its connections and its loop.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use socket2::SockAddr;

use super::alarm::Alarm;
use super::connection::Connection;
use super::context::Context;
use super::histogram::Latency;
use super::pace::Pace;
use super::payload::{Template, mix};
use super::plan::{LoadPlan, Mode};
use super::report::Counts;
use crate::stream::Stream;

/// The token of the timer; connections have their index.
const TIMER: Token = Token(usize::MAX);

/// How long the loop sleeps at most, so that it notices the end of the load.
const NAP: Duration = Duration::from_millis(20);

/// As many sockets as one look tells of.
const EVENTS: usize = 1024;

/// After so many looks all that was there at the first of them has been read, even from who sends without end: 32 MiB of
/// each connection have been by then, and a receive buffer seldom holds as much (`net.ipv4.tcp_rmem`).
const LOOKS: u32 = 16;

/// A message due within this time is waited for without sleeping.
const SPIN: u64 = 20_000;

/// What is outstanding is stuck if nothing moves for so long, or for the drain if that is longer.
const STALL: Duration = Duration::from_secs(1);

/// The part of a plan that one thread carries out.
#[derive(Debug)]
pub(crate) struct Share {
    pub(crate) streams: Vec<Stream>,
    pub(crate) short_lived: usize,
    pub(crate) count: Option<u64>,
    pub(crate) rate: Option<f64>,
    /// Differs from that of every other thread.
    pub(crate) salt: u64,
}

/// What one thread found out.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) counts: Counts,
    /// What was counted while it measured, and for how long it did, in nanoseconds.
    pub(crate) measured: Counts,
    pub(crate) time: u64,
    /// How many messages of its count were left.
    pub(crate) unsent: u64,
    /// How many messages of its schedule were left.
    pub(crate) overdue: u64,
    /// Whether it ended before its time because nothing moved any more.
    pub(crate) stalled: bool,
    pub(crate) latency: Latency,
    pub(crate) longest_gap: u64,
    pub(crate) problems: Vec<String>,
}

/// A thread of a load.
#[derive(Debug)]
pub(crate) struct Worker<'a> {
    context: Context<'a>,
    poll: Poll,
    events: Events,
    connections: Vec<Connection>,
    counted: bool,
    pace: Option<Pace>,
    alarm: Option<Alarm>,
    /// No connection has room for a message that is due. Found out anew in each turn.
    blocked: bool,
    /// Where the next message of an open loop is offered first.
    cursor: usize,
    /// The connections that an open loop has given something to write.
    touched: Vec<usize>,
    /// The counts at the end of the warm-up, and the time of that.
    measuring: Option<(Counts, u64)>,
    /// The counts at the end of the sending, and the time of that.
    measured: Option<(Counts, u64)>,
    /// When the sending ends at the latest.
    end: u64,
    /// The messages of an open loop that were due when the sending ended, and had found no room.
    overdue: u64,
    /// Until when replies are waited for.
    drain_until: u64,
    /// The looks at the sockets that did not see all, one after the other, and the time before the first of them.
    looks: u32,
    looking_since: u64,
    /// Whether a stall ended the sending.
    stalled: bool,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(
        plan: &'a LoadPlan,
        template: &'a Template,
        endpoint: &'a SockAddr,
        share: Share,
        start: Instant,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let allowance = share.count.unwrap_or(u64::MAX);
        let mut context = Context::new(plan, template, endpoint, registry, start, allowance);
        let mut connections = Vec::with_capacity(share.streams.len() + share.short_lived);
        let salt = |index: usize| mix(share.salt ^ ((index as u64) << 20));
        for (index, stream) in share.streams.into_iter().enumerate() {
            let mut connection = Connection::new(index, false, plan.window(), salt(index));
            connection.adopt(stream, &mut context)?;
            connections.push(connection);
        }
        for index in connections.len()..connections.len() + share.short_lived {
            let mut connection = Connection::new(index, true, plan.window(), salt(index));
            connection.open_soon(&mut context);
            connections.push(connection);
        }
        context.alive = connections.len();
        let (pace, alarm) = match share.rate {
            Some(rate) => {
                let alarm = Alarm::new(&context.registry, TIMER)?;
                (Some(Pace::new(0, rate)), Some(alarm))
            }
            None => (None, None),
        };
        Ok(Self {
            context,
            poll,
            events: Events::with_capacity(EVENTS),
            connections,
            counted: share.count.is_some(),
            pace,
            alarm,
            blocked: false,
            cursor: 0,
            touched: Vec::new(),
            measuring: None,
            measured: None,
            end: (plan.warmup + plan.duration).as_nanos() as u64,
            overdue: 0,
            drain_until: u64::MAX,
            looks: 0,
            looking_since: 0,
            stalled: false,
        })
    }

    /// Carries its share out; `stop` ends the sending early. `live` always has the latest counts, give or take a few milliseconds.
    pub(crate) fn run(mut self, stop: &AtomicBool, live: &Mutex<Counts>) -> io::Result<Outcome> {
        let mut shown = 0;
        self.begin(stop);
        while self.turn(stop)? {
            if self.context.now - shown > 5_000_000 {
                shown = self.context.now;
                *live.lock().unwrap_or_else(PoisonError::into_inner) = self.context.counts;
            }
        }
        let outcome = self.settle();
        *live.lock().unwrap_or_else(PoisonError::into_inner) = outcome.counts;
        Ok(outcome)
    }

    /// Sends the first messages.
    fn begin(&mut self, stop: &AtomicBool) {
        self.context.tick();
        self.phase(stop);
        for connection in &mut self.connections {
            connection.pump(&mut self.context);
        }
    }

    /// Sends what is due and does what the sockets and the clock allow. Whether there is more to come.
    fn turn(&mut self, stop: &AtomicBool) -> io::Result<bool> {
        let before = self.context.tick();
        self.phase(stop);
        if self.context.alive == 0 || self.context.seen >= self.drain_until {
            return Ok(false);
        }
        self.ready();
        // Last before the wait, which depends on whether anybody has room.
        self.dispatch();
        self.wait()?;
        self.events(before);
        self.timers();
        Ok(true)
    }

    /// Goes from warming up to measuring to ending when the time has come.
    fn phase(&mut self, stop: &AtomicBool) {
        let now = self.context.now;
        if self.measuring.is_none() && now >= self.context.measure_from {
            self.measuring = Some((self.context.counts, now));
        }
        if self.context.ending {
            return;
        }
        let over = now >= self.end
            || stop.load(Ordering::Relaxed)
            || self.context.allowance == 0
            || self.context.alive == 0;
        self.stalled = !over && self.is_stalled();
        if over || self.stalled {
            self.end_sending();
        }
    }

    fn end_sending(&mut self) {
        // What became due since the last turn still goes out.
        self.dispatch();
        self.count_overdue();
        let now = self.context.now;
        self.context.ending = true;
        // What ends by its count is measured until the last reply.
        if self.context.allowance > 0 {
            self.measured = Some((self.context.counts, now));
        }
        self.drain_until = match self.stalled {
            true => now,
            false => now + self.context.plan.drain.as_nanos() as u64,
        };
        for connection in &mut self.connections {
            connection.pump(&mut self.context);
            connection.finish_if_done(&mut self.context);
        }
    }

    /// Counts the messages that the schedule wanted sent by now. Each has waited since it was due, and waits on, so at
    /// least that is its latency: without it, a stall that lasts to the end would be charged to one message only.
    fn count_overdue(&mut self) {
        let Some(pace) = &self.pace else {
            return;
        };
        let context = &mut self.context;
        let (now, allowance) = (context.now, context.allowance);
        let last = now.min(self.end - 1);
        let overdue_by = |at: u64| pace.overdue(at.min(last)).min(allowance);
        self.overdue = overdue_by(last);
        if context.plan.mode == Mode::Call && now >= context.measure_from {
            let all = self.overdue;
            context
                .latency
                .record_ages(now - context.measure_from, |age| {
                    match now.checked_sub(age) {
                        Some(at) => all - overdue_by(at),
                        None => all,
                    }
                });
        }
    }

    /// Whether nothing has moved for too long although something is outstanding.
    fn is_stalled(&self) -> bool {
        let bound = self.context.plan.drain.max(STALL).as_nanos() as u64;
        self.context.seen_for(self.context.last_moved) > bound
            && self.is_stuck()
            && self.connections.iter().any(Connection::is_waiting)
    }

    /// Whether nothing could be sent even if it were due, unless a reply comes.
    fn is_stuck(&self) -> bool {
        let sends = !matches!(self.context.plan.mode, Mode::Subscribe { .. });
        sends && self.context.attention.is_empty() && (self.pace.is_none() || self.blocked)
    }

    /// Hands the messages that are due to connections with room, in turn, and writes them, until nothing is due or nobody
    /// has room.
    fn dispatch(&mut self) {
        loop {
            self.hand_out();
            if self.touched.is_empty() {
                return;
            }
            for index in self.touched.drain(..) {
                self.connections[index].pump(&mut self.context);
            }
        }
    }

    /// Gives the messages that are due to connections with room, in turn.
    fn hand_out(&mut self) {
        self.blocked = false;
        let Some(pace) = &mut self.pace else {
            return;
        };
        let until = self.context.now.min(self.end - 1);
        let all = self.connections.len();
        while !self.context.ending && self.context.allowance > 0 && pace.next_at() <= until {
            let mut found = (0..all).map(|step| (self.cursor + step) % all);
            let Some(index) = found.find(|index| self.connections[*index].has_room(&self.context))
            else {
                self.blocked = true;
                return;
            };
            self.cursor = (index + 1) % all;
            if let Some(since) = pace.take(until)
                && self.connections[index].append(&mut self.context, since)
            {
                self.touched.push(index);
            }
        }
    }

    /// Goes on with the connections that were not done when their turn was over.
    fn ready(&mut self) {
        let mut ready = std::mem::take(&mut self.context.ready);
        for index in ready.drain(..) {
            self.connections[index].resume(&mut self.context);
        }
        if self.context.ready.is_empty() {
            self.context.ready = ready;
        }
    }

    /// Looks at the sockets, and sleeps until one of them or the clock has something.
    fn wait(&mut self) -> io::Result<()> {
        let mut limit = NAP;
        if !self.context.attention.is_empty() {
            limit = Duration::from_millis(1);
        }
        if !self.context.ready.is_empty() {
            limit = Duration::ZERO;
        } else if let (Some(pace), Some(alarm)) = (&self.pace, &self.alarm)
            && !self.blocked
            && !self.context.ending
        {
            let left = pace.next_at().saturating_sub(self.context.tick());
            if left < SPIN {
                limit = Duration::ZERO;
            } else {
                alarm.set(left)?;
            }
        }
        while let Err(error) = self.poll.poll(&mut self.events, Some(limit)) {
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
            // It slept until a signal came, and did not look.
            limit = Duration::ZERO;
        }
        Ok(())
    }

    /// Does what the sockets allow. `before`: the time before they were looked at.
    fn events(&mut self, before: u64) {
        self.context.tick();
        let mut told = 0;
        for event in &self.events {
            told += 1;
            if let Some(connection) = self.connections.get_mut(event.token().0) {
                connection.event(event, &mut self.context);
            }
        }
        if self.looks == 0 {
            self.looking_since = before;
        }
        self.looks += 1;
        if told < EVENTS && self.context.ready.is_empty() {
            self.looks = 0;
            self.context.seen = before;
        } else if self.looks == LOOKS {
            self.looks = 0;
            self.context.seen = self.looking_since;
        }
    }

    fn timers(&mut self) {
        if self.context.attention.is_empty() {
            return;
        }
        self.context.tick();
        let mut attention = std::mem::take(&mut self.context.attention);
        attention.retain(|index| self.connections[*index].timer(&mut self.context));
        attention.append(&mut self.context.attention);
        self.context.attention = attention;
    }

    /// Counts what is still open, and sums up.
    fn settle(mut self) -> Outcome {
        for connection in &mut self.connections {
            connection.settle(&mut self.context);
        }
        let context = self.context;
        let (counts, end) = self
            .measured
            .unwrap_or((context.counts, context.last_settled));
        let (before, begin) = self.measuring.unwrap_or((counts, end));
        Outcome {
            counts: context.counts,
            measured: counts - before,
            time: end.saturating_sub(begin),
            unsent: if self.counted { context.allowance } else { 0 },
            overdue: self.overdue,
            stalled: self.stalled,
            latency: context.latency,
            longest_gap: context.longest_gap,
            problems: context.problems,
        }
    }
}

#[cfg(test)]
mod tests;
