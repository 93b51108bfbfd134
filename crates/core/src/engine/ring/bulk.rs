//! Receiving from connections that have much to say: piece by piece, through one buffer that stays in the cache.
//!
//! A multishot receive takes everything that a socket has before any of it is answered, into as many buffers, and none of
//! them is in the cache when its turn comes, nor are the replies when they are sent. So a connection that fills a
//! buffer is *bulky*: it is asked for one piece, which is handled and answered, then for the next one, until it has
//! nothing left. Only then a poll waits for more. So is whoever has a large frame under way, whose pieces are received straight
//! into its own buffer.
//!
//! Pieces are received with recv(2): whether there is more to do in a turn depends on what the last piece brought.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;

use bytes::BytesMut;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags};

use super::Engine;
use super::link::{Pace, Polling, Receiving, RingLink};
use super::operation::{Kind, Operation};
use super::queue::Completion;
use super::receive::Shots;
use crate::host::FRAMES_PER_CALL_MAX;
use crate::panics;

/// A connection that sends so much in a turn is bulky.
pub(super) const BULKY_BYTES_MIN: u32 = 48 * 1024;

/// Pieces smaller than this are no reason to stay so.
const SMALL_PIECE_BYTES: usize = 8 * 1024;

/// After so many small pieces in a row a connection is not bulky any more.
const SMALL_PIECES_MAX: u8 = 16;

/// The warm buffer. It and as many replies fit into a usual second-level cache.
const PIECE_BYTES: usize = 192 * 1024;

/// So many pieces are received in a turn, if nobody is answered or told anything for them.
const PIECES_PER_TURN_MAX: usize = 16;

/// And none behind those that had so many frames.
const FRAMES_PER_TURN_MAX: usize = FRAMES_PER_CALL_MAX;

/// So many pieces in a row one connection gets while others wait.
const STREAK_MAX: u32 = 16;

/// What is known of a bulky connection.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bulky {
    /// There is nothing to receive for now.
    is_dry: bool,
    /// The last piece that brought something was answered.
    is_answered: bool,
    /// It is one over TCP.
    is_tcp: bool,
    /// Small pieces in a row.
    small: u8,
}

impl Bulky {
    /// Takes account of a piece: its bytes, and whether there is something to send after it.
    fn rate(&mut self, result: Result<usize, Errno>, is_answered: bool) {
        // Not before a receive in vain: what a poll that goes on has reported it does not report again, neither an end behind the
        // last piece, nor what is behind a gap that the kernel leaves after urgent data or passed descriptors.
        self.is_dry = result == Err(Errno::AGAIN);
        let Ok(length) = result else { return };
        self.is_answered = is_answered;
        self.small = match length {
            SMALL_PIECE_BYTES.. => 0,
            _ => self.small + 1,
        };
    }
}

/// The warm buffer, and who wants it.
pub(super) struct Bulk {
    buffer: Vec<u8>,
    /// Connections that wait for it: slot and generation. Void if that connection is not bulky and [`Receiving::Queued`].
    queue: VecDeque<(u32, u32)>,
    /// Who had it last, and how many times in a row.
    last: (u32, u32),
    streak: u32,
    /// How many frames the services of this thread were given,
    given: Rc<Cell<usize>>,
    /// and were when this turn's pieces began.
    given_before: usize,
}

impl Bulk {
    pub(super) fn new() -> Self {
        Bulk {
            buffer: vec![0; PIECE_BYTES],
            queue: VecDeque::new(),
            last: (0, 0),
            streak: 0,
            given: panics::given(),
            given_before: 0,
        }
    }

    fn begin_turn(&mut self) {
        self.given_before = self.given.get();
    }

