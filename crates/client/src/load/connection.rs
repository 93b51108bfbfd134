//! One connection of a load.

use std::io;

use mio::Token;
use mio::event::Event;
use ringhold_framer::Parked;

use super::context::Context;
use super::ending::Gone;
use super::payload::mix;
use super::plan::Mode;
use super::transfer::OUT_HIGH;
use super::window::Window;
use crate::stream::{Stream, is_exhausted};

/// The pause after a failed attempt to connect, and after one that this machine could not make.
const RETRY: u64 = 20_000_000;
const RETRY_LOCAL: u64 = 2_000_000;

/// A connection of a load, through all its reopenings.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(super) index: usize,
    pub(super) short_lived: bool,
    pub(super) state: State,
    pub(super) stream: Option<Stream>,
    /// Differs from that of every other connection and every other opening of this one.
    pub(super) salt: u64,
    pub(super) window: Window,
    /// The requests that it may still make.
    pub(super) left: u64,
    pub(super) out: Vec<u8>,
    pub(super) written: usize,
    pub(super) writable: bool,
    /// The beginning of a frame that is not whole yet, and how far the framer got in it.
    pub(super) partial: Vec<u8>,
    pub(super) parked: Option<Parked>,
    /// Since when the next reply is waited for.
    pub(super) waiting_since: u64,
    /// The number that the next notification should have.
    pub(super) sequence: Option<u64>,
    /// Whether it is in `Context::attention`.
    listed: bool,
    /// Whether it is in `Context::ready`.
    queued: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// To be opened at a time; tried in vain since a time.
    Waiting {
        since: u64,
        at: u64,
    },
    /// The system is connecting.
    Connecting {
        since: u64,
    },
    Open,
    /// The sending side is closed, the server's end of stream is waited for.
    Finishing {
        since: u64,
    },
    /// For good.
    Closed,
}

impl Connection {
    pub(crate) fn new(index: usize, short_lived: bool, window: u32, salt: u64) -> Self {
        Self {
            index,
            short_lived,
            state: State::Closed,
            stream: None,
            salt,
            window: Window::new(window),
            left: 0,
            out: Vec::new(),
            written: 0,
            writable: false,
            partial: Vec::new(),
            parked: None,
            waiting_since: 0,
            sequence: None,
            listed: false,
            queued: false,
        }
    }

    /// Takes over a connection that stands.
    pub(crate) fn adopt(
        &mut self,
        mut stream: Stream,
        context: &mut Context<'_>,
    ) -> io::Result<()> {
        stream.register(&context.registry, Token(self.index))?;
        self.stream = Some(stream);
        self.opened(context);
        Ok(())
    }

    /// Opens the connection as soon as timers are looked at.
    pub(crate) fn open_soon(&mut self, context: &mut Context<'_>) {
        self.state = State::Waiting {
            since: context.now,
            at: context.now,
        };
        self.list(context);
    }

    /// Whether it can take one more message of an open loop.
    pub(crate) fn has_room(&self, context: &Context<'_>) -> bool {
        self.state == State::Open
            && self.left > 0
            && self.pending() < OUT_HIGH
            && (context.plan.mode != Mode::Call || self.window.outstanding() < context.plan.depth)
    }

    /// Puts one message together, without writing it. Whether nothing else waited to be written.
    pub(crate) fn append(&mut self, context: &mut Context<'_>, since: u64) -> bool {
        let first = self.pending() == 0;
        let id = if context.plan.mode == Mode::Call {
            if self.window.outstanding() == 0 {
                self.waiting_since = context.now;
            }
            self.window.open(since)
        } else {
            context.counts.sent as u32
        };
        context.template.append(&mut self.out, id, self.salt);
        self.left -= 1;
        context.allowance -= 1;
        context.counts.sent += 1;
        first
    }

    /// Does what readiness allows.
    pub(crate) fn event(&mut self, event: &Event, context: &mut Context<'_>) {
        let closed = event.is_read_closed() || event.is_error();
        if let State::Connecting { .. } = self.state {
            self.connected(context);
        }
        if event.is_writable() || closed {
            self.writable = true;
        }
        if matches!(self.state, State::Open | State::Finishing { .. }) {
            self.work(context, event.is_readable() || closed, closed);
        }
    }

    /// Goes on with what was put off.
    pub(crate) fn resume(&mut self, context: &mut Context<'_>) {
        self.queued = false;
        if matches!(self.state, State::Open | State::Finishing { .. }) {
            self.work(context, true, true);
        }
    }

