//! Asking first, and waiting only if there is nothing.
//!
//! A multishot receive is woken by whoever sends, which on a busy worker costs more than to look: the wake-up was written by
//! another CPU, and so was the list that it waits in. By the time that a worker with many connections has answered
//! all of them, the first ones have gone on already. So a connection that has received often enough in crowded turns becomes *eager*: once its
//! answers are on their way, one receive looks for what comes next and does not wait (MSG_DONTWAIT). If that was in vain,
//! a poll waits before it looks again; if it is so too often, the connection goes back to the multishot receive.

use std::collections::VecDeque;
use std::io;

use io_uring::opcode;

use super::Engine;
use super::link::{Pace, Receiving, RingLink};
use super::operation::{Kind, Operation};
use super::queue::Completion;
use super::receive::Shots;

/// A turn behind one in which so many receives brought something is crowded.
const CROWD_MIN: u32 = 16;

/// A connection becomes eager when it has received so many times in a row in crowded turns. Each time that this turns out to be
/// wrong it takes twice as many, up to [`PATIENCE_MAX`] times.
const CROWDED_RECEIVES_MIN: u32 = 8;
const PATIENCE_MAX: u8 = 9;

/// So many bytes count as one more receive. The more each brings, the more of what a multishot receive takes before any of it is answered
/// is out of the cache by then, and the less is a look in vain beside it.
const CROWDED_BYTES: usize = 1024;

/// A look in vain costs about what two others save. Once it has been so much too often, a connection is eager no more.
const MISS: u8 = 2;
const IN_VAIN_MAX: u8 = 16;

/// What is known of an eager connection.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Eager {
    /// The last look was in vain, so a poll waits before the next one.
    missed: bool,
    /// How much more often it has looked in vain than not.
    in_vain: u8,
}

/// Looks of a turn are to bring about so much, and what they bring at a time is what it was before. What is received and its
/// answers should be in the cache until they are sent.
const LOOK_BYTES: u64 = 256 * 1024;

/// How many look in a turn at least, however much they bring.
const LOOKS_MIN: u64 = 4;

/// Receives that brought something, and how many bytes together.
#[derive(Clone, Copy, Default)]
struct Received {
    receives: u32,
    bytes: u64,
}

/// How crowded the turns are, and who is about to look.
#[derive(Default)]
pub(super) struct Looks {
    /// Of this turn.
    now: Received,
    /// Of the one before.
    before: Received,
    /// Eager connections that are about to look: slot and generation. Void if that connection is not eager and
    /// [`Receiving::Queued`].
    queue: VecDeque<(u32, u32)>,
}

impl Looks {
    pub(super) fn begin_turn(&mut self) {
        self.before = std::mem::take(&mut self.now);
    }

    /// How many may look in a turn if there are so many buffers. Half of them are for those who wait.
    fn max(&self, buffers: usize) -> usize {
        let Received { receives, bytes } = self.before;
        let average = bytes / u64::from(receives.max(1));
        let looks = (LOOK_BYTES / average.max(1)).max(LOOKS_MIN);
        buffers.div_ceil(2).min(looks as usize)
    }

    /// Whether somebody is to look in the next turn.
    pub(super) fn is_waiting(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Lets a connection look when its turn comes.
    pub(super) fn enqueue(&mut self, who: (u32, u32)) {
        self.queue.push_back(who);
    }

    /// Notes that a receive into shared buffers brought so many bytes.
    pub(super) fn note(&mut self, link: &mut RingLink, bytes: usize) {
        self.now.receives += 1;
        self.now.bytes += bytes as u64;
        match &mut link.pace {
            Pace::Patient { crowded } if self.before.receives >= CROWD_MIN => {
                let weight = u16::try_from(1 + bytes / CROWDED_BYTES).unwrap_or(u16::MAX);
                *crowded = crowded.saturating_add(weight);
                if u32::from(*crowded) >= CROWDED_RECEIVES_MIN << link.patience {
                    link.pace = Pace::Eager(Eager::default());
                }
            }
            Pace::Patient { crowded } => *crowded = 0,
            Pace::Eager(eager) => {
                if !std::mem::take(&mut eager.missed) {
                    eager.in_vain = eager.in_vain.saturating_sub(1);
                }
            }
            Pace::Bulky(_) => {}
        }
    }
}

impl Engine<'_> {
    /// Goes on with an eager connection: it looks, or waits if it has just looked.
    pub(super) fn arm_eager(&mut self, slot: u32, generation: u32) -> io::Result<()> {
        let Some(link) = self.shard.link(slot) else {
            return Ok(());
        };
        let missed = matches!(link.pace, Pace::Eager(eager) if eager.missed);
        if missed {
            return self.arm_readable(slot, generation, false);
        }
        link.receiving = Receiving::Queued;
        self.looks.enqueue((slot, generation));
        Ok(())
    }

