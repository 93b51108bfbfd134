//! What waits to be written to one connection.
//!
//! Replies are appended to a growing *tail*. When the engine begins a send, the tail is *sealed*: from then until
//! the send has completed, no byte of a sealed segment moves or changes, so that the kernel may read it. New replies
//! go into a new tail meanwhile. Shared bytes are queued as segments of their own and never copied, unless they are
//! so small that a copy is cheaper than a reference.

use bytes::Bytes;

use crate::pool::{BUFFER_BYTES_MAX, Pools};

mod queue;

use self::queue::TAIL_SMALL_BYTES_MAX;
pub(crate) use self::queue::{Queue, Segment};

/// Shared bytes up to this length are copied into the tail: below it a copy costs less than another segment.
const COPY_BYTES_MAX: usize = 512;

/// A tail of more than this is sealed, so that what is queued is a chain of buffers that can be used again rather than one
/// that is copied as it grows.
const TAIL_BYTES_MAX: usize = BUFFER_BYTES_MAX / 2;

/// How many segments one send takes at most. The kernel's limit is 1024 (`UIO_MAXIOV`); beyond a few dozen the cost
/// per segment dominates.
pub(crate) const SEND_SEGMENTS_MAX: usize = 64;

/// The bytes queued for one connection, in order. Empty and without memory while nothing is queued.
#[derive(Default)]
pub(crate) struct Outbox {
    /// `None` when nothing is queued.
    queue: Option<Box<Queue>>,
}

