//! How much the kernel keeps for a TCP connection: what it has received and nobody has read, and what it is to send.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::socket::{getsockopt, setsockopt};
use nix::{getsockopt_impl, setsockopt_impl, sockopt_impl};
use rustix::io::Result;
use rustix::net::sockopt;

use super::bind::Bound;
use crate::config::SocketConfig;

/// Sizes as they are asked for. The kernel doubles them for what it needs itself (socket(7)). Accepted TCP sockets inherit them
/// from their listener, and that the kernel no longer tunes them (tcp(7)); accepted unix sockets inherit neither.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buffers {
    receive: Option<usize>,
    send: Option<usize>,
}

/// What the kernel calls one of them.
struct Kind {
    key: &'static str,
    /// What a process without CAP_NET_ADMIN gets at most.
    sysctl: &'static str,
    /// Its bit in [`Fixed`].
    bit: u32,
    get: fn(BorrowedFd<'_>) -> Result<usize>,
    set: fn(BorrowedFd<'_>, usize) -> Result<()>,
    /// The same, beyond the limit.
    force: fn(BorrowedFd<'_>, usize) -> Result<()>,
}

const RECEIVE: Kind = Kind {
    key: "receive_buffer",
    sysctl: "net.core.rmem_max",
    bit: 2,
    get: |socket| sockopt::socket_recv_buffer_size(socket),
    set: |socket, bytes| sockopt::set_socket_recv_buffer_size(socket, bytes),
    force: |socket, bytes| sockopt::set_socket_recv_buffer_size_force(socket, bytes),
};

const SEND: Kind = Kind {
    key: "send_buffer",
    sysctl: "net.core.wmem_max",
    bit: 1,
    get: |socket| sockopt::socket_send_buffer_size(socket),
    set: |socket, bytes| sockopt::set_socket_send_buffer_size(socket, bytes),
    force: |socket, bytes| sockopt::set_socket_send_buffer_size_force(socket, bytes),
};

sockopt_impl!(
    /// Which of the two the kernel does not tune, as bits. Setting a size adds its bit; only this takes it away (SO_BUF_LOCK, Linux
    /// 5.14). rustix does not have it.
    Fixed,
    Both,
    libc::SOL_SOCKET,
    libc::SO_BUF_LOCK,
    u32
);

impl Kind {
    /// The size of `socket`, as one would ask for it.
    fn size(&self, socket: BorrowedFd<'_>) -> Result<usize> {
        Ok((self.get)(socket)? / 2)
    }
}

impl Buffers {
    pub(super) fn new(config: &SocketConfig) -> Self {
        Self {
            receive: config.receive_buffer,
            send: config.send_buffer,
        }
    }

    fn kinds(self) -> [(Kind, Option<usize>); 2] {
        [(RECEIVE, self.receive), (SEND, self.send)]
    }

    /// Sets the sizes of a socket, as large as this process may.
    pub(super) fn set(self, socket: impl AsFd) -> Result<()> {
        let socket = socket.as_fd();
        for (kind, bytes) in self.kinds() {
            if let Some(bytes) = bytes {
                (kind.force)(socket, bytes).or_else(|_| (kind.set)(socket, bytes))?;
            }
        }
        Ok(())
    }

    /// The same for a listener that a predecessor made. What is left open becomes as on `fresh`, and the kernel tunes it again;
    /// before Linux 5.14 it stays.
    pub(super) fn change(self, socket: impl AsFd, fresh: impl AsFd) -> io::Result<()> {
        let socket = socket.as_fd();
        self.set(socket)?;
        let Ok(mut fixed) = getsockopt(&socket, Fixed) else {
            return Ok(());
        };
        for (kind, bytes) in self.kinds() {
            if bytes.is_none() && fixed & kind.bit != 0 {
                (kind.set)(socket, kind.size(fresh.as_fd())?)?;
                fixed &= !kind.bit;
                setsockopt(&socket, Fixed, &fixed)?;
            }
        }
        Ok(())
    }

    /// Warns of what `bound`, a listener of section `name`, did not get.
    pub(super) fn warn(self, name: &str, bound: &Bound) {
        if bound.address.is_tcp() {
            for less in self.shortfalls(&bound.socket) {
                tracing::warn!(socket = %name, "the kernel gives connections to {} {less}", bound.address);
            }
        }
    }

    /// What a socket has less of than was asked for, and what helps.
    fn shortfalls(self, socket: impl AsFd) -> Vec<String> {
        let shortfall = |(kind, bytes): (Kind, Option<usize>)| {
            let (wanted, got) = (bytes?, kind.size(socket.as_fd()).ok()?);
            let Kind { key, sysctl, .. } = kind;
            (got < wanted).then(|| {
                format!(
                    "a {key} of {got} bytes, not {wanted}; raise {sysctl}, or give the service CAP_NET_ADMIN"
                )
            })
        };
        self.kinds().into_iter().filter_map(shortfall).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

    use super::*;

    /// More than a process can have that may not exceed the limit, unless that is as high as it gets.
    const MOST: usize = 512 << 20;

    const BOTH: Buffers = Buffers {
        receive: Some(MOST),
        send: Some(MOST),
    };

    fn sizes(socket: impl AsFd) -> [usize; 2] {
        [RECEIVE, SEND].map(|kind| kind.size(socket.as_fd()).unwrap())
    }

    #[test]
    fn what_is_left_open_is_tuned_again() {
        let fresh = TcpListener::bind("127.0.0.1:0").unwrap();
        if getsockopt(&fresh, Fixed).is_err() {
            eprintln!("this kernel is older than Linux 5.14");
            return;
        }
        let tuned = sizes(&fresh);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // The size that a fresh socket has is fixed like any other.
        for (receive, send) in [
            (Some(48 << 10), Some(40 << 10)),
            (Some(tuned[0]), None),
            (None, Some(4096)),
            (None, None),
            (Some(4096), Some(4096)),
        ] {
            let buffers = Buffers { receive, send };
            buffers.change(&listener, &fresh).unwrap();
            let expected = [receive.unwrap_or(tuned[0]), send.unwrap_or(tuned[1])];
            assert_eq!(sizes(&listener), expected, "{buffers:?}");
            // What is accepted is left alone or tuned as well.
            let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            let fixed = getsockopt(&accepted, Fixed).unwrap();
            for (kind, bytes) in buffers.kinds() {
                let is_fixed = fixed & kind.bit != 0;
                assert_eq!(is_fixed, bytes.is_some(), "{} in {buffers:?}", kind.key);
            }
        }
    }

    #[test]
    fn what_the_kernel_caps_is_said() {
        // Capabilities are a thread's.
        let unprivileged = || {
            let mut sets = capabilities(None).unwrap();
            sets.effective.remove(CapabilitySet::NET_ADMIN);
            set_capabilities(None, sets).unwrap();
            let scratch = TcpListener::bind("127.0.0.1:0").unwrap();
            for kind in [RECEIVE, SEND] {
                (kind.set)(scratch.as_fd(), MOST).unwrap();
            }
            let socket = TcpListener::bind("127.0.0.1:0").unwrap();
            BOTH.set(&socket).unwrap();
            (sizes(&scratch), BOTH.shortfalls(&socket))
        };
        let (limits, found) = std::thread::spawn(unprivileged).join().unwrap();
        let expected = [
            ("receive_buffer", limits[0], "rmem_max"),
            ("send_buffer", limits[1], "wmem_max"),
        ];
        let expected: Vec<String> = expected
            .iter()
            .filter(|(_, limit, _)| *limit < MOST)
            .map(|(key, limit, sysctl)| {
                format!(
                    "a {key} of {limit} bytes, not {MOST}; raise net.core.{sysctl}, or give the service CAP_NET_ADMIN"
                )
            })
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn who_may_exceeds_the_limit() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        if (RECEIVE.force)(socket.as_fd(), MOST).is_err() {
            eprintln!("this process may not");
            return;
        }
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        BOTH.set(&socket).unwrap();
        assert_eq!(BOTH.shortfalls(&socket), [""; 0]);
        assert_eq!(sizes(&socket), [MOST, MOST]);
    }
}
