//! What must become of a client, by reading all of its stream in one piece: no connection, no buffers, no time.

use ringhold_framer::{Framer, Limits, Progress};

use super::actor::{answer, apology, greeting, push, reply_to};
use super::item::Ask;
use super::make::CLOG;
use super::outcome::{Lanes, Reason};
use super::script::{Decision, Ending, Leave, Script, Settings, Step, Timing, Welcome};

/// What must become of one client.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) fate: Fate,
    pub(crate) why: Reason,
    /// Whether the service makes a session.
    pub(crate) has_session: bool,
    /// Frames that the service is given.
    pub(crate) calls: Vec<Vec<u8>>,
    /// What the client is sent, in lanes that have an order of their own; what is deferred in the order of the tickets.
    pub(crate) lanes: Lanes,
    /// How many replies, and how many tickets, there are before each call and after the last.
    pub(crate) counts: Vec<(usize, usize)>,
    /// So many bytes must have been received, at least, for the end to come.
    pub(crate) needed: usize,
    /// The client does not read while the server ends the connection. The server waits a second for the client's end,
    /// then closes, read or not.
    pub(crate) is_late: bool,
    /// Because of that it may lose what it was sent.
    pub(crate) loses: bool,
    pub(crate) stops_early: bool,
}

/// How much of what a client is due it must get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// All of it, and all that it sends is received: it ends its side itself, or is still there when the server stops.
    Served,
    /// All that was written before the server ended the connection; its deferred answers may come too late.
    Ended,
    /// All that was written before the server was told to stop, or before what would have been its fate otherwise.
    Stopped,
    /// A beginning of it: the server cuts the connection.
    Cut,
    /// A beginning of it: the client leaves without waiting.
    Left,
}

/// A client's part of a script.
struct Part {
    stream: Vec<u8>,
    half_closes: bool,
    leaves: bool,
    /// It does not read at the end.
    is_paused: bool,
    /// Bytes that it had sent at the end of each pause.
    pauses: Vec<usize>,
    decisions: Vec<(usize, Decision)>,
}

impl Part {
    fn of(client: usize, steps: &[(usize, Step)]) -> Self {
        let mut part = Part {
            stream: Vec::new(),
            half_closes: false,
            leaves: false,
            is_paused: false,
            pauses: Vec::new(),
            decisions: Vec::new(),
        };
        for (_, step) in steps.iter().filter(|(number, _)| *number == client) {
            match step {
                Step::Send { pieces, .. } => {
                    if !part.half_closes && !part.leaves {
                        part.stream.extend(pieces.concat());
                    }
                }
                Step::Pause => part.is_paused = true,
                Step::Resume => part.resume(),
                Step::Decide { ticket, decision } => part.decisions.push((*ticket, *decision)),
                Step::Leave(Leave::HalfClose) => part.half_closes = true,
                Step::Leave(_) => part.leaves = true,
                Step::Sync => {}
            }
        }
        if part.is_paused {
            part.pauses.push(part.stream.len());
        }
        part
    }

    fn resume(&mut self) {
        if std::mem::take(&mut self.is_paused) {
            self.pauses.push(self.stream.len());
        }
    }

    fn decision(&self, ticket: usize) -> Decision {
        let mut decisions = self.decisions.iter();
        let decision = decisions.find(|(decided, _)| *decided == ticket);
        decision.map_or(Decision::Drop, |(_, decision)| *decision)
    }
}

impl Reading {
    pub(crate) fn new(script: &Script, steps: &[(usize, Step)], client: usize) -> Self {
        let part = Part::of(client, steps);
        let plan = &script.clients[client];
        let mut reading = Reading {
            fate: Fate::Served,
            why: Reason::Stopping,
            has_session: plan.welcome == Welcome::Accept,
            calls: Vec::new(),
            lanes: Lanes::default(),
            counts: Vec::new(),
            needed: 0,
            is_late: false,
            loses: false,
            stops_early: script.settings.ending == Ending::Early,
        };
        if let Some(length) = plan.greeting {
            reading.lanes.replies.push(greeting(length));
        }
        reading.count(0);
        match plan.welcome {
            Welcome::Accept => reading.read(&part, &script.settings),
            Welcome::Refuse => reading.end(Fate::Ended, Reason::Refused),
            Welcome::Panic => reading.end(Fate::Ended, Reason::Panicked),
        }
        reading.is_late =
            reading.fate == Fate::Ended && part.pauses.iter().any(|sent| *sent >= reading.needed);
        // TCP forgets what it has not delivered.
        reading.loses = reading.is_late && !plan.unix;
        if part.leaves {
            reading.fate = Fate::Left;
        } else if reading.stops_early {
            reading.fate = Fate::Stopped;
        } else if reading.loses {
            reading.fate = Fate::Cut;
        }
        reading
    }

