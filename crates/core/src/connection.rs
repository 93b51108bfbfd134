//! One connection without its socket: what was received and not consumed, what is to be sent, and where it is in its
//! life. The service calls that move it are in [`crate::host`].

use bytes::Bytes;

use crate::close::Close;
use crate::desk::Desk;
use crate::outbox::Outbox;
use crate::partial::Partial;
use crate::peer::{ConnectionId, PeerAddress, PushError};
use crate::slots::Key;
use crate::tickets::Tickets;

mod arriving;
mod desire;
mod failed;
mod time;

pub(crate) use self::desire::{Desire, Finish, LARGE_FRAME_BYTES_MIN, Receive};
pub(crate) use self::time::{Clock, LINGER, Over, milliseconds};

/// Nobody is served further ahead than this while it reads, although `outbox_bytes` may allow more: replies that wait have
/// left the cache by the time that they are sent, and so has the memory for the next ones.
pub(crate) const UNREAD_BYTES_MAX: usize = 512 * 1024;

/// Who has taken nothing for so many milliseconds, although there was something, is busy otherwise: it may even have to write
/// all its requests before it reads any reply. It is noticed when the timer wheel ticks next.
const READING_MS: u64 = 10;

/// The state of one connection, engine-independent.
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    /// Index of the socket name.
    pub(crate) name: u16,
    /// Key of the session at its host; `None` before `connected` and after `disconnected`.
    pub(crate) session: Option<Key>,
    /// Where the client is, if a proxy said it. It is at the other end otherwise.
    pub(crate) client: Option<Box<PeerAddress>>,
    /// It was a service's in the process before.
    pub(crate) is_handed_over: bool,
    /// Received bytes that no service call has consumed.
    pub(crate) input: Option<Box<Partial>>,
    pub(crate) outbox: Outbox,
    pub(crate) tickets: Tickets,
    pub(crate) life: Life,
    /// Why it ends, once it does: then `life` is [`Life::Refused`] or one behind that.
    pub(crate) why: Option<Close>,
    pub(crate) pause: Pause,
    /// What [`crate::memory::Meter`] was told that this connection holds, in bytes.
    pub(crate) metered: usize,
    /// The engine receives no more, because the server stops, or because the socket has failed and all that it had is taken.
    pub(crate) quiet: bool,
    /// It is over because its peer did not take its output, or is not wanted any more: the kernel is not to keep its part of that either.
    pub(crate) is_cut: bool,
    /// Times on the worker's clock, for the time limits; see [`Connection::due`].
    pub(crate) clock: Clock,
}

/// Whether dispatch waits, and reading with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pause {
    /// It does not.
    No,
    /// Until the peer, which reads, has read more of its replies; see [`UNREAD_BYTES_MAX`].
    Ahead,
    /// Until the peer has read more, or more deferred replies are answered.
    Full,
}

/// Whether a connection that ends waits for mail that was posted to it before: pushes that were accepted, answers that were
/// given. Behind all of it a fence is posted in the worker's mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fence {
    /// None is posted: it has just begun to end, or nobody could have posted anything.
    No,
    /// It waits.
    Posted,
    /// It waits for answers alone: more was pushed than may wait, and nothing is to come behind a gap.
    Crowded,
    /// What comes now was posted too late.
    Passed,
}

impl Fence {
    fn is_awaited(self) -> bool {
        matches!(self, Fence::Posted | Fence::Crowded)
    }
}

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// The header of a proxy is awaited, which says where the client is. No service knows the connection.
    Arriving,
    /// It is read, answered and written.
    Open,
    /// The peer has ended its side. What it asked for is still answered.
    Ended,
    /// What the peer sends is of no use any more, which is why it ends. What it asked for before is still answered, and nothing is read
    /// meanwhile. `ended`: the peer's FIN was seen.
    Refused { ended: bool },
    /// The socket has failed. What had been received before, by the kernel too, is still given to the service, whose answers
    /// nobody gets.
    Failed,
    /// It is over: what is queued is written, then the FIN is sent. `ended`: the peer's FIN was seen.
    Closing { ended: bool, fence: Fence },
    /// The FIN was sent; the peer's is awaited.
    Shut,
    /// Nothing more is to be done than to close it.
    Over,
}