    /// Does what time allows. Whether it still needs looking after.
    pub(crate) fn timer(&mut self, context: &mut Context<'_>) -> bool {
        let timeout = context.plan.connect_timeout.as_nanos() as u64;
        match self.state {
            State::Waiting { .. } | State::Connecting { .. } if context.ending => self.end(context),
            State::Waiting { since, at } if at <= context.now => self.connect(context, since),
            State::Connecting { since } if context.seen_for(since) > timeout => {
                self.connect_failed(context, &io::ErrorKind::TimedOut.into());
            }
            State::Finishing { since } if context.seen_for(since) > self.patience(context) => {
                self.over(context, Gone::Left);
            }
            _ => {}
        }
        self.listed = matches!(
            self.state,
            State::Waiting { .. } | State::Connecting { .. } | State::Finishing { .. }
        );
        self.listed
    }

    /// Writes what waits and, in a closed loop, what more the pipeline takes.
    pub(crate) fn pump(&mut self, context: &mut Context<'_>) {
        if let Err(gone) = self.try_pump(context) {
            self.over(context, gone);
        }
    }

    /// Whether anything that was put together waits to be written or to be answered.
    pub(crate) fn is_waiting(&self) -> bool {
        self.window.outstanding() > 0 || self.pending() > 0
    }

    pub(super) fn pending(&self) -> usize {
        self.out.len() - self.written
    }

    pub(super) fn list(&mut self, context: &mut Context<'_>) {
        if !self.listed {
            self.listed = true;
            context.attention.push(self.index);
        }
    }

    pub(super) fn queue(&mut self, context: &mut Context<'_>) {
        if !self.queued {
            self.queued = true;
            context.ready.push(self.index);
        }
    }

    fn connect(&mut self, context: &mut Context<'_>, since: u64) {
        let begun = Stream::begin(context.endpoint).and_then(|(mut stream, done)| {
            stream.register(&context.registry, Token(self.index))?;
            Ok((stream, done))
        });
        match begun {
            Ok((stream, done)) => {
                self.stream = Some(stream);
                if done {
                    self.opened(context);
                    self.pump(context);
                } else {
                    self.state = State::Connecting { since };
                }
            }
            Err(error) => self.connect_failed_since(context, since, &error),
        }
    }

    fn connected(&mut self, context: &mut Context<'_>) {
        match self.stream.as_ref().map(Stream::take_error) {
            Some(Ok(None)) if self.stream.as_ref().is_some_and(Stream::is_its_own_peer) => {
                self.connect_failed(context, &io::ErrorKind::ConnectionRefused.into());
            }
            Some(Ok(None)) => {
                self.opened(context);
                self.pump(context);
            }
            Some(Ok(Some(error)) | Err(error)) => self.connect_failed(context, &error),
            None => {}
        }
    }

    fn connect_failed_since(&mut self, context: &mut Context<'_>, since: u64, error: &io::Error) {
        let now = context.now;
        let waited = now - since > context.plan.connect_timeout.as_nanos() as u64;
        match error.kind() {
            // The backlog of a unix socket is full.
            io::ErrorKind::WouldBlock if !waited => {
                self.state = State::Waiting {
                    since,
                    at: now + RETRY_LOCAL,
                };
            }
            // All ports of this machine are in use or in TIME_WAIT, or no descriptor is left.
            kind if kind == io::ErrorKind::AddrNotAvailable || is_exhausted(error) => {
                self.state = State::Waiting {
                    since: now,
                    at: now + RETRY_LOCAL,
                };
            }
            _ => self.connect_failed(context, error),
        }
    }

    fn connect_failed(&mut self, context: &mut Context<'_>, error: &io::Error) {
        let now = context.now;
        context.counts.failed_connects += 1;
        let index = self.index;
        context.problem(|| format!("connection {index}: cannot connect: {error}"));
        self.close();
        self.state = State::Waiting {
            since: now,
            at: now + RETRY,
        };
        self.list(context);
    }

    fn opened(&mut self, context: &mut Context<'_>) {
        context.counts.opened += 1;
        self.state = State::Open;
        self.salt = mix(self.salt);
        self.writable = true;
        self.waiting_since = context.now;
        self.left = if self.short_lived {
            context.plan.requests_per_connection
        } else {
            u64::MAX
        };
        if let Mode::Subscribe { params, .. } = &context.plan.mode {
            let id = self.window.open(context.now);
            crate::envelope::begin_request(&mut self.out, id, context.plan.method.as_bytes());
            self.out.extend_from_slice(params);
            context.counts.sent += 1;
        }
    }
}
