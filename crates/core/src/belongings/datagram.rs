//! A UDP socket that belongs to the application, at an address that it names.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::getpeername;
use rustix::net::sockopt::{set_socket_reuseaddr, socket_reuseaddr};
use socket2::{Domain, Socket, Type};

use super::{PREFIX, own};
use crate::inherit::NamedDescriptor;
use crate::listeners::udp_address;
use crate::rlimit;

/// Binds one. Those of the predecessor's own sockets that are `leaving`, or among the `strays`, do not keep it from that: they stay open
/// until everything has begun, and what is stored of them is as well, so that an error costs nothing. Returns whether it goes on with
/// one instead.
///
/// # Errors
///
/// That the address cannot be had.
pub(super) fn open(
    name: &str,
    wanted: SocketAddr,
    leaving: &mut Vec<NamedDescriptor>,
    strays: &[NamedDescriptor],
) -> io::Result<(OwnedFd, bool)> {
    let bound = match bind(wanted) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            bind_beside(wanted, leaving.iter().chain(strays), error)
        }
        bound => bound,
    };
    if let Err(error) = &bound
        && let Some(index) = leaving.iter().position(|left| {
            let at = udp_address(left.fd.as_fd());
            left.name == own(name) && at.is_ok_and(|at| is_in_the_way(error, wanted, at))
        })
    {
        // The program that was asked could not tell: whoever has the address, too, must not cost the connections.
        let left = leaving.remove(index);
        tracing::error!("descriptor {name:?} of the application stays where it is: {error}");
        return Ok((left.fd, true));
    }
    Ok((bound?, false))
}

/// Tries to bind one as a successor of the process would that has the `leaving` sockets, each with its name. Returns it, unless one of
/// them has the address, which is then not among them any more.
///
/// # Errors
///
/// That the address cannot be had.
pub(super) fn rehearse(
    name: &str,
    wanted: SocketAddr,
    leaving: &mut Vec<(&str, SocketAddr)>,
) -> io::Result<Option<OwnedFd>> {
    let error = match bind(wanted) {
        Ok(bound) => return Ok(Some(bound)),
        Err(error) => error,
    };
    // Nobody else can have the address of one of them.
    let has_it = |&(left, at): &(&str, SocketAddr)| {
        is_in_the_way(&error, wanted, at) && (left == name || is_at(wanted, at))
    };
    match leaving.iter().position(has_it) {
        Some(index) => {
            leaving.remove(index);
            Ok(None)
        }
        None => Err(error),
    }
}

/// Whether a socket is where it is wanted.
pub(super) fn is_there(socket: &OwnedFd, wanted: SocketAddr) -> bool {
    udp_address(socket.as_fd())
        .is_ok_and(|at| is_at(wanted, at) || was_at(wanted, at) && is_connected(socket))
}

fn is_connected(socket: &OwnedFd) -> bool {
    getpeername(socket).is_ok_and(|peer| peer.is_some())
}

/// Whether a socket that is bound `at` there is where it is wanted. Port 0 is any.
pub(super) fn is_at(wanted: SocketAddr, mut at: SocketAddr) -> bool {
    if wanted.port() == 0 {
        at.set_port(0);
    }
    // The kernel keeps the scope only of an address that needs one.
    if let (SocketAddr::V6(at), SocketAddr::V6(wanted)) = (&mut at, wanted)
        && at.scope_id() == 0
    {
        at.set_scope_id(wanted.scope_id());
    }
    at == wanted
}

/// Whether it may have been where it is wanted before it was connected, which gives a socket of any address one.
fn was_at(wanted: SocketAddr, at: SocketAddr) -> bool {
    wanted.ip().is_unspecified()
        && wanted.is_ipv4() == at.is_ipv4()
        && [0, at.port()].contains(&wanted.port())
}

/// Whether it may be the socket `at` there because of which the wanted address cannot be had.
fn is_in_the_way(error: &io::Error, wanted: SocketAddr, at: SocketAddr) -> bool {
    let [one, other] = [at, wanted].map(|address| address.ip().to_canonical());
    let overlap = one == other || one.is_unspecified() || other.is_unspecified();
    error.kind() == ErrorKind::AddrInUse && at.port() == wanted.port() && overlap
}

/// Binds where none but these sockets of the predecessor are: the kernel lets two share an address that both allow it
/// (SO_REUSEADDR in socket(7)), and asks nobody later. `in_use` is the error if there are none.
fn bind_beside<'a>(
    wanted: SocketAddr,
    others: impl Iterator<Item = &'a NamedDescriptor>,
    in_use: io::Error,
) -> io::Result<OwnedFd> {
    let others = others.filter(|other| {
        let fd = other.fd.as_fd();
        other.name.starts_with(PREFIX) && udp_address(fd).is_ok_and(|at| at.port() == wanted.port())
    });
    let mut others: Vec<&OwnedFd> = others.map(|other| &other.fd).collect();
    if others.is_empty() {
        return Err(in_use);
    }
    // The application may have allowed it itself.
    others.retain(|other| socket_reuseaddr(other).is_ok_and(|is_set| !is_set));
    let allow = |allowed| {
        let mut others = others.iter();
        others.try_for_each(|other| set_socket_reuseaddr(other, allowed))
    };
    let bind = || -> io::Result<OwnedFd> {
        allow(true)?;
        let socket = Socket::new(Domain::for_address(wanted), Type::DGRAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&wanted.into())?;
        socket.set_reuse_address(false)?;
        Ok(socket.into())
    };
    let bound = bind();
    // It stays as it was if it goes on.
    allow(false)?;
    bound.map_err(|error| named(wanted, &error))
}

fn bind(address: SocketAddr) -> io::Result<OwnedFd> {
    let bound = UdpSocket::bind(address);
    bound
        .map(OwnedFd::from)
        .map_err(|error| named(address, &error))
}

/// The error, with the address and what to do.
fn named(address: SocketAddr, error: &io::Error) -> io::Error {
    let advice = rlimit::advice(error);
    io::Error::new(error.kind(), format!("{address}: {error}{advice}"))
}
