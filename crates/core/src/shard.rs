//! What one worker owns, whatever its engine: its connections, its services, its timers.
//!
//! The engine tells the shard what happened (`open`, `received`, `ended`, `failed`, `sent`, `shut`, `quiet`, ...), and
//! at the end of its turn asks for the connections that were touched and what each [`Desire`]s. The shard never
//! calls the engine. `L` is what the engine keeps per connection; it lives beside the connection, so that one message
//! touches one place in memory.

use std::cell::OnceCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;

use crate::close::Close;
use crate::connection::{Connection, Desire, Finish, LINGER, Life, Receive, milliseconds};
use crate::crew::Crew;
use crate::desk::Desk;
use crate::frame::Lend;
use crate::handover::parcel::Parcel;
use crate::heap::Burst;
use crate::host::Host;
use crate::mailbox::Mail;
use crate::outbox::Outbox;
use crate::peer::{ConnectionId, HandleState, Link, Peer, PushError};
use crate::pool::Pools;
use crate::reply::{Abandoned, Reply, Ticket};
use crate::slots::Slots;
use crate::timers::Wheel;

mod parting;

/// One worker's connections and services.
pub(crate) struct Shard<L> {
    pub(crate) desk: Desk,
    pub(crate) crew: Arc<Crew>,
    connections: Slots<Entry<L>>,
    burst: Burst,
    hosts: Vec<Box<dyn Host>>,
    /// Slots to ask for their desire at the end of the turn.
    touched: Vec<u32>,
    /// Slots with input that can be dispatched.
    ready: Vec<u32>,
    wheel: Wheel<Timed>,
    /// Reused by `tick`.
    due: Vec<Timed>,
    next_generation: u32,
    phase: Phase,
    /// How long a stop waits for deferred replies.
    pub(crate) drain: Duration,
    /// The stop that is under way ends in a handover.
    hands_over: bool,
    /// No byte moves on any connection: the predecessor still answers for them.
    holds: bool,
}

struct Entry<L> {
    connection: Connection,
    link: L,
    /// What the connection shares with its handles, once there are any.
    handle: OnceCell<Arc<HandleState>>,
    /// In `touched`.
    is_touched: bool,
    /// In `ready`.
    is_ready: bool,
    /// When its valid entry in `wheel` comes up; `NEVER` if there is none.
    timed: u64,
    /// It had a deferred reply under way while stopping, and is not read any more: if it were read on when that is
    /// answered, its next requests could open tickets again and again.
    is_frozen: bool,
    /// It is counted among the open tickets, because a handover waits until its last output is written.
    is_awaited: bool,
}

/// Stands for a time that does not come.
const NEVER: u64 = u64::MAX;

/// An entry of the timer wheel. It is void if its connection is gone or has an earlier one by now.
struct Timed {
    slot: u32,
    generation: u32,
    at: u64,
}

/// How far the worker is on its way to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It serves.
    Serving,
    /// It serves, but no longer reads connections that wait for a deferred reply. Until `until` it waits for those.
    /// Before a handover it goes on accepting.
    Waiting { until: u64 },
    /// It reads no more. What was received is answered and written. At `until` deferred replies are given up; what
    /// has not been written a linger time later is not. Before a handover nothing else is waited for.
    Draining { until: u64 },
}

/// What only the engine can do about a mail.
pub(crate) enum Errand {
    /// Serve this socket, accepted on the listeners of this name and counted for this worker.
    Open {
        name: u16,
        socket: std::os::fd::OwnedFd,
    },
    /// Take over this connection, counted for this worker.
    Restore { name: u16, parcel: Box<Parcel> },
    /// Try again to deal what could not be dealt.
    Room,
    /// Accept, which was held back.
    Accept,
    /// Stop accepting, for good.
    StopAccepting,
}

impl<L: Link> Shard<L> {
    pub(crate) fn new(
        desk: Desk,
        crew: Arc<Crew>,
        hosts: Vec<Box<dyn Host>>,
        drain: Duration,
    ) -> Self {
        Shard {
            desk,
            crew,
            connections: Slots::new(),
            burst: Burst::default(),
            hosts,
            touched: Vec::new(),
            ready: Vec::new(),
            wheel: Wheel::new(),
            due: Vec::new(),
            next_generation: 0,
            phase: Phase::Serving,
            drain,
            hands_over: false,
            holds: false,
        }
    }

    // --- what the engine tells ------------------------------------------------------------------------------------

