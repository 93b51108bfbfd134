//! The interface that users write against.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use bytes::Bytes;
pub use ringhold_framer::TopLevel;

use crate::close::{Close, Ended};
use crate::frame::Frame;
use crate::peer::Peer;
use crate::plain::with_sources;
use crate::reply::{Abandoned, Reply, Ticket};
use crate::tick::Tick;
#[cfg(doc)]
use crate::worker::Worker;

/// A protocol: plain, synchronous code that is called with one whole frame at a time.
///
/// Each worker has one value of each service, which is never shared, so `Rc` and `Cell` are fine in it. Slow work
/// must not be done in a call, since it holds up every connection of the worker (only new clients find another one, after
/// a second or two, if there is one): take a ticket with [`Reply::defer`] and answer later.
///
/// Calls come from the worker's own thread and, whatever the engine, from outside of any asynchronous runtime, as does the
/// drop of the service: it may own a runtime, and block on one for as long as its connections can wait.
///
/// A panic costs the connection whose call panicked; the worker and the service value go on. It is logged; the standard
/// panic hook prints it besides, without a bound, which [`panics`](crate::panics) can change.
pub trait Service: 'static {
    /// What the service keeps for one connection.
    type Session: 'static;

    /// Which types a frame may have. Every byte below 0x80 is a whole msgpack object, so a service that takes only
    /// arrays should say so: other bytes then end the connection at once instead of arriving as frames.
    const TOP_LEVEL: TopLevel = TopLevel::Any;

    /// A connection was made. May greet the peer through `reply`.
    ///
    /// On a socket with `proxy_protocol` that is when its header is complete: then it is known where the client is.
    ///
    /// It is called as well for a connection of the predecessor's whose session was [`Saved::Stateless`]. What it writes is
    /// dropped then, since the peer has been greeted.
    ///
    /// # Errors
    ///
    /// A [`Refusal`] ends the connection, after what was written to `reply`.
    fn connected(
        &mut self,
        peer: &Peer<'_>,
        reply: &mut Reply<'_>,
    ) -> Result<Self::Session, Refusal>;

    /// One frame arrived.
    ///
    /// In a successor no worker gives frames before all connections that were handed over are there, on every worker: what comes of a
    /// frame can be pushed to any of them.
    ///
    /// Whole frames that were received before a peer ends its side or resets the connection are given to the service all the same, before
    /// [`disconnected`](Service::disconnected): a peer may send and be gone. After a reset nobody gets the replies, a
    /// [`Responder`](crate::Responder) that is made then is not [wanted](crate::Responder::is_wanted), and what the kernel had
    /// received by then is given, too. Frames that wait are not given when the connection ends
    /// for another reason, such as a limit, bad input before them, or because the service ends it.
    fn frame(
        &mut self,
        session: &mut Self::Session,
        frame: Frame<'_>,
        reply: &mut Reply<'_>,
    ) -> Flow;

    /// A deferred reply will not come: write the protocol's error for `ticket`. Not called on a connection that is
    /// ending.
    ///
    /// It may be promised again, by [`Reply::defer`]. But a stop that gives up the last deferred replies ([`Abandoned::Stopping`]) waits
    /// for no others: the connection for which something is promised here then ends.
    ///
    /// The default ends the connection, because silence would leave the client waiting for ever. A service that
    /// never calls [`Reply::defer`] need not write it.
    fn abandoned(
        &mut self,
        session: &mut Self::Session,
        ticket: Ticket,
        why: Abandoned,
        reply: &mut Reply<'_>,
    ) -> Flow {
        let _ = (session, ticket, reply);
        Flow::close(why.to_string())
    }

    /// What the log calls the request of this ticket when its reply will not come, such as `the request 7 for "add"`.
    fn request_name(&self, ticket: Ticket) -> String {
        format!("ticket {}", ticket.0)
    }

    /// What the log calls the frame that was given last, when calls of the service took long, such as `a call of "add"`.
    fn frame_name(&self) -> Option<String> {
        None
    }

    /// The session has ended, with the connection, or with this process if [`Ended::why`] is [`Close::HandedOver`]: then the connection
    /// is the successor's, which [`restore`](Service::restore)s or makes the session anew. Its [`Handle`](crate::Handle)s say that it is
    /// gone. No [`frame`](Service::frame) comes behind this: that says which come before.
    fn disconnected(&mut self, session: Self::Session, ended: &Ended<'_>) {
        let _ = (session, ended);
    }

    /// Time has passed: what is due without anybody asking for it, such as a batch to be written, or a heartbeat by
    /// [`Handle`](crate::Handle)s.
    ///
    /// Called when the worker begins to serve, behind what was handed over, and again whenever as long as it returned is over, at
    /// least a millisecond; `None` is never, the default. A worker that was held up calls once for all that it missed. What belongs to
    /// the end of the process is a matter of `Drop`: before a restart or reload it is not called any more once the services get no
    /// frames and no deferred reply is owed, on any worker, that it could give.
    ///
    /// If it panics that is logged and counted (what it catches itself: [`Tick::report_panic`]), and it is called again after the time that
    /// it returned before, or a second if it was the first call.
    fn tick(&mut self, tick: &Tick<'_>) -> Option<Duration> {
        let _ = tick;
        None
    }

    /// There is something to read from a descriptor that the worker watches for this service ([`Worker::watch`]), or it has ended or
    /// failed.
    ///
    /// Called on the worker once in each of its turns as long as that is so, between the frames of connections: read without
    /// blocking, and at most so much that those can wait for it. As with [`tick`](Service::tick), all connections are there, also those that were
    /// handed over, and before a restart or reload it is not called any more once the services get no frames and no
    /// deferred reply is owed; what comes then is the successor's.
    ///
    /// # Errors
    ///
    /// They are logged. If there is still something to read, this is called again in the next turn, since a socket tells each error but
    /// once; if it fails again and there still is, a second later, and so on. So it is after a panic, which is counted, too. One that has
    /// nothing more to say would be found readable each time: end it with [`Watch::End`].
    fn readable(&mut self, source: SourceId, tick: &Tick<'_>) -> io::Result<Watch> {
        let _ = (source, tick);
        let why = "the service does not say how (Service::readable)";
        Err(io::Error::new(io::ErrorKind::Unsupported, why))
    }

    /// What this worker's value of the service leaves to the successor, besides sessions: counters, the latest values, what is kept in
    /// a shared `Rc`. All workers' values are there when the successor's are made, see [`Worker::taken_over`].
    ///
    /// It is called once before a restart or reload, when the worker has nothing left to do, and nothing but the drop of its services
    /// follows: all frames are answered, what services pushed has arrived, and all sessions have been
    /// [`disconnected`](Service::disconnected). It is not called before a stop without a store, since nobody comes after that, nor
    /// on a worker that is stuck or has failed: what that one would leave is lost with its connections. With a store a stop may be the
    /// end all the same, and then it is for nothing, as in a crash there is no call. So this is for what a program would miss, but can do without.
    ///
    /// Everybody waits meanwhile, and what is left is in memory twice for a moment: some megabytes are fine. One that has not returned
    /// after 16 s is taken for stuck: all connections that its worker had are lost then, and so is what every service of that worker would leave.
    /// So what it waits for, such as a thread that writes, it waits for with a bound. If it panics that is logged and
    /// counted (what it catches itself: [`Tick::report_panic`]), and nothing is left.
    ///
    /// What a service leaves that never asks for [`Worker::taken_over`] itself is dropped, with an error in the log: a program of a
    /// version that cannot take it over refuses a reload, and for that it has to be known beforehand.
    fn hand_over(&mut self, tick: &Tick<'_>) -> Option<Bytes> {
        let _ = tick;
        None
    }

    /// What the successor needs to continue this session. It may be another version of the program, an older one too.
    ///
    /// It is asked more than once before a restart or reload, and the last answer counts. A connection that cannot be continued by the
    /// first one is read no more: what has arrived for it is answered, and it ends, unless that has made it one that can be.
    ///
    /// The last answer is asked for when pushes to the connection are refused ([`PushError::Gone`](crate::PushError::Gone)), and all that were
    /// accepted have reached it, to go with it. So a number that changes with each accepted push, both under one lock, which this takes to
    /// read it, says what the peer is sent by this process: if the successor goes on from there, nothing is lost and nothing comes
    /// twice, whichever thread pushes. Who holds that lock must not wait for the worker, which waits here.
    ///
    /// The default is [`Saved::Close`]: each restart and reload ends the connections. A service whose sessions hold nothing
    /// that the next one needs answers [`Saved::Stateless`].
    fn save(&self, session: &Self::Session) -> Saved {
        let _ = session;
        Saved::Close
    }

    /// Continues a session that the predecessor saved as [`Saved::Bytes`]. Each connection is another `peer` than it was
    /// there, with another id and, if it needs one, a new handle.
    ///
    /// # Errors
    ///
    /// A [`RestoreError`] ends the connection; it is logged and counted. One that is made of a [`Refusal`] counts as that of
    /// [`connected`](Service::connected) does.
    fn restore(&mut self, peer: &Peer<'_>, saved: &[u8]) -> Result<Self::Session, RestoreError> {
        let _ = (peer, saved);
        Err(RestoreError::new("this service does not restore sessions"))
    }
}

