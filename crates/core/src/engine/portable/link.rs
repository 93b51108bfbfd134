//! What the portable engine keeps for one connection.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use crate::engine::{peer_address, peer_credentials, unread};
use crate::peer::{Credentials, Link, PeerAddress};

/// The socket of a connection and what is under way on it.
///
/// The socket stays as it was accepted, that is, without O_NONBLOCK: each operation says itself that it must not wait.
pub(crate) struct PortableLink {
    /// Shared with the receive and the send in flight, and only with them.
    pub(super) socket: Rc<OwnedFd>,
    pub(super) receiving: Way,
    pub(super) sending: Way,
    /// Both sides were shut down, so that everything in flight completes.
    pub(super) shut_down: bool,
}

/// One direction of a connection.
pub(super) struct Way {
    pub(super) progress: Progress,
    pub(super) readiness: Readiness,
}

/// What is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing.
    No,
    /// The poll of this key waits for readiness.
    Polling(usize),
    /// The socket may be ready; a buffer is waited for, in the engine's queue.
    Starved,
    /// A receive or a send.
    Moving,
    /// The socket was said to be ready and was not. Nothing happens until the engine's pause is over.
    Pausing,
}

/// What is known about the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readiness {
    /// It was not ready when it was tried last: poll first.
    Unready,
    /// It may be ready, so that a try is cheaper than a poll.
    Likely,
    /// A poll said that it is ready.
    Ready,
}

impl Way {
    fn new(readiness: Readiness) -> Self {
        Way {
            progress: Progress::No,
            readiness,
        }
    }

    fn in_flight(&self) -> bool {
        matches!(self.progress, Progress::Polling(_) | Progress::Moving)
    }

    /// The try has failed with EAGAIN. Returns whether a poll had said otherwise.
    pub(super) fn was_unready(&mut self) -> bool {
        std::mem::replace(&mut self.readiness, Readiness::Unready) == Readiness::Ready
    }
}

impl PortableLink {
    /// Whether bytes are on their way.
    pub(super) fn moves(&self) -> bool {
        [&self.receiving, &self.sending]
            .into_iter()
            .any(|way| way.progress == Progress::Moving)
    }

    /// Whether the kernel has an operation on this socket.
    pub(super) fn in_flight(&self) -> bool {
        self.receiving.in_flight() || self.sending.in_flight()
    }
}

impl AsFd for PortableLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Link for PortableLink {
    fn new(socket: OwnedFd) -> Self {
        PortableLink {
            socket: Rc::new(socket),
            // A fresh connection has rarely sent anything yet, and has room for what it is sent.
            receiving: Way::new(Readiness::Unready),
            sending: Way::new(Readiness::Likely),
            shut_down: false,
        }
    }

    fn peer_address(&self) -> io::Result<PeerAddress> {
        peer_address(self.as_fd())
    }

    fn peer_credentials(&self) -> io::Result<Option<Credentials>> {
        peer_credentials(self.as_fd())
    }

    fn unread(&self) -> Option<u64> {
        unread(self.as_fd())
    }

    fn into_socket(self) -> OwnedFd {
        debug_assert!(!self.in_flight(), "the kernel still works on this socket");
        #[expect(
            clippy::expect_used,
            reason = "only operations in flight share the socket, and there are none"
        )]
        Rc::try_unwrap(self.socket).expect("nothing is in flight")
    }
}
