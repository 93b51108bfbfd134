//! Mail that a worker gets: what others push, answer, hand over or want.

use super::Shard;
use crate::close::Close;
use crate::host::Host;
use crate::mailbox::{self, Mail};
use crate::peer::{ConnectionId, HandleState, Link};
use crate::reply::{Abandoned, Reply, Ticket};
use crate::shard::Phase;

/// What a mail asks of the worker's listeners, which are the engine's.
#[derive(Clone, Copy)]
pub(crate) enum Accept {
    /// To accept, which was held back.
    Begin,
    /// To try again to deal what could not be dealt.
    Deal,
    /// To accept no more, for good.
    Stop,
}

impl<L: Link> Shard<L> {
    /// Handles mail. What it asks of the listeners is returned.
    pub(crate) fn deliver(&mut self, mail: Mail) -> Option<Accept> {
        match mail {
            Mail::Accepted {
                name,
                socket,
                place,
            } => {
                self.open(name, L::new(socket), place);
            }
            Mail::Restored {
                name,
                parcel,
                place,
            } => {
                self.restore(name, L::new(parcel.socket), parcel.state, place);
            }
            Mail::Room => return Some(Accept::Deal),
            Mail::Stop { .. } if self.holds => {
                self.forget_all();
                return Some(Accept::Stop);
            }
            Mail::Stop { hand_over } => {
                if self.phase == Phase::Serving {
                    self.begin_stop(hand_over);
                    // Who connects meanwhile is served like everybody else, if a successor will go on with it.
                    return (!hand_over).then_some(Accept::Stop);
                }
            }
            Mail::StopAccepting => return Some(Accept::Stop),
            Mail::Report(reports) => {
                // Whoever asked has given up if nobody listens.
                let _ = reports.send(());
            }
            Mail::Resume => {
                self.resume();
                return Some(Accept::Begin);
            }
            Mail::Push {
                to,
                counted,
                bytes,
                here,
            } => {
                // From here on it counts as what the connection holds.
                drop(counted);
                self.push(to, &bytes, here);
            }
            Mail::Withdrawn { to, bytes } => self.withdraw(to, bytes),
            Mail::Fan(fanned) => {
                for (to, bytes) in fanned.columns() {
                    self.push(to, bytes, true);
                }
                mailbox::reuse(fanned);
            }
            Mail::End { to, why } => self.end(to, why),
            Mail::Answer { to, serial, bytes } => self.answer(to, serial, bytes),
            Mail::Dropped { to, serial } => self.abandon(to, serial, Abandoned::Dropped),
            Mail::Shed => self.shed_as_told(),
            Mail::Fence { to } => self.pass_fence(to),
            Mail::Look => {}
        }
        None
    }

    fn push(&mut self, to: ConnectionId, bytes: &bytes::Bytes, here: bool) {
        let Some(entry) = self.connections.get_mut(to.slot as usize) else {
            return;
        };
        let (connection, desk) = (&mut entry.connection, &mut self.desk);
        if connection.id != to {
            return;
        }
        if let Some(handle) = entry.handle.get() {
            handle.arrived(bytes.len(), here);
        }
        connection.take_push(bytes, desk);
        self.conclude(to.slot);
    }

    /// What the connection shares with its handles, if it is there and has any.
    fn handle_of(&self, to: ConnectionId) -> Option<&HandleState> {
        let entry = self.connections.get(to.slot as usize)?;
        let handle = entry.handle.get()?;
        (entry.connection.id == to).then_some(handle)
    }

    /// What another thread had noted as pushed does not come.
    fn withdraw(&mut self, to: ConnectionId, bytes: usize) {
        if let Some(handle) = self.handle_of(to) {
            handle.arrived(bytes, false);
            self.conclude(to.slot);
        }
    }

    /// A handle ends the connection.
    fn end(&mut self, to: ConnectionId, why: Close) {
        if let Some(handle) = self.handle_of(to) {
            handle.end_arrived();
        }
        self.with_id(to, |connection, desk| {
            // If it is ending anyway, what was queued before is still written.
            if connection.takes_frames() && connection.why.is_none() {
                connection.close(why, desk)
            }
        });
    }

    fn pass_fence(&mut self, to: ConnectionId) {
        if self.handle_of(to).is_none_or(HandleState::is_delivered) {
            self.with_id(to, |connection, _| connection.pass_fence());
        } else {
            // Another thread, whose push was accepted, has not posted it yet.
            // The mailbox is there, since it is this worker's.
            let _ = self.desk.handles.post.send_behind(Mail::Fence { to });
        }
    }

    fn answer(&mut self, to: ConnectionId, serial: u64, bytes: bytes::Bytes) {
        self.with_id(to, |connection, desk| {
            if connection.tickets.close(&mut desk.pools, serial).is_some() {
                desk.crew.ticket_closed(desk.worker);
                connection.clock.traffic = desk.now;
                if connection.takes_mail() {
                    connection.outbox.share(&mut desk.pools, bytes);
                }
            }
        });
    }

    pub(super) fn abandon(&mut self, to: ConnectionId, serial: u64, why: Abandoned) {
        if !self.has(to) {
            return;
        }
        self.with_host(to.slot, |host, reply| {
            let tickets = &mut reply.connection.tickets;
            if let Some(ticket) = tickets.close(&mut reply.desk.pools, serial) {
                reply.desk.crew.ticket_closed(reply.desk.worker);
                give_up(host, reply, ticket, why);
            }
        });
    }
}

/// Tells the service that the deferred reply to a ticket, which is closed by now, will not come. Not if the connection
/// is ending: then there is nobody left to apologise to. Returns whether it did.
pub(super) fn give_up(
    host: &mut dyn Host,
    reply: &mut Reply<'_>,
    ticket: Ticket,
    why: Abandoned,
) -> bool {
    reply.connection.clock.traffic = reply.desk.now;
    let is_told = reply.connection.takes_frames();
    if is_told {
        reply
            .desk
            .name_counters(reply.connection.name)
            .abandoned
            .add(1);
        host.abandoned(ticket, why, reply);
    }
    is_told
}
