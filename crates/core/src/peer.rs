//! Who is at the other end.

use std::cell::OnceCell;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::crew::Name;
use crate::reply::Reply;

mod handle;

pub use self::handle::{Handle, PushError};
pub(crate) use self::handle::{HandleState, Handles, Item, Pieces};

/// Names one connection for as long as the process lives. It has an order to be a key in it, which says nothing of what came first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// For a socket on which nothing is in flight.
    fn new(socket: OwnedFd) -> Self
    where
        Self: Sized;

    /// The peer's address, from the kernel.
    fn peer_address(&self) -> io::Result<PeerAddress>;

    /// The peer's credentials, from the kernel; `None` if it has none, over TCP.
    fn peer_credentials(&self) -> io::Result<Option<Credentials>>;

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

/// Which process is at the other end of a unix socket, and whose it is: what the kernel noted when the peer called connect(2)
/// (`SO_PEERCRED`, unix(7)).
///
/// Numbers are as this process sees them. A user or group that its user namespace does not know is 65534, as a rule
/// (`/proc/sys/kernel/overflowuid`, `overflowgid`): to a unit with `PrivateUsers=yes`, everybody but root and its own user is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The process that connected; `None` if it belongs to a PID namespace that this process does not see. It may have ended
    /// since, and its number may be another one's, so do not decide by it who may do what.
    pub pid: Option<u32>,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group. Others that the user is a member of are not told.
    pub gid: u32,
}

/// The other end of a connection: who it is, and how the connection came.
#[derive(Clone, Copy)]
pub struct Peer<'a> {
    id: ConnectionId,
    name: &'a Name,
    /// Where a proxy said that it is.
    client: Option<&'a PeerAddress>,
    is_handed_over: bool,
    link: &'a dyn Link,
    handles: &'a Handles,
    /// Milliseconds on the worker's clock.
    now: u64,
    /// The connection's own.
    handle: &'a OnceCell<Arc<HandleState>>,
    /// What is answered to those who push to it.
    push_error: Option<PushError>,
}

impl<'a> Peer<'a> {
    /// Of the connection that is replied to.
    pub(crate) fn new(reply: &'a Reply<'_>) -> Self {
        Peer {
            id: reply.connection.id,
            name: &reply.desk.names[reply.connection.name as usize],
            client: reply.connection.client.as_deref(),
            is_handed_over: reply.connection.is_handed_over,
            link: reply.link,
            handles: &reply.desk.handles,
            now: reply.desk.now,
            handle: reply.handle,
            push_error: reply.connection.push_error(),
        }
    }

    /// Calls `call` with the same and the reply. It borrows from copies then, since `call` may change what the reply has.
    pub(crate) fn beside<R>(
        reply: &mut Reply<'_>,
        call: impl FnOnce(&Peer<'_>, &mut Reply<'_>) -> R,
    ) -> R {
        let (names, handles) = (reply.desk.names.clone(), reply.desk.handles.clone());
        let client = reply.connection.client.clone();
        let peer = Peer {
            id: reply.connection.id,
            name: &names[reply.connection.name as usize],
            client: client.as_deref(),
            is_handed_over: reply.connection.is_handed_over,
            link: reply.link,
            handles: &handles,
            now: reply.desk.now,
            handle: reply.handle,
            push_error: reply.connection.push_error(),
        };
        call(&peer, reply)
    }

    /// The name of the socket that the connection was accepted on.
    pub fn socket_name(&self) -> &'a str {
        &self.name.name
    }

    /// Names the connection for as long as the process lives.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// Whether the connection was a service's in the process before, and goes on in this one.
    pub fn is_handed_over(&self) -> bool {
        self.is_handed_over
    }

    /// How long the worker has been running, in whole milliseconds, as of the beginning of its turn, as [`Tick::now`](crate::Tick::now).
    pub fn now(&self) -> Duration {
        Duration::from_millis(self.now)
    }

    /// The peer's address: where a proxy said that the client is, if the socket has `proxy_protocol`. Otherwise, or if the proxy did
    /// not know it, the kernel is asked each time.
    ///
    /// # Errors
    ///
    /// Those of getpeername(2); `NotConnected` if the peer is gone already.
    pub fn address(&self) -> io::Result<PeerAddress> {
        match self.client {
            Some(client) => Ok(client.clone()),
            None => self.link.peer_address(),
        }
    }

    /// The address of the proxy that said what [`Peer::address`] is; `None` if that is the address of the other end.
    ///
    /// # Errors
    ///
    /// Those of getpeername(2); `NotConnected` if the proxy is gone already.
    pub fn proxy_address(&self) -> io::Result<Option<PeerAddress>> {
        self.client.map(|_| self.link.peer_address()).transpose()
    }

    /// The peer's credentials, those of the time when it connected; `None` over TCP, which has none. Asks the kernel each time. A
    /// successor that takes the connection over gets the same. Behind a proxy they are the proxy's.
    ///
    /// ```
    /// use ringhold_core::{Flow, Frame, Peer, Refusal, Reply, Service};
    ///
    /// /// Serves some users, over unix sockets.
    /// struct Restricted {
    ///     uids: Vec<u32>,
    /// }
    ///
    /// impl Service for Restricted {
    ///     type Session = ();
    ///
    ///     fn connected(&mut self, peer: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
    ///         match peer.credentials()? {
    ///             Some(who) if self.uids.contains(&who.uid) => Ok(()),
    ///             Some(who) => Err(Refusal::new(format!("user {} may not connect", who.uid))),
    ///             None => Err(Refusal::new("only unix sockets tell who connects")),
    ///         }
    ///     }
    ///     # fn frame(&mut self, _: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
    ///     #     reply.write(|out| out.extend_from_slice(&frame));
    ///     #     Flow::Continue
    ///     # }
    ///     // ...
    /// }
    /// # use ringhold_core::testing::Exchange;
    /// # use ringhold_core::{Credentials, PeerAddress};
    /// # let mut exchange = Exchange::new(Restricted { uids: vec![1000] });
    /// # let mut serves = |uid| {
    /// #     let who = Credentials { pid: None, uid, gid: 100 };
    /// #     exchange.set_peer(PeerAddress::Unix, Some(who));
    /// #     let client = exchange.connect();
    /// #     exchange.receive(client, b"\xc0");
    /// #     !exchange.take_sent(client).is_empty()
    /// # };
    /// # assert!(serves(1000) && !serves(0));
    /// ```
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2), of which none is known to occur.
    pub fn credentials(&self) -> io::Result<Option<Credentials>> {
        self.link.peer_credentials()
    }

    /// A way to push bytes to the connection from anywhere. To keep it does not keep the connection, nor hinder a handover: whether that
    /// goes on is for [`Service::save`](crate::Service::save) to say.
    pub fn handle(&self) -> Handle {
        let pushed_max = self.name.limits.outbox_bytes;
        self.handles
            .handle(self.id, pushed_max, self.handle, self.push_error)
    }
}

impl fmt::Debug for Peer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Peer({}, {:?})", self.id, self.socket_name())
    }
}
