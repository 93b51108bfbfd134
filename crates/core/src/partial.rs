//! Input that could not be handed to the service yet.

use bytes::{Buf, BytesMut};
use ringhold_framer::Parked;

use crate::connection::LARGE_FRAME_BYTES_MIN;
use crate::pool::{BUFFER_BYTES_MAX, Pools};

/// Whatever the header of a large frame announced, memory follows what has arrived: room is made for so many times that, or
/// for as much as an ordinary buffer has.
const GROWTH_FACTOR: usize = 16;

/// Making room means copying, so it is to happen rarely: not while there is room for so many bytes, or for a quarter of what
/// would be made.
const ROOM_BYTES_MIN: usize = 256 * 1024;

/// Less memory than this, of bytes that were dispatched before those that are left, is not worth making free.
const SPENT_BYTES_MIN: usize = 4 * 1024;

/// The received bytes of one connection that no service call has consumed: the beginning of a frame whose end has
/// not arrived, or whole frames that wait because dispatch is paused.
///
/// `bytes` begins at a frame boundary. Its first `scanned` bytes were seen by the framer, whose state behind them is
/// `parked`; they hold no end of a frame. `scanned` is 0 exactly when `parked` is `None`.
#[derive(Default)]
pub(crate) struct Partial {
    pub(crate) bytes: BytesMut,
    pub(crate) scanned: usize,
    pub(crate) parked: Option<Parked>,
    /// At least so many bytes are still missing from the frame, as far as is known; only where all was scanned.
    pub(crate) missing: usize,
    /// How many bytes were dispatched before those in `bytes`. They may still take memory, which nothing shows.
    spent: usize,
    /// So much of the memory of `bytes` was in use before, as that of a large frame.
    used_before: usize,
}

impl Partial {
    /// Whether there are bytes that the framer has not seen.
    pub(crate) fn is_backlog(&self) -> bool {
        self.scanned < self.bytes.len()
    }

    /// Bytes of memory that the peer makes the process hold here: what has arrived, and what the rest of the frame is to be
    /// received into, where that was in use before. Other room that was made because of a header was never touched: if it
    /// counted, whoever announces much and sends nothing would be taken for the holder of it. A buffer of at most
    /// [`BUFFER_BYTES_MAX`] may be one of an earlier user's.
    pub(crate) fn held(&self) -> usize {
        let length = self.bytes.len();
        let resident = self.used_before.min(length + self.missing);
        length.max(resident)
    }

    /// Makes room for `more` bytes that have arrived and for what comes behind them if `missing` bytes do, or for the
    /// beginning of it. It is made when there is none to speak of.
    pub(crate) fn make_room(&mut self, more: usize, missing: usize, pools: &mut Pools) {
        let (length, capacity) = (self.bytes.len() + more, self.bytes.capacity());
        let ahead = if missing < LARGE_FRAME_BYTES_MIN {
            missing
        } else {
            let ordinary = BUFFER_BYTES_MAX.saturating_sub(length);
            missing.min(ordinary.max(GROWTH_FACTOR * length))
        };
        let enough = if ahead == missing { ahead } else { ahead / 4 };
        if capacity >= length + enough.min(ROOM_BYTES_MIN) {
            return;
        }
        if length + ahead <= BUFFER_BYTES_MAX {
            self.bytes.reserve(more + ahead);
            return;
        }
        let (mut large, used_before) = pools.large(length + ahead);
        large.extend_from_slice(&self.bytes);
        pools.give_large(std::mem::replace(&mut self.bytes, large));
        self.used_before = used_before;
        self.spent = 0;
    }

    /// Moves what is left to memory of its size, if more than that was dispatched before it: a connection may rest with the
    /// beginning of a frame, and is not to keep the memory of a whole backlog for it. Never more is copied than was
    /// dispatched since the last time.
    pub(crate) fn without_spent(mut self: Box<Self>, pools: &mut Pools) -> Box<Self> {
        let left = self.bytes.len();
        if self.spent < left.max(SPENT_BYTES_MIN) {
            return self;
        }
        let mut fresh = pools.partial();
        if fresh.bytes.capacity() > 2 * left.max(SPENT_BYTES_MIN) {
            pools.give_partial(fresh);
            fresh = Box::default();
        }
        fresh.make_room(left, self.missing, pools);
        fresh.bytes.extend_from_slice(&self.bytes);
        fresh.consume(0, self.scanned, self.parked.take(), self.missing);
        pools.give_partial(self);
        fresh
    }

