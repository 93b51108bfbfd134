//! Notifications from the server to its clients.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use ringhold_core::{ConnectionId, Handle, PushError};
use rmp::Marker;
use serde::Serialize;

use crate::answer::serialize;
use crate::strings::{Strings, to_old_raw};

/// Room for so many bytes is made at once, since a notification that grows bit by bit is moved again and again.
const USUAL_BYTES: usize = 256;

/// Sends notifications to one connection, from any thread.
///
/// They arrive in the order in which they are sent, by one thread, or by several of which one does it before the other: who sends under a
/// lock is seen by all in that order. They come behind the replies of calls that came before. Replies to later
/// requests can overtake them: what a handler sends is delivered when the requests that were received together with its
/// own are answered. A client that does not keep up loses its connection rather than some of its notifications.
#[derive(Clone)]
pub struct Notifier {
    handle: Handle,
    strings: Strings,
    /// Tells the session that somebody may still send, unless data that it keeps says so.
    _subscription: Option<Arc<()>>,
}

impl Notifier {
    pub(crate) fn new(handle: Handle, subscription: Arc<()>, strings: Strings) -> Self {
        Notifier {
            handle,
            strings,
            _subscription: Some(subscription),
        }
    }

    /// For what data of the session stands for.
    pub(crate) fn of_subscription(handle: Handle, strings: Strings) -> Self {
        Notifier {
            handle,
            strings,
            _subscription: None,
        }
    }

    /// Sends `[2, method, params]`. How values become parameters is described at [`Notification::new`].
    ///
    /// # Errors
    ///
    /// As [`Notifier::send`], and [`NotifyError::Encode`] if the parameters cannot be serialized.
    pub fn notify<T: Serialize + ?Sized>(
        &self,
        method: &str,
        params: &T,
    ) -> Result<(), NotifyError> {
        self.send(&Notification::new(method, params)?)
    }

    /// Sends a notification that was encoded before, for example once for all subscribers. It is not copied, unless it is
    /// a few hundred bytes or less.
    ///
    /// # Errors
    ///
    /// [`NotifyError::Push`] if the connection has ended, or if its peer does not keep up, or this one alone is larger than `outbox_bytes`,
    /// and the connection is closed for that. [`NotifyError::Encode`] if the clients of the service read old msgpack and the parameters contain an extension
    /// type.
    pub fn send(&self, notification: &Notification) -> Result<(), NotifyError> {
        let bytes = notification.bytes_for(self.strings)?;
        self.handle.push_shared(bytes).map_err(NotifyError::Push)
    }

    /// Ends the connection for this reason, from any thread, as [`Handle::close`] does: what was sent before is still
    /// written, and so are the replies to calls that are served meanwhile.
    ///
    /// # Errors
    ///
    /// As [`Handle::close`].
    pub fn close(&self, reason: impl Into<Cow<'static, str>>) -> Result<(), PushError> {
        self.handle.close(reason)
    }

    /// Ends the connection for this reason at once, from any thread, as [`Handle::cut`] does: what waits for the client is not
    /// written.
    ///
    /// # Errors
    ///
    /// As [`Handle::cut`].
    pub fn cut(&self, reason: impl Into<Cow<'static, str>>) -> Result<(), PushError> {
        self.handle.cut(reason)
    }

    /// Whether the connection still takes notifications. It may end at any moment after this.
    pub fn is_open(&self) -> bool {
        self.handle.is_open()
    }

    /// About how many bytes wait for the client in this process, as [`Handle::unsent_bytes`] has it. Who sends what is worth little later,
    /// such as the newest of many values, can leave some out for a client that is behind.
    ///
    /// What the kernel has taken is not in it, so a client may be late by all that the kernel holds while nothing waits here: up to 4 MiB
    /// over TCP (`net.ipv4.tcp_wmem`), unless `send_buffer` of its socket bounds that.
    pub fn unsent_bytes(&self) -> usize {
        self.handle.unsent_bytes()
    }

    /// Names the connection.
    pub fn connection(&self) -> ConnectionId {
        self.handle.id()
    }
}

impl fmt::Debug for Notifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Notifier({})", self.connection())
    }
}

/// An encoded notification. Clones share its bytes.
#[derive(Clone, Debug)]
pub struct Notification {
    current: Bytes,
    /// The same for clients that read old msgpack, made when one of them needs it.
    old_raw: OnceLock<Result<Bytes, &'static str>>,
}

impl Notification {
    /// Encodes `[2, method, params]`.
    ///
    /// A tuple or list is the parameters, and any other value is the only parameter, with one exception: what is nil, as
    /// `()` and `None` are, means that there are no parameters. One parameter that is nil is `(None::<T>,)`. Structs are
    /// maps. Binary data is `Bytes` or a `ByteBuf` of serde_bytes; a `Vec<u8>` is a list of numbers.
    ///
    /// # Errors
    ///
    /// [`NotifyError::Encode`] if the parameters cannot be serialized.
    pub fn new<T: Serialize + ?Sized>(method: &str, params: &T) -> Result<Self, NotifyError> {
        let mut out = Vec::with_capacity(USUAL_BYTES);
        out.extend_from_slice(&[Marker::FixArray(3).to_u8(), 2]);
        // Writing to a vector cannot fail.
        let _ = rmp::encode::write_str(&mut out, method);
        let start = out.len();
        serialize(&mut out, params).map_err(|error| NotifyError::Encode(error.to_string()))?;
        match out.get(start).map(|byte| Marker::from_u8(*byte)) {
            Some(Marker::FixArray(_) | Marker::Array16 | Marker::Array32) => {}
            Some(Marker::Null) | None => {
                out.truncate(start);
                out.push(Marker::FixArray(0).to_u8());
            }
            Some(_) => out.insert(start, Marker::FixArray(1).to_u8()),
        }
        Ok(Notification {
            current: out.into(),
            old_raw: OnceLock::new(),
        })
    }

    /// The bytes of the notification, in today's msgpack.
    pub fn bytes(&self) -> &Bytes {
        &self.current
    }

    fn bytes_for(&self, strings: Strings) -> Result<&Bytes, NotifyError> {
        match strings {
            Strings::Current => Ok(&self.current),
            Strings::OldRaw => self
                .old_raw
                .get_or_init(|| to_old_raw(&self.current).map(Bytes::from))
                .as_ref()
                .map_err(|why| NotifyError::Encode((*why).to_owned())),
        }
    }
}

/// A notification was not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotifyError {
    /// The parameters cannot be encoded.
    Encode(String),
    /// The connection takes no more.
    Push(PushError),
}

impl fmt::Display for NotifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotifyError::Encode(why) => write!(f, "the notification cannot be encoded: {why}"),
            NotifyError::Push(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for NotifyError {}
