//! The time limits of one connection.

use std::time::Duration;

use super::{Connection, Life, Pause, READING_MS};
use crate::close::Close;
use crate::desk::Desk;

/// How long a connection that has sent its FIN waits for the peer's, discarding what still arrives, so that unread
/// data does not turn the close into a reset that could destroy replies on their way.
pub(crate) const LINGER: Duration = Duration::from_secs(1);

/// Since when a connection waits for what; milliseconds on the worker's clock.
pub(crate) struct Clock {
    /// When bytes were received or sent or a ticket was closed last, or the connection was made.
    pub(crate) traffic: u64,
    /// When the frame that is still incomplete began, or reading went on in the middle of it; 0 = none is, or the
    /// connection is not read.
    pub(crate) frame: u64,
    /// When the outbox became non-empty or the peer took bytes of it last; 0 = it is empty.
    pub(crate) write: u64,
    /// When it began to end, and before that when it was made; once the FIN was sent, when that was.
    pub(crate) end: u64,
}

impl Clock {
    /// Nothing is waited for longer than since `now`.
    pub(crate) fn new(now: u64) -> Self {
        Clock {
            traffic: now,
            frame: 0,
            write: 0,
            end: now,
        }
    }
}

/// What is over when a time limit is exceeded.
pub(crate) enum Over {
    /// The connection, for this reason.
    Connection(Close),
    /// The time in which some of what is queued had to be written.
    Write,
    /// The time of its deferred replies, for a peer that has ended its side, or is heard no more.
    Replies,
    /// The time of the first of its deferred replies.
    Promise,
}

impl Connection {
    /// When to look at the connection again, on the worker's clock.
    pub(crate) fn due(&self, desk: &Desk) -> Option<u64> {
        let over = self.over(desk).map(|(at, _)| at);
        let unread = (self.pause == Pause::Ahead).then(|| self.clock.write + READING_MS);
        over.into_iter().chain(unread).min()
    }

    /// When a time limit may be exceeded next, on the worker's clock, and what is over then.
    pub(crate) fn over(&self, desk: &Desk) -> Option<(u64, Over)> {
        let limits = desk.limits_of(self.name);
        let mut over: Option<(u64, Over)> = None;
        let mut consider = |since: u64, limit: Duration, what: Over| {
            let at = since.saturating_add(milliseconds(limit));
            if !limit.is_zero() && over.as_ref().is_none_or(|(earliest, _)| at < *earliest) {
                over = Some((at, what));
            }
        };
        match self.life {
            Life::Arriving => {
                let idle = Over::Connection(Close::Idle);
                consider(self.clock.traffic, limits.idle_timeout, idle);
                // It has begun, although nothing of it may have come.
                let late = Over::Connection(Close::ProxyTimeout);
                consider(self.clock.end, limits.frame_timeout, late);
            }
            // What waits for the service has come in time.
            Life::Open if !self.has_backlog() => {
                if self.tickets.is_empty() && self.outbox.is_empty() {
                    let what = Over::Connection(Close::Idle);
                    consider(self.clock.traffic, limits.idle_timeout, what);
                }
                if self.clock.frame > 0 {
                    let what = Over::Connection(Close::FrameTimeout);
                    consider(self.clock.frame, limits.frame_timeout, what);
                }
            }
            Life::Ended | Life::Refused { .. } if !self.tickets.is_empty() => {
                consider(self.clock.traffic, limits.reply_timeout, Over::Replies);
            }
            Life::Shut => {
                let what = Over::Connection(Close::WriteTimeout);
                consider(self.clock.end, LINGER, what);
            }
            Life::Closing { .. } if !self.why.as_ref().is_some_and(Close::is_by_agreement) => {
                // Whoever takes a byte now and then would keep its place for ever.
                let what = Over::Connection(Close::ReplyTimeout);
                consider(self.clock.end, limits.reply_timeout, what);
            }
            Life::Open
            | Life::Ended
            | Life::Refused { .. }
            | Life::Failed
            | Life::Closing { .. }
            | Life::Over => {}
        }
        if self.is_answered()
            && let Some(since) = self.tickets.oldest()
        {
            consider(since, limits.promise_timeout, Over::Promise);
        }
        if self.clock.write > 0 && self.life != Life::Over {
            consider(self.clock.write, limits.write_timeout, Over::Write);
        }
        over
    }

    /// Brings the clocks of frame and write up to date after anything happened.
    #[inline]
    pub(super) fn set_clock(&mut self, now: u64) {
        let incomplete = self
            .input
            .as_ref()
            .is_some_and(|input| input.parked.is_some());
        // A peer cannot complete a frame while it is not read, nor is it read while something waits for a service that is busy.
        if !incomplete || self.is_paused() || self.has_backlog() {
            self.clock.frame = 0;
        } else if self.clock.frame == 0 {
            self.clock.frame = now;
        }
        if self.outbox.is_empty() {
            self.clock.write = 0;
        } else if self.clock.write == 0 {
            self.clock.write = now;
        }
    }
}

/// A time on the worker's clock. Rounded up, since a limit must not take effect early, nor become zero.
pub(crate) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