    fn end(&mut self, fate: Fate, why: Reason) {
        (self.fate, self.why) = (fate, why);
    }

    fn read(&mut self, part: &Part, settings: &Settings) {
        let mut framer = Framer::new(Limits {
            frame_bytes: settings.frame_bytes as u32,
            depth: settings.depth as u16,
        });
        let mut tickets = 0;
        let mut rest = &part.stream[..];
        while self.fate == Fate::Served && !rest.is_empty() {
            let is_array = matches!(rest[0], 0x90..=0x9f | 0xdc | 0xdd);
            if settings.arrays_only && !is_array {
                self.needed += 1;
                self.end(Fate::Ended, Reason::TopLevel(rest[0]));
                break;
            }
            match framer.feed(rest) {
                Ok(Progress::Complete { used }) => {
                    self.needed += used;
                    self.frame(&rest[..used], settings, &mut tickets);
                    rest = &rest[used..];
                }
                Ok(Progress::More { .. }) => break,
                Err(error) => {
                    self.needed += 1;
                    self.end(Fate::Ended, Reason::Framing(error.to_string()));
                }
            }
        }
        for ticket in 0..tickets {
            self.lanes.deferred.push(match part.decision(ticket) {
                Decision::Answer(length) => answer(ticket, length),
                Decision::Drop => apology(ticket as u64),
            });
        }
        if self.fate == Fate::Served {
            self.end_of_stream(part, settings, rest.is_empty());
        }
    }

    fn frame(&mut self, frame: &[u8], settings: &Settings, tickets: &mut usize) {
        let number = self.calls.len();
        self.calls.push(frame.to_vec());
        let reply = reply_to(number, frame);
        let is_hoard = reply.len() > settings.memory;
        if !reply.is_empty() {
            self.lanes.replies.push(reply);
        }
        match Ask::of(frame) {
            Some(Ask::Defer) => *tickets += 1,
            Some(Ask::Push(length)) => self.lanes.pushes.push(push(number, length)),
            Some(Ask::Flood) => self.end(Fate::Cut, Reason::Overflow),
            Some(Ask::Close) => self.end(Fate::Ended, Reason::Asked),
            Some(Ask::Panic) => self.end(Fate::Ended, Reason::Panicked),
            _ if is_hoard => self.end(Fate::Cut, Reason::Memory),
            _ => {}
        }
        self.count(*tickets);
    }

    fn count(&mut self, tickets: usize) {
        self.counts.push((self.lanes.replies.len(), tickets));
    }

    /// Whether the kernel does not take all that the client is sent if it is not read.
    fn is_clogged(&self) -> bool {
        let lengths = self.lanes.replies.iter().map(Vec::len);
        lengths.sum::<usize>() > CLOG as usize
    }

    /// Nothing in the stream has ended the connection.
    fn end_of_stream(&mut self, part: &Part, settings: &Settings, is_whole: bool) {
        if part.half_closes {
            self.why = match is_whole {
                true => Reason::Finished,
                false => Reason::Truncated,
            };
            return;
        }
        match settings.timing {
            Some(Timing::Idle) => self.end(Fate::Ended, Reason::Idle),
            Some(Timing::Frame) if !is_whole => self.end(Fate::Ended, Reason::FrameTimeout),
            Some(Timing::Write) if part.is_paused && self.is_clogged() => {
                self.end(Fate::Cut, Reason::WriteTimeout);
            }
            _ => {}
        }
    }
}
