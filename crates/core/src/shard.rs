//! What one worker owns, whatever its engine: its connections, its services, its timers.
//!
//! The engine tells the shard what happened (`open`, `received`, `ended`, `failed`, `sent`, `shut`, `quiet`, ...), and
//! at the end of its turn asks for the connections that were touched and what each [`Desire`]s. The shard never
//! calls the engine. `L` is what the engine keeps per connection; it lives beside the connection, so that one message
//! touches one place in memory.

use std::cell::OnceCell;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::close::Close;
use crate::connection::{Connection, Desire, Finish, Life, Receive, milliseconds};
use crate::desk::Desk;
use crate::frame::Lend;
use crate::heap::Burst;
use crate::host::Host;
use crate::journal;
use crate::mailbox::Mail;
use crate::peer::{ConnectionId, HandleState, Item, Link};
use crate::reply::Reply;
use crate::slots::Slots;
use crate::timers::Wheel;

mod large;
mod mail;
mod memory;
mod owed;
mod parting;
mod roster;
mod sending;
mod sources;
mod stopping;
mod thawing;
mod ticks;
mod time;
mod unsaved;

pub(crate) use self::mail::Accept;
use self::parting::Rest;
use self::sources::Sources;
pub(crate) use self::sources::Watches;
use self::stopping::Stop;
pub(crate) use self::stopping::{Phase, REST_MAX};
use self::ticks::Ticks;
use self::time::{Overdue, Timed};

/// One worker's connections and services.
pub(crate) struct Shard<L> {
    pub(crate) desk: Desk,
    connections: Slots<Entry<L>>,
    burst: Burst,
    hosts: Vec<Box<dyn Host>>,
    /// Slots to ask for their desire at the end of the turn, in the order in which something happened to them: who has
    /// waited longest is answered first.
    touched: VecDeque<u32>,
    /// Slots with input that can be dispatched.
    ready: Vec<u32>,
    wheel: Wheel<Timed>,
    ticks: Ticks,
    sources: Sources,
    /// What the kernel held for peers, by slot, when the time for a write was over last.
    unread: HashMap<u32, u64>,
    /// What a stop has still to read from paused connections, by slot, in bytes.
    last_bytes: HashMap<u32, u64>,
    /// Limits that are exceeded and have not taken effect, in the order in which they were noticed.
    overdue: VecDeque<Overdue>,
    /// Reused when the wheel is looked at.
    due: Vec<Timed>,
    /// Reused when an inbox is emptied.
    items: Vec<Item>,
    answers_taken: usize,
    /// The number of the turn.
    turn: u64,
    next_generation: u32,
    phase: Phase,
    /// What the stop that is under way keeps.
    stop: Stop,
    /// The shortest time limit of an open connection, whatever its name, in milliseconds.
    patience: u64,
    /// How long a stop waits for deferred replies.
    pub(crate) drain: Duration,
    /// It has not begun: no byte moves on any connection, since the predecessor still answers for them.
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
    /// The same for the entry that had to give way to that one, which is valid again after it.
    timed_after: u64,
    /// What it exceeded by then waits in `overdue`; 0 if nothing does.
    noticed: u64,
    /// A stop found it with a slow deferred reply under way, or with any when it [freezes](Phase::Waiting), and it is not read any
    /// more: if it were read on when that is answered, its next requests could open tickets again and again.
    is_frozen: bool,
    /// It is frozen until the end: all that had come is answered, and what comes now is the successor's.
    is_settled: bool,
    /// It is counted as one that holds up a handover, because something may still be received on it.
    is_loud: bool,
    /// It is counted among the endings that a handover waits for.
    is_awaited: bool,
    /// It cannot be handed over, as far as is known, and ends instead.
    is_unsaved: bool,
    /// The log says why it ends.
    is_end_logged: bool,
}

impl<L: Link> Shard<L> {
    pub(crate) fn new(
        desk: Desk,
        hosts: Vec<Box<dyn Host>>,
        watches: Watches,
        drain: Duration,
    ) -> Self {
        let patience = desk.names.iter().flat_map(|name| {
            let limits = &name.limits;
            [
                limits.idle_timeout,
                limits.frame_timeout,
                limits.write_timeout,
                limits.promise_timeout,
            ]
        });
        let patience = patience.filter(|limit| !limit.is_zero()).min();
        Shard {
            patience: patience.map_or(u64::MAX, milliseconds),
            desk,
            connections: Slots::new(),
            burst: Burst::default(),
            hosts,
            touched: VecDeque::new(),
            ready: Vec::new(),
            wheel: Wheel::new(),
            ticks: Ticks::default(),
            sources: Sources::new(watches),
            unread: HashMap::new(),
            last_bytes: HashMap::new(),
            overdue: VecDeque::new(),
            due: Vec::new(),
            items: Vec::new(),
            answers_taken: 0,
            turn: 0,
            next_generation: 0,
            phase: Phase::Serving,
            stop: Stop::default(),
            drain,
            holds: true,
        }
    }

