//! Calls of services that take long: nobody else on the worker is served meanwhile.

use std::cell::Cell;

use rustix::time::{ClockId, clock_gettime};

use crate::connection::Connection;
use crate::desk::Desk;
use crate::journal::Named;
use crate::peer::Link;
use crate::warnings::Kind;

/// What takes so many milliseconds is counted and logged.
const SLOW_MS: u64 = 100;

/// Tells what takes long. It is read once for all frames of a received buffer, so it must be cheap: the clock is one that the
/// kernel moves on by some milliseconds at a time (CLOCK_MONOTONIC_COARSE, clock_getres(2)), which costs a quarter of another.
#[derive(Debug)]
pub(crate) struct Stopwatch {
    /// When it was started or read last, in milliseconds.
    since: Cell<u64>,
}

impl Stopwatch {
    pub(crate) fn started() -> Self {
        Stopwatch {
            since: Cell::new(now()),
        }
    }

    /// No service is charged for what was until now.
    pub(crate) fn start(&self) {
        self.since.set(now());
    }

    /// For how many milliseconds a service was called, if that is long; what has happened since the last reading is its doing.
    #[inline]
    pub(crate) fn slow(&self) -> Option<u64> {
        let now = now();
        let took = now.saturating_sub(self.since.replace(now));
        (took >= SLOW_MS).then_some(took)
    }
}

fn now() -> u64 {
    let time = clock_gettime(ClockId::MonotonicCoarse);
    // Neither is negative, and the sum is milliseconds since the machine was started.
    (time.tv_sec as u64) * 1_000 + (time.tv_nsec as u64) / 1_000_000
}

/// Counts and logs that the service took so long, in which it was given this many frames, on behalf of a connection.
#[cold]
pub(crate) fn report(
    took: u64,
    frames: usize,
    connection: &Connection,
    desk: &Desk,
    link: &dyn Link,
) {
    desk.name_counters(connection.name).slow.add(1);
    if !desk.warnings.lets_pass(Kind::Slow, desk.now) {
        return;
    }
    let named = Named::new(connection, desk, link);
    let work = match frames {
        0 => String::new(),
        1 => " for a frame".to_owned(),
        frames => format!(" for {frames} frames"),
    };
    tracing::warn!(
        socket = %named.socket,
        connection = %named.id,
        peer = named.peer(),
        worker = desk.worker,
        "a call of the service lasted {took} ms{work} on {named}, and nobody else on this worker was served; unless the \
         machine is overloaded, slow work is for another thread, with a deferred reply"
    );
}
