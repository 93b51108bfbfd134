//! A connected stream socket of either family, never blocking.

use std::io::{self, Read, Write};
use std::net::{self, Shutdown};
use std::os::unix;
use std::time::Duration;

use mio::event::Source;
use mio::{Interest, Registry, Token};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::Address;

/// A non-blocking stream socket, over TCP with `TCP_NODELAY`.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(mio::net::TcpStream),
    Unix(mio::net::UnixStream),
}

impl Stream {
    /// Connects to the first endpoint of `address` that answers, waiting at most `timeout` for each.
    ///
    /// # Errors
    /// What the last endpoint answered.
    pub(crate) fn connect(address: &Address, timeout: Option<Duration>) -> io::Result<Self> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for endpoint in address.endpoints()? {
            match Self::connect_endpoint(&endpoint, timeout) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Connects to one endpoint, waiting at most `timeout`.
    pub(crate) fn connect_endpoint(
        endpoint: &SockAddr,
        timeout: Option<Duration>,
    ) -> io::Result<Self> {
        let socket = Socket::new(endpoint.domain(), Type::STREAM, None)?;
        match timeout {
            // A unix socket never answers EINPROGRESS: with its backlog full, a non-blocking connect
            // fails with EAGAIN, and a blocking one waits as long as SO_SNDTIMEO allows (unix(7)).
            Some(limit) if endpoint.domain() == Domain::UNIX => {
                socket.set_write_timeout(Some(limit.max(Duration::from_millis(1))))?;
                socket
                    .connect(endpoint)
                    .map_err(|error| match error.kind() {
                        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
                        _ => error,
                    })?;
            }
            Some(limit) => socket.connect_timeout(endpoint, limit)?,
            None => socket.connect(endpoint)?,
        }
        socket.set_nonblocking(true)?;
        let stream = Self::adopt(socket, endpoint)?;
        if stream.is_its_own_peer() {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok(stream)
    }

    /// Starts to connect and does not wait. The second value says whether the connection stands
    /// already; if not, it does once the socket turns writable without an error.
    ///
    /// # Errors
    /// `WouldBlock`: the backlog of a unix socket is full, try again later.
    pub(crate) fn begin(endpoint: &SockAddr) -> io::Result<(Self, bool)> {
        const EINPROGRESS: i32 = 115;
        let socket = Socket::new(endpoint.domain(), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        let done = match socket.connect(endpoint) {
            Ok(()) => true,
            Err(error) if error.raw_os_error() == Some(EINPROGRESS) => false,
            Err(error) => return Err(error),
        };
        Ok((Self::adopt(socket, endpoint)?, done))
    }

    fn adopt(socket: Socket, endpoint: &SockAddr) -> io::Result<Self> {
        if endpoint.domain() == Domain::UNIX {
            let stream = unix::net::UnixStream::from(socket);
            return Ok(Self::Unix(mio::net::UnixStream::from_std(stream)));
        }
        socket.set_tcp_nodelay(true)?;
        Ok(Self::Tcp(mio::net::TcpStream::from_std(
            net::TcpStream::from(socket),
        )))
    }

    /// Ends the sending half; the peer reads its end of stream.
    pub(crate) fn shut_write(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }

    /// The pending error of the socket, if any.
    pub(crate) fn take_error(&self) -> io::Result<Option<io::Error>> {
        match self {
            Self::Tcp(stream) => stream.take_error(),
            Self::Unix(stream) => stream.take_error(),
        }
    }

    /// Whether the socket is connected to itself. That happens when nobody listens on a port of this
    /// machine and the system chooses just that port for the connecting side (the simultaneous open
    /// of RFC 9293, section 3.5).
    pub(crate) fn is_its_own_peer(&self) -> bool {
        match self {
            Self::Tcp(stream) => match (stream.local_addr(), stream.peer_addr()) {
                (Ok(local), Ok(peer)) => local == peer,
                _ => false,
            },
            Self::Unix(_) => false,
        }
    }

    /// Asks for every change of readiness (edge-triggered).
    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let source: &mut dyn Source = match self {
            Self::Tcp(stream) => stream,
            Self::Unix(stream) => stream,
        };
        source.register(registry, token, Interest::READABLE | Interest::WRITABLE)
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether an error says that this process or machine has no descriptor, or no memory for sockets, left. The server has
/// no part in that.
pub(crate) fn is_exhausted(error: &io::Error) -> bool {
    const ENOMEM: i32 = 12;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOBUFS: i32 = 105;
    matches!(
        error.raw_os_error(),
        Some(ENOMEM | ENFILE | EMFILE | ENOBUFS)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_connected_to_itself_is_noticed() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any: net::SocketAddr = ([127, 0, 0, 1], 0).into();
        socket.bind(&any.into()).unwrap();
        let own = socket.local_addr().unwrap();
        socket.connect(&own).unwrap();
        socket.set_nonblocking(true).unwrap();
        assert!(Stream::adopt(socket, &own).unwrap().is_its_own_peer());

        let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().into();
        let stream = Stream::connect(&address, Some(Duration::from_secs(5))).unwrap();
        assert!(!stream.is_its_own_peer());
    }
}
