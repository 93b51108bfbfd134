//! What drives the connections: engines own the descriptors and the buffers, tell the shard what happened and do what
//! it desires.

mod accepting;
mod choice;
mod locked;
mod pause;
pub(crate) mod portable;
mod rehearsal;
pub(crate) mod ring;
mod turn;

pub use self::choice::EngineKind;
pub(crate) use self::choice::{Chosen, choose};
pub(crate) use self::locked::fit_rings;
pub(crate) use self::rehearsal::{Outfit, rehearse};

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::{getsockopt_impl, sockopt_impl};
use rustix::io::{Errno, ioctl_fionread, retry_on_intr};
use rustix::net::sockopt::socket_domain;
use rustix::net::{AddressFamily, RecvFlags, Shutdown, connect_unspec, recv, shutdown};

use crate::crew::Step;
use crate::crowd::Party;
use crate::handover::parcel::{self, Parcel};
use crate::host;
use crate::listeners::Listener;
use crate::peer::{Credentials, Link, PeerAddress};
use crate::shard::Shard;

/// A completion queue holds so many times the entries of the submission queue, so that it does not overflow: an
/// overflow loses nothing, but it ends multishot operations and costs extra calls. And when it is full the kernel submits nothing
/// more, and tokio-uring has been seen to hang (tokio-uring#147).
const COMPLETIONS_PER_SUBMISSION: u32 = 4;

/// A ring is not made smaller than this.
const ENTRIES_MIN: u32 = 64;

/// A listener as an engine sees it: one that its worker owns, or would accept from in place of the owner.
pub(crate) struct Acceptor {
    /// The worker.
    pub(crate) worker: usize,
    pub(crate) listener: Arc<Listener>,
    /// Index of the socket name.
    pub(crate) name: u16,
}

/// A worker's clock: milliseconds since it started, beginning at 1, since 0 means "not waiting" in a connection.
pub(crate) struct WorkerClock(Instant);

impl WorkerClock {
    pub(crate) fn new() -> Self {
        WorkerClock(Instant::now())
    }

    pub(crate) fn now(&self) -> u64 {
        self.0.elapsed().as_millis() as u64 + 1
    }

    /// When it will be, or was, `now`.
    pub(crate) fn instant(&self, now: u64) -> Instant {
        self.0 + Duration::from_millis(now.saturating_sub(1))
    }
}

/// What a worker leaves when it ends.
pub(crate) struct Served {
    /// Connections that were let go, for the successor.
    pub(crate) parcels: Vec<Parcel>,
    /// What its services leave, by number; empty if there is no successor.
    pub(crate) left: Vec<Option<Bytes>>,
    /// Why it failed, if it did. Connections that it still had are lost then.
    pub(crate) result: io::Result<()>,
}

impl Served {
    /// It has not served at all, or not to the end.
    pub(crate) fn nothing(result: io::Result<()>) -> Self {
        Served {
            parcels: Vec::new(),
            left: Vec::new(),
            result,
        }
    }
}

