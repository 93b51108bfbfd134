//! One connection on its way from a worker of the predecessor to a worker of the successor.

use std::os::fd::OwnedFd;

use bytes::Bytes;
use rustix::net::Shutdown;

/// What is left of an established connection: its descriptor and a little state.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) socket: OwnedFd,
    /// The name of the socket that it was accepted on.
    pub(crate) name: String,
    /// Received and not consumed, from a frame boundary on.
    pub(crate) input: Bytes,
    /// The peer's end was seen behind `input`.
    pub(crate) ended: bool,
    /// Queued and not taken by the kernel.
    pub(crate) output: Bytes,
    /// What the service saved; `None` for a stateless session.
    pub(crate) session: Option<Bytes>,
}

/// Ends a connection that nobody will serve. The descriptor may have duplicates, so closing it would not.
pub(crate) fn shut(socket: &OwnedFd) {
    let _ = rustix::net::shutdown(socket, Shutdown::Both);
}
