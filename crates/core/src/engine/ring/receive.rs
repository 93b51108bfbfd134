//! Receiving into shared buffers.
//!
//! Only the multishot receive waits in the kernel by itself. Whoever receives otherwise has a poll that tells when there is
//! something to receive: the kernel's own poll reports urgent data, too, which is not received, and after 128 attempts in vain it
//! leaves the receive to a thread of its own, for as long as the peer likes (docs/decisions/0004-what-multishot-receives-miss.md).

use std::io;

use io_uring::{opcode, squeue};

use super::Engine;
use super::buffers::GROUP;
use super::bulk::BULKY_BYTES_MIN;
use super::link::{Pace, Receiving, RingLink};
use super::operation::{Kind, Operation};
use super::queue::Completion;
use super::watch::Watch;
use crate::connection::{Finish, Receive};

// From <linux/io_uring.h>; io-uring keeps them to itself. A test compares the first with what `RecvMulti` builds.
const RECVSEND_POLL_FIRST: u16 = 1 << 0;
const RECV_MULTISHOT: u16 = 1 << 1;

/// While connections wait for buffers, one may use up this part of them in a turn (at least one).
const SHARE_OF_BUFFERS: usize = 8;

impl Engine<'_> {
    /// Begins to receive into shared buffers, behind those that wait for one.
    pub(super) fn arm_stream(
        &mut self,
        slot: u32,
        generation: u32,
        polls_first: bool,
    ) -> io::Result<()> {
        self.arm_watch(slot, generation)?;
        let Some(link) = self.shard.link(slot) else {
            return Ok(());
        };
        if self.starved.is_empty() {
            // After the end of the peer nothing wakes a receive that did not see it; a poll looks at the state.
            if link.watch == Watch::Over {
                return self.arm_readable(slot, generation, false);
            }
            return self.arm_receive(slot, generation, Shots::Many { polls_first });
        }
        link.receiving = Receiving::Starved;
        self.starved.push_back((slot, generation));
        Ok(())
    }

    pub(super) fn arm_receive(
        &mut self,
        slot: u32,
        generation: u32,
        shots: Shots,
    ) -> io::Result<()> {
        let Some(link) = self.shard.link(slot) else {
            return Ok(());
        };
        debug_assert!(!link.receive_in_flight(), "one receive a connection");
        link.begin(&self.files, self.queue.submitter(), slot);
        let file = link.file(slot);
        let receive = receive(file.fd, shots)
            .flags(file.flags)
            .user_data(Operation::new(Kind::Receive, generation, slot).pack());
        link.receiving = Receiving::Stream(shots);
        link.receive_cancelled = false;
        // SAFETY: the entry points to nothing; the buffers are those of the group.
        #[expect(unsafe_code, reason = "submitting an operation")]
        unsafe {
            self.queue.push(&receive)
        }
    }

    /// A receive into shared buffers completed, once or for good.
    pub(super) fn received(&mut self, operation: Operation, completion: &Completion) {
        let slot = operation.slot;
        let link = self.shard.expected_link(slot, operation.generation);
        let expected = link.is_some();
        if let Some(link) = link
            && !completion.more()
        {
            link.receiving = Receiving::No;
            self.shard.touch(slot);
        }
        let length = usize::try_from(completion.result).unwrap_or(0);
        match completion.buffer() {
            Some(buffer) if expected => self.use_up(operation, buffer, length),
            Some(buffer) => self.buffers.give_back(buffer, false),
            None => {}
        }
        if expected {
            self.conclude_receive(operation, completion.result);
        }
    }

    /// Passes on what a connection that is there has received in a buffer, and gives that back.
    pub(super) fn use_up(&mut self, operation: Operation, buffer: u16, length: usize) {
        let Operation {
            slot, generation, ..
        } = operation;
        self.count_buffer(slot, generation, length);
        let received = self.buffers.received(buffer, length);
        if length > 0 {
            self.shard.received(slot, received.bytes, Some(&received));
        }
        let lent = received.was_lent();
        self.buffers.give_back(buffer, lent);
    }

    /// Passes on what a receive brought instead of bytes.
    pub(super) fn conclude_receive(&mut self, operation: Operation, result: i32) {
        match result {
            1.. => {}
            0 => self.shard.ended(operation.slot),
            error => self.receive_failed(operation.slot, operation.generation, -error),
        }
    }

    /// Notes that a connection used up a buffer, for so many bytes. One that has much to say is received from in another way,
    /// and so is one that has had its share of this turn while others wait for a buffer: a multishot receive would take one
    /// after the other.
    fn count_buffer(&mut self, slot: u32, generation: u32, length: usize) {
        let share = (self.buffers.entries() / SHARE_OF_BUFFERS).max(1);
        let (turn, contended) = (self.turn, !self.starved.is_empty());
        let Some(link) = self.shard.link_of(slot, generation) else {
            return;
        };
        if link.turn != turn {
            link.turn = turn;
            link.buffers_in_turn = 0;
            link.bytes_in_turn = 0;
        }
        link.buffers_in_turn = link.buffers_in_turn.saturating_add(1);
        // No buffer has 4 GiB.
        link.bytes_in_turn = link.bytes_in_turn.saturating_add(length as u32);
        if length > 0 {
            self.looks.note(link, length);
        }
        let is_greedy = contended
            && usize::from(link.buffers_in_turn) >= share
            && matches!(link.receiving, Receiving::Stream(Shots::Many { .. }));
        let is_bulky = matches!(link.pace, Pace::Bulky(_));
        if !is_bulky && (is_greedy || link.bytes_in_turn >= BULKY_BYTES_MIN) {
            link.become_bulky();
        }
    }

    fn receive_failed(&mut self, slot: u32, generation: u32, errno: i32) {
        let Some(link) = self.shard.link_of(slot, generation) else {
            return;
        };
        match errno {
            // Kernels from 6.0 to 6.4 end a cancelled multishot receive with ENOBUFS.
            libc::ENOBUFS if !link.receive_cancelled => {
                link.receiving = Receiving::Starved;
                self.starved.push_back((slot, generation));
                self.buffers.starved();
                self.shard.desk.counters().engine.starved.add(1);
            }
            libc::EAGAIN => self.missed(slot),
            libc::ECANCELED | libc::EINTR | libc::ENOBUFS => {}
            _ => self.shard.failed(slot, io::Error::from_raw_os_error(errno)),
        }
    }

    /// Gives free buffers to the kernel, and lets connections that found none try again: as many as there are buffers
    /// in circulation, each for one buffer, because a multishot receive of somebody with much to say would take them
    /// all, again and again. And each only when its socket is readable, since an empty ring fails a receive at once,
    /// data or not.
    pub(super) fn replenish(&mut self) -> io::Result<()> {
        self.buffers.collect();
        self.buffers.publish(self.shard.desk.now);
        let leased = &self.shard.desk.counters().engine.leased;
        if leased.value() != self.buffers.leased() as u64 {
            leased.set(self.buffers.leased() as u64);
        }
        for _ in 0..self.buffers.entries() - self.buffers.leased() {
            let Some((slot, generation)) = self.starved.pop_front() else {
                break;
            };
            let waits = |link: &RingLink| link.receiving == Receiving::Starved;
            if self.may_begin(slot, generation, waits) {
                self.arm_readable(slot, generation, false)?;
            }
        }
        Ok(())
    }

    /// Whether the connection whose turn has come in a queue `waits` there and is still to receive.
    pub(super) fn may_begin(
        &mut self,
        slot: u32,
        generation: u32,
        waits: impl Fn(&RingLink) -> bool,
    ) -> bool {
        let link = self.shard.link_of(slot, generation);
        if !link.is_some_and(|link| waits(link)) {
            return false;
        }
        let desire = self.shard.desire(slot);
        if desire.is_some_and(|desire| {
            desire.finish == Finish::No
                && matches!(desire.receive, Receive::Stream | Receive::Large)
        }) {
            return true;
        }
        // It is paused, or ends, and comes again if it goes on.
        if let Some(link) = self.shard.link(slot) {
            link.receiving = Receiving::No;
        }
        self.shard.touch(slot);
        false
    }

    pub(super) fn cancel_receive(&mut self, slot: u32, generation: u32) -> io::Result<()> {
        let Some(link) = self.shard.link(slot) else {
            return Ok(());
        };
        match link.receiving {
            // It does not wait.
            Receiving::Stream(Shots::Now) | Receiving::Look(_) => return Ok(()),
            Receiving::Stream(_) => {}
            Receiving::No | Receiving::Starved | Receiving::Queued | Receiving::Polled => {
                link.receiving = Receiving::No;
                return Ok(());
            }
        }
        if std::mem::replace(&mut link.receive_cancelled, true) {
            return Ok(());
        }
        self.cancel(Operation::new(Kind::Receive, generation, slot))
    }
}

/// How often a receive looks for data, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shots {
    /// Once, at once.
    Now,
    /// Whenever the socket is readable, and, unless it `polls_first`, at once. It fills buffers until it is cancelled or finds
    /// none.
    Many { polls_first: bool },
}

/// A receive into buffers of the group, as `opcode::RecvMulti` builds it, and with the choices that it lacks.
pub(super) fn receive(fd: io_uring::types::Fd, shots: Shots) -> squeue::Entry {
    let (flags, priority) = match shots {
        Shots::Now => (libc::MSG_DONTWAIT, 0),
        Shots::Many { polls_first: false } => (0, RECV_MULTISHOT),
        Shots::Many { polls_first: true } => (0, RECV_MULTISHOT | RECVSEND_POLL_FIRST),
    };
    opcode::Recv::new(fd, std::ptr::null_mut(), 0)
        .buf_group(GROUP)
        .flags(flags)
        .ioprio(priority)
        .build()
        .flags(squeue::Flags::BUFFER_SELECT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_constants_are_those_that_io_uring_uses() {
        let fd = io_uring::types::Fd(5);
        let theirs = opcode::RecvMulti::new(fd, GROUP).build();
        let ours = receive(fd, Shots::Many { polls_first: false });
        assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
    }
}
