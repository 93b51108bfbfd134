//! How the kernel finds out that a TCP peer is gone.

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::io::Result;
use rustix::net::sockopt::{
    set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl, tcp_keepcnt,
    tcp_keepintvl,
};

use crate::config::SocketConfig;

/// What the kernel does about a peer from which nothing comes (tcp(7)). Accepted sockets inherit it from their listener.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keepalive {
    /// It asks after so long whether the peer is still there; zero: never.
    idle: Duration,
    /// And again after so long without an answer. `None`: as the socket is.
    interval: Option<Duration>,
    /// So often in all. `None`: as the socket is.
    probes: Option<u32>,
}

impl Keepalive {
    pub(super) fn new(config: &SocketConfig) -> Self {
        Self {
            idle: config.keepalive,
            interval: config.keepalive_interval,
            probes: config.keepalive_probes,
        }
    }

    pub(super) fn is_off(self) -> bool {
        self.idle.is_zero()
    }

    /// The same, and what it leaves open as `socket` is.
    pub(super) fn filled_from(self, socket: impl AsFd) -> Result<Self> {
        let interval = match self.interval {
            Some(interval) => interval,
            None => tcp_keepintvl(&socket)?,
        };
        let probes = match self.probes {
            Some(probes) => probes,
            None => tcp_keepcnt(&socket)?,
        };
        Ok(Self {
            interval: Some(interval),
            probes: Some(probes),
            ..self
        })
    }

    pub(super) fn set(self, socket: impl AsFd) -> Result<()> {
        if !self.is_off() {
            set_tcp_keepidle(&socket, self.idle)?;
        }
        if let Some(interval) = self.interval {
            set_tcp_keepintvl(&socket, interval)?;
        }
        if let Some(probes) = self.probes {
            set_tcp_keepcnt(&socket, probes)?;
        }
        set_socket_keepalive(&socket, !self.is_off())
    }
}
