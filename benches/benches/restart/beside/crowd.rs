//! Many kept connections with steady requests, one at a time on each, and what their client sees.
//!
//! It is a careful client: it notices at once that a connection was closed and makes another one, and repeats the request
//! that had no reply. It never waits for a server but in its poll: what one connection is missing is not charged to others.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ringhold_benches::http;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::clients::{REPLY, REQUEST};
use crate::manager::PATIENCE;

/// From one request of a connection to the next.
pub(crate) const PERIOD: Duration = Duration::from_millis(10);

/// A request that takes longer is slow.
pub(crate) const SLOW: Duration = Duration::from_millis(50);

/// When whoever was refused tries again.
const RETRY: Duration = Duration::from_millis(1);

/// What is spoken with a server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Protocol {
    MessagePack,
    Http,
}

impl Protocol {
    fn request(self, number: u128) -> Vec<u8> {
        match self {
            Protocol::MessagePack => [REQUEST, &number.to_be_bytes()].concat(),
            Protocol::Http => http::request(&format!("/{number}")),
        }
    }

    /// If the reply is there as a whole, which must be the one to this request: whether the server announces that it closes.
    fn reply(self, received: &[u8], number: u128) -> Option<bool> {
        match self {
            Protocol::MessagePack => {
                let expected = [REPLY, &number.to_be_bytes()].concat();
                assert!(expected.starts_with(received), "a wrong reply");
                (expected.len() == received.len()).then_some(false)
            }
            Protocol::Http => http::reply(received).unwrap().map(|reply| {
                assert_eq!(reply.body, format!("/{number}").as_bytes());
                reply.closes
            }),
        }
    }
}

/// What the clients saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Replies, each of which was right.
    pub(crate) replies: u64,
    /// Connections that the server closed, behind a reply or elsewhere.
    pub(crate) closed: u64,
    /// Requests that had no reply on the connection that they were sent on.
    pub(crate) unanswered: u64,
    /// Attempts to connect that failed.
    pub(crate) refused: u64,
    /// Requests that had their reply more than [`SLOW`] after they were due.
    pub(crate) slow: u64,
    /// The longest time that any connection was without a reply, from one to the next.
    pub(crate) gap: Duration,
}

