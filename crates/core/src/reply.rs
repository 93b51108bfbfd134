//! How a service answers: now, or later from somewhere else.

use std::cell::OnceCell;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::connection::Connection;
use crate::desk::Desk;
use crate::journal;
use crate::panics::Caught;
use crate::peer::{ConnectionId, Handle, HandleState, Item, Link, Peer, Pieces, PushError};

/// What a service call may do to its connection: append to what is sent to the peer, take a ticket for a later
/// answer, ask who the peer is.
///
/// Everything that one call appends is written to the peer together with what the other calls of the same turn
/// append, in order.
pub struct Reply<'a> {
    pub(crate) connection: &'a mut Connection,
    pub(crate) desk: &'a mut Desk,
    pub(crate) link: &'a dyn Link,
    /// What the connection shares with its handles, once there are any.
    pub(crate) handle: &'a OnceCell<Arc<HandleState>>,
}

impl fmt::Debug for Reply<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reply({})", self.connection.id)
    }
}

/// A service's own name for a request that is answered later, given back with [`Service::abandoned`].
///
/// MessagePack-RPC uses the message id and the method. Two that are open may be equal: they are told apart for the [`Responder`]s, and the
/// service is given the name once for each.
///
/// [`Service::abandoned`]: crate::Service::abandoned
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ticket(pub u64);

/// Why a deferred reply will not come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Abandoned {
    /// The [`Responder`] was dropped without an answer.
    Dropped,
    /// The server stops or restarts and could not wait any longer.
    Stopping,
    /// The peer has ended its side, or what it sent is of no use any more, and nothing came of it for `reply_timeout`.
    TimedOut,
    /// It was not given within `promise_timeout`.
    Late,
}

impl Abandoned {
    /// The text of [`Abandoned::Stopping`]. It does not change, since clients tell by it that a call may be made again:
    /// `ringhold_client::RemoteError::is_stopping` has the same.
    // After a stop the service manager starts a successor, or it does not: this process cannot know.
    pub const STOPPING: &str =
        "the server is stopping or restarting and could not wait for the answer";
}

impl fmt::Display for Abandoned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Abandoned::Dropped => "the handler gave no answer",
            Abandoned::Stopping => Abandoned::STOPPING,
            Abandoned::Late => "the handler gave no answer within promise_timeout",
            Abandoned::TimedOut => "the handler gave no answer within reply_timeout",
        })
    }
}

impl Reply<'_> {
    /// The same reply for a shorter time, so that a value with one lifetime can own it.
    pub fn reborrow(&mut self) -> Reply<'_> {
        Reply {
            connection: self.connection,
            desk: self.desk,
            link: self.link,
            handle: self.handle,
        }
    }

    /// How long the worker has been running, in whole milliseconds, as of the beginning of its turn, as [`Tick::now`](crate::Tick::now).
    pub fn now(&self) -> Duration {
        Duration::from_millis(self.desk.now)
    }

    /// Counts and logs a panic that the service itself caught. One that it does not catch is counted and logged by the worker.
    /// `what` has panicked, such as `the handler of "add"`. Ten panics a second are logged, two of each connection, and how many
    /// were not.
    pub fn report_panic(&mut self, what: &str, panic: &Caught) {
        panic.log(what, self.connection, self.desk, self.link);
        self.desk.name_counters(self.connection.name).panics.add(1);
    }

    /// Logs a warning that something has failed to which the protocol has no answer: the peer is not told that `what`, such as `its
    /// notification of "add" failed`. Ten a second are logged, two of each connection, and how many were not.
    pub fn report_untold(&self, what: fmt::Arguments<'_>) {
        journal::untold(self, what);
    }

    /// Lets `write` append to what is sent to the peer. The buffer may already hold other replies: append only. If
    /// `write` panics, what it appended is taken back. What it has appended when it returns is sent, also if what it returns is an
    /// error: [`Reply::try_write`] is for what may fail halfway.
    pub fn write<R>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        self.connection.outbox.write(&mut self.desk.pools, write)
    }

    /// As [`Reply::write`], but what `write` has appended is taken back if it returns an error, so that half a frame is never sent.
    ///
    /// # Errors
    ///
    /// Those of `write`.
    ///
    /// ```
    /// # use ringhold_core::Reply;
    /// # fn answer(value: &impl Fn(&mut Vec<u8>) -> Result<(), std::fmt::Error>, reply: &mut Reply<'_>) {
    /// if reply.try_write(value).is_err() {
    ///     reply.write(|out| out.push(0xc0)); // nil: the value cannot be encoded
    /// }
    /// # }
    /// ```
    pub fn try_write<R, E>(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>) -> Result<R, E>,
    ) -> Result<R, E> {
        self.write(|out| {
            let before = out.len();
            let result = write(out);
            if result.is_err() {
                out.truncate(before);
            }
            result
        })
    }

    /// Appends the first `length` bytes of `head` and then `body` to what is sent to the peer. It is what
    /// [`Reply::write`] would do, and the cheapest way to answer with a short header and bytes that are there already.
    ///
    /// # Panics
    ///
    /// If `length` is above eight.
    #[inline]
    pub fn append(&mut self, head: [u8; 8], length: usize, body: &[u8]) {
        assert!(length <= head.len());
        self.connection
            .outbox
            .append(&mut self.desk.pools, head, length, body);
    }

    /// Queues shared bytes. Large ones are not copied, so one published frame can be queued on a thousand
    /// connections.
    pub fn share(&mut self, bytes: Bytes) {
        self.connection.outbox.share(&mut self.desk.pools, bytes);
    }

    /// Names this connection for as long as the process lives.
    pub fn connection(&self) -> ConnectionId {
        self.connection.id
    }

    /// The other end.
    pub fn peer(&self) -> Peer<'_> {
        Peer::new(self)
    }

    /// A way to push bytes to this connection from anywhere.
    pub fn handle(&self) -> Handle {
        self.peer().handle()
    }

    /// Promises an answer that comes later. Exactly one of three things will happen: the [`Responder`] answers,
    /// [`Service::abandoned`] is called with `ticket`, or the connection ends before. Frames that follow are given to the
    /// service meanwhile, so their replies may come first.
    ///
    /// [`Service::abandoned`]: crate::Service::abandoned
    pub fn defer(&mut self, ticket: Ticket) -> Responder {
        self.promise(ticket, None)
    }

    /// As [`Reply::defer`], for a request that may be asked again, such as one that waits for whatever happens next: no stop waits for
    /// the answer. In a restart or reload that comes first, the connection takes the `request` along, a whole frame of it as a rule, and
    /// the successor's service is given it before anything that the peer has sent since, as if it had just arrived. It takes other
    /// requests meanwhile. In a stop without a successor, and where the session cannot be [saved](crate::Service::save), it is
    /// [abandoned](crate::Service::abandoned) when no other deferred reply is waited for.
    ///
    /// Here nobody answers it any more from then on: [`Responder::is_wanted`] is false, and [`Responder::try_answer`] says whether an
    /// answer was in time. Time limits begin anew in the successor. A copy of the request is kept until it is answered, which counts in
    /// `limits.memory`.
    pub fn defer_repeatable(&mut self, ticket: Ticket, request: &[u8]) -> Responder {
        self.promise(ticket, Some(request.into()))
    }

    fn promise(&mut self, ticket: Ticket, request: Option<Box<[u8]>>) -> Responder {
        self.desk.last_ticket += 1;
        let (serial, now) = (self.desk.last_ticket, self.desk.now);
        let is_repeatable = request.is_some();
        let tickets = &mut self.connection.tickets;
        tickets.open(&mut self.desk.pools, serial, now, ticket, request);
        self.desk
            .crew
            .ticket_opened(self.desk.worker, is_repeatable);
        Responder {
            handle: self.handle(),
            serial,
            is_repeatable,
            answered: false,
        }
    }
}