impl Outbox {
    /// Bytes that are queued and not known to be sent.
    pub(crate) fn len(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.len)
    }

    /// How many of them were pushed by others, at most: pushes that were sent may count as long as so much else is queued.
    pub(crate) fn pushed(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.pushed)
    }

    /// Bytes that it makes the process hold: those, and what was sent of a segment that is not sent as a whole. The buffers that
    /// they are in take at most as much again, and a few times [`BUFFER_BYTES_MAX`].
    pub(crate) fn held(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.held())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.as_ref().is_none_or(|queue| queue.is_empty())
    }

    /// Whether a send is under way.
    pub(crate) fn is_flying(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.flying)
    }

    /// Lets `write` append to the tail. If it panics, the tail is as it was before.
    #[inline]
    pub(crate) fn write<R>(
        &mut self,
        pools: &mut Pools,
        write: impl FnOnce(&mut Vec<u8>) -> R,
    ) -> R {
        let queue = self.queue.get_or_insert_with(|| pools.queue_with_buffer());
        let before = queue.tail.len();
        if before > TAIL_SMALL_BYTES_MAX && queue.tail.capacity() < BUFFER_BYTES_MAX {
            queue.make_room(0);
        }
        let mut guard = TailGuard {
            queue,
            before,
            done: false,
        };
        let result = write(&mut guard.queue.tail);
        guard.done = true;
        drop(guard);
        if queue.tail.len() > TAIL_BYTES_MAX {
            queue.seal(pools);
        } else if queue.len == 0 {
            self.release_if_empty(pools);
        }
        result
    }

    /// Appends to the tail: the first `length` bytes of `head`, then `body`. As [`Outbox::write`], and cheaper, since nothing
    /// of it can panic halfway.
    #[inline]
    pub(crate) fn append(&mut self, pools: &mut Pools, head: [u8; 8], length: usize, body: &[u8]) {
        if length == 0 && body.is_empty() {
            return;
        }
        let queue = self.queue.get_or_insert_with(|| pools.queue_with_buffer());
        let needed = head.len() + body.len();
        if queue.tail.capacity() - queue.tail.len() < needed {
            queue.make_room(needed);
        }
        let start = queue.tail.len();
        // All eight bytes in one store; the rest of them is taken back.
        queue.tail.extend_from_slice(&head);
        queue.tail.truncate(start + length);
        queue.tail.extend_from_slice(body);
        queue.len += queue.tail.len() - start;
        if queue.tail.len() > TAIL_BYTES_MAX {
            queue.seal(pools);
        }
    }

    /// Queues bytes that were pushed, and that others may be given, too, as [`Outbox::share`] does.
    pub(crate) fn push(&mut self, pools: &mut Pools, bytes: &Bytes) {
        if bytes.len() <= COPY_BYTES_MAX {
            self.write(pools, |tail| tail.extend_from_slice(bytes));
        } else {
            self.share(pools, bytes.clone());
        }
        if let Some(queue) = &mut self.queue {
            queue.pushed += bytes.len();
        }
    }

    /// Queues shared bytes behind everything that was written before.
    pub(crate) fn share(&mut self, pools: &mut Pools, bytes: Bytes) {
        if bytes.len() <= COPY_BYTES_MAX {
            self.write(pools, |tail| tail.extend_from_slice(&bytes));
            return;
        }
        let queue = self.queue.get_or_insert_with(|| pools.queue());
        queue.seal(pools);
        queue.len += bytes.len();
        queue.sealed.push_back(Segment::Shared(bytes));
    }

    /// Begins a send: the slices to write, in order, at most [`SEND_SEGMENTS_MAX`]. They neither move nor change
    /// until [`Outbox::sent`] is called, which must happen exactly once.
    pub(crate) fn begin(&mut self, pools: &mut Pools) -> impl ExactSizeIterator<Item = &[u8]> {
        let queue = self.queue.get_or_insert_with(|| pools.queue());
        debug_assert!(!queue.flying, "one send at a time");
        debug_assert!(queue.len > 0, "a send needs bytes");
        queue.seal(pools);
        queue.flying = true;
        let offset = queue.offset;
        let count = queue.sealed.len().min(SEND_SEGMENTS_MAX);
        queue
            .sealed
            .iter()
            .take(count)
            .enumerate()
            .map(move |(i, segment)| {
                let bytes = segment.as_slice();
                if i == 0 { &bytes[offset..] } else { bytes }
            })
    }

    /// Takes everything out if it is one piece, none of which was sent, and leaves the outbox empty.
    pub(crate) fn take_piece(&mut self, pools: &mut Pools) -> Option<Segment> {
        let queue = self.queue.as_mut()?;
        if queue.flying || queue.offset > 0 {
            return None;
        }
        let piece = match (queue.sealed.len(), queue.tail.is_empty()) {
            (0, false) => Segment::Owned(std::mem::take(&mut queue.tail)),
            (1, true) => queue.pop_sealed()?,
            _ => return None,
        };
        queue.len = 0;
        queue.pushed = 0;
        self.release_if_empty(pools);
        Some(piece)
    }

    /// Puts back what [`Outbox::take_piece`] took, before everything that was queued since; the first `sent` bytes of it
    /// were sent. Nobody knows any more how many of them were pushed, so none counts.
    pub(crate) fn put_back(&mut self, pools: &mut Pools, piece: Segment, sent: usize) {
        debug_assert!(sent < piece.len());
        let queue = self.queue.get_or_insert_with(|| pools.queue());
        debug_assert!(!queue.flying && queue.offset == 0, "nothing overtook it");
        queue.len += piece.len() - sent;
        queue.offset = sent;
        queue.slack += piece.slack();
        queue.sealed.push_front(piece);
    }

    /// Ends the send that [`Outbox::begin`] began: the first `bytes` bytes were taken by the kernel.
    pub(crate) fn sent(&mut self, pools: &mut Pools, mut bytes: usize) {
        let Some(queue) = self.queue.as_mut() else {
            debug_assert!(false, "a send without a queue");
            return;
        };
        debug_assert!(queue.flying && bytes <= queue.len);
        queue.flying = false;
        queue.len -= bytes;
        queue.pushed = queue.pushed.min(queue.len);
        while let Some(segment) = queue.sealed.front() {
            let left = segment.as_slice().len() - queue.offset;
            if bytes < left {
                queue.offset += bytes;
                break;
            }
            bytes -= left;
            queue.offset = 0;
            if let Some(segment) = queue.pop_sealed() {
                pools.give_segment(segment);
            }
        }
        self.release_if_empty(pools);
    }

    /// Forgets everything that is queued. Not while a send is under way, since the kernel may still read it.
    pub(crate) fn clear(&mut self, pools: &mut Pools) {
        if let Some(mut queue) = self.queue.take_if(|queue| !queue.flying) {
            queue.sealed.clear();
            queue.offset = 0;
            queue.slack = 0;
            queue.len = 0;
            queue.pushed = 0;
            pools.give_buffer(std::mem::take(&mut queue.tail));
            pools.give_queue(queue);
        }
    }

    /// Takes everything out that is queued. Not while a send is under way.
    pub(crate) fn take_all(&mut self, pools: &mut Pools) -> Vec<u8> {
        let mut all = Vec::new();
        if let Some(queue) = &self.queue
            && !queue.flying
        {
            all.reserve_exact(queue.len);
            for segment in &queue.sealed {
                all.extend_from_slice(segment.as_slice());
            }
            all.drain(..queue.offset);
            all.extend_from_slice(&queue.tail);
            self.clear(pools);
        }
        all
    }

    /// Queues shared bytes before everything that is queued by now. Not while a send is under way.
    pub(crate) fn put_before(&mut self, pools: &mut Pools, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        let queue = self.queue.get_or_insert_with(|| pools.queue());
        debug_assert!(
            !queue.flying && queue.offset == 0,
            "nothing of it was sent yet"
        );
        queue.len += bytes.len();
        queue.sealed.push_front(Segment::Shared(bytes));
    }

    fn release_if_empty(&mut self, pools: &mut Pools) {
        if let Some(mut queue) = self.queue.take_if(|queue| queue.is_empty()) {
            pools.give_buffer(std::mem::take(&mut queue.tail));
            pools.give_queue(queue);
        }
    }
}

