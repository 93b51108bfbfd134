//! Listeners that the predecessor had bound itself and passed on.

use std::os::fd::{AsFd, OwnedFd};

use rustix::net::sockopt::set_tcp_nodelay;

use super::bind::{Bound, Options, adjust};
use super::{Address, BoundPath};
use crate::config::ListenAddress;

/// A listener that the predecessor had bound for `listen` of section `name`. Where the configuration still says so it is
/// taken over, so that nobody who connects in between is refused; otherwise it is closed and its path removed.
#[derive(Debug)]
pub(crate) struct Heirloom {
    pub(crate) socket: OwnedFd,
    pub(crate) name: String,
    /// In the notation of the configuration.
    pub(crate) listen: String,
    pub(crate) path: Option<BoundPath>,
}

impl Heirloom {
    pub(super) fn is_for(&self, name: &str, listen: &ListenAddress) -> bool {
        self.name == name && self.listen == listen.to_string()
    }

    /// Closes it for good.
    pub(super) fn discard(self) {
        if let Some(Err(error)) = self.path.map(|path| path.remove()) {
            tracing::warn!(socket = %self.name, "cannot remove the path of the predecessor's socket: {error}");
        }
    }

    /// Makes it what the configuration says now: backlog, mode, owners, nodelay. `None` if that cannot be done, in which
    /// case it is closed and is to be bound anew.
    pub(super) fn adapt(self, options: &Options) -> Option<Bound> {
        let address = Address::of(self.socket.as_fd()).ok().flatten()?;
        let adapted = match &self.path {
            Some(path) => adjust(path.path(), options).is_ok(),
            None if address.is_tcp() => set_tcp_nodelay(&self.socket, options.nodelay).is_ok(),
            None => true,
        };
        // Listening again changes the backlog and nothing else (listen(2)).
        if adapted && rustix::net::listen(&self.socket, options.backlog).is_ok() {
            Some(Bound {
                socket: self.socket,
                address,
                path: self.path,
            })
        } else {
            self.discard();
            None
        }
    }
}

impl BoundPath {
    pub(crate) fn to_record(&self) -> (String, u64, u64) {
        // A path that is not UTF-8 cannot have come from the configuration.
        (
            self.path.to_string_lossy().into_owned(),
            self.device,
            self.inode,
        )
    }

    pub(crate) fn from_record((path, device, inode): (String, u64, u64)) -> Self {
        BoundPath {
            path: path.into(),
            device,
            inode,
        }
    }
}
