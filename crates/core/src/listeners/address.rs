//! Where a socket listens, as the kernel says.

use std::ffi::OsStr;
use std::fmt;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::net::SocketAddrAny;

/// The address of a listener (getsockname(2)).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// TCP, over IPv4 or IPv6.
    Tcp(SocketAddr),
    /// A unix socket with a path.
    UnixPath(PathBuf),
    /// A unix socket with a name in the abstract namespace, without the leading zero byte.
    UnixAbstract(Vec<u8>),
    /// A unix socket without a name.
    UnixUnnamed,
}

impl Address {
    /// Whether it is a TCP address.
    pub fn is_tcp(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    /// The address of `socket`; `None` if it is of another family.
    ///
    /// # Errors
    /// That the kernel does not tell, because it is no socket.
    pub(crate) fn of(socket: impl AsFd) -> rustix::io::Result<Option<Self>> {
        Ok(Self::from_any(&rustix::net::getsockname(socket)?))
    }

    fn from_any(address: &SocketAddrAny) -> Option<Self> {
        if let Ok(address) = SocketAddr::try_from(address.clone()) {
            return Some(Self::Tcp(address));
        }
        let unix = rustix::net::SocketAddrUnix::try_from(address.clone()).ok()?;
        if let Some(bytes) = unix.path_bytes() {
            // With a path of the full 107 bytes rustix leaves the final zero in.
            let path = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
            return Some(Self::UnixPath(PathBuf::from(OsStr::from_bytes(path))));
        }
        Some(match unix.abstract_name() {
            Some(name) => Self::UnixAbstract(name.to_vec()),
            None => Self::UnixUnnamed,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::UnixPath(path) => write!(f, "unix:{}", path.display()),
            Self::UnixAbstract(name) => write!(f, "unix:@{}", name.escape_ascii()),
            Self::UnixUnnamed => f.write_str("unix:(unnamed)"),
        }
    }
}
