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

#[cfg(test)]
mod busy;
#[cfg(test)]
mod closing;
mod drive;
#[cfg(test)]
mod failing;
#[cfg(test)]
mod inboxes;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod overdue;
#[cfg(test)]
mod patience;
#[cfg(test)]
mod resets;
mod setup;
mod succession;
#[cfg(test)]
mod unsaved;
mod wire;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

pub use self::setup::Setup;
use self::succession::Parted;
use self::wire::{Identity, Wire};
use crate::belongings::Belonging;
use crate::connection::{Desire, Receive};
use crate::crew::Name;
use crate::handover::bequest::Legacy;
use crate::limits::Limits;
use crate::mailbox::{Mail, Mailbox};
use crate::metrics::{NameTotals, Snapshot};
use crate::peer::{ConnectionId, Credentials, PeerAddress};
use crate::service::Service;
use crate::shard::Shard;
use crate::worker::Worker;

/// One worker with one service, or [several](Setup), whose connections have no sockets. Everything happens when it is told, on the calling
/// thread; time stands still until [`Exchange::advance`].
///
/// What the worker watches for the service ([`Worker::watch`]) is looked at once in each call.
///
/// A client reads everything that it is sent, at once, until [`Exchange::set_window`] says otherwise, and ends its
/// side when it sees the server's end, until [`Exchange::keep_open`] says otherwise.
pub struct Exchange {
    shard: Shard<Wire>,
    mailbox: Mailbox,
    now: u64,
    /// By client. `None` for those that the predecessor did not hand over.
    ids: Vec<Option<ConnectionId>>,
    /// Clients whose connections are gone, and what is left of their sockets.
    ended: Vec<(Client, Wire)>,
    /// Connections on their way to a successor.
    parted: Vec<Parted>,
    /// What was left to the services, in their order.
    legacies: Arc<[Legacy]>,
    /// What the application has.
    belongings: Arc<[Belonging]>,
    /// Who connects.
    peer: Identity,
}

/// One service, on a socket.
fn alone<'a, S: Service>(make: impl FnOnce(&Worker) -> S + 'a, limits: Limits) -> Setup<'a> {
    Setup::new(limits).service("service", &["test"], make)
}

