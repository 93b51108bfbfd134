//! Handing the connections of an exchange over to its successor.

use std::mem::take;
use std::time::Duration;

use super::setup::Left;
use super::wire::Wire;
use super::{Client, Exchange, Setup};
use crate::connection::LINGER;
use crate::engine;
use crate::handover::bequest::Bequest;
use crate::handover::parcel::Parcel;
use crate::peer::Link;
use crate::service::Service;
use crate::worker::Worker;

/// A connection on its way to the successor.
pub(super) struct Parted {
    pub(super) client: Client,
    pub(super) wire: Wire,
    pub(super) parcel: Parcel,
}

impl Exchange {
    /// The server hands its connections over, as at a restart or a reload, to a successor whose service is made by `make`.
    /// It has the same limits, sockets and descriptors.
    ///
    /// The clients are the same, and notice nothing: ask the successor about them. A connection ends instead if its
    /// session [cannot be saved](Service::save) or [restored](Service::restore); a client that does not read all that it is sent
    /// before, or does not end its side then, costs a second. Deferred replies that are not given by now are given up. What the service
    /// [leaves](Service::hand_over) is there for the successor's to [take over](Worker::taken_over), if it has asked for that itself.
    ///
    /// ```
    /// # use ringhold_core::testing::Exchange;
    /// # use ringhold_core::{Flow, Frame, Peer, Refusal, Reply, RestoreError, Saved, Service};
    /// /// Answers with the number of the frame.
    /// struct Counter;
    /// impl Service for Counter {
    ///     type Session = u8;
    ///     # fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<u8, Refusal> {
    ///     #     Ok(0)
    ///     # }
    ///     # fn frame(&mut self, count: &mut u8, _: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
    ///     #     *count += 1;
    ///     #     reply.write(|out| out.push(*count));
    ///     #     Flow::Continue
    ///     # }
    ///     // ...
    ///     fn save(&self, count: &u8) -> Saved {
    ///         Saved::Bytes(vec![*count].into())
    ///     }
    ///     fn restore(&mut self, _: &Peer<'_>, saved: &[u8]) -> Result<u8, RestoreError> {
    ///         saved.first().copied().ok_or_else(|| RestoreError::new("there is no count"))
    ///     }
    /// }
    ///
    /// let mut exchange = Exchange::new(Counter);
    /// let client = exchange.connect();
    /// exchange.receive(client, b"\xc0\xc0\x92");
    /// let mut exchange = exchange.hand_over(|_| Counter);
    /// exchange.receive(client, b"\xc0\xc0");
    /// assert_eq!(exchange.take_sent(client), [1, 2, 3]);
    /// ```
    ///
    /// # Panics
    ///
    /// If there are several services: see [`Exchange::hand_over_to`].
    #[must_use = "the successor goes on with the clients"]
    pub fn hand_over<S: Service>(self, make: impl FnOnce(&Worker) -> S) -> Exchange {
        let names = self.shard.desk.names.clone();
        let mut services = self.legacies.iter().map(|legacy| &legacy.service);
        let (Some(service), None) = (services.next(), services.next()) else {
            panic!("there are several services, which hand_over_to takes");
        };
        let setup = Setup::new(self.shard.desk.limits.clone());
        let setup = setup.service(service, &[], make).sockets(&names);
        self.hand_over_to(setup)
    }

    /// As [`Exchange::hand_over`], to a successor that is set up like this: a daemon with several services, or the next version of one, with
    /// other limits and services. The sockets of connected clients are there again. What it has as
    /// [descriptors](Setup::descriptor) it finds, and of those that it adds only what was not there already.
    ///
    /// # Panics
    ///
    /// If there is no socket of the name of a client's.
    #[must_use = "the successor goes on with the clients"]
    pub fn hand_over_to(mut self, successor: Setup<'_>) -> Exchange {
        // Not at once: what is late is handled otherwise than what comes to rest by itself.
        const DRAIN: Duration = Duration::from_millis(1);
        self.begin_stop(DRAIN, true);
        self.advance(DRAIN);
        // What was promised since then.
        self.advance(DRAIN);
        if self.shard.len() > 0 {
            self.advance(LINGER);
        }

        let left = engine::let_go(&mut self.shard);
        let left = self.legacies.iter().zip(left);
        let bequests = left.filter_map(|(legacy, left)| {
            Bequest::of(&legacy.service, legacy.is_asked_for(), left?)
        });
        let bequests = bequests.collect();
        let (now, peer, count) = (self.now, self.peer.clone(), self.ids.len());
        let (ended, parted) = (take(&mut self.ended), take(&mut self.parted));
        let belongings = self.belongings.clone();
        // The successor is another process: nothing else of this one is there when its services are made.
        drop(self);

        let mut successor = successor.make(Left {
            bequests,
            belongings: &belongings,
        });
        successor.now = now;
        successor.peer = peer;
        successor.shard.woken(now);
        successor.ids.resize(count, None);
        successor.ended = ended;
        for parted in parted {
            successor.take_over(parted);
        }
        let mut successor = successor.begun();
        successor.settle();
        successor
    }

    /// Lets a connection go that is at rest. What its client does not read now goes with it.
    pub(super) fn release(&mut self, slot: u32) {
        let stand_in = self.mailbox.event().try_clone_to_owned();
        let stand_in = stand_in
            .unwrap_or_else(|error| panic!("what stands for a socket needs a descriptor: {error}"));
        let (Some(client), Some(link)) = (self.client(slot), self.shard.link(slot)) else {
            return;
        };
        let in_flight = link.flight.take().is_some();
        let wire = std::mem::replace(link, Wire::new(stand_in));
        if in_flight {
            self.shard.sent(slot, 0);
        }
        match self.shard.release(slot) {
            Some(parcel) => self.parted.push(Parted {
                client,
                wire,
                parcel,
            }),
            // It is closed instead.
            None => {
                if let Some(link) = self.shard.link(slot) {
                    *link = wire;
                }
            }
        }
    }

    fn take_over(&mut self, parted: Parted) {
        let Parted {
            client,
            wire,
            parcel,
        } = parted;
        let mut names = self.shard.desk.names.iter();
        let Some(name) = names.position(|name| *name.name == *parcel.state.name) else {
            panic!(
                "the successor has no socket {:?}, which clients are connected to",
                parcel.state.name
            );
        };
        self.shard.desk.crew.dealer.hold(name, 0);
        let id = self.shard.restore(name as u16, wire, parcel.state, None);
        self.ids[client.0] = Some(id);
    }
}

#[cfg(test)]
mod apart;
#[cfg(test)]
mod given;
#[cfg(test)]
mod owed;
#[cfg(test)]
mod repeatable;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod thawed;
