//! The service under the connections: it sends every frame back, marked, and does what some of them ask for.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use ringhold_core::{
    Abandoned, Close, Ended, Flow, Frame, Handle, Peer, Refusal, Reply, Responder, Service, Ticket,
};

/// Why connections are closed through their handles.
pub(crate) const KICKED: &str = "kicked";

/// Everything that is sent to a client is an array of two; this is the first element.
pub(crate) mod mark {
    pub(crate) const REPLY: u8 = 1;
    pub(crate) const PUSHED: u8 = 2;
    pub(crate) const ANSWERED: u8 = 3;
    pub(crate) const APOLOGY: u8 = 4;
    pub(crate) const PUSHED_BY_SERVICE: u8 = 5;
}

/// What a frame asks for: the second byte of an array that is not empty. Every other frame asks for a reply only.
pub(crate) mod verb {
    /// `[DEFER, n]`: ticket n, and no reply.
    pub(crate) const DEFER: u8 = 0x71;
    /// `[FILL, n]`: a reply of n times 128 bytes.
    pub(crate) const FILL: u8 = 0x72;
    /// A reply, and the end.
    pub(crate) const CLOSE: u8 = 0x73;
    /// A reply, half of another one, and a panic.
    pub(crate) const PANIC: u8 = 0x74;
    /// A push to the own connection, and a reply.
    pub(crate) const PUSH: u8 = 0x75;
    /// A reply, and that the frame is kept.
    pub(crate) const KEEP: u8 = 0x76;
    /// A reply of shared bytes.
    pub(crate) const SHARE: u8 = 0x77;

    pub(crate) fn of(frame: &[u8]) -> Option<u8> {
        match frame {
            [0x91..=0x9f, verb, ..] => Some(*verb),
            _ => None,
        }
    }

    /// The byte behind the verb.
    pub(crate) fn argument(frame: &[u8]) -> u8 {
        frame.get(2).copied().unwrap_or(0)
    }

    pub(crate) fn is_last(frame: &[u8]) -> bool {
        matches!(of(frame), Some(CLOSE | PANIC))
    }

    pub(crate) fn is_deferred(frame: &[u8]) -> bool {
        of(frame) == Some(DEFER)
    }
}

/// The reply to a frame that is not deferred.
pub(crate) fn reply_to(frame: &[u8]) -> Vec<u8> {
    let mut reply = vec![0x92, mark::REPLY];
    if verb::of(frame) == Some(verb::FILL) {
        let number = verb::argument(frame);
        let length = u16::from(number) * 128;
        reply.push(0xc5);
        reply.extend(length.to_be_bytes());
        reply.resize(reply.len() + usize::from(length), number);
    } else {
        reply.extend_from_slice(frame);
    }
    reply
}

/// A frame to a client that is unique by its number.
pub(crate) fn marked(mark: u8, number: usize, length: usize) -> Vec<u8> {
    let mut frame = vec![0x92, mark, 0x92, 0xce];
    frame.extend((number as u32).to_be_bytes());
    frame.push(0xc5);
    frame.extend((length as u16).to_be_bytes());
    frame.resize(frame.len() + length, number as u8);
    frame
}

/// Why a connection ended, as far as it matters for what its client may expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Finished,
    BadInput,
    Asked,
    /// Through a handle.
    Kicked,
    Panicked,
    Stopping,
    Failed,
    Cut,
    TimedOut,
}

/// What the service has seen and holds.
#[derive(Default)]
pub(crate) struct Seen {
    /// By connection.
    pub(crate) sessions: Vec<Observed>,
    pub(crate) handles: Vec<Handle>,
    pub(crate) kept: Vec<Bytes>,
    /// With the number of their connection.
    pub(crate) responders: Vec<(usize, Responder)>,
    pub(crate) abandoned: u64,
}

pub(crate) struct Observed {
    pub(crate) frames: Vec<Vec<u8>>,
    /// Replies that were written.
    pub(crate) replies: usize,
    /// For each push by the service: how many replies there were before it.
    pub(crate) own_pushes: Vec<usize>,
    pub(crate) end: Option<End>,
}

pub(crate) struct Marking(pub(crate) Rc<RefCell<Seen>>);

impl Service for Marking {
    /// The number of the connection, counted from 0.
    type Session = usize;

    fn connected(&mut self, peer: &Peer<'_>, _: &mut Reply<'_>) -> Result<usize, Refusal> {
        let mut seen = self.0.borrow_mut();
        seen.handles.push(peer.handle());
        seen.sessions.push(Observed {
            frames: Vec::new(),
            replies: 0,
            own_pushes: Vec::new(),
            end: None,
        });
        Ok(seen.sessions.len() - 1)
    }

    fn frame(&mut self, number: &mut usize, frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        let mut seen = self.0.borrow_mut();
        let seen = &mut *seen;
        let session = &mut seen.sessions[*number];
        session.frames.push(frame.to_vec());
        let verb = verb::of(&frame);
        if verb == Some(verb::DEFER) {
            let responder = reply.defer(Ticket(u64::from(verb::argument(&frame))));
            seen.responders.push((*number, responder));
            return Flow::Continue;
        }
        if verb == Some(verb::PUSH) {
            let count = session.own_pushes.len();
            let bytes = marked(mark::PUSHED_BY_SERVICE, count, 8);
            if reply.handle().push(bytes).is_ok() {
                session.own_pushes.push(session.replies);
            }
        }
        session.replies += 1;
        if verb == Some(verb::SHARE) {
            reply.write(|out| out.extend_from_slice(&[0x92, mark::REPLY]));
            reply.share(frame.to_bytes());
        } else {
            reply.write(|out| out.extend_from_slice(&reply_to(&frame)));
        }
        match verb {
            Some(verb::CLOSE) => return Flow::close("asked to"),
            Some(verb::PANIC) => reply.write(|out| {
                out.extend_from_slice(b"half");
                panic!("on purpose");
            }),
            Some(verb::KEEP) => seen.kept.push(frame.to_bytes()),
            _ => {}
        }
        Flow::Continue
    }

    fn abandoned(
        &mut self,
        _: &mut usize,
        ticket: Ticket,
        _: Abandoned,
        reply: &mut Reply<'_>,
    ) -> Flow {
        self.0.borrow_mut().abandoned += 1;
        let apology = [0x92, mark::APOLOGY, 0xcc, ticket.0 as u8];
        reply.write(|out| out.extend_from_slice(&apology));
        Flow::Continue
    }

    fn disconnected(&mut self, number: usize, ended: &Ended<'_>) {
        let end = match ended.why() {
            Close::Finished => End::Finished,
            Close::Truncated | Close::Framing(_) => End::BadInput,
            Close::Service(reason) if reason == KICKED => End::Kicked,
            Close::Service(_) => End::Asked,
            Close::Panicked => End::Panicked,
            Close::Stopping => End::Stopping,
            Close::Failed(_) => End::Failed,
            Close::Overflow(_) | Close::Memory => End::Cut,
            Close::Idle | Close::FrameTimeout | Close::WriteTimeout | Close::Untaken => {
                End::TimedOut
            }
            other => unreachable!("{other}"),
        };
        let before = self.0.borrow_mut().sessions[number].end.replace(end);
        assert_eq!(before, None, "a session ends once");
    }
}
