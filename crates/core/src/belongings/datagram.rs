//! A UDP socket that belongs to the application, at an address that it names.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::net::getpeername;
use rustix::net::sockopt::{set_socket_reuseaddr, socket_reuseaddr};
use socket2::{Domain, Socket, Type};

use super::{PREFIX, own};
use crate::inherit::NamedDescriptor;
use crate::listeners::udp_address;
use crate::rlimit;

/// Binds one. Those of the predecessor's own sockets that are `leaving`, or among the `others`, do not keep it from that: they stay open
/// until everything has begun, and what is stored of them is as well, so that an error costs nothing. Returns whether it goes on with
/// one that is leaving instead.
///
/// # Errors
///
/// That the address cannot be had.
pub(super) fn open(
    name: &str,
    wanted: SocketAddr,
    leaving: &mut Vec<NamedDescriptor>,
    others: &[&NamedDescriptor],
) -> io::Result<(OwnedFd, bool)> {
    let bound = match bind(wanted) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            bind_beside(wanted, leaving.iter().chain(others.iter().copied()), error)
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

/// What a successor of the process would do that has the `leaving` sockets, each with its name, one after the other.
pub(super) struct Rehearsal<'a> {
    leaving: Vec<(&'a str, SocketAddr)>,
    /// Until all of them are, so that no two of them want the same.
    bound: Vec<OwnedFd>,
    /// The names and addresses of all, and whether that was tried.
    places: Vec<(&'a str, SocketAddr, bool)>,
}

impl<'a> Rehearsal<'a> {
    pub(super) fn new(leaving: Vec<(&'a str, SocketAddr)>) -> Self {
        Rehearsal {
            leaving,
            bound: Vec::new(),
            places: Vec::new(),
        }
    }

    /// One that is `at` there goes on.
    ///
    /// # Errors
    ///
    /// That it is in the way of another one.
    pub(super) fn stay(&mut self, name: &'a str, at: SocketAddr) -> io::Result<()> {
        self.place(name, at, true)
    }

    /// Tries to bind one, unless one that is leaving has the address.
    ///
    /// # Errors
    ///
    /// That the address cannot be had: that of the kernel as `explain` has it, or that another one is to be there.
    pub(super) fn bind(
        &mut self,
        name: &'a str,
        wanted: SocketAddr,
        explain: impl FnOnce(io::Error) -> io::Error,
    ) -> io::Result<()> {
        let error = match bind(wanted) {
            Ok(bound) => {
                self.bound.push(bound);
                return self.place(name, wanted, true);
            }
            Err(error) => error,
        };
        // Nobody else can have the address of one of them.
        let has_it = |&(left, at): &(&str, SocketAddr)| {
            is_in_the_way(&error, wanted, at) && (left == name || has_all_of(at, wanted))
        };
        match self.leaving.iter().any(has_it) {
            true => self.place(name, wanted, false),
            false => Err(explain(error)),
        }
    }

    /// Of two that were tried the kernel has said whether they can be together.
    fn place(&mut self, name: &'a str, at: SocketAddr, is_tried: bool) -> io::Result<()> {
        let mut others = self.places.iter();
        let other = others.find(|(_, other, tried)| !(is_tried && *tried) && overlap(at, *other));
        if let Some((other, there, _)) = other {
            let why = format!("{at}: descriptor {other:?} is to be at {there}");
            return Err(io::Error::new(ErrorKind::AddrInUse, why));
        }
        self.places.push((name, at, is_tried));
        Ok(())
    }
}

/// A duplicate of the predecessor's own descriptor of this name, if it is a UDP socket and keeps others from one of these addresses.
pub(super) fn in_the_way(
    name: &str,
    descriptor: &OwnedFd,
    wanted: &[SocketAddr],
) -> Option<NamedDescriptor> {
    let at = udp_address(descriptor.as_fd()).ok()?;
    wanted.iter().find(|wanted| overlap(**wanted, at))?;
    let fd = descriptor.try_clone().ok()?;
    Some(NamedDescriptor {
        name: own(name),
        number: fd.as_raw_fd(),
        fd,
    })
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

/// Whether a socket that is bound `at` there has all that one at the wanted address would have. Whether `[::]` takes version 4, too, its
/// address does not say.
fn has_all_of(at: SocketAddr, wanted: SocketAddr) -> bool {
    let [all, one] = [at, wanted].map(|address| address.ip().to_canonical());
    let includes = all.is_unspecified() && all.is_ipv4() == one.is_ipv4();
    is_at(wanted, at) || at.port() == wanted.port() && includes
}

/// Whether it may have been where it is wanted before it was connected, which gives a socket of any address one.
fn was_at(wanted: SocketAddr, at: SocketAddr) -> bool {
    wanted.ip().is_unspecified()
        && wanted.is_ipv4() == at.is_ipv4()
        && [0, at.port()].contains(&wanted.port())
}

/// Whether it may be the socket `at` there because of which the wanted address cannot be had.
pub(super) fn is_in_the_way(error: &io::Error, wanted: SocketAddr, at: SocketAddr) -> bool {
    error.kind() == ErrorKind::AddrInUse && overlap(wanted, at)
}

/// Whether no two sockets can have both: one is the other, or includes it, as `[::]` does all of version 4, too.
pub(super) fn overlap(wanted: SocketAddr, at: SocketAddr) -> bool {
    let [one, other] = [at, wanted].map(|address| address.ip().to_canonical());
    let includes =
        |any: IpAddr, one: IpAddr| any.is_unspecified() && (any.is_ipv6() || one.is_ipv4());
    at.port() == wanted.port() && (one == other || includes(one, other) || includes(other, one))
}

/// Binds where none but these sockets of the predecessor are: the kernel lets two share an address that both allow it
/// (SO_REUSEADDR in socket(7)), and asks nobody later. So one of another process that allows it as well does not refuse it, though it would
/// another bind: at `127.0.0.2:8125`, say, beside `0.0.0.0:8125`, where it keeps what is sent to it. `in_use` is the error if there are none.
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
    let advice = match error.kind() {
        ErrorKind::AddrInUse => format!(
            "; is another instance running, or a socket unit active that this process was not started by? \"ss -uanp sport = :{}\" \
             shows it",
            address.port()
        ),
        _ => rlimit::advice(error).to_owned(),
    };
    io::Error::new(error.kind(), format!("{address}: {error}{advice}"))
}
