//! The service of all runs, what it saw, and the tickets that it took.

use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use bytes::Bytes;
use ringhold_core::{
    Abandoned, Ended, Flow, Frame, Peer, Refusal, Reply, Responder, Service, Ticket, TopLevel,
};

use super::item::Ask;
use super::outcome::Reason;
use super::script::{Decision, Plan, Script, Welcome, client_of};
use crate::common::random::filling;

/// Everything that is sent to a client is an array of two; this is the first element.
pub(crate) mod lane {
    pub(crate) const REPLY: u8 = 1;
    pub(crate) const ANSWER: u8 = 2;
    pub(crate) const APOLOGY: u8 = 3;
    pub(crate) const PUSH: u8 = 4;
}

/// What the service saw of one client, and what it has for it.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    pub(crate) connected: usize,
    pub(crate) calls: Vec<Vec<u8>>,
    /// Frames that are kept, with their number among the calls.
    kept: Vec<(usize, Bytes)>,
    /// Those that were not kept as they were.
    pub(crate) changed: Vec<usize>,
    tickets: Vec<Option<Responder>>,
    decisions: Vec<(usize, Decision)>,
    pub(crate) abandoned: Vec<u64>,
    /// Why the session ended, as often as it did.
    pub(crate) ends: Vec<Reason>,
}

/// What the services of all workers and the test have in common.
pub(crate) struct Shared {
    plans: Vec<Plan>,
    outbox_bytes: usize,
    seen: Mutex<Vec<Observed>>,
}

impl Shared {
    pub(crate) fn new(script: &Script) -> Arc<Self> {
        let clients = script.clients.len();
        Arc::new(Shared {
            plans: script.clients.clone(),
            outbox_bytes: script.settings.outbox_bytes,
            seen: Mutex::new((0..clients).map(|_| Observed::default()).collect()),
        })
    }

    pub(crate) fn with<R>(&self, client: usize, look: impl FnOnce(&mut Observed) -> R) -> R {
        look(&mut self.seen.lock().unwrap()[client])
    }

    /// How many tickets this client has that nobody has decided on.
    pub(crate) fn open_tickets(&self, client: usize) -> usize {
        self.with(client, |seen| seen.tickets.iter().flatten().count())
    }

    /// Whether this ticket is open.
    pub(crate) fn has_ticket(&self, client: usize, ticket: usize) -> bool {
        self.with(client, |seen| {
            seen.tickets.get(ticket).is_some_and(Option::is_some)
        })
    }

    pub(crate) fn decide(&self, client: usize, ticket: usize, decision: Decision) {
        self.with(client, |seen| {
            if seen.decisions.iter().all(|(decided, _)| *decided != ticket) {
                seen.decisions.push((ticket, decision));
            }
        });
    }

    /// Answers and drops what was decided on and is there by now.
    pub(crate) fn carry_out(&self) {
        for client in 0..self.plans.len() {
            let due: Vec<_> = self.with(client, |seen| {
                let Observed {
                    tickets, decisions, ..
                } = seen;
                let take = |(ticket, decision): &(usize, Decision)| {
                    let responder = tickets.get_mut(*ticket)?.take()?;
                    Some((*ticket, *decision, responder))
                };
                decisions.iter().filter_map(take).collect()
            });
            for (ticket, decision, responder) in due {
                match decision {
                    Decision::Answer(length) => responder.answer(answer(ticket, length)),
                    Decision::Drop => drop(responder),
                }
            }
        }
    }

    /// Lets go of the frames of this client that were kept, after a look at each.
    pub(crate) fn let_go(&self, client: usize) {
        self.with(client, |seen| {
            let Observed {
                calls,
                kept,
                changed,
                ..
            } = seen;
            let other =
                |(number, frame): (usize, Bytes)| (frame != calls[number]).then_some(number);
            changed.extend(kept.drain(..).filter_map(other));
        });
    }

    /// Drops the tickets of this client that nobody has decided on.
    pub(crate) fn drop_tickets(&self, client: usize) {
        let count = self.with(client, |seen| seen.tickets.len());
        for ticket in 0..count {
            self.decide(client, ticket, Decision::Drop);
        }
        self.carry_out();
    }
}

/// An array of two: the lane, and bytes that follow from the number.
fn message(lane: u8, number: usize, length: usize) -> Vec<u8> {
    let mut message = vec![0x92, lane, 0xc6];
    message.extend((length as u32 + 4).to_be_bytes());
    message.extend((number as u32).to_be_bytes());
    message.extend(filling(number as u64, length));
    message
}

pub(crate) fn greeting(length: usize) -> Vec<u8> {
    message(lane::REPLY, 0, length)
}

pub(crate) fn answer(ticket: usize, length: usize) -> Vec<u8> {
    message(lane::ANSWER, ticket, length)
}

pub(crate) fn apology(ticket: u64) -> Vec<u8> {
    message(lane::APOLOGY, ticket as usize, 0)
}