/// The right to answer one request later, from any thread or runtime, exactly once.
///
/// Dropped without an answer, it makes the worker call [`Service::abandoned`], so that the client gets an error.
///
/// [`Service::abandoned`]: crate::Service::abandoned
pub struct Responder {
    handle: Handle,
    serial: u64,
    /// The successor answers it if this process does not.
    is_repeatable: bool,
    answered: bool,
}

impl Responder {
    /// Queues the answer, which must be whole frames of the service's protocol, or nothing. It is not copied, unless it is a few hundred
    /// bytes or less.
    ///
    /// An empty one sends nothing: so a service also holds up who sends what has no answer, since a connection that is owed as many as it may be
    /// (`promises`) is given no more frames.
    ///
    /// An answer to a connection that has ended, or that comes after the ticket was abandoned, is discarded: its client
    /// has been told.
    pub fn answer(self, bytes: impl Into<Bytes>) {
        self.give(Pieces::One(bytes.into()));
    }

    /// As [`Responder::answer`], with an answer in two pieces, one behind the other: a header, and bytes that are there already. As
    /// there, large ones are not copied.
    pub fn answer_in_two(self, pieces: [Bytes; 2]) {
        self.give(Pieces::Two(Box::new(pieces)));
    }

    fn give(mut self, pieces: Pieces) {
        self.answered = true;
        let answer = Item::Answer {
            serial: self.serial,
            pieces,
        };
        self.handle.leave(answer, self.is_repeatable);
    }

    /// As [`Responder::answer`], for answers that are not to be lost, such as a job that is given away: says whether this one is written
    /// to the client, unless the connection ends before.
    ///
    /// # Errors
    ///
    /// If nobody waits for it any more: the connection has ended, or is ending, or the ticket was abandoned, or the successor is asked
    /// instead ([`Reply::defer_repeatable`]). Then nothing of it is written.
    pub fn try_answer(self, bytes: impl Into<Bytes>) -> Result<(), PushError> {
        self.try_give(Pieces::One(bytes.into()))
    }

    /// As [`Responder::try_answer`], with an answer in two pieces, as [`Responder::answer_in_two`].
    ///
    /// # Errors
    ///
    /// Those of [`Responder::try_answer`].
    pub fn try_answer_in_two(self, pieces: [Bytes; 2]) -> Result<(), PushError> {
        self.try_give(Pieces::Two(Box::new(pieces)))
    }

    fn try_give(mut self, pieces: Pieces) -> Result<(), PushError> {
        self.handle
            .leave_wanted(self.serial, pieces, self.is_repeatable)?;
        self.answered = true;
        Ok(())
    }

    /// Whether anybody still waits for the answer: not once the connection has begun to end, nor when the ticket was
    /// abandoned. Whoever works on answers one after the other can leave out those that nobody gets.
    ///
    /// It may change right after this. A peer that closes its socket looks like one that has only ended its side and reads on:
    /// its connection waits for what it is owed, for as long as `reply_timeout`, unless something else ends it, such as an
    /// answer that comes back.
    pub fn is_wanted(&self) -> bool {
        self.handle.wants_answer(self.serial, self.is_repeatable)
    }

    /// Names the connection that waits for the answer.
    pub fn connection(&self) -> ConnectionId {
        self.handle.id()
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if !self.answered {
            let dropped = Item::Dropped {
                serial: self.serial,
            };
            self.handle.leave(dropped, self.is_repeatable);
        }
    }
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Responder({}, {})", self.handle.id(), self.serial)
    }
}
