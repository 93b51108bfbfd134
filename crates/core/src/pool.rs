//! Buffers that one worker uses again and again.

use crate::outbox::Queue;
use crate::partial::Partial;
use crate::tickets::TicketSlab;

/// A buffer above this size is given back to the allocator rather than kept.
const KEPT_BUFFER_BYTES_MAX: usize = 64 * 1024;
/// What all kept buffers of a worker, and all its kept partial inputs, may hold together.
const KEPT_BYTES_MAX: usize = 512 * 1024;
/// How many of each other kind are kept.
const KEPT_BOXES_MAX: usize = 256;
/// A queue with room for more segments than this is given back to the allocator.
const KEPT_SEGMENTS_MAX: usize = 64;
/// What had room for more open tickets than this is given back to the allocator.
const KEPT_TICKETS_MAX: usize = 64;

/// Empty buffers, queues, partial inputs and sets of tickets of one worker, so that an idle connection holds none and a busy one does
/// not allocate.
#[derive(Default)]
pub(crate) struct Pools {
    buffers: Vec<Vec<u8>>,
    /// Sum of the capacities in `buffers`.
    buffer_bytes: usize,
    #[expect(clippy::vec_box, reason = "they are boxed where they are used")]
    queues: Vec<Box<Queue>>,
    #[expect(clippy::vec_box, reason = "they are boxed where they are used")]
    partials: Vec<Box<Partial>>,
    /// Sum of the capacities in `partials`.
    partial_bytes: usize,
    #[expect(clippy::vec_box, reason = "they are boxed where they are used")]
    tickets: Vec<Box<TicketSlab>>,
}

impl Pools {
    /// An empty buffer, with capacity if one was kept.
    pub(crate) fn buffer(&mut self) -> Vec<u8> {
        match self.buffers.pop() {
            Some(buffer) => {
                self.buffer_bytes -= buffer.capacity();
                buffer
            }
            None => Vec::new(),
        }
    }

    pub(crate) fn give_buffer(&mut self, mut buffer: Vec<u8>) {
        let capacity = buffer.capacity();
        if capacity == 0
            || capacity > KEPT_BUFFER_BYTES_MAX
            || self.buffer_bytes + capacity > KEPT_BYTES_MAX
        {
            return;
        }
        buffer.clear();
        self.buffer_bytes += capacity;
        self.buffers.push(buffer);
    }

    pub(crate) fn queue(&mut self) -> Box<Queue> {
        self.queues.pop().unwrap_or_default()
    }

    pub(crate) fn give_queue(&mut self, queue: Box<Queue>) {
        debug_assert!(queue.is_empty());
        if self.queues.len() < KEPT_BOXES_MAX && queue.segment_capacity() <= KEPT_SEGMENTS_MAX {
            self.queues.push(queue);
        }
    }

    pub(crate) fn partial(&mut self) -> Box<Partial> {
        let partial = self.partials.pop().unwrap_or_default();
        self.partial_bytes -= partial.bytes.capacity();
        partial
    }

    pub(crate) fn give_partial(&mut self, mut partial: Box<Partial>) {
        partial.reset(KEPT_BUFFER_BYTES_MAX.min(KEPT_BYTES_MAX - self.partial_bytes));
        if self.partials.len() < KEPT_BOXES_MAX {
            self.partial_bytes += partial.bytes.capacity();
            self.partials.push(partial);
        }
    }

    pub(crate) fn tickets(&mut self) -> Box<TicketSlab> {
        self.tickets.pop().unwrap_or_default()
    }

    pub(crate) fn give_tickets(&mut self, tickets: Box<TicketSlab>) {
        debug_assert!(tickets.is_empty());
        if self.tickets.len() < KEPT_BOXES_MAX && tickets.capacity() <= KEPT_TICKETS_MAX {
            self.tickets.push(tickets);
        }
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
        assert!(pools.queues.is_empty());
        outbox.share(&mut pools, Bytes::from(vec![0; 600]));
        outbox.clear(&mut pools);
        assert_eq!(pools.queues.len(), 1);
    }

    #[test]
    fn partial_inputs_are_kept_up_to_a_sum() {
        let mut pools = Pools::default();
        let partials: Vec<Box<Partial>> = (0..100)
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
        assert!(pools.partial_bytes <= KEPT_BYTES_MAX);
        assert!(pools.partial_bytes > KEPT_BYTES_MAX / 2);
        while !pools.partials.is_empty() {
            pools.partial();
        }
        assert_eq!(pools.partial_bytes, 0);
    }
}
