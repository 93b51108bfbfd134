//! A UDP socket that belongs to the application, at an address that it names.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

use super::own;
use crate::handover::store;
use crate::listeners::udp_address;
use crate::rlimit;

/// Goes on with the socket that the predecessor had bound, if that is where it is wanted, or binds one. Returns whether it goes on.
///
/// # Errors
///
/// That the address cannot be had.
pub(super) fn go_on(
    name: &str,
    wanted: SocketAddr,
    predecessors: Option<OwnedFd>,
) -> io::Result<(OwnedFd, bool)> {
    let Some(predecessors) = predecessors else {
        return Ok((bind(wanted)?, false));
    };
    let at = match udp_address(predecessors.as_fd()) {
        Ok(at) if is_at(wanted, at) => return Ok((predecessors, true)),
        Ok(at) => {
            tracing::info!("descriptor {name:?} of the application moves from {at} to {wanted}");
            Some(at)
        }
        Err(found) => {
            tracing::warn!("closing what the predecessor had as {name:?}: it is {found}");
            None
        }
    };
    match bind(wanted) {
        Err(error) if is_in_the_way(&error, wanted, at) => {
            drop(predecessors);
            // The service manager has it, too.
            store::take_out(&[&own(name)])?;
            Ok((bind(wanted)?, false))
        }
        bound => Ok((bound?, false)),
    }
}

/// Whether the address could be had by a successor of the process that has a socket of this name `at` there.
///
/// # Errors
///
/// That it cannot.
pub(super) fn rehearse(wanted: SocketAddr, at: Option<SocketAddr>) -> io::Result<()> {
    if at.is_some_and(|at| is_at(wanted, at)) {
        return Ok(());
    }
    match bind(wanted) {
        Err(error) if is_in_the_way(&error, wanted, at) => Ok(()),
        bound => bound.map(drop),
    }
}

/// Whether a socket that is there is where it is wanted. Port 0 is any.
fn is_at(wanted: SocketAddr, mut at: SocketAddr) -> bool {
    if wanted.port() == 0 {
        at.set_port(0);
    }
    at == wanted
}

/// Whether it may be the socket `at` there because of which the wanted address cannot be had.
fn is_in_the_way(error: &io::Error, wanted: SocketAddr, at: Option<SocketAddr>) -> bool {
    let overlaps = |at: SocketAddr| {
        at.port() == wanted.port() && (at.ip().is_unspecified() || wanted.ip().is_unspecified())
    };
    error.kind() == ErrorKind::AddrInUse && at.is_some_and(overlaps)
}

fn bind(address: SocketAddr) -> io::Result<OwnedFd> {
    match UdpSocket::bind(address) {
        Ok(socket) => Ok(socket.into()),
        Err(error) => {
            let advice = rlimit::advice(&error);
            let why = format!("{address}: {error}{advice}");
            Err(io::Error::new(error.kind(), why))
        }
    }
}
