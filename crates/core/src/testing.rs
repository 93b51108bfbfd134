//! A connection without a socket: bytes in, bytes out. For the tests of services, and of this crate.
//!
//! ```
//! use ringhold_core::testing::Exchange;
//! use ringhold_core::{Flow, Frame, Peer, Refusal, Reply, Service};
//!
//! struct Echo;
//! impl Service for Echo {
//!     type Session = ();
//!     fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
//!         Ok(())
//!     }
//!     fn frame(&mut self, _: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
//!         reply.write(|out| out.extend_from_slice(&frame));
//!         Flow::Continue
//!     }
//! }
//!
//! let mut exchange = Exchange::new(Echo);
//! let client = exchange.connect();
//! exchange.receive(client, b"\x93\x01\x02");
//! exchange.receive(client, b"\x03\xc0");
//! assert_eq!(exchange.take_sent(client), b"\x93\x01\x02\x03\xc0");
//! ```

use std::io;
use std::sync::Arc;

use ringhold_framer::Framer;

use crate::connection::{Desire, Finish, Receive};
use crate::crew::Crew;
use crate::desk::{Desk, Name};
use crate::host::Hosted;
use crate::limits::Limits;
use crate::mailbox::{Mailbox, mailbox};
use crate::memory::{Memory, Meter};
use crate::metrics::{Metrics, NameTotals};
use crate::peer::{ConnectionId, Handles, Link, PeerAddress};
use crate::placement::Dealer;
use crate::pool::Pools;
use crate::service::Service;
use crate::shard::Shard;
use crate::worker::Worker;

/// One worker with one service, whose connections have no sockets. Everything happens when it is told, on the calling
/// thread; time stands still until [`Exchange::advance`].
pub struct Exchange {
    shard: Shard<Wire>,
    mailbox: Mailbox,
    now: u64,
    ids: Vec<ConnectionId>,
    ended: Vec<(ConnectionId, Vec<u8>)>,
}

/// A connection of an [`Exchange`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client(usize);

/// What takes the place of a socket.
#[derive(Default)]
struct Wire {
    /// What the peer has been sent.
    sent: Vec<u8>,
    /// The peer reads only so many more bytes; `None` = all.
    window: Option<usize>,
}

impl Link for Wire {
    fn peer_address(&self) -> io::Result<PeerAddress> {
        Ok(PeerAddress::Unix)
    }
}

impl Exchange {
    /// With default limits.
    pub fn new<S: Service>(service: S) -> Self {
        Self::with_limits(service, Limits::default())
    }

    /// With these limits.
    pub fn with_limits<S: Service>(service: S, limits: Limits) -> Self {
        Self::with_worker(|_| service, limits)
    }

    /// With a service that is made as [`Server::service`](crate::Server::service) makes it, and these limits.
    pub fn with_worker<S: Service>(make: impl FnOnce(&Worker) -> S, limits: Limits) -> Self {
        Self::build(make, limits)
            .unwrap_or_else(|error| panic!("a mailbox needs an eventfd: {error}"))
    }

    fn build<S: Service>(make: impl FnOnce(&Worker) -> S, limits: Limits) -> io::Result<Self> {
        let (post, mailbox) = mailbox()?;
        let name: Arc<str> = "test".into();
        let metrics = Arc::new(Metrics::new(vec![name.clone()], 1));
        let service = make(&Worker {
            index: 0,
            count: 1,
            metrics: metrics.clone(),
        });
        let memory = Memory::new(limits.memory as u64, 1);
        let dealer = Dealer::new(1, limits.connections, [vec![0]]);
        let crew = Crew::new(
            vec![post.clone()],
            dealer,
            memory.clone(),
            metrics.clone(),
            0,
        );
        let desk = Desk {
            worker: 0,
            names: [Name {
                name,
                service: Some(0),
            }]
            .into(),
            framer: Framer::new(ringhold_framer::Limits {
                frame_bytes: u32::try_from(limits.frame_bytes).unwrap_or(u32::MAX),
                depth: u16::try_from(limits.depth).unwrap_or(u16::MAX),
            }),
            pools: Pools::default(),
            meter: Meter::new(memory, 0),
            metrics,
            handles: Handles {
                post,
                pushed_max: limits.outbox_bytes,
            },
            open_tickets: crew.open_tickets.clone(),
            now: 1,
            limits: Arc::new(limits),
        };
        let shard = Shard::new(
            desk,
            crew,
            vec![Box::new(Hosted::new(service))],
            std::time::Duration::ZERO,
        );
        Ok(Exchange {
            shard,
            mailbox,
            now: 1,
            ids: Vec::new(),
            ended: Vec::new(),
        })
    }

    /// A client connects.
    pub fn connect(&mut self) -> Client {
        self.shard.crew.dealer.hold(0, 0);
        let id = self.shard.open(0, Wire::default());
        self.ids.push(id);
        self.settle();
        Client(self.ids.len() - 1)
    }

