//! Sends that say nothing if all goes well.
//!
//! A send never waits (see `room`), so it is over when the enter that begins it returns. If everything was sent, there is
//! nothing to say: no completion is asked for (IOSQE_CQE_SKIP_SUCCESS), and what was sent left the outbox when the send
//! was queued, so that a connection is visited once for each message instead of twice. A send that the kernel takes only
//! in part or not at all fails (MSG_WAITALL), and what is left goes back to the front of the outbox.
//!
//! One piece is sent like that, be it written for the connection or shared with others. Several are gathered, see `send`.
//!
//! Before anything else happens on a connection, all flights have landed: two could otherwise overtake each other.

use std::collections::VecDeque;
use std::io;

use io_uring::types::Fd;
use io_uring::{opcode, squeue};

use super::Engine;
use super::link::Polling;
use super::operation::{Kind, Operation};
use super::queue::Wait;
use crate::outbox::Segment;

/// All of it, now, or a failure that says how much.
const FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT | libc::MSG_WAITALL;

/// What is sent without a word is not longer than this. The bytes are neither counted nor limited while they are under way,
/// which can be for as long as the worker sleeps.
const BYTES_MAX: usize = 64 * 1024;

/// The sends that were queued and have not landed, in the order in which the kernel makes them.
#[derive(Default)]
pub(super) struct Flights {
    queue: VecDeque<Flight>,
    /// Where the next one that failed is most likely: behind the last. Failures may come in another order. Linux 6.1 tells at
    /// once of sends for which there was no room (io_req_complete_failed), and of those with errors of the socket
    /// only when it has begun all of a submission (io_req_complete_defer, io_uring/io_uring.c).
    expected: usize,
    /// Which have failed, and with what result, as far as is known.
    failures: Vec<(Operation, i32)>,
}

struct Flight {
    /// The number of the operation in the submission queue.
    order: u64,
    slot: u32,
    /// What is sent; the kernel reads it until the flight has landed. Empty once it has failed.
    bytes: Segment,
}

impl Flights {
    /// One has completed, so it has failed.
    pub(super) fn failed(&mut self, flight: Operation, result: i32) {
        self.failures.push((flight, result));
    }

    /// The flight of a connection failed: what it was to send. There is at most one for each slot, and nobody else gets the slot
    /// before it has landed.
    fn fail(&mut self, slot: u32) -> Option<Segment> {
        let mut places = (self.expected..self.queue.len()).chain(0..self.expected);
        let place = places.find(|place| self.queue[*place].slot == slot)?;
        self.expected = place + 1;
        Some(std::mem::take(&mut self.queue[place].bytes))
    }
}

impl Engine<'_> {
    /// Queues a send of all that a connection has to say, if it may go without an answer. Returns whether it does.
    pub(super) fn launch(&mut self, slot: u32, generation: u32) -> io::Result<bool> {
        let Some(link) = self.shard.link(slot) else {
            return Ok(false);
        };
        let (file, is_registered) = (link.file(slot), link.is_registered);
        if link.room != Polling::No {
            return Ok(false);
        }
        let Some(bytes) = self.shard.launch(slot, BYTES_MAX) else {
            return Ok(false);
        };
        debug_assert!(
            self.flights.queue.iter().all(|flight| flight.slot != slot),
            "the second could overtake the first"
        );
        let send = flight(file.fd, bytes.as_slice())
            .flags(file.flags)
            .user_data(Operation::new(Kind::Flight, generation, slot).pack());
        // SAFETY: the bytes are not in the segment itself, and `flights` keeps it unchanged until the flight has landed; see
        // `Engine` for what happens when it never does.
        #[expect(unsafe_code, reason = "submitting an operation")]
        unsafe {
            self.queue.push(&send)?;
        }
        let order = self.queue.pushed();
        self.flights.queue.push_back(Flight { order, slot, bytes });
        if !is_registered && let Some(link) = self.shard.link(slot) {
            link.begin(&self.files, self.queue.submitter(), slot);
        }
        Ok(true)
    }

    /// A flight failed: what was not sent is to be sent again, or the connection is over.
    fn crashed(&mut self, operation: Operation, result: i32) {
        let slot = operation.slot;
        let Some(bytes) = self.flights.fail(slot) else {
            debug_assert!(false, "a flight fails before it lands");
            return;
        };
        let Some(link) = self.shard.link_of(slot, operation.generation) else {
            debug_assert!(false, "nothing is closed before its flight has landed");
            return;
        };
        let sent = usize::try_from(result).unwrap_or(0);
        // Whoever took a part has no room for the rest.
        link.blocked = sent > 0 || result == -libc::EAGAIN;
        self.shard.unsent(slot, bytes, sent);
        match -result {
            ..=0 | libc::ECANCELED | libc::EINTR | libc::EAGAIN => {}
            errno => self.shard.failed(slot, io::Error::from_raw_os_error(errno)),
        }
    }

    /// Waits for what is known at once: until every flight was begun, and every failure was told. Nothing else is dispatched before.
    pub(super) fn land(&mut self) -> io::Result<()> {
        let Some(last) = self.flights.queue.back().map(|flight| flight.order) else {
            return Ok(());
        };
        while self.queue.begun() < last
            || self.queue.has_overflowed()
            || self.queue.has_completions()
        {
            self.enter(Wait::No)?;
            self.reap();
        }
        let mut failures = std::mem::take(&mut self.flights.failures);
        for (flight, result) in failures.drain(..) {
            self.crashed(flight, result);
        }
        self.flights.failures = failures;
        self.flights.expected = 0;
        for flight in self.flights.queue.drain(..) {
            self.shard.desk.pools.give_segment(flight.bytes);
        }
        Ok(())
    }
}

