//! One connection on its way from a worker of the predecessor to a worker of the successor.

use std::os::fd::OwnedFd;

use rustix::net::Shutdown;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::proxy::Client;

/// What is left of an established connection: its descriptor and a little state.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) socket: OwnedFd,
    pub(crate) state: State,
}

/// What is left of a connection besides its socket, as it is written to the [vault](super::vault).
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// The kernel's name of the socket (SO_COOKIE), once it is packed.
    pub(crate) cookie: u64,
    /// The name of the socket that it was accepted on.
    pub(crate) name: String,
    /// Received and not consumed, from a frame boundary on.
    #[serde(with = "serde_bytes")]
    pub(crate) input: Vec<u8>,
    /// The peer's end was seen behind `input`.
    pub(crate) ended: bool,
    /// Queued and not taken by the kernel.
    #[serde(with = "serde_bytes")]
    pub(crate) output: Vec<u8>,
    /// What the service saved; `None` for a stateless session.
    pub(crate) session: Option<ByteBuf>,
    /// The service that answered it.
    pub(crate) service: String,
    /// What a proxy said of the client, or is to say; `None` if it is at the other end.
    pub(crate) client: Option<Client>,
}

/// Ends a connection for both sides. The descriptor may have duplicates, so closing it would not.
pub(crate) fn shut(socket: &OwnedFd) {
    let _ = rustix::net::shutdown(socket, Shutdown::Both);
}
