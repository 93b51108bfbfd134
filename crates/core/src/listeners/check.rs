//! Is an inherited descriptor a listener that we can serve, or a datagram socket of the application? If not, what is it?

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::net::{AddressFamily, Protocol, SocketType, ipproto, sockopt};

use super::Address;

/// MPTCP, which a socket unit asks for with `SocketProtocol=mptcp` and which serves TCP clients too. Its number does
/// not fit the byte that other protocols have (linux/in.h).
const MPTCP: u32 = 262;

/// Whether `descriptor` is a listening socket of any kind (SO_ACCEPTCONN, socket(7)).
pub(crate) fn is_listening(descriptor: impl AsFd) -> bool {
    sockopt::socket_acceptconn(descriptor).unwrap_or(false)
}

/// The address of a listening TCP or unix stream socket; for anything else, what it is, with its article.
pub(super) fn listener(descriptor: BorrowedFd<'_>) -> Result<Address, String> {
    let (family, kind, protocol) = socket(descriptor)?;
    if let Some(other) = other_socket(family, kind, protocol) {
        return Err(other);
    }
    if !is_listening(descriptor) {
        return Err(no_listener(descriptor, family));
    }
    match Address::of(descriptor).map_err(unknown)? {
        Some(address) => Ok(address),
        None => Err("a listening socket of an unknown family".to_owned()),
    }
}

/// The address of a UDP socket; for anything else, what it is, with its article.
pub(crate) fn udp_address(descriptor: BorrowedFd<'_>) -> Result<SocketAddr, String> {
    let (family, kind, protocol) = socket(descriptor)?;
    if let (
        AddressFamily::INET | AddressFamily::INET6,
        SocketType::DGRAM,
        None | Some(ipproto::UDP),
    ) = (family, kind, protocol)
    {
        let address = rustix::net::getsockname(descriptor).map_err(unknown)?;
        return SocketAddr::try_from(address).map_err(unknown);
    }
    Err(match other_socket(family, kind, protocol) {
        Some(other) => other,
        None if is_listening(descriptor) => format!("a listening {} socket", stream(family)),
        None => no_listener(descriptor, family),
    })
}

/// What kind of a socket it is; for anything else, what that is.
fn socket(
    descriptor: BorrowedFd<'_>,
) -> Result<(AddressFamily, SocketType, Option<Protocol>), String> {
    let stat = rustix::fs::fstat(descriptor).map_err(unknown)?;
    let file_type = FileType::from_raw_mode(stat.st_mode);
    if file_type != FileType::Socket {
        return Err(file(file_type).to_owned());
    }
    let family = sockopt::socket_domain(descriptor).map_err(unknown)?;
    let kind = sockopt::socket_type(descriptor).map_err(unknown)?;
    let protocol = sockopt::socket_protocol(descriptor).map_err(unknown)?;
    Ok((family, kind, protocol))
}

fn unknown(error: Errno) -> String {
    format!("something that cannot be examined ({error})")
}

/// What a stream socket is that does not listen.
fn no_listener(descriptor: BorrowedFd<'_>, family: AddressFamily) -> String {
    let name = stream(family);
    // A connection has a peer; what has neither peer nor backlog was never listening.
    match rustix::net::getpeername(descriptor) {
        Ok(Some(_)) => format!("an established {name} connection"),
        _ => format!("a {name} socket that is not listening"),
    }
}

fn stream(family: AddressFamily) -> &'static str {
    match family {
        AddressFamily::UNIX => "unix",
        _ => "TCP",
    }
}

/// What a socket is that is neither TCP nor a unix stream.
fn other_socket(
    family: AddressFamily,
    kind: SocketType,
    protocol: Option<Protocol>,
) -> Option<String> {
    let text = match family {
        AddressFamily::UNIX => match kind {
            SocketType::STREAM => return None,
            SocketType::DGRAM => "a unix datagram socket",
            SocketType::SEQPACKET => "a unix sequential-packet socket",
            _ => "a unix socket of an unknown type",
        },
        AddressFamily::INET | AddressFamily::INET6 => match (kind, protocol) {
            (SocketType::STREAM, None | Some(ipproto::TCP)) => return None,
            (SocketType::STREAM, Some(protocol)) if protocol.as_raw().get() == MPTCP => {
                return None;
            }
            (SocketType::DGRAM, None | Some(ipproto::UDP)) => "a UDP socket",
            (SocketType::RAW, _) => "a raw IP socket",
            (_, Some(ipproto::SCTP)) => "an SCTP socket",
            _ => "an IP socket that is neither TCP nor UDP",
        },
        AddressFamily::NETLINK => "a netlink socket",
        AddressFamily::PACKET => "a packet socket",
        AddressFamily::VSOCK => "a vsock socket",
        other => return Some(format!("a socket of address family {}", other.as_raw())),
    };
    Some(text.to_owned())
}

fn file(file_type: FileType) -> &'static str {
    match file_type {
        FileType::RegularFile => "a regular file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a pipe",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        // eventfd, epoll, timerfd, signalfd and their like have no file type.
        _ => "a descriptor that is neither a socket nor a file",
    }
}
