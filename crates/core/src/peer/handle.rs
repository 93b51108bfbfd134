//! How to reach a connection from anywhere.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use self::state::Pushed;
use super::ConnectionId;
use crate::close::Close;
use crate::mailbox::{Mail, Post};
use crate::memory::Memory;

mod state;
#[cfg(test)]
mod tests;

pub(crate) use self::state::{HandleState, Item, Pieces};

/// What it takes to make handles for the connections of one worker.
#[derive(Clone)]
pub(crate) struct Handles {
    pub(crate) post: Post,
    pub(crate) memory: Arc<Memory>,
}

impl Handles {
    /// A handle of a connection, to which so much may be pushed and not yet be queued on it, and which ends if pushes to it are answered
    /// with `error`. Others than the first one know both already.
    pub(crate) fn handle(
        &self,
        id: ConnectionId,
        pushed_max: usize,
        state: &OnceCell<Arc<HandleState>>,
        error: Option<PushError>,
    ) -> Handle {
        let new = || {
            let state = HandleState::new(pushed_max, self.memory.clone());
            if let Some(error) = error {
                state.end(error);
            }
            Arc::new(state)
        };
        let shared = state.get_or_init(new);
        Handle {
            id,
            shared: shared.clone(),
            post: self.post.clone(),
        }
    }
}

/// Pushes bytes to one connection, from any thread.
///
/// The bytes must be whole frames of the service's protocol. They are queued behind everything that the connection
/// was sent before, in the order in which they were pushed: by one thread, or by several of which one did it before the other, as
/// under a lock, or on what the other had said. They are delivered after the service call in which
/// they were pushed: replies to requests that were received with the present one may come before them. What was accepted
/// before the connection begins to end is still delivered. A connection that is handed over to a successor takes nothing any
/// more from its handles, and is none of this process's afterwards.
#[derive(Clone)]
pub struct Handle {
    id: ConnectionId,
    shared: Arc<HandleState>,
    post: Post,
}

/// Why a push was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PushError {
    /// The connection is gone, or about to be.
    Gone,
    /// The peer is too slow, or this was too large for any: more was pushed than `outbox_bytes` allows. Or its worker is slow: what was
    /// pushed from other threads and has not reached a connection yet would be more than `limits.memory` leaves room for. The connection is
    /// being closed, or was.
    Overflow,
}

impl fmt::Display for PushError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PushError::Gone => "the connection is gone",
            PushError::Overflow => {
                "the connection is too slow for what is pushed to it and is closed"
            }
        })
    }
}

impl std::error::Error for PushError {}

impl Handle {
    /// Names the connection.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// Whether the connection still takes bytes. It may end at any moment after this.
    pub fn is_open(&self) -> bool {
        self.shared.check().is_ok()
    }

    /// About how many bytes wait for the peer: what was pushed or replied and the kernel has not taken. Who pushes what is worth
    /// little later, such as the newest of many values, can leave some out for a peer that is behind, before it has so much to
    /// catch up with that it is closed.
    ///
    /// What the worker has sent since its last turn is still in it, and each push from another thread counts with 96 bytes more until
    /// the worker has looked at it. What the kernel holds for the peer is not in it, by default up to 4 MiB over TCP
    /// ([`send_buffer`](crate::config::SocketConfig::send_buffer) bounds it). For a connection that is gone nothing waits.
    pub fn unsent_bytes(&self) -> usize {
        self.shared.unsent()
    }

    /// Whether an answer to the ticket with this serial number would be written.
    pub(crate) fn wants_answer(&self, serial: u64, is_repeatable: bool) -> bool {
        self.shared.wants_answer(serial, is_repeatable)
    }

    /// Queues `bytes` on the connection. Shared bytes are not copied, unless they are a few hundred bytes or less.
    ///
    /// What the peer has not read yet is known to the connection's worker only. So a push that is accepted may turn out
    /// there to be one too many: then the connection is closed, and later pushes are told why.
    ///
    /// # Errors
    ///
    /// [`PushError::Gone`] if the connection has ended; [`PushError::Overflow`] if its peer does not keep up, or `bytes` alone are more
    /// than `outbox_bytes`, because of which the connection is closed.
    pub fn push(&self, bytes: impl Into<Bytes>) -> Result<(), PushError> {
        self.push_shared(&bytes.into())
    }

    /// Queues `bytes` on the connection as [`Handle::push`] does. Whoever pushes the same bytes to many connections, with
    /// one push after the other, saves a reference for each.
    ///
    /// # Errors
    ///
    /// As [`Handle::push`].
    pub fn push_shared(&self, bytes: &Bytes) -> Result<(), PushError> {
        let shared = &*self.shared;
        shared.check()?;
        // What waits already comes first: then this waits behind it.
        if !shared.waits() {
            if !shared.has_room(bytes.len()) {
                return self.after(shared.overflow_of("outbox_bytes"));
            }
            if self.post.push_here(self.id, shared, bytes) {
                shared.pushed_here(bytes.len());
                return Ok(());
            }
        }
        self.after(shared.push(bytes, self.post.is_here()))
    }

