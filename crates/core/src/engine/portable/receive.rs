//! Receiving: a poll, then a receive into a pooled buffer, if need be after a wait for one.

use std::io;
use std::os::fd::AsFd;

use super::Engine;
use super::flights::{Operation, Outcome};
use super::link::{Progress, Readiness};
use crate::connection::{Finish, Receive};

impl Engine<'_> {
    /// Begins to receive, unless that is under way. A large frame comes in larger pieces; it is copied to the
    /// connection's own buffer like any other that does not arrive in one piece.
    pub(super) fn receive(&mut self, slot: u32, generation: u32, desired: Receive) {
        let Some(link) = self.shard.link(slot) else {
            return;
        };
        if link.receiving.progress != Progress::No {
            return;
        }
        if link.receiving.readiness == Readiness::Unready {
            let operation = Operation::Readable { slot, generation };
            let poll = self.flights.readable(operation, link.as_fd());
            link.receiving.progress = Progress::Polling(poll);
            return;
        }
        // Who waits for a buffer comes first.
        let buffer = if self.starved_receives.is_empty() {
            self.buffers.receive(desired)
        } else {
            None
        };
        if let Some(buffer) = buffer {
            self.begin_receive(slot, generation, buffer);
        } else {
            link.receiving.progress = Progress::Starved;
            self.starved_receives.push_back((slot, generation));
            self.shard.desk.counters().engine.starved.add(1);
        }
    }

    fn begin_receive(&mut self, slot: u32, generation: u32, buffer: Vec<u8>) {
        let Some(link) = self.shard.link(slot) else {
            return self.buffers.give_received(buffer);
        };
        link.receiving.progress = Progress::Moving;
        let operation = Operation::Receive { slot, generation };
        self.flights.receive(operation, &link.socket, buffer);
    }

    /// Receives on connections that wait for a buffer, as far as there are any.
    pub(super) fn feed_receives(&mut self) {
        while let Some(&(slot, generation)) = self.starved_receives.front() {
            let desire = self.shard.desire(slot);
            if let Some(link) = self.shard.link_of(slot, generation)
                && link.receiving.progress == Progress::Starved
            {
                let desired = desire
                    .filter(|desire| desire.finish == Finish::No)
                    .map(|desire| desire.receive);
                if let Some(desired @ (Receive::Stream | Receive::Large)) = desired {
                    let Some(buffer) = self.buffers.receive(desired) else {
                        return;
                    };
                    self.begin_receive(slot, generation, buffer);
                } else {
                    // It is paused, or ends, and comes again if it goes on.
                    link.receiving.progress = Progress::No;
                    self.shard.touch(slot);
                }
            }
            self.starved_receives.pop_front();
        }
    }

    /// The socket can be read from; its end or its failure counts as something to read.
    pub(super) fn readable(&mut self, slot: u32, generation: u32, outcome: &Outcome) {
        let Some(link) = self.shard.expected_link(slot, generation) else {
            return;
        };
        if outcome.result >= 0 {
            link.receiving.progress = Progress::No;
            link.receiving.readiness = Readiness::Ready;
            self.shard.touch(slot);
        } else {
            // The kernel has no memory for a poll.
            link.receiving.progress = Progress::Pausing;
            self.pause(Operation::Readable { slot, generation });
        }
    }

    pub(super) fn received(&mut self, slot: u32, generation: u32, outcome: Outcome) {
        let buffer = outcome.buffer.unwrap_or_default();
        if let Some(link) = self.shard.expected_link(slot, generation) {
            link.receiving.progress = Progress::No;
            let length = usize::try_from(outcome.result).unwrap_or(0);
            if length > 0 {
                link.receiving.readiness = if outcome.more || length == buffer.len() {
                    Readiness::Likely
                } else {
                    Readiness::Unready
                };
            } else if outcome.result == -libc::EAGAIN && link.receiving.was_unready() {
                link.receiving.progress = Progress::Pausing;
                self.pause(Operation::Readable { slot, generation });
            }
            match outcome.result {
                1.. => self.shard.received(slot, &buffer[..length], None),
                0 => self.shard.ended(slot),
                error if matches!(-error, libc::EINTR | libc::EAGAIN) => self.shard.touch(slot),
                error => self
                    .shard
                    .failed(slot, io::Error::from_raw_os_error(-error)),
            }
        }
        self.buffers.give_received(buffer);
    }
}
