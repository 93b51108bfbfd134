//! One client: what it asks for, and what it must get for that.

use std::collections::BTreeSet;

use ringhold_core::testing::{Client, Exchange};

use super::OUTBOX_BYTES;
use super::service::{ASKED, Request, World, ask, take_record, told};
use crate::common::random::Random;

pub(super) struct Peer {
    number: u32,
    pub(super) client: Client,
    /// What it asks for, by the number of the request.
    asks: Vec<u8>,
    stream: Vec<u8>,
    /// Where each request ends in the stream.
    ends: Vec<usize>,
    /// Bytes of it that were sent.
    sent: usize,
    window: Option<usize>,
    got: Vec<u8>,
    has_ended: bool,
    /// It may have lost something, because it left or did not read in time.
    is_excused: bool,
}

/// What a client was sent.
#[derive(Default)]
struct Got {
    /// Every request before this one was replied to, unless it was for a deferred reply.
    replies: u32,
    pushes: u32,
    /// The deferred ones that were answered, or apologised for.
    answered: BTreeSet<u32>,
    apologies: BTreeSet<u32>,
    /// Bytes behind the last whole record.
    rest: usize,
}

impl Peer {
    pub(super) fn new(number: u32, client: Client) -> Self {
        Peer {
            number,
            client,
            asks: Vec::new(),
            stream: Vec::new(),
            ends: Vec::new(),
            sent: 0,
            window: None,
            got: Vec::new(),
            has_ended: false,
            is_excused: false,
        }
    }

    /// Asks for a few things more, and sends on in a few pieces.
    pub(super) fn send(&mut self, random: &mut Random, exchange: &mut Exchange) {
        if self.has_ended {
            return;
        }
        for _ in 0..random.below(10) {
            if self.asks.last() != Some(&ask::CLOSE) {
                self.ask(random);
            }
        }
        for _ in 0..random.below(4) {
            let most = random.pick(&[20, 3000, 80_000]);
            let length = (1 + random.below(most)).min(self.stream.len() - self.sent);
            let piece = &self.stream[self.sent..self.sent + length];
            let is_taken = match random.once_in(3) {
                true => exchange.receive_unasked(self.client, piece),
                false => {
                    exchange.receive(self.client, piece);
                    true
                }
            };
            self.sent += if is_taken { length } else { 0 };
        }
    }

    fn ask(&mut self, random: &mut Random) {
        let usual = [
            [ask::WRITE; 3],
            [ask::SHARE, ask::SHARE, ask::MUCH],
            [ask::DEFER, ask::WAIT, ask::WAIT],
            [ask::PUSH, ask::PUBLISH, ask::PUBLISH],
        ];
        let ask = match random.below(120) {
            0 | 1 => ask::CLOSE,
            2..=4 => ask::BECOME,
            _ => random.pick(usual.as_flattened()),
        };
        let padding = match random.below(20) {
            0 => random.below(60_000),
            1 => 0,
            _ => random.below(200),
        };
        let request = Request {
            ask,
            client: self.number,
            number: self.asks.len() as u32,
            amount: random.below(1 << 16),
        };
        self.asks.push(ask);
        self.stream.extend(request.frame(padding));
        self.ends.push(self.stream.len());
    }

    pub(super) fn set_window(&mut self, window: Option<usize>, exchange: &mut Exchange) {
        self.window = window;
        exchange.set_window(self.client, window);
    }

    pub(super) fn end(&mut self, exchange: &mut Exchange) {
        self.has_ended = true;
        exchange.end(self.client);
    }

    pub(super) fn reset(&mut self, exchange: &mut Exchange) {
        self.has_ended = true;
        self.is_excused = true;
        exchange.reset(self.client);
    }

    pub(super) fn collect(&mut self, exchange: &mut Exchange) {
        self.got.extend(exchange.take_sent(self.client));
    }

