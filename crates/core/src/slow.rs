//! Calls of services that take long: nobody else on the worker is served meanwhile.

use std::cell::Cell;
use std::fmt;

use rustix::time::{ClockId, clock_gettime};

use crate::calling::Call;
use crate::connection::Connection;
use crate::desk::Desk;
use crate::journal::Named;
use crate::peer::Link;
use crate::plain::Plain;
use crate::warnings::Kind;

/// What takes so many milliseconds is counted and logged.
const SLOW_MS: u64 = 100;

/// For so many milliseconds the frames of one connection are given to its service before others have their turn.
const CALL_MS: u64 = 20;

/// And for so many those of all connections, before the worker sends what was answered and looks for what has happened.
const TURN_MS: u64 = 50;

/// How long so many frames take is not looked at as long as services are fast: looking costs as much as a frame or two.
const FIRST_LOOK_MAX: usize = 16;

/// Nor are more than so many given without a look behind those that were fast: they may be of another kind.
const LOOK_STEP_MAX: usize = 64;

/// Tells what takes long. It is read once for all frames of a received buffer, so it must be cheap: the clock is one that the
/// kernel moves on by some milliseconds at a time (CLOCK_MONOTONIC_COARSE, clock_getres(2)), which costs a quarter of another.
#[derive(Debug)]
pub(crate) struct Stopwatch {
    /// When it was started or read last, in milliseconds.
    since: Cell<u64>,
    /// When the time for frames is over.
    ends: Cell<u64>,
    is_late: Cell<bool>,
    /// Behind so many frames of a received buffer it is looked how long they have taken.
    first_look: Cell<usize>,
    call_ms: u64,
    turn_ms: u64,
}

impl Stopwatch {
    /// One that bounds the time for frames.
    pub(crate) fn bounding() -> Self {
        Stopwatch::new(CALL_MS, TURN_MS)
    }

    /// One for which a turn is never over.
    pub(crate) fn patient() -> Self {
        Stopwatch::new(u64::MAX, u64::MAX)
    }

    fn new(call_ms: u64, turn_ms: u64) -> Self {
        let watch = Stopwatch {
            since: Cell::new(0),
            ends: Cell::new(0),
            is_late: Cell::new(false),
            first_look: Cell::new(1),
            call_ms,
            turn_ms,
        };
        watch.start();
        watch
    }

    /// No service is charged for what was until now, and there is time for frames.
    pub(crate) fn start(&self) {
        self.go_on();
        self.ends.set(self.since.get().saturating_add(self.turn_ms));
    }

    /// No service is charged for what was until now. The time for frames goes on.
    #[inline]
    pub(crate) fn go_on(&self) {
        self.since.set(now());
    }

    /// Whether the time for frames was over: those that come wait behind those that do.
    #[inline]
    pub(crate) fn is_late(&self) -> bool {
        self.is_late.get()
    }

    /// It was started or read last so many milliseconds before it was.
    #[cfg(test)]
    pub(crate) fn set_back(&self, by: u64) {
        self.since.set(self.since.get().saturating_sub(by));
    }

    #[cfg(test)]
    pub(crate) fn make_late(&self) {
        self.is_late.set(true);
    }

    /// Those that wait have their time, or nobody does.
    pub(crate) fn catch_up(&self) {
        self.is_late.set(false);
    }

    /// Behind how many frames of a received buffer [`is_over`](Self::is_over) is to be asked.
    #[inline]
    pub(crate) fn first_look(&self) -> usize {
        self.first_look.get()
    }

    /// When to ask next, if it was not over behind `count` frames.
    pub(crate) fn next_look(&self, count: usize) -> usize {
        self.first_look.set((2 * count).min(FIRST_LOOK_MAX));
        count + count.min(LOOK_STEP_MAX)
    }

    /// Whether others come first now, in the middle of a call.
    pub(crate) fn is_over(&self) -> bool {
        let now = now();
        let is_late = self.note_late(now);
        let is_over = is_late || now.saturating_sub(self.since.get()) >= self.call_ms;
        if is_over {
            self.first_look.set(1);
        }
        is_over
    }

    fn note_late(&self, now: u64) -> bool {
        if now >= self.ends.get() {
            self.is_late.set(true);
        }
        self.is_late.get()
    }

    /// For how many milliseconds a service was called, if that is long; what has happened since the last reading is its doing.
    #[inline]
    pub(crate) fn slow(&self) -> Option<u64> {
        let now = now();
        let took = now.saturating_sub(self.since.replace(now));
        self.note_late(now);
        (took >= SLOW_MS).then_some(took)
    }
}

fn now() -> u64 {
    let time = clock_gettime(ClockId::MonotonicCoarse);
    // Neither is negative, and the sum is milliseconds since the machine was started.
    (time.tv_sec as u64) * 1_000 + (time.tv_nsec as u64) / 1_000_000
}

/// What a service did meanwhile on behalf of a connection.
pub(crate) struct Work {
    pub(crate) what: Call,
    /// So many it was given,
    pub(crate) frames: usize,
    /// and this is what it calls the last of them.
    pub(crate) last: Option<String>,
}

impl Work {
    /// Of a call that is given none.
    pub(crate) fn of(what: Call) -> Self {
        Work {
            what,
            frames: 0,
            last: None,
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.frames, &self.last) {
            // A part of one.
            (0, _) if self.what == Call::Frame => Ok(()),
            (0, _) => write!(f, " in {}", self.what),
            (1, None) => f.write_str(" for a frame"),
            (1, Some(name)) => write!(f, " for {name}"),
            (frames, None) => write!(f, " for {frames} frames"),
            (frames, Some(name)) => write!(f, " for {frames} frames, the last of them {name},"),
        }
    }
}

/// Counts and logs that the service took so long for it.
#[cold]
pub(crate) fn report(took: u64, work: Work, connection: &Connection, desk: &Desk, link: &dyn Link) {
    desk.name_counters(connection.name).slow.add(1);
    // Of these about ten fit into a second, so that no client can take the lines of others.
    if !desk.warnings.lets_pass(Kind::Slow, desk.now) {
        return;
    }
    let named = Named::new(connection, desk, link);
    tracing::warn!(
        socket = %named.socket,
        connection = %named.id,
        peer = named.peer(),
        worker = desk.worker,
        "a call of the service lasted {took} ms{} on {named}, and nobody else on this worker was served; unless the \
         machine is overloaded, slow work is for another thread, with a deferred reply",
        Plain(work)
    );
}
