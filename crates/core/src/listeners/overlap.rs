//! Whether two addresses are in the way of each other, found out without binding them.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use rustix::net::sockopt::ipv6_v6only;
use socket2::{Domain, Socket, Type};

use crate::config::ListenAddress;

/// What a listener occupies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Space {
    /// A port of one address or of all; `v6only` says of `[::]` that those are the addresses of IPv6.
    Tcp { address: SocketAddr, v6only: bool },
    /// The path, its directory resolved as far as it exists.
    Path(PathBuf),
    /// A name in the abstract namespace.
    Abstract(String),
}

impl Space {
    /// What `listen` would occupy. `v6only` is what its section says (`ipv6_only`).
    pub(super) fn of(listen: &ListenAddress, v6only: Option<bool>) -> Self {
        match listen {
            ListenAddress::Tcp(address) => Space::Tcp {
                address: *address,
                v6only: v6only.unwrap_or_else(is_v6only_by_default),
            },
            ListenAddress::UnixPath(path) => Space::Path(resolved(path)),
            ListenAddress::UnixAbstract(name) => Space::Abstract(name.clone()),
        }
    }

    /// Whether the kernel lets only one of them be listened on.
    pub(super) fn overlaps(&self, other: &Space) -> bool {
        match (self, other) {
            (
                Space::Tcp { address, v6only },
                Space::Tcp {
                    address: other,
                    v6only: other_v6only,
                },
            ) => {
                // Port 0 is another port each time.
                address.port() == other.port()
                    && address.port() != 0
                    && (covers(*address, *v6only, *other)
                        || covers(*other, *other_v6only, *address))
            }
            (Space::Path(path), Space::Path(other)) => path == other,
            (Space::Abstract(name), Space::Abstract(other)) => name == other,
            _ => false,
        }
    }
}

/// Whether what listens on the address `one` gets connections to the address `other` (ipv6(7)).
fn covers(one: SocketAddr, v6only: bool, other: SocketAddr) -> bool {
    let other_ip = other.ip().to_canonical();
    match one.ip().to_canonical() {
        IpAddr::V4(ip) => other_ip.is_ipv4() && (ip.is_unspecified() || ip == other_ip),
        IpAddr::V6(ip) if ip.is_unspecified() => other_ip.is_ipv6() || !v6only,
        ip => ip == other_ip && is_same_interface(one, other),
    }
}

/// Link-local addresses are another one on each interface.
fn is_same_interface(one: SocketAddr, other: SocketAddr) -> bool {
    let scope = |address| match address {
        SocketAddr::V6(address) => address.scope_id(),
        SocketAddr::V4(_) => 0,
    };
    let (one, other) = (scope(one), scope(other));
    one == other || one == 0 || other == 0
}

/// What net.ipv6.bindv6only says, or false where there is no IPv6.
fn is_v6only_by_default() -> bool {
    Socket::new(Domain::IPV6, Type::STREAM, None)
        .is_ok_and(|socket| ipv6_v6only(&socket).unwrap_or(false))
}

fn resolved(path: &Path) -> PathBuf {
    let directory = path
        .parent()
        .and_then(|parent| fs::canonicalize(parent).ok());
    match (directory, path.file_name()) {
        (Some(directory), Some(name)) => directory.join(name),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(text: &str) -> Space {
        let (address, v6only) = match text.strip_suffix(" only") {
            Some(address) => (address, true),
            None => (text, false),
        };
        Space::of(&address.parse().unwrap(), Some(v6only))
    }

    #[test]
    fn overlapping_is_what_the_kernel_finds_in_use() {
        let addresses = [
            "127.0.0.1:P",
            "127.0.0.2:P",
            "0.0.0.0:P",
            "[::1]:P",
            "[::]:P",
            "[::]:P only",
            "[::ffff:127.0.0.1]:P",
            "[::ffff:0.0.0.0]:P",
        ];
        let listen = |text: &str| {
            let Space::Tcp { address, v6only } = tcp(text) else {
                unreachable!()
            };
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
            socket.set_reuse_address(true).unwrap();
            if address.is_ipv6() {
                socket.set_only_v6(v6only).unwrap();
            }
            socket
                .bind(&address.into())
                .and_then(|()| socket.listen(1))
                .map(|()| socket)
        };
        for one in addresses {
            for other in addresses {
                // The port is free for all of them when the first is bound: [::] has it.
                let any = listen("[::]:0").unwrap();
                let port = any.local_addr().unwrap().as_socket().unwrap().port();
                drop(any);
                let [one, other] = [one, other].map(|text| text.replace('P', &port.to_string()));
                let first = listen(&one).unwrap();
                let second = listen(&other);
                assert_eq!(
                    tcp(&one).overlaps(&tcp(&other)),
                    second.is_err(),
                    "{one} {other}"
                );
                drop(first);
            }
        }
    }

    #[test]
    fn ports_and_interfaces_tell_addresses_apart() {
        for (one, other, overlap) in [
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("[fe80::1%1]:1", "[fe80::1%2]:1", false),
            ("[fe80::1%1]:1", "[fe80::1%1]:1", true),
            ("[fe80::1%1]:1", "[::]:1", true),
        ] {
            assert_eq!(tcp(one).overlaps(&tcp(other)), overlap, "{one} {other}");
            assert_eq!(tcp(other).overlaps(&tcp(one)), overlap, "{one} {other}");
        }
    }

    #[test]
    fn a_path_is_one_by_whatever_way() {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().join("real");
        fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, directory.path().join("link")).unwrap();
        let space =
            |name: &str| Space::of(&ListenAddress::UnixPath(directory.path().join(name)), None);
        assert!(space("real/a").overlaps(&space("link/a")));
        assert!(!space("real/a").overlaps(&space("link/b")));
        assert!(space("missing/a").overlaps(&space("missing/a")));
        let name = |name: &str| Space::of(&ListenAddress::UnixAbstract(name.to_owned()), None);
        assert!(name("a").overlaps(&name("a")));
        assert!(!name("a").overlaps(&name("b")) && !name("a").overlaps(&space("a")));
    }
}
