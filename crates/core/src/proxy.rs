//! The header of the PROXY protocol, in which a proxy says whose connection it passes on: versions 1 and 2 of haproxy's
//! doc/proxy-protocol.txt.
//!
//! Of the crates for it, `ppp` 2.3 refuses a line that is cut before its last port, and `proxy-header` 0.1.3 takes a line of any
//! length, unless it is cut. Here the verdict does not depend on where the header is cut.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::peer::PeerAddress;

/// A longer header is refused. A line is never longer than 107 bytes; what may be long in version 2 is what is not looked at,
/// such as the certificate of the client. As much as nginx takes.
pub(crate) const HEADER_BYTES_MAX: usize = 4096;

/// The longest line of version 1, with its end.
const LINE_BYTES_MAX: usize = 107;

const LINE_START: &[u8] = b"PROXY ";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// What version 2 has before the addresses: the signature, version and command, family and protocol, and the length of the rest.
const FIXED_BYTES: usize = SIGNATURE.len() + 4;

/// What a successor is told of a client that is not, or may not be, at the other end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Client {
    /// The header is not complete.
    Awaited,
    /// It said that the client is at this address.
    Tcp(SocketAddr),
    /// It said that the client came to the proxy over a unix socket.
    Unix,
}

impl Client {
    /// Where it is, if the header said it.
    pub(crate) fn address(&self) -> Option<PeerAddress> {
        match self {
            Client::Awaited => None,
            Client::Tcp(address) => Some(PeerAddress::Tcp(*address)),
            Client::Unix => Some(PeerAddress::Unix),
        }
    }
}

impl From<&PeerAddress> for Client {
    fn from(address: &PeerAddress) -> Self {
        match address {
            PeerAddress::Tcp(address) => Client::Tcp(*address),
            PeerAddress::Unix => Client::Unix,
        }
    }
}

/// A whole header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// How many bytes it takes.
    pub(crate) length: usize,
    /// Where the client is; `None` if the connection is the proxy's own, or the proxy does not know.
    pub(crate) client: Option<PeerAddress>,
}

/// Reads a header at the beginning of what was received. `None` as long as it is incomplete.
///
/// # Errors
///
/// What is wrong, as the end of a sentence that says that a header is expected. More bytes do not help.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Header>, &'static str> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(byte, known)| byte == known);
    if begins(LINE_START) {
        version_1(bytes)
    } else if begins(SIGNATURE) {
        version_2(bytes)
    } else {
        Err("but begins otherwise")
    }
}

/// A line such as `PROXY TCP4 192.0.2.7 192.0.2.1 41312 4660`.
fn version_1(bytes: &[u8]) -> Result<Option<Header>, &'static str> {
    let within = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    match within.iter().position(|byte| *byte == b'\n') {
        Some(end) => {
            let client = client_of_line(&within[..end]).ok_or("but its line is wrong")?;
            let length = end + 1;
            Ok(Some(Header { length, client }))
        }
        None if within.len() == LINE_BYTES_MAX => Err("but its line is longer than 107 bytes"),
        None => Ok(None),
    }
}

/// What a line without its `\n` says of the client. The outer `None` if the line is wrong.
fn client_of_line(line: &[u8]) -> Option<Option<PeerAddress>> {
    let line = line.strip_suffix(b"\r")?;
    if let Some(rest) = line.strip_prefix(b"PROXY UNKNOWN") {
        // What else there is means nothing.
        return (rest.is_empty() || rest[0] == b' ').then_some(None);
    }
    let mut fields = std::str::from_utf8(line).ok()?.split(' ').skip(1);
    let ip: fn(&str) -> Option<IpAddr> = match fields.next()? {
        "TCP4" => |text| Some(text.parse::<Ipv4Addr>().ok()?.into()),
        "TCP6" => |text| Some(text.parse::<Ipv6Addr>().ok()?.into()),
        _ => return None,
    };
    // The proxy's own has to be there.
    let [from, _] = [ip(fields.next()?)?, ip(fields.next()?)?];
    let [from_port, _] = [port(fields.next()?)?, port(fields.next()?)?];
    let is_whole = fields.next().is_none();
    is_whole.then(|| Some(PeerAddress::Tcp((from, from_port).into())))
}

/// A number without a sign and without zeros before it.
fn port(text: &str) -> Option<u16> {
    let is_plain = text == "0" || !text.starts_with(['0', '+']);
    text.parse().ok().filter(|_| is_plain)
}

/// The signature, a command, the addresses, and any more that the length includes.
fn version_2(bytes: &[u8]) -> Result<Option<Header>, &'static str> {
    let fixed = bytes.get(SIGNATURE.len()..);
    let Some(&[command, family, high, low]) = fixed.and_then(|fixed| fixed.first_chunk()) else {
        return Ok(None);
    };
    let length = FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err("but its version or command is not known"),
    };
    let address_bytes = match (family >> 4, family & 0x0f) {
        // A connection of the proxy's own, whatever else it says of it.
        _ if is_local => 0,
        (0, 0..=2) => 0,
        (1, 0..=2) => 12,
        (2, 0..=2) => 36,
        (3, 0..=2) => 216,
        _ => return Err("but its family or protocol is not known"),
    };
    if length < FIXED_BYTES + address_bytes {
        return Err("but it has no room for its addresses");
    }
    if length > HEADER_BYTES_MAX {
        return Err("but it is longer than 4096 bytes");
    }
    let Some(header) = bytes.get(..length) else {
        return Ok(None);
    };
    let client = match is_local {
        true => None,
        false => client_of_addresses(family, &header[FIXED_BYTES..]),
    };
    Ok(Some(Header { length, client }))
}

/// `None` if the proxy does not know it, or it is no stream that it passes on.
fn client_of_addresses(family: u8, addresses: &[u8]) -> Option<PeerAddress> {
    let (from, port_at): (IpAddr, _) = match family {
        0x11 => (addresses.first_chunk::<4>().copied()?.into(), 8),
        0x21 => (addresses.first_chunk::<16>().copied()?.into(), 32),
        // The path, if it has one, tells nothing: whoever connects rarely has.
        0x31 => return Some(PeerAddress::Unix),
        _ => return None,
    };
    let port = addresses.get(port_at..)?.first_chunk().copied()?;
    Some(PeerAddress::Tcp((from, u16::from_be_bytes(port)).into()))
}

#[cfg(test)]
mod tests;