    /// A connection of the socket name `name` is here. The caller has counted it with the dealer.
    pub(crate) fn open(&mut self, name: u16, link: L) -> ConnectionId {
        let id = self.admit(name, link);
        self.with_host(id.slot, |host, reply| {
            let peer = peer(id, name, reply);
            host.connected(&peer, reply);
        });
        id
    }

    /// Makes the entry of a connection, without a session.
    fn admit(&mut self, name: u16, link: L) -> ConnectionId {
        let id = ConnectionId {
            worker: self.desk.worker,
            // A process has at most 2^30 descriptors.
            slot: self.connections.next_key() as u32,
            generation: self.next_generation,
        };
        self.next_generation = self.next_generation.wrapping_add(1);
        self.connections.insert(Entry {
            connection: Connection::new(id, name, self.desk.now),
            link,
            handle: OnceCell::new(),
            is_touched: false,
            is_ready: false,
            timed: NEVER,
            is_frozen: false,
            is_awaited: false,
        });
        self.burst.grown(self.connections.len());
        let counters = self.desk.name_counters(name);
        counters.opened.add(1);
        counters.open.add(1);
        id
    }

    /// Bytes arrived.
    pub(crate) fn received(&mut self, slot: u32, bytes: &[u8], lender: Option<&dyn Lend>) {
        self.with_host(slot, |host, reply| {
            reply.connection.clock.traffic = reply.desk.now;
            reply
                .desk
                .name_counters(reply.connection.name)
                .bytes_in
                .add(bytes.len() as u64);
            host.input(bytes, lender, reply);
        });
    }

    /// The peer ended its side.
    pub(crate) fn ended(&mut self, slot: u32) {
        self.with(slot, |connection, _| connection.ended());
    }

    /// The socket failed.
    pub(crate) fn failed(&mut self, slot: u32, error: std::io::Error) {
        self.with(slot, |connection, desk| {
            connection.close(Close::Failed(error), desk)
        });
    }

    /// A send ended; the kernel took `bytes` bytes.
    pub(crate) fn sent(&mut self, slot: u32, bytes: usize) {
        self.with(slot, |connection, desk| {
            connection.outbox.sent(&mut desk.pools, bytes);
            if bytes > 0 {
                connection.clock.write = desk.now;
                connection.clock.traffic = desk.now;
                desk.name_counters(connection.name)
                    .bytes_out
                    .add(bytes as u64);
            }
        });
    }

    /// The FIN that [`Finish::Shutdown`] asked for was sent.
    pub(crate) fn shut(&mut self, slot: u32) {
        self.with(slot, |connection, desk| connection.shut(desk.now));
    }

    /// Nothing more will be received on this connection, because the server stops.
    pub(crate) fn quiet(&mut self, slot: u32) {
        self.with(slot, |connection, _| connection.quiet = true);
    }

    /// The engine has closed the socket: forget the connection.
    pub(crate) fn closed(&mut self, slot: u32) -> L {
        let Some(mut entry) = self.connections.remove(slot as usize) else {
            unreachable!("a connection is closed once");
        };
        let connection = &mut entry.connection;
        let name = connection.name;
        for _ in connection.tickets.close_all() {
            self.crew.ticket_closed();
        }
        if entry.is_awaited {
            self.crew.ticket_closed();
        }
        let life = std::mem::replace(&mut connection.life, Life::Open);
        let why = match life {
            Life::Closing { why, .. } | Life::Shut { why } | Life::Over { why } => why,
            Life::Open | Life::Ended => Close::Stopping,
        };
        if let Some(host) = host_of(&self.desk, &mut self.hosts, name) {
            host.disconnected(connection, &why, &self.desk);
        }
        if let Some(handle) = entry.handle.get() {
            handle.end(PushError::Gone);
        }
        if let Some(input) = connection.input.take() {
            self.desk.pools.give_partial(input);
        }
        connection.outbox.clear(&mut self.desk.pools);
        self.desk.meter.change(connection.metered, 0);
        self.desk.name_counters(name).open.subtract(1);
        if self
            .crew
            .dealer
            .release(name as usize, self.desk.worker as usize)
        {
            for post in &self.crew.posts {
                let _ = post.send(Mail::Room);
            }
        }
        if self.burst.is_over(self.connections.len()) {
            self.crew.has_surplus.store(true, Ordering::Relaxed);
        }
        entry.link
    }

