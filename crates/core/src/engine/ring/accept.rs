//! Asking the kernel for connections: one multishot accept a listener.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use io_uring::opcode;
use io_uring::types::Fd;

use super::Engine;
use super::operation::{Kind, Operation};
use super::queue::Completion;
use crate::engine::Acceptor;
use crate::engine::accepting::Accepting;
use crate::shard::Accept;

/// One listener of this worker, and the accept that is in flight on it.
pub(super) struct Listening {
    pub(super) accepting: Accepting,
    flight: Flight,
    /// Whether the kernel refused multishot accepts on this listener.
    one_shot: bool,
}

/// Whether an accept is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flight {
    None,
    Armed,
    /// It was asked to end.
    Cancelled,
}

impl Listening {
    pub(super) fn new(acceptor: Acceptor) -> Self {
        Listening {
            accepting: Accepting::new(acceptor),
            flight: Flight::None,
            one_shot: false,
        }
    }
}

impl Engine<'_> {
    /// Brings what is in flight on a listener into line with what is wanted of it.
    pub(super) fn arm_accept(&mut self, index: usize) -> io::Result<()> {
        let acceptor = &mut self.acceptors[index];
        match acceptor.flight {
            Flight::None if acceptor.accepting.is_wanted() => self.submit_accept(index),
            Flight::None if acceptor.accepting.is_stopping() => {
                acceptor.accepting.end(&mut self.shard);
                Ok(())
            }
            Flight::Armed if !acceptor.accepting.is_wanted() => {
                acceptor.flight = Flight::Cancelled;
                self.cancel(Operation::new(Kind::Accept, 0, index as u32))
            }
            Flight::None | Flight::Armed | Flight::Cancelled => Ok(()),
        }
    }

    fn submit_accept(&mut self, index: usize) -> io::Result<()> {
        let acceptor = &mut self.acceptors[index];
        let fd = Fd(acceptor.accepting.socket().as_raw_fd());
        // Never SOCK_NONBLOCK: a receive on such a socket fails with EAGAIN instead of waiting for data.
        let flags = libc::SOCK_CLOEXEC;
        let accept = if acceptor.one_shot {
            opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut())
                .flags(flags)
                .build()
        } else {
            opcode::AcceptMulti::new(fd).flags(flags).build()
        };
        let accept = accept.user_data(Operation::new(Kind::Accept, 0, index as u32).pack());
        acceptor.flight = Flight::Armed;
        // SAFETY: the entry points to nothing.
        #[expect(unsafe_code, reason = "submitting an operation")]
        unsafe {
            self.queue.push(&accept)
        }
    }

    /// An accept completed. A connection can come with any completion, the last one included.
    pub(super) fn accepted(
        &mut self,
        operation: Operation,
        completion: &Completion,
    ) -> io::Result<()> {
        let index = operation.slot as usize;
        let acceptor = &mut self.acceptors[index];
        if completion.result >= 0 {
            // SAFETY: the kernel made this descriptor for us and told nobody else.
            #[expect(unsafe_code, reason = "adopting an accepted descriptor")]
            let socket = unsafe { OwnedFd::from_raw_fd(completion.result) };
            acceptor.accepting.take_in(socket, &mut self.shard);
        }
        if !completion.more() {
            acceptor.flight = Flight::None;
            if completion.result < 0 {
                self.accept_failed(index, -completion.result);
            }
        }
        self.arm_accept(index)
    }

    fn accept_failed(&mut self, index: usize, errno: i32) {
        let acceptor = &mut self.acceptors[index];
        let error = io::Error::from_raw_os_error(errno);
        if matches!(errno, libc::EINVAL | libc::ENOTSOCK) && !acceptor.one_shot {
            tracing::warn!(
                socket = %acceptor.accepting.socket_name(),
                "multishot accept is refused ({error}): accepting one by one"
            );
            acceptor.one_shot = true;
        } else {
            acceptor.accepting.failed(&error, &self.shard);
        }
    }

    /// Accepts again where the rest is over.
    pub(super) fn retry_accepts(&mut self) -> io::Result<()> {
        for index in 0..self.acceptors.len() {
            let accepting = &mut self.acceptors[index].accepting;
            if accepting.end_rest(self.shard.desk.now) {
                self.arm_accept(index)?;
            }
        }
        Ok(())
    }

    /// Does what a mail asks of the listeners. What was accepted by the time the kernel has confirmed the end of an accept
    /// is served.
    pub(super) fn obey(&mut self, order: Accept) -> io::Result<()> {
        for index in 0..self.acceptors.len() {
            let accepting = &mut self.acceptors[index].accepting;
            accepting.obey(order, &mut self.shard);
            self.arm_accept(index)?;
        }
        Ok(())
    }
}