/// Asks the services of a worker that has ended what they leave, then drops them. To be dropped they may take their time: from
/// then on the worker is not expected to take turns.
pub(crate) fn let_go<L: Link>(shard: &mut Shard<L>) -> Vec<Option<Bytes>> {
    let left = shard.hand_over();
    shard.desk.crew.reach(shard.desk.worker, Step::Finished);
    shard.let_go_of_sources();
    host::drop_all(shard.take_hosts());
    left
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

/// Does what [`Finish::Shutdown`](crate::connection::Finish::Shutdown) asks for.
pub(crate) fn send_fin<L: Link + AsFd>(shard: &mut Shard<L>, slot: u32) {
    if let Some(link) = shard.link(slot) {
        // It fails if the peer has reset the connection, which a receive reports, too.
        let _ = shutdown(&*link, Shutdown::Write);
    }
    shard.shut(slot);
}

/// Ends a connection at once, with a reset where its kind has one: the kernel drops what it holds for the peer, which sees that there
/// was more. Everything that waits on the socket ends.
///
/// SO_LINGER would do the same, but not before the last duplicate is closed. Until then the peer would see nothing, or behind
/// [`parcel::shut`] an orderly end; and if that reaches it before the reset does, it never sees anything else.
pub(crate) fn reset(socket: &OwnedFd) {
    // A unix socket cannot be disconnected. What was sent on it is the peer's by now.
    if connect_unspec(socket).is_err() {
        parcel::shut(socket);
    }
}

/// The credentials of the other end of a connected socket, if it is a unix socket.
pub(crate) fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<Option<Credentials>> {
    // Others are answered too, with numbers that mean nobody.
    if socket_domain(socket)? != AddressFamily::UNIX {
        return Ok(None);
    }
    // With nix: in what rustix returns, the process cannot be the 0 that stands for one of another namespace.
    let peer = getsockopt(&socket, PeerCredentials)?;
    Ok(Some(Credentials {
        pid: u32::try_from(peer.pid()).ok().filter(|pid| *pid > 0),
        uid: peer.uid(),
        gid: peer.gid(),
    }))
}

/// Who is at the other end of a connected socket. `None` if it has reset the connection by now.
pub(crate) fn party(socket: BorrowedFd<'_>) -> Option<Party> {
    Party::of(|| peer_address(socket), || peer_credentials(socket))
}

/// Memory that the kernel holds for what was sent on this socket and not taken by the peer, in bytes. For a unix socket it becomes
/// less only when a whole buffer has been read, which has up to some 48 KiB; the kernel has no finer count.
pub(crate) fn unread(socket: BorrowedFd<'_>) -> Option<u64> {
    // Of the fields of sock_diag(7): SK_MEMINFO_WMEM_ALLOC, which is it for unix sockets, and SK_MEMINFO_WMEM_QUEUED for TCP.
    let [_, _, allocated, _, _, queued, ..] = getsockopt(&socket, MemoryInfo).ok()?;
    Some(u64::from(allocated) + u64::from(queued))
}

sockopt_impl!(
    /// What a socket uses (SO_MEMINFO), as in sock_diag(7).
    MemoryInfo,
    GetOnly,
    libc::SOL_SOCKET,
    libc::SO_MEMINFO,
    [u32; 9]
);

/// This connection receives no more: see [`Shard::read_last`]. Nothing may be receiving on the socket.
pub(crate) fn read_last<L: Link + AsFd>(shard: &mut Shard<L>, slot: u32) {
    let mut buffer = [0; 16 * 1024];
    // The kernel always knows it of a connection.
    let there = |link: &L| ioctl_fionread(link).unwrap_or(0);
    shard.read_last(slot, there, |shard| {
        let link: &L = shard.link(slot)?;
        let received = retry_on_intr(|| recv(link, &mut buffer, RecvFlags::DONTWAIT));
        match received {
            Ok((0, _)) => shard.ended(slot),
            Ok((length, _)) => {
                shard.received(slot, &buffer[..length], None);
                return Some(length as u64);
            }
            Err(Errno::AGAIN) => {}
            Err(errno) => shard.failed(slot, errno.into()),
        }
        None
    });
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_reset_waits_for_no_duplicate_and_looks_like_no_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut ours, _) = listener.accept().unwrap();
        // Nothing is left in the kernel behind which an end would have to wait.
        ours.write_all(b"taken").unwrap();
        peer.read_exact(&mut [0; 5]).unwrap();
        let duplicate = ours.try_clone().unwrap();
        reset(&ours.into());
        let end = peer.read(&mut [0]).unwrap_err();
        assert_eq!(end.kind(), ErrorKind::ConnectionReset);
        drop(duplicate);
    }

    #[test]
    fn a_unix_socket_is_ended_instead() {
        let (mut ours, mut peer) = UnixStream::pair().unwrap();
        ours.write_all(b"taken").unwrap();
        let duplicate = ours.try_clone().unwrap();
        reset(&ours.into());
        let mut all = Vec::new();
        peer.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"taken");
        drop(duplicate);
    }
}
