//! The service that the tests talk to, and what it saw.

use std::cell::{Cell, Ref, RefCell};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::sync::Once;

use bytes::Bytes;
use ringhold_core::limits::Limits;
use ringhold_core::testing::{Client, Exchange, Setup};
use ringhold_core::{
    Abandoned, Ended, Flow, Frame, Handle, Peer, Refusal, Reply, Responder, Service, Ticket,
};

/// What the second byte of an array asks of [`Actor`]. Every other frame is sent back as it came.
pub(crate) mod verb {
    /// `[DEFER, n]`: takes ticket n.
    pub(crate) const DEFER: u8 = 0x71;
    /// `[REPLY, uint32]`: answers with so many bytes.
    pub(crate) const REPLY: u8 = 0x72;
    /// `[CLOSE]`: is sent back, then the connection is closed.
    pub(crate) const CLOSE: u8 = 0x73;
    /// `[PANIC]`: writes a whole reply, begins another one and panics.
    pub(crate) const PANIC: u8 = 0x74;
    /// `[PUSH, n]`: pushes n to the own connection, then sends the frame back.
    pub(crate) const PUSH: u8 = 0x75;
    /// `[KEEP, ...]`: keeps the frame.
    pub(crate) const KEEP: u8 = 0x76;
    /// `[SHARE, ...]`: sends the frame back as shared bytes.
    pub(crate) const SHARE: u8 = 0x77;
    /// `[LOOK, n]`: looks whether a handle that is made is open.
    pub(crate) const LOOK: u8 = 0x78;
    /// `[REJECT]`: is of no use.
    pub(crate) const REJECT: u8 = 0x79;
}

/// What [`verb::PANIC`] writes before the reply that it does not finish.
pub(crate) const BEFORE_PANIC: u8 = 0x2a;

/// What the service has seen and holds, for a test to look at and to act with.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) connected: usize,
    /// Frames with the number of their connection.
    pub(crate) frames: Vec<(usize, Vec<u8>)>,
    pub(crate) kept: Vec<Bytes>,
    pub(crate) responders: Vec<Responder>,
    /// Whether each of them was wanted when it was made.
    pub(crate) wanted: Vec<bool>,
    /// Whether each handle was open that [`verb::LOOK`] has made.
    pub(crate) open: Vec<bool>,
    /// One of each connection, made when it was connected.
    pub(crate) handles: Vec<Handle>,
    /// Tickets that were abandoned, with the number of their connection.
    pub(crate) abandoned: Vec<(usize, u64, Abandoned)>,
    /// Ends of sessions: the number of the connection and the reason.
    pub(crate) ends: Vec<(usize, String)>,
}

/// How the service behaves besides what frames ask of it.
#[derive(Default)]
pub(crate) struct Manner {
    pub(crate) greeting: &'static [u8],
    pub(crate) refuses: Option<&'static str>,
    /// Makes a handle for every connection.
    pub(crate) makes_handles: bool,
    /// What is written for an abandoned ticket, before its number; without it the default is done.
    pub(crate) apology: Option<u8>,
    /// The call that panics: its name, and the number of the connection.
    pub(crate) panics_in: Option<(&'static str, usize)>,
}

pub(crate) struct Actor {
    seen: Rc<RefCell<Seen>>,
    manner: Manner,
}

impl Actor {
    fn panic_if_due(&self, call: &str, session: usize) {
        if self.manner.panics_in == Some((call, session)) {
            panic!("on purpose in {call}");
        }
    }
}

impl Service for Actor {
    /// The number of the connection, counted from 0.
    type Session = usize;

    fn connected(&mut self, peer: &Peer<'_>, reply: &mut Reply<'_>) -> Result<usize, Refusal> {
        let number = self.seen.borrow().connected;
        self.seen.borrow_mut().connected += 1;
        if !self.manner.greeting.is_empty() {
            reply.write(|out| out.extend_from_slice(self.manner.greeting));
        }
        if self.manner.makes_handles {
            self.seen.borrow_mut().handles.push(peer.handle());
        }
        self.panic_if_due("connected", number);
        match self.manner.refuses {
            Some(reason) => Err(Refusal::new(reason)),
            None => Ok(number),
        }
    }

