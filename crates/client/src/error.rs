//! What can go wrong with a call.

use std::fmt;
use std::io;
use std::time::Duration;

use ringhold_framer::{Error, ErrorKind, Limits};
use serde::de::DeserializeOwned;

use crate::Address;
use crate::render::{self, Plain, Rendered};

/// Why a call, or another operation of a [`Client`](crate::Client), has no result.
#[derive(Debug)]
#[non_exhaustive]
pub enum CallError {
    /// No connection was made.
    Connect {
        /// The server.
        address: Address,
        /// What the system said.
        source: io::Error,
    },
    /// The server answered with an error. The connection is as good as before.
    Remote(RemoteError),
    /// The server sent something that is not MessagePack-RPC, or that nobody asked for. The
    /// connection is closed.
    Violation {
        /// The server.
        address: Address,
        /// What was received.
        what: String,
    },
    /// The server sent more than this client takes, which need not be wrong. The connection is closed.
    Limit {
        /// The server.
        address: Address,
        /// What was exceeded.
        exceeded: Exceeded,
    },
    /// Reading or writing failed. The connection is closed.
    Io {
        /// The server.
        address: Address,
        /// What the system said.
        source: io::Error,
    },
    /// The time allowed is over. The connection stays usable; the reply is dropped if it still comes. A request or notification
    /// that was not written whole by then is written on by whatever the client does next.
    Timeout {
        /// The server.
        address: Address,
        /// The time allowed.
        after: Duration,
        /// What was waited for.
        what: &'static str,
    },
    /// The server has ended the connection in order, between two messages: everything that it sent was
    /// received. Requests may be unanswered all the same.
    Closed {
        /// The server.
        address: Address,
        /// How it came to that.
        reason: String,
    },
    /// The connection has ended otherwise: it was reset, it ended in the middle of a message, or an
    /// earlier error has closed it. What became of the last messages in either direction is not known.
    Cut {
        /// The server.
        address: Address,
        /// How it came to that.
        reason: String,
    },
    /// [`Client::finish_sending`](crate::Client::finish_sending) was called before. Nothing was sent; what was sent
    /// earlier is still answered.
    SendingEnded {
        /// The server.
        address: Address,
    },
    /// The parameters cannot be sent: they are not one msgpack array, or they have no encoding. Nothing was sent.
    Params(String),
    /// The result is not of the type that was asked for. The connection is as good as before.
    Result {
        /// What the decoder said.
        source: rmp_serde::decode::Error,
        /// The result, encoded.
        result: Vec<u8>,
    },
    /// [`Client::receive`](crate::Client::receive) was called with no request to be answered.
    NothingOutstanding,
}

impl CallError {
    /// The error that the server answered with, if it is one.
    #[must_use]
    pub fn remote(&self) -> Option<&RemoteError> {
        match self {
            Self::Remote(error) => Some(error),
            _ => None,
        }
    }

    /// Whether the connection can be used no more: a new [`Client`](crate::Client) is needed.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. }
                | Self::Violation { .. }
                | Self::Limit { .. }
                | Self::Io { .. }
                | Self::Closed { .. }
                | Self::Cut { .. }
        )
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect { address, source } => write!(f, "cannot connect to {address}: {source}"),
            Self::Remote(error) => error.fmt(f),
            Self::Violation { address, what } => {
                write!(
                    f,
                    "{address} does not follow the protocol: received {what}; the connection is closed"
                )
            }
            Self::Limit { address, exceeded } => {
                write!(f, "{address} sent {exceeded}; the connection is closed")
            }
            Self::Io { address, source } => {
                write!(f, "the connection to {address} failed: {source}")
            }
            Self::Timeout {
                address,
                after,
                what,
            } => {
                write!(f, "{address}: no {what} within {after:?}")
            }
            Self::Closed { address, reason } | Self::Cut { address, reason } => {
                write!(f, "the connection to {address} is closed: {reason}")
            }
            Self::SendingEnded { address } => {
                write!(
                    f,
                    "nothing more can be sent to {address}: this client has ended its sending side"
                )
            }
            Self::Params(why) => write!(f, "the parameters cannot be sent: {why}"),
            Self::Result { source, result } => {
                write!(
                    f,
                    "the result is of another type ({source}): {}",
                    Rendered(result)
                )
            }
            Self::NothingOutstanding => f.write_str("no request is waiting for a reply"),
        }
    }
}

impl std::error::Error for CallError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect { source, .. } | Self::Io { source, .. } => Some(source),
            Self::Remote(error) => Some(error),
            Self::Result { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl From<RemoteError> for CallError {
    fn from(error: RemoteError) -> Self {
        Self::Remote(error)
    }
}

/// A limit of this client that a server has exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exceeded {
    /// [`Limits::frame_bytes`], by a frame.
    FrameBytes(u32),
    /// [`Limits::depth`], by the nesting of a frame.
    Depth(u16),
    /// [`Options::queue_bytes`](crate::Options::queue_bytes), by messages that nobody took.
    QueueBytes(usize),
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FrameBytes(limit) => {
                write!(
                    f,
                    "a frame that exceeds this client's limit of {limit} bytes"
                )
            }
            Self::Depth(limit) => {
                write!(
                    f,
                    "a frame that exceeds this client's limit of {limit} levels of nesting"
                )
            }
            Self::QueueBytes(limit) => {
                write!(
                    f,
                    "messages that nobody took and that exceed this client's limit of {limit} bytes"
                )
            }
        }
    }
}

/// What was wrong with something received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It does not follow the protocol.
    Violation(String),
    /// It is more than the client takes.
    Limit(Exceeded),
}

impl Refused {
    /// For bytes that a framer with these limits refused.
    pub(crate) fn frame(error: Error, limits: &Limits) -> Self {
        match error.kind() {
            ErrorKind::TooLarge => Self::Limit(Exceeded::FrameBytes(limits.frame_bytes)),
            ErrorKind::TooDeep => Self::Limit(Exceeded::Depth(limits.depth)),
            _ => Self::Violation(error.to_string()),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Violation(what) => f.write_str(what),
            Self::Limit(exceeded) => exceeded.fmt(f),
        }
    }
}

/// The error value of a response. The protocol allows any msgpack value except nil; a str is usual.
#[derive(Clone, PartialEq, Eq)]
pub struct RemoteError {
    value: Vec<u8>,
}

impl RemoteError {
    pub(crate) fn new(value: &[u8]) -> Self {
        Self {
            value: value.to_vec(),
        }
    }

    /// The value, encoded.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    /// The value, if it is a str and valid UTF-8.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        render::as_str(&self.value)
    }

    /// The text with which a ringhold server gives up a reply that it has promised, when it stops or restarts:
    /// `ringhold_core::Abandoned::STOPPING`. It does not change.
    pub const STOPPING: &str =
        "the server is stopping or restarting and could not wait for the answer";

    /// Whether nothing else is wrong than that the server is stopping or restarting, and could not wait any longer for the
    /// answer to a call that it had taken. Whether that was done nobody knows. After a restart the connection is as good as before.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.as_str() == Some(Self::STOPPING)
    }

    /// Decodes the value.
    ///
    /// # Errors
    /// The value is of another type.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, rmp_serde::decode::Error> {
        rmp_serde::from_slice(&self.value)
    }
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_str() {
            Some(text) => write!(f, "the server answered with an error: {}", Plain(text)),
            None => write!(
                f,
                "the server answered with an error: {}",
                Rendered(&self.value)
            ),
        }
    }
}

impl fmt::Debug for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteError({})", Rendered(&self.value))
    }
}

impl std::error::Error for RemoteError {}
