//! Sending: one send in flight a connection, over everything that its outbox holds.

use std::io;
use std::os::fd::OwnedFd;

use io_uring::opcode;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Engine;
use super::link::{Message, Polling};
use super::operation::{Kind, Operation};
use super::queue::Completion;

/// A send takes what there is room for and never waits; see `room`.
const FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;

/// So many unused parameters of gathering sends are kept.
const MESSAGES_KEPT_MAX: usize = 64;

/// Whether a poll finds room now, whatever a send finds.
fn has_room(socket: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::OUT)];
    let polled = poll(&mut fds, Some(&Timespec::default()));
    polled.is_ok() && fds[0].revents().contains(PollFlags::OUT)
}

impl Engine<'_> {
    /// Begins a send of what is queued.
    pub(super) fn send(&mut self, slot: u32, generation: u32) -> io::Result<()> {
        let Some((outbox, link, pools)) = self.shard.sending(slot) else {
            return Ok(());
        };
        debug_assert!(link.sending == 0, "one send a connection");
        link.begin(&self.files, self.queue.submitter(), slot);
        let file = link.file(slot);
        let mut slices = outbox.begin(pools);
        let (send, length) = if slices.len() == 1
            && let Some(slice) = slices.next()
        {
            let length = u32::try_from(slice.len()).unwrap_or(u32::MAX);
            let send = opcode::Send::new(file.fd, slice.as_ptr(), length).flags(FLAGS);
            (send.build(), length)
        } else {
            let message = self.messages.pop().unwrap_or_else(Message::new);
            let (header, length) = link.gather(message, slices);
            let send = opcode::SendMsg::new(file.fd, header).flags(FLAGS as u32);
            (send.build(), u32::try_from(length).unwrap_or(u32::MAX))
        };
        link.sending = length;
        link.send_cancelled = false;
        let send = send
            .flags(file.flags)
            .user_data(Operation::new(Kind::Send, generation, slot).pack());
        // SAFETY: sealed segments of an outbox neither move nor change until `Outbox::sent`, which is called at the
        // completion, and the parameters stay in the link until then.
        #[expect(unsafe_code, reason = "submitting an operation")]
        unsafe {
            self.queue.push(&send)
        }
    }

    pub(super) fn sent(&mut self, operation: Operation, completion: &Completion) {
        let slot = operation.slot;
        let Some(link) = self.shard.expected_link(slot, operation.generation) else {
            return;
        };
        let length = std::mem::take(&mut link.sending) as usize;
        if let Some(message) = link.message.take()
            && self.messages.len() < MESSAGES_KEPT_MAX
        {
            self.messages.push(message);
        }
        // Even a send that was cancelled may have been taken in part.
        let taken = usize::try_from(completion.result).unwrap_or(0);
        let is_full = completion.result == -libc::EAGAIN;
        // Whoever took a part has no room for the rest.
        link.blocked = is_full || taken > 0 && taken < length;
        // The poll reports changes: it will, unless there is room already.
        if is_full && link.room == Polling::Armed && has_room(&link.socket) {
            self.pause(operation);
        }
        self.shard.sent(slot, taken);
        match -completion.result {
            ..=0 | libc::ECANCELED | libc::EINTR | libc::EAGAIN => {}
            errno => self.shard.failed(slot, io::Error::from_raw_os_error(errno)),
        }
    }

    pub(super) fn cancel_send(&mut self, slot: u32, generation: u32) -> io::Result<()> {
        let Some(link) = self.shard.link(slot) else {
            return Ok(());
        };
        if link.sending == 0 || std::mem::replace(&mut link.send_cancelled, true) {
            return Ok(());
        }
        self.cancel(Operation::new(Kind::Send, generation, slot))
    }
}