impl Connection {
    pub(crate) fn new(id: ConnectionId, name: u16, now: u64) -> Self {
        Connection {
            id,
            name,
            session: None,
            client: None,
            is_handed_over: false,
            input: None,
            outbox: Outbox::default(),
            tickets: Tickets::default(),
            life: Life::Open,
            why: None,
            pause: Pause::No,
            metered: 0,
            quiet: false,
            is_cut: false,
            clock: Clock::new(now),
        }
    }

    /// Whether frames are still given to the service.
    pub(crate) fn takes_frames(&self) -> bool {
        matches!(self.life, Life::Open | Life::Ended | Life::Failed)
    }

    /// Whether deferred replies to it are waited for.
    pub(crate) fn is_answered(&self) -> bool {
        matches!(self.life, Life::Open | Life::Ended | Life::Refused { .. })
    }

    /// Whether the peer has not ended its side, nor is it being closed.
    pub(crate) fn is_read(&self) -> bool {
        matches!(self.life, Life::Arriving | Life::Open)
    }

    /// Whether what the kernel has for it by now is for the service, although the engine receives no more.
    pub(crate) fn is_read_out(&self) -> bool {
        self.is_read() || self.life == Life::Failed
    }

    /// Whether a successor may go on with it.
    pub(crate) fn may_part(&self) -> bool {
        self.why.is_none() || self.owes_only_output()
    }

    /// Whether what others push and answer is still written.
    pub(crate) fn takes_mail(&self) -> bool {
        match self.life {
            Life::Open | Life::Ended | Life::Refused { .. } => true,
            Life::Closing { fence, .. } => fence.is_awaited(),
            Life::Arriving | Life::Failed | Life::Shut | Life::Over => false,
        }
    }

    /// Takes what others have pushed, and returns why the connection is to end, if more would wait then than may: the peer is too slow. If
    /// it is ending anyway it takes no more pushes, and what was queued before is still written.
    #[must_use]
    pub(crate) fn take_push(&mut self, bytes: &Bytes, desk: &mut Desk) -> Option<Close> {
        let crowded = match &mut self.life {
            Life::Open | Life::Ended | Life::Refused { .. } => None,
            Life::Closing { fence, .. } if *fence == Fence::Posted => Some(fence),
            Life::Arriving | Life::Failed => return None,
            Life::Closing { .. } | Life::Shut | Life::Over => return None,
        };
        if self.outbox.pushed() + bytes.len() <= desk.limits_of(self.name).outbox_bytes {
            self.outbox.push(&mut desk.pools, bytes);
            return None;
        }
        match crowded {
            Some(fence) => *fence = Fence::Crowded,
            None => return Some(Close::Overflow("outbox_bytes")),
        }
        None
    }

    /// Notes that a fence has to be posted, if it has just begun to end. Returns whether it has.
    pub(crate) fn put_fence(&mut self) -> bool {
        match &mut self.life {
            Life::Closing {
                fence: fence @ Fence::No,
                ..
            } => {
                *fence = Fence::Posted;
                true
            }
            _ => false,
        }
    }

    /// The fence was delivered.
    pub(crate) fn pass_fence(&mut self) {
        if let Life::Closing { fence, .. } = &mut self.life {
            *fence = Fence::Passed;
        }
    }

    /// What is to be answered to those who push to it.
    pub(crate) fn push_error(&self) -> Option<PushError> {
        match (&self.why, self.life) {
            (None, _) | (_, Life::Refused { .. }) => None,
            (Some(Close::Overflow(_)), Life::Over) => Some(PushError::Overflow),
            (Some(_), _) => Some(PushError::Gone),
        }
    }

    /// Whether dispatch waits.
    #[inline]
    pub(crate) fn is_paused(&self) -> bool {
        self.pause != Pause::No
    }