/// A connection of an [`Exchange`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client(usize);

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
        alone(make, limits).start()
    }

    /// The worker begins to serve.
    fn begun(mut self) -> Self {
        let _ = self.shard.deliver(Mail::Resume);
        self
    }

    /// From now on clients connect from this address and with these credentials. Before, they are clients of a unix socket in
    /// this process.
    pub fn set_peer(&mut self, address: PeerAddress, credentials: Option<Credentials>) {
        self.peer = Identity {
            address,
            credentials,
        };
    }

    /// Whether clients that connect from now on begin with a PROXY protocol header, as with `proxy_protocol = true` of their
    /// socket. Before, they do not.
    pub fn set_proxy_protocol(&mut self, proxy_protocol: bool) {
        let names = self.shard.desk.names.iter().cloned();
        let names = names.map(|name| Name {
            proxy_protocol,
            ..name
        });
        self.shard.desk.names = names.collect();
    }

    /// A client connects, to the first name.
    pub fn connect(&mut self) -> Client {
        self.connect_with(0)
    }

    /// A client connects to the socket of this name.
    ///
    /// # Panics
    ///
    /// If no service answers on a socket of this name.
    pub fn connect_to(&mut self, name: &str) -> Client {
        let mut names = self.shard.desk.names.iter();
        match names.position(|known| &*known.name == name) {
            Some(index) => self.connect_with(index),
            None => panic!("no socket is called {name}"),
        }
    }

    fn connect_with(&mut self, name: usize) -> Client {
        self.shard.desk.crew.dealer.hold(name, 0);
        let wire = Wire {
            peer: self.peer.clone(),
            ..Wire::default()
        };
        let id = self.shard.open(name as u16, wire, None);
        self.ids.push(Some(id));
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
        let Some(ConnectionId { slot, .. }) = self.id(client) else {
            return false;
        };
        let waits = self
            .wire(client)
            .is_none_or(|wire| wire.ended || !wire.incoming.is_empty());
        if waits || bytes.is_empty() {
            return false;
        }
        let piece = Bytes::copy_from_slice(bytes);
        self.shard.woken(self.now);
        self.shard.received(slot, &piece, Some(&piece));
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

    /// Bytes of the client arrive together with the end of its side.
    pub fn end_with(&mut self, client: Client, bytes: &[u8]) {
        if let Some(wire) = self.wire(client) {
            wire.incoming.push_back(Bytes::copy_from_slice(bytes));
            self.end(client);
        }
    }

    /// The client resets the connection. What it had sent before is given to the service.
    pub fn reset(&mut self, client: Client) {
        if let Some(id) = self.id(client) {
            if let Some(wire) = self.wire(client) {
                wire.reset = true;
            }
            let reset = io::Error::from(io::ErrorKind::ConnectionReset);
            self.shard.failed(id.slot, reset);
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

    /// Waits until a handle pushes, a responder answers or is dropped, or a connection is closed through a handle, on another
    /// thread, and delivers it. Returns `false` if nothing comes within `time`.
    ///
    /// What comes need not be what is waited for. With several threads, ask for as long as something is missing.
    pub fn deliver_within(&mut self, time: Duration) -> bool {
        let until = Instant::now().checked_add(time);
        let Some(mail) = self.await_mail(until) else {
            return false;
        };
        let _ = self.shard.deliver(mail);
        self.settle();
        true
    }

    /// Time passes, at once: of what was due several times meanwhile, such as a [tick](Service::tick), one call is made, as on a worker that
    /// was late.
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
        self.begin_stop(drain, false);
    }

    fn begin_stop(&mut self, drain: Duration, hand_over: bool) {
        self.tell_to_stop(drain, hand_over);
        self.settle();
    }

    /// Nothing happens by itself until the next call.
    fn tell_to_stop(&mut self, drain: Duration, hand_over: bool) {
        self.shard.drain = drain;
        let _ = self.shard.deliver(Mail::Stop { hand_over });
    }

    /// The server is told to stop, and waits for nothing, when bytes of the client have arrived that are not read yet.
    pub fn stop_unread(&mut self, client: Client, bytes: &[u8]) {
        if let Some(wire) = self.wire(client) {
            wire.incoming.push_back(Bytes::copy_from_slice(bytes));
        }
        self.stop();
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

    /// Whether the server has ended the connection with a reset, so that the client loses what it had not read by then.
    pub fn is_cut(&mut self, client: Client) -> bool {
        self.remains(client).is_some_and(|wire| wire.is_cut)
    }

    /// Whether the connection exists.
    pub fn is_open(&self, client: Client) -> bool {
        self.id(client).is_some()
    }

    /// Whether the connection would read what the client sends.
    pub fn reads(&self, client: Client) -> bool {
        self.desire(client)
            .is_some_and(|desire| matches!(desire.receive, Receive::Stream | Receive::Large))
    }

    /// The counters of all names.
    pub fn counters(&self) -> NameTotals {
        self.snapshot().total()
    }

    /// All counters.
    pub fn snapshot(&self) -> Snapshot {
        self.shard.desk.crew.metrics.snapshot()
    }

    /// Bytes that the connections make the worker hold.
    pub fn memory_held(&self) -> u64 {
        self.shard.desk.meter.held()
    }

    /// When the log says how many warnings it has held back; `None` if it has held back none.
    #[cfg(test)]
    pub(crate) fn held_back(&self) -> Option<u64> {
        self.shard.desk.warnings.next_due()
    }

    /// The connection of a client, if it is open.
    fn id(&self, client: Client) -> Option<ConnectionId> {
        self.ids[client.0].filter(|id| self.shard.has(*id))
    }

    /// The client whose open connection has this slot.
    fn client(&self, slot: u32) -> Option<Client> {
        let mut clients = (0..self.ids.len()).rev().map(Client);
        clients.find(|client| self.id(*client).is_some_and(|id| id.slot == slot))
    }

    /// The client's end of an open connection.
    fn wire(&mut self, client: Client) -> Option<&mut Wire> {
        let id = self.id(client)?;
        self.shard.link(id.slot)
    }

    /// The client's end of a connection, be it closed.
    fn remains(&mut self, client: Client) -> Option<&mut Wire> {
        if self.is_open(client) {
            return self.wire(client);
        }
        let mut closed = self.ended.iter_mut().rev();
        closed
            .find(|(ended, _)| *ended == client)
            .map(|(_, wire)| wire)
    }

    fn desire(&self, client: Client) -> Option<Desire> {
        let id = self.id(client)?;
        self.shard.desire(id.slot)
    }

    fn settle_one(&mut self, client: Client) {
        if let Some(id) = self.id(client) {
            self.shard.touch(id.slot);
        }
        self.settle();
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open = (0..self.ids.len()).filter(|client| self.is_open(Client(*client)));
        let (clients, open) = (self.ids.len(), open.count());
        write!(f, "Exchange({clients} clients, {open} of them connected)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answering::answering;
    use crate::crew::Crew;
    use crate::frame::Frame;
    use crate::mailbox::mailbox;
    use crate::memory::{Memory, Meter};
    use crate::peer::Peer;
    use crate::placement::Dealer;
    use crate::reply::Reply;
    use crate::service::{Flow, Refusal};

    impl Exchange {
        /// Adds a second worker, which takes no turns, and lets both together hold so much. Returns its mailbox.
        pub(super) fn add_busy_worker(&mut self, memory: u64) -> Mailbox {
            let desk = &mut self.shard.desk;
            let (post, mailbox) = mailbox().unwrap();
            let memory = Memory::new(memory, 2);
            desk.crew = Crew::new(
                vec![desk.crew.posts[0].clone(), post],
                desk.crew.names.clone(),
                Dealer::new(2, 100, [vec![0, 1]]),
                memory.clone(),
                desk.crew.metrics.clone(),
                vec![0, 0],
            );
            desk.meter = Meter::new(memory, 0);
            mailbox
        }
    }

    /// Answers every frame with 60000 bytes.
    pub(super) fn talkative() -> impl Service {
        answering(|_, reply| {
            reply.write(|out| out.resize(out.len() + 60_000, 0xc0));
            Flow::Continue
        })
    }

    #[test]
    fn each_name_has_its_own_connections_and_counters() {
        struct Name;

        impl Service for Name {
            type Session = ();

            fn connected(&mut self, peer: &Peer<'_>, reply: &mut Reply<'_>) -> Result<(), Refusal> {
                reply.write(|out| out.extend_from_slice(peer.socket_name().as_bytes()));
                Ok(())
            }

            fn frame(&mut self, _: &mut (), _: Frame<'_>, _: &mut Reply<'_>) -> Flow {
                Flow::Continue
            }
        }

        let mut exchange = Setup::new(Limits::default())
            .service("name", &["one", "other"], |_| Name)
            .start();
        let clients = ["one", "other", "other"].map(|name| exchange.connect_to(name));
        assert_eq!(exchange.take_sent(clients[1]), b"other");
        exchange.receive(clients[2], &[1, 2]);
        let snapshot = exchange.snapshot();
        let counters = |name| snapshot.name(name).map(|name| (name.open, name.frames_in));
        assert_eq!(counters("one"), Some((1, 0)));
        assert_eq!(counters("other"), Some((2, 2)));
    }

    #[test]
    fn who_has_waited_longest_is_answered_first() {
        let mut exchange = Exchange::new(talkative());
        let clients = [(); 4].map(|()| exchange.connect());
        let order = [2, 0, 3, 1, 3].map(|number| clients[number].0 as u32);
        for slot in order {
            exchange.shard.received(slot, &[0x01], None);
        }
        let touched = std::iter::from_fn(|| exchange.shard.next_touched());
        assert_eq!(touched.collect::<Vec<_>>(), order[..4]);
    }
}