    fn frame(&mut self, session: &mut usize, frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        let mut seen = self.seen.borrow_mut();
        seen.frames.push((*session, frame.to_vec()));
        let verb = match frame.first() {
            Some(0x90..=0x9f) => frame.get(1).copied(),
            _ => None,
        };
        match (verb, frame.get(2)) {
            (Some(verb::DEFER), Some(&n)) => {
                let responder = reply.defer(Ticket(u64::from(n)));
                seen.wanted.push(responder.is_wanted());
                seen.responders.push(responder);
            }
            (Some(verb::REPLY), _) => {
                let length = u32::from_be_bytes(frame[3..7].try_into().unwrap());
                reply.write(|out| out.extend_from_slice(&pattern(length as usize)));
            }
            (Some(verb::CLOSE), _) => {
                reply.write(|out| out.extend_from_slice(&frame));
                return Flow::close("asked to");
            }
            (Some(verb::REJECT), _) => return Flow::reject("of no use"),
            (Some(verb::PANIC), _) => {
                drop(seen);
                reply.write(|out| out.push(BEFORE_PANIC));
                reply.write(|out| {
                    out.extend_from_slice(b"half");
                    panic!("on purpose");
                });
            }
            (Some(verb::PUSH), Some(&n)) => {
                reply.handle().push(vec![n]).unwrap();
                reply.write(|out| out.extend_from_slice(&frame));
            }
            (Some(verb::LOOK), _) => seen.open.push(reply.peer().handle().is_open()),
            (Some(verb::KEEP), _) => seen.kept.push(frame.to_bytes()),
            (Some(verb::SHARE), _) => reply.share(frame.to_bytes()),
            _ => reply.write(|out| out.extend_from_slice(&frame)),
        }
        Flow::Continue
    }

    fn abandoned(
        &mut self,
        session: &mut usize,
        ticket: Ticket,
        why: Abandoned,
        reply: &mut Reply<'_>,
    ) -> Flow {
        let record = (*session, ticket.0, why);
        self.seen.borrow_mut().abandoned.push(record);
        self.panic_if_due("abandoned", *session);
        match self.manner.apology {
            Some(apology) => {
                reply.write(|out| out.extend_from_slice(&[apology, ticket.0 as u8]));
                Flow::Continue
            }
            None => Flow::close(why.to_string()),
        }
    }

    fn disconnected(&mut self, session: usize, ended: &Ended<'_>) {
        self.seen
            .borrow_mut()
            .ends
            .push((session, ended.why().to_string()));
        self.panic_if_due("disconnected", session);
    }
}

/// An exchange with an [`Actor`]. At the end of the test it checks that the core itself did not panic.
pub(crate) struct Rig {
    exchange: Exchange,
    seen: Rc<RefCell<Seen>>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(Limits::default(), Manner::default())
    }

    pub(crate) fn with_limits(limits: Limits) -> Self {
        Self::with(limits, Manner::default())
    }

    pub(crate) fn with_manner(manner: Manner) -> Self {
        Self::with(Limits::default(), manner)
    }

    pub(crate) fn with(limits: Limits, manner: Manner) -> Self {
        Self::make(manner, |actor| Exchange::with_limits(actor, limits))
    }

    /// With sockets "usual" and "own", of which the latter has limits of its own.
    pub(crate) fn with_own(limits: Limits, own: Limits, manner: Manner) -> Self {
        Self::make(manner, |actor| {
            let setup = Setup::new(limits).service("actor", &["usual"], |_| actor);
            setup.socket("own", own).start()
        })
    }

    fn make(manner: Manner, start: impl FnOnce(Actor) -> Exchange) -> Self {
        watch_panics();
        let seen = Rc::new(RefCell::new(Seen::default()));
        let actor = Actor {
            seen: seen.clone(),
            manner,
        };
        Rig {
            exchange: start(actor),
            seen,
        }
    }

