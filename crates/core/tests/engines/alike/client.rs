//! A client with a socket. It never waits: what cannot be sent now is sent later.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use super::outcome::End;
use super::script::Leave;

/// What the kernel takes of a client that reads little.
const NARROW_BYTES: usize = 16 * 1024;

pub(crate) struct Client {
    /// `None` when it has left.
    socket: Option<Socket>,
    /// What is to be sent, each piece by itself.
    pending: VecDeque<Vec<u8>>,
    /// Bytes of the first piece that were sent.
    offset: usize,
    pub(crate) sent: usize,
    pub(crate) received: Vec<u8>,
    pub(crate) is_paused: bool,
    /// It does not end its side because the server has.
    pub(crate) keeps_open: bool,
    /// It sends nothing more once nothing is pending.
    half_closes: bool,
    half_closed: bool,
    pub(crate) end: Option<End>,
}

impl Client {
    pub(crate) fn tcp(address: SocketAddr, narrow: bool) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        if narrow {
            // Before connecting, so that the window that is offered fits.
            socket.set_recv_buffer_size(NARROW_BYTES)?;
        }
        socket.set_tcp_nodelay(true)?;
        Self::connect(socket, &address.into())
    }

    pub(crate) fn unix(path: &Path) -> io::Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        Self::connect(socket, &SockAddr::unix(path)?)
    }

    fn connect(socket: Socket, address: &SockAddr) -> io::Result<Self> {
        socket.connect(address)?;
        socket.set_nonblocking(true)?;
        Ok(Client {
            socket: Some(socket),
            pending: VecDeque::new(),
            offset: 0,
            sent: 0,
            received: Vec::new(),
            is_paused: false,
            keeps_open: false,
            half_closes: false,
            half_closed: false,
            end: None,
        })
    }

    pub(crate) fn has_left(&self) -> bool {
        self.socket.is_none()
    }

    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Takes what is to be sent. Not of a client that has said that there is nothing more.
    pub(crate) fn send(&mut self, piece: &[u8]) {
        if !self.half_closes && !self.has_left() {
            self.pending.push_back(piece.to_vec());
        }
    }

    pub(crate) fn leave(&mut self, leave: Leave) {
        if leave == Leave::HalfClose {
            self.half_closes = true;
            return;
        }
        let Some(socket) = self.socket.take() else {
            return;
        };
        if leave == Leave::Reset {
            // Of no effect on a unix socket.
            let _ = socket.set_linger(Some(Duration::ZERO));
        }
        self.pending.clear();
    }

    /// What to wait for: the socket, and whether to read and to write.
    pub(crate) fn interest(&self) -> Option<(BorrowedFd<'_>, bool, bool)> {
        let reads = self.end.is_none() && !self.is_paused;
        let writes = self.has_pending();
        let socket = self.socket.as_ref().filter(|_| reads || writes)?;
        Some((socket.as_fd(), reads, writes))
    }

    /// Does what can be done at once.
    pub(crate) fn go_on(&mut self) {
        self.write();
        if !self.is_paused {
            self.read();
        }
        if self.end.is_some() && !self.keeps_open {
            self.pending.clear();
            self.half_closes = true;
        }
        if self.half_closes && self.pending.is_empty() && !self.half_closed {
            self.half_closed = true;
            if let Some(socket) = &self.socket {
                let _ = socket.shutdown(Shutdown::Write);
            }
        }
    }

    fn write(&mut self) {
        let Some(mut socket) = self.socket.as_ref() else {
            return;
        };
        while let Some(piece) = self.pending.front() {
            match socket.write(&piece[self.offset..]) {
                Ok(count) => {
                    self.sent += count;
                    self.offset += count;
                    if self.offset == piece.len() {
                        self.offset = 0;
                        self.pending.pop_front();
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // The server has ended the connection. How, reading tells.
                Err(_) => self.pending.clear(),
            }
        }
    }

    fn read(&mut self) {
        let Some(mut socket) = self.socket.as_ref() else {
            return;
        };
        let mut buffer = vec![0; 64 * 1024];
        while self.end.is_none() {
            match socket.read(&mut buffer) {
                Ok(0) => self.end = Some(End::Fin),
                Ok(count) => self.received.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.end = Some(End::Reset),
            }
        }
    }
}