/// The clients, in a thread of their own.
pub(crate) struct Crowd {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

impl Crowd {
    /// Returns when each of so many connections has had a reply. What is seen counts from then on.
    pub(crate) fn start(address: SocketAddr, protocol: Protocol, count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = stop.clone();
        let (says, begun) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut clients = Clients::new(address, protocol, count);
            let all_have = |clients: &Clients, since: Option<Instant>| {
                let mut all = clients.connections.iter();
                all.all(|one| one.answered.is_some() && one.answered >= since)
            };
            clients.run_until(|clients| all_have(clients, None));
            clients.seen = Seen::default();
            // Whoever waits for it joins this thread later.
            let _ = says.send(());
            clients.run_until(|_| asked.load(Ordering::Relaxed));
            // Once more on every connection, so that what became of each of them is known.
            clients.end = Some(Instant::now());
            clients.run_until(|clients| all_have(clients, clients.end));
            clients.seen
        });
        // Not if it has failed, which its end tells.
        let _ = begun.recv();
        Crowd { stop, thread }
    }

    pub(crate) fn end(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

struct Clients {
    address: SocketAddr,
    protocol: Protocol,
    connections: Vec<Connection>,
    numbers: u128,
    /// From when on each connection has one more reply, and then no more.
    end: Option<Instant>,
    seen: Seen,
}

struct Connection {
    /// None if it was closed and is to be made anew.
    stream: Option<TcpStream>,
    received: Vec<u8>,
    /// That of its request, and when it is due or was.
    number: u128,
    due: Instant,
    /// Whether its request is under way.
    asked: bool,
    /// When it had its last reply.
    answered: Option<Instant>,
}

impl Clients {
    fn new(address: SocketAddr, protocol: Protocol, count: usize) -> Self {
        let now = Instant::now();
        let connection = |index: usize| Connection {
            stream: None,
            received: Vec::new(),
            number: 0,
            // Evenly over the period.
            due: now + PERIOD.mul_f64(index as f64 / count as f64),
            asked: false,
            answered: None,
        };
        Clients {
            address,
            protocol,
            connections: (0..count).map(connection).collect(),
            numbers: 0,
            end: None,
            seen: Seen::default(),
        }
    }

    fn run_until(&mut self, over: impl Fn(&Self) -> bool) {
        while !over(self) {
            for index in self.wait() {
                self.receive(index);
            }
            for index in 0..self.connections.len() {
                self.connect(index);
                self.ask(index);
            }
            let now = Instant::now();
            let mut all = self.connections.iter();
            assert!(
                all.all(|one| now.saturating_duration_since(one.due) < PATIENCE),
                "the server does not answer"
            );
        }
    }

    /// Sleeps until there is something to receive or to send: which connections have something.
    fn wait(&self) -> Vec<usize> {
        let connections = self.connections.iter().enumerate();
        let open = connections.filter_map(|(index, one)| Some((index, one.stream.as_ref()?)));
        let (places, streams): (Vec<usize>, Vec<&TcpStream>) = open.unzip();
        let entry = |stream| PollFd::from_borrowed_fd(AsFd::as_fd(stream), PollFlags::IN);
        let mut entries: Vec<PollFd<'_>> = streams.into_iter().map(entry).collect();
        let idle = self.connections.iter().filter(|one| !one.asked);
        let due = idle.map(|one| one.due).min();
        let mut time = due.map_or(PERIOD, |due| {
            due.saturating_duration_since(Instant::now()).min(PERIOD)
        });
        if places.len() < self.connections.len() {
            time = time.min(RETRY);
        }
        poll(&mut entries, Some(&Timespec::try_from(time).unwrap())).unwrap();
        let found = places.into_iter().zip(&entries);
        let ready = found.filter(|(_, entry)| !entry.revents().is_empty());
        ready.map(|(index, _)| index).collect()
    }

    /// Makes a connection that there is not, and repeats its request if it had one.
    fn connect(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if connection.stream.is_some() {
            return;
        }
        // On loopback this does not wait, since nobody has a backlog that is shorter than the crowd.
        match TcpStream::connect(self.address) {
            Ok(stream) => {
                stream.set_nodelay(true).unwrap();
                stream.set_nonblocking(true).unwrap();
                connection.stream = Some(stream);
                if connection.asked {
                    self.send(index);
                }
            }
            Err(_) => self.seen.refused += 1,
        }
    }

    /// Makes the request that is due.
    fn ask(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let now = Instant::now();
        let over = self.end.is_some_and(|end| connection.answered >= Some(end));
        if over || connection.stream.is_none() || connection.asked || connection.due > now {
            return;
        }
        self.numbers += 1;
        connection.number = self.numbers;
        connection.asked = true;
        self.send(index);
    }

    fn send(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let request = self.protocol.request(connection.number);
        let stream = connection.stream.as_mut();
        // There is always room for one request.
        if stream.is_some_and(|stream| stream.write_all(&request).is_err()) {
            self.closed(index);
        }
    }

    /// Reads until there is no more, so that an end right behind a reply is seen before the next request is made.
    fn receive(&mut self, index: usize) {
        let mut buffer = [0; 4096];
        while let Some(stream) = &mut self.connections[index].stream {
            match stream.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) | Ok(0) => self.closed(index),
                Ok(length) => self.received(index, &buffer[..length]),
            }
        }
    }

    fn received(&mut self, index: usize, bytes: &[u8]) {
        let connection = &mut self.connections[index];
        connection.received.extend(bytes);
        assert!(connection.asked, "a reply to nothing");
        let reply = (self.protocol).reply(&connection.received, connection.number);
        let Some(closes) = reply else {
            return;
        };
        let now = Instant::now();
        self.seen.replies += 1;
        self.seen.slow += u64::from(now - connection.due > SLOW);
        if let Some(before) = connection.answered.replace(now) {
            self.seen.gap = self.seen.gap.max(now - before);
        }
        connection.received.clear();
        connection.asked = false;
        // Who is late does not catch up.
        connection.due = now.max(connection.due + PERIOD);
        if closes {
            self.closed(index);
        }
    }

    fn closed(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        connection.stream = None;
        connection.received.clear();
        self.seen.closed += 1;
        self.seen.unanswered += u64::from(connection.asked);
    }
}
