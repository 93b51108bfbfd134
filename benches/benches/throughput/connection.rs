//! Many connections to one server, driven by one thread that never sleeps.
//!
//! Sleeping would make the server pay for waking this thread, once or many times a message depending on how busy it is,
//! which no client on another machine makes it do.

use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use ringhold_benches::server::Server;
use rustix::event::{Timespec, epoll};
use rustix::net::sockopt::{set_tcp_congestion, set_tcp_nodelay};
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType};

use crate::grid::Transport;
use crate::message::{FIRST, Message};

/// What is received at once.
const RECEIVE_BYTES: usize = 256 << 10;

/// What is sent at once, at most, unless one message is larger.
const SEND_BYTES: usize = 256 << 10;

/// How many connections one look at them all finds ready, at most.
const EVENTS: usize = 1024;

/// How many messages a connection is ahead of the one before. A prime, so that each begins at another one of them.
const AHEAD: usize = 389;

/// One connection: how far its sending and its receiving are.
pub(crate) struct Connection {
    pub(crate) socket: OwnedFd,
    /// Messages that may be sent now and are not yet.
    pub(crate) due: usize,
    /// The number of the next message to be sent, and how many of its bytes are.
    pub(crate) next: u32,
    pub(crate) sent: usize,
    /// The number of the next message to come, and how many of its bytes have.
    pub(crate) expected: u32,
    pub(crate) received: usize,
    /// How far ahead of the first connection it is in what all of them send, so that no two send the same at the same time.
    ahead: u32,
    /// Whether the poll tells when there is room for more.
    awaits_room: bool,
}

/// Messages to send, one behind the other, and then the same again.
pub(crate) struct Outgoing {
    /// As many as fit, from whichever of them on.
    batch: Vec<u8>,
    /// Where each message begins, and where the last one ends.
    bounds: Vec<usize>,
    /// Where the number of each is, if it has one.
    numbers_at: Vec<Option<usize>>,
    /// How many different ones there are.
    count: usize,
    /// How many a call of [`Outgoing::send_once`] sends at most.
    room: usize,
}

impl Outgoing {
    pub(crate) fn new(messages: &[Message], at_once: usize) -> Self {
        let longest = messages.iter().map(Message::len).max().unwrap();
        let room = (SEND_BYTES / longest).clamp(1, at_once.max(1));
        let (mut batch, mut bounds, mut numbers_at) = (Vec::new(), vec![0], Vec::new());
        for message in messages.iter().cycle().take(messages.len() - 1 + room) {
            numbers_at.push(message.number_at.map(|at| batch.len() + at));
            batch.extend(&message.bytes);
            bounds.push(batch.len());
        }
        Outgoing {
            batch,
            bounds,
            numbers_at,
            count: messages.len(),
            room,
        }
    }

    /// Sends what is due. Returns whether the kernel took all of it.
    pub(crate) fn send(&mut self, to: &mut Connection) -> bool {
        while to.due > 0 {
            if !self.send_once(to) {
                return false;
            }
        }
        true
    }

    /// Sends what is due, or as much as fits into one write. Returns whether the kernel took that.
    pub(crate) fn send_once(&mut self, to: &mut Connection) -> bool {
        let count = to.due.min(self.room);
        let first = to.place(to.next, self.count);
        let numbers_at = self.numbers_at[first..first + count].iter();
        for (index, at) in numbers_at.enumerate() {
            if let Some(at) = *at {
                let number = to.next.wrapping_add(index as u32);
                self.batch[at..at + 4].copy_from_slice(&number.to_be_bytes());
            }
        }
        let bounds = &self.bounds[first..=first + count];
        let (begin, end) = (bounds[0] + to.sent, bounds[count]);
        let done = match rustix::io::write(&to.socket, &self.batch[begin..end]) {
            Ok(written) => begin + written,
            Err(rustix::io::Errno::AGAIN) => return false,
            Err(error) => panic!("cannot send: {error}"),
        };
        let whole = bounds[1..].partition_point(|bound| *bound <= done);
        to.next = to.next.wrapping_add(whole as u32);
        to.due -= whole;
        to.sent = done - bounds[whole];
        done == end
    }
}

