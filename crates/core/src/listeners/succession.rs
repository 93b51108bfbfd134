//! Which of the listeners that a predecessor had bound itself goes on at which address of the configuration. The program
//! that is asked whether it could take over finds the same from a description as the successor does from the sockets.

use std::os::fd::AsFd;

use rustix::net::sockopt::{ipv6_v6only, socket_reuseport};

use super::bind::Options;
use super::overlap::Space;
use super::{Address, BoundPath};
use crate::config::ListenAddress;

/// A listener that a predecessor has bound itself, and passes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// The name of its section.
    pub(crate) name: String,
    /// What the configuration asked for, in its notation.
    pub(crate) listen: String,
    /// Where it listens.
    pub(crate) address: String,
    /// Whether it shares its address (SO_REUSEPORT).
    pub(crate) reuse_port: bool,
    /// Whether it takes IPv6 only (IPV6_V6ONLY).
    pub(crate) v6only: bool,
    /// Whether clients find it there: the path of a unix socket may be gone, or another process's by now.
    pub(crate) is_there: bool,
}

impl Held {
    /// Describes `socket`, which was bound for `listen` of section `name` and made `path`.
    pub(crate) fn describe(
        name: &str,
        listen: &str,
        socket: impl AsFd,
        path: Option<&BoundPath>,
    ) -> Self {
        let socket = socket.as_fd();
        let address = Address::of(socket).ok().flatten();
        Held {
            name: name.to_owned(),
            listen: listen.to_owned(),
            address: address.map_or_else(String::new, |address| address.to_string()),
            // Neither can be asked of a unix socket.
            reuse_port: socket_reuseport(socket).unwrap_or(false),
            v6only: ipv6_v6only(socket).unwrap_or(false),
            is_there: path.is_none_or(BoundPath::is_there),
        }
    }

    /// What one would write to listen where it does.
    pub(super) fn place(&self) -> Option<ListenAddress> {
        if !self.is_there {
            return None;
        }
        // A unix socket is where it was asked for.
        let listen = self.address.parse().or_else(|_| self.listen.parse());
        listen.ok()
    }

    /// What it occupies.
    pub(super) fn space(&self) -> Option<Space> {
        Some(Space::of(&self.place()?, Some(self.v6only)))
    }
}

/// One address of one section that is to be listened on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) name: &'a str,
    pub(super) listen: &'a ListenAddress,
    pub(super) options: &'a Options,
}

impl Wanted<'_> {
    /// Whether `held` is there already and was bound with the options that cannot be changed afterwards.
    fn is_met_by(&self, held: &Held) -> bool {
        let ListenAddress::Tcp(address) = self.listen else {
            return held.is_there && held.listen == self.listen.to_string();
        };
        let is_at_it = if address.port() == 0 {
            // Nobody but its own section knows which port that is.
            held.listen == self.listen.to_string() && held.name == self.name
        } else {
            held.address == address.to_string()
        };
        let is_alike = |only| !address.is_ipv6() || held.v6only == only;
        is_at_it
            && held.reuse_port == self.options.reuse_port
            && self.options.ipv6_only.is_none_or(is_alike)
    }
}

