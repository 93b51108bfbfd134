//! What the portable engine keeps for one connection.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::engine::{peer_address, peer_credentials, unread};
use crate::peer::{Credentials, Link, PeerAddress};

/// The socket of a connection and what is under way on it.
///
/// The socket stays as it was accepted, that is, without O_NONBLOCK: each system call says itself that it must not wait.
pub(crate) struct PortableLink {
    pub(super) socket: OwnedFd,
    pub(super) receiving: Way,
    pub(super) sending: Way,
    /// Both sides were shut down, so that its polls complete.
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
    /// The socket may be ready, and is in the engine's queue of those to receive from, or to send on.
    Queued,
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

    fn is_polled(&self) -> bool {
        matches!(self.progress, Progress::Polling(_))
    }

    /// The try has failed with EAGAIN. Returns whether a poll had said otherwise.
    pub(super) fn was_unready(&mut self) -> bool {
        std::mem::replace(&mut self.readiness, Readiness::Unready) == Readiness::Ready
    }
}

impl PortableLink {
    /// Whether the kernel has a poll of this socket, or is about to be given one.
    pub(super) fn is_polled(&self) -> bool {
        self.receiving.is_polled() || self.sending.is_polled()
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
            socket,
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
        debug_assert!(!self.is_polled(), "the kernel still polls this socket");
        self.socket
    }
}