    /// What the server ends is not handed over: who has not read the last of it by then loses it.
    pub(super) fn before_handover(&mut self, world: &World, exchange: &Exchange) {
        let given = world.given(self.number) as usize;
        let is_closing = self.asks[..given].contains(&ask::CLOSE) || world.is_closed(self.number);
        self.is_excused |= is_closing && exchange.is_open(self.client);
    }

    pub(super) fn after_handover(&mut self, exchange: &Exchange) {
        self.is_excused |= self.window.is_some() && !exchange.is_open(self.client);
    }

    fn is_deferred(&self, number: u32) -> bool {
        matches!(self.asks[number as usize], ask::DEFER | ask::WAIT)
    }

    /// Reads what it got, which must be in order and without gaps as far as it goes.
    fn read(&self) -> Got {
        let number = self.number;
        let mut got = Got::default();
        let mut bytes = &self.got[..];
        while let Some((what, found)) = take_record(&mut bytes) {
            match what {
                told::REPLY => {
                    got.replies = self.next_reply(got.replies, found + 1);
                    assert_eq!(got.replies, found, "reply to client {number}");
                    got.replies += 1;
                }
                told::PUSH => {
                    assert_eq!(found, got.pushes, "push to client {number}");
                    got.pushes += 1;
                }
                told::ANSWER | told::APOLOGY => {
                    assert!(self.is_deferred(found), "client {number}, {found}");
                    let is_first = got.answered.insert(found);
                    assert!(is_first, "client {number}: {found} is answered twice");
                    if what == told::APOLOGY {
                        got.apologies.insert(found);
                    }
                }
                other => panic!("client {number} was sent {other:#04x}"),
            }
        }
        got.rest = bytes.len();
        got
    }

    /// The first request from `from` on and before `to` that is replied to at once, or `to`.
    fn next_reply(&self, from: u32, to: u32) -> u32 {
        let mut numbers = from..to;
        numbers
            .find(|found| !self.is_deferred(*found))
            .unwrap_or(to)
    }

    /// It must have got everything that was said to it, unless there is a reason why not.
    pub(super) fn check(&self, world: &World, exchange: &mut Exchange) {
        let number = self.number;
        let got = self.read();
        let why = world.end_of(number);
        let (pushes, pushed_bytes) = world.pushed(number);
        let is_cut = why.starts_with("more was pushed");
        if is_cut {
            assert!(pushed_bytes > OUTBOX_BYTES, "client {number}: {why}");
        }
        let refused = world.refused(number);
        for number in &refused {
            let is_answered = got.answered.contains(number) && !got.apologies.contains(number);
            assert!(
                !is_answered,
                "client {}: {number} was refused; {why}",
                self.number
            );
        }
        if self.is_excused || is_cut {
            return;
        }
        for number in world.accepted(number) {
            let is_answered = got.answered.contains(&number) && !got.apologies.contains(&number);
            assert!(
                is_answered,
                "client {}: the answer to {number}; {why}",
                self.number
            );
        }
        assert_eq!(got.rest, 0, "client {number} has half a record; {why}");
        let given = world.given(number);
        let replies = self.next_reply(got.replies, given);
        assert_eq!(replies, given, "replies to client {number}; {why}");
        let is_asked = why.contains(ASKED);
        // What is too much for a connection that ends anyway is not written.
        if !is_asked || pushed_bytes <= OUTBOX_BYTES {
            assert_eq!(got.pushes, pushes, "pushes to client {number}; {why}");
        }
        if !is_asked && why != "the server stops" {
            let owed = (0..given).filter(|request| self.is_deferred(*request));
            let missing: Vec<u32> = owed
                .filter(|request| !got.answered.contains(request))
                .collect();
            assert_eq!(missing, [], "answers to client {number}; {why}");
        }
        if world.is_closed(number) {
            assert!(
                !exchange.is_open(self.client) || self.window.is_some(),
                "closed {number}: {why}"
            );
        }
        if exchange.is_open(self.client) {
            let whole = self.ends.partition_point(|end| *end <= self.sent);
            assert_eq!(given as usize, whole, "frames of client {number}");
            assert_eq!(exchange.unread(self.client), 0);
        }
    }
}
