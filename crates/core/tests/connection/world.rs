//! The model that [`crate::model`] compares with: what clients have sent, and what must have become of it.

use std::time::Duration;

use ringhold_core::PushError;
use ringhold_core::limits::Limits;
use ringhold_core::testing::Client;
use ringhold_framer::{Framer, Progress};

use crate::model::{Event, Item};
use crate::service::{Manner, Rig, bin, internal_panics};

const APOLOGY: u8 = 0x55;
/// Second bytes of arrays that only the test sends to clients.
const PUSHED: u8 = 0x60;
const ANSWERED: u8 = 0x61;

fn limits() -> Limits {
    Limits {
        frame_bytes: 150_000,
        depth: 20,
        outbox_bytes: 20_000,
        memory: 300_000,
        idle_timeout: Duration::from_secs(60),
        frame_timeout: Duration::from_secs(5),
        write_timeout: Duration::from_secs(10),
        ..Limits::default()
    }
}

/// One client as the model knows it.
struct Peer {
    client: Client,
    items: Vec<Item>,
    stream: Vec<u8>,
    /// Where each item ends in it.
    ends: Vec<usize>,
    /// Bytes of `stream` that were sent.
    sent: usize,
    window: Option<usize>,
    ended: bool,
    pushed: Vec<Vec<u8>>,
    /// How many frames it had been sent and had received when the server was told to stop.
    before_stop: usize,
}

impl Peer {
    /// The items of which the connection has read all bytes.
    fn whole(&self, rig: &mut Rig) -> &[Item] {
        let read = self.sent - rig.unread(self.client);
        &self.items[..self.ends.partition_point(|end| *end <= read)]
    }

    /// How many of them are given to the service.
    fn whole_frames(&self, rig: &mut Rig) -> usize {
        let whole = self.whole(rig);
        whole.iter().filter(|item| item.is_frame()).count()
    }
}

pub(crate) struct World {
    rig: Rig,
    /// By the number of the session.
    peers: Vec<Peer>,
    answered: Vec<(usize, Vec<u8>)>,
    /// How many frames the service was given, by peer.
    given: Vec<usize>,
    stopped: bool,
}

/// A frame that tells who sent it and is unique by its number.
fn marked(mark: u8, number: usize, length: usize) -> Vec<u8> {
    let mut frame = vec![0x93, mark, 0xce];
    frame.extend_from_slice(&(number as u32).to_be_bytes());
    frame.extend(bin(length, 0));
    frame
}

impl World {
    pub(crate) fn new() -> Self {
        let manner = Manner {
            makes_handles: true,
            apology: Some(APOLOGY),
            ..Manner::default()
        };
        World {
            rig: Rig::with(limits(), manner),
            peers: Vec::new(),
            answered: Vec::new(),
            given: Vec::new(),
            stopped: false,
        }
    }

    pub(crate) fn act(&mut self, event: &Event) {
        match event {
            Event::Connect { keeps_open } => self.connect(*keeps_open),
            Event::Send {
                client,
                items,
                pieces,
                unasked,
            } => {
                self.send(*client, items, pieces, *unasked);
            }
            Event::SendAll { client } => self.send(*client, &[], &[usize::MAX], false),
            Event::Window { client, bytes } => {
                if let Some(peer) = self.peers.get_mut(*client) {
                    peer.window = *bytes;
                    self.rig.set_window(peer.client, *bytes);
                }
            }
            Event::End { client } => {
                if let Some(peer) = self.peers.get_mut(*client) {
                    peer.ended = true;
                    self.rig.end(peer.client);
                }
            }
            Event::Reset { client } => {
                if let Some(peer) = self.peers.get(*client) {
                    self.rig.reset(peer.client);
                }
            }
            Event::Push {
                client,
                count,
                length,
                closes,
            } => self.push(*client, *count, *length, *closes),
            Event::Answer { number, length } => self.answer(*number, Some(*length)),
            Event::Drop { number } => self.answer(*number, None),
            Event::Advance { milliseconds } => {
                self.rig.advance(Duration::from_millis(*milliseconds));
            }
            Event::Stop { drain } => {
                for peer in self.peers.iter_mut().filter(|_| !self.stopped) {
                    peer.before_stop = peer.whole_frames(&mut self.rig);
                }
                self.stopped = true;
                self.rig.stop_within(Duration::from_millis(*drain));
            }
        }
    }

    fn connect(&mut self, keeps_open: bool) {
        if self.peers.len() == 8 {
            return;
        }
        let client = self.rig.connect();
        if keeps_open {
            self.rig.keep_open(client);
        }
        self.given.push(0);
        self.peers.push(Peer {
            client,
            items: Vec::new(),
            stream: Vec::new(),
            ends: Vec::new(),
            sent: 0,
            window: None,
            ended: false,
            pushed: Vec::new(),
            before_stop: 0,
        });
    }

