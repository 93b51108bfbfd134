//! Where connections meet their service.
//!
//! Everything above this module is independent of the service's type; [`Host`] is the one place of dynamic dispatch.
//! It is crossed once per received buffer, not once per frame.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use ringhold_framer::{self as framer, Progress};

use crate::calling::Call;
use crate::close::{Close, Ended};
use crate::connection::{Connection, Life};
use crate::desk::Desk;
use crate::frame::{Frame, Lend};
use crate::journal;
use crate::panics::{self, Caught};
use crate::partial::Partial;
use crate::peer::{Link, Peer};
use crate::reply::{Abandoned, Reply, Ticket};
use crate::service::{Flow, Saved, Service, SourceId, Watch};
use crate::slots::Slots;
use crate::slow::{self, Work};
use crate::tick::Tick;

/// So many frames of one received buffer are dispatched at once; then the others have their turn. Those of the largest buffer are more only
/// if they have less than 12 bytes each: what is left would be copied, and costs more that way than it takes.
pub(crate) const FRAMES_PER_CALL_MAX: usize = 16 * 1024;

/// A carried frame from this size on is lent as shared bytes, so that keeping it costs no copy. Below it the
/// allocation that sharing takes is not worth it.
const SHARE_CARRIED_BYTES_MIN: usize = 32 * 1024;

