//! Memory that one worker uses again and again.
//!
//! What is given back lies on a shelf for the next one who needs it. What nobody has needed for a while leaves the shelf
//! bit by bit, so that a burst of traffic does not keep its memory for good.

use bytes::{Bytes, BytesMut};

use crate::outbox::{Queue, Segment};
use crate::partial::Partial;
use crate::tickets::Promises;

/// An ordinary buffer is not larger than this; what has grown beyond is given back to the allocator.
pub(crate) const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// The same for the buffers of large frames.
const LARGE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// What one shelf holds at most.
const SHELF_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What one shelf may hold for good.
const REST_BYTES_MAX: usize = 512 * 1024;
/// What a reply buffer begins with, and what is kept of them has at least. Growing to it would take half a dozen steps.
const BUFFER_BYTES_MIN: usize = 1024;
/// How often a shelf that holds more than that gives up half of what nobody needed meanwhile.
const PERIOD_MS: u64 = 1_000;
/// How many sets of tickets are kept.
const KEPT_BOXES_MAX: usize = 256;
/// A queue with room for more segments than this is given back to the allocator.
const KEPT_SEGMENTS_MAX: usize = 64;
/// What had room for more open tickets than this is given back to the allocator.
const KEPT_TICKETS_MAX: usize = 64;

/// What has a capacity, in bytes.
trait Capacity {
    fn bytes(&self) -> usize;
}

impl Capacity for Vec<u8> {
    fn bytes(&self) -> usize {
        self.capacity()
    }
}

impl Capacity for BytesMut {
    fn bytes(&self) -> usize {
        self.capacity()
    }
}

impl Capacity for Box<Partial> {
    fn bytes(&self) -> usize {
        size_of::<Partial>() + self.bytes.capacity()
    }
}

impl Capacity for Box<Queue> {
    fn bytes(&self) -> usize {
        size_of::<Queue>() + self.segment_capacity() * size_of::<Segment>()
    }
}

/// Things of one kind; the last one that was put there is the first one to be taken.
struct Shelf<T> {
    things: Vec<T>,
    /// Sum of their capacities.
    bytes: usize,
    /// The fewest that lay there since the shelf was looked through.
    idle: usize,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Shelf {
            things: Vec::new(),
            bytes: 0,
            idle: 0,
        }
    }
}

impl<T: Capacity> Shelf<T> {
    fn take(&mut self) -> Option<T> {
        let thing = self.things.pop()?;
        self.bytes -= thing.bytes();
        self.idle = self.idle.min(self.things.len());
        Some(thing)
    }

    /// Drops it if the shelf is full.
    fn put(&mut self, thing: T) {
        let bytes = thing.bytes();
        if self.bytes + bytes <= SHELF_BYTES_MAX {
            self.bytes += bytes;
            self.things.push(thing);
        }
    }

    fn is_swollen(&self) -> bool {
        self.bytes > REST_BYTES_MAX
    }

    /// Drops half of what nobody needed since the last call, beginning with what has lain there longest.
    fn look_through(&mut self) -> bool {
        let mut surplus = self.idle.div_ceil(2);
        let bytes = &mut self.bytes;
        let before = self.things.len();
        self.things.retain(|thing| {
            let goes = surplus > 0 && *bytes > REST_BYTES_MAX;
            if goes {
                surplus -= 1;
                *bytes -= thing.bytes();
            }
            !goes
        });
        self.idle = self.things.len();
        self.things.len() < before
    }
}

/// Empty buffers, queues, partial inputs and sets of tickets of one worker, so that an idle connection holds none and a
/// busy one does not allocate.
#[derive(Default)]
pub(crate) struct Pools {
    buffers: Shelf<Vec<u8>>,
    larges: Shelf<BytesMut>,
    partials: Shelf<Box<Partial>>,
    queues: Shelf<Box<Queue>>,
    #[expect(clippy::vec_box, reason = "they are boxed where they are used")]
    tickets: Vec<Box<Promises>>,
    /// When the shelves are looked through next, on the worker's clock.
    due: u64,
}

