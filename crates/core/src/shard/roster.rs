//! Connections that come, and are forgotten.

use std::cell::OnceCell;
use std::sync::atomic::{Ordering, fence};

use super::time::NEVER;
use super::{Entry, Shard, host_of};
use crate::close::Close;
use crate::connection::{Connection, Life};
use crate::crowd::Place;
use crate::journal;
use crate::peer::{ConnectionId, Link};

impl<L: Link> Shard<L> {
    /// A connection of the socket name `name` is here. The caller has counted it with the dealer, and for its client if that is
    /// known.
    pub(crate) fn open(&mut self, name: u16, link: L, place: Option<Place>) -> ConnectionId {
        let id = self.admit(name, link, place);
        if self.desk.names[name as usize].proxy_protocol {
            self.with(id.slot, |connection, _| connection.life = Life::Arriving);
        } else {
            self.with_host(id.slot, |host, reply| host.connected(reply));
        }
        self.count_open(name);
        id
    }

    /// Makes the entry of a connection, without a session.
    pub(super) fn admit(&mut self, name: u16, link: L, place: Option<Place>) -> ConnectionId {
        let id = ConnectionId {
            // There are at most `Workers::MAX`.
            worker: self.desk.worker as u16,
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
            timed_after: NEVER,
            noticed: 0,
            is_frozen: false,
            is_settled: false,
            is_loud: false,
            is_awaited: false,
            is_unsaved: false,
            is_end_logged: false,
        });
        if let Some(place) = place {
            self.desk.places.insert(id.slot, place);
        }
        self.burst.grown(self.connections.len());
        if let Some(entry) = self.connections.get(id.slot as usize) {
            journal::opens(&entry.connection, &self.desk, &entry.link);
        }
        id
    }

    /// Counts a connection that its service has been told of, or is told of when its proxy has said whose it is. Not earlier: whoever
    /// sees the number of them on another thread may rely on what the services have made of each.
    pub(super) fn count_open(&self, name: u16) {
        let counters = self.desk.name_counters(name);
        // With the one in `Metrics::snapshot`.
        fence(Ordering::Release);
        counters.opened.add(1);
        counters.open.add(1);
    }

    /// The engine has closed the socket: forget the connection.
    pub(crate) fn closed(&mut self, slot: u32) -> L {
        self.forget(slot, Close::Stopping)
    }

    /// Forgets a connection, for its own reason if it has one.
    pub(super) fn forget(&mut self, slot: u32, otherwise: Close) -> L {
        let Some(mut entry) = self.connections.remove(slot as usize) else {
            unreachable!("a connection is closed once");
        };
        let connection = &mut entry.connection;
        let name = connection.name;
        let worker = self.desk.worker;
        for promise in connection.tickets.close_all() {
            self.desk.ticket_closed(&promise);
        }
        if entry.is_awaited {
            self.desk.crew.ending_over(worker);
        }
        self.stop.loud -= usize::from(entry.is_loud);
        if !self.unread.is_empty() {
            self.unread.remove(&slot);
        }
        if !self.last_bytes.is_empty() {
            self.last_bytes.remove(&slot);
        }
        let why = connection.why.take().unwrap_or(otherwise);
        entry.count_unsaved(&why, &self.desk);
        if let Some(handle) = entry.handle.get() {
            handle.forget();
        }
        let connection = &mut entry.connection;
        if let Some(host) = host_of(&self.desk, &mut self.hosts, name) {
            host.disconnected(connection, &why, &self.desk, &entry.link);
        }
        if let Some(input) = connection.input.take() {
            self.desk.pools.give_partial(input);
        }
        connection.outbox.clear(&mut self.desk.pools);
        self.desk.meter.change(connection.metered, 0);
        if !self.desk.places.is_empty() {
            self.desk.places.remove(&slot);
        }
        self.desk.name_counters(name).open.subtract(1);
        if self.desk.crew.dealer.release(name as usize, worker) {
            self.desk.crew.announce_room();
        }
        if self.burst.is_over(self.connections.len()) {
            self.desk.crew.has_surplus.store(true, Ordering::Relaxed);
        }
        entry.link
    }
}
