//! What clients have sent, and what must have become of it.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use ringhold_core::PushError;
use ringhold_core::limits::Limits;
use ringhold_core::testing::{Client, Exchange};
use ringhold_framer as framer;

use super::service::{End, KICKED, Marking, Seen, mark, marked, reply_to, verb};
use super::{Event, Item};
use crate::reference::{Verdict, judge, split};

const CLIENTS_MAX: usize = 8;

/// A client that is owed this many deferred replies may be paused, whatever it reads.
const OWED_MIN: usize = 2048;

/// Four bits say which are small.
fn limits(choice: u8) -> Limits {
    let small = choice & 1 == 1;
    Limits {
        frame_bytes: if small { 3_000 } else { 150_000 },
        depth: 20,
        outbox_bytes: if choice & 2 == 2 { 2_000 } else { 20_000 },
        memory: if choice & 4 == 4 { 160_000 } else { 300_000 },
        idle_timeout: Duration::from_secs(if choice & 8 == 8 { 0 } else { 60 }),
        frame_timeout: Duration::from_secs(5),
        write_timeout: Duration::from_secs(10),
        ..Limits::default()
    }
}

/// One client and its stream.
struct Peer {
    client: Client,
    stream: Vec<u8>,
    /// Bytes of `stream` that were sent.
    sent: usize,
    /// Where each frame ends in what was read of it, up to the first that cannot be one, or after which there is none.
    ends: Vec<usize>,
    /// Nothing behind the last of `ends` is given to the service.
    over: bool,
    /// The service has asked for the end from elsewhere.
    kicked: bool,
    window: Option<usize>,
    ended: bool,
    /// What was pushed, and how many replies were written before.
    pushed: Vec<(Vec<u8>, usize)>,
    /// How many whole frames had been read when the server was told to stop.
    before_stop: usize,
}

impl Peer {
    /// Reads on in what the connection has read by now.
    fn interpret(&mut self, read: usize, limits: framer::Limits) {
        let mut at = self.ends.last().copied().unwrap_or(0);
        while !self.over && at < read {
            match judge(&self.stream[at..read], limits) {
                Verdict::End(length) => {
                    self.over = verb::is_last(&self.stream[at..at + length]);
                    at += length;
                    self.ends.push(at);
                }
                Verdict::Refused(..) => self.over = true,
                Verdict::More(_) => return,
            }
        }
    }

    fn frames(&self) -> impl Iterator<Item = &[u8]> {
        let starts = [0].into_iter().chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(start, end)| &self.stream[start..*end])
    }
}

pub(crate) struct World {
    exchange: Exchange,
    seen: Rc<RefCell<Seen>>,
    limits: Limits,
    /// By the number of the session.
    peers: Vec<Peer>,
    /// Answers to tickets: the client, the bytes, and how many replies were written before.
    answered: Vec<(usize, Vec<u8>, usize)>,
    stopped: bool,
}

impl World {
    /// One client is connected.
    pub(crate) fn new(choice: u8) -> Self {
        let seen = Rc::new(RefCell::new(Seen::default()));
        let limits = limits(choice);
        let mut world = World {
            exchange: Exchange::with_limits(Marking(seen.clone()), limits.clone()),
            seen,
            limits,
            peers: Vec::new(),
            answered: Vec::new(),
            stopped: false,
        };
        world.connect(false);
        world
    }

    pub(crate) fn act(&mut self, event: &Event) {
        let number = |client: usize| client.min(self.peers.len() - 1);
        match *event {
            Event::Connect { keeps_open } => self.connect(keeps_open),
            Event::Send {
                client,
                ref items,
                ref pieces,
                unasked,
            } => self.send(number(client), items, pieces, unasked),
            Event::Window { client, bytes } => self.window(number(client), bytes),
            Event::End { client } => self.end(number(client)),
            Event::Reset { client } => self.exchange.reset(self.peers[number(client)].client),
            Event::Push {
                client,
                count,
                length,
                closes,
            } => self.push(number(client), count, length, closes),
            Event::Answer { number, length } => self.answer(number, length),
            Event::Advance { milliseconds } => {
                self.exchange.advance(Duration::from_millis(milliseconds));
            }
            Event::Stop { drain } => self.stop(Duration::from_millis(drain)),
            Event::LetGo => self.seen.borrow_mut().kept.clear(),
            Event::Deliver => self.exchange.deliver(),
        }
    }

    fn connect(&mut self, keeps_open: bool) {
        if self.peers.len() == CLIENTS_MAX {
            return;
        }
        let client = self.exchange.connect();
        if keeps_open {
            self.exchange.keep_open(client);
        }
        self.peers.push(Peer {
            client,
            stream: Vec::new(),
            sent: 0,
            ends: Vec::new(),
            over: false,
            kicked: false,
            window: None,
            ended: false,
            pushed: Vec::new(),
            before_stop: 0,
        });
    }