/// What each connection is to receive, and then the same again.
pub(crate) struct Incoming {
    messages: Vec<Message>,
}

impl Incoming {
    pub(crate) fn new(messages: Vec<Message>) -> Self {
        Incoming { messages }
    }

    /// Checks received bytes; returns how many messages are whole with them.
    ///
    /// # Panics
    ///
    /// If a byte is wrong.
    fn check(&mut self, from: &mut Connection, mut bytes: &[u8]) -> usize {
        let mut whole = 0;
        while !bytes.is_empty() {
            let place = from.place(from.expected, self.messages.len());
            let message = &mut self.messages[place];
            let length = message.len();
            let (piece, rest) = bytes.split_at(bytes.len().min(length - from.received));
            message.number(from.expected);
            let expected = &message.bytes[from.received..from.received + piece.len()];
            assert!(
                piece == expected,
                "message {} is wrong behind byte {}: {:x?} instead of {:x?}",
                from.expected,
                from.received,
                &piece[..piece.len().min(32)],
                &expected[..piece.len().min(32)],
            );
            from.received += piece.len();
            if from.received == length {
                from.received = 0;
                from.expected = from.expected.wrapping_add(1);
                whole += 1;
            }
            bytes = rest;
        }
        whole
    }
}

/// The connections of one load.
pub(crate) struct Crowd {
    pub(crate) connections: Vec<Connection>,
    poll: OwnedFd,
    events: Vec<MaybeUninit<epoll::Event>>,
    buffer: Vec<u8>,
}

/// What a connection is ready for.
#[derive(Clone, Copy)]
pub(crate) struct Ready {
    pub(crate) index: usize,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}

impl Crowd {
    /// Takes connected sockets over.
    pub(crate) fn new(sockets: impl IntoIterator<Item = OwnedFd>) -> Self {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let mut crowd = Crowd {
            connections: Vec::new(),
            poll,
            events: vec![MaybeUninit::uninit(); EVENTS],
            buffer: vec![0; RECEIVE_BYTES],
        };
        for (index, socket) in sockets.into_iter().enumerate() {
            crowd.put(index, socket);
        }
        crowd
    }

