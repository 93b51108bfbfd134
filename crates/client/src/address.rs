//! Where a server listens, as people write it.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use socket2::SockAddr;

/// The address of a server.
///
/// Written the way the `listen` setting of the daemon is read, which takes no host names. (`ListenStream=` of systemd writes
/// unix sockets without `unix:`.)
///
/// | text | meaning |
/// | --- | --- |
/// | `127.0.0.1:4660`, `[::1]:4660` | TCP |
/// | `localhost:4660` | TCP, the name is looked up at each connect |
/// | `unix:/run/ringhold/rpc.sock` | a unix stream socket in the file system |
/// | `unix:@ringhold` | a unix stream socket in the abstract name space (unix(7)) |
///
/// ```
/// use ringhold_client::Address;
/// let address: Address = "[::1]:4660".parse().unwrap();
/// assert_eq!(address.to_string(), "[::1]:4660");
/// assert!("4660".parse::<Address>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// A host name and a port.
    Host {
        /// The name, which is looked up when connecting.
        name: String,
        /// The TCP port.
        port: u16,
    },
    /// The path of a unix socket.
    Unix(PathBuf),
    /// The name of a unix socket in the abstract name space, without the leading NUL byte.
    Abstract(Vec<u8>),
}

impl Address {
    /// The socket addresses to try, in order.
    ///
    /// # Errors
    /// The look-up of a host name fails, or a unix path is longer than the kernel takes (107 bytes).
    pub(crate) fn endpoints(&self) -> io::Result<Vec<SockAddr>> {
        Ok(match self {
            Self::Tcp(address) => vec![SockAddr::from(*address)],
            Self::Host { name, port } => (name.as_str(), *port)
                .to_socket_addrs()?
                .map(SockAddr::from)
                .collect(),
            Self::Unix(path) => vec![SockAddr::unix(path)?],
            Self::Abstract(name) => {
                let mut path = vec![0];
                path.extend_from_slice(name);
                vec![SockAddr::unix(OsString::from_vec(path))?]
            }
        })
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let refuse = |why: &str| {
            Err(AddressError {
                text: text.to_owned(),
                why: why.to_owned(),
            })
        };
        if let Some(rest) = text.strip_prefix("unix:") {
            return match (rest.strip_prefix('@'), rest.is_empty()) {
                (Some(""), _) => refuse("the abstract name after '@' is empty"),
                (Some(name), _) => Ok(Self::Abstract(name.as_bytes().to_vec())),
                (None, true) => refuse("the path after 'unix:' is empty"),
                (None, false) => Ok(Self::Unix(PathBuf::from(rest))),
            };
        }
        if text.starts_with(['/', '@']) {
            return refuse(&format!("did you mean \"unix:{text}\"?"));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self::Tcp(address));
        }
        if let Some(rest) = text.strip_prefix('[') {
            return refuse(why_not_ipv6(rest));
        }
        let Some((name, port)) = text.rsplit_once(':') else {
            return refuse(
                "a port is missing, as in 127.0.0.1:4660; a unix socket is written unix:/path",
            );
        };
        if name.is_empty() {
            return refuse("a host is missing before the port, as in 127.0.0.1:4660");
        }
        if name.contains([':', '/', '[', ']']) || name.contains(char::is_whitespace) {
            return refuse(
                "the host is not valid; an IPv6 address is written in brackets, as in [::1]:4660",
            );
        }
        match port.parse() {
            Ok(port) => Ok(Self::Host {
                name: name.to_owned(),
                port,
            }),
            Err(_) => refuse("the port is not a number from 0 to 65535"),
        }
    }
}