    /// Whether there are bytes that can be dispatched now.
    pub(crate) fn is_ready(&self) -> bool {
        self.takes_frames() && !self.is_paused() && self.has_backlog()
    }

    /// Whether there are bytes that can be dispatched, now or when it goes on.
    pub(crate) fn has_backlog(&self) -> bool {
        self.input.as_ref().is_some_and(|input| input.is_backlog())
    }

    /// Dispatch stops when more than half of `outbox_bytes` is queued, and goes on at a quarter; in the same way it
    /// stops when too many deferred replies are owed, or when it is [ahead](UNREAD_BYTES_MAX) of a peer that reads.
    #[inline]
    pub(crate) fn update_pause(&mut self, desk: &Desk) {
        let usual = !self.is_paused() && self.tickets.is_empty();
        if !usual || self.outbox.len() > desk.unread_at_ease {
            self.change_pause(desk);
        }
    }

    fn change_pause(&mut self, desk: &Desk) {
        let was = self.pause;
        let part = |pause| if was == pause { 2 } else { 1 };
        let unsent = self.outbox.len();
        let limits = desk.limits_of(self.name);
        let is_full = unsent > limits.outbox_bytes / 2 / part(Pause::Full)
            || self.tickets.len() >= (limits.promises as usize).div_ceil(part(Pause::Full));
        let is_reading = self.clock.write == 0 || desk.now < self.clock.write + READING_MS;
        self.pause = if is_full {
            Pause::Full
        } else if is_reading && unsent > UNREAD_BYTES_MAX / part(Pause::Ahead) {
            Pause::Ahead
        } else {
            Pause::No
        };
        if is_full && was != Pause::Full && self.why.is_none() {
            desk.name_counters(self.name).pauses.add(1);
        }
    }

    /// Ends the connection for `why`, or when its deferred replies are answered, if it is what the peer sent that is of no use. If it is
    /// ending already that is the end of what it still owes, if it is not worth writing any more.
    pub(crate) fn close(&mut self, why: Close, desk: &mut Desk) {
        let ended = match self.life {
            Life::Arriving | Life::Open => false,
            Life::Ended => true,
            Life::Failed => return self.cut_short(why, desk),
            Life::Refused { ended } if why.flushes() => {
                if matches!(why, Close::Panicked) {
                    // However the connection ends.
                    self.count(&why, desk);
                }
                return self.write_out(ended, desk);
            }
            Life::Refused { .. } | Life::Closing { .. } | Life::Shut | Life::Over => {
                if !why.flushes() {
                    self.cut_short(why, desk);
                }
                return;
            }
        };
        self.count(&why, desk);
        self.drop_input(desk);
        if why.is_for_input() && !self.tickets.is_empty() {
            self.life = Life::Refused { ended };
        } else if why.flushes() {
            self.write_out(ended, desk);
        } else {
            self.be_over(&why);
        }
        self.why = Some(why);
    }

    /// Nothing is left but to write what is queued.
    fn write_out(&mut self, ended: bool, desk: &Desk) {
        self.clock.end = desk.now;
        let fence = Fence::No;
        self.life = Life::Closing { ended, fence };
    }

    fn be_over(&mut self, why: &Close) {
        self.is_cut |= why.cuts(!self.outbox.is_empty());
        self.life = Life::Over;
    }

    fn drop_input(&mut self, desk: &mut Desk) {
        if let Some(input) = self.input.take() {
            desk.pools.give_partial(input);
        }
    }

    /// What is queued on a connection that is being closed is not written any more, or what one had received whose socket has
    /// failed is not given to the service, for `why`. That is counted besides the reason that it has, which remains, unless that
    /// says that everything was answered, or that the socket had failed.
    fn cut_short(&mut self, why: Close, desk: &mut Desk) {
        self.drop_input(desk);
        let has_failed = self.life == Life::Failed;
        let owes = has_failed || self.owes_last_words();
        self.be_over(&why);
        if owes {
            self.count(&why, desk);
            if has_failed || matches!(self.why, Some(Close::Finished)) {
                self.why = Some(why);
            }
        }
    }

