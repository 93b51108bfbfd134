//! One connection of the blocking client: bytes out, frames in, and waiting with a deadline.

use std::io::{self, Read, Write};
use std::ops::Range;
use std::time::Instant;

use mio::{Events, Poll, Token};
use ringhold_framer::{Error, Framer, Limits, Progress};

use crate::stream::Stream;

/// A socket with what is on its way in either direction.
///
/// The socket does not block; waiting is one `epoll_wait` for both directions. So a write that the
/// server does not take goes on reading meanwhile, and a pipeline deeper than the socket buffers
/// cannot end in a deadlock.
#[derive(Debug)]
pub(crate) struct Link {
    stream: Stream,
    poll: Poll,
    events: Events,
    readable: bool,
    writable: bool,
    /// What is to be sent; the bytes before `sent` are gone.
    pub(crate) out: Vec<u8>,
    sent: usize,
    /// Why nothing can be written any more. What the server sent before that is still to be read.
    broken: Option<io::Error>,
    /// Whether the sending side was ended. What was written now would fail as if the server had cut the connection.
    shut: bool,
    inbox: Inbox,
}

/// What became of an attempt to make progress.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Something was read or written.
    Moved,
    /// The deadline is over.
    TimedOut,
    /// The server closed its sending side.
    Ended,
}

impl Link {
    pub(crate) fn new(mut stream: Stream, limits: Limits) -> io::Result<Self> {
        let poll = Poll::new()?;
        stream.register(poll.registry(), Token(0))?;
        Ok(Self {
            stream,
            poll,
            events: Events::with_capacity(4),
            readable: true,
            writable: true,
            out: Vec::new(),
            sent: 0,
            broken: None,
            shut: false,
            inbox: Inbox::new(limits),
        })
    }

    /// Whether everything was handed to the system, and that did not fail.
    pub(crate) fn is_flushed(&self) -> bool {
        self.sent == self.out.len() && self.broken.is_none()
    }

    /// Whether the sending side was ended, so that nothing may be put into `out`.
    pub(crate) fn is_shut(&self) -> bool {
        self.shut
    }

    /// The next whole frame among the bytes that were read.
    pub(crate) fn next_frame(&mut self) -> Result<Option<&[u8]>, Error> {
        match self.inbox.next_frame()? {
            Some(range) => Ok(Some(&self.inbox.buffer[range])),
            None => Ok(None),
        }
    }

    /// How many bytes of an unfinished frame were read.
    pub(crate) fn partial(&self) -> usize {
        self.inbox.filled.len()
    }

    /// Writes and reads what the socket takes and has, waiting once until it does either.
    ///
    /// # Errors
    /// Reading failed, or writing did and everything that had arrived before is read.
    pub(crate) fn step(&mut self, deadline: Option<Instant>) -> io::Result<Step> {
        loop {
            let wrote = self.write();
            if self.readable || self.broken.is_some() {
                match self.stream.read(self.inbox.space()) {
                    Ok(0) => return self.broken.take().map_or(Ok(Step::Ended), Err),
                    Ok(n) => {
                        self.inbox.advance(n);
                        return Ok(Step::Moved);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => {
                        if let Some(broken) = self.broken.take() {
                            return Err(broken);
                        }
                        if error.kind() != io::ErrorKind::WouldBlock {
                            return Err(error);
                        }
                        self.readable = false;
                    }
                }
            } else if wrote {
                return Ok(Step::Moved);
            } else if !self.wait(deadline)? {
                return Ok(Step::TimedOut);
            }
        }
    }

    /// Writes until the socket takes no more; whether it took anything. A failure is left for
    /// [`step`](Self::step) to report.
    pub(crate) fn write(&mut self) -> bool {
        let mut wrote = false;
        while self.writable && self.broken.is_none() && self.sent < self.out.len() {
            match self.stream.write(&self.out[self.sent..]) {
                Ok(0) => self.broken = Some(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    self.sent += n;
                    wrote = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.broken = Some(error),
            }
        }
        if self.is_flushed() {
            self.out.clear();
            self.sent = 0;
        }
        wrote
    }

    /// Ends the sending side. What the server still sends can be read. A failure is left for
    /// [`step`](Self::step) to report.
    pub(crate) fn shut_write(&mut self) {
        self.broken = self.stream.shut_write().err();
        self.shut = true;
    }

    /// Waits for a change of readiness; false when the deadline is over and there is none.
    fn wait(&mut self, deadline: Option<Instant>) -> io::Result<bool> {
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let is_over = left.is_some_and(|left| left.is_zero());
        match self.poll.poll(&mut self.events, left) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        for event in &self.events {
            self.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
            self.writable |= event.is_writable() || event.is_write_closed() || event.is_error();
        }
        Ok(!is_over || !self.events.is_empty())
    }
}

/// What was received: whole frames and at most one partial one.
#[derive(Debug)]
struct Inbox {
    framer: Framer,
    /// Zeroed once and then reused, so its length is its capacity.
    buffer: Vec<u8>,
    /// The bytes received and not handed out.
    filled: Range<usize>,
    /// Up to where the framer has looked.
    seen: usize,
}

/// The least free space of a read.
const READ: usize = 64 << 10;

impl Inbox {
    fn new(limits: Limits) -> Self {
        Self {
            framer: Framer::new(limits),
            buffer: Vec::new(),
            filled: 0..0,
            seen: 0,
        }
    }

    /// Free space behind what was received. A partial frame is moved to the front first, at most once for each frame.
    fn space(&mut self) -> &mut [u8] {
        if self.filled.start > 0 && self.buffer.len() - self.filled.end < READ {
            self.buffer.copy_within(self.filled.clone(), 0);
            self.seen -= self.filled.start;
            self.filled = 0..self.filled.len();
        }
        if self.buffer.len() - self.filled.end < READ {
            self.buffer.resize((self.buffer.len() * 2).max(2 * READ), 0);
        }
        &mut self.buffer[self.filled.end..]
    }

    fn advance(&mut self, n: usize) {
        self.filled.end += n;
    }

    fn next_frame(&mut self) -> Result<Option<Range<usize>>, Error> {
        match self.framer.feed(&self.buffer[self.seen..self.filled.end])? {
            Progress::Complete { used } => {
                let frame = self.filled.start..self.seen + used;
                self.seen = frame.end;
                self.filled.start = frame.end;
                Ok(Some(frame))
            }
            Progress::More { .. } => {
                self.seen = self.filled.end;
                if self.filled.is_empty() {
                    self.filled = 0..0;
                    self.seen = 0;
                }
                Ok(None)
            }
        }
    }
}