/// Keeps `len` in step with the tail, and takes back what a panicking writer left.
struct TailGuard<'a> {
    queue: &'a mut Queue,
    /// Length of the tail before the writer ran.
    before: usize,
    done: bool,
}

impl Drop for TailGuard<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.queue.tail.truncate(self.before);
        }
        self.queue.len = self.queue.len - self.before + self.queue.tail.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(outbox: &mut Outbox, pools: &mut Pools) -> Vec<u8> {
        outbox.begin(pools).flatten().copied().collect()
    }

    #[test]
    fn keeps_the_order_of_written_and_shared_bytes_over_short_sends() {
        let mut pools = Pools::default();
        let mut outbox = Outbox::default();
        let large = Bytes::from(vec![b'L'; COPY_BYTES_MAX + 1]);
        outbox.write(&mut pools, |tail| tail.extend_from_slice(b"one"));
        outbox.share(&mut pools, Bytes::from_static(b"two"));
        outbox.share(&mut pools, large.clone());
        outbox.write(&mut pools, |tail| tail.extend_from_slice(b"three"));
        let mut expected = b"onetwo".to_vec();
        expected.extend_from_slice(&large);
        expected.extend_from_slice(b"three");
        assert_eq!(outbox.len(), expected.len());

        let mut received = Vec::new();
        let mut step = 1;
        while !outbox.is_empty() {
            let slices = collect(&mut outbox, &mut pools);
            assert_eq!(slices, expected[received.len()..]);
            let taken = step.min(slices.len());
            received.extend_from_slice(&slices[..taken]);
            outbox.sent(&mut pools, taken);
            step += 1;
        }
        assert_eq!(received, expected);
        assert_eq!(outbox.len(), 0);
    }

    #[test]
    fn writes_during_a_send_do_not_touch_what_is_being_sent() {
        let mut pools = Pools::default();
        let mut outbox = Outbox::default();
        outbox.write(&mut pools, |tail| tail.extend_from_slice(b"first"));
        let flying: Vec<*const u8> = outbox.begin(&mut pools).map(<[u8]>::as_ptr).collect();
        for _ in 0..1000 {
            outbox.write(&mut pools, |tail| tail.extend_from_slice(b"second"));
            outbox.share(&mut pools, Bytes::from(vec![0; 4096]));
        }
        outbox.clear(&mut pools);
        assert_eq!(
            outbox.len(),
            5 + 1000 * (6 + 4096),
            "nothing is cleared while a send is under way"
        );
        outbox.sent(&mut pools, 2);
        let again: Vec<*const u8> = outbox.begin(&mut pools).map(<[u8]>::as_ptr).collect();
        assert_eq!(again[0], flying[0].wrapping_add(2));
        assert_eq!(again.len(), SEND_SEGMENTS_MAX);
        outbox.sent(&mut pools, 0);
        outbox.clear(&mut pools);
        assert!(outbox.is_empty());
    }

    #[test]
    fn a_panicking_writer_leaves_nothing_behind() {
        let mut pools = Pools::default();
        let mut outbox = Outbox::default();
        outbox.write(&mut pools, |tail| tail.extend_from_slice(b"kept"));
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            outbox.write(&mut pools, |tail| {
                tail.extend_from_slice(b"lost");
                panic!("on purpose");
            })
        }));
        assert!(panicked.is_err());
        assert_eq!(collect(&mut outbox, &mut pools), b"kept");
        assert_eq!(outbox.len(), 4);
    }

    #[test]
    fn everything_can_be_taken_out_and_put_back() {
        let mut pools = Pools::default();
        let mut outbox = Outbox::default();
        outbox.write(&mut pools, |tail| tail.extend_from_slice(b"abc"));
        outbox.share(&mut pools, Bytes::from(vec![b'd'; 1000]));
        outbox.write(&mut pools, |tail| tail.extend_from_slice(b"e"));
        assert_eq!(collect(&mut outbox, &mut pools).len(), 1004);
        outbox.sent(&mut pools, 2);
        let all = outbox.take_all(&mut pools);
        assert_eq!(all, [b"c", &[b'd'; 1000][..], b"e"].concat());
        assert!(outbox.is_empty());
        outbox.write(&mut pools, |tail| tail.extend_from_slice(b"new"));
        outbox.put_before(&mut pools, Bytes::from_static(b"old"));
        assert_eq!(collect(&mut outbox, &mut pools), b"oldnew");
        assert_eq!(outbox.len(), 6);
    }

    #[test]
    fn what_was_pushed_counts_until_less_is_left_or_nothing() {
        let mut pools = Pools::default();
        let mut outbox = Outbox::default();
        outbox.write(&mut pools, |tail| tail.extend_from_slice(&[1; 100]));
        outbox.push(&mut pools, &Bytes::from(vec![2; 600]));
        outbox.push(&mut pools, &Bytes::from(vec![2; 10]));
        outbox.share(&mut pools, Bytes::from(vec![3; 700]));
        assert_eq!(outbox.pushed(), 610);
        collect(&mut outbox, &mut pools);
        outbox.sent(&mut pools, 700);
        assert_eq!((outbox.len(), outbox.pushed()), (710, 610), "as is known");
        collect(&mut outbox, &mut pools);
        outbox.sent(&mut pools, 300);
        assert_eq!((outbox.len(), outbox.pushed()), (410, 410));
        collect(&mut outbox, &mut pools);
        outbox.sent(&mut pools, 410);
        outbox.write(&mut pools, |tail| tail.push(1));
        assert_eq!((outbox.len(), outbox.pushed()), (1, 0));
        outbox.push(&mut pools, &Bytes::from(vec![2; 9]));
        let piece = outbox.take_piece(&mut pools).unwrap();
        outbox.push(&mut pools, &Bytes::from(vec![2; 8]));
        assert_eq!(outbox.pushed(), 8);
        outbox.put_back(&mut pools, piece, 1);
        assert_eq!((outbox.len(), outbox.pushed()), (17, 8));
        outbox.take_all(&mut pools);
        outbox.write(&mut pools, |tail| tail.push(1));
        assert_eq!(outbox.pushed(), 0);
    }

    #[test]
    fn what_was_taken_goes_back_before_what_was_queued_since() {
        let mut pools = Pools::default();
        let mut outbox = Outbox::default();
        assert_eq!(outbox.take_piece(&mut pools), None);
        outbox.write(&mut pools, |tail| tail.extend_from_slice(b"first"));
        let first = outbox.take_piece(&mut pools).unwrap();
        assert_eq!(first, Segment::Owned(b"first".to_vec()));
        assert!(outbox.is_empty());
        outbox.write(&mut pools, |tail| tail.extend_from_slice(b"second"));
        outbox.share(&mut pools, Bytes::from(vec![b'3'; 600]));
        outbox.put_back(&mut pools, first, 2);
        assert_eq!((outbox.len(), outbox.held()), (3 + 6 + 600, 5 + 6 + 600));
        assert_eq!(outbox.take_piece(&mut pools), None, "it is several pieces");
        let all = [b"rstsecond", &[b'3'; 600][..]].concat();
        assert_eq!(collect(&mut outbox, &mut pools), all);
        assert_eq!(outbox.take_piece(&mut pools), None, "a send is under way");
        outbox.sent(&mut pools, 4);
        assert_eq!(outbox.take_all(&mut pools), all[4..]);
    }

    #[test]
    fn one_shared_piece_is_taken_as_it_is() {
        let mut pools = Pools::default();
        let mut outbox = Outbox::default();
        let shared = Bytes::from(vec![b's'; COPY_BYTES_MAX + 1]);
        outbox.push(&mut pools, &shared);
        let taken = outbox.take_piece(&mut pools).unwrap();
        assert_eq!(taken, Segment::Shared(shared.clone()));
        assert_eq!(taken.as_slice().as_ptr(), shared.as_ptr());
        assert!(outbox.is_empty());
        outbox.put_back(&mut pools, taken, 1);
        assert_eq!(outbox.len(), COPY_BYTES_MAX);
        assert_eq!(outbox.take_piece(&mut pools), None, "a part of it was sent");
        assert_eq!(outbox.take_all(&mut pools), shared[1..]);
        outbox.push(&mut pools, &shared);
        outbox.push(&mut pools, &shared);
        assert_eq!(outbox.take_piece(&mut pools), None, "they are two");
        assert_eq!(outbox.take_all(&mut pools), shared.repeat(2));
    }

    #[test]
    fn what_is_written_in_bits_is_a_chain_of_buffers_that_can_be_used_again() {
        let mut pools = Pools::default();
        let mut outbox = Outbox::default();
        let mut expected = Vec::new();
        for number in 0..500u32 {
            let bytes = [number as u8; 1000];
            expected.extend_from_slice(&bytes);
            outbox.write(&mut pools, |tail| tail.extend_from_slice(&bytes));
        }
        assert_eq!(collect(&mut outbox, &mut pools), expected);
        outbox.sent(&mut pools, expected.len());
        assert!(outbox.is_empty());
        let kept: Vec<usize> = (0..20).map(|_| pools.buffer().capacity()).collect();
        let whole = kept.iter().filter(|kept| **kept == BUFFER_BYTES_MAX);
        assert!(
            whole.count() >= expected.len() / BUFFER_BYTES_MAX,
            "{kept:?}"
        );
    }

    #[test]
    fn what_is_appended_is_what_would_be_written() {
        let mut pools = Pools::default();
        let mut outbox = Outbox::default();
        let mut expected = Vec::new();
        for number in 0..3000_usize {
            let head = (number as u64).to_le_bytes();
            let body = vec![number as u8; number % 700];
            outbox.append(&mut pools, head, number % 9, &body);
            expected.extend_from_slice(&head[..number % 9]);
            expected.extend_from_slice(&body);
            assert_eq!(outbox.len(), expected.len());
        }
        outbox.append(&mut pools, [9; 8], 8, &[1; 200_000]);
        expected.extend([9; 8]);
        expected.extend([1; 200_000]);
        assert_eq!(outbox.take_all(&mut pools), expected);
    }

    #[test]
    fn an_empty_write_queues_nothing() {
        let mut pools = Pools::default();
        let mut outbox = Outbox::default();
        outbox.write(&mut pools, |_| ());
        assert!(outbox.is_empty());
        outbox.append(&mut pools, [1; 8], 0, &[]);
        assert!(outbox.is_empty());
    }
}
