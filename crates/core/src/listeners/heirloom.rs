//! Listeners that the predecessor had bound itself and passed on.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::Shutdown;
use rustix::net::sockopt::{
    ipv6_v6only, set_tcp_congestion, set_tcp_nodelay, socket_reuseport, tcp_congestion,
};
use socket2::{Domain, Socket, Type};

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
    /// Whether it was bound for this address of this section, with the options that cannot be changed afterwards.
    pub(super) fn is_for(&self, name: &str, listen: &ListenAddress, options: &Options) -> bool {
        self.name == name
            && self.listen == listen.to_string()
            && self.is_bound_like(listen, options).unwrap_or(false)
    }

    /// Closes it for good. The descriptor has duplicates until the handover is over, so it must also stop listening:
    /// then the address is free at once, even for another section.
    pub(super) fn discard(self) {
        if let Some(Err(error)) = self.path.map(|path| path.remove()) {
            tracing::warn!(socket = %self.name, "cannot remove the path of the predecessor's socket: {error}");
        }
        // It fails where nobody listens any more.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }

    /// Makes it what the configuration says now: backlog, mode, owners, nodelay, congestion. `None` if that cannot be done, in which
    /// case it is closed and is to be bound anew.
    pub(super) fn adapt(self, options: &Options) -> Option<Bound> {
        let Some(address) = self.adapted(options) else {
            self.discard();
            return None;
        };
        Some(Bound {
            socket: self.socket,
            address,
            path: self.path,
        })
    }

    fn adapted(&self, options: &Options) -> Option<Address> {
        let address = Address::of(self.socket.as_fd()).ok().flatten()?;
        match (&self.path, &address) {
            (Some(path), _) => adjust(path.path(), options).ok()?,
            (None, Address::Tcp(_)) => {
                set_tcp_nodelay(&self.socket, options.nodelay).ok()?;
                self.set_congestion(options).ok()?;
            }
            (None, _) => {}
        }
        // Listening again changes the backlog and nothing else (listen(2)).
        rustix::net::listen(&self.socket, options.backlog).ok()?;
        Some(address)
    }

    fn set_congestion(&self, options: &Options) -> io::Result<()> {
        let name = match &options.congestion {
            Some(name) => name.clone(),
            // The default, which a fresh socket has.
            None => tcp_congestion(Socket::new(Domain::IPV4, Type::STREAM, None)?)?,
        };
        if tcp_congestion(&self.socket)? != name {
            set_tcp_congestion(&self.socket, &name)?;
        }
        Ok(())
    }

    fn is_bound_like(&self, listen: &ListenAddress, options: &Options) -> io::Result<bool> {
        let ListenAddress::Tcp(address) = listen else {
            return Ok(true);
        };
        if socket_reuseport(&self.socket)? != options.reuse_port {
            return Ok(false);
        }
        Ok(match options.ipv6_only {
            Some(only) if address.is_ipv6() => ipv6_v6only(&self.socket)? == only,
            _ => true,
        })
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
            taken_over: true,
        }
    }
}