/// One service of one worker, with the sessions of all its connections.
pub(crate) trait Host {
    /// Makes the session of a new connection.
    fn connected(&mut self, reply: &mut Reply<'_>);
    /// Makes the session of a connection that the predecessor handed over: from what it saved, or anew if that is `None`.
    fn restored(&mut self, saved: Option<&[u8]>, reply: &mut Reply<'_>);
    /// What the session is worth to the successor.
    fn save(&mut self, reply: &mut Reply<'_>) -> Saved;
    /// Takes received bytes: frames go to the service, what is left stays with the connection.
    fn input(&mut self, bytes: &[u8], lender: Option<&dyn Lend>, reply: &mut Reply<'_>);
    /// The engine has received into the connection's own buffer, at most as many bytes as were missing.
    fn in_place(&mut self, reply: &mut Reply<'_>);
    /// Goes on with received bytes that waited.
    fn backlog(&mut self, reply: &mut Reply<'_>);
    /// A deferred reply will not come.
    fn abandoned(&mut self, ticket: Ticket, why: Abandoned, reply: &mut Reply<'_>);
    /// A stop waits for a deferred reply that was promised `age` milliseconds ago: logs which one.
    fn name_owed(&mut self, ticket: Ticket, age: u64, reply: &mut Reply<'_>);
    /// Time has passed. Returns after how long it is to be called again.
    fn tick(&mut self, tick: &Tick<'_>) -> Result<Option<Duration>, Caught>;
    /// Something that is watched for the service can be read.
    fn readable(&mut self, source: SourceId, tick: &Tick<'_>) -> Result<io::Result<Watch>, Caught>;
    /// What the service leaves to the successor. Nothing else is called any more.
    fn hand_over(&mut self, tick: &Tick<'_>) -> Result<Option<Bytes>, Caught>;
    /// The connection has ended.
    fn disconnected(
        &mut self,
        connection: &mut Connection,
        why: &Close,
        desk: &Desk,
        link: &dyn Link,
    );
}

/// Drops services one by one: one that panics then costs nothing else.
pub(crate) fn drop_all(hosts: Vec<Box<dyn Host>>) {
    for host in hosts {
        // Unwind safety: nothing is left of the service.
        if let Err(panic) = panics::catch(|| drop(host)) {
            tracing::error!("a service panicked when its worker ended and dropped it: {panic}");
        }
    }
}

pub(crate) struct Hosted<S: Service> {
    service: S,
    sessions: Slots<S::Session>,
    /// How many frames the services of this thread were given, modulo the size of the type.
    given: Rc<Cell<usize>>,
    /// How many that were when this one was called last.
    given_before: usize,
}

/// What a look at received bytes left over: everything before `start` was dispatched, the framer saw `scanned` bytes
/// from there and at least `missing` more are needed.
struct Remainder {
    start: usize,
    scanned: usize,
    missing: usize,
}

impl<S: Service> Hosted<S> {
    pub(crate) fn new(service: S) -> Self {
        Hosted {
            service,
            sessions: Slots::new(),
            given: panics::given(),
            given_before: 0,
        }
    }

    /// Dispatches the whole frames in `bytes`, of which the framer has seen the first `scanned`.
    fn dispatch(
        &mut self,
        bytes: &[u8],
        mut scanned: usize,
        lender: Option<&dyn Lend>,
        reply: &mut Reply<'_>,
    ) -> Remainder {
        let mut rest = bytes;
        let mut missing = 0;
        let mut session = session_of(&mut self.sessions, reply);
        let given = &*self.given;
        let mut goes_on = reply.connection.takes_frames() && !reply.desk.stopwatch.is_late();
        let mut next_look = reply.desk.stopwatch.first_look();
        while goes_on && rest.len() > scanned {
            if scanned == 0 {
                let count = given.get().wrapping_sub(self.given_before);
                if count >= next_look {
                    if count >= FRAMES_PER_CALL_MAX || reply.desk.stopwatch.is_over() {
                        break;
                    }
                    next_look = reply.desk.stopwatch.next_look(count);
                }
                if reply.connection.is_paused() {
                    break;
                }
                if !S::TOP_LEVEL.allows(rest[0]) {
                    let why = Close::TopLevel(rest[0]);
                    reply.connection.close(why, reply.desk);
                    break;
                }
            }
            match reply.desk.framer.feed(&rest[scanned..]) {
                Ok(Progress::Complete { used }) => {
                    let (frame, behind) = rest.split_at(scanned + used);
                    given.set(given.get().wrapping_add(1));
                    let frame = Frame::new(frame, lender);
                    goes_on = give(&mut self.service, session.as_deref_mut(), frame, reply);
                    rest = behind;
                    scanned = 0;
                }
                Ok(Progress::More { at_least }) => {
                    missing = at_least;
                    scanned = rest.len();
                }
                Err(error) => {
                    reply.desk.framer.reset();
                    reply.connection.close(Close::Framing(error), reply.desk);
                    // Nothing is parked of a frame that was refused.
                    scanned = 0;
                    goes_on = false;
                }
            }
        }
        Remainder {
            start: bytes.len() - rest.len(),
            scanned,
            missing,
        }
    }

    fn frame(&mut self, frame: Frame<'_>, reply: &mut Reply<'_>) {
        self.given.set(self.given.get().wrapping_add(1));
        let session = session_of(&mut self.sessions, reply);
        give(&mut self.service, session, frame, reply);
    }

    /// Gives the carried frame, which is all of `partial`, to the service.
    fn carried_frame(&mut self, partial: &mut Partial, reply: &mut Reply<'_>) {
        if partial.bytes.len() < SHARE_CARRIED_BYTES_MIN {
            self.frame(Frame::new(&partial.bytes, None), reply);
        } else {
            let shared: Bytes = std::mem::take(&mut partial.bytes).freeze();
            self.frame(Frame::new(&shared, Some(&shared)), reply);
            // If the service kept nothing, the memory is ours again.
            partial.bytes = shared.try_into_mut().unwrap_or_default();
        }
        partial.bytes.clear();
        partial.consume(0, 0, None, 0);
    }

    /// Takes bytes while an incomplete frame or a backlog is there already. What of them is left after the frame
    /// that they complete is returned; `None` if all were taken.
    fn input_behind<'b>(&mut self, bytes: &'b [u8], reply: &mut Reply<'_>) -> Option<&'b [u8]> {
        let mut partial = reply.connection.input.take()?;
        let wait =
            partial.is_backlog() || reply.connection.is_paused() || reply.desk.stopwatch.is_late();
        let taken = match (wait, partial.parked.take()) {
            (false, Some(parked)) => {
                reply.desk.framer.resume(parked);
                reply.desk.framer.feed(bytes)
            }
            (_, parked) => {
                partial.parked = parked;
                partial.bytes.extend_from_slice(bytes);
                reply.connection.input = Some(partial);
                return None;
            }
        };
        let used = match taken {
            Ok(Progress::Complete { used }) => used,
            Ok(Progress::More { .. }) => bytes.len(),
            Err(_) => 0,
        };
        partial.bytes.extend_from_slice(&bytes[..used]);
        let is_whole = matches!(taken, Ok(Progress::Complete { .. }));
        self.carry_on(partial, taken, reply);
        is_whole.then(|| &bytes[used..])
    }

    /// The framer has seen all of `partial`, which is the beginning of one frame, or the frame.
    fn carry_on(
        &mut self,
        mut partial: Box<Partial>,
        seen: Result<Progress, framer::Error>,
        reply: &mut Reply<'_>,
    ) {
        match seen {
            Ok(Progress::Complete { .. }) => {
                self.carried_frame(&mut partial, reply);
                reply.desk.pools.give_partial(partial);
            }
            Ok(Progress::More { at_least }) => {
                let scanned = partial.bytes.len();
                partial.consume(0, scanned, reply.desk.framer.park(), at_least);
                reply.connection.input = Some(partial);
            }
            Err(error) => {
                reply.desk.framer.reset();
                reply.desk.pools.give_partial(partial);
                reply.connection.close(Close::Framing(error), reply.desk);
            }
        }
    }

    /// Keeps what [`Hosted::dispatch`] left of a received buffer.
    fn keep_remainder(&mut self, bytes: &[u8], remainder: &Remainder, reply: &mut Reply<'_>) {
        let parked = reply.desk.framer.park();
        if remainder.start == bytes.len() || !reply.connection.takes_frames() {
            return;
        }
        let mut partial = reply.desk.pools.partial();
        let left = &bytes[remainder.start..];
        partial.make_room(left.len(), remainder.missing, &mut reply.desk.pools);
        partial.bytes.extend_from_slice(left);
        partial.consume(0, remainder.scanned, parked, remainder.missing);
        reply.connection.input = Some(partial);
    }

    /// Takes the bytes of a connection that takes no frames: the header of its proxy, if it waits for that. Once the service knows
    /// it and it takes frames, what is behind the header is returned.
    #[cold]
    fn arrive<'b>(&mut self, bytes: &'b [u8], reply: &mut Reply<'_>) -> Option<&'b [u8]> {
        let used = reply.connection.take_header(bytes, reply.desk)?;
        journal::arrives(reply.connection, reply.desk, reply.link);
        self.connected(reply);
        reply.connection.takes_frames().then(|| &bytes[used..])
    }

    /// Calls `call`, which is a call of the service, or gives it frames; a panic in it costs the connection.
    fn guarded<R>(
        &mut self,
        what: Call,
        reply: &mut Reply<'_>,
        call: impl FnOnce(&mut Self, &mut Reply<'_>) -> R,
    ) -> Option<R> {
        // Unwind safety: after a panic the connection is closed, the framer is reset and the outbox took back what
        // the panicking call was writing. What the service's own value looks like is up to the service, as documented.
        let name = reply.connection.name;
        reply.desk.counters().calling.begin_for(name, what);
        reply.desk.frames_of(name);
        self.given_before = self.given.get();
        let result = panics::catch(|| call(self, reply));
        let frames = self.given.get().wrapping_sub(self.given_before);
        if frames > 0 {
            // A frame that is incomplete now has begun just now.
            reply.connection.clock.frame = 0;
            reply
                .desk
                .name_counters(reply.connection.name)
                .frames_in
                .add(frames as u64);
        }
        if let Some(took) = reply.desk.stopwatch.slow() {
            let last = panics::catch(|| self.service.frame_name());
            let last = last.ok().flatten();
            let work = Work { what, frames, last };
            slow::report(took, work, reply.connection, reply.desk, reply.link);
        }
        match result {
            Ok(result) => Some(result),
            Err(panic) => {
                // The connection's own line does not say what it was.
                panic.log_call(what, reply.connection, reply.desk, reply.link);
                reply.desk.framer.reset();
                reply.connection.close(Close::Panicked, reply.desk);
                None
            }
        }
    }
}

/// The session of the connection that a reply belongs to.
fn session_of<'s, T>(sessions: &'s mut Slots<T>, reply: &Reply<'_>) -> Option<&'s mut T> {
    let session = sessions.get_mut(reply.connection.session?.number());
    debug_assert!(
        session.is_some(),
        "a session is kept until the connection has ended"
    );
    session
}

/// Gives one frame to the service and does what it says. Returns whether the connection takes more.
#[inline(always)]
fn give<S: Service>(
    service: &mut S,
    session: Option<&mut S::Session>,
    frame: Frame<'_>,
    reply: &mut Reply<'_>,
) -> bool {
    let Some(session) = session else {
        debug_assert!(false, "frames are given to open sessions only");
        return false;
    };
    match service.frame(session, frame, reply) {
        Flow::Continue => {
            reply.connection.update_pause(reply.desk);
            return true;
        }
        Flow::Close(reason) => reply.connection.close(Close::Service(reason), reply.desk),
        Flow::Reject(reason) => reply.connection.close(Close::Rejected(reason), reply.desk),
    }
    false
}

impl<S: Service> Host for Hosted<S> {
    fn connected(&mut self, reply: &mut Reply<'_>) {
        let made = self.guarded(Call::Connected, reply, |host, reply| {
            Peer::beside(reply, |peer, reply| host.service.connected(peer, reply))
        });
        match made {
            Some(Ok(session)) => {
                reply.connection.session = Some(self.sessions.keep(session));
            }
            Some(Err(refusal)) => reply
                .connection
                .close(Close::Refused(refusal.0), reply.desk),
            None => {}
        }
    }

    fn restored(&mut self, saved: Option<&[u8]>, reply: &mut Reply<'_>) {
        let Some(saved) = saved else {
            self.connected(reply);
            // The client was greeted by the predecessor.
            reply.connection.outbox.clear(&mut reply.desk.pools);
            return;
        };
        match self.guarded(Call::Restore, reply, |host, reply| {
            host.service.restore(&reply.peer(), saved)
        }) {
            Some(Ok(session)) => reply.connection.session = Some(self.sessions.keep(session)),
            Some(Err(error)) => reply.connection.close(error.into_close(), reply.desk),
            None => {}
        }
    }

    fn save(&mut self, reply: &mut Reply<'_>) -> Saved {
        let Some(key) = reply.connection.session else {
            return match reply.connection.life {
                // There is none yet, and the successor makes it.
                Life::Arriving => Saved::Stateless,
                _ => Saved::Close,
            };
        };
        let saved = self.guarded(Call::Save, reply, |host, _| {
            let session = host.sessions.get(key.number())?;
            Some(host.service.save(session))
        });
        saved.flatten().unwrap_or(Saved::Close)
    }

    fn input(&mut self, bytes: &[u8], lender: Option<&dyn Lend>, reply: &mut Reply<'_>) {
        let mut bytes = bytes;
        if !reply.connection.takes_frames() {
            match self.arrive(bytes, reply) {
                Some(behind) => bytes = behind,
                None => return,
            }
        }
        self.guarded(Call::Frame, reply, |host, reply| {
            if reply.connection.input.is_some() {
                match host.input_behind(bytes, reply) {
                    Some(rest) => bytes = rest,
                    None => return,
                }
            }
            let remainder = host.dispatch(bytes, 0, lender, reply);
            host.keep_remainder(bytes, &remainder, reply);
        });
    }

    fn in_place(&mut self, reply: &mut Reply<'_>) {
        let Some(mut partial) = reply.connection.input.take() else {
            return;
        };
        let wait = reply.connection.is_paused() || reply.desk.stopwatch.is_late();
        if !partial.is_backlog() || wait {
            reply.connection.input = Some(partial);
            return;
        }
        self.guarded(Call::Frame, reply, |host, reply| {
            if let Some(parked) = partial.parked.take() {
                reply.desk.framer.resume(parked);
            }
            // A frame is never shorter than what was known to be missing, so it can end only with the last byte.
            let seen = reply.desk.framer.feed(&partial.bytes[partial.scanned..]);
            host.carry_on(partial, seen, reply);
        });
    }

    fn backlog(&mut self, reply: &mut Reply<'_>) {
        if !reply.connection.is_ready() {
            return;
        }
        let Some(mut partial) = reply.connection.input.take() else {
            return;
        };
        self.guarded(Call::Frame, reply, |host, reply| {
            if let Some(parked) = partial.parked.take() {
                reply.desk.framer.resume(parked);
            }
            let remainder = host.dispatch(&partial.bytes, partial.scanned, None, reply);
            let parked = reply.desk.framer.park();
            partial.consume(
                remainder.start,
                remainder.scanned,
                parked,
                remainder.missing,
            );
            if partial.bytes.is_empty() || !reply.connection.takes_frames() {
                reply.desk.pools.give_partial(partial);
            } else {
                if reply.connection.is_paused() || !partial.is_backlog() {
                    // It rests now, for as long as the peer likes.
                    partial = partial.without_spent(&mut reply.desk.pools);
                }
                reply.connection.input = Some(partial);
            }
        });
    }

    fn abandoned(&mut self, ticket: Ticket, why: Abandoned, reply: &mut Reply<'_>) {
        let Some(key) = reply.connection.session else {
            return;
        };
        let flow = self.guarded(Call::Abandoned, reply, |host, reply| {
            let session = host.sessions.get_mut(key.number())?;
            journal::unanswered(why, reply, || host.service.request_name(ticket));
            Some(host.service.abandoned(session, ticket, why, reply))
        });
        if let Some(Some(Flow::Close(reason) | Flow::Reject(reason))) = flow {
            reply.connection.close(Close::Abandoned(reason), reply.desk);
        }
    }

    fn name_owed(&mut self, ticket: Ticket, age: u64, reply: &mut Reply<'_>) {
        self.guarded(Call::RequestName, reply, |host, reply| {
            journal::waits(age, reply, || host.service.request_name(ticket));
        });
    }

    fn tick(&mut self, tick: &Tick<'_>) -> Result<Option<Duration>, Caught> {
        tick.note_call();
        // Unwind safety: as with frames, what the service's own value looks like is up to the service.
        panics::catch(|| self.service.tick(tick))
    }

    fn readable(&mut self, source: SourceId, tick: &Tick<'_>) -> Result<io::Result<Watch>, Caught> {
        tick.note_call();
        // Unwind safety: as above.
        panics::catch(|| self.service.readable(source, tick))
    }

    fn hand_over(&mut self, tick: &Tick<'_>) -> Result<Option<Bytes>, Caught> {
        tick.note_call();
        // Unwind safety: nothing but the drop of the service follows.
        panics::catch(|| self.service.hand_over(tick))
    }

    fn disconnected(
        &mut self,
        connection: &mut Connection,
        why: &Close,
        desk: &Desk,
        link: &dyn Link,
    ) {
        let Some(key) = connection.session.take() else {
            return;
        };
        let Some(session) = self.sessions.remove(key.number()) else {
            return;
        };
        let ended = Ended {
            connection: connection.id,
            socket_name: &desk.names[connection.name as usize].name,
            why,
        };
        let calling = &desk.counters().calling;
        let what = Call::Disconnected;
        calling.begin_for(connection.name, what);
        // Unwind safety: nothing is left of the session.
        if let Err(panic) = panics::catch(|| self.service.disconnected(session, &ended)) {
            panic.log_call(what, connection, desk, link);
            desk.name_counters(connection.name).panics.add(1);
        }
        if let Some(took) = desk.stopwatch.slow() {
            slow::report(took, Work::of(what), connection, desk, link);
        }
    }
}
