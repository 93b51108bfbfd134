//! Giving connections away, and taking them over.

use std::os::fd::OwnedFd;

use bytes::{Bytes, BytesMut};

use super::{Shard, peer};
use crate::close::Close;
use crate::connection::{Desire, Finish, Life, Receive};
use crate::handover::parcel::Parcel;
use crate::peer::{ConnectionId, Link};
use crate::service::Saved;

impl<L: Link> Shard<L> {
    /// Whether connections are handed over at the end, rather than closed.
    pub(crate) fn hands_over(&self) -> bool {
        self.hands_over
    }

    /// Whether a connection is at rest and can be given away: nothing more will be received, everything whole was
    /// dispatched or waits for a slow peer, and no answer is owed.
    pub(super) fn is_at_rest(&self, slot: u32) -> bool {
        let Some(entry) = self.connections.get(slot as usize) else {
            return false;
        };
        let connection = &entry.connection;
        self.hands_over
            && connection.quiet
            && connection.takes_frames()
            && !connection.is_ready()
            && connection.tickets.is_empty()
    }

    /// What the engine is to do for a connection that is at rest: write what the kernel takes at once, then let go.
    pub(super) fn parting_desire(&self, slot: u32) -> Option<Desire> {
        let outbox = &self.connections.get(slot as usize)?.connection.outbox;
        Some(Desire {
            receive: Receive::Stop,
            send: !outbox.is_empty() && !outbox.is_flying(),
            finish: Finish::Release,
        })
    }

    /// Takes a connection that is at rest off, with nothing in flight on it. `None` if its service cannot save the
    /// session: then it is closed like any other.
    pub(crate) fn release(&mut self, slot: u32) -> Option<Parcel> {
        if !self.is_at_rest(slot) {
            return None;
        }
        let mut saved = Saved::Close;
        self.with_host(slot, |host, reply| saved = host.save(reply));
        let session = match saved {
            Saved::Stateless => None,
            Saved::Bytes(bytes) => Some(bytes),
            Saved::Close => {
                self.with(slot, |connection, desk| {
                    connection.close(Close::Stopping, desk)
                });
                return None;
            }
        };
        let connection = &mut self.connections.get_mut(slot as usize)?.connection;
        let output = connection.outbox.take_all(&mut self.desk.pools);
        let input = connection.input.take().map(|mut partial| {
            let bytes = std::mem::take(&mut partial.bytes);
            self.desk.pools.give_partial(partial);
            bytes
        });
        connection.account(&mut self.desk);
        let ended = matches!(connection.life, Life::Ended);
        let name = connection.name;
        self.desk.name_counters(name).handed_over.add(1);
        Some(Parcel {
            socket: self.closed(slot).into_socket(),
            name: self.desk.names[name as usize].name.to_string(),
            input: input.unwrap_or_default().freeze(),
            ended,
            output: output.into(),
            session,
        })
    }

    /// Takes over a connection from the predecessor. The caller has counted it with the dealer.
    pub(crate) fn restore(&mut self, name: u16, link: L, parcel: Restored) -> ConnectionId {
        let id = self.admit(name, link);
        self.desk.name_counters(name).restored.add(1);
        if self.desk.names[name as usize].service.is_none() {
            // Nobody serves this name any more: what was promised is written, then it ends.
            self.with(id.slot, |connection, desk| {
                connection.close(Close::Stopping, desk)
            });
        }
        self.with_host(id.slot, |host, reply| {
            let peer = peer(id, name, reply);
            host.restored(&peer, parcel.session.as_deref(), reply);
        });
        self.with(id.slot, |connection, desk| {
            // What the predecessor owed comes before anything that this process says.
            connection.outbox.put_before(&mut desk.pools, parcel.output);
            if connection.takes_frames() {
                if !parcel.input.is_empty() {
                    let mut input = desk.pools.partial();
                    input.bytes = BytesMut::from(parcel.input);
                    connection.input = Some(input);
                }
                if parcel.ended {
                    connection.ended();
                }
            }
        });
        id
    }
}

/// A parcel whose socket the engine has taken.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) input: Bytes,
    pub(crate) ended: bool,
    pub(crate) output: Bytes,
    pub(crate) session: Option<Bytes>,
}

impl Parcel {
    /// The socket, and the rest.
    pub(crate) fn open(self) -> (OwnedFd, Restored) {
        let Parcel {
            socket,
            input,
            ended,
            output,
            session,
            name: _,
        } = self;
        (
            socket,
            Restored {
                input,
                ended,
                output,
                session,
            },
        )
    }
}