    /// Bytes of the client arrive in one piece, if the connection reads at the moment. Returns whether it did.
    pub fn receive(&mut self, client: Client, bytes: &[u8]) -> bool {
        let Some(desire) = self.desire(client) else {
            return false;
        };
        match desire.receive {
            Receive::Stream => self.shard.received(self.slot(client), bytes, None),
            Receive::Large => {
                // As an engine does: at most what is missing goes into the frame's own buffer.
                let slot = self.slot(client);
                let mut bytes = bytes;
                if let Some((mut target, room)) = self.shard.take_large(slot) {
                    let (head, tail) = bytes.split_at(room.min(bytes.len()));
                    target.extend_from_slice(head);
                    self.shard.large_received(slot, target);
                    bytes = tail;
                }
                self.settle();
                return bytes.is_empty() || self.receive(client, bytes);
            }
            Receive::Pause | Receive::Stop => return false,
        }
        self.settle();
        true
    }

    /// The client ends its side.
    pub fn end(&mut self, client: Client) {
        if self.is_open(client) {
            self.shard.ended(self.slot(client));
            self.settle();
        }
    }

    /// The client resets the connection.
    pub fn reset(&mut self, client: Client) {
        if self.is_open(client) {
            self.shard.failed(
                self.slot(client),
                io::Error::from(io::ErrorKind::ConnectionReset),
            );
            self.settle();
        }
    }

    /// From now on the client reads only so many bytes; `None` lifts the limit.
    pub fn set_window(&mut self, client: Client, window: Option<usize>) {
        if self.is_open(client) {
            let slot = self.slot(client);
            if let Some(link) = self.shard.link(slot) {
                link.window = window;
            }
            self.shard.touch(slot);
            self.settle();
        }
    }

    /// Delivers what handles pushed and responders answered meanwhile.
    pub fn deliver(&mut self) {
        self.settle();
    }

    /// Time passes.
    pub fn advance(&mut self, time: std::time::Duration) {
        self.now += u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 2);
        self.settle();
    }

    /// The server is told to stop; it waits for nothing.
    pub fn stop(&mut self) {
        let _ = self.shard.deliver(crate::mailbox::Mail::Stop);
        self.settle();
    }

    /// What the client was sent since the last call.
    pub fn take_sent(&mut self, client: Client) -> Vec<u8> {
        let id = self.ids[client.0];
        if let Some((_, sent)) = self.ended.iter_mut().find(|(ended, _)| *ended == id) {
            return std::mem::take(sent);
        }
        self.shard
            .link(id.slot)
            .map(|link| std::mem::take(&mut link.sent))
            .unwrap_or_default()
    }

    /// Whether the connection exists.
    pub fn is_open(&self, client: Client) -> bool {
        self.ended
            .iter()
            .all(|(ended, _)| *ended != self.ids[client.0])
    }

    /// Whether the connection would read what the client sends.
    pub fn reads(&self, client: Client) -> bool {
        self.desire(client)
            .is_some_and(|desire| matches!(desire.receive, Receive::Stream | Receive::Large))
    }

    /// The counters.
    pub fn counters(&self) -> NameTotals {
        self.shard.desk.metrics.snapshot().total()
    }

    /// Bytes that the connections make the worker hold.
    pub fn memory_held(&self) -> u64 {
        self.shard.desk.meter.held()
    }

    fn slot(&self, client: Client) -> u32 {
        self.ids[client.0].slot
    }

    fn desire(&self, client: Client) -> Option<Desire> {
        if self.is_open(client) {
            self.shard.desire(self.slot(client))
        } else {
            None
        }
    }

    /// Turns until nothing more happens by itself.
    fn settle(&mut self) {
        self.shard.tick(self.now);
        loop {
            while let Some(mail) = self.mailbox.next() {
                let _ = self.shard.deliver(mail);
            }
            self.shard.work();
            let mut idle = true;
            while let Some(slot) = self.shard.next_touched() {
                idle &= !self.update(slot);
            }
            if idle && !self.shard.is_busy() {
                match self.mailbox.next() {
                    Some(mail) => {
                        let _ = self.shard.deliver(mail);
                    }
                    None => return,
                }
            }
        }
    }

    /// Does what a connection desires, at once. Returns whether anything was to be done.
    fn update(&mut self, slot: u32) -> bool {
        let Some(desire) = self.shard.desire(slot) else {
            return false;
        };
        if desire.send
            && let Some((outbox, link, pools)) = self.shard.sending(slot)
            && link.window != Some(0)
        {
            let mut bytes: Vec<u8> = outbox.begin(pools).flatten().copied().collect();
            if let Some(window) = &mut link.window {
                bytes.truncate(*window);
                *window -= bytes.len();
            }
            link.sent.extend_from_slice(&bytes);
            self.shard.sent(slot, bytes.len());
            return true;
        }
        match desire.finish {
            Finish::No => {}
            Finish::Shutdown => {
                self.shard.shut(slot);
                // This peer ends as soon as it sees the end.
                self.shard.ended(slot);
                return true;
            }
            Finish::Close => {
                if let Some(generation) = self.shard.generation(slot) {
                    let id = ConnectionId {
                        worker: 0,
                        generation,
                        slot,
                    };
                    let wire = self.shard.closed(slot);
                    self.ended.push((id, wire.sent));
                }
                return true;
            }
        }
        if desire.receive == Receive::Stop
            && desire.finish == Finish::No
            && !self.shard.is_quiet(slot)
        {
            self.shard.quiet(slot);
            return true;
        }
        false
    }
}
