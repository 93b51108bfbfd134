//! What drives the connections: engines own the descriptors and the buffers, tell the shard what happened and do what
//! it desires.

mod accepting;
pub(crate) mod ring;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use crate::listeners::Listener;
use crate::peer::PeerAddress;

/// A listener as an engine sees it.
pub(crate) struct Acceptor {
    pub(crate) listener: Arc<Listener>,
    /// Index of the socket name.
    pub(crate) name: u16,
}

/// A worker's clock: milliseconds since it started, beginning at 1, since 0 means "not waiting" in a connection.
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn new() -> Self {
        Clock(Instant::now())
    }

    pub(crate) fn now(&self) -> u64 {
        self.0.elapsed().as_millis() as u64 + 1
    }
}

/// The address of the other end of a connected socket.
pub(crate) fn peer_address(socket: BorrowedFd<'_>) -> io::Result<PeerAddress> {
    let address = rustix::net::getpeername(socket)?;
    match address {
        Some(address) => match std::net::SocketAddr::try_from(address) {
            Ok(address) => Ok(PeerAddress::Tcp(address)),
            Err(_) => Ok(PeerAddress::Unix),
        },
        None => Ok(PeerAddress::Unix),
    }
}

/// Reads what the kernel has received on `socket` by now, for a connection that is being ended; `false` once there
/// is no more.
pub(crate) fn read_now(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    match rustix::net::recv(socket.as_fd(), buffer, rustix::net::RecvFlags::DONTWAIT) {
        Ok((count, _)) => Ok(Some(count)),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