    /// Takes the buffer of the large frame that is under way, to receive into its spare capacity, at most the second
    /// value's number of bytes. It must be given back with [`Shard::large_received`].
    pub(crate) fn take_large(&mut self, slot: u32) -> Option<(BytesMut, usize)> {
        /// Grown by doubling, but at least by so much, whatever the header announced: memory follows what arrived.
        const GROWTH_BYTES_MIN: usize = 256 * 1024;
        let connection = &mut self.connections.get_mut(slot as usize)?.connection;
        let partial = connection.input.as_mut()?;
        debug_assert_eq!(partial.scanned, partial.bytes.len());
        let mut bytes = std::mem::take(&mut partial.bytes);
        if bytes.capacity() - bytes.len() < partial.missing.min(GROWTH_BYTES_MIN) {
            bytes.reserve(partial.missing.min(GROWTH_BYTES_MIN.max(bytes.len())));
        }
        let room = partial.missing.min(bytes.capacity() - bytes.len());
        partial.lent = bytes.len() + room;
        connection.account(&mut self.desk);
        Some((bytes, room))
    }

    /// Gives the buffer back that [`Shard::take_large`] lent, longer by what was received.
    pub(crate) fn large_received(&mut self, slot: u32, bytes: BytesMut) {
        self.with_host(slot, |host, reply| {
            let Some(partial) = reply.connection.input.as_mut() else {
                return; // It was closed meanwhile.
            };
            let received = bytes.len() - partial.scanned;
            partial.bytes = bytes;
            partial.lent = 0;
            if received > 0 {
                reply.connection.clock.traffic = reply.desk.now;
                reply
                    .desk
                    .name_counters(reply.connection.name)
                    .bytes_in
                    .add(received as u64);
                host.in_place(reply);
            }
        });
    }

    /// Handles mail. What only the engine can do is returned.
    pub(crate) fn deliver(&mut self, mail: Mail) -> Option<Errand> {
        match mail {
            Mail::Accepted { name, socket } => return Some(Errand::Open { name, socket }),
            Mail::Room => return Some(Errand::Room),
            Mail::Restored { name, parcel } => return Some(Errand::Restore { name, parcel }),
            Mail::Stop { .. } if self.holds => {
                self.forget_all();
                return Some(Errand::StopAccepting);
            }
            Mail::Stop { hand_over } => {
                if self.phase == Phase::Serving {
                    self.begin_stop(hand_over);
                    // Who connects meanwhile is served like everybody else, if a successor will go on with it.
                    return (!hand_over).then_some(Errand::StopAccepting);
                }
            }
            Mail::StopAccepting => return Some(Errand::StopAccepting),
            Mail::Hold => self.holds = true,
            Mail::Report(reports) => {
                // Whoever asked has given up if nobody listens.
                let _ = reports.send(());
            }
            Mail::Resume => {
                self.resume();
                return Some(Errand::Accept);
            }
            Mail::Push { to, bytes } => self.push(to, bytes),
            Mail::Overflow { to } => self.with_id(to, |connection, desk| {
                // If it is ending anyway, what was queued before is still written.
                if connection.takes_frames() {
                    connection.close(Close::Overflow, desk)
                }
            }),
            Mail::Answer { to, serial, bytes } => self.answer(to, serial, bytes),
            Mail::Dropped { to, serial } => self.abandon(to, serial, Abandoned::Dropped),
            Mail::Shed => {
                self.shed();
            }
            Mail::Look => {}
        }
        None
    }

    /// The time, in milliseconds on the worker's clock. Time limits that are exceeded by now take effect.
    pub(crate) fn tick(&mut self, now: u64) {
        self.desk.now = now;
        if self.wheel.next_due().is_none_or(|due| due > now) {
            return;
        }
        let mut due = std::mem::take(&mut self.due);
        self.wheel.advance(now, &mut due);
        for Timed {
            slot,
            generation,
            at,
        } in due.drain(..)
        {
            let Some(entry) = self.connections.get_mut(slot as usize) else {
                continue;
            };
            if entry.connection.id.generation != generation || entry.timed != at {
                continue;
            }
            entry.timed = NEVER;
            let over = entry
                .connection
                .due(&self.desk.limits)
                .filter(|(at, _)| *at <= now);
            self.with(slot, |connection, desk| {
                if let Some((_, why)) = over {
                    connection.close(why, desk);
                }
            });
        }
        self.due = due;
    }