    fn send(&mut self, client: usize, items: &[Item], pieces: &[usize], unasked: bool) {
        let Some(peer) = self.peers.get_mut(client) else {
            return;
        };
        for item in items {
            if peer.items.last().is_some_and(Item::is_last) {
                break;
            }
            peer.stream.extend(item.bytes());
            peer.ends.push(peer.stream.len());
            peer.items.push(item.clone());
        }
        for piece in pieces {
            if peer.ended || !self.rig.is_open(peer.client) {
                return;
            }
            let end = peer.sent.saturating_add(*piece).min(peer.stream.len());
            let bytes = &peer.stream[peer.sent..end];
            peer.sent = end;
            if !(unasked && self.rig.receive_unasked(peer.client, bytes)) {
                self.rig.receive(peer.client, bytes);
            }
        }
    }

    fn push(&mut self, client: usize, count: usize, length: usize, closes: bool) {
        let Some(peer) = self.peers.get_mut(client) else {
            return;
        };
        let handle = self.rig.seen().handles[client].clone();
        for _ in 0..count {
            let frame = marked(PUSHED, peer.pushed.len(), length);
            match handle.push(frame.clone()) {
                Ok(()) => peer.pushed.push(frame),
                Err(PushError::Gone) => assert!(!handle.is_open()),
                Err(error) => assert_eq!(error, PushError::Overflow),
            }
        }
        if closes {
            let was_open = handle.is_open();
            assert_eq!(handle.close("kicked").is_ok(), was_open);
            assert!(!handle.is_open());
        }
        self.rig.deliver();
    }

    fn answer(&mut self, number: usize, length: Option<usize>) {
        let open = self.rig.seen().responders.len();
        if open == 0 {
            return;
        }
        let responder = self.rig.take_responder(number % open);
        match length {
            Some(length) => {
                let id = responder.connection();
                let client = self
                    .rig
                    .seen()
                    .handles
                    .iter()
                    .position(|handle| handle.id() == id);
                let frame = marked(ANSWERED, self.answered.len(), length);
                self.answered.push((client.unwrap(), frame.clone()));
                responder.answer(frame);
            }
            None => drop(responder),
        }
        self.rig.deliver();
    }

    /// What must hold after every event.
    pub(crate) fn check(&mut self) {
        assert_eq!(internal_panics(), 0, "the core panicked");
        assert!(self.rig.memory_held() <= limits().memory as u64);
        let counted: usize = self.given.iter().sum();
        for (number, _) in &self.rig.seen().frames[counted..] {
            self.given[*number] += 1;
        }
        for (number, peer) in self.peers.iter().enumerate() {
            // A client that reads everything is served at once.
            let served = self.rig.is_open(peer.client) && !self.rig.is_shut(peer.client);
            if peer.window.is_none() && served && !self.stopped {
                assert_eq!(self.rig.unread(peer.client), 0, "{number} is not read");
                let frames = peer.whole_frames(&mut self.rig);
                assert_eq!(self.given[number], frames, "frames of {number} wait");
            }
        }
    }

    /// Lets everything come to its end.
    pub(crate) fn finish(&mut self) {
        for i in 0..self.peers.len() {
            self.act(&Event::Window {
                client: i,
                bytes: None,
            });
        }
        self.check();
        for i in 0..self.peers.len() {
            self.act(&Event::SendAll { client: i });
            self.act(&Event::End { client: i });
        }
        self.rig.let_go();
        self.rig.advance(Duration::from_secs(10_000));
        let clients: Vec<Client> = self.peers.iter().map(|peer| peer.client).collect();
        self.rig.assert_empty(&clients);
        self.check_counters();
        for number in 0..self.peers.len() {
            self.check_peer(number);
        }
    }

    fn check_counters(&mut self) {
        let reasons = self.rig.reasons();
        let count = |words: &[&str]| {
            let with = |why: &&String| words.iter().any(|word| why.contains(word));
            reasons.iter().filter(with).count() as u64
        };
        let counters = self.rig.counters();
        assert_eq!(counters.opened, self.peers.len() as u64);
        assert_eq!(reasons.len(), self.peers.len(), "each session ends once");
        assert_eq!(
            counters.bad_input,
            count(&["middle of a frame", "not acceptable"])
        );
        assert_eq!(counters.ended_by_service, count(&["asked to", "kicked"]));
        assert_eq!(counters.panics, count(&["panicked"]));
        // Who ends for another reason may lose its last replies to one of these.
        assert!(counters.cut >= count(&["limits.memory", "limits.outbox_bytes"]));
        assert!(counters.timed_out >= count(&["timeout"]));
        assert!(counters.failed >= count(&["the socket failed"]));
        let seen = self.rig.seen();
        assert_eq!(counters.frames_in, seen.frames.len() as u64);
        assert_eq!(counters.abandoned, seen.abandoned.len() as u64);
    }

