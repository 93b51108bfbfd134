//! Waiting until a socket has room for what is to be sent.
//!
//! Sends never wait in the kernel: once the peer has ended its side, the kernel takes its own poll for room as ready at
//! once, since that poll reports ends too, tries 128 times in vain and then leaves the send to a thread of its own. So a
//! send that finds no room fails, and a poll tells when there is some. It is a multishot one, because that reports
//! changes: one that reports states would be ready at once as well.

use std::io;

use super::Engine;
use super::link::Polling;
use super::operation::{Kind, Operation};
use super::queue::Completion;

impl Engine<'_> {
    /// Waits for room.
    pub(super) fn arm_room(&mut self, slot: u32, generation: u32) -> io::Result<()> {
        let Some(link) = self.shard.link(slot) else {
            return Ok(());
        };
        if link.room != Polling::No {
            return Ok(());
        }
        link.room = Polling::Armed;
        let file = link.file(slot);
        let poll = Operation::new(Kind::Room, generation, slot);
        self.queue.poll(file, libc::POLLOUT, true, poll.pack())
    }

    pub(super) fn room_found(&mut self, operation: Operation, completion: &Completion) {
        let slot = operation.slot;
        let Some(link) = self.shard.expected_link(slot, operation.generation) else {
            return;
        };
        if !completion.more() {
            link.room = Polling::No;
            // Whatever ended it, the next send tells how things are.
            link.blocked = false;
        }
        let worth_a_try = libc::POLLOUT | libc::POLLERR | libc::POLLHUP;
        if completion.result & i32::from(worth_a_try) != 0 {
            link.blocked = false;
        }
        self.shard.touch(slot);
    }

    /// Ends the poll for room, which would otherwise report whatever the peer takes.
    pub(super) fn cancel_room(&mut self, slot: u32, generation: u32) -> io::Result<()> {
        let Some(link) = self.shard.link(slot) else {
            return Ok(());
        };
        if link.room != Polling::Armed {
            return Ok(());
        }
        link.room = Polling::Cancelled;
        self.cancel(Operation::new(Kind::Room, generation, slot))
    }
}
