//! Giving connections away, and taking them over.

use std::io::{self, ErrorKind};

use bytes::Bytes;
use serde_bytes::ByteBuf;

use super::{Entry, Phase, Shard};
use crate::calling::Call;
use crate::close::Close;
use crate::connection::{Clock, Desire, Finish, Life, Receive};
use crate::crew::Step;
use crate::crowd::Place;
use crate::handover::parcel::{Parcel, State};
use crate::host::Host;
use crate::peer::{ConnectionId, Link};
use crate::proxy::Client;
use crate::reply::Abandoned;
use crate::service::Saved;
use crate::tickets::Kind;

/// How far a worker is on the way to let its connections go. What its services push to others must reach those before they
/// are handed over, so no worker lets any connection go as long as another one may give a frame to a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Rest {
    /// Its services may be given frames.
    #[default]
    No,
    /// They are given none any more; what has come and was not dispatched is the successor's.
    Own,
    /// Nor are those of the others: connections are let go.
    All,
}

impl<L: Link> Shard<L> {
    /// The connections are this process's: bytes may move.
    pub(super) fn resume(&mut self) {
        self.holds = false;
        // Until now no peer could do what it is waited for.
        let now = self.desk.now;
        for slot in self.slots() {
            self.with(slot, |connection, _| connection.clock = Clock::new(now));
        }
        self.begin_ticks();
    }

    /// Ends without having begun: connections that another process still answers for are dropped, not shut down.
    pub(super) fn forget_all(&mut self) {
        for slot in self.slots() {
            drop(self.forget(slot, Close::HandedOver));
        }
        self.holds = false;
        // No service is called any more that has not been called so far.
        self.stop.rest = Rest::All;
        self.phase = Phase::Draining {
            until: self.desk.now,
        };
    }

    /// Whether the worker reads nobody any more before a handover.
    pub(super) fn is_parting(&self) -> bool {
        self.stop.hands_over && matches!(self.phase, Phase::Draining { .. })
    }

    /// Counts those on which something may still be received, once a handover has only them to wait for.
    pub(super) fn note_loud(&mut self, slot: u32) {
        if self.is_parting()
            && let Some(entry) = self.connections.get_mut(slot as usize)
        {
            self.stop.loud -= usize::from(entry.is_loud);
            entry.is_loud = entry.is_loud();
            self.stop.loud += usize::from(entry.is_loud);
        }
    }

    /// Whether a handover finds no more frames that it would give to a service.
    pub(super) fn has_served(&self) -> bool {
        // What the services have no time for is the successor's.
        let has_answered = self.ready.is_empty() || self.desk.stopwatch.is_late();
        self.is_parting() && !self.rests() && self.stop.loud == 0 && has_answered
    }

    /// Whether a handover has nothing more to call a service for. What was promised behind the wait for deferred replies, on any
    /// worker, may be given by what a service of this one reads from a source, or does in a tick.
    fn comes_to_rest(&self) -> bool {
        let may_give = self.has_ticks() || self.sources.are_watched();
        self.has_served() && (!may_give || self.desk.crew.have_all_given())
    }

    /// Whether a handover goes on without waiting for anything.
    pub(super) fn goes_on(&self) -> bool {
        let crew = &self.desk.crew;
        self.has_served() && !crew.has_reached(self.desk.worker, Step::Served)
            || self.comes_to_rest()
    }

    /// Lets connections go once no service of any worker is called. If it `is_late`, that is not waited for.
    pub(super) fn advance_rest(&mut self, is_late: bool) {
        if self.has_served() {
            self.desk.crew.reach(self.desk.worker, Step::Served);
        }
        if self.stop.rest == Rest::No && (is_late || self.comes_to_rest()) {
            self.stop.rest = Rest::Own;
            self.desk.crew.reach(self.desk.worker, Step::Rests);
        }
        let all_rest = self.desk.crew.have_all_reached(Step::Rests);
        if self.stop.rest == Rest::Own && (is_late || all_rest) {
            if !all_rest {
                tracing::error!(
                    "a worker is busy and holds up the handover; what it still pushes to connections of worker {} is lost",
                    self.desk.worker
                );
            }
            self.stop.rest = Rest::All;
            // Who pushes from elsewhere is told, from now on, and what was pushed before is awaited.
            for (_, entry) in self.connections.iter() {
                if let Some(handle) = entry.handle.get()
                    && !entry.ends_here()
                {
                    handle.part();
                }
            }
            self.touch_all();
        }
    }

