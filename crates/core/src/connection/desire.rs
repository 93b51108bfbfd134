//! What a connection desires of its engine.

use super::{Connection, Life};

/// More undispatched input than this stops reading, even where the outbox would allow more.
const BACKLOG_BYTES_MAX: usize = 256 * 1024;

/// From this announced size on a frame is received straight into a buffer of its own.
pub(crate) const LARGE_FRAME_BYTES_MIN: usize = 64 * 1024;

/// What the engine is to do for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Desire {
    pub(crate) receive: Receive,
    /// The outbox has bytes and no send is under way.
    pub(crate) send: bool,
    pub(crate) finish: Finish,
}

/// How to receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receive {
    /// Not at all: the peer ended, or the socket failed, or it is being closed. What the kernel has by now may be taken with
    /// [`crate::shard::Shard::read_last`].
    Stop,
    /// Not now: the peer is to feel that it does not read its replies.
    Pause,
    /// Into shared buffers.
    Stream,
    /// The frame that is under way is large: straight into the connection's own buffer, see
    /// [`crate::shard::Shard::receive_large`].
    Large,
}

/// Whether to end the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finish {
    No,
    /// Everything is written: send the FIN and report it with [`crate::shard::Shard::shut`].
    Shutdown,
    /// Cancel what is under way and close.
    Close,
    /// As `Close`, but with [`crate::engine::reset`]: what the kernel has for the peer is dropped.
    Reset,
    /// Write what the kernel takes at once, cancel what is under way, and let the connection go with
    /// [`crate::shard::Shard::release`].
    Release,
}

impl Connection {
    /// What the engine is to do, as of now.
    pub(crate) fn desire(&self) -> Desire {
        let unsent = !self.outbox.is_empty();
        let send = unsent && !self.outbox.is_flying();
        let (receive, send, finish) = match self.life {
            Life::Arriving | Life::Open => (self.desired_receive(), send, Finish::No),
            Life::Ended | Life::Refused { ended: true } => (Receive::Stop, send, Finish::No),
            Life::Refused { ended: false } => (Receive::Pause, send, Finish::No),
            Life::Closing { ended, fence, .. } => {
                let finish = match ended {
                    _ if unsent || fence.is_awaited() => Finish::No,
                    true => Finish::Close,
                    false => Finish::Shutdown,
                };
                // What arrives is discarded, so that the close does not become a reset.
                let receive = match ended {
                    true => Receive::Stop,
                    false => Receive::Stream,
                };
                (receive, send, finish)
            }
            Life::Failed => (Receive::Stop, false, Finish::No),
            Life::Shut => (Receive::Stream, false, Finish::No),
            Life::Over if self.is_cut => (Receive::Stop, false, Finish::Reset),
            Life::Over => (Receive::Stop, false, Finish::Close),
        };
        Desire {
            receive,
            send,
            finish,
        }
    }

    /// Whether it takes received bytes now: it is not paused, and has not too much that waits for its turn.
    pub(crate) fn takes_input(&self) -> bool {
        self.is_read_out() && self.desired_receive() != Receive::Pause
    }

    fn desired_receive(&self) -> Receive {
        if self.is_paused() {
            return Receive::Pause;
        }
        match &self.input {
            Some(input) if input.is_backlog() && input.bytes.len() > BACKLOG_BYTES_MAX => {
                Receive::Pause
            }
            Some(input) if !input.is_backlog() && input.missing >= LARGE_FRAME_BYTES_MIN => {
                Receive::Large
            }
            _ => Receive::Stream,
        }
    }
}