    /// Whether somebody can receive at once.
    pub(super) fn is_wanted(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Puts a connection into the queue. If it has just had the buffer and `may_stay`, it goes first, within limits.
    fn enqueue(&mut self, who: (u32, u32), may_stay: bool) {
        if may_stay && who == self.last && self.streak < STREAK_MAX {
            self.queue.push_front(who);
        } else {
            self.queue.push_back(who);
        }
    }

    /// Who has the buffer next; `None` if nobody waits for it, or the others have their turn first.
    fn dequeue(&mut self) -> Option<(u32, u32)> {
        if self.given.get().wrapping_sub(self.given_before) >= FRAMES_PER_TURN_MAX {
            return None;
        }
        let who = self.queue.pop_front()?;
        if who != self.last || self.streak >= STREAK_MAX {
            self.last = who;
            self.streak = 0;
        }
        self.streak += 1;
        Some(who)
    }
}

impl RingLink {
    pub(super) fn become_bulky(&mut self) {
        let domain = rustix::net::sockopt::socket_domain(&self.socket);
        self.pace = Pace::Bulky(Bulky {
            is_tcp: domain.is_ok_and(|domain| domain != AddressFamily::UNIX),
            ..Bulky::default()
        });
    }

    /// Sees that a large frame, which is under way, is received as what bulky connections send.
    pub(super) fn expect_large(&mut self) {
        if !matches!(self.pace, Pace::Bulky(_)) {
            self.become_bulky();
            // Its place is one among others that wait for something else.
            if matches!(self.receiving, Receiving::Starved | Receiving::Queued) {
                self.receiving = Receiving::No;
            }
        }
    }

    /// Whether it may have its next piece before others have theirs. Over a unix socket what is behind its last piece has just
    /// been written, and what it is answered is about to be read. Over TCP it costs less to go round all that are answered
    /// (docs/decisions/0008-much-is-received-in-pieces.md).
    fn may_stay(&self) -> bool {
        !matches!(self.pace, Pace::Bulky(bulky) if bulky.is_tcp && bulky.is_answered)
    }

    fn goes_on(&mut self) -> bool {
        let is_full = matches!(self.pace, Pace::Bulky(Bulky { is_dry: false, .. }));
        is_full && self.receiving == Receiving::No
    }
}

impl Engine<'_> {
    /// Goes on with a bulky connection: with its next piece, or when there is one.
    pub(super) fn arm_bulk(&mut self, slot: u32, generation: u32) -> io::Result<()> {
        // The service has not got through the last piece. It goes on in the next turn, and so does this.
        if self.shard.is_ready(slot) {
            return Ok(());
        }
        let Some(link) = self.shard.link(slot) else {
            return Ok(());
        };
        let Pace::Bulky(bulky) = &mut link.pace else {
            return Ok(());
        };
        if !std::mem::take(&mut bulky.is_dry) {
            link.receiving = Receiving::Queued;
            let may_stay = link.may_stay();
            self.bulk.enqueue((slot, generation), may_stay);
            return Ok(());
        }
        // To begin another poll costs more than a report while the connection is being received from anyway.
        self.arm_readable(slot, generation, true)
    }

    /// Waits until there is something to receive, with a poll that `goes_on` or not.
    pub(super) fn arm_readable(
        &mut self,
        slot: u32,
        generation: u32,
        goes_on: bool,
    ) -> io::Result<()> {
        let Some(link) = self.shard.link(slot) else {
            return Ok(());
        };
        let file = link.file(slot);
        link.receiving = Receiving::Polled;
        if link.readable != Polling::No {
            return Ok(());
        }
        link.readable = Polling::Armed;
        let poll = Operation::new(Kind::Readable, generation, slot);
        self.queue.poll(file, libc::POLLIN, goes_on, poll.pack())
    }

