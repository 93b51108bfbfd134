//! What is logged about single connections.

use std::fmt;
use std::io;
use std::time::Duration;

use ringhold_framer::ErrorKind;
use tracing::field::{DisplayValue, display};

use crate::close::Close;
use crate::connection::{Connection, Life};
use crate::crowd::Party;
use crate::desk::Desk;
use crate::peer::{ConnectionId, Link, PeerAddress};
use crate::plain::{Counted, Plain};
use crate::reply::{Abandoned, Reply};
use crate::warnings::Kind;

/// A connection as the log names it. Socket, number and peer are fields for those who filter, and text for those who read.
pub(crate) struct Named<'a> {
    pub(crate) socket: &'a str,
    pub(crate) id: ConnectionId,
    address: Option<PeerAddress>,
    /// What lies between, if `address` is what it said.
    proxy: Option<PeerAddress>,
}

impl<'a> Named<'a> {
    /// Asks the kernel for the peer's address, so it is for what is really logged. There is none any more where the peer
    /// has reset the connection.
    pub(crate) fn new(connection: &Connection, desk: &'a Desk, link: &dyn Link) -> Self {
        let other_end = link.peer_address().ok();
        let (address, proxy) = match &connection.client {
            Some(client) => (Some((**client).clone()), other_end),
            None => (other_end, None),
        };
        Named {
            socket: &desk.names[connection.name as usize].name,
            id: connection.id,
            address,
            proxy,
        }
    }

    /// The value of the field `peer`.
    pub(crate) fn peer(&self) -> Option<DisplayValue<&PeerAddress>> {
        self.address.as_ref().map(display)
    }
}

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection {} of {}", self.id, self.socket)?;
        match &self.address {
            Some(PeerAddress::Unix) => f.write_str(" over a unix socket"),
            Some(address) => write!(f, " from {address}"),
            None => Ok(()),
        }?;
        match &self.proxy {
            Some(PeerAddress::Unix) => f.write_str(" through a proxy on a unix socket"),
            Some(proxy) => write!(f, " through {proxy}"),
            None => Ok(()),
        }
    }
}

/// Whose connection it is: behind a proxy that of the client which the proxy names. The kernel is asked once for all that one connection
/// causes before another one causes anything, since that may be any number.
#[cold]
pub(crate) fn whose(connection: &Connection, desk: &Desk, link: &dyn Link) -> Option<Party> {
    match &connection.client {
        Some(client) => Party::at(client),
        None => desk.warnings.last_party(connection.id, || {
            Party::of(|| link.peer_address(), || link.peer_credentials())
        }),
    }
}

/// Whatever services and peers have put into what is said stays in its line.
macro_rules! log {
    ($level:ident, $named:expr, $($what:tt)+) => {
        if tracing::enabled!(tracing::Level::$level) {
            let named: Named<'_> = $named;
            tracing::event!(
                tracing::Level::$level,
                socket = %named.socket,
                connection = %named.id,
                peer = named.peer(),
                "{named} {}",
                Plain(format_args!($($what)+))
            );
        }
    };
}

/// A connection was accepted, or taken over from the predecessor.
pub(crate) fn opens(connection: &Connection, desk: &Desk, link: &dyn Link) {
    log!(DEBUG, Named::new(connection, desk, link), "opens");
}

/// The header of its proxy is complete.
#[cold]
pub(crate) fn arrives(connection: &Connection, desk: &Desk, link: &dyn Link) {
    log!(
        DEBUG,
        Named::new(connection, desk, link),
        "has sent its PROXY protocol header"
    );
}

/// A connection was closed at once, since its client has as many as it may. It has no number.
#[cold]
pub(crate) fn crowded(name: u16, client: Party, desk: &Desk) {
    let warnings = &desk.warnings;
    if !warnings.lets_pass_of(Kind::Crowded, desk.now, || Some(client)) {
        return;
    }
    let socket = &desk.names[name as usize].name;
    let limit = desk.crew.crowd.limit(name);
    tracing::warn!(
        socket = %socket,
        peer = %client,
        "closed a connection of {socket} at once: {client} has as many others as sockets.{socket}.connections_per_client = {limit} \
         allows",
    );
}

/// A connection begins to end.
#[cold]
pub(crate) fn closes(connection: &Connection, why: &Close, desk: &Desk, link: &dyn Link) {
    let why_here = Here(why, connection.name, desk);
    ends(
        connection,
        why,
        desk,
        link,
        format_args!("closes: {why_here}"),
    );
}

/// A connection that is ending does not write what it still owes.
#[cold]
pub(crate) fn gives_up(connection: &Connection, why: &Close, desk: &Desk, link: &dyn Link) {
    let bytes = connection.outbox.len();
    // Those of one whose output alone is left were given up before.
    let promised = match connection.life {
        Life::Refused { .. } => connection.tickets.len() as u64,
        _ => 0,
    };
    let replies = Counted(promised, "deferred reply", "deferred replies");
    let why_here = Here(why, connection.name, desk);
    let ends = |what| ends(connection, why, desk, link, what);
    match promised {
        0 => ends(format_args!(
            "ends without the last {bytes} bytes that it owed: {why_here}"
        )),
        _ => ends(format_args!(
            "ends without the last {bytes} bytes and {replies} that it owed: {why_here}"
        )),
    }
}