    /// Lets some look.
    pub(super) fn look(&mut self) -> io::Result<()> {
        let buffers = self.buffers.entries() - self.buffers.leased();
        for _ in 0..self.looks.max(buffers) {
            let Some((slot, generation)) = self.looks.queue.pop_front() else {
                break;
            };
            let waits = |link: &RingLink| {
                link.receiving == Receiving::Queued && matches!(link.pace, Pace::Eager(_))
            };
            if self.may_begin(slot, generation, waits) {
                self.shard.desk.counters().engine.looks.add(1);
                self.look_at(slot, generation)?;
            }
        }
        Ok(())
    }

    fn look_at(&mut self, slot: u32, generation: u32) -> io::Result<()> {
        let Some(link) = self.shard.link(slot) else {
            return Ok(());
        };
        let Some((buffer, target, length)) = self.buffers.take_aside() else {
            // Services keep parts of all of them.
            return self.arm_receive(slot, generation, Shots::Now);
        };
        debug_assert!(!link.receive_in_flight(), "one receive a connection");
        link.begin(&self.files, self.queue.submitter(), slot);
        let file = link.file(slot);
        let look = opcode::Recv::new(file.fd, target, u32::try_from(length).unwrap_or(u32::MAX))
            .flags(libc::MSG_DONTWAIT)
            .build()
            .flags(file.flags)
            .user_data(Operation::new(Kind::Look, generation, slot).pack());
        link.receiving = Receiving::Look(buffer);
        // SAFETY: the buffer belongs to the receive until it completes, and lives as long as the engine; see there for what
        // happens when it never does.
        #[expect(unsafe_code, reason = "submitting an operation")]
        unsafe {
            self.queue.push(&look)
        }
    }

    /// A look is over.
    pub(super) fn looked(&mut self, operation: Operation, completion: &Completion) {
        let Some(link) = self
            .shard
            .expected_link(operation.slot, operation.generation)
        else {
            return;
        };
        let Receiving::Look(buffer) = link.receiving else {
            debug_assert!(false, "a look completes once");
            return;
        };
        link.receiving = Receiving::No;
        self.shard.touch(operation.slot);
        match usize::try_from(completion.result) {
            Ok(length @ 1..) => self.use_up(operation, buffer, length),
            _ => self.buffers.give_back(buffer, false),
        }
        self.conclude_receive(operation, completion.result);
    }

    /// There was nothing to receive.
    pub(super) fn missed(&mut self, slot: u32) {
        if self.shard.link(slot).is_some_and(note_miss) {
            self.shard.desk.counters().engine.looks_in_vain.add(1);
        }
    }
}

