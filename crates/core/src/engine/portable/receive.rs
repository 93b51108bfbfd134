//! Receiving: a poll, then a receive that does not wait.

use std::io;
use std::os::fd::AsFd;

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, recv};

use super::Engine;
use super::flights::Operation;
use super::link::{Progress, Readiness};
use crate::connection::{Desire, Finish, Receive};
use crate::engine::ring::receive_into;

impl Engine<'_> {
    /// Begins to receive, unless that is under way: waits until there is something, or queues for this turn's receives.
    pub(super) fn receive(&mut self, slot: u32, generation: u32) {
        let Some(link) = self.shard.link(slot) else {
            return;
        };
        if link.receiving.progress != Progress::No {
            return;
        }
        link.receiving.progress = if link.receiving.readiness == Readiness::Unready {
            let operation = Operation::Readable { slot, generation };
            Progress::Polling(self.flights.readable(operation, link.as_fd()))
        } else {
            self.receives.push_back((slot, generation));
            Progress::Queued
        };
    }

    /// The socket can be read from; its end or its failure counts as something to read.
    pub(super) fn readable(&mut self, slot: u32, generation: u32, result: i32) {
        let Some(link) = self.shard.expected_link(slot, generation) else {
            return;
        };
        if result >= 0 {
            link.receiving.progress = Progress::Queued;
            link.receiving.readiness = Readiness::Ready;
            self.receives.push_back((slot, generation));
        } else {
            // The kernel has no memory for a poll.
            link.receiving.progress = Progress::Pausing;
            self.pause(Operation::Readable { slot, generation });
        }
    }

    /// Receives once from everybody in the queue, and sends the answers, as long as they are in the cache.
    pub(super) fn receive_all(&mut self) {
        // Services may have been called for what was dispatched.
        self.shard.desk.now = self.clock.now();
        for _ in 0..self.receives.len() {
            let Some((slot, generation)) = self.receives.pop_front() else {
                return;
            };
            let desire = self.take_up((slot, generation), |link| &mut link.receiving);
            let Some(Desire {
                finish, receive, ..
            }) = desire
            else {
                continue;
            };
            let result = match (finish, receive) {
                (Finish::No, Receive::Stream) => self.receive_stream(slot, generation),
                (Finish::No, Receive::Large) => self.receive_large(slot, generation),
                // It is paused, or ends, and comes again if it goes on.
                _ => Err(Errno::AGAIN),
            };
            match result {
                Ok(0) => self.shard.ended(slot),
                Ok(_) => {}
                Err(Errno::AGAIN) => self.shard.touch(slot),
                Err(error) => self.shard.failed(slot, io::Error::from(error)),
            }
            self.answer(slot, generation);
        }
    }

    /// Receives into the worker's buffer; little if the services are too slow to take it now, since it is kept then.
    fn receive_stream(&mut self, slot: u32, generation: u32) -> Result<usize, Errno> {
        let is_late = self.shard.desk.stopwatch.is_late();
        let asked = if is_late {
            self.late_bytes_max
        } else {
            self.buffer.len()
        };
        let link = self.shard.link(slot).ok_or(Errno::AGAIN)?;
        let buffer = &mut self.buffer[..asked];
        let result = retry_on_intr(|| recv(&link.socket, &mut *buffer, RecvFlags::DONTWAIT))
            .map(|(length, _)| length);
        self.rate_receive(slot, generation, result, asked);
        let length = result?;
        if length > 0 {
            self.shard.received(slot, &self.buffer[..length], None);
        }
        Ok(length)
    }

    /// Receives into the buffer of the large frame that is under way.
    fn receive_large(&mut self, slot: u32, generation: u32) -> Result<usize, Errno> {
        let mut asked = 0;
        let received = self.shard.receive_large(slot, |link, bytes, room| {
            asked = room;
            retry_on_intr(|| receive_into(link, bytes, room))
        });
        let result = received.ok_or(Errno::AGAIN)?;
        self.rate_receive(slot, generation, result, asked);
        result
    }

    /// Decides how to go on after a receive of at most `asked` bytes.
    fn rate_receive(
        &mut self,
        slot: u32,
        generation: u32,
        result: Result<usize, Errno>,
        asked: usize,
    ) {
        let Some(link) = self.shard.link(slot) else {
            return;
        };
        match result {
            Ok(length) if length == asked => link.receiving.readiness = Readiness::Likely,
            Ok(_) => link.receiving.readiness = Readiness::Unready,
            Err(Errno::AGAIN) if link.receiving.was_unready() => {
                link.receiving.progress = Progress::Pausing;
                self.pause(Operation::Readable { slot, generation });
            }
            Err(_) => {}
        }
    }
}
