//! Listeners that the predecessor had bound itself and passed on.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::Shutdown;
use rustix::net::sockopt::{set_tcp_congestion, set_tcp_nodelay, tcp_congestion};
use socket2::{Domain, Socket, Type};

use super::bind::{Bound, Options};
use super::{Address, BoundPath, Held};

/// A listener that the predecessor had bound for `listen` of section `name`. Where its address is still asked for it is
/// taken over, so that nobody who connects in between is refused; otherwise it is closed and its path removed.
#[derive(Debug)]
pub(crate) struct Heirloom {
    pub(crate) socket: OwnedFd,
    pub(crate) name: String,
    /// In the notation of the configuration.
    pub(crate) listen: String,
    pub(crate) path: Option<BoundPath>,
}

impl Heirloom {
    /// What is to be known of it, to find out who goes on with it.
    pub(super) fn describe(&self) -> Held {
        Held::describe(&self.name, &self.listen, &self.socket, self.path.as_ref())
    }

    /// Closes it for good. The descriptor has duplicates until the handover is over, so it must also stop listening:
    /// then the address is free at once, even for another section. A name in the abstract namespace is not: it goes with
    /// the last duplicate, and is left as it is until then, for a next process if this one cannot start.
    pub(super) fn discard(self) {
        if let Some(Err(error)) = self.path.map(|path| path.remove()) {
            tracing::warn!(socket = %self.name, "cannot remove the path of the predecessor's socket: {error}");
        }
        if !matches!(
            Address::of(&self.socket),
            Ok(Some(Address::UnixAbstract(_)))
        ) {
            // It fails where nobody listens any more.
            let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
        }
    }

    /// Makes it what the configuration says of section `name` now: backlog, mode, owners, nodelay, keepalive, congestion,
    /// buffers. `None` if it is not what it was any more or may not be reached by whom the configuration says, in which case it is
    /// closed and is to be bound anew.
    pub(super) fn adapt(self, name: &str, options: &Options) -> Option<Bound> {
        let Some(address) = self.adapted(name, options) else {
            self.discard();
            return None;
        };
        Some(Bound {
            socket: self.socket,
            address,
            path: self.path,
        })
    }

    fn adapted(&self, name: &str, options: &Options) -> Option<Address> {
        let address = Address::of(self.socket.as_fd()).ok().flatten()?;
        if let Some(path) = &self.path {
            path.adjust(options).ok()?;
        }
        if address.is_tcp()
            && let Err(error) = self.set_tcp_options(options)
        {
            // Nobody is turned away because of how the bytes travel.
            tracing::error!(
                socket = %name,
                "the listener on {address} stays as the predecessor made it, the options of its section cannot be set: {error}"
            );
        }
        // Listening again changes the backlog and nothing else (listen(2)).
        rustix::net::listen(&self.socket, options.backlog).ok()?;
        Some(address)
    }

    fn set_tcp_options(&self, options: &Options) -> io::Result<()> {
        set_tcp_nodelay(&self.socket, options.nodelay)?;
        // What the section leaves open is the default, which a fresh socket has.
        let fresh = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        options.keepalive.filled_from(&fresh)?.set(&self.socket)?;
        options.buffers.change(&self.socket, &fresh)?;
        let name = match &options.congestion {
            Some(name) => name.clone(),
            None => tcp_congestion(&fresh)?,
        };
        if tcp_congestion(&self.socket)? != name {
            set_tcp_congestion(&self.socket, &name)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

    use rustix::net::sockopt;

    use super::*;
    use crate::config::SocketConfig;
    use crate::listeners::names::Owners;

    fn heirloom() -> Heirloom {
        Heirloom {
            socket: TcpListener::bind("127.0.0.1:0").unwrap().into(),
            name: "rpc".to_owned(),
            listen: "127.0.0.1:0".to_owned(),
            path: None,
        }
    }

    /// What the kernel does about a silent peer: whether it asks, after how long, and again, and how often.
    fn keepalive(heirloom: &Heirloom) -> (bool, Duration, Duration, u32) {
        let socket = &heirloom.socket;
        (
            sockopt::socket_keepalive(socket).unwrap(),
            sockopt::tcp_keepidle(socket).unwrap(),
            sockopt::tcp_keepintvl(socket).unwrap(),
            sockopt::tcp_keepcnt(socket).unwrap(),
        )
    }

    #[test]
    fn what_the_section_says_no_more_is_as_on_a_fresh_socket() {
        let heirloom = heirloom();
        let (_, _, interval, probes) = keepalive(&heirloom);
        let seconds = Duration::from_secs;
        for (asked, expected) in [
            ((Some(seconds(7)), Some(4)), (seconds(7), 4)),
            ((Some(seconds(8)), None), (seconds(8), probes)),
            ((None, Some(5)), (interval, 5)),
            ((None, None), (interval, probes)),
        ] {
            let mut config = SocketConfig::new("rpc");
            (config.keepalive_interval, config.keepalive_probes) = asked;
            let owners = Owners {
                user: None,
                group: None,
            };
            let options = Options::new(&config, owners);
            heirloom.set_tcp_options(&options).unwrap();
            let (interval, probes) = expected;
            let expected = (true, seconds(300), interval, probes);
            assert_eq!(keepalive(&heirloom), expected, "{asked:?}");
        }
    }
}
