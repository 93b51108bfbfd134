//! The service that the clients of a successor talk to, and what it and they know of each other.

use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use ringhold_core::{
    Abandoned, Close, Ended, Flow, Frame, Handle, Peer, PushError, Refusal, Reply, Responder,
    RestoreError, Saved, Service, Ticket,
};

/// What a client asks for.
pub(super) mod ask {
    pub(crate) const WRITE: u8 = 0;
    pub(crate) const SHARE: u8 = 1;
    pub(crate) const DEFER: u8 = 2;
    /// Is replied to, and pushes to its own connection.
    pub(crate) const PUSH: u8 = 3;
    /// Pushes to all connections.
    pub(crate) const PUBLISH: u8 = 4;
    /// Is replied to with about half of what may wait.
    pub(crate) const MUCH: u8 = 5;
    /// Says how the session is handed over from now on.
    pub(crate) const BECOME: u8 = 6;
    /// Is replied to, pushes to its own connection and ends it.
    pub(crate) const CLOSE: u8 = 7;
    /// As [`DEFER`], but the successor may be asked.
    pub(crate) const WAIT: u8 = 8;
}

/// What a client is sent.
pub(super) mod told {
    pub(crate) const REPLY: u8 = b'R';
    pub(crate) const PUSH: u8 = b'P';
    pub(crate) const ANSWER: u8 = b'A';
    pub(crate) const APOLOGY: u8 = b'X';
}

/// What a record begins with: what it is, its number, and how many bytes follow.
pub(super) const HEAD_BYTES: usize = 9;

/// The reason that [`ask::CLOSE`] gives.
pub(super) const ASKED: &str = "asked to";

/// A record of this kind and number, with as many bytes of its own.
fn record(what: u8, number: u32, length: usize) -> Vec<u8> {
    let mut record = vec![what];
    record.extend(number.to_be_bytes());
    record.extend((length as u32).to_be_bytes());
    record.resize(HEAD_BYTES + length, filling(what, number));
    record
}

/// What the bytes of a record are.
pub(super) fn filling(what: u8, number: u32) -> u8 {
    what ^ number as u8
}

/// What is known of all clients, by their numbers, whichever successor serves them.
#[derive(Default)]
struct Known {
    handles: BTreeMap<u32, Handle>,
    /// How many pushes were accepted, and how many bytes those and the others had.
    pushed: BTreeMap<u32, (u32, usize)>,
    owed: Vec<Owed>,
    /// How many frames were given to a service.
    given: BTreeMap<u32, u32>,
    /// Why connections have ended.
    ends: BTreeMap<u32, String>,
    /// How many of them a successor could not go on with.
    unsaved: u64,
    faults: Vec<String>,
    /// Clients whose connections were closed through their handles.
    closed: BTreeSet<u32>,
    /// How many successors there were.
    successions: u32,
    /// Whose requests may be asked again, and which of the successors was asked last.
    waiting: BTreeMap<(u32, u32), u32>,
    /// The last request of each that was asked again, and of which successor.
    again: BTreeMap<u32, (u32, u32)>,
    asked_again: u64,
    /// Answers that were accepted, and those that were not of requests that nobody has asked again.
    accepted: BTreeSet<(u32, u32)>,
    refused: BTreeSet<(u32, u32)>,
}

struct Owed {
    client: u32,
    /// Of the request.
    number: u32,
    responder: Responder,
    /// Which of the successors owes it.
    by: u32,
}

/// What becomes of a promise.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Drop,
    Answer,
    Try,
}

#[derive(Clone, Default)]
pub(super) struct World(Rc<RefCell<Known>>);