    /// There is something to receive, or the poll has ended.
    pub(super) fn readable(
        &mut self,
        operation: Operation,
        completion: &Completion,
    ) -> io::Result<()> {
        let who = (operation.slot, operation.generation);
        let Some(link) = self.shard.expected_link(who.0, who.1) else {
            return Ok(());
        };
        let is_cancelled = link.readable == Polling::Cancelled;
        if !completion.more() {
            link.readable = Polling::No;
        }
        match (link.receiving, &mut link.pace) {
            (Receiving::Polled, _) if is_cancelled => link.receiving = Receiving::No,
            (Receiving::Polled, Pace::Patient { .. }) => {
                return self.arm_receive(who.0, who.1, Shots::Now);
            }
            (Receiving::Polled, Pace::Eager(_)) => {
                link.receiving = Receiving::Queued;
                self.looks.enqueue(who);
            }
            (Receiving::Polled, Pace::Bulky(_)) => {
                link.receiving = Receiving::Queued;
                let may_stay = link.may_stay();
                self.bulk.enqueue(who, may_stay);
            }
            // It may have come behind what was received last.
            (_, Pace::Bulky(bulky)) => bulky.is_dry = false,
            _ => {}
        }
        if is_cancelled {
            self.shard.touch(who.0);
        }
        Ok(())
    }

    pub(super) fn cancel_readable(&mut self, slot: u32, generation: u32) -> io::Result<()> {
        let Some(link) = self.shard.link(slot) else {
            return Ok(());
        };
        if link.readable != Polling::Armed {
            return Ok(());
        }
        link.readable = Polling::Cancelled;
        self.cancel(Operation::new(Kind::Readable, generation, slot))
    }

    /// Receives from those in the queue, one piece after the other, until somebody has been answered, or told something:
    /// what is to be sent is still in the cache then.
    pub(super) fn receive_pieces(&mut self) -> io::Result<()> {
        self.bulk.begin_turn();
        for _ in 0..PIECES_PER_TURN_MAX {
            let Some((slot, generation)) = self.bulk.dequeue() else {
                return Ok(());
            };
            let waits = |link: &RingLink| {
                link.receiving == Receiving::Queued && matches!(link.pace, Pace::Bulky(_))
            };
            if !self.may_begin(slot, generation, waits) {
                continue;
            }
            if self.receive_piece(slot) || self.mailbox.has_own() {
                return Ok(());
            }
            // A connection that is not answered and had much goes on at once.
            if self
                .shard
                .link_of(slot, generation)
                .is_some_and(RingLink::goes_on)
            {
                self.arm_bulk(slot, generation)?;
            }
        }
        Ok(())
    }

    /// Receives one piece. Returns whether it is answered.
    fn receive_piece(&mut self, slot: u32) -> bool {
        let Some(link) = self.shard.link(slot) else {
            return false;
        };
        link.receiving = Receiving::No;
        let result = match self.shard.receive_large(slot, receive_into) {
            Some(result) => result,
            None => self.receive_warm(slot),
        };
        self.shard.desk.counters().engine.pieces.add(1);
        match result {
            Ok(0) => self.shard.ended(slot),
            Ok(_) => {}
            Err(Errno::AGAIN | Errno::INTR) => self.shard.touch(slot),
            Err(error) => self.shard.failed(slot, error.into()),
        }
        self.rate_piece(slot, result)
    }

    /// Receives into the warm buffer. Returns how many bytes. Whoever keeps a part of it gets a copy: if it were lent, it would
    /// not be warm next time.
    fn receive_warm(&mut self, slot: u32) -> Result<usize, Errno> {
        let Some(link) = self.shard.link(slot) else {
            return Err(Errno::AGAIN);
        };
        let buffer = &mut self.bulk.buffer[..];
        let (length, _) = rustix::net::recv(&link.socket, buffer, RecvFlags::DONTWAIT)?;
        if length > 0 {
            self.shard.received(slot, &self.bulk.buffer[..length], None);
        }
        Ok(length)
    }

    /// Decides how to go on after a piece of so many bytes. Returns whether there is something to send.
    fn rate_piece(&mut self, slot: u32, result: Result<usize, Errno>) -> bool {
        let Some((outbox, link, _)) = self.shard.sending(slot) else {
            return false;
        };
        let is_answered = !outbox.is_empty();
        if let Pace::Bulky(bulky) = &mut link.pace {
            bulky.rate(result, is_answered);
            if bulky.small >= SMALL_PIECES_MAX {
                link.pace = Pace::default();
            }
        }
        is_answered
    }
}