    /// Whether it is being closed and has output that is still to be written, or that is still to come.
    pub(crate) fn owes_last_words(&self) -> bool {
        match self.life {
            Life::Refused { .. } => true,
            Life::Closing { .. } => !self.outbox.is_empty(),
            _ => false,
        }
    }

    /// Whether it is being closed because the peer has ended its side and nothing is left but to write what it asked
    /// for.
    pub(crate) fn owes_only_output(&self) -> bool {
        matches!(self.life, Life::Closing { ended: true, .. })
            && matches!(self.why, Some(Close::Finished | Close::Truncated))
            && !self.outbox.is_empty()
    }

    fn count(&self, why: &Close, desk: &Desk) {
        let counters = desk.name_counters(self.name);
        match why {
            Close::Finished | Close::Stopping | Close::Unserved | Close::HandedOver => {}
            Close::Refused(_) => counters.refused.add(1),
            Close::Service(_) | Close::Abandoned(_) => counters.ended_by_service.add(1),
            Close::Truncated
            | Close::ProxyHeader(_)
            | Close::Framing(_)
            | Close::TopLevel(_)
            | Close::Rejected(_) => counters.bad_input.add(1),
            Close::Crowded => counters.crowded.add(1),
            Close::Failed(_) => counters.failed.add(1),
            Close::Unrestored(_) => counters.unrestored.add(1),
            Close::Panicked => counters.panics.add(1),
            Close::Overflow(_) | Close::Cut(_) | Close::Memory => counters.cut.add(1),
            Close::Idle
            | Close::ProxyTimeout
            | Close::FrameTimeout
            | Close::WriteTimeout
            | Close::ReplyTimeout
            | Close::Untaken => counters.timed_out.add(1),
        }
    }

    /// The peer has ended its side.
    pub(crate) fn ended(&mut self, desk: &mut Desk) {
        match &mut self.life {
            Life::Arriving => self.ended_early(desk),
            Life::Open => self.life = Life::Ended,
            Life::Refused { ended } | Life::Closing { ended, .. } => *ended = true,
            Life::Shut => self.life = Life::Over,
            Life::Ended | Life::Failed | Life::Over => {}
        }
    }

    /// The FIN was sent.
    pub(crate) fn shut(&mut self, now: u64) {
        self.clock.end = now;
        match self.life {
            Life::Closing { ended: false, .. } => self.life = Life::Shut,
            Life::Closing { ended: true, .. } => self.life = Life::Over,
            _ => debug_assert!(false, "only a closing connection sends its FIN"),
        }
    }

    /// An ended peer that has been given everything it asked for is done, and so is one that was refused, and one whose socket has failed
    /// when the service has been given what it asked for.
    pub(crate) fn settle(&mut self, desk: &mut Desk) {
        if self.life == Life::Failed {
            self.settle_failed(desk);
        } else if let Life::Refused { ended } = self.life {
            if self.tickets.is_empty() {
                self.write_out(ended, desk);
            }
        } else if self.life == Life::Ended
            && !self.is_ready()
            && !self.is_paused()
            && self.tickets.is_empty()
        {
            let why = if self.input.is_some() {
                Close::Truncated
            } else {
                Close::Finished
            };
            self.close(why, desk);
        }
    }

    /// Bytes of memory that the peer makes the process hold. Of one that is about to be closed they are as good as
    /// returned, however long the engine takes: nobody else need be cut for them.
    pub(crate) fn held(&self) -> usize {
        match self.life {
            Life::Over => 0,
            _ => {
                let input = self.input.as_ref().map_or(0, |input| input.held());
                input + self.outbox.held() + self.tickets.held()
            }
        }
    }

    /// Brings the clocks and the meter up to date after anything happened.
    pub(crate) fn account(&mut self, desk: &mut Desk) {
        self.set_clock(desk.now);
        let held = self.held();
        if held != self.metered {
            desk.meter.change(self.metered, held);
            self.metered = held;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_costs_little() {
        assert!(size_of::<Connection>() <= 128);
    }
}