    fn send(&mut self, number: usize, items: &[Item], pieces: &[usize], unasked: bool) {
        let peer = &mut self.peers[number];
        for item in items {
            item.write(&mut peer.stream);
        }
        for piece in pieces {
            if peer.ended || !self.exchange.is_open(peer.client) {
                return;
            }
            let end = peer.sent.saturating_add(*piece).min(peer.stream.len());
            let bytes = &peer.stream[peer.sent..end];
            peer.sent = end;
            if !(unasked && self.exchange.receive_unasked(peer.client, bytes)) {
                self.exchange.receive(peer.client, bytes);
            }
        }
    }

    fn window(&mut self, number: usize, window: Option<usize>) {
        let peer = &mut self.peers[number];
        peer.window = window;
        self.exchange.set_window(peer.client, window);
    }

    fn end(&mut self, number: usize) {
        let peer = &mut self.peers[number];
        peer.ended = true;
        self.exchange.end(peer.client);
    }

    fn push(&mut self, number: usize, count: usize, length: usize, closes: bool) {
        let (handle, replies) = {
            let seen = self.seen.borrow();
            (seen.handles[number].clone(), seen.sessions[number].replies)
        };
        let peer = &mut self.peers[number];
        for _ in 0..count {
            let frame = marked(mark::PUSHED, peer.pushed.len(), length);
            match handle.push(frame.clone()) {
                Ok(()) => peer.pushed.push((frame, replies)),
                Err(error) => {
                    assert!(matches!(error, PushError::Gone | PushError::Overflow));
                    assert!(!handle.is_open());
                }
            }
        }
        if closes {
            let was_open = handle.is_open();
            peer.kicked |= was_open;
            assert_eq!(handle.close(KICKED).is_ok(), was_open);
            assert!(!handle.is_open());
        }
        self.exchange.deliver();
    }

    /// Answers the ticket of this number with so many bytes, or drops it.
    fn answer(&mut self, number: usize, length: Option<usize>) {
        let (client, responder, replies) = {
            let mut seen = self.seen.borrow_mut();
            let open = seen.responders.len();
            if open == 0 {
                return;
            }
            let (client, responder) = seen.responders.remove(number % open);
            (client, responder, seen.sessions[client].replies)
        };
        match length {
            Some(length) => {
                let frame = marked(mark::ANSWERED, self.answered.len(), length);
                self.answered.push((client, frame.clone(), replies));
                responder.answer(frame);
            }
            None => drop(responder),
        }
        self.exchange.deliver();
    }

    fn stop(&mut self, drain: Duration) {
        if !self.stopped {
            self.interpret();
            for peer in &mut self.peers {
                peer.before_stop = peer.ends.len();
            }
        }
        self.stopped = true;
        self.exchange.stop_within(drain);
    }

    fn framer_limits(&self) -> framer::Limits {
        framer::Limits {
            frame_bytes: self.limits.frame_bytes as u32,
            depth: self.limits.depth as u16,
        }
    }

    fn interpret(&mut self) {
        let limits = self.framer_limits();
        for peer in &mut self.peers {
            let read = peer.sent - self.exchange.unread(peer.client);
            peer.interpret(read, limits);
        }
    }

    /// What must hold after every event.
    pub(crate) fn check(&mut self) {
        assert!(self.exchange.memory_held() <= self.limits.memory as u64);
        self.interpret();
        let seen = self.seen.borrow();
        for (number, (peer, session)) in self.peers.iter().zip(&seen.sessions).enumerate() {
            let owed = seen.responders.iter().filter(|(to, _)| *to == number);
            let owed = owed.count();
            if owed >= OWED_MIN {
                continue;
            }
            let served = self.exchange.is_open(peer.client) && !self.exchange.is_shut(peer.client);
            // A client that reads everything is served at once.
            if peer.window.is_none() && served && !self.stopped {
                // Of who sent what is of no use, or a frame too slowly, nothing more is taken before all is answered.
                let may_be_refused = peer.over || self.exchange.counters().timed_out > 0;
                if owed == 0 || !may_be_refused {
                    assert_eq!(self.exchange.unread(peer.client), 0, "it is not read");
                    assert_eq!(session.frames.len(), peer.ends.len(), "frames wait");
                }
            }
        }
    }

    /// Lets everything come to its end.
    pub(crate) fn finish(mut self) {
        for number in 0..self.peers.len() {
            self.window(number, None);
        }
        self.check();
        for number in 0..self.peers.len() {
            self.send(number, &[], &[usize::MAX], false);
            self.end(number);
        }
        self.seen.borrow_mut().kept.clear();
        self.seen.borrow_mut().handles.clear();
        // A client that was owed too many is then given those frames that waited, which may ask for more.
        loop {
            let responders = std::mem::take(&mut self.seen.borrow_mut().responders);
            if responders.is_empty() {
                break;
            }
            drop(responders);
            self.exchange.deliver();
        }
        self.exchange.advance(Duration::from_secs(10_000));
        self.interpret();
        assert_eq!(self.exchange.memory_held(), 0, "memory is held for nobody");
        self.check_counters();
        for number in 0..self.peers.len() {
            self.check_peer(number);
        }
    }