    /// Gives connections with undispatched input their share of this turn, moves a stop on, and bounds the memory.
    pub(crate) fn work(&mut self) {
        // Those that are not done with their share come behind these, for the next turn.
        let count = if self.holds { 0 } else { self.ready.len() };
        for index in 0..count {
            let slot = self.ready[index];
            if let Some(entry) = self.connections.get_mut(slot as usize) {
                entry.is_ready = false;
                self.with_host(slot, |host, reply| host.backlog(reply));
            }
        }
        self.ready.drain(..count);
        self.advance_stop();
        let me = self.desk.worker as usize;
        let mut holder = self.desk.meter.publish();
        if holder == Some(me) && !self.shed() {
            // What was known of this worker was out of date.
            holder = self.desk.meter.publish();
        }
        if let Some(worker) = holder
            && worker != me
            && let Some(post) = self.crew.posts.get(worker)
        {
            let _ = post.send(Mail::Shed);
        }
    }

    // --- what the engine asks -------------------------------------------------------------------------------------

    pub(crate) fn next_touched(&mut self) -> Option<u32> {
        loop {
            let slot = self.touched.pop()?;
            if let Some(entry) = self.connections.get_mut(slot as usize)
                && entry.is_touched
            {
                entry.is_touched = false;
                return Some(slot);
            }
        }
    }

    /// What to do for a connection, as of now.
    pub(crate) fn desire(&self, slot: u32) -> Option<Desire> {
        if self.holds {
            return None;
        }
        if self.is_to_part(slot) {
            return self.parting_desire(slot);
        }
        let Entry {
            connection,
            is_frozen,
            ..
        } = self.connections.get(slot as usize)?;
        let mut desire = connection.desire();
        if desire.finish == Finish::No && matches!(connection.life, Life::Open) {
            match self.phase {
                Phase::Serving => {}
                Phase::Waiting { .. } => {
                    if *is_frozen {
                        desire.receive = Receive::Pause;
                    }
                }
                Phase::Draining { .. } => desire.receive = Receive::Stop,
            }
        }
        Some(desire)
    }

    /// Whether work is left that needs no event to go on.
    pub(crate) fn is_busy(&self) -> bool {
        (!self.ready.is_empty() && !self.holds) || !self.touched.is_empty()
    }

