//! Sending: what an outbox holds first, by a send that does not wait, or else a poll.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{SendAncillaryBuffer, SendFlags, send, sendmsg};

use super::Engine;
use super::flights::Operation;
use super::link::{Progress, Readiness};
use crate::connection::Finish;
use crate::outbox::SEND_SEGMENTS_MAX;

/// A send takes what there is room for and never waits.
const FLAGS: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

impl Engine<'_> {
    /// Begins to send what is queued, unless that is under way: queues for this turn's sends, or waits until there is room.
    pub(super) fn send(&mut self, slot: u32, generation: u32) {
        let Some(link) = self.shard.link(slot) else {
            return;
        };
        if link.sending.progress != Progress::No {
            return;
        }
        link.sending.progress = if link.sending.readiness == Readiness::Unready {
            let operation = Operation::Writable { slot, generation };
            Progress::Polling(self.flights.writable(operation, link.as_fd()))
        } else {
            self.sends.push_back((slot, generation));
            Progress::Queued
        };
    }

    /// The socket can be written to, or has failed, which a send finds out.
    pub(super) fn writable(&mut self, slot: u32, generation: u32, result: i32) {
        let Some(link) = self.shard.expected_link(slot, generation) else {
            return;
        };
        if result >= 0 {
            link.sending.progress = Progress::No;
            link.sending.readiness = Readiness::Ready;
            self.shard.touch(slot);
        } else {
            // The kernel has no memory for a poll.
            link.sending.progress = Progress::Pausing;
            self.pause(Operation::Writable { slot, generation });
        }
    }

    /// Sends once for everybody in the queue.
    pub(super) fn send_all(&mut self) {
        for _ in 0..self.sends.len() {
            let Some((slot, generation)) = self.sends.pop_front() else {
                return;
            };
            let desire = self.take_up((slot, generation), |link| &mut link.sending);
            let Some(desire) = desire else {
                continue;
            };
            if desire.send && desire.finish == Finish::No {
                self.send_now(slot, generation);
            } else {
                // It ends, or nothing is left to send.
                self.shard.touch(slot);
            }
        }
    }

    /// Sends what is queued on a connection that was just received from, if a send may find room.
    pub(super) fn answer(&mut self, slot: u32, generation: u32) {
        // The service has taken its time, before this is sent and the next one is received from. The stopwatch goes on: the turn is
        // not over.
        self.shard.desk.now = self.clock.now();
        self.shard.bound_memory();
        let desire = self.shard.desire(slot);
        if desire.is_some_and(|desire| desire.send && desire.finish == Finish::No)
            && let Some(link) = self.shard.link_of(slot, generation)
            && link.sending.progress == Progress::No
            && link.sending.readiness != Readiness::Unready
        {
            self.send_now(slot, generation);
        }
    }

    /// Sends what is queued first, as much as there is room for.
    pub(super) fn send_now(&mut self, slot: u32, generation: u32) {
        let Some((outbox, link, pools)) = self.shard.sending(slot) else {
            return;
        };
        let (result, length) = send_slices(&link.socket, outbox.begin(pools));
        let taken = result.unwrap_or(0);
        if taken > 0 {
            link.sending.readiness = if taken < length {
                Readiness::Unready
            } else {
                Readiness::Likely
            };
        } else if result == Err(Errno::AGAIN) && link.sending.was_unready() {
            link.sending.progress = Progress::Pausing;
            self.pause(Operation::Writable { slot, generation });
        }
        self.shard.sent(slot, taken);
        match result {
            Ok(_) | Err(Errno::AGAIN) => {}
            Err(error) => self.shard.failed(slot, io::Error::from(error)),
        }
    }
}

/// Sends these bytes, as far as there is room. Returns how many the kernel took, and how many there are.
pub(super) fn send_slices<'s>(
    socket: &OwnedFd,
    mut slices: impl ExactSizeIterator<Item = &'s [u8]>,
) -> (Result<usize, Errno>, usize) {
    if slices.len() == 1
        && let Some(slice) = slices.next()
    {
        let sent = retry_on_intr(|| send(socket, slice, FLAGS));
        return (sent, slice.len());
    }
    let mut parts = [IoSlice::new(&[]); SEND_SEGMENTS_MAX];
    let (mut count, mut length) = (0, 0);
    for (part, slice) in parts.iter_mut().zip(slices) {
        *part = IoSlice::new(slice);
        count += 1;
        length += slice.len();
    }
    let sent = retry_on_intr(|| {
        sendmsg(
            socket,
            &parts[..count],
            &mut SendAncillaryBuffer::default(),
            FLAGS,
        )
    });
    (sent, length)
}