/// Notes that there was nothing to receive. Returns whether that was a look in vain: one behind a poll finds nothing where urgent
/// data was.
fn note_miss(link: &mut RingLink) -> bool {
    let Pace::Eager(eager) = &mut link.pace else {
        return false;
    };
    if std::mem::replace(&mut eager.missed, true) {
        return false;
    }
    eager.in_vain += MISS;
    if eager.in_vain >= IN_VAIN_MAX {
        link.pace = Pace::default();
        link.patience = (link.patience + 1).min(PATIENCE_MAX);
    }
    true
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::peer::Link;

    const CROWDED_RECEIVES_MAX: u32 = CROWDED_RECEIVES_MIN << PATIENCE_MAX;

    fn link() -> RingLink {
        RingLink::new(UnixStream::pair().unwrap().0.into())
    }

    fn is_eager(link: &RingLink) -> bool {
        matches!(link.pace, Pace::Eager(_))
    }

    /// The turns, in which so many connections receive so much, until this one is eager.
    fn turns_until_eager(
        looks: &mut Looks,
        link: &mut RingLink,
        others: u32,
        bytes: usize,
    ) -> Option<u32> {
        (0..2 * CROWDED_RECEIVES_MAX).find(|_| {
            looks.begin_turn();
            let mut other = link_like_it();
            (0..others).for_each(|_| looks.note(&mut other, bytes));
            looks.note(link, bytes);
            is_eager(link)
        })
    }

    fn link_like_it() -> RingLink {
        let mut link = link();
        link.patience = u8::try_from(u16::MAX.ilog2()).unwrap();
        link
    }

    #[test]
    fn a_connection_is_eager_after_crowded_turns_only() {
        let (mut looks, mut link) = (Looks::default(), link());
        let few = CROWD_MIN - 2;
        assert_eq!(turns_until_eager(&mut looks, &mut link, few, 30), None);
        let turns = turns_until_eager(&mut looks, &mut link, few + 1, 30);
        // The first one comes behind one that was not crowded.
        assert_eq!(turns, Some(CROWDED_RECEIVES_MIN));
    }

    #[test]
    fn it_takes_longer_each_time_that_looks_were_in_vain() {
        let (mut looks, mut link) = (Looks::default(), link());
        let mut all = Vec::new();
        for _ in 0..12 {
            all.push(turns_until_eager(&mut looks, &mut link, CROWD_MIN, 30).unwrap());
            let mut misses = 0;
            while is_eager(&link) {
                // The look behind the poll finds nothing either, then something.
                assert!(note_miss(&mut link));
                misses += 1;
                if is_eager(&link) {
                    assert!(!note_miss(&mut link));
                    looks.note(&mut link, 30);
                }
            }
            assert_eq!(misses, IN_VAIN_MAX / MISS);
        }
        assert_eq!(all[..4], [8, 15, 31, 63]);
        assert_eq!(all[10..], [CROWDED_RECEIVES_MAX - 1; 2]);
    }

    #[test]
    fn the_more_it_brings_the_sooner_it_is_eager() {
        for (bytes, expected) in [(1023, 8), (1024, 4), (4096, 2), (16_384, 1), (1 << 30, 1)] {
            let (mut looks, mut link) = (Looks::default(), link());
            // The first one comes behind one that was not crowded.
            let turns = turns_until_eager(&mut looks, &mut link, CROWD_MIN, bytes);
            assert_eq!(turns, Some(expected), "{bytes} bytes");
        }
    }

    #[test]
    fn as_many_look_as_the_cache_and_the_buffers_allow() {
        let mut looks = Looks::default();
        assert_eq!(looks.max(64), 32, "nothing is known");
        for (bytes, buffers, max) in [
            (30, 64, 32),
            (30, 1, 1),
            (16_384, 64, 16),
            (16_384, 20, 10),
            (65_536, 1024, 4),
            (1_000_000, 64, 4),
        ] {
            let mut link = link();
            (0..20).for_each(|_| looks.note(&mut link, bytes));
            looks.begin_turn();
            assert_eq!(looks.max(buffers), max, "{bytes} bytes, {buffers} buffers");
        }
    }

    #[test]
    fn looks_that_find_something_make_up_for_others() {
        let (mut looks, mut link) = (Looks::default(), link());
        turns_until_eager(&mut looks, &mut link, CROWD_MIN, 30);
        for _ in 0..100 {
            note_miss(&mut link);
            // The look behind the poll, and two more.
            (0..3).for_each(|_| looks.note(&mut link, 30));
            assert!(is_eager(&link));
        }
    }
}