/// A descriptor that a worker watches for a service. No other one of this process has ever the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SourceId(pub(crate) u64);

/// What becomes of a source after [`Service::readable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub enum Watch {
    /// It is watched on.
    Continue,
    /// It is not looked at any more, and the worker lets go of it.
    End,
}

/// What becomes of the connection after a service call.
#[derive(Debug)]
#[non_exhaustive]
#[must_use]
pub enum Flow {
    /// It goes on.
    Continue,
    /// It is closed for this reason, which the log has at debug level only, after what was replied so far has been written. Deferred
    /// replies are not waited for.
    Close(Cow<'static, str>),
    /// It is closed because what the peer sent cannot be used: counted and logged as bad input. Nothing more is read, and the deferred
    /// replies to what it had sent before are waited for, for as long as they are for a peer that has ended its side
    /// ([`reply_timeout`](crate::limits::Limits::reply_timeout)). So it is with input that is not msgpack, and with a frame that is not
    /// complete within `frame_timeout`.
    Reject(Cow<'static, str>),
}

impl Flow {
    /// Ends the connection with a reason for the log, at debug level.
    pub fn close(reason: impl Into<Cow<'static, str>>) -> Self {
        Flow::Close(reason.into())
    }

    /// Ends the connection for what the peer sent, with a reason for the log.
    pub fn reject(reason: impl Into<Cow<'static, str>>) -> Self {
        Flow::Reject(reason.into())
    }
}

/// A service does not want this connection.
///
/// A type that implements [`Error`] becomes a refusal with `?`: its message, followed by those of its sources, is the reason. For that
/// reason `Refusal` does not implement [`Error`] itself.
#[derive(Debug)]
pub struct Refusal(pub(crate) Cow<'static, str>);

impl Refusal {
    /// Refuses, with a reason for the log.
    pub fn new(reason: impl Into<Cow<'static, str>>) -> Self {
        Refusal(reason.into())
    }
}

impl<E: Error> From<E> for Refusal {
    fn from(error: E) -> Self {
        Refusal::new(with_sources(&error))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Refusal> for RestoreError {
    /// For a service that refuses whom the predecessor had let in.
    fn from(Refusal(reason): Refusal) -> Self {
        RestoreError {
            reason,
            is_refusal: true,
        }
    }
}

/// What a session is worth to the successor.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Saved {
    /// Nothing: `connected` makes it anew, without a greeting.
    Stateless,
    /// These bytes, from which `restore` continues.
    Bytes(Bytes),
    /// It cannot be continued: the connection ends instead, when what has arrived is answered.
    Close,
}

/// A saved session cannot be continued.
///
/// A type that implements [`Error`] becomes one with `?`, as it becomes a [`Refusal`]. For that reason `RestoreError` does not implement
/// [`Error`] itself.
#[derive(Debug)]
pub struct RestoreError {
    reason: Cow<'static, str>,
    is_refusal: bool,
}

impl RestoreError {
    /// With a reason for the log.
    pub fn new(reason: impl Into<Cow<'static, str>>) -> Self {
        RestoreError {
            reason: reason.into(),
            is_refusal: false,
        }
    }

    /// Why the connection ends then.
    pub(crate) fn into_close(self) -> Close {
        match self.is_refusal {
            true => Close::Refused(self.reason),
            false => Close::Unrestored(self.reason),
        }
    }
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl<E: Error> From<E> for RestoreError {
    fn from(error: E) -> Self {
        RestoreError::new(with_sources(&error))
    }
}
