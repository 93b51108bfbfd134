//! Asking the kernel for connections: one multishot accept a listener, or, where there is not room for the backlogs of all
//! listeners, which it could take before it is told to stop, one after the other.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use io_uring::opcode;
use io_uring::types::Fd;

use super::operation::{Kind, Operation};
use super::queue::Completion;
use super::{Engine, RingLink};
use crate::engine::Acceptor;
use crate::engine::accepting::Accepting;
use crate::shard::{Accept, Shard};

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
    Armed {
        /// It may bring any number of connections.
        many: bool,
    },
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

    fn failed(&mut self, flight: Flight, errno: i32, shard: &Shard<RingLink>) {
        let error = io::Error::from_raw_os_error(errno);
        let is_refused = matches!(errno, libc::EINVAL | libc::ENOTSOCK);
        if is_refused && flight == (Flight::Armed { many: true }) {
            tracing::warn!(
                socket = %self.accepting.socket_name(),
                "multishot accept is refused ({error}): accepting one by one"
            );
            self.one_shot = true;
        } else {
            self.accepting.failed(&error, shard);
        }
    }
}

impl Engine<'_> {
    /// Brings what is in flight on the listeners into line with what is wanted of them. What was accepted by the time the
    /// kernel has confirmed the end of an accept is served.
    pub(super) fn update_accepts(&mut self) -> io::Result<()> {
        for index in 0..self.acceptors.len() {
            let Listening {
                accepting, flight, ..
            } = &mut self.acceptors[index];
            accepting.end_rest(self.shard.desk.now);
            match *flight {
                Flight::None if accepting.is_wanted() => self.submit_accept(index)?,
                Flight::None if accepting.is_stopping() => accepting.end(&mut self.shard),
                Flight::Armed { many }
                    if !accepting.is_wanted()
                        || many && !accepting.has_room_for(self.room_to_spare, &self.shard) =>
                {
                    *flight = Flight::Cancelled;
                    self.cancel(Operation::new(Kind::Accept, 0, index as u32))?;
                }
                Flight::None | Flight::Armed { .. } | Flight::Cancelled => {}
            }
        }
        Ok(())
    }

    fn submit_accept(&mut self, index: usize) -> io::Result<()> {
        let acceptor = &mut self.acceptors[index];
        let fd = Fd(acceptor.accepting.socket().as_raw_fd());
        // Never SOCK_NONBLOCK: a receive on such a socket fails with EAGAIN instead of waiting for data.
        let flags = libc::SOCK_CLOEXEC;
        let accepting = &acceptor.accepting;
        let many = !acceptor.one_shot && accepting.has_room_for(self.room_to_spare, &self.shard);
        let accept = if many {
            opcode::AcceptMulti::new(fd).flags(flags).build()
        } else {
            opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut())
                .flags(flags)
                .build()
        };
        let accept = accept.user_data(Operation::new(Kind::Accept, 0, index as u32).pack());
        acceptor.flight = Flight::Armed { many };
        // SAFETY: the entry points to nothing.
        #[expect(unsafe_code, reason = "submitting an operation")]
        unsafe {
            self.queue.push(&accept)
        }
    }

    /// An accept completed. A connection can come with any completion, the last one included.
    pub(super) fn accepted(&mut self, operation: Operation, completion: &Completion) {
        let acceptor = &mut self.acceptors[operation.slot as usize];
        if completion.result >= 0 {
            // SAFETY: the kernel made this descriptor for us and told nobody else.
            #[expect(unsafe_code, reason = "adopting an accepted descriptor")]
            let socket = unsafe { OwnedFd::from_raw_fd(completion.result) };
            acceptor.accepting.take_in(socket, &mut self.shard);
        }
        if !completion.more() {
            let ended = std::mem::replace(&mut acceptor.flight, Flight::None);
            if completion.result < 0 {
                acceptor.failed(ended, -completion.result, &self.shard);
            }
        }
    }

    /// Does what a mail asks of the listeners.
    pub(super) fn obey(&mut self, order: Accept) {
        for acceptor in &mut self.acceptors {
            acceptor.accepting.obey(order, &mut self.shard);
        }
    }
}
