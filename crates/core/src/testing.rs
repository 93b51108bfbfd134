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

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use ringhold_framer::Framer;

use crate::connection::{Desire, Finish, Receive};
use crate::crew::Crew;
use crate::desk::{Desk, Name};
use crate::host::Hosted;
use crate::limits::Limits;
use crate::mailbox::{Mail, Mailbox, mailbox};
use crate::memory::{Memory, Meter};
use crate::metrics::{Metrics, NameTotals};
use crate::peer::{ConnectionId, Handles, Link, PeerAddress};
use crate::placement::Dealer;
use crate::pool::Pools;
use crate::service::Service;
use crate::shard::{Phase, Shard};
use crate::worker::Worker;

/// One worker with one service, whose connections have no sockets. Everything happens when it is told, on the calling
/// thread; time stands still until [`Exchange::advance`].
///
/// A client reads everything that it is sent, at once, until [`Exchange::set_window`] says otherwise, and ends its
/// side when it sees the server's end, until [`Exchange::keep_open`] says otherwise.
pub struct Exchange {
    shard: Shard<Wire>,
    mailbox: Mailbox,
    now: u64,
    ids: Vec<ConnectionId>,
    /// Connections that are gone, and what is left of their sockets.
    ended: Vec<(ConnectionId, Wire)>,
}

/// A connection of an [`Exchange`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client(usize);

/// What takes the place of a socket.
#[derive(Default)]
struct Wire {
    /// What the client has sent and the connection has not read yet, in the pieces in which it was sent.
    incoming: VecDeque<Bytes>,
    /// The client has ended its side, behind `incoming`.
    ended: bool,
    /// The connection was told so.
    end_seen: bool,
    /// What the client has been sent.
    sent: Vec<u8>,
    /// The client reads only so many more bytes; `None` = all.
    window: Option<usize>,
    /// Bytes of a send that was begun and of which the client has read nothing.
    flight: Option<Vec<u8>>,
    /// The server has ended its side, with nothing unsent before it.
    shut: bool,
    /// The client has reset the connection.
    reset: bool,
    /// The client does not end its side because the server has.
    keeps_open: bool,
}

impl Wire {
    fn unread(&self) -> usize {
        self.incoming.iter().map(Bytes::len).sum()
    }

    /// Lets the client read of `bytes` what its window allows; returns how many bytes that were.
    fn read(&mut self, bytes: &[u8]) -> usize {
        let count = self.window.unwrap_or(usize::MAX).min(bytes.len());
        if let Some(window) = &mut self.window {
            *window -= count;
        }
        self.sent.extend_from_slice(&bytes[..count]);
        count
    }
}

impl Link for Wire {
    fn peer_address(&self) -> io::Result<PeerAddress> {
        Ok(PeerAddress::Unix)
    }

