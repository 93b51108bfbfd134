//! From socket sections and inherited descriptors to listeners: match by name, check, bind what is missing.
//!
//! A plan decides and checks, and changes nothing on the machine; opening it binds. The same plan makes the table that
//! `ringhold check` prints.

use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::{fmt, io};

use rustix::net::{Shutdown, SocketFlags, accept_with, shutdown};

use crate::config::ListenAddress;

mod address;
mod bind;
mod bound_path;
mod buffers;
mod check;
mod entry;
mod error;
mod heirloom;
mod keepalive;
mod matching;
mod names;
mod overlap;
mod plan;
mod rehearsal;
mod rows;
mod succession;

pub use address::Address;
pub use bound_path::BoundPath;
pub(crate) use check::{is_listening, udp_address};
pub(crate) use error::quoted;
pub use error::{StartError, StartProblem};
pub(crate) use heirloom::Heirloom;
// The tests of this crate plan without a server.
#[doc(hidden)]
pub use plan::{Plan, plan};
#[doc(hidden)]
pub use rehearsal::rehearse;
pub(crate) use rehearsal::{rehearse_binding, to_be_bound};
pub use rows::{Row, Source, Table};
pub(crate) use succession::Held;

/// A listening socket: what it is called, who answers, and which workers take its connections.
#[derive(Debug)]
pub struct Listener {
    /// The name of its section.
    pub name: Arc<str>,
    /// The index of the name among all names that have listeners; by which connections are counted.
    pub group: usize,
    /// The socket, listening and close-on-exec. Whether it blocks is as the service manager made it, and blocking if
    /// we bound it.
    pub socket: OwnedFd,
    /// Where it listens, as the kernel says.
    pub address: Address,
    /// Where it comes from.
    pub origin: Origin,
    /// The service that answers.
    pub service: String,
    /// Whether it is served. Otherwise its connections are accepted and closed, so that clients do not hang.
    pub enabled: bool,
    /// The worker that accepts. While it is stuck, another one of the partition accepts in its place.
    pub owner: usize,
    /// The workers that connections may be dealt to.
    pub partition: Vec<usize>,
    /// Whether connections are dealt over the partition. They are not where the listeners of one address
    /// (SO_REUSEPORT) cover it already: then they stay with the owner.
    pub dealt: bool,
    /// The path that we made for it, if any.
    pub path: Option<BoundPath>,
    /// We bound it before a restart or reload, and it has listened since.
    pub(crate) is_kept: bool,
    /// The worker that accepts in the owner's place at the moment, or the owner.
    deputy: AtomicUsize,
    /// It listens no more: see [`Listener::close`].
    is_closed: AtomicBool,
}

/// Where a listener comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was passed on as descriptor `number`.
    Inherited {
        /// The number, as it was passed.
        number: RawFd,
        /// Its descriptor name.
        name: String,
    },
    /// We bound it.
    Bound {
        /// What the configuration asked for; the port may have been 0.
        listen: ListenAddress,
    },
}

impl Listener {
    /// Removes the path of a unix socket that we bound, if it is still ours: the last thing before the socket is closed
    /// for good. Returns whether a path was removed. An inherited path is never touched.
    ///
    /// # Errors
    /// That the path is ours and cannot be removed.
    pub fn unlink(&self) -> io::Result<bool> {
        self.path.as_ref().map_or(Ok(false), BoundPath::remove)
    }

    /// Ends a listener that we bound, when nobody comes after us who would accept: its path is removed, and who connects is
    /// refused at once, as is who waits to be accepted, if there is room for one descriptor. An inherited one stays as it is, and who
    /// connects waits for the next process. Only the first call does anything.
    ///
    /// # Errors
    /// Those of [`Listener::unlink`]. It is closed nevertheless.
    pub(crate) fn close(&self) -> io::Result<()> {
        let is_inherited = matches!(self.origin, Origin::Inherited { .. });
        if is_inherited || self.is_closed.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let unlinked = self.unlink();
        // Closing the descriptor would not do: the workers have it, too.
        let _ = shutdown(&self.socket, Shutdown::Both);
        // That resets who waits over TCP, but for one whose handshake is under way if the kernel has chosen the port (port 0): the listener
        // has given that back by then, and the kernel drops the connection without a word. It does not reset over a unix socket. Once it is
        // shut down, nobody is added, and accept4(2) never waits.
        while accept_with(&self.socket, SocketFlags::CLOEXEC).is_ok() {}
        unlinked.map(drop)
    }

    /// Whether [`Listener::close`] was called on one that we bound.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst)
    }

    /// Has this worker of the partition accept beside the owner, or nobody if it is the owner. Returns whether that is new.
    pub(crate) fn set_deputy(&self, worker: usize) -> bool {
        self.deputy.swap(worker, Ordering::Relaxed) != worker
    }

    /// Whether this worker accepts as of now.
    pub(crate) fn is_accepted_by(&self, worker: usize) -> bool {
        worker == self.owner || worker == self.deputy.load(Ordering::Relaxed)
    }

    /// As [`Listener::unlink`], unless the predecessor made the path: a process that could not start leaves it to the
    /// next one.
    pub(crate) fn unlink_new(&self) -> io::Result<bool> {
        let new = self.path.as_ref().filter(|path| !path.taken_over);
        new.map_or(Ok(false), BoundPath::remove)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inherited { number, .. } => write!(f, "inherited (fd {number})"),
            Self::Bound { .. } => f.write_str("bound"),
        }
    }
}