    fn check_counters(&self) {
        let seen = self.seen.borrow();
        let counters = self.exchange.counters();
        let count = |end: End| {
            let ends = seen.sessions.iter().filter(|s| s.end == Some(end));
            ends.count() as u64
        };
        let frames: usize = seen.sessions.iter().map(|s| s.frames.len()).sum();
        assert_eq!(counters.open, 0);
        assert_eq!(counters.opened, self.peers.len() as u64);
        assert_eq!(seen.sessions.len(), self.peers.len());
        assert_eq!(counters.frames_in, frames as u64);
        assert_eq!(counters.abandoned, seen.abandoned);
        assert_eq!(counters.bad_input, count(End::BadInput));
        let by_service = count(End::Asked) + count(End::Kicked);
        assert_eq!(counters.ended_by_service, by_service);
        assert_eq!(counters.panics, count(End::Panicked));
        // Who ends for another reason may lose its last replies to one of these.
        assert!(counters.failed >= count(End::Failed));
        assert!(counters.cut >= count(End::Cut));
        assert!(counters.timed_out >= count(End::TimedOut));
    }

    /// What a client was sent, against its stream.
    fn check_peer(&mut self, number: usize) {
        let peer = &self.peers[number];
        assert!(!self.exchange.is_open(peer.client));
        let sent = self.exchange.take_sent(peer.client);
        let is_shut = self.exchange.is_shut(peer.client);
        let seen = self.seen.borrow();
        let session = &seen.sessions[number];
        let end = session.end.expect("every session ends");
        let flushed = is_shut
            && matches!(
                end,
                End::Finished | End::BadInput | End::Asked | End::Panicked
            );
        let stopped = is_shut && end == End::Stopping;
        // What has arrived and was not served by then is not; what was pushed is delivered.
        let kicked = is_shut && end == End::Kicked;

        assert!(session.frames.len() <= peer.ends.len());
        for (given, expected) in session.frames.iter().zip(peer.frames()) {
            assert!(given == expected, "the service was given something else");
        }
        if flushed {
            assert_eq!(session.frames.len(), peer.ends.len(), "lost: {end:?}");
        }
        if stopped {
            assert!(session.frames.len() >= peer.before_stop, "frames were lost");
        }

        let mut got = Got::default();
        let mut replies = session
            .frames
            .iter()
            .filter(|frame| !verb::is_deferred(frame));
        let wide = framer::Limits {
            frame_bytes: 1 << 30,
            depth: 100,
        };
        let (frames, rest) = split(&sent, wide);
        for frame in frames {
            assert_eq!(frame[0], 0x92);
            match frame[1] {
                mark::REPLY => {
                    let expected = replies.next().expect("no reply too many");
                    assert!(frame == reply_to(expected), "another reply");
                    got.replies += 1;
                }
                mark::PUSHED => {
                    let (expected, after) = &peer.pushed[got.pushed];
                    assert!(frame == expected, "another push");
                    assert_eq!(got.replies, *after, "a push at another place");
                    got.pushed += 1;
                }
                mark::ANSWERED => {
                    let mut answered = self.answered.iter();
                    let index = answered.position(|(_, bytes, _)| bytes == frame);
                    let index = index.expect("an answer that was given");
                    let (client, _, after) = &self.answered[index];
                    assert_eq!(*client, number, "somebody else's answer");
                    assert_eq!(got.replies, *after, "an answer at another place");
                    assert!(!got.answers.contains(&index), "an answer came twice");
                    got.answers.push(index);
                }
                mark::APOLOGY => got.apologies += 1,
                mark::PUSHED_BY_SERVICE => {
                    let count = got.own_pushes;
                    assert_eq!(frame, marked(mark::PUSHED_BY_SERVICE, count, 8));
                    assert!(got.replies > session.own_pushes[count], "a push overtook");
                    got.own_pushes += 1;
                }
                other => panic!("nobody sent a frame marked {other}"),
            }
        }
        if flushed || stopped || kicked {
            assert!(rest.is_empty(), "half a frame was sent");
            assert_eq!(got.replies, session.replies, "replies are missing");
            assert_eq!(got.pushed, peer.pushed.len(), "pushes are missing");
        }
        let refused = end == End::BadInput && !peer.kicked;
        if is_shut && (end == End::Finished || refused) || stopped {
            let tickets = session
                .frames
                .iter()
                .filter(|frame| verb::is_deferred(frame));
            assert_eq!(got.answers.len() + got.apologies, tickets.count());
        }
    }
}

/// How much of each kind a client was sent.
#[derive(Default)]
struct Got {
    replies: usize,
    pushed: usize,
    own_pushes: usize,
    answers: Vec<usize>,
    apologies: usize,
}
