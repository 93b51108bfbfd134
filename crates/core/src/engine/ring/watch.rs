//! Noticing the end of a peer behind its last data.
//!
//! A multishot receive that is woken by data and takes all of it goes back to waiting for the next wake-up. If the end
//! came together with the data, there is none: a reset, and on unix sockets every end, goes unnoticed for good
//! (<https://github.com/axboe/liburing/issues/1549>, fixed for a receive that was waiting; one that finds both when it
//! begins misses the end on Linux 6.18, too). So one poll for the end goes along with each connection: it looks at the
//! state of the socket instead of counting wake-ups. When it fires, a receive that has not seen the end is begun again.

use std::io;

use super::Engine;
use super::operation::{Kind, Operation};
use super::queue::Completion;

/// How far the watch over a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Watch {
    /// Not begun: nothing was received so far.
    No,
    /// In flight.
    Armed,
    /// In flight and asked to end.
    Cancelled,
    /// The peer has ended or reset the connection, and the receive has not been told.
    Fired,
    /// There is nothing more to watch for.
    Over,
}

impl Engine<'_> {
    /// Begins to watch, unless that has happened.
    pub(super) fn arm_watch(&mut self, slot: u32, generation: u32) -> io::Result<()> {
        let Some(link) = self.shard.link(slot) else {
            return Ok(());
        };
        if link.watch != Watch::No {
            return Ok(());
        }
        link.watch = Watch::Armed;
        let file = link.file(slot);
        let poll = Operation::new(Kind::Watch, generation, slot);
        self.queue.poll(file, libc::POLLRDHUP, false, poll.pack())
    }

    pub(super) fn watch_ended(&mut self, operation: Operation, completion: &Completion) {
        let Some(link) = self
            .shard
            .expected_link(operation.slot, operation.generation)
        else {
            return;
        };
        link.watch = if completion.result > 0 && link.watch == Watch::Armed {
            Watch::Fired
        } else {
            Watch::Over
        };
        self.shard.touch(operation.slot);
    }

    pub(super) fn cancel_watch(&mut self, slot: u32, generation: u32) -> io::Result<()> {
        let Some(link) = self.shard.link(slot) else {
            return Ok(());
        };
        if link.watch != Watch::Armed {
            return Ok(());
        }
        link.watch = Watch::Cancelled;
        self.cancel(Operation::new(Kind::Watch, generation, slot))
    }
}