    /// Takes a connected socket over, in place of another one, which is closed, or behind the last one.
    pub(crate) fn put(&mut self, index: usize, socket: OwnedFd) {
        let connection = Connection {
            ahead: (index * AHEAD) as u32,
            ..Connection::new(socket)
        };
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&self.poll, &connection.socket, data, READABLE).unwrap();
        match self.connections.get_mut(index) {
            Some(place) => *place = connection,
            None => self.connections.push(connection),
        }
    }

    /// Connects so many times.
    pub(crate) fn connect(server: &Server, transport: Transport, count: usize) -> Self {
        Self::new((0..count).map(|_| connect(server, transport).unwrap()))
    }

    /// Makes the list of those that are ready; it does not wait for any.
    pub(crate) fn look(&mut self, ready: &mut Vec<Ready>) {
        ready.clear();
        let (found, _) = match epoll::wait(&self.poll, &mut self.events[..], Some(&NOW)) {
            Err(rustix::io::Errno::INTR) => return,
            found => found.unwrap(),
        };
        ready.extend(found.iter().map(|event| {
            let flags = event.flags;
            Ready {
                index: event.data.u64() as usize,
                readable: flags
                    .intersects(READABLE | epoll::EventFlags::HUP | epoll::EventFlags::ERR),
                writable: flags.contains(epoll::EventFlags::OUT),
            }
        }));
    }

    /// Receives everything that is there on a connection: how many messages are whole with it.
    pub(crate) fn receive(&mut self, index: usize, incoming: &mut Incoming) -> usize {
        let connection = &mut self.connections[index];
        let mut whole = 0;
        loop {
            let length = match rustix::io::read(&connection.socket, &mut self.buffer[..]) {
                Ok(0) => panic!("the server ended the connection"),
                Ok(length) => length,
                Err(rustix::io::Errno::AGAIN) => return whole,
                Err(error) => panic!("cannot receive: {error}"),
            };
            whole += incoming.check(connection, &self.buffer[..length]);
            // That less came than would have fitted means that there is no more (epoll(7)).
            if length < self.buffer.len() {
                return whole;
            }
        }
    }

    /// Tells the server that nothing comes any more.
    pub(crate) fn end_sending(&self, index: usize) {
        rustix::net::shutdown(&self.connections[index].socket, Shutdown::Write).unwrap();
    }

    /// Whether the server has ended a connection on which nothing is to come any more.
    pub(crate) fn has_ended(&mut self, index: usize) -> bool {
        match rustix::io::read(&self.connections[index].socket, &mut self.buffer[..]) {
            Ok(0) => true,
            Ok(length) => panic!("{length} bytes behind the last message"),
            Err(rustix::io::Errno::AGAIN) => false,
            Err(error) => panic!("no orderly end: {error}"),
        }
    }

    /// Sends what is due on a connection, and sees to it that the rest is sent later.
    pub(crate) fn send(&mut self, index: usize, outgoing: &mut Outgoing) {
        let done = outgoing.send(&mut self.connections[index]);
        self.await_room(index, !done);
    }

    /// Says whether [`Crowd::look`] is to find the connection when there is room for more.
    pub(crate) fn await_room(&mut self, index: usize, wanted: bool) {
        let connection = &mut self.connections[index];
        if connection.awaits_room == wanted {
            return;
        }
        connection.awaits_room = wanted;
        let flags = if wanted {
            READABLE | epoll::EventFlags::OUT
        } else {
            READABLE
        };
        let data = epoll::EventData::new_u64(index as u64);
        epoll::modify(&self.poll, &connection.socket, data, flags).unwrap();
    }

    /// Begins to count anew, while nothing is under way.
    pub(crate) fn number_from_first(&mut self) {
        for connection in &mut self.connections {
            assert!(connection.sent == 0 && connection.received == 0 && connection.due == 0);
            (connection.next, connection.expected) = (FIRST, FIRST);
        }
    }
}

const READABLE: epoll::EventFlags = epoll::EventFlags::IN.union(epoll::EventFlags::ET);

const NOW: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

impl Connection {
    fn new(socket: OwnedFd) -> Self {
        rustix::io::ioctl_fionbio(&socket, true).unwrap();
        Connection {
            socket,
            due: 0,
            next: FIRST,
            sent: 0,
            expected: FIRST,
            received: 0,
            ahead: 0,
            awaits_room: false,
        }
    }

    /// The place of a numbered message among so many.
    fn place(&self, number: u32, count: usize) -> usize {
        number.wrapping_add(self.ahead) as usize % count
    }
}

/// A connection, blocking for now.
pub(crate) fn connect(server: &Server, transport: Transport) -> io::Result<OwnedFd> {
    Ok(match transport {
        Transport::Tcp => {
            let stream = std::net::TcpStream::connect(server.tcp)?;
            let stream = stream.into();
            set_up_tcp(&stream, server)?;
            stream
        }
        Transport::Unix => std::os::unix::net::UnixStream::connect(&server.unix)?.into(),
    })
}

/// The same over TCP from another address of this machine; the kernel chooses the port when it knows the address of the server.
pub(crate) fn connect_from(server: &Server, address: Ipv4Addr) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    setsockopt(&socket, IpBindAddressNoPort, &true)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(address, 0))?;
    rustix::net::connect(&socket, &server.tcp)?;
    set_up_tcp(&socket, server)?;
    Ok(socket)
}

fn set_up_tcp(socket: &OwnedFd, server: &Server) -> io::Result<()> {
    set_tcp_nodelay(socket, true)?;
    if let Some(name) = &server.congestion {
        set_tcp_congestion(socket, name)?;
    }
    Ok(())
}
