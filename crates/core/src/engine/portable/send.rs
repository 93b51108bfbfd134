//! Sending: one send in flight a connection, of a copy of what its outbox holds first.

use std::io;
use std::os::fd::AsFd;

use super::Engine;
use super::buffers::SEND_BYTES_MAX;
use super::flights::{Operation, Outcome};
use super::link::{Progress, Readiness};
use crate::connection::{Desire, Finish};

impl Engine<'_> {
    /// Begins to send what is queued, unless that is under way.
    pub(super) fn send(&mut self, slot: u32, generation: u32) {
        let Some(link) = self.shard.link(slot) else {
            return;
        };
        if link.sending.progress != Progress::No {
            return;
        }
        if link.sending.readiness == Readiness::Unready {
            let operation = Operation::Writable { slot, generation };
            let poll = self.flights.writable(operation, link.as_fd());
            link.sending.progress = Progress::Polling(poll);
            return;
        }
        // Who waits for a buffer comes first.
        let buffer = if self.starved_sends.is_empty() {
            self.buffers.send()
        } else {
            None
        };
        if let Some(buffer) = buffer {
            self.begin_send(slot, generation, buffer);
        } else {
            link.sending.progress = Progress::Starved;
            self.starved_sends.push_back((slot, generation));
            self.shard.desk.counters().engine.starved.add(1);
        }
    }

    /// Sends what is queued first, as much as fits, from an empty buffer.
    fn begin_send(&mut self, slot: u32, generation: u32, mut buffer: Vec<u8>) {
        let Some((outbox, link, pools)) = self.shard.sending(slot) else {
            return self.buffers.give_sent(buffer);
        };
        for slice in outbox.begin(pools) {
            let room = SEND_BYTES_MAX - buffer.len();
            if room == 0 {
                break;
            }
            buffer.extend_from_slice(&slice[..slice.len().min(room)]);
        }
        link.sending.progress = Progress::Moving;
        let operation = Operation::Send { slot, generation };
        self.flights.send(operation, &link.socket, buffer);
    }

    /// Sends on connections that wait for a buffer, as far as there are any.
    pub(super) fn feed_sends(&mut self) {
        while let Some(&(slot, generation)) = self.starved_sends.front() {
            let desire = self.shard.desire(slot);
            if let Some(link) = self.shard.link_of(slot, generation)
                && link.sending.progress == Progress::Starved
            {
                let sends = |desire: Desire| {
                    desire.send && matches!(desire.finish, Finish::No | Finish::Release)
                };
                if desire.is_some_and(sends) {
                    let Some(buffer) = self.buffers.send() else {
                        return;
                    };
                    self.begin_send(slot, generation, buffer);
                } else {
                    // It ends, or nothing is left to send.
                    link.sending.progress = Progress::No;
                    self.shard.touch(slot);
                }
            }
            self.starved_sends.pop_front();
        }
    }

    /// The socket can be written to, or has failed, which a send finds out.
    pub(super) fn writable(&mut self, slot: u32, generation: u32, outcome: &Outcome) {
        let Some(link) = self.shard.expected_link(slot, generation) else {
            return;
        };
        if outcome.result >= 0 {
            link.sending.progress = Progress::No;
            link.sending.readiness = Readiness::Ready;
            self.shard.touch(slot);
        } else {
            // The kernel has no memory for a poll.
            link.sending.progress = Progress::Pausing;
            self.pause(Operation::Writable { slot, generation });
        }
    }

    pub(super) fn sent(&mut self, slot: u32, generation: u32, outcome: Outcome) {
        let buffer = outcome.buffer.unwrap_or_default();
        let length = buffer.len();
        self.buffers.give_sent(buffer);
        let Some(link) = self.shard.expected_link(slot, generation) else {
            return;
        };
        link.sending.progress = Progress::No;
        let taken = usize::try_from(outcome.result).unwrap_or(0);
        if taken > 0 {
            link.sending.readiness = if taken < length {
                Readiness::Unready
            } else {
                Readiness::Likely
            };
        } else if outcome.result == -libc::EAGAIN && link.sending.was_unready() {
            link.sending.progress = Progress::Pausing;
            self.pause(Operation::Writable { slot, generation });
        }
        self.shard.sent(slot, taken);
        match -outcome.result {
            ..=0 | libc::EINTR | libc::EAGAIN => {}
            errno => self.shard.failed(slot, io::Error::from_raw_os_error(errno)),
        }
    }
}