    /// Whether every worker knows that this one calls its services no more.
    pub(super) fn rests(&self) -> bool {
        self.stop.rest != Rest::No
    }

    /// Whether what was received on a connection, by the kernel too, is left to the successor.
    pub(super) fn leaves_input(&self, slot: u32) -> bool {
        let entry = self.connections.get(slot as usize);
        self.rests()
            && entry.is_some_and(|entry| {
                let connection = &entry.connection;
                let has_input = connection.is_read() || connection.has_backlog();
                has_input && connection.may_part() && !entry.is_unsaved
            })
    }

    /// Whether the peer gets nothing of a successor behind a gap: since nothing was to be sent to it, or it is gone. A send may fail
    /// for want of memory as well.
    pub(super) fn misses_nothing(&self, slot: u32, error: &io::Error) -> bool {
        is_gone(error) || self.is_open_to(slot, |connection| connection.outbox.is_empty())
    }

    /// A connection is left to the successor although its socket has failed. If the peer is gone, nobody gets what is queued, and
    /// deferred replies are given up, for which everybody would wait. The service is told of those, since it is asked next what the
    /// session is worth.
    pub(super) fn owe_nothing_if_gone(&mut self, slot: u32, error: &io::Error) {
        if is_gone(error) {
            let last = self.desk.last_ticket;
            self.abandon_of(slot, last, Kind::Any, Abandoned::Stopping);
        }
        // Of one that may be there it is empty.
        self.with(slot, |connection, desk| {
            connection.outbox.clear(&mut desk.pools)
        });
    }

    /// Whether a connection is at rest and can be given away: nothing more will be received, what was pushed to it has
    /// reached it, and no answer is owed but such of which the successor is asked.
    fn is_at_rest(&self, entry: &Entry<L>) -> bool {
        let connection = &entry.connection;
        let handle = entry.handle.get();
        self.stop.rest == Rest::All
            && connection.quiet
            && connection.may_part()
            && !connection.tickets.is_awaited()
            && handle.is_none_or(|handle| handle.is_delivered())
    }

    /// Whether a handover takes the connection off this worker now: because it is at rest, or because it is being closed
    /// and nothing is waited for any more.
    pub(super) fn is_to_part(&self, slot: u32) -> bool {
        let Some(entry) = self.connections.get(slot as usize) else {
            return false;
        };
        let connection = &entry.connection;
        self.is_parting()
            && match connection.life {
                Life::Arriving | Life::Open | Life::Ended => self.is_at_rest(entry),
                // Its service had the time that a handover has.
                Life::Failed => connection.quiet && self.rests(),
                // It ends as in a plain stop.
                Life::Refused { .. } => false,
                Life::Closing { .. } | Life::Shut if entry.is_unsaved => false,
                // What was pushed to it before comes first.
                Life::Closing { .. } if connection.takes_mail() => false,
                Life::Closing { .. } => !connection.owes_only_output() || self.is_at_rest(entry),
                Life::Shut => true,
                Life::Over => false,
            }
    }

    /// What the engine is to do for a connection that parts: write what the kernel takes at once, then let go.
    pub(super) fn parting_desire(&self, slot: u32) -> Option<Desire> {
        let outbox = &self.connections.get(slot as usize)?.connection.outbox;
        Some(Desire {
            receive: Receive::Stop,
            send: !outbox.is_empty() && !outbox.is_flying(),
            finish: Finish::Release,
        })
    }

    /// Takes a connection that is at rest off, with nothing in flight on it. `None` if it ends instead, because it was being
    /// closed already or its service cannot save the session.
    pub(crate) fn release(&mut self, slot: u32) -> Option<Parcel> {
        let entry = self.connections.get(slot as usize)?;
        // Also of one that came, or was given its first handle, when the others had been told. Before the last look at what
        // was pushed, so that of a push and this one has seen the other.
        if let Some(handle) = entry.handle.get() {
            handle.part();
        }
        if !self.is_at_rest(entry) {
            if entry.connection.may_part() {
                // Another thread has pushed something just now. It comes again when that has arrived, or will not.
                self.touch(slot);
            } else if entry.connection.life == Life::Failed {
                self.cut(slot, Close::Unserved);
            } else {
                // What the kernel would take of its output, it has taken. The rest is given up as in a plain stop.
                self.cut(slot, Close::Untaken);
            }
            return None;
        }
        let session = match self.save(slot) {
            Saved::Stateless => None,
            Saved::Bytes(bytes) => Some(ByteBuf::from(bytes)),
            Saved::Close => {
                self.end_unsaved(slot);
                return None;
            }
        };
        let connection = &mut self.connections.get_mut(slot as usize)?.connection;
        let output = connection.outbox.take_all(&mut self.desk.pools);
        let input = self.take_input(slot);
        let connection = &mut self.connections.get_mut(slot as usize)?.connection;
        connection.account(&mut self.desk);
        let ended = !connection.is_read();
        let client = connection.client();
        let number = connection.name;
        // One that only has output to write goes on as well.
        connection.why = None;
        self.desk.name_counters(number).handed_over.add(1);
        let socket = self.forget(slot, Close::HandedOver).into_socket();
        let name = &self.desk.names[number as usize];
        // A name without one has no connections that could be saved.
        let service = name.service.as_ref().map_or("", |service| &*service.name);
        Some(Parcel {
            socket,
            state: State {
                cookie: 0,
                name: name.name.to_string(),
                service: service.to_owned(),
                input,
                ended,
                output,
                session,
                client,
            },
        })
    }

