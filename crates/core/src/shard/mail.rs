//! Mail that a worker gets: what others push, answer, hand over or want.

use bytes::Bytes;

use super::Shard;
use crate::close::Close;
use crate::connection::{Connection, Life};
use crate::host::Host;
use crate::mailbox::{self, Mail};
use crate::peer::{ConnectionId, HandleState, Item, Link, Pieces};
use crate::reply::{Abandoned, Reply};
use crate::shard::Phase;
use crate::tickets::Promise;

/// So much of what waits for one connection is taken before others have their turn.
const ITEMS_PER_VISIT_MAX: usize = 64;

/// What was taken of an inbox.
#[derive(Default)]
struct Taken {
    answers: usize,
    /// There is more.
    has_more: bool,
}

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
            Mail::Room => {
                self.desk.crew.room_heard(self.desk.worker);
                return Some(Accept::Deal);
            }
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
            Mail::Inbox { of } => {
                if let Some(handle) = self.handle_of(of) {
                    handle.posted();
                }
                let taken = self.take_inbox(of, ITEMS_PER_VISIT_MAX);
                self.answers_taken += taken.answers;
                if taken.has_more && self.handle_of(of).is_some_and(HandleState::post) {
                    // The mailbox is there, since it is this worker's.
                    let _ = self.desk.handles.post.send_behind(Mail::Inbox { of });
                }
            }
            Mail::Called { of } => {
                self.take_inbox(of, usize::MAX);
            }
            Mail::Push { to, bytes } => self.push(to, &bytes),
            Mail::Fan(fanned) => {
                for (to, bytes) in fanned.columns() {
                    self.push(to, bytes);
                }
                mailbox::reuse(fanned);
            }
            Mail::Shed => self.shed_as_told(),
            Mail::Fence { to } => self.pass_fence(to),
            Mail::Look => {}
        }
        None
    }

    /// What the worker's own thread pushed has come.
    fn push(&mut self, to: ConnectionId, bytes: &Bytes) {
        if self.has(to) {
            self.take_push(to.slot, bytes, true);
            self.conclude(to.slot);
        }
    }

    fn take_push(&mut self, slot: u32, bytes: &Bytes, here: bool) {
        let Some(entry) = self.connections.get_mut(slot as usize) else {
            return;
        };
        if here && let Some(handle) = entry.handle.get() {
            handle.arrived(bytes.len());
        }
        if let Some(why) = entry.connection.take_push(bytes, &mut self.desk) {
            self.cut(slot, why);
        }
    }

    /// What the connection shares with its handles, if it is there and has any.
    fn handle_of(&self, to: ConnectionId) -> Option<&HandleState> {
        let entry = self.connections.get(to.slot as usize)?;
        let handle = entry.handle.get()?;
        (entry.connection.id == to).then_some(handle)
    }

    /// Takes what waits for a connection, no more than `most` items.
    fn take_inbox(&mut self, of: ConnectionId, most: usize) -> Taken {
        let mut items = std::mem::take(&mut self.items);
        let mut taken = Taken::default();
        let Some(handle) = self.handle_of(of) else {
            self.items = items;
            return taken;
        };
        taken.has_more = handle.take(&mut items, most);
        // Before they are given: they may have been slow.
        self.note_promises(of.slot);
        // Nor is any given up whose answer comes further behind.
        self.stop.gives_up = true;
        // Conclusions are drawn from several pushes at once.
        let mut ends_with_push = false;
        for item in items.drain(..) {
            ends_with_push = matches!(item, Item::Push { .. });
            match item {
                Item::Push {
                    counted,
                    bytes,
                    here,
                } => {
                    // From here on it counts as what the connection holds.
                    drop(counted);
                    self.take_push(of.slot, &bytes, here);
                }
                Item::End(why @ Close::Cut(_)) => {
                    // What one had received whose socket has failed is for the service all the same, as when it is closed.
                    let may_cut = |it: &Connection| it.id == of && it.life != Life::Failed;
                    if self.is_open_to(of.slot, may_cut) {
                        self.cut(of.slot, why);
                    }
                }
                // If it is ending anyway, what was queued before is still written.
                Item::End(why) => {
                    let may_end = |it: &Connection| it.id == of && it.is_answered();
                    if self.is_open_to(of.slot, may_end) {
                        self.cut(of.slot, why);
                    }
                }
                Item::Answer { serial, pieces } => {
                    taken.answers += 1;
                    self.answer(of, serial, pieces);
                }
                Item::Dropped { serial } => {
                    taken.answers += 1;
                    self.abandon(of, serial);
                }
            }
        }
        self.stop.gives_up = false;
        if ends_with_push {
            self.conclude(of.slot);
        } else {
            self.give_up_repeatable(of.slot);
        }
        if items.capacity() <= ITEMS_PER_VISIT_MAX {
            self.items = items;
        }
        taken
    }

    /// So many answers came with mail of others that was delivered since this was asked last. They are as much as a mail each, other
    /// than pushes, which cost little beside the visit to their connection. What comes with the worker's own mail takes no room, or one
    /// that answers much itself would hear nobody else.
    pub(crate) fn answers_taken(&mut self) -> usize {
        std::mem::take(&mut self.answers_taken)
    }

    fn pass_fence(&mut self, to: ConnectionId) {
        // What was left by a thread that has not posted it yet is there, too.
        self.take_inbox(to, usize::MAX);
        self.with_id(to, |connection, _| connection.pass_fence());
    }

    fn answer(&mut self, to: ConnectionId, serial: u64, pieces: Pieces) {
        self.with_id(to, |connection, desk| {
            if let Some(promise) = connection.tickets.close(&mut desk.pools, serial) {
                desk.ticket_closed(&promise);
                connection.clock.traffic = desk.now;
                if connection.takes_mail() {
                    let outbox = &mut connection.outbox;
                    match pieces {
                        Pieces::One(bytes) => outbox.share(&mut desk.pools, bytes),
                        Pieces::Two(two) => two
                            .into_iter()
                            .for_each(|bytes| outbox.share(&mut desk.pools, bytes)),
                    }
                }
            }
        });
    }

    /// The responder of a ticket was dropped unanswered.
    fn abandon(&mut self, to: ConnectionId, serial: u64) {
        if !self.has(to) {
            return;
        }
        self.with_host(to.slot, |host, reply| {
            let tickets = &mut reply.connection.tickets;
            if let Some(promise) = tickets.close(&mut reply.desk.pools, serial) {
                give_up(host, reply, &promise, Abandoned::Dropped);
            }
        });
    }
}

/// A ticket is closed by now, and its deferred reply will not come. The service is told, but not if the connection is ending: then
/// there is nobody left to apologise to. Returns whether it was.
pub(super) fn give_up(
    host: &mut dyn Host,
    reply: &mut Reply<'_>,
    promise: &Promise,
    why: Abandoned,
) -> bool {
    reply.desk.ticket_closed(promise);
    reply.connection.clock.traffic = reply.desk.now;
    let is_told = reply.connection.is_answered();
    if is_told {
        reply
            .desk
            .name_counters(reply.connection.name)
            .abandoned
            .add(1);
        host.abandoned(promise.ticket, why, reply);
    }
    is_told
}
