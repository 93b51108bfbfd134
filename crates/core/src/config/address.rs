//! Addresses to listen on.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// The longest path or abstract name of a unix socket, in bytes: `sun_path` has 108, and either a final or a leading
/// zero takes one (unix(7)).
const MAX_UNIX_NAME: usize = 107;

/// One address of key `listen`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// `"127.0.0.1:4660"`, `"[::1]:4660"`. Port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// `"unix:/run/ringhold/rpc.sock"`: an absolute path, at most 107 bytes.
    UnixPath(PathBuf),
    /// `"unix:@name"`: a name in the abstract namespace, without the `@`, 1 to 107 bytes.
    UnixAbstract(String),
}

impl ListenAddress {
    /// Whether it is a TCP address.
    pub fn is_tcp(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::UnixPath(path) => write!(f, "unix:{}", path.display()),
            Self::UnixAbstract(name) => write!(f, "unix:@{name}"),
        }
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(name) => unix(text, name),
            None => tcp(text),
        }
    }
}

fn unix(text: &str, name: &str) -> Result<ListenAddress, String> {
    let (kind, bytes) = match name.strip_prefix('@') {
        Some(rest) => ("abstract name", rest),
        None => ("path", name),
    };
    if bytes.is_empty() {
        return Err(format!(
            "{text:?} has no {kind}; write \"unix:/path\" or \"unix:@name\""
        ));
    }
    if bytes.len() > MAX_UNIX_NAME {
        return Err(format!(
            "the {kind} of {text:?} has {} bytes; the kernel takes {MAX_UNIX_NAME}",
            bytes.len()
        ));
    }
    // Nobody means a line end, and it would be one wherever addresses are written.
    if let Some(wrong) = bytes.chars().find(|it| it.is_control()) {
        return Err(format!(
            "the {kind} of {text:?} contains the control character {wrong:?}"
        ));
    }
    if kind == "abstract name" {
        return Ok(ListenAddress::UnixAbstract(bytes.to_owned()));
    }
    if !bytes.starts_with('/') || bytes.ends_with('/') {
        return Err(format!(
            "{text:?} is not the absolute path of a socket; write \"unix:/path\" or \"unix:@name\""
        ));
    }
    Ok(ListenAddress::UnixPath(PathBuf::from(bytes)))
}

fn tcp(text: &str) -> Result<ListenAddress, String> {
    if let Ok(address) = text.parse() {
        return Ok(ListenAddress::Tcp(address));
    }
    let wrong = if text.starts_with('/') {
        format!("{text:?} is not an address; did you mean \"unix:{text}\"?")
    } else if let Some(name) = text.strip_prefix('@') {
        format!("{text:?} is not an address; did you mean \"unix:@{name}\"?")
    } else if text.parse::<std::net::IpAddr>().is_ok() {
        format!(
            "{text:?} has no port; write an address such as \"127.0.0.1:4660\" or \"[::1]:4660\""
        )
    } else {
        format!(
            "{text:?} is not an address; write an IP address and a port, such as \"127.0.0.1:4660\" or \"[::]:4660\", \
             or \"unix:/path\" or \"unix:@name\" (host names are not looked up)"
        )
    };
    Err(wrong)
}