    /// Notes what the `Remainder` of a host says of the bytes, after the first `used` of them were dispatched.
    pub(crate) fn consume(
        &mut self,
        used: usize,
        scanned: usize,
        parked: Option<Parked>,
        missing: usize,
    ) {
        debug_assert_eq!(scanned == 0, parked.is_none());
        self.bytes.advance(used);
        self.spent += used;
        self.scanned = scanned;
        self.parked = parked;
        self.missing = missing;
    }

    /// Empties it for the next connection, keeping its memory if that is at most `capacity_max` bytes.
    pub(crate) fn reset(&mut self, capacity_max: usize) {
        self.scanned = 0;
        self.parked = None;
        self.missing = 0;
        self.spent = 0;
        self.used_before = 0;
        self.bytes.clear();
        // An advanced buffer hides what lies before its beginning until it is asked for more than it shows.
        let _ = self.bytes.try_reclaim(self.bytes.capacity() + 1);
        if self.bytes.capacity() > capacity_max {
            self.bytes = BytesMut::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_follows_what_arrives_and_is_copied_rarely() {
        for piece in [1, 1_448, 65_536] {
            let (mut pools, mut partial) = (Pools::default(), Partial::default());
            let (mut missing, mut capacities) = (3_000_000, Vec::new());
            partial.make_room(5, missing, &mut pools);
            partial.bytes.extend_from_slice(&[0; 5]);
            while missing > 0 {
                partial.make_room(0, missing, &mut pools);
                let (length, capacity) = (partial.bytes.len(), partial.bytes.capacity());
                assert!(capacity <= BUFFER_BYTES_MAX.max(17 * length), "{length}");
                capacities.push(capacity);
                let arrived = piece.min(missing).min(capacity - length);
                assert!(arrived > 0);
                partial.bytes.extend_from_slice(&vec![1; arrived]);
                missing -= arrived;
            }
            capacities.dedup();
            assert!(capacities.len() <= 6, "{capacities:?}");
            assert_eq!(partial.bytes.len(), 3_000_005);
        }
    }

    #[test]
    fn what_an_advanced_buffer_hides_counts_when_it_is_kept() {
        for (capacity, capacity_max) in [
            (1000, 2000),
            (1000, 1000),
            (1000, 999),
            (1000, 10),
            (1000, 0),
        ] {
            let mut partial = Partial::default();
            partial.bytes.reserve(capacity);
            partial.bytes.extend_from_slice(&[0; 990]);
            partial.consume(980, 0, None, 0);
            partial.reset(capacity_max);
            let kept = partial.bytes.capacity();
            if capacity_max >= capacity {
                assert!(kept >= capacity, "{kept} bytes are seen of {capacity}");
            } else {
                assert_eq!(kept, 0, "more than {capacity_max} were kept");
                assert!(partial.bytes.is_empty());
            }
        }
    }

    #[test]
    fn what_is_left_moves_to_memory_of_its_size() {
        let mut pools = Pools::default();
        let mut shelved = pools.partial();
        shelved.bytes.reserve(BUFFER_BYTES_MAX);
        pools.give_partial(shelved);

        let bytes: Vec<u8> = (0..50_000).map(|i| (i % 251) as u8).collect();
        let mut partial = Box::<Partial>::default();
        partial.bytes.extend_from_slice(&bytes);
        // How much is dispatched by then, and how much memory may be kept.
        for (used, capacity_max) in [
            (20_000, 50_000),
            (24_999, 50_000),
            (25_000, 50_000),
            (45_000, 10_000),
            (49_000, 10_000),
            (49_999, 8_192),
        ] {
            let before = bytes.len() - partial.bytes.len();
            partial.consume(used - before, 0, None, 0);
            partial = partial.without_spent(&mut pools);
            assert_eq!(partial.bytes, bytes[used..]);
            let left = partial.bytes.len();
            assert!(partial.spent < left.max(SPENT_BYTES_MIN));
            // The buffer hides what was dispatched before.
            let memory = partial.bytes.capacity() + partial.spent;
            assert!(memory <= capacity_max, "{memory} bytes for {left}");
        }
    }

    #[test]
    fn a_little_is_not_moved() {
        let mut pools = Pools::default();
        let mut partial = Box::<Partial>::default();
        partial.bytes.extend_from_slice(&[7; SPENT_BYTES_MIN]);
        partial.consume(SPENT_BYTES_MIN - 1, 0, None, 0);
        let place = partial.bytes.as_ptr();
        partial = partial.without_spent(&mut pools);
        assert_eq!(partial.bytes.as_ptr(), place);
    }
}