    fn into_socket(self) -> OwnedFd {
        unreachable!("an exchange hands nothing over")
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
        let names: Arc<[Name]> = [Name {
            name,
            service: Some(0),
        }]
        .into();
        let crew = Crew::new(
            vec![post.clone()],
            names.clone(),
            dealer,
            memory.clone(),
            metrics.clone(),
            0,
        );
        let desk = Desk {
            worker: 0,
            names,
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
            Duration::ZERO,
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

    /// Bytes of the client arrive in one piece. What the connection does not read at the moment waits, as it would in a
    /// socket's buffer. Returns whether all of it was read.
    pub fn receive(&mut self, client: Client, bytes: &[u8]) -> bool {
        let Some(wire) = self.wire(client) else {
            return false;
        };
        if !bytes.is_empty() {
            wire.incoming.push_back(Bytes::copy_from_slice(bytes));
        }
        self.settle_one(client);
        self.unread(client) == 0
    }

    /// Bytes of the client arrive although the connection does not want any at the moment. It happens to every engine
    /// whose receive is under way when reading is paused. Returns `false`, and nothing happens, if earlier bytes wait
    /// or the client has ended its side.
    pub fn receive_unasked(&mut self, client: Client, bytes: &[u8]) -> bool {
        let waits = self
            .wire(client)
            .is_none_or(|wire| wire.ended || !wire.incoming.is_empty());
        if waits || bytes.is_empty() {
            return false;
        }
        let piece = Bytes::copy_from_slice(bytes);
        self.shard.received(self.slot(client), &piece, Some(&piece));
        self.settle();
        true
    }

    /// Bytes of the client that the connection did not read, or not yet.
    pub fn unread(&mut self, client: Client) -> usize {
        self.remains(client).map_or(0, |wire| wire.unread())
    }

    /// The client ends its side, behind what it has sent.
    pub fn end(&mut self, client: Client) {
        if let Some(wire) = self.wire(client) {
            wire.ended = true;
            self.settle_one(client);
        }
    }

    /// The client resets the connection.
    pub fn reset(&mut self, client: Client) {
        if let Some(wire) = self.wire(client) {
            wire.reset = true;
            self.shard.failed(
                self.slot(client),
                io::Error::from(io::ErrorKind::ConnectionReset),
            );
            self.settle();
        }
    }

    /// From now on the client reads only so many bytes; `None` lifts the limit.
    pub fn set_window(&mut self, client: Client, window: Option<usize>) {
        if let Some(wire) = self.wire(client) {
            wire.window = window;
            self.settle_one(client);
        }
    }

    /// The client does not end its side when it sees that the server has.
    pub fn keep_open(&mut self, client: Client) {
        if let Some(wire) = self.wire(client) {
            wire.keeps_open = true;
        }
    }

    /// Delivers what handles pushed and responders answered meanwhile.
    pub fn deliver(&mut self) {
        self.settle();
    }

    /// Time passes.
    pub fn advance(&mut self, time: Duration) {
        self.now += u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 2);
        self.settle();
    }

    /// The server is told to stop; it waits for nothing.
    pub fn stop(&mut self) {
        self.stop_within(Duration::ZERO);
    }

    /// The server is told to stop and waits so long for deferred replies.
    pub fn stop_within(&mut self, drain: Duration) {
        self.shard.drain = drain;
        let _ = self.shard.deliver(Mail::Stop { hand_over: false });
        self.settle();
    }

    /// What the client was sent since the last call.
    pub fn take_sent(&mut self, client: Client) -> Vec<u8> {
        self.remains(client)
            .map(|wire| std::mem::take(&mut wire.sent))
            .unwrap_or_default()
    }

    /// Whether the client has seen the server's end, and before it everything that it was to be sent.
    pub fn is_shut(&mut self, client: Client) -> bool {
        self.remains(client).is_some_and(|wire| wire.shut)
    }

    /// Whether the connection exists.
    pub fn is_open(&self, client: Client) -> bool {
        let id = self.ids[client.0];
        self.shard.generation(id.slot) == Some(id.generation)
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

    /// The client's end of an open connection.
    fn wire(&mut self, client: Client) -> Option<&mut Wire> {
        let id = self.ids[client.0];
        self.shard.link_of(id.slot, id.generation)
    }

    /// The client's end of a connection, be it closed.
    fn remains(&mut self, client: Client) -> Option<&mut Wire> {
        let id = self.ids[client.0];
        if self.is_open(client) {
            return self.shard.link_of(id.slot, id.generation);
        }
        let mut closed = self.ended.iter_mut().rev();
        closed.find(|(ended, _)| *ended == id).map(|(_, wire)| wire)
    }

    fn desire(&self, client: Client) -> Option<Desire> {
        if self.is_open(client) {
            self.shard.desire(self.slot(client))
        } else {
            None
        }
    }

    fn settle_one(&mut self, client: Client) {
        self.shard.touch(self.slot(client));
        self.settle();
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
        match desire.finish {
            Finish::No => {
                let sent = self.send(slot, desire.send);
                self.read(slot, desire.receive) || sent
            }
            Finish::Shutdown => {
                self.shard.shut(slot);
                if let Some(wire) = self.shard.link(slot) {
                    wire.shut = true;
                    wire.ended |= !wire.keeps_open;
                }
                true
            }
            Finish::Close | Finish::Release => {
                self.close(slot);
                true
            }
        }
    }

    /// Moves the send that is under way on, or else begins one if there is something to send.
    fn send(&mut self, slot: u32, begin: bool) -> bool {
        let Some((outbox, wire, pools)) = self.shard.sending(slot) else {
            return false;
        };
        let flight = match wire.flight.take() {
            Some(flight) => flight,
            None if begin => outbox.begin(pools).flatten().copied().collect(),
            None => return false,
        };
        let count = wire.read(&flight);
        if count == 0 {
            wire.flight = Some(flight);
            return false;
        }
        self.shard.sent(slot, count);
        true
    }

    /// Gives the connection one piece of what the client has sent, or its end.
    fn read(&mut self, slot: u32, receive: Receive) -> bool {
        let Some(wire) = self.shard.link(slot) else {
            return false;
        };
        match receive {
            Receive::Pause => return false,
            Receive::Stop => return self.read_last(slot),
            Receive::Large if !wire.incoming.is_empty() => {
                if let Some((mut target, room)) = self.shard.take_large(slot) {
                    if let Some(wire) = self.shard.link(slot)
                        && let Some(piece) = wire.incoming.front_mut()
                    {
                        target.extend_from_slice(&piece.split_to(room.min(piece.len())));
                        wire.incoming.retain(Buf::has_remaining);
                    }
                    self.shard.large_received(slot, target);
                }
                return true;
            }
            Receive::Stream | Receive::Large => {}
        }
        if let Some(piece) = wire.incoming.pop_front() {
            self.shard.received(slot, &piece, Some(&piece));
        } else if wire.ended && !wire.end_seen {
            wire.end_seen = true;
            self.shard.ended(slot);
        } else {
            return false;
        }
        true
    }

    /// Nothing more is received. While stopping, what has arrived by now is taken, as an engine does.
    fn read_last(&mut self, slot: u32) -> bool {
        if !matches!(self.shard.phase(), Phase::Draining { .. }) || self.shard.is_quiet(slot) {
            return false;
        }
        while self.shard.takes_input(slot) && self.read(slot, Receive::Stream) {}
        self.shard.quiet(slot);
        true
    }

    fn close(&mut self, slot: u32) {
        let Some(generation) = self.shard.generation(slot) else {
            return;
        };
        let id = ConnectionId {
            worker: 0,
            generation,
            slot,
        };
        if let Some((outbox, wire, _)) = self.shard.sending(slot) {
            // Closing is how the server ends its side if the client has ended before.
            wire.shut |= outbox.is_empty() && wire.end_seen && !wire.reset;
            if wire.flight.take().is_some() {
                self.shard.sent(slot, 0);
            }
        }
        let wire = self.shard.closed(slot);
        self.ended.push((id, wire));
    }
}