    /// Ends the connection for this reason, from any thread: a client that is to go, a device that is there a second time, a
    /// deadline that is over.
    ///
    /// It is as if its service ended it with [`Flow::Close`](crate::Flow::Close) when its worker learns of this, behind everything
    /// that was pushed before: what was accepted by then, from whichever thread, is still written, as are replies to the requests
    /// that are served meanwhile, and answers to deferred ones that were given. Those that are still owed are not given any
    /// more, without a word about them. A peer that reads nothing has
    /// `write_timeout`; one that reads slowly, as long as it takes, unless the connection is [cut](Handle::cut).
    /// [`disconnected`](crate::Service::disconnected) gets [`Close::Service`] with the reason, unless the connection ends for
    /// another one before. From now on pushes are told [`PushError::Gone`].
    ///
    /// # Errors
    ///
    /// [`PushError::Gone`] if the connection has ended, is ending, or was closed through another handle before, whose reason
    /// stays; [`PushError::Overflow`] if it is closed for that. Nothing is left to be done then, except in a restart or reload: a
    /// connection that is being handed over takes nothing any more from its handles either, and goes on in the successor. A
    /// close that was accepted before takes effect: the connection ends and is not handed over.
    pub fn close(&self, reason: impl Into<Cow<'static, str>>) -> Result<(), PushError> {
        let why = Close::Service(reason.into());
        self.shared.close(PushError::Gone, why)?;
        self.tell()
    }

    /// Ends the connection for this reason at once, from any thread: a client that is too slow to be worth waiting for.
    ///
    /// Nothing more is written, of what was queued, pushed and answered before, nor of what the kernel holds: the peer's connection is
    /// reset (a unix socket has no reset, and its peer still reads what it was sent). It is logged as a warning, and counted as `cut`.
    /// [`disconnected`](crate::Service::disconnected) gets [`Close::Cut`] with the reason, unless the connection ends for another one
    /// before. From now on pushes are told [`PushError::Gone`].
    ///
    /// A connection that is ending already, after [`Handle::close`] too, does not wait for its peer any longer then. Its own reason
    /// stays, but the log says what this one has cost, if anything was still to be written.
    ///
    /// # Errors
    ///
    /// That of a push, if the connection has ended or was cut through another handle before. Or if it is being handed over in a restart or
    /// reload: then it goes on in the successor, as with [`Handle::close`]; one that was cut before is not handed over.
    pub fn cut(&self, reason: impl Into<Cow<'static, str>>) -> Result<(), PushError> {
        self.shared.cut(Close::Cut(reason.into()))?;
        self.tell()
    }

    /// What is said of a push when the worker knows of what it has left.
    fn after(&self, pushed: Pushed) -> Result<(), PushError> {
        match pushed {
            Pushed::Left => self.tell(),
            Pushed::Overflowed => self.tell().and(Err(PushError::Overflow)),
            Pushed::Refused(error) => Err(error),
        }
    }

    /// Leaves what is no push, unless nobody comes for it any more.
    pub(crate) fn leave(&self, item: Item, is_repeatable: bool) {
        if self.shared.leave(item, is_repeatable).is_ok() {
            let _ = self.tell();
        }
    }

    /// Leaves an answer to the ticket with this serial number, if it is wanted.
    pub(crate) fn leave_wanted(
        &self,
        serial: u64,
        pieces: Pieces,
        is_repeatable: bool,
    ) -> Result<(), PushError> {
        self.shared.leave_wanted(serial, pieces, is_repeatable)?;
        self.tell_of_answer(serial)
    }

    fn tell_of_answer(&self, serial: u64) -> Result<(), PushError> {
        if self.tells() {
            return Ok(());
        }
        // The worker has ended. It may have taken the answer before, with what others had left.
        let is_left = self.shared.has_answer(serial);
        self.shared.forget();
        if is_left {
            Err(PushError::Gone)
        } else {
            Ok(())
        }
    }

    /// Tells the worker that something has been left.
    fn tell(&self) -> Result<(), PushError> {
        if self.tells() {
            return Ok(());
        }
        self.shared.forget();
        Err(PushError::Gone)
    }

    /// As [`Handle::tell`]. Returns false if the worker has ended.
    fn tells(&self) -> bool {
        if self.post.is_here() {
            // Whatever other threads have posted, it is looked at in the next turn.
            if self.shared.call() {
                self.post.call_here(self.id);
            }
            return true;
        }
        // A mail that is on its way is enough, unless the worker has failed and leaves it there.
        if !self.shared.post() && !self.post.is_over() {
            return true;
        }
        let mail = Mail::Inbox { of: self.id };
        self.post.send_behind(mail).is_ok()
    }
}

#[cfg(test)]
impl Handle {
    /// As if another thread had left bytes, and not posted this mail yet.
    pub(crate) fn begin_push(&self, bytes: &'static [u8]) -> Mail {
        let pushed = self.shared.push(&Bytes::from_static(bytes), false);
        assert_eq!(pushed, Pushed::Left);
        assert!(self.shared.post());
        Mail::Inbox { of: self.id }
    }

    /// As if another thread had ended the connection, and not posted this mail yet.
    pub(crate) fn begin_end(&self, error: PushError, why: Close) -> Mail {
        assert_eq!(self.shared.close(error, why), Ok(()));
        assert!(self.shared.post());
        Mail::Inbox { of: self.id }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({})", self.id)
    }
}