impl Pools {
    /// An empty buffer, with capacity if one was kept.
    pub(crate) fn buffer(&mut self) -> Vec<u8> {
        let fresh = || Vec::with_capacity(BUFFER_BYTES_MIN);
        self.buffers.take().unwrap_or_else(fresh)
    }

    pub(crate) fn give_buffer(&mut self, mut buffer: Vec<u8>) {
        if (BUFFER_BYTES_MIN..=BUFFER_BYTES_MAX).contains(&buffer.capacity()) {
            buffer.clear();
            self.buffers.put(buffer);
        }
    }

    /// An empty buffer with room for a large frame of so many bytes, and how much of its memory was in use before. What is
    /// allocated anew is not touched.
    pub(crate) fn large(&mut self, capacity: usize) -> (BytesMut, usize) {
        match self.larges.take() {
            Some(large) if large.capacity() >= capacity => {
                let used_before = large.capacity();
                (large, used_before)
            }
            // To grow it would copy what is in it, which is nothing.
            _ => (BytesMut::with_capacity(capacity), 0),
        }
    }

    pub(crate) fn give_large(&mut self, mut large: BytesMut) {
        large.clear();
        // An advanced buffer hides what lies before its beginning until it is asked for more than it shows.
        let _ = large.try_reclaim(large.capacity() + 1);
        if (BUFFER_BYTES_MAX + 1..=LARGE_BYTES_MAX).contains(&large.capacity()) {
            self.larges.put(large);
        }
    }

    /// Takes shared bytes that are done with back if nobody else has them and they are worth it.
    fn reclaim(&mut self, shared: Bytes) {
        if shared.len() > BUFFER_BYTES_MAX
            && let Ok(large) = shared.try_into_mut()
        {
            self.give_large(large);
        }
    }

    /// Takes a piece back that was sent.
    pub(crate) fn give_segment(&mut self, segment: Segment) {
        match segment {
            Segment::Owned(buffer) => self.give_buffer(buffer),
            Segment::Shared(bytes) => self.reclaim(bytes),
        }
    }

    pub(crate) fn queue(&mut self) -> Box<Queue> {
        self.queues.take().unwrap_or_default()
    }

    /// A queue with a buffer to write to.
    #[cold]
    #[inline(never)]
    pub(crate) fn queue_with_buffer(&mut self) -> Box<Queue> {
        let queue = self.queue();
        queue.with_tail(|| self.buffer())
    }

    pub(crate) fn give_queue(&mut self, queue: Box<Queue>) {
        debug_assert!(queue.is_empty());
        if queue.segment_capacity() <= KEPT_SEGMENTS_MAX {
            self.queues.put(queue);
        }
    }

    pub(crate) fn partial(&mut self) -> Box<Partial> {
        self.partials.take().unwrap_or_default()
    }

    pub(crate) fn give_partial(&mut self, mut partial: Box<Partial>) {
        if partial.bytes.capacity() > BUFFER_BYTES_MAX {
            self.give_large(std::mem::take(&mut partial.bytes));
        }
        partial.reset(BUFFER_BYTES_MAX);
        self.partials.put(partial);
    }

    pub(crate) fn tickets(&mut self) -> Box<Promises> {
        self.tickets.pop().unwrap_or_default()
    }

    pub(crate) fn give_tickets(&mut self, tickets: Box<Promises>) {
        debug_assert!(tickets.is_empty());
        if self.tickets.len() < KEPT_BOXES_MAX && tickets.capacity() <= KEPT_TICKETS_MAX {
            self.tickets.push(tickets);
        }
    }

    /// When [`Pools::tick`] has something to do, on the worker's clock.
    pub(crate) fn next_due(&self) -> Option<u64> {
        let swollen = self.buffers.is_swollen()
            || self.larges.is_swollen()
            || self.partials.is_swollen()
            || self.queues.is_swollen();
        swollen.then_some(self.due)
    }

