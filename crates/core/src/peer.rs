//! Who is at the other end.

use std::cell::OnceCell;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

mod handle;

pub use self::handle::{Handle, PushError};
pub(crate) use self::handle::{HandleState, Handles};

/// Names one connection for as long as the process lives.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    pub(crate) worker: u16,
    /// Differs between the connections that use the same slot one after the other.
    pub(crate) generation: u32,
    pub(crate) slot: u32,
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.worker, self.slot, self.generation)
    }
}

/// As it is displayed, so that what a service logs is found with what the log says of the connection.
impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What an engine keeps per connection, as far as the rest may ask about it.
pub(crate) trait Link {
    /// The peer's address, from the kernel.
    fn peer_address(&self) -> io::Result<PeerAddress>;

    /// Memory that the kernel holds for what the peer was sent and has not taken, in bytes. `None` if that is not known.
    fn unread(&self) -> Option<u64>;

    /// The socket, when nothing is in flight on it any more.
    fn into_socket(self) -> OwnedFd
    where
        Self: Sized;
}

/// The address of the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerAddress {
    /// A TCP peer.
    Tcp(std::net::SocketAddr),
    /// A peer on a unix socket; clients there usually have no address of their own.
    Unix,
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerAddress::Tcp(address) => address.fmt(f),
            PeerAddress::Unix => f.write_str("unix"),
        }
    }
}

/// The other end of a new connection, as a service sees it when the connection is made.
pub struct Peer<'a> {
    pub(crate) id: ConnectionId,
    pub(crate) socket_name: Arc<str>,
    pub(crate) link: &'a dyn Link,
    pub(crate) handles: Handles,
    /// The connection's own.
    pub(crate) handle: &'a OnceCell<Arc<HandleState>>,
}

impl Peer<'_> {
    /// The name of the socket that the connection was accepted on.
    pub fn socket_name(&self) -> &str {
        &self.socket_name
    }

    /// Names this connection for as long as the process lives.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// The peer's address. Asks the kernel each time.
    ///
    /// # Errors
    ///
    /// Those of getpeername(2); `NotConnected` if the peer is gone already.
    pub fn address(&self) -> io::Result<PeerAddress> {
        self.link.peer_address()
    }

    /// A way to push bytes to this connection from anywhere.
    pub fn handle(&self) -> Handle {
        self.handles.handle(self.id, self.handle)
    }
}
