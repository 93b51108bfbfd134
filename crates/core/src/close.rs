//! Why a connection ends.

use std::borrow::Cow;
use std::fmt;
use std::io;

use ringhold_framer as framer;

use crate::peer::{ConnectionId, Peer};

/// Why a connection ended, or is about to.
///
/// Replies that were queued before the reason arose are still written, except where the peer is known not to read
/// any more (see [`Close::flushes`]), and deferred ones waited for, where it is only what the peer sent that is of no use
/// ([`Flow::Reject`](crate::Flow::Reject)). Should the peer turn out not to take them within a limit, or to reset the connection before,
/// that is counted and logged, too, and is the reason in place of [`Close::Finished`]; any other stays.
#[derive(Debug)]
#[non_exhaustive]
pub enum Close {
    /// The peer ended its side after a whole frame, and everything it asked for was answered.
    Finished,
    /// The peer ended its side in the middle of a frame.
    Truncated,
    /// The connection did not begin with a PROXY protocol header, which `proxy_protocol` of its socket demands. No service
    /// was told of it.
    ProxyHeader(&'static str),
    /// Such a header was not complete within `frame_timeout`.
    ProxyTimeout,
    /// The client, as such a header said, had as many connections as `connections_per_client` of the socket allows. No service was
    /// told of it.
    Crowded,
    /// The socket failed: reset by the peer, timed out, or anything else that the kernel reports. What had been received before,
    /// by the kernel too, was given to the service.
    Failed(io::Error),
    /// The input is not msgpack within the limits.
    Framing(framer::Error),
    /// A frame began with a byte whose type the service does not take.
    TopLevel(u8),
    /// The service refused the connection when it was made.
    Refused(Cow<'static, str>),
    /// The service asked for the end, after a frame or through a [`Handle`](crate::Handle), with its reason.
    Service(Cow<'static, str>),
    /// The service cannot use what the peer sent, with its reason.
    Rejected(Cow<'static, str>),
    /// The service asked for the end because a deferred reply will not come, with its reason.
    Abandoned(Cow<'static, str>),
    /// The service could not go on with the session that the predecessor handed over.
    Unrestored(Cow<'static, str>),
    /// The service panicked while it handled this connection.
    Panicked,
    /// Others pushed more bytes to the connection than this key allows: `outbox_bytes`, or `limits.memory` for what has not
    /// reached its worker yet.
    Overflow(&'static str),
    /// Nothing was received, sent or waited for within `idle_timeout`, of its socket or else of `limits`.
    Idle,
    /// A frame that had begun was not complete within `frame_timeout`.
    FrameTimeout,
    /// The peer took nothing of what was queued for it for `write_timeout`.
    WriteTimeout,
    /// The connection was being closed for what the peer sent, or for another reason than that all was said, and the peer had not taken
    /// all of the output that was left within `reply_timeout`, however steadily it read. It is never the reason of a whole connection.
    ReplyTimeout,
    /// The service let go of the peer at once, through [`Handle::cut`](crate::Handle::cut), with its reason.
    Cut(Cow<'static, str>),
    /// The server stops, or hands over, and did not wait longer for the peer to take what was queued for it.
    Untaken,
    /// The server stops, or hands over, and waited no longer for its service, which had no time for all that had arrived.
    Unserved,
    /// The process held more than `limits.memory`, and this connection held most of it.
    Memory,
    /// The server stops.
    Stopping,
    /// The server lets go of the connection so that a successor goes on with it: for the peer nothing ends.
    HandedOver,
}

impl Close {
    /// Whether what is still queued for the peer is worth writing.
    pub fn flushes(&self) -> bool {
        !matches!(
            self,
            Close::Failed(_)
                | Close::Crowded
                | Close::WriteTimeout
                | Close::ReplyTimeout
                | Close::Untaken
                | Close::Overflow(_)
                | Close::Cut(_)
                | Close::Memory
        )
    }

    /// Whether it is only what the peer sent last: what it asked for before is as good as before, and answered.
    pub(crate) fn is_for_input(&self) -> bool {
        matches!(
            self,
            Close::Framing(_) | Close::TopLevel(_) | Close::Rejected(_) | Close::FrameTimeout
        )
    }

    /// Whether it is a reset that ends the connection, where `unsent` says whether there is output that is not written: the peer
    /// did not take it, or cannot be sent it, nor what the kernel holds for it, up to `net.ipv4.tcp_wmem`, which that would keep for
    /// minutes and beyond the end of this process. And it is not to take what it got for all that there was. In a stop it is the server
    /// that has no more time: there the kernel delivers what it has.
    pub(crate) fn cuts(&self, unsent: bool) -> bool {
        match self {
            // A socket fails for want of memory, too.
            Close::WriteTimeout | Close::ReplyTimeout | Close::Failed(_) => unsent,
            // What was pushed, or the peer's own frame, is lost though nothing waits here. And a service that cuts knows of what the kernel
            // holds.
            Close::Overflow(_) | Close::Memory | Close::Cut(_) => true,
            _ => false,
        }
    }

    /// Whether the peer or the service had said all that it wanted to. What is still queued is then an answer like any other,
    /// and may take as long.
    pub(crate) fn is_by_agreement(&self) -> bool {
        matches!(self, Close::Finished | Close::Service(_))
    }

    /// Whether this is how connections ordinarily end.
    pub fn is_orderly(&self) -> bool {
        matches!(self, Close::Finished | Close::Stopping | Close::HandedOver)
    }
}

impl fmt::Display for Close {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Close::Finished => f.write_str("the peer ended the connection"),
            Close::Truncated => {
                f.write_str("the peer ended the connection in the middle of a frame")
            }
            Close::ProxyHeader(wrong) => write!(
                f,
                "it is expected to begin with a PROXY protocol header, {wrong}; see proxy_protocol of the socket"
            ),
            Close::ProxyTimeout => f.write_str(
                "it is expected to begin with a PROXY protocol header, which was not complete within \
                 frame_timeout; see proxy_protocol of the socket",
            ),
            Close::Crowded => f.write_str(
                "its client has as many others as connections_per_client of the socket allows",
            ),
            Close::Failed(error) => write!(f, "the socket failed: {error}"),
            Close::Framing(error) => {
                write!(f, "the input is not acceptable msgpack: {error}")?;
                f.write_str(match error.kind() {
                    framer::ErrorKind::TooLarge => "; see frame_bytes",
                    framer::ErrorKind::TooDeep => "; see limits.depth",
                    _ => "",
                })
            }
            Close::TopLevel(byte) => {
                write!(
                    f,
                    "a frame began with byte {byte:#04x}, a type that this service does not take"
                )
            }
            Close::Refused(reason) => write!(f, "the service refused the connection: {reason}"),
            Close::Service(reason) | Close::Abandoned(reason) => {
                write!(f, "the service ended the connection: {reason}")
            }
            Close::Rejected(reason) => write!(f, "the service rejects the input: {reason}"),
            Close::Unrestored(reason) => {
                write!(f, "its session cannot be restored: {reason}")
            }
            Close::Panicked => f.write_str("the service panicked"),
            Close::Overflow(limit) => {
                write!(f, "more was pushed to the connection than {limit} allows")
            }
            Close::Cut(reason) => write!(f, "the service cut the connection: {reason}"),
            Close::Idle => f.write_str("nothing was received or sent for idle_timeout"),
            Close::FrameTimeout => {
                f.write_str("a frame was not complete within frame_timeout")
            }
            Close::WriteTimeout => f.write_str("the peer took nothing for write_timeout"),
            Close::ReplyTimeout => {
                f.write_str("the peer had not taken all of it within reply_timeout")
            }
            Close::Untaken => {
                f.write_str("the server ended and waited no longer for the peer to take it")
            }
            Close::Unserved => f.write_str(
                "the server ended and waited no longer for its service, which had no time for all that had arrived",
            ),
            Close::Memory => {
                f.write_str("limits.memory was exceeded and this connection held most")
            }
            Close::Stopping => f.write_str("the server stops"),
            Close::HandedOver => f.write_str("a successor goes on with the connection"),
        }
    }
}

/// A connection that this process has no more: see [`Service::disconnected`](crate::Service::disconnected).
pub struct Ended<'a> {
    pub(crate) connection: ConnectionId,
    pub(crate) socket_name: &'a str,
    pub(crate) why: &'a Close,
}

impl<'a> Ended<'a> {
    /// For a service that tells others of ends, and ends what it has begun for this peer without a session, as in
    /// [`Service::restore`](crate::Service::restore).
    pub fn new(peer: &Peer<'a>, why: &'a Close) -> Self {
        Ended {
            connection: peer.id(),
            socket_name: peer.socket_name(),
            why,
        }
    }

    /// Names the connection, as it did while there was one.
    pub fn connection(&self) -> ConnectionId {
        self.connection
    }

    /// The name of the socket that the connection was accepted on.
    pub fn socket_name(&self) -> &str {
        self.socket_name
    }

    /// Why it has ended; [`Close::HandedOver`] if a successor goes on with it.
    pub fn why(&self) -> &Close {
        self.why
    }
}

impl fmt::Debug for Ended<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ended {
            connection,
            socket_name,
            why,
        } = self;
        write!(f, "Ended({connection}, {socket_name:?}, {why})")
    }
}

#[cfg(test)]
mod tests {
    use ringhold_framer::{Framer, Limits};

    use super::*;

    #[test]
    fn a_limit_is_named_by_its_key() {
        let limits = Limits {
            frame_bytes: 8,
            depth: 1,
        };
        let text = |input: &[u8]| {
            let error = Framer::new(limits).feed(input).unwrap_err();
            Close::Framing(error).to_string()
        };
        assert!(text(b"\xc4\x09").ends_with("; see frame_bytes"));
        assert!(text(b"\x91\x91").ends_with("; see limits.depth"));
        assert!(text(b"\xc1").ends_with("(at byte 0 of the frame)"));
    }
}