    /// When [`Shard::tick`] must be called at the latest, on the worker's clock.
    pub(crate) fn next_due(&self) -> Option<u64> {
        let stop = match self.phase {
            Phase::Serving => None,
            Phase::Draining { until } if self.desk.now >= until => {
                Some(until.saturating_add(milliseconds(LINGER)))
            }
            Phase::Waiting { until } | Phase::Draining { until } => Some(until),
        };
        [self.wheel.next_due(), stop].into_iter().flatten().min()
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether a stopping worker has nothing left to do and cannot be given anything any more.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Draining { .. })
            && self.connections.is_empty()
            && self.crew.acceptors() == 0
    }

    pub(crate) fn link(&mut self, slot: u32) -> Option<&mut L> {
        Some(&mut self.entry(slot)?.link)
    }

    /// The engine's part of a connection if it is still the one that `generation` means.
    pub(crate) fn link_of(&mut self, slot: u32, generation: u32) -> Option<&mut L> {
        let entry = self.entry(slot)?;
        (entry.connection.id.generation & GENERATION_MASK == generation).then_some(&mut entry.link)
    }

    /// What of the generation of the connection in `slot` an engine needs to tell its operations apart.
    pub(crate) fn generation(&self, slot: u32) -> Option<u32> {
        let connection = &self.connections.get(slot as usize)?.connection;
        Some(connection.id.generation & GENERATION_MASK)
    }

    /// Whether this connection exists.
    pub(crate) fn has(&self, id: ConnectionId) -> bool {
        self.connections
            .get(id.slot as usize)
            .is_some_and(|entry| entry.connection.id == id)
    }

    /// What a send needs: the outbox, the engine's part, and the pools.
    pub(crate) fn sending(&mut self, slot: u32) -> Option<(&mut Outbox, &mut L, &mut Pools)> {
        let entry = self.connections.get_mut(slot as usize)?;
        Some((
            &mut entry.connection.outbox,
            &mut entry.link,
            &mut self.desk.pools,
        ))
    }

    pub(crate) fn touch(&mut self, slot: u32) {
        if let Some(entry) = self.connections.get_mut(slot as usize)
            && !entry.is_touched
        {
            entry.is_touched = true;
            self.touched.push(slot);
        }
    }

    /// Whether [`Shard::quiet`] was called.
    pub(crate) fn is_quiet(&self, slot: u32) -> bool {
        self.connections
            .get(slot as usize)
            .is_some_and(|entry| entry.connection.quiet)
    }

    /// Whether received bytes would be dispatched at once.
    pub(crate) fn takes_input(&self, slot: u32) -> bool {
        let connection = self
            .connections
            .get(slot as usize)
            .map(|entry| &entry.connection);
        connection
            .is_some_and(|connection| matches!(connection.life, Life::Open) && !connection.paused)
    }

    pub(crate) fn len(&self) -> usize {
        self.connections.len()
    }

    // --- inside ---------------------------------------------------------------------------------------------------

    fn entry(&mut self, slot: u32) -> Option<&mut Entry<L>> {
        self.connections.get_mut(slot as usize)
    }

    fn touch_all(&mut self) {
        for slot in self.slots() {
            self.touch(slot);
        }
    }

    /// Changes a connection, then draws the conclusions.
    fn with(&mut self, slot: u32, change: impl FnOnce(&mut Connection, &mut Desk)) {
        let Some(entry) = self.connections.get_mut(slot as usize) else {
            debug_assert!(false, "an event for a connection that is gone");
            return;
        };
        change(&mut entry.connection, &mut self.desk);
        self.conclude(slot);
    }

    fn with_id(&mut self, id: ConnectionId, change: impl FnOnce(&mut Connection, &mut Desk)) {
        if self.has(id) {
            self.with(id.slot, change);
        }
    }

    /// Calls the connection's service, then draws the conclusions.
    fn with_host(&mut self, slot: u32, call: impl FnOnce(&mut dyn Host, &mut Reply<'_>)) {
        let Some(entry) = self.connections.get_mut(slot as usize) else {
            debug_assert!(false, "an event for a connection that is gone");
            return;
        };
        if let Some(host) = host_of(&self.desk, &mut self.hosts, entry.connection.name) {
            let mut reply = Reply {
                connection: &mut entry.connection,
                desk: &mut self.desk,
                link: &entry.link,
                handle: &entry.handle,
            };
            call(host, &mut reply);
        }
        self.conclude(slot);
    }

    /// After anything happened to a connection: pause or go on, notice the end, keep the books.
    fn conclude(&mut self, slot: u32) {
        self.note_promises(slot);
        let Some(entry) = self.connections.get_mut(slot as usize) else {
            return;
        };
        let connection = &mut entry.connection;
        connection.update_pause(&self.desk);
        connection.settle(&mut self.desk);
        if connection.quiet
            && !self.hands_over
            && matches!(connection.life, Life::Open)
            && !connection.is_ready()
            && !connection.paused
            && connection.tickets.is_empty()
        {
            connection.close(Close::Stopping, &mut self.desk);
        }
        connection.account(&mut self.desk);
        if let Some(handle) = entry.handle.get()
            && let Some(error) = connection.push_error()
        {
            handle.end(error);
        }
        if connection.is_ready() && !entry.is_ready {
            entry.is_ready = true;
            self.ready.push(slot);
        }
        // An entry that comes up too early is looked at again then; only one that would come too late is replaced.
        if let Some((at, _)) = connection.due(&self.desk.limits)
            && at < entry.timed
        {
            entry.timed = at;
            let generation = connection.id.generation;
            self.wheel.insert(
                at,
                Timed {
                    slot,
                    generation,
                    at,
                },
            );
        }
        if !entry.is_touched {
            entry.is_touched = true;
            self.touched.push(slot);
        }
    }

    fn push(&mut self, to: ConnectionId, bytes: bytes::Bytes) {
        if !self.has(to) {
            return;
        }
        if let Some(entry) = self.connections.get(to.slot as usize)
            && let Some(handle) = entry.handle.get()
        {
            handle.pushed.fetch_sub(bytes.len(), Ordering::AcqRel);
        }
        self.with(to.slot, |connection, desk| {
            if !connection.takes_frames() {
                return;
            }
            if connection.outbox.len() + bytes.len() > desk.limits.outbox_bytes {
                connection.close(Close::Overflow, desk);
            } else {
                connection.outbox.share(&mut desk.pools, bytes);
            }
        });
    }

    fn answer(&mut self, to: ConnectionId, serial: u64, bytes: bytes::Bytes) {
        let crew = self.crew.clone();
        self.with_id(to, |connection, desk| {
            if connection.tickets.close(&mut desk.pools, serial).is_some() {
                crew.ticket_closed();
                connection.clock.traffic = desk.now;
                if connection.takes_frames() {
                    connection.outbox.share(&mut desk.pools, bytes);
                }
            }
        });
    }

    fn abandon(&mut self, to: ConnectionId, serial: u64, why: Abandoned) {
        if !self.has(to) {
            return;
        }
        let crew = self.crew.clone();
        self.with_host(to.slot, |host, reply| {
            let tickets = &mut reply.connection.tickets;
            if let Some(ticket) = tickets.close(&mut reply.desk.pools, serial) {
                crew.ticket_closed();
                give_up(host, reply, ticket, why);
            }
        });
    }

    /// Cuts the connection that holds most, if it still has to be done and is this worker's to do. Returns whether it did.
    fn shed(&mut self) -> bool {
        let holders = self
            .connections
            .iter()
            .map(|(slot, entry)| (entry.connection.metered, slot as u32));
        let largest = holders.max().unwrap_or((0, 0));
        let must = self.desk.meter.must_cut(largest.0);
        if must {
            self.with(largest.1, |connection, desk| {
                connection.close(Close::Memory, desk)
            });
        }
        must
    }

    fn is_over(&self, slot: u32) -> bool {
        self.connections
            .get(slot as usize)
            .is_some_and(|entry| matches!(entry.connection.life, Life::Over { .. }))
    }

    /// Moves a stop to its next phase when what it waits for has come, or its time is over.
    fn advance_stop(&mut self) {
        let now = self.desk.now;
        match self.phase {
            Phase::Serving => {}
            Phase::Waiting { until } => {
                if self.crew.open_tickets.count() == 0
                    || now >= until
                    || self.hands_over && self.crew.is_parting()
                {
                    self.begin_drain(until);
                }
            }
            Phase::Draining { .. } => {}
        }
        if let Phase::Draining { until } = self.phase
            && now >= until
        {
            self.abandon_all();
            if now >= until.saturating_add(milliseconds(LINGER)) && !self.hands_over {
                // Peers that did not take their replies in time: the service manager waits for us.
                for slot in self.slots() {
                    if !self.is_over(slot) {
                        self.with(slot, |connection, desk| {
                            connection.close(Close::WriteTimeout, desk)
                        });
                    }
                }
            }
        }
    }

    fn slots(&self) -> Vec<u32> {
        self.connections
            .iter()
            .map(|(slot, _)| slot as u32)
            .collect()
    }

    /// Gives up on every deferred reply.
    fn abandon_all(&mut self) {
        if self.crew.open_tickets.count() == 0 {
            return;
        }
        let crew = self.crew.clone();
        let slots: Vec<u32> = self
            .connections
            .iter()
            .filter(|(_, entry)| !entry.connection.tickets.is_empty())
            .map(|(slot, _)| slot as u32)
            .collect();
        for slot in slots {
            self.with_host(slot, |host, reply| {
                for ticket in reply.connection.tickets.close_all() {
                    crew.ticket_closed();
                    give_up(host, reply, ticket, Abandoned::Stopping);
                }
            });
        }
    }
}