/// What the frame with this number pushes.
pub(crate) fn push(number: usize, length: u32) -> Vec<u8> {
    message(lane::PUSH, number, length as usize)
}

/// The reply to the frame with this number; empty if there is none.
pub(crate) fn reply_to(number: usize, frame: &[u8]) -> Vec<u8> {
    match Ask::of(frame) {
        Some(Ask::Defer) => Vec::new(),
        Some(Ask::Fill(length) | Ask::Share(length)) => {
            message(lane::REPLY, number, length as usize)
        }
        _ if is_sent_back(frame) => [&[0x92, lane::REPLY], frame].concat(),
        _ => {
            let mut digest = vec![0x92, lane::REPLY, 0xc4, 12];
            digest.extend((number as u32).to_be_bytes());
            digest.extend((frame.len() as u32).to_be_bytes());
            digest.extend(crc32fast::hash(frame).to_be_bytes());
            digest
        }
    }
}

fn is_sent_back(frame: &[u8]) -> bool {
    !frame.len().is_multiple_of(3)
}

/// Answers each frame, and does what some of them ask for. `ARRAYS`: it takes nothing else.
pub(crate) struct Actor<const ARRAYS: bool>(pub(crate) Arc<Shared>);

/// A connection as the service knows it.
pub(crate) struct Session {
    client: usize,
    frames: usize,
}

impl<const ARRAYS: bool> Service for Actor<ARRAYS> {
    type Session = Session;

    const TOP_LEVEL: TopLevel = match ARRAYS {
        true => TopLevel::Array,
        false => TopLevel::Any,
    };

    fn connected(&mut self, peer: &Peer<'_>, reply: &mut Reply<'_>) -> Result<Session, Refusal> {
        let client = client_of(peer.socket_name());
        self.0.with(client, |seen| seen.connected += 1);
        let plan = &self.0.plans[client];
        if let Some(length) = plan.greeting {
            reply.write(|out| out.extend_from_slice(&greeting(length)));
        }
        match plan.welcome {
            Welcome::Accept => Ok(Session { client, frames: 0 }),
            Welcome::Refuse => Err(Refusal::new("on purpose")),
            Welcome::Panic => panic_in_the_middle(reply),
        }
    }

    fn frame(&mut self, session: &mut Session, frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        let (client, number) = (session.client, session.frames);
        session.frames += 1;
        let ask = Ask::of(&frame);
        if let Some(Ask::Nap(milliseconds)) = ask {
            std::thread::sleep(Duration::from_millis(milliseconds.into()));
        }
        self.0.with(client, |seen| {
            seen.calls.push(frame.to_vec());
            if frame.len().is_multiple_of(5) {
                seen.kept.push((number, frame.to_bytes()));
            }
            if ask == Some(Ask::Defer) {
                let ticket = seen.tickets.len();
                let responder = reply.defer(Ticket(ticket as u64));
                seen.tickets.push(Some(responder));
            }
        });
        let bytes = reply_to(number, &frame);
        if matches!(ask, Some(Ask::Share(_))) {
            reply.share(bytes.into());
        } else if ask.is_none() && is_sent_back(&frame) && frame.len().is_multiple_of(2) {
            reply.write(|out| out.extend_from_slice(&[0x92, lane::REPLY]));
            reply.share(frame.to_bytes());
        } else {
            reply.write(|out| out.extend_from_slice(&bytes));
        }
        match ask {
            Some(Ask::Push(length)) => {
                // It may be ending, which is found out by others.
                let _ = reply.handle().push(push(number, length));
            }
            Some(Ask::Flood) => {
                let flood = vec![0xc0; self.0.outbox_bytes + 1];
                let _ = reply.handle().push(flood);
            }
            Some(Ask::Close) => return Flow::close("on purpose"),
            Some(Ask::Panic) => panic_in_the_middle(reply),
            _ => {}
        }
        Flow::Continue
    }

    fn abandoned(
        &mut self,
        session: &mut Session,
        ticket: Ticket,
        _: Abandoned,
        reply: &mut Reply<'_>,
    ) -> Flow {
        self.0
            .with(session.client, |seen| seen.abandoned.push(ticket.0));
        reply.write(|out| out.extend_from_slice(&apology(ticket.0)));
        Flow::Continue
    }

    fn disconnected(&mut self, session: Session, ended: &Ended<'_>) {
        let why = Reason::from(ended.why());
        self.0.with(session.client, |seen| seen.ends.push(why));
    }
}

fn panic_in_the_middle(reply: &mut Reply<'_>) -> ! {
    reply.write(|out| {
        out.extend_from_slice(b"half");
        panic!("on purpose")
    })
}

/// Says nothing of panics on purpose.
pub(crate) fn hush_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.payload().downcast_ref::<&str>() != Some(&"on purpose") {
                usual(info);
            }
        }));
    });
}