/// What is wrong with an address that begins with a bracket, of which this is the rest.
fn why_not_ipv6(rest: &str) -> &'static str {
    let Some((inside, behind)) = rest.split_once(']') else {
        return "the bracket around the IPv6 address is not closed, as in [::1]:4660";
    };
    let (address, zone) = match inside.split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (inside, None),
    };
    let Some(port) = behind.strip_prefix(':') else {
        return "a port is missing behind the brackets, as in [::1]:4660";
    };
    if address.parse::<Ipv6Addr>().is_err() {
        "what is in the brackets is not an IPv6 address"
    } else if zone.is_some_and(|zone| zone.parse::<u32>().is_err()) {
        "the zone behind '%' is written as the number of its interface, as in [fe80::1%2]:4660; `ip link` shows it"
    } else if port.parse::<u16>().is_err() {
        "the port is not a number from 0 to 65535"
    } else {
        "it is not written as an IPv6 address and a port are, as in [::1]:4660"
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Host { name, port } => write!(f, "{name}:{port}"),
            Self::Unix(path) => {
                write!(
                    f,
                    "unix:{}",
                    String::from_utf8_lossy(path.as_os_str().as_bytes())
                )
            }
            Self::Abstract(name) => write!(f, "unix:@{}", String::from_utf8_lossy(name)),
        }
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

/// A text that is not an [`Address`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressError {
    text: String,
    why: String,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not an address: {}", self.text, self.why)
    }
}

impl std::error::Error for AddressError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_survives_a_round_trip() {
        let forms = [
            (
                "127.0.0.1:4660",
                Address::Tcp(([127, 0, 0, 1], 4660).into()),
            ),
            (
                "[::1]:4660",
                Address::Tcp((Ipv6Addr::LOCALHOST, 4660).into()),
            ),
            (
                "localhost:1",
                Address::Host {
                    name: "localhost".into(),
                    port: 1,
                },
            ),
            (
                "[fe80::1%2]:80",
                Address::Tcp(
                    std::net::SocketAddrV6::new(
                        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
                        80,
                        0,
                        2,
                    )
                    .into(),
                ),
            ),
            ("unix:/run/a b.sock", Address::Unix("/run/a b.sock".into())),
            ("unix:relative", Address::Unix("relative".into())),
            ("unix:@name", Address::Abstract(b"name".to_vec())),
        ];
        for (text, address) in forms {
            assert_eq!(text.parse(), Ok(address.clone()), "{text}");
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn refusals_say_what_is_missing() {
        let cases = [
            ("", "port is missing"),
            ("/run/a.sock", "did you mean \"unix:/run/a.sock\"?"),
            ("@name", "did you mean \"unix:@name\"?"),
            ("/run/a:1", "did you mean \"unix:/run/a:1\"?"),
            (":4660", "host is missing"),
            ("127.0.0.1", "port is missing"),
            ("127.0.0.1:x", "port is not a number"),
            ("127.0.0.1:65536", "port is not a number"),
            ("::1:4660", "brackets"),
            ("[::1]", "port is missing behind the brackets"),
            ("[::1]4660", "port is missing behind the brackets"),
            ("[::1:4660", "not closed"),
            ("[::1]:", "port is not a number"),
            ("[::1]:65536", "port is not a number"),
            ("[localhost]:1", "not an IPv6 address"),
            ("[fe80::1%eth0]:80", "as in [fe80::1%2]:4660"),
            ("a b:1", "not valid"),
            ("unix:", "path after"),
            ("unix:@", "abstract name"),
        ];
        for (text, part) in cases {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn endpoints_name_the_family() {
        let family = |text: &str| text.parse::<Address>().unwrap().endpoints().unwrap()[0].domain();
        assert_eq!(family("127.0.0.1:1"), socket2::Domain::IPV4);
        assert_eq!(family("[::1]:1"), socket2::Domain::IPV6);
        assert_eq!(family("unix:/a"), socket2::Domain::UNIX);
        let name = "unix:@x"
            .parse::<Address>()
            .unwrap()
            .endpoints()
            .unwrap()
            .remove(0);
        assert_eq!(name.as_abstract_namespace(), Some(&b"x"[..]));
        let long = format!("unix:/{}", "x".repeat(200));
        assert!(long.parse::<Address>().unwrap().endpoints().is_err());
    }
}