/// The reply to a request, which `request` names, will not come.
#[cold]
pub(crate) fn unanswered(why: Abandoned, reply: &Reply<'_>, request: impl FnOnce() -> String) {
    let desk = &*reply.desk;
    let client = || whose(reply.connection, desk, reply.link);
    if !desk
        .warnings
        .lets_pass_of(Kind::Unanswered, desk.now, client)
    {
        return;
    }
    let cause = match why {
        // That it was dropped is what its authors look for.
        Abandoned::Dropped => "the service dropped its Responder without an answer".to_owned(),
        why => why.to_string(),
    };
    let request = request();
    log!(
        WARN,
        Named::new(reply.connection, desk, reply.link),
        "gets no answer to {request}: {cause}"
    );
}

/// Something that the peer sent has failed, of which nothing tells the peer.
#[cold]
pub(crate) fn untold(reply: &Reply<'_>, what: fmt::Arguments<'_>) {
    let desk = &*reply.desk;
    let named = || Named::new(reply.connection, desk, reply.link);
    let client = || whose(reply.connection, desk, reply.link);
    match desk.warnings.lets_pass_of(Kind::Untold, desk.now, client) {
        true => log!(WARN, named(), "is not told that {what}"),
        false => log!(DEBUG, named(), "is not told that {what}"),
    }
}

/// A stop waits for the reply to a request, which was promised `age` milliseconds ago.
#[cold]
pub(crate) fn waits(age: u64, reply: &Reply<'_>, request: impl FnOnce() -> String) {
    log!(
        INFO,
        Named::new(reply.connection, reply.desk, reply.link),
        "still waits for the answer to {}, promised {:?} ago",
        request(),
        Duration::from_millis(age)
    );
}

fn ends(
    connection: &Connection,
    why: &Close,
    desk: &Desk,
    link: &dyn Link,
    what: fmt::Arguments<'_>,
) {
    let named = || Named::new(connection, desk, link);
    let client = || whose(connection, desk, link);
    match warning(why) {
        Some(kind) if desk.warnings.lets_pass_of(kind, desk.now, client) => {
            log!(WARN, named(), "{what}");
        }
        None if why.is_orderly() => log!(TRACE, named(), "{what}"),
        // It may be looked for.
        _ => log!(DEBUG, named(), "{what}"),
    }
}

/// Why a connection of this name ends, with the limit that it exceeded where that is one of frames.
struct Here<'a>(&'a Close, u16, &'a Desk);

impl fmt::Display for Here<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Here(why, name, desk) = self;
        write!(f, "{why}")?;
        let Close::Framing(error) = why else {
            return Ok(());
        };
        let name = &desk.names[*name as usize];
        match error.kind() {
            ErrorKind::TooLarge if name.own_frame_bytes => {
                write!(f, " in [sockets.{}]", name.name)?;
            }
            ErrorKind::TooLarge => f.write_str(" in [limits]")?,
            ErrorKind::TooDeep => return write!(f, ", which is {}", name.limits.depth),
            _ => return Ok(()),
        }
        write!(f, ", which is {} bytes", name.limits.frame_bytes)
    }
}

/// Whether a socket failed for want of something on this machine, not because of its peer or the network.
fn is_ours(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::ENOBUFS))
}

/// What an end warns of; `None` if nothing is wrong with it, as with what networks do, and what services decide of whom they let in.
fn warning(why: &Close) -> Option<Kind> {
    Some(match why {
        Close::Finished | Close::Stopping | Close::HandedOver => return None,
        Close::Failed(error) if is_ours(error) => Kind::KernelMemory,
        Close::Failed(_) | Close::Idle | Close::Service(_) => return None,
        Close::Truncated => Kind::Truncated,
        Close::ProxyHeader(_) | Close::ProxyTimeout => Kind::ProxyHeader,
        Close::Crowded => Kind::Crowded,
        Close::Framing(_) => Kind::Framing,
        Close::TopLevel(_) => Kind::TopLevel,
        Close::Refused(_) => Kind::Refused,
        Close::Rejected(_) => Kind::Rejected,
        Close::Abandoned(_) => Kind::Abandoned,
        Close::Unrestored(_) => Kind::Unrestored,
        Close::Panicked => Kind::Panicked,
        Close::Overflow(_) => Kind::Overflow,
        Close::Cut(_) => Kind::Cut,
        Close::FrameTimeout => Kind::FrameTimeout,
        Close::WriteTimeout => Kind::WriteTimeout,
        Close::ReplyTimeout => Kind::ReplyTimeout,
        Close::Untaken => Kind::Untaken,
        Close::Unserved => Kind::Unserved,
        Close::Memory => Kind::Memory,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_fails_warns_only_where_this_machine_is_short_of_something() {
        let warned = |errno| warning(&Close::Failed(io::Error::from_raw_os_error(errno)));
        assert_eq!(warned(libc::ENOBUFS), Some(Kind::KernelMemory));
        assert_eq!(warned(libc::ENOMEM), Some(Kind::KernelMemory));
        for errno in [
            libc::ECONNRESET,
            libc::EPIPE,
            libc::ETIMEDOUT,
            libc::EHOSTUNREACH,
        ] {
            assert_eq!(warned(errno), None);
        }
    }
}