/// Tells the service that the deferred reply to a ticket, which is closed by now, will not come. Not if the connection
/// is ending: then there is nobody left to apologise to.
fn give_up(host: &mut dyn Host, reply: &mut Reply<'_>, ticket: Ticket, why: Abandoned) {
    reply.connection.clock.traffic = reply.desk.now;
    if reply.connection.takes_frames() {
        reply
            .desk
            .name_counters(reply.connection.name)
            .abandoned
            .add(1);
        host.abandoned(ticket, why, reply);
    }
}

/// The bits of a generation that an engine can pack into an operation's identity, of which few are in flight at a time.
/// What others hold on to a connection can outlive very many connections, and is told apart by all 32 bits.
pub(crate) const GENERATION_MASK: u32 = (1 << 24) - 1;

/// The other end of a new connection.
fn peer<'a>(id: ConnectionId, name: u16, reply: &Reply<'a>) -> Peer<'a> {
    Peer {
        id,
        socket_name: reply.desk.names[name as usize].name.clone(),
        link: reply.link,
        handles: reply.desk.handles.clone(),
        handle: reply.handle,
    }
}

fn host_of<'a>(
    desk: &Desk,
    hosts: &'a mut [Box<dyn Host>],
    name: u16,
) -> Option<&'a mut (dyn Host + 'a)> {
    let service = desk.names.get(name as usize)?.service?;
    hosts.get_mut(service).map(|host| &mut **host as _)
}