impl World {
    fn known(&self) -> RefMut<'_, Known> {
        self.0.borrow_mut()
    }

    /// Pushes the next record to a client whose handle is known.
    pub(super) fn push(&self, client: u32, length: usize) {
        let mut known = self.known();
        let Some(handle) = known.handles.get(&client).cloned() else {
            return;
        };
        let (count, bytes) = known.pushed.entry(client).or_default();
        let record = record(told::PUSH, *count, length);
        *bytes += record.len();
        match handle.push(record) {
            Ok(()) => *count += 1,
            Err(PushError::Gone | PushError::Overflow) => {}
            Err(other) => panic!("{other}"),
        }
    }

    /// Closes a connection through its handle. A push behind that must be refused.
    pub(super) fn close(&self, client: u32) {
        let mut known = self.known();
        let Some(handle) = known.handles.get(&client).cloned() else {
            return;
        };
        if handle.close(ASKED).is_ok() {
            assert!(known.closed.insert(client), "closed twice");
            drop(known);
            self.push(client, 5);
        }
    }

    /// Whether its handle has closed it.
    pub(super) fn is_closed(&self, client: u32) -> bool {
        self.known().closed.contains(&client)
    }

    fn publish(&self, length: usize) {
        let clients: Vec<u32> = self.known().handles.keys().copied().collect();
        for client in clients {
            self.push(client, length);
        }
    }

    /// Answers one of the requests that are owed an answer, or drops it. Returns whether there is one.
    pub(super) fn answer_one(&self, chosen: usize, how: How) -> bool {
        let count = self.known().owed.len();
        if count == 0 {
            return false;
        }
        let owed = self.known().owed.swap_remove(chosen % count);
        self.end_one(owed, how);
        true
    }

    fn end_one(&self, owed: Owed, how: How) {
        let Owed {
            client,
            number,
            responder,
            by,
        } = owed;
        let length = (client + number) as usize % 900;
        let answer = record(told::ANSWER, number, length);
        match how {
            How::Drop => drop(responder),
            How::Answer => responder.answer(answer),
            How::Try => {
                let is_wanted = responder.is_wanted();
                let result = responder.try_answer(answer);
                assert_eq!(result.is_ok(), is_wanted, "nobody else does anything");
                let mut known = self.known();
                match result {
                    Ok(()) => assert!(known.accepted.insert((client, number))),
                    // Another one may have been asked since.
                    Err(_) if known.successions > by => {}
                    Err(_) => {
                        known.refused.insert((client, number));
                    }
                }
            }
        }
    }

    /// Returns whether any was owed.
    pub(super) fn answer_all(&self) -> bool {
        let owed = std::mem::take(&mut self.known().owed);
        let is_any = !owed.is_empty();
        for owed in owed {
            let how = [How::Answer, How::Try][owed.number as usize % 2];
            self.end_one(owed, how);
        }
        is_any
    }

    pub(super) fn asked_again(&self) -> u64 {
        self.known().asked_again
    }

    /// The requests of a client whose answers were accepted.
    pub(super) fn accepted(&self, client: u32) -> Vec<u32> {
        of(&self.known().accepted, client)
    }

    /// Those whose last answers were not.
    pub(super) fn refused(&self, client: u32) -> Vec<u32> {
        let known = self.known();
        let refused = known.refused.difference(&known.accepted);
        of(&refused.copied().collect(), client)
    }

    /// How many frames of a client were given to a service.
    pub(super) fn given(&self, client: u32) -> u32 {
        self.known().given.get(&client).copied().unwrap_or(0)
    }

    /// How many pushes to a client were accepted, and how many bytes those and the others had.
    pub(super) fn pushed(&self, client: u32) -> (u32, usize) {
        self.known().pushed.get(&client).copied().unwrap_or((0, 0))
    }

    /// Why its connection has ended, or nothing.
    pub(super) fn end_of(&self, client: u32) -> String {
        self.known().ends.get(&client).cloned().unwrap_or_default()
    }

    pub(super) fn unsaved(&self) -> u64 {
        self.known().unsaved
    }

    /// What services were given was right.
    pub(super) fn check(&self) {
        assert_eq!(self.known().faults, [""; 0]);
    }
}

fn of(requests: &BTreeSet<(u32, u32)>, client: u32) -> Vec<u32> {
    let requests = requests.range((client, 0)..(client + 1, 0));
    requests.map(|(_, number)| *number).collect()
}

/// How a session is handed over.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Saved,
    Stateless,
    Unsaved,
}

/// What a session knows of its client, if it has heard of it.
#[derive(Default)]
pub(super) struct Session {
    /// The client, and the number of its next frame.
    heard: Option<(u32, u32)>,
    kind: Kind,
}

/// Notices every frame that does not come in its turn.
pub(super) struct Careful(World, u32);

impl Careful {
    pub(super) fn new(world: World) -> Self {
        world.known().successions += 1;
        let number = world.known().successions;
        Careful(world, number)
    }

    /// A request was given that may be asked again. Returns whether it is.
    fn is_again(&self, session: &mut Session, client: u32, number: u32, reply: &Reply<'_>) -> bool {
        let mut known = self.0.known();
        let known = &mut *known;
        let before = known.waiting.insert((client, number), self.1);
        let Some(before) = before else {
            return false;
        };
        known.asked_again += 1;
        let last = known.again.insert(client, (self.1, number));
        if before >= self.1 || last >= Some((self.1, number)) {
            let fault = format!("{client}: {number} again of {before}, behind {last:?}");
            known.faults.push(fault);
        }
        if known.accepted.contains(&(client, number)) {
            known
                .faults
                .push(format!("{client}: {number} again, answered"));
        }
        known.refused.remove(&(client, number));
        session.heard.get_or_insert((client, known.given[&client]));
        let handles = &mut known.handles;
        handles.entry(client).or_insert_with(|| reply.handle());
        true
    }

    /// A frame was given.
    fn note(&self, session: &mut Session, client: u32, number: u32, reply: &Reply<'_>) {
        let mut known = self.0.known();
        let next = known.given.entry(client).or_default();
        let expected = std::mem::replace(next, number + 1);
        let heard = session.heard.unwrap_or((client, expected));
        session.heard = Some((client, number + 1));
        if expected != number || heard != (client, number) {
            let fault = format!("{client} sent {number}, due was {expected}, heard {heard:?}");
            known.faults.push(fault);
        }
        let handles = &mut known.handles;
        handles.entry(client).or_insert_with(|| reply.handle());
    }
}

