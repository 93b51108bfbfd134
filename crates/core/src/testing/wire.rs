//! What takes the place of sockets.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;

use bytes::Bytes;

use crate::peer::{Credentials, Link, PeerAddress};

/// Who a client is.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) address: PeerAddress,
    pub(super) credentials: Option<Credentials>,
}

/// As if it were in the process that tests.
impl Default for Identity {
    fn default() -> Self {
        // Miri knows no groups.
        let gid = if cfg!(miri) {
            0
        } else {
            rustix::process::getegid().as_raw()
        };
        Identity {
            address: PeerAddress::Unix,
            credentials: Some(Credentials {
                pid: Some(std::process::id()),
                uid: rustix::process::geteuid().as_raw(),
                gid,
            }),
        }
    }
}

/// What takes the place of a socket.
#[derive(Default)]
pub(super) struct Wire {
    pub(super) peer: Identity,
    /// What the client has sent and the connection has not read yet, in the pieces in which it was sent.
    pub(super) incoming: VecDeque<Bytes>,
    /// The client has ended its side, behind `incoming`.
    pub(super) ended: bool,
    /// The connection was told so.
    pub(super) end_seen: bool,
    /// What the client has been sent.
    pub(super) sent: Vec<u8>,
    /// The client reads only so many more bytes; `None` = all.
    pub(super) window: Option<usize>,
    /// Bytes of a send that was begun and of which the client has read nothing.
    pub(super) flight: Option<Vec<u8>>,
    /// The server has ended its side, with nothing unsent before it.
    pub(super) shut: bool,
    /// The client has reset the connection.
    pub(super) reset: bool,
    /// The server has.
    pub(super) is_cut: bool,
    /// The client does not end its side because the server has.
    pub(super) keeps_open: bool,
    /// What stands for the socket, when the connection is about to be handed over.
    pub(super) stand_in: Option<OwnedFd>,
}

impl Wire {
    pub(super) fn unread(&self) -> usize {
        self.incoming.iter().map(Bytes::len).sum()
    }

    /// Lets the client read of `bytes` what its window allows; returns how many bytes that were.
    pub(super) fn read(&mut self, bytes: &[u8]) -> usize {
        let count = self.window.unwrap_or(usize::MAX).min(bytes.len());
        if let Some(window) = &mut self.window {
            *window -= count;
        }
        self.sent.extend_from_slice(&bytes[..count]);
        count
    }
}

impl Link for Wire {
    fn new(socket: OwnedFd) -> Self {
        Wire {
            stand_in: Some(socket),
            ..Wire::default()
        }
    }

    fn peer_address(&self) -> io::Result<PeerAddress> {
        Ok(self.peer.address.clone())
    }

    fn peer_credentials(&self) -> io::Result<Option<Credentials>> {
        Ok(self.peer.credentials)
    }

    fn unread(&self) -> Option<u64> {
        None
    }

    fn into_socket(self) -> OwnedFd {
        self.stand_in
            .unwrap_or_else(|| unreachable!("a connection that is handed over has been given one"))
    }
}