    /// Gives up what nobody needs, if it is time. Returns whether there was anything.
    pub(crate) fn tick(&mut self, now: u64) -> bool {
        if now < self.due {
            return false;
        }
        self.due = now + PERIOD_MS;
        let buffers = self.buffers.look_through();
        let larges = self.larges.look_through();
        let partials = self.partials.look_through();
        let queues = self.queues.look_through();
        buffers || larges || partials || queues
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::outbox::Outbox;

    #[test]
    fn what_one_burst_has_grown_is_not_kept() {
        let mut pools = Pools::default();
        let mut outbox = Outbox::default();
        for _ in 0..10_000 {
            outbox.share(&mut pools, Bytes::from(vec![0; 600]));
        }
        outbox.clear(&mut pools);
        assert_eq!(pools.queues.things.len(), 0);
        outbox.share(&mut pools, Bytes::from(vec![0; 600]));
        outbox.clear(&mut pools);
        assert_eq!(pools.queues.things.len(), 1);
    }

    #[test]
    fn what_is_kept_is_bounded_and_goes_when_nobody_needs_it() {
        let mut pools = Pools::default();
        for _ in 0..10_000 {
            pools.give_buffer(Vec::with_capacity(BUFFER_BYTES_MAX));
            pools.give_large(BytesMut::with_capacity(LARGE_BYTES_MAX));
            pools.give_large(BytesMut::with_capacity(LARGE_BYTES_MAX + 1));
        }
        assert_eq!(pools.buffers.bytes, SHELF_BYTES_MAX);
        assert_eq!(pools.larges.bytes, SHELF_BYTES_MAX);
        let mut now = 0;
        let mut looks = 0;
        while let Some(due) = pools.next_due() {
            assert!(due > now || looks == 0);
            now = due;
            pools.tick(now);
            // Two of the small ones are in use all the time.
            let two = [pools.buffer(), pools.buffer()];
            two.into_iter().for_each(|one| pools.give_buffer(one));
            looks += 1;
        }
        assert!((5..20).contains(&looks), "{looks} looks");
        assert!(pools.buffers.bytes <= REST_BYTES_MAX && pools.buffers.things.len() >= 2);
        assert_eq!(pools.larges.bytes, 0);
        assert!(!pools.tick(now + PERIOD_MS));
    }

    #[test]
    fn the_buffer_of_a_large_frame_comes_back_when_nobody_else_has_it() {
        let mut pools = Pools::default();
        let (mut large, used_before) = pools.large(300_000);
        assert_eq!(used_before, 0);
        large.extend_from_slice(&[7; 200_000]);
        let shared = large.freeze();
        let part = shared.slice(5..190_000);
        pools.reclaim(shared);
        assert_eq!(pools.larges.things.len(), 0, "somebody has a part of it");
        pools.reclaim(part);
        assert_eq!(pools.larges.things.len(), 1);
        let (again, used_before) = pools.large(300_000);
        assert!(again.capacity() >= 300_000);
        assert_eq!(used_before, again.capacity());
        assert_eq!(pools.larges.bytes, 0);
    }

    #[test]
    fn partial_inputs_without_bytes_go_when_nobody_needs_them() {
        let mut pools = Pools::default();
        for _ in 0..100_000 {
            pools.give_partial(Box::default());
        }
        assert!(pools.partials.things.len() <= SHELF_BYTES_MAX / size_of::<Partial>());
        while let Some(due) = pools.next_due() {
            pools.tick(due);
        }
        let kept = pools.partials.things.len();
        assert!(
            (1..=REST_BYTES_MAX / size_of::<Partial>()).contains(&kept),
            "{kept}"
        );
    }

    #[test]
    fn partial_inputs_are_kept_up_to_a_sum() {
        let mut pools = Pools::default();
        let partials: Vec<Box<Partial>> = (0..1_000)
            .map(|_| {
                let mut partial = pools.partial();
                partial.bytes.extend_from_slice(&[0; 50_000]);
                partial.consume(40_000, 0, None, 0);
                partial
            })
            .collect();
        for partial in partials {
            pools.give_partial(partial);
        }
        assert!(pools.partials.bytes <= SHELF_BYTES_MAX);
        assert!(pools.partials.bytes > SHELF_BYTES_MAX / 2);
        while !pools.partials.things.is_empty() {
            pools.partial();
        }
        assert_eq!(pools.partials.bytes, 0);
    }
}
