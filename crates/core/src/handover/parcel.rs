//! One connection on its way from a worker of the predecessor to a worker of the successor.

use std::os::fd::OwnedFd;

use bytes::Bytes;
use rustix::net::Shutdown;

use crate::proxy::Client;

/// What is left of an established connection: its descriptor and a little state.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) socket: OwnedFd,
    pub(crate) state: State,
}

/// What is left of a connection besides its socket.
#[derive(Debug)]
pub(crate) struct State {
    /// The name of the socket that it was accepted on.
    pub(crate) name: String,
    /// The service that answered it; `None` if the predecessor is of a version that did not note it.
    pub(crate) service: Option<String>,
    /// Received and not consumed, from a frame boundary on.
    pub(crate) input: Bytes,
    /// The peer's end was seen behind `input`.
    pub(crate) ended: bool,
    /// Queued and not taken by the kernel.
    pub(crate) output: Bytes,
    /// What the service saved; `None` for a stateless session.
    pub(crate) session: Option<Bytes>,
    /// What a proxy said of the client, or is to say; `None` if it is at the other end.
    pub(crate) client: Option<Client>,
}

/// Ends a connection that nobody will serve. The descriptor may have duplicates, so closing it would not.
pub(crate) fn shut(socket: &OwnedFd) {
    let _ = rustix::net::shutdown(socket, Shutdown::Both);
}
