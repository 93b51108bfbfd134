//! Dispatching what has completed.
//!
//! What is answered leaves at the end of a turn, in one call for all. If that is much, because the replies are larger than the requests, it is
//! not in the cache any more by then. So it is sent whenever it has become much, and only then what else has completed is dispatched.

use std::collections::VecDeque;
use std::io;

use super::Engine;
use super::operation::{Kind, Operation};
use super::queue::{Completion, Wait};

/// What was taken out of the ring. Flights that failed are not among it.
#[derive(Default)]
pub(super) struct Completed {
    /// Sends: their memory is used for the next replies as long as it is in the cache.
    sends: VecDeque<Completion>,
    /// The others, in the order in which they completed.
    others: VecDeque<Completion>,
}

impl Completed {
    fn next(&mut self) -> Option<Completion> {
        self.sends.pop_front().or_else(|| self.others.pop_front())
    }
}

impl Engine<'_> {
    /// Dispatches everything that has completed by now. Returns how much it was.
    pub(super) fn dispatch_all(&mut self) -> io::Result<u64> {
        let mut count = self.reap();
        self.land()?;
        while let Some(completion) = self.completed.next() {
            self.dispatch(&completion)?;
            if self.shard.desk.meter.has_grown() {
                count += self.send_early()?;
            }
        }
        Ok(count)
    }

    /// Sends what there is to be sent in the middle of a turn. Nothing is received meanwhile, which would take a buffer while others wait to be
    /// dispatched with theirs. Returns how much has completed.
    fn send_early(&mut self) -> io::Result<u64> {
        // As in the beginning of a turn: who holds too much is cut, however fast it could be sent.
        self.shard.bound_memory();
        self.update_touched()?;
        if self.queue.begun() == self.queue.pushed() {
            // It is something else that has grown.
            self.shard.desk.meter.begin_growth();
            return Ok(0);
        }
        self.enter(Wait::Submit)?;
        let count = self.reap();
        self.land()?;
        Ok(count)
    }

    /// Takes everything out of the ring that has completed by now. Returns how much it was.
    pub(super) fn reap(&mut self) -> u64 {
        let (completed, flights) = (&mut self.completed, &mut self.flights);
        let count = self
            .queue
            .reap(|completion| match Operation::unpack(completion.user_data) {
                Some(flight) if flight.kind == Kind::Flight => {
                    flights.failed(flight, completion.result);
                }
                Some(send) if send.kind == Kind::Send => completed.sends.push_back(completion),
                _ => completed.others.push_back(completion),
            });
        self.shard.desk.counters().engine.completions.add(count);
        count
    }

    fn dispatch(&mut self, completion: &Completion) -> io::Result<()> {
        let Some(operation) = Operation::unpack(completion.user_data) else {
            debug_assert!(false, "the kernel returns only what it was given");
            return Ok(());
        };
        match operation.kind {
            Kind::Receive => self.received(operation, completion),
            Kind::Send => self.sent(operation, completion),
            Kind::Flight => debug_assert!(false, "it has landed before"),
            Kind::Look => self.looked(operation, completion),
            Kind::Readable => self.readable(operation, completion)?,
            Kind::Watch => self.watch_ended(operation, completion),
            Kind::Room => self.room_found(operation, completion),
            Kind::Acceptable => self.acceptable(operation, completion),
            Kind::Wake => self.woken(completion)?,
            Kind::Sources => self.sources_polled(completion),
            Kind::Alarm => self.alarm.went_off(),
            // What counts is the completion of the operation that was cancelled.
            Kind::Cancel => {}
        }
        Ok(())
    }
}