/// For each of `wanted` which of `held` go on there, by their indices: none, one, or those that share an address.
///
/// What stays with its section comes first. Several listeners on ports that the kernel chose go to their places in the
/// order in which they were passed on.
pub(super) fn assign(wanted: &[Wanted<'_>], held: &[Held]) -> Vec<Vec<usize>> {
    let mut is_free = vec![true; held.len()];
    let mut assigned = vec![Vec::new(); wanted.len()];
    for by_name in [true, false] {
        for (wanted, assigned) in wanted.iter().zip(&mut assigned) {
            if !assigned.is_empty() {
                continue;
            }
            let fits = |index: &usize| {
                let held = &held[*index];
                wanted.is_met_by(held) && (!by_name || held.name == wanted.name)
            };
            let mut fitting = (0..held.len()).filter(|index| is_free[*index]).filter(fits);
            if let Some(first) = fitting.next() {
                let is_beside_it = |index: &usize| held[*index].address == held[first].address;
                assigned.push(first);
                assigned.extend(fitting.filter(is_beside_it));
            }
            for index in assigned.iter() {
                is_free[*index] = false;
            }
        }
    }
    assigned
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn held(name: &str, listen: &str, address: &str) -> Held {
        Held {
            name: name.to_owned(),
            listen: listen.to_owned(),
            address: address.to_owned(),
            reuse_port: false,
            v6only: false,
            is_there: true,
        }
    }

    /// What goes where, for the sections of this configuration.
    fn assigned(text: &str, held: &[Held]) -> Vec<Vec<usize>> {
        let config = Config::parse(text, "test.toml").unwrap();
        let sections: Vec<_> = config
            .sockets
            .iter()
            .map(|(name, socket)| (name, socket, Options::new(socket, Default::default())))
            .collect();
        let wanted: Vec<Wanted<'_>> = sections
            .iter()
            .flat_map(|(name, socket, options)| {
                socket.listen.iter().map(move |listen| Wanted {
                    name,
                    listen,
                    options,
                })
            })
            .collect();
        assign(&wanted, held)
    }

    #[test]
    fn addresses_are_kept_over_sections_and_first_of_all_within_them() {
        let both = "[sockets.a]\nlisten = [\"127.0.0.1:1\", \"unix:@x\"]\n[sockets.b]\nlisten = \"127.0.0.1:1\"";
        let tcp = |name| held(name, "127.0.0.1:1", "127.0.0.1:1");
        let unix = held("b", "unix:@x", "unix:@x");
        assert_eq!(assigned(both, &[]), [vec![], vec![], vec![]]);
        assert_eq!(
            assigned(both, &[tcp("a"), unix.clone()]),
            [vec![0], vec![1], vec![]]
        );
        assert_eq!(
            assigned(both, &[unix.clone(), tcp("b")]),
            [vec![], vec![0], vec![1]]
        );
        assert_eq!(
            assigned(both, &[unix, tcp("c")]),
            [vec![1], vec![0], vec![]]
        );
    }

    #[test]
    fn ports_that_the_kernel_chose_stay_at_their_places() {
        let two = "[sockets.a]\nlisten = [\"127.0.0.1:0\", \"127.0.0.1:0\"]\n[sockets.b]\nlisten = \"127.0.0.1:0\"";
        let on = |name, port: u16| held(name, "127.0.0.1:0", &format!("127.0.0.1:{port}"));
        let [first, second, third] = [5, 3, 4].map(|port| on("a", port));
        assert_eq!(
            assigned(two, &[first.clone(), second.clone(), third]),
            [vec![0], vec![1], vec![]]
        );
        // As a number in the configuration it is an address like any other.
        let fixed = "[sockets.b]\nlisten = \"127.0.0.1:3\"";
        assert_eq!(assigned(fixed, &[first, second]), [vec![1]]);
    }

    #[test]
    fn a_path_that_is_another_s_is_not_taken_over() {
        let config = "[sockets.a]\nlisten = \"unix:/x\"";
        let mut held = held("a", "unix:/x", "unix:/x");
        assert_eq!(assigned(config, &[held.clone()]), [[0]]);
        held.is_there = false;
        assert_eq!(held.space(), None, "what is closed does not make room");
        assert_eq!(assigned(config, &[held]), [[]; 1] as [[usize; 0]; 1]);
    }

    #[test]
    fn those_that_share_an_address_stay_together() {
        let shared = |port: u16| Held {
            reuse_port: true,
            ..held("a", "127.0.0.1:0", &format!("127.0.0.1:{port}"))
        };
        let all = [shared(1), shared(1), shared(2), shared(1), shared(2)];
        let two = "[sockets.a]\nlisten = [\"127.0.0.1:0\", \"127.0.0.1:0\"]\nreuse_port = true";
        assert_eq!(assigned(two, &all), [vec![0, 1, 3], vec![2, 4]]);
        let alone = two.replace("true", "false");
        assert_eq!(assigned(&alone, &all), [vec![], vec![]]);
    }

    #[test]
    fn what_cannot_be_changed_must_be_right() {
        let mut any = held("a", "[::]:1", "[::]:1");
        let config = |more: &str| format!("[sockets.a]\nlisten = \"[::]:1\"\n{more}");
        for v6only in [true, false] {
            any.v6only = v6only;
            let held = [any.clone()];
            assert_eq!(assigned(&config(""), &held), [[0]]);
            let same = config(&format!("ipv6_only = {v6only}"));
            assert_eq!(assigned(&same, &held), [[0]]);
            let other = config(&format!("ipv6_only = {}", !v6only));
            assert_eq!(assigned(&other, &held), [[]; 1] as [[usize; 0]; 1]);
        }
    }
}