/// Receives into the spare capacity of a buffer, at most so many bytes. Returns how many there were.
pub(in crate::engine) fn receive_into(
    link: &impl AsFd,
    bytes: &mut BytesMut,
    room: usize,
) -> Result<usize, Errno> {
    let spare = &mut bytes.spare_capacity_mut()[..room];
    let ((received, _), _) = rustix::net::recv(link, spare, RecvFlags::DONTWAIT)?;
    let length = received.len();
    // SAFETY: so many bytes behind its length were initialized.
    #[expect(unsafe_code, reason = "the kernel filled the buffer")]
    unsafe {
        bytes.set_len(bytes.len() + length);
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::peer::Link;

    #[test]
    fn what_is_received_comes_behind_what_was_there() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let link = RingLink::new(ours.into());
        let mut bytes = BytesMut::with_capacity(64);
        bytes.extend_from_slice(b"--");
        theirs.write_all(b"abcdef").unwrap();
        for expected in [Ok(4), Ok(2), Err(Errno::AGAIN)] {
            assert_eq!(receive_into(&link, &mut bytes, 4), expected);
        }
        assert_eq!(bytes, "--abcdef");
    }

    #[test]
    fn a_piece_in_vain_says_nothing_of_answers() {
        let mut bulky = Bulky::default();
        for is_answered in [true, false] {
            bulky.rate(Ok(PIECE_BYTES), is_answered);
            assert!(!bulky.is_dry);
            // By then the answer has left, or another one is on its way.
            bulky.rate(Err(Errno::AGAIN), !is_answered);
            assert!(bulky.is_dry);
            assert_eq!(bulky.is_answered, is_answered);
        }
        bulky.rate(Ok(1), false);
        assert!(!bulky.is_dry, "an end may be behind it");
    }

    #[test]
    fn who_goes_on_comes_first_but_not_for_ever() {
        let (one, other) = ((1, 7), (2, 7));
        let mut bulk = Bulk::new();
        bulk.enqueue(one, true);
        bulk.enqueue(other, true);
        let mut turns = Vec::new();
        for _ in 0..40 {
            let who = bulk.dequeue().unwrap();
            turns.push(who);
            bulk.enqueue(who, true);
        }
        let expected = [[one; 16], [other; 16]].concat();
        assert_eq!(turns[..32], expected);
        assert_eq!(turns[32..], [one; 8]);
    }

    #[test]
    fn who_may_not_stay_takes_turns() {
        let (one, other) = ((1, 7), (2, 7));
        let mut bulk = Bulk::new();
        bulk.enqueue(one, false);
        bulk.enqueue(other, false);
        let turns = (0..6).map(|_| {
            let who = bulk.dequeue().unwrap();
            bulk.enqueue(who, false);
            who
        });
        assert_eq!(turns.collect::<Vec<_>>(), [one, other].repeat(3));
    }

    #[test]
    fn behind_many_frames_the_others_have_their_turn() {
        let mut bulk = Bulk::new();
        bulk.begin_turn();
        for slot in [4, 5, 6] {
            bulk.enqueue((slot, 0), false);
        }
        bulk.given.set(bulk.given_before + FRAMES_PER_TURN_MAX - 1);
        assert_eq!(bulk.dequeue(), Some((4, 0)));
        bulk.given.set(bulk.given_before + FRAMES_PER_TURN_MAX);
        assert_eq!(bulk.dequeue(), None);
        assert!(bulk.is_wanted());
        bulk.begin_turn();
        assert_eq!(bulk.dequeue(), Some((5, 0)));
    }

    #[test]
    fn the_queue_is_as_long_as_it_has_connections() {
        let mut bulk = Bulk::new();
        for slot in [4, 5, 6] {
            bulk.enqueue((slot, 0), true);
        }
        for slot in [4, 5, 6] {
            assert!(bulk.is_wanted());
            assert_eq!(bulk.dequeue(), Some((slot, 0)));
        }
        assert!(!bulk.is_wanted());
        assert_eq!(bulk.dequeue(), None);
    }
}
