//! One thread of a load: its connections and its loop.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use socket2::SockAddr;

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
    timer: Option<OwnedFd>,
    /// No connection had room for a message that was due.
    blocked: bool,
    /// Where the next message of an open loop is offered first.
    cursor: usize,
    /// The connections that an open loop has given something to write.
    touched: Vec<usize>,
    /// The counts at the end of the warm-up, and the time of that.
    measuring: Option<(Counts, u64)>,
    /// The counts at the end of the sending, and the time of that.
    measured: Option<(Counts, u64)>,
    /// Until when replies are waited for.
    drain_until: u64,
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
            let mut connection = Connection::new(index, false, plan.depth, salt(index));
            connection.adopt(stream, &mut context)?;
            connections.push(connection);
        }
        for index in connections.len()..connections.len() + share.short_lived {
            let mut connection = Connection::new(index, true, plan.depth, salt(index));
            connection.open_soon(&mut context);
            connections.push(connection);
        }
        context.alive = connections.len();
        let (pace, timer) = match share.rate {
            Some(rate) => (Some(Pace::new(0, rate)), Some(timer(&poll)?)),
            None => (None, None),
        };
        Ok(Self {
            context,
            poll,
            events: Events::with_capacity(1024),
            connections,
            counted: share.count.is_some(),
            pace,
            timer,
            blocked: false,
            cursor: 0,
            touched: Vec::new(),
            measuring: None,
            measured: None,
            drain_until: u64::MAX,
            stalled: false,
        })
    }

    /// Carries its share out; `stop` ends the sending early. `live` always has the latest counts, give or take a few milliseconds.
    pub(crate) fn run(mut self, stop: &AtomicBool, live: &Mutex<Counts>) -> io::Result<Outcome> {
        let mut shown = 0;
        let now = self.context.tick();
        self.phase(now, stop);
        for connection in &mut self.connections {
            connection.pump(&mut self.context);
        }
        loop {
            let now = self.context.tick();
            self.phase(now, stop);
            if self.context.alive == 0 || now >= self.drain_until {
                break;
            }
            self.dispatch();
            self.ready();
            self.wait()?;
            self.events();
            self.timers();
            if self.context.now - shown > 5_000_000 {
                shown = self.context.now;
                *live.lock().unwrap_or_else(PoisonError::into_inner) = self.context.counts;
            }
        }
        let outcome = self.settle();
        *live.lock().unwrap_or_else(PoisonError::into_inner) = outcome.counts;
        Ok(outcome)
    }

    /// Goes from warming up to measuring to ending when the time has come.
    fn phase(&mut self, now: u64, stop: &AtomicBool) {
        let plan = self.context.plan;
        if self.measuring.is_none() && now >= self.context.measure_from {
            self.measuring = Some((self.context.counts, now));
        }
        if self.context.ending {
            return;
        }
        let end = (plan.warmup + plan.duration).as_nanos() as u64;
        let over = now >= end || stop.load(Ordering::Relaxed) || self.context.allowance == 0;
        self.stalled = !over && self.is_stalled(now);
        if !over && !self.stalled {
            return;
        }
        self.context.ending = true;
        // What ends by its count is measured until the last reply.
        if self.context.allowance > 0 {
            self.measured = Some((self.context.counts, now));
        }
        self.drain_until = match self.stalled {
            true => now,
            false => now + plan.drain.as_nanos() as u64,
        };
        for connection in &mut self.connections {
            connection.pump(&mut self.context);
            connection.finish_if_done(&mut self.context);
        }
    }

    /// Whether nothing has moved for too long although something is outstanding.
    fn is_stalled(&self, now: u64) -> bool {
        let bound = self.context.plan.drain.max(STALL).as_nanos() as u64;
        now.saturating_sub(self.context.last_progress) > bound
            && self.is_stuck()
            && self.connections.iter().any(Connection::is_waiting)
    }

    /// Whether nothing could be sent even if it were due, unless a reply comes.
    fn is_stuck(&self) -> bool {
        let sends = !matches!(self.context.plan.mode, Mode::Subscribe { .. });
        sends && self.context.attention.is_empty() && (self.pace.is_none() || self.blocked)
    }

    /// Hands the messages that are due to connections with room, in turn, and writes them.
    fn dispatch(&mut self) {
        let Some(pace) = &mut self.pace else {
            return;
        };
        while !self.blocked
            && !self.context.ending
            && self.context.allowance > 0
            && pace.next_at() <= self.context.now
        {
            let all = self.connections.len();
            let found = (0..all).map(|step| (self.cursor + step) % all);
            let Some(index) = found
                .into_iter()
                .find(|index| self.connections[*index].has_room(&self.context))
            else {
                self.blocked = true;
                break;
            };
            self.cursor = (index + 1) % all;
            if let Some(since) = pace.take(self.context.now)
                && self.connections[index].append(&mut self.context, since)
            {
                self.touched.push(index);
            }
        }
        for index in self.touched.drain(..) {
            self.connections[index].pump(&mut self.context);
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

    /// Sleeps until a socket or the clock has something.
    fn wait(&mut self) -> io::Result<()> {
        let mut limit = NAP;
        if !self.context.attention.is_empty() {
            limit = Duration::from_millis(1);
        }
        if !self.context.ready.is_empty() {
            limit = Duration::ZERO;
        } else if let (Some(pace), Some(timer)) = (&self.pace, &self.timer)
            && !self.blocked
            && !self.context.ending
        {
            let left = pace.next_at().saturating_sub(self.context.tick());
            if left < SPIN {
                limit = Duration::ZERO;
            } else {
                arm(timer, left)?;
            }
        }
        match self.poll.poll(&mut self.events, Some(limit)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }

    fn events(&mut self) {
        self.context.tick();
        for event in &self.events {
            if let Some(connection) = self.connections.get_mut(event.token().0) {
                connection.event(event, &mut self.context);
                self.blocked = false;
            }
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
            .unwrap_or((context.counts, context.last_progress));
        let (before, begin) = self.measuring.unwrap_or((counts, end));
        Outcome {
            counts: context.counts,
            measured: counts - before,
            time: end.saturating_sub(begin),
            unsent: if self.counted { context.allowance } else { 0 },
            stalled: self.stalled,
            latency: context.latency,
            longest_gap: context.longest_gap,
            problems: context.problems,
        }
    }
}

/// A timer that ends the wait of `poll`. The timeout of epoll_wait(2) counts whole milliseconds and
/// may be late by the slack of timers; a timerfd has neither fault.
fn timer(poll: &Poll) -> io::Result<OwnedFd> {
    let timer = timerfd_create(
        TimerfdClockId::Monotonic,
        TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
    )?;
    poll.registry()
        .register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
    Ok(timer)
}

/// Sets the timer off in so many nanoseconds. Setting it again also resets its readiness, so it is
/// never read.
fn arm(timer: &OwnedFd, nanoseconds: u64) -> io::Result<()> {
    let value = Timespec {
        tv_sec: (nanoseconds / 1_000_000_000) as i64,
        tv_nsec: (nanoseconds % 1_000_000_000) as i64,
    };
    let once = Itimerspec {
        it_interval: Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
        it_value: value,
    };
    timerfd_settime(timer, TimerfdTimerFlags::empty(), &once)?;
    Ok(())
}