    /// What a client was sent, against its stream.
    fn check_peer(&mut self, number: usize) {
        let peer = &self.peers[number];
        let sent = self.rig.take_sent(peer.client);
        let is_shut = self.rig.is_shut(peer.client);
        let why = self
            .rig
            .seen()
            .ends
            .iter()
            .find(|(n, _)| *n == number)
            .unwrap()
            .1
            .clone();
        let orderly = ["the peer ended", "not acceptable", "asked to", "panicked"];
        let flushed = is_shut && orderly.iter().any(|words| why.contains(words));
        let stopped = is_shut && why.contains("server stops");
        // What has arrived and was not served by then is not; what was pushed is delivered.
        let kicked = is_shut && why.contains("kicked");
        let (frames, rest) = split(&sent);

        let given = frames_given(&self.rig, number);
        let whole = peer.whole(&mut self.rig);
        let expected: Vec<&Item> = whole.iter().filter(|item| item.is_frame()).collect();
        assert!(given.len() <= expected.len());
        for (given, item) in given.iter().zip(&expected) {
            assert!(
                *given == item.bytes(),
                "the service was given something else"
            );
        }
        let answers: Vec<&Vec<u8>> = of_client(&self.answered, number);
        let replies: Vec<Vec<u8>> = expected
            .iter()
            .map(|item| item.reply())
            .filter(|reply| !reply.is_empty())
            .collect();
        let got = Sorted::new(frames);
        assert_prefix(&got.replies, &replies);
        assert_prefix(&got.pushed, &peer.pushed);
        for answer in &got.answers {
            assert!(
                answers.contains(&answer),
                "an answer to somebody else's request"
            );
        }
        let mut answers_once = got.answers.clone();
        answers_once.sort_unstable();
        answers_once.dedup();
        assert_eq!(
            answers_once.len(),
            got.answers.len(),
            "an answer came twice"
        );

        if flushed {
            assert_eq!(given.len(), expected.len(), "frames were lost: {why}");
        }
        if stopped {
            assert!(given.len() >= peer.before_stop, "frames were lost: {why}");
        }
        if flushed || stopped || kicked {
            let due = expected[..given.len()].iter();
            let due = due.filter(|item| !item.reply().is_empty()).count();
            assert!(rest.is_empty(), "half a frame was sent");
            assert_eq!(got.replies.len(), due, "replies are missing: {why}");
            assert_eq!(
                got.pushed.len(),
                peer.pushed.len(),
                "pushes are missing: {why}"
            );
        }
        if flushed && why.contains("the peer ended") || stopped {
            let given = expected[..given.len()].iter();
            let deferred = given.filter(|item| matches!(item, Item::Defer(_)));
            assert_eq!(got.answers.len() + got.apologies, deferred.count());
        }
    }
}

fn frames_given(rig: &Rig, number: usize) -> Vec<Vec<u8>> {
    let seen = rig.seen();
    let frames = seen.frames.iter().filter(|(n, _)| *n == number);
    frames.map(|(_, frame)| frame.clone()).collect()
}

fn of_client(answered: &[(usize, Vec<u8>)], number: usize) -> Vec<&Vec<u8>> {
    let answers = answered.iter().filter(|(n, _)| *n == number);
    answers.map(|(_, frame)| frame).collect()
}

#[track_caller]
fn assert_prefix(got: &[Vec<u8>], expected: &[Vec<u8>]) {
    assert!(got.len() <= expected.len(), "more than was asked for");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!(got == expected, "number {i} is another one");
    }
}

/// Cuts what was sent into frames; the second value is the beginning of one that was not sent as a whole.
fn split(sent: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let mut framer = Framer::new(ringhold_framer::Limits::default());
    let mut frames = Vec::new();
    let mut rest = sent;
    while !rest.is_empty() {
        match framer.feed(rest).unwrap() {
            Progress::Complete { used } => {
                let (frame, tail) = rest.split_at(used);
                frames.push(frame);
                rest = tail;
            }
            Progress::More { .. } => break,
        }
    }
    (frames, rest)
}

/// What a client was sent, by kind.
#[derive(Default)]
struct Sorted {
    replies: Vec<Vec<u8>>,
    pushed: Vec<Vec<u8>>,
    answers: Vec<Vec<u8>>,
    apologies: usize,
}

impl Sorted {
    fn new(frames: Vec<&[u8]>) -> Self {
        let mut sorted = Sorted::default();
        let mut frames = frames.into_iter();
        while let Some(frame) = frames.next() {
            match (frame[0], frame.get(1)) {
                (APOLOGY, _) => {
                    sorted.apologies += 1;
                    frames.next();
                }
                (0x93, Some(&PUSHED)) => sorted.pushed.push(frame.to_vec()),
                (0x93, Some(&ANSWERED)) => sorted.answers.push(frame.to_vec()),
                _ => sorted.replies.push(frame.to_vec()),
            }
        }
        sorted
    }
}