    // --- what the engine tells ------------------------------------------------------------------------------------

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
        self.with(slot, |connection, desk| {
            connection.clock.traffic = desk.now;
            connection.ended(desk);
        });
    }

    /// The socket failed. What was received before goes to the service all the same, or to the successor's.
    pub(crate) fn failed(&mut self, slot: u32, error: std::io::Error) {
        if self.leaves_input(slot) && self.misses_nothing(slot, &error) {
            // Who answers it finds out, too, that the socket has failed.
            self.owe_nothing_if_gone(slot, &error);
        } else if self.is_open_to(slot, Connection::takes_frames) {
            if let Some(entry) = self.entry(slot) {
                // It ends for another reason now.
                entry.is_unsaved = false;
            }
            self.with(slot, |connection, desk| connection.fail(error, desk));
        } else {
            self.cut(slot, Close::Failed(error));
        }
    }

    /// The FIN that [`Finish::Shutdown`] asked for was sent.
    pub(crate) fn shut(&mut self, slot: u32) {
        self.with(slot, |connection, desk| connection.shut(desk.now));
    }

    /// Gives connections with undispatched input their share of this turn, moves a stop on, and bounds the memory.
    pub(crate) fn work(&mut self) {
        let serves_last = self.serves_last();
        if self.gives_frames() {
            self.dispatch_ready();
        }
        self.advance_stop(serves_last);
        self.bound_memory();
    }

    fn dispatch_ready(&mut self) {
        if !self.ready.is_empty() {
            self.desk.stopwatch.start();
        }
        self.desk.stopwatch.catch_up();
        // Those that are not done with their share come behind these, for the next turn.
        let count = self.ready.len();
        let mut done = 0;
        while done < count && !self.desk.stopwatch.is_late() {
            // They go on when that is sent. One goes on at least, whatever others push.
            if done > 0 && self.desk.meter.has_grown() {
                break;
            }
            let slot = self.ready[done];
            done += 1;
            if let Some(entry) = self.connections.get_mut(slot as usize) {
                entry.is_ready = false;
                self.ask_behind(slot);
                self.with_host(slot, |host, reply| host.backlog(reply));
            }
        }
        self.ready.drain(..done);
        if self.ready.is_empty() {
            self.desk.stopwatch.catch_up();
        }
    }

    // --- what the engine asks -------------------------------------------------------------------------------------

    pub(crate) fn next_touched(&mut self) -> Option<u32> {
        loop {
            let slot = self.touched.pop_front()?;
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
        let entry = self.connections.get(slot as usize)?;
        let mut desire = entry.connection.desire();
        // Nobody is received from faster than the services take it.
        if self.desk.stopwatch.is_late()
            && entry.connection.life == Life::Open
            && entry.connection.has_backlog()
        {
            desire.receive = Receive::Pause;
        }
        if desire.finish == Finish::No && entry.connection.is_read() {
            match self.phase {
                Phase::Serving => {}
                Phase::Waiting { .. } if entry.is_unsaved => desire.receive = Receive::Stop,
                Phase::Waiting { .. } if entry.is_frozen => desire.receive = Receive::Pause,
                Phase::Waiting { .. } => {}
                Phase::Draining { .. } => desire.receive = Receive::Stop,
            }
        }
        Some(desire)
    }

    /// Whether work is left that needs no event to go on.
    pub(crate) fn is_busy(&self) -> bool {
        (!self.ready.is_empty() && self.gives_frames())
            || !self.touched.is_empty()
            || self.goes_on()
            || self.owes_less()
    }

    pub(crate) fn link(&mut self, slot: u32) -> Option<&mut L> {
        Some(&mut self.entry(slot)?.link)
    }

    /// The engine's part of a connection if it is still the one that `generation` means.
    pub(crate) fn link_of(&mut self, slot: u32, generation: u32) -> Option<&mut L> {
        let entry = self.entry(slot)?;
        (entry.connection.id.generation & GENERATION_MASK == generation).then_some(&mut entry.link)
    }

    /// The engine's part of the connection that an operation was for.
    pub(crate) fn expected_link(&mut self, slot: u32, generation: u32) -> Option<&mut L> {
        let link = self.link_of(slot, generation);
        debug_assert!(
            link.is_some(),
            "a slot is not reused while an operation is in flight"
        );
        link
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

    pub(crate) fn touch(&mut self, slot: u32) {
        if let Some(entry) = self.connections.get_mut(slot as usize)
            && !entry.is_touched
        {
            entry.is_touched = true;
            self.touched.push_back(slot);
        }
    }

    /// Whether it has input that will be dispatched in the next turn.
    pub(crate) fn is_ready(&self, slot: u32) -> bool {
        self.connections
            .get(slot as usize)
            .is_some_and(|entry| entry.is_ready)
    }

    pub(crate) fn len(&self) -> usize {
        self.connections.len()
    }

    /// Whether the services are called for what happens.
    fn dispatches(&self) -> bool {
        !self.holds && self.stop.rest == Rest::No
    }

    /// Whether frames that wait are given to the services. What there was no time for in the turn before is not begun with when a
    /// handover waits for nothing else.
    fn gives_frames(&self) -> bool {
        self.dispatches() && !self.has_served()
    }

    /// Logs what is held back of the warnings about connections: the worker ends.
    pub(crate) fn say_held(&self) {
        self.desk.warnings.say_held(self.desk.worker, false);
    }

    /// Takes the services out, when nothing is left that they could be called for.
    pub(crate) fn take_hosts(&mut self) -> Vec<Box<dyn Host>> {
        std::mem::take(&mut self.hosts)
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

    /// Ends a connection for a limit, or for its socket. One that is ending already loses what it still owes, and the log says so.
    fn cut(&mut self, slot: u32, why: Close) {
        if let Some(entry) = self.connections.get_mut(slot as usize)
            && entry.connection.owes_last_words()
            && !why.flushes()
        {
            journal::gives_up(&entry.connection, &why, &self.desk, &entry.link);
        }
        self.with(slot, |connection, desk| connection.close(why, desk));
    }

    fn with_id(&mut self, id: ConnectionId, change: impl FnOnce(&mut Connection, &mut Desk)) {
        if self.has(id) {
            self.with(id.slot, change);
        }
    }

    /// Calls the connection's service, then draws the conclusions.
    fn with_host(&mut self, slot: u32, call: impl FnOnce(&mut dyn Host, &mut Reply<'_>)) {
        self.call_host(slot, call);
        self.conclude(slot);
    }

    /// Calls the connection's service, if there is one.
    #[inline]
    fn call_host<R>(
        &mut self,
        slot: u32,
        call: impl FnOnce(&mut dyn Host, &mut Reply<'_>) -> R,
    ) -> Option<R> {
        let Some(entry) = self.connections.get_mut(slot as usize) else {
            debug_assert!(false, "an event for a connection that is gone");
            return None;
        };
        let host = host_of(&self.desk, &mut self.hosts, entry.connection.name)?;
        let mut reply = Reply {
            connection: &mut entry.connection,
            desk: &mut self.desk,
            link: &entry.link,
            handle: &entry.handle,
        };
        Some(call(host, &mut reply))
    }

    /// After anything happened to a connection: pause or go on, notice the end, keep the books.
    fn conclude(&mut self, slot: u32) {
        self.note_promises(slot);
        self.give_up_repeatable(slot);
        self.note_loud(slot);
        let Some(entry) = self.connections.get_mut(slot as usize) else {
            return;
        };
        let connection = &mut entry.connection;
        connection.update_pause(&self.desk);
        connection.settle(&mut self.desk);
        connection.account(&mut self.desk);
        // One whose socket has failed may still end for something else.
        if !entry.is_end_logged
            && connection.life != Life::Failed
            && let Some(why) = &connection.why
        {
            entry.is_end_logged = true;
            journal::closes(connection, why, &self.desk, &entry.link);
        }
        entry.tell_unsent();
        let connection = &mut entry.connection;
        let handle = entry.handle.get();
        if let Some(handle) = handle
            && let Some(error) = connection.push_error()
        {
            handle.end(error);
            if entry.is_unsaved {
                handle.stay();
            }
        }
        if (handle.is_some() || !connection.tickets.is_empty()) && connection.put_fence() {
            let to = connection.id;
            // The mailbox is there, since it is this worker's.
            let _ = self.desk.handles.post.send_behind(Mail::Fence { to });
        }
        if connection.is_ready() && !entry.is_ready {
            entry.is_ready = true;
            self.ready.push(slot);
        }
        let has_answered_last = entry.has_answered_last();
        self.note_limits(slot);
        self.touch(slot);
        if has_answered_last && self.ends_when_answered(slot) {
            self.answered_last(slot);
        }
    }

    fn slots(&self) -> Vec<u32> {
        self.connections
            .iter()
            .map(|(slot, _)| slot as u32)
            .collect()
    }
}

/// The bits of a generation that an engine can pack into an operation's identity, of which few are in flight at a time.
/// What others hold on to a connection can outlive very many connections, and is told apart by all 32 bits.
pub(crate) const GENERATION_MASK: u32 = (1 << 24) - 1;

fn host_of<'a>(
    desk: &Desk,
    hosts: &'a mut [Box<dyn Host>],
    name: u16,
) -> Option<&'a mut (dyn Host + 'a)> {
    let service = desk.names.get(name as usize)?.service.as_ref()?;
    hosts.get_mut(service.index).map(|host| &mut **host as _)
}