    pub(crate) fn seen(&self) -> Ref<'_, Seen> {
        self.seen.borrow()
    }

    /// How often the service was given a frame.
    pub(crate) fn frames(&self) -> usize {
        self.seen().frames.len()
    }

    /// Takes the oldest responder out.
    pub(crate) fn responder(&self) -> Responder {
        self.take_responder(0)
    }

    /// Takes the responder with this number out, counted from the oldest one that is left.
    pub(crate) fn take_responder(&self, number: usize) -> Responder {
        self.seen.borrow_mut().responders.remove(number)
    }

    /// Takes all of them out.
    pub(crate) fn take_responders(&self) -> Vec<Responder> {
        std::mem::take(&mut self.seen.borrow_mut().responders)
    }

    /// Drops everything that the service holds.
    pub(crate) fn let_go(&mut self) {
        let mut seen = self.seen.borrow_mut();
        let responders = std::mem::take(&mut seen.responders);
        seen.handles.clear();
        seen.kept.clear();
        drop(seen);
        drop(responders);
        self.deliver();
    }

    /// The reasons why the sessions ended, in the order in which they did.
    pub(crate) fn reasons(&self) -> Vec<String> {
        self.seen()
            .ends
            .iter()
            .map(|(_, why)| why.clone())
            .collect()
    }

    /// Checks that nothing is left of any connection.
    #[track_caller]
    pub(crate) fn assert_empty(&mut self, clients: &[Client]) {
        for (number, client) in clients.iter().enumerate() {
            assert!(!self.is_open(*client), "connection {number} is open");
        }
        assert_eq!(self.counters().open, 0);
        assert_eq!(self.memory_held(), 0, "memory is held for nobody");
        assert_eq!(internal_panics(), 0, "the core panicked");
    }
}

impl Deref for Rig {
    type Target = Exchange;

    fn deref(&self) -> &Exchange {
        &self.exchange
    }
}

impl DerefMut for Rig {
    fn deref_mut(&mut self) -> &mut Exchange {
        &mut self.exchange
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(internal_panics(), 0, "the core panicked");
        }
    }
}

thread_local! {
    static INTERNAL_PANICS: Cell<usize> = const { Cell::new(0) };
}

/// Panics on this thread that no test meant. A panic within a service call is caught, a failed assertion of the core
/// with it, so they must be counted to be noticed.
pub(crate) fn internal_panics() -> usize {
    INTERNAL_PANICS.get()
}

/// Counts them anew.
pub(crate) fn watch_panics() {
    INTERNAL_PANICS.set(0);
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let payload = info.payload();
            let text = payload.downcast_ref::<String>().map(|text| &text[..]);
            let text = text.or(payload.downcast_ref::<&str>().copied());
            if text.is_some_and(|text| text.starts_with("on purpose")) {
                return;
            }
            INTERNAL_PANICS.set(INTERNAL_PANICS.get() + 1);
            usual(info);
        }));
    });
}

/// Bytes that tell their place.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| ((i * 7) ^ (i >> 8)) as u8).collect()
}

/// A bin object with `length` bytes of payload, `mark` being the first of them.
pub(crate) fn bin(length: usize, mark: u8) -> Vec<u8> {
    let mut frame = vec![0xc6];
    frame.extend_from_slice(&(length as u32).to_be_bytes());
    frame.extend_from_slice(&pattern(length));
    if let Some(first) = frame.get_mut(5) {
        *first = mark;
    }
    frame
}

/// An array of these objects.
pub(crate) fn array(parts: &[&[u8]]) -> Vec<u8> {
    let mut frame = vec![0x90 | parts.len() as u8];
    frame.extend(parts.concat());
    frame
}

/// Asks for a reply of `length` bytes.
pub(crate) fn ask(length: usize) -> Vec<u8> {
    let mut frame = vec![0x92, verb::REPLY, 0xce];
    frame.extend_from_slice(&(length as u32).to_be_bytes());
    frame
}

/// Asks for ticket `n`.
pub(crate) fn defer(n: u8) -> [u8; 3] {
    [0x92, verb::DEFER, n]
}
