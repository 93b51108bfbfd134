//! What became of the clients of one run.

use ringhold_core::Close;
use ringhold_core::metrics::{NameTotals, Snapshot};
use ringhold_framer::{Framer, Limits, Progress};

use super::actor::{Observed, lane};
use super::script::socket_name;

/// What became of one client, as far as it can be compared.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Bytes that it has sent.
    pub(crate) sent: usize,
    pub(crate) received: Vec<u8>,
    /// How the connection ended for it; `None` if it left before.
    pub(crate) end: Option<End>,
    /// Whether the connection was open when the server was told to stop.
    pub(crate) stays: bool,
    /// Bytes that the server had received by then, at least.
    pub(crate) taken: u64,
    pub(crate) seen: Observed,
    /// The counters of the socket name that is only for this client.
    pub(crate) counters: NameTotals,
}

/// What a client sees of a connection's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The server's FIN, behind everything else.
    Fin,
    /// A reset, or some other end that may have cost something.
    Reset,
}

/// Why a connection ended, without what a kernel says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Finished,
    Truncated,
    Failed,
    /// With what the framer says.
    Framing(String),
    TopLevel(u8),
    Refused,
    Asked,
    Panicked,
    Overflow,
    Memory,
    Idle,
    FrameTimeout,
    WriteTimeout,
    Stopping,
    Other(String),
}

impl From<&Close> for Reason {
    fn from(why: &Close) -> Self {
        match why {
            Close::Finished => Reason::Finished,
            Close::Truncated => Reason::Truncated,
            Close::Failed(_) => Reason::Failed,
            Close::Framing(error) => Reason::Framing(error.to_string()),
            Close::TopLevel(byte) => Reason::TopLevel(*byte),
            Close::Refused(_) => Reason::Refused,
            Close::Service(_) => Reason::Asked,
            Close::Panicked => Reason::Panicked,
            Close::Overflow(_) => Reason::Overflow,
            Close::Memory => Reason::Memory,
            Close::Idle => Reason::Idle,
            Close::FrameTimeout => Reason::FrameTimeout,
            Close::WriteTimeout | Close::Untaken => Reason::WriteTimeout,
            Close::Stopping => Reason::Stopping,
            other => Reason::Other(other.to_string()),
        }
    }
}

impl Reason {
    /// The counters of reasons after a connection has ended for this one.
    pub(crate) fn counters(&self) -> NameTotals {
        let mut counters = NameTotals::default();
        match self {
            Reason::Finished | Reason::Stopping | Reason::Other(_) => {}
            Reason::Refused => counters.refused = 1,
            Reason::Asked => counters.ended_by_service = 1,
            Reason::Truncated | Reason::Framing(_) | Reason::TopLevel(_) => {
                counters.bad_input = 1;
            }
            Reason::Failed => counters.failed = 1,
            Reason::Panicked => counters.panics = 1,
            Reason::Overflow | Reason::Memory => counters.cut = 1,
            Reason::Idle | Reason::FrameTimeout | Reason::WriteTimeout => counters.timed_out = 1,
        }
        counters
    }
}

/// The counters of the socket name of this client.
pub(crate) fn counters_of(snapshot: &Snapshot, client: usize) -> NameTotals {
    snapshot.name(&socket_name(client)).unwrap()
}

/// Whether what the client sends is of no use any more.
pub(crate) fn is_refused(counters: &NameTotals) -> bool {
    counters.bad_input + counters.timed_out > 0
}

/// What a client was sent, message by message.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    pub(crate) replies: Vec<Vec<u8>>,
    /// Answers to tickets, and apologies.
    pub(crate) deferred: Vec<Vec<u8>>,
    pub(crate) pushes: Vec<Vec<u8>>,
    /// The beginning of a message that did not arrive as a whole.
    pub(crate) rest: Vec<u8>,
}

impl Lanes {
    /// # Errors
    ///
    /// Something that no service sends.
    pub(crate) fn of(received: &[u8]) -> Result<Self, String> {
        let mut lanes = Lanes::default();
        let mut framer = Framer::new(Limits {
            frame_bytes: u32::MAX,
            // A reply is an array around a frame.
            depth: 1000,
        });
        let mut rest = received;
        while !rest.is_empty() {
            let at = received.len() - rest.len();
            let used = match framer.feed(rest) {
                Ok(Progress::Complete { used }) => used,
                Ok(Progress::More { .. }) => break,
                Err(error) => return Err(format!("at {at}: {error}")),
            };
            let (message, behind) = rest.split_at(used);
            let lane = match message {
                [0x92, lane::REPLY, ..] => &mut lanes.replies,
                [0x92, lane::ANSWER | lane::APOLOGY, ..] => &mut lanes.deferred,
                [0x92, lane::PUSH, ..] => &mut lanes.pushes,
                _ => return Err(format!("at {at}: no message of the service")),
            };
            lane.push(message.to_vec());
            rest = behind;
        }
        lanes.rest = rest.to_vec();
        Ok(lanes)
    }
}
