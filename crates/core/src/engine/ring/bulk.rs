//! Receiving from connections that have much to say: piece by piece, through one buffer that stays in the cache.
//!
//! A multishot receive takes everything that a socket has before any of it is answered, into as many buffers, and none of
//! them is in the cache when its turn comes, nor are the replies when they are sent. So a connection that fills a
//! buffer is *bulky*: it is asked for one piece, which is handled and answered, then for the next one, until it has
//! nothing left. Only then a poll waits for more. A receive into the warm buffer never waits, so it is over when the
//! enter that begins it returns.

use std::collections::VecDeque;
use std::io;

use io_uring::opcode;

use super::Engine;
use super::link::{Pace, Receiving};
use super::operation::{Kind, Operation};
use super::queue::Completion;

/// A connection that sends so much in a turn is bulky.
pub(super) const BULKY_BYTES_MIN: u32 = 48 * 1024;

/// Pieces smaller than this are no reason to stay so.
const SMALL_PIECE_BYTES: i32 = 8 * 1024;

/// After so many small pieces in a row a connection is not bulky any more.
const SMALL_PIECES_MAX: u8 = 16;

/// The warm buffer. Half of a usual second-level cache stays free for the replies.
const PIECE_BYTES: usize = 128 * 1024;

/// So many pieces in a row one connection gets while others wait.
const STREAK_MAX: u32 = 16;

/// What is known of a bulky connection.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bulky {
    /// There is nothing to receive for now.
    is_dry: bool,
    /// Small pieces in a row.
    small: u8,
}

/// The warm buffer, and who wants it.
pub(super) struct Bulk {
    buffer: Vec<u8>,
    /// A receive into it is in flight.
    is_taken: bool,
    /// Connections that wait for it: slot and generation. Void if that connection is not bulky and [`Receiving::Queued`].
    queue: VecDeque<(u32, u32)>,
    /// Who had it last, and how many times in a row.
    last: (u32, u32),
    streak: u32,
}

impl Bulk {
    pub(super) fn new() -> Self {
        Bulk {
            buffer: vec![0; PIECE_BYTES],
            is_taken: false,
            queue: VecDeque::new(),
            last: (0, 0),
            streak: 0,
        }
    }

    /// Whether somebody can receive at once.
    pub(super) fn is_wanted(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Puts a connection into the queue. Who has just had the buffer goes first, within limits: what is behind its last piece
    /// has just been written, and what it is answered is about to be read.
    fn enqueue(&mut self, who: (u32, u32)) {
        if who == self.last && self.streak < STREAK_MAX {
            self.queue.push_front(who);
        } else {
            self.queue.push_back(who);
        }
    }

    fn dequeue(&mut self) -> Option<(u32, u32)> {
        let who = self.queue.pop_front()?;
        if who != self.last || self.streak >= STREAK_MAX {
            self.last = who;
            self.streak = 0;
        }
        self.streak += 1;
        Some(who)
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
            self.bulk.enqueue((slot, generation));
            return Ok(());
        }
        link.receiving = Receiving::Polled;
        link.receive_cancelled = false;
        let poll = opcode::PollAdd::new(link.fd(), libc::POLLIN as u32)
            .build()
            .user_data(Operation::new(Kind::Readable, generation, slot).pack());
        // SAFETY: the entry points to nothing.
        #[expect(unsafe_code, reason = "submitting an operation")]
        unsafe {
            self.queue.push(&poll)
        }
    }

    /// There is something to receive, or the poll was ended.
    pub(super) fn readable(&mut self, operation: Operation) {
        let Some(link) = self.shard.link_of(operation.slot, operation.generation) else {
            debug_assert!(
                false,
                "a slot is not reused while an operation is in flight"
            );
            return;
        };
        link.receiving = Receiving::No;
        self.shard.touch(operation.slot);
    }

    /// Gives the warm buffer to the next in the queue.
    pub(super) fn arm_piece(&mut self) -> io::Result<()> {
        while !self.bulk.is_taken
            && let Some((slot, generation)) = self.bulk.dequeue()
        {
            let link = self.shard.link_of(slot, generation);
            let Some(link) = link.filter(|link| {
                link.receiving == Receiving::Queued && matches!(link.pace, Pace::Bulky(_))
            }) else {
                continue;
            };
            link.receiving = Receiving::Piece;
            link.receive_cancelled = false;
            let target = self.bulk.buffer.as_mut_ptr();
            let receive = opcode::Recv::new(link.fd(), target, PIECE_BYTES as u32)
                .flags(libc::MSG_DONTWAIT)
                .build()
                .user_data(Operation::new(Kind::Piece, generation, slot).pack());
            self.bulk.is_taken = true;
            self.shard.desk.counters().engine.pieces.add(1);
            // SAFETY: the buffer is as long, and nobody touches it until the completion clears `is_taken`; see `Engine`
            // for what happens when there is none.
            #[expect(unsafe_code, reason = "submitting an operation")]
            unsafe {
                self.queue.push(&receive)?;
            }
        }
        Ok(())
    }

    pub(super) fn piece_received(&mut self, operation: Operation, completion: &Completion) {
        let slot = operation.slot;
        self.bulk.is_taken = false;
        let Some(link) = self.shard.link_of(slot, operation.generation) else {
            debug_assert!(
                false,
                "a slot is not reused while an operation is in flight"
            );
            return;
        };
        link.receiving = Receiving::No;
        self.shard.touch(slot);
        let length = usize::try_from(completion.result).unwrap_or(0);
        if length > 0 {
            // Whoever keeps a part of it gets a copy: if it were lent, it would not be warm next time.
            self.shard.received(slot, &self.bulk.buffer[..length], None);
        }
        match completion.result {
            1.. => {}
            0 => self.shard.ended(slot),
            // There is nothing, or a signal came.
            error if matches!(-error, libc::EAGAIN | libc::EINTR) => {}
            error => self.receive_failed(slot, operation.generation, -error),
        }
        self.rate_piece(slot, completion.result);
    }

    /// Decides how to go on after a receive into the warm buffer.
    fn rate_piece(&mut self, slot: u32, result: i32) {
        let Some((outbox, link, _)) = self.shard.sending(slot) else {
            return;
        };
        let Pace::Bulky(bulky) = &mut link.pace else {
            return;
        };
        // A socket that gave less than there was room for was empty. Whoever gets an answer may go on by the time it is sent.
        let was_emptied = result < PIECE_BYTES as i32 && outbox.is_empty();
        bulky.is_dry = was_emptied || result == -libc::EAGAIN;
        match result {
            1..SMALL_PIECE_BYTES => bulky.small += 1,
            SMALL_PIECE_BYTES.. => bulky.small = 0,
            _ => {}
        }
        if bulky.small >= SMALL_PIECES_MAX {
            link.pace = Pace::default();
        }
    }
}