    /// What the successor is to read of a connection first: the requests that it is asked again, in the order in which they came, and
    /// then what no service has been given.
    fn take_input(&mut self, slot: u32) -> Vec<u8> {
        let Some(entry) = self.connections.get_mut(slot as usize) else {
            return Vec::new();
        };
        let connection = &mut entry.connection;
        let mut asked = Vec::new();
        for promise in connection.tickets.close_all() {
            self.desk.ticket_closed(&promise);
            asked.extend_from_slice(promise.request.as_deref().unwrap_or_default());
        }
        let Some(mut partial) = connection.input.take() else {
            return asked;
        };
        let bytes = std::mem::take(&mut partial.bytes);
        self.desk.pools.give_partial(partial);
        if asked.is_empty() {
            return bytes.into();
        }
        asked.extend_from_slice(&bytes);
        asked
    }

    /// The last call of the services, when the worker has nothing left to do: what each leaves to the successor, by number.
    /// Empty if nobody comes after this process, or the worker has failed.
    pub(crate) fn hand_over(&mut self) -> Vec<Option<Bytes>> {
        if !self.stop.hands_over || !self.is_done() {
            return Vec::new();
        }
        let (desk, sources) = (&self.desk, &self.sources);
        desk.stopwatch.start();
        let ask = |(service, host): (usize, &mut Box<dyn Host>)| {
            let at_hand = sources.tick(desk, service, Call::HandOver);
            let left = host.hand_over(&at_hand);
            if let Some(took) = desk.stopwatch.slow() {
                at_hand.report_slow(took);
            }
            left.unwrap_or_else(|panic| {
                at_hand.report_panic("a call", &panic);
                None
            })
        };
        self.hosts.iter_mut().enumerate().map(ask).collect()
    }

    /// Takes over a connection from the predecessor. The caller has counted it with the dealer, and for its client.
    pub(crate) fn restore(
        &mut self,
        name: u16,
        link: L,
        state: State,
        place: Option<Place>,
    ) -> ConnectionId {
        let id = self.admit(name, link, place);
        self.desk.name_counters(name).restored.add(1);
        let goes_on = self.desk.names[name as usize].goes_on_with(&state.service);
        if goes_on && state.client == Some(Client::Awaited) {
            self.with(id.slot, |connection, _| connection.life = Life::Arriving);
        } else if goes_on {
            self.with_host(id.slot, |host, reply| {
                let client = state.client.as_ref().and_then(Client::address);
                reply.connection.client = client.map(Box::new);
                reply.connection.is_handed_over = true;
                host.restored(state.session.as_ref().map(|saved| &saved[..]), reply);
            });
        } else {
            // Its service does not answer this name any more: what was promised is written, then it ends.
            self.with(id.slot, |connection, desk| {
                connection.close(Close::Stopping, desk)
            });
        }
        self.count_open(name);
        self.with(id.slot, |connection, desk| {
            // What the predecessor owed comes before anything that this process says.
            connection
                .outbox
                .put_before(&mut desk.pools, state.output.into());
            if connection.why.is_none() {
                if !state.input.is_empty() {
                    let mut input = desk.pools.partial();
                    input.bytes = Bytes::from(state.input).into();
                    connection.input = Some(input);
                }
                if state.ended {
                    connection.ended(desk);
                }
            }
        });
        id
    }
}

/// Whether an error of a socket says that its peer is gone.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::BrokenPipe
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::TimedOut
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
    )
}
