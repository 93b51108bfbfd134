//! What the messages mean.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use bytes::BytesMut;
use ringhold_framer::{Framer, Limits, Progress};
use slab::Slab;

use crate::envelope::{self, Message};
use crate::outbox::Outbox;
use crate::replies::Replies;
use crate::session::Garbage;

/// From this length on an echoed value is sent from where it was received instead of being copied.
const SHARE_BYTES_MIN: usize = 32 * 1024;

/// The most that can be fetched.
const FETCH_BYTES_MAX: usize = 1 << 20;

/// What all sessions of a thread share.
#[derive(Debug)]
pub struct Service {
    pub(crate) framer: Framer,
    subscribers: Slab<Rc<Outbox>>,
    /// What was published since the last [`Service::flush_events`].
    events: BytesMut,
    /// Whether there can be subscribers.
    has_events: bool,
    /// What can be fetched, the first bytes of it, once somebody has.
    stock: Vec<u8>,
}

/// A session's entry in the list of subscribers.
#[derive(Debug)]
pub(crate) struct Subscription {
    key: usize,
    pub(crate) outbox: Rc<Outbox>,
}

/// A result that is too long to be copied: this part of the frame.
#[derive(Debug)]
pub(crate) struct Large {
    pub(crate) id: u32,
    pub(crate) result: Range<usize>,
}

impl Service {
    /// Without subscribers.
    pub fn new() -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            has_events: true,
            ..Self::without_events()
        }))
    }

    /// For sessions that move between threads, and can subscribe at none of them.
    pub fn without_events() -> Self {
        Self {
            framer: Framer::new(Limits::default()),
            subscribers: Slab::new(),
            events: BytesMut::new(),
            has_events: false,
            stock: Vec::new(),
        }
    }

    /// Lets the framer see more bytes. A frame that it refuses costs the connection, not the framer.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<Progress, Garbage> {
        self.framer.feed(bytes).map_err(|_| {
            self.framer.reset();
            Garbage
        })
    }

    /// Does what a message asks for. A large result is left to the caller, who knows whether its bytes can be kept.
    pub(crate) fn message(
        &mut self,
        frame: &[u8],
        subscription: &mut Option<Subscription>,
        replies: &mut Replies,
    ) -> Result<Option<Large>, Garbage> {
        match envelope::parse(frame).ok_or(Garbage)? {
            Message::Request { id, method, params } => match method {
                b"echo" => {
                    let result = envelope::only(params);
                    if result.len() >= SHARE_BYTES_MIN {
                        // The parameters end where the frame does.
                        let result = frame.len() - result.len()..frame.len();
                        return Ok(Some(Large { id, result }));
                    }
                    replies.result(id, result);
                }
                b"fetch" => {
                    let bytes = envelope::only_number(params, FETCH_BYTES_MAX).ok_or(Garbage)?;
                    if self.stock.is_empty() {
                        self.stock = (0..FETCH_BYTES_MAX).map(|at| (at % 251) as u8).collect();
                    }
                    replies.binary(id, &self.stock[..bytes]);
                }
                b"ping" => replies.result(id, b"\xa4pong"),
                _ => replies.error(id, "there is no such method"),
            },
            Message::Notification { method, params } => match method {
                b"publish" => self.publish(params),
                b"subscribe" if self.has_events && subscription.is_none() => {
                    // It gets what is published from here on.
                    self.flush_events();
                    *subscription = Some(self.subscribe());
                }
                _ => {}
            },
            Message::Response => {}
        }
        Ok(None)
    }

    fn publish(&mut self, params: &[u8]) {
        if self.subscribers.is_empty() {
            return;
        }
        self.events.reserve(8 + params.len());
        self.events.extend_from_slice(b"\x93\x02\xa5event");
        self.events.extend_from_slice(params);
    }

    /// Gives what was published to the subscribers: one buffer, shared by all of them.
    pub(crate) fn flush_events(&mut self) {
        if self.events.is_empty() {
            return;
        }
        let events = self.events.split().freeze();
        for (_, outbox) in &self.subscribers {
            outbox.push(events.clone());
        }
    }

    fn subscribe(&mut self) -> Subscription {
        let outbox = Rc::new(Outbox::default());
        let key = self.subscribers.insert(outbox.clone());
        Subscription { key, outbox }
    }

    pub(crate) fn unsubscribe(&mut self, subscription: &Subscription) {
        self.subscribers.remove(subscription.key);
        subscription.outbox.close();
    }
}