/// A send that completes only if not everything was sent.
pub(super) fn flight(fd: Fd, bytes: &[u8]) -> squeue::Entry {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    opcode::Send::new(fd, bytes.as_ptr(), length)
        .flags(FLAGS)
        .build()
        .flags(squeue::Flags::SKIP_SUCCESS)
}

#[cfg(test)]
mod tests {
    use std::ptr::with_exposed_provenance;

    use bytes::Bytes;

    use super::*;
    use crate::outbox::Outbox;
    use crate::pool::Pools;

    /// Flights of these slots, each with its slot as its bytes.
    fn flights(slots: std::ops::Range<u32>) -> Flights {
        let flight = |slot: u32| Flight {
            order: u64::from(slot),
            slot,
            bytes: Segment::Owned(slot.to_ne_bytes().to_vec()),
        };
        Flights {
            queue: slots.map(flight).collect(),
            ..Flights::default()
        }
    }

    #[test]
    fn failures_may_come_in_any_order() {
        // In the order of the sends, and as Linux 6.1 tells of two submissions: those without room before the others of each.
        for order in [[0_u32, 1, 2, 3, 5, 7], [1, 3, 0, 2, 7, 5]] {
            let mut flights = flights(0..8);
            for slot in order {
                let bytes = Segment::Owned(slot.to_ne_bytes().to_vec());
                assert_eq!(flights.fail(slot), Some(bytes), "{order:?}");
            }
            assert_eq!(flights.fail(8), None);
        }
    }

    #[test]
    fn what_is_under_way_stays_where_it_is() {
        let (mut outbox, mut pools) = (Outbox::default(), Pools::default());
        let shared = Bytes::from(vec![b'+'; 1000]);
        let mut flights = Flights::default();
        let mut addresses = Vec::new();
        for slot in 0..20 {
            match slot % 2 {
                0 => outbox.write(&mut pools, |tail| tail.extend_from_slice(b"written")),
                _ => outbox.share(&mut pools, shared.clone()),
            }
            let bytes = outbox.take_piece(&mut pools).unwrap();
            addresses.push((bytes.as_slice().as_ptr() as usize, bytes.len()));
            flights.queue.push_back(Flight {
                order: slot.into(),
                slot,
                bytes,
            });
        }
        drop(shared);
        for ((address, length), flight) in addresses.into_iter().zip(&flights.queue) {
            let bytes = with_exposed_provenance::<u8>(address);
            // SAFETY: the flight has not landed.
            #[expect(unsafe_code, reason = "in place of the kernel")]
            let bytes = unsafe { std::slice::from_raw_parts(bytes, length) };
            assert_eq!(bytes, flight.bytes.as_slice());
        }
    }
}