impl Service for Careful {
    type Session = Session;

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<Session, Refusal> {
        Ok(Session::default())
    }

    fn frame(&mut self, session: &mut Session, frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        let request = Request::read(&frame);
        let Request {
            client,
            number,
            amount,
            ..
        } = request;
        if request.ask != ask::WAIT || !self.is_again(session, client, number, reply) {
            self.note(session, client, number, reply);
        }
        let length = match request.ask {
            ask::WRITE => amount % 300,
            ask::SHARE => amount % 5000,
            ask::MUCH => 9000 + amount % 9000,
            ask::DEFER | ask::WAIT => {
                let ticket = Ticket(number.into());
                let responder = match request.ask {
                    ask::WAIT => reply.defer_repeatable(ticket, &frame),
                    _ => reply.defer(ticket),
                };
                self.0.known().owed.push(Owed {
                    client,
                    number,
                    responder,
                    by: self.1,
                });
                return Flow::Continue;
            }
            _ => 1,
        };
        let record = record(told::REPLY, number, length);
        match request.ask {
            ask::SHARE => reply.share(record.into()),
            _ => reply.write(|out| out.extend(record)),
        }
        match request.ask {
            ask::PUSH => self.0.push(client, amount % 2000),
            ask::PUBLISH if amount % 23 == 0 => {
                self.0.publish(amount % 700);
                self.0.close((amount / 23) as u32 % 6);
                self.0.publish(3);
            }
            ask::PUBLISH => self.0.publish(amount % 700),
            ask::BECOME => {
                let kinds = [Kind::Saved, Kind::Stateless, Kind::Unsaved];
                session.kind = kinds[amount % kinds.len()];
            }
            ask::CLOSE => {
                self.0.push(client, 5);
                return Flow::close(ASKED);
            }
            _ => {}
        }
        Flow::Continue
    }

    fn abandoned(
        &mut self,
        _: &mut Session,
        ticket: Ticket,
        _: Abandoned,
        reply: &mut Reply<'_>,
    ) -> Flow {
        let apology = record(told::APOLOGY, ticket.0 as u32, 0);
        reply.write(|out| out.extend(apology));
        Flow::Continue
    }

    fn disconnected(&mut self, session: Session, ended: &Ended<'_>) {
        let Some((client, _)) = session.heard else {
            return;
        };
        let mut known = self.0.known();
        known.handles.remove(&client);
        if !matches!(ended.why(), Close::HandedOver) {
            known.ends.insert(client, ended.why().to_string());
        }
        known.unsaved += u64::from(matches!(ended.why(), Close::Stopping));
    }

    fn save(&self, session: &Session) -> Saved {
        match (session.kind, session.heard) {
            (Kind::Saved, Some((client, number))) => {
                Saved::Bytes([client.to_be_bytes(), number.to_be_bytes()].concat().into())
            }
            (Kind::Unsaved, _) => Saved::Close,
            (Kind::Stateless, _) | (Kind::Saved, None) => Saved::Stateless,
        }
    }

    fn restore(&mut self, peer: &Peer<'_>, saved: &[u8]) -> Result<Session, RestoreError> {
        let [client, number] = [0, 4].map(|at| number_at(saved, at));
        self.0.known().handles.insert(client, peer.handle());
        Ok(Session {
            heard: Some((client, number)),
            kind: Kind::Saved,
        })
    }
}

fn number_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// The contents of a frame: a bin object.
pub(super) struct Request {
    pub(super) ask: u8,
    pub(super) client: u32,
    pub(super) number: u32,
    /// How much is asked for, from 0 to 65535.
    pub(super) amount: usize,
}

impl Request {
    /// The frame, with so many bytes that mean nothing.
    pub(super) fn frame(&self, padding: usize) -> Vec<u8> {
        let mut body = vec![self.ask];
        body.extend(self.client.to_be_bytes());
        body.extend(self.number.to_be_bytes());
        body.extend((self.amount as u16).to_be_bytes());
        body.resize(body.len() + padding, 0xc1);
        let mut frame = vec![0xc5];
        frame.extend((body.len() as u16).to_be_bytes());
        frame.extend(body);
        frame
    }

    fn read(frame: &[u8]) -> Self {
        let body = &frame[3..];
        Request {
            ask: body[0],
            client: number_at(body, 1),
            number: number_at(body, 5),
            amount: usize::from(u16::from_be_bytes([body[9], body[10]])),
        }
    }
}

/// Takes the first record off `bytes`: what it is, and its number. `None` if there is no whole one.
pub(super) fn take_record(bytes: &mut &[u8]) -> Option<(u8, u32)> {
    let (head, rest) = bytes.split_at_checked(HEAD_BYTES)?;
    let (what, number) = (head[0], number_at(head, 1));
    let (body, rest) = rest.split_at_checked(number_at(head, 5) as usize)?;
    let filling = filling(what, number);
    assert!(body.iter().all(|byte| *byte == filling), "bytes of others");
    *bytes = rest;
    Some((what, number))
}
