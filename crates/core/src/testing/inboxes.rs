//! Several threads that push to connections, answer and close them while those are served, end and are handed over.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Client, Exchange};
use crate::frame::Frame;
use crate::peer::{Handle, Peer, PushError};
use crate::reply::{Abandoned, Reply, Responder, Ticket};
use crate::service::{Flow, Refusal, Saved, Service};
use crate::tick::Tick;

const CLIENTS: usize = 6;
const THREADS: usize = 3;
/// What is said: where it comes from, how many it has said before, and padding that makes some of it too much to be copied.
const RECORD_BYTES: usize = 8;

/// The worker's own thread; others have their number.
const OWN: u8 = 100;
/// Said under a lock by whichever thread.
const LOCKED: u8 = 101;
/// Said when the last reference to other bytes goes, wherever that is.
const LAST: u8 = 102;
/// Told to the service.
const ABANDONED: u8 = 103;
/// What the requests begin with of which the successor is asked again, before the number of the promise. No client sends that.
const AGAIN: u8 = 0xcd;

/// Random enough, and follows from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// What one connection was told, from the outside.
struct Target {
    handle: Mutex<Option<Handle>>,
    /// The next number that is said under this lock.
    locked: Mutex<u32>,
    last: AtomicU32,
    /// What was accepted, by where it came from.
    accepted: Mutex<BTreeMap<u8, Vec<u32>>>,
    /// What was tried to answer: to which ticket, from where with which number, and whether it was accepted.
    tried: Mutex<Vec<(u32, u8, u32, bool)>>,
    is_closed: AtomicBool,
}

impl Target {
    fn new() -> Self {
        Target {
            handle: Mutex::default(),
            locked: Mutex::default(),
            last: AtomicU32::new(0),
            accepted: Mutex::default(),
            tried: Mutex::default(),
            is_closed: AtomicBool::new(false),
        }
    }

    fn note(&self, from: u8, number: u32, result: Result<(), PushError>) {
        match result {
            Ok(()) => {
                let mut accepted = self.accepted.lock().unwrap();
                accepted.entry(from).or_default().push(number);
            }
            Err(error) => assert_eq!(error, PushError::Gone),
        }
    }

    fn handle(&self) -> Handle {
        self.handle.lock().unwrap().clone().unwrap()
    }
}

fn record(from: u8, number: u32) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    record[0] = from;
    record[4..].copy_from_slice(&number.to_le_bytes());
    record
}

/// Bytes that say something else when they go.
struct Owner {
    record: [u8; RECORD_BYTES],
    target: Arc<Target>,
    handle: Handle,
}

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.record
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let number = self.target.last.fetch_add(1, Ordering::Relaxed);
        let result = self.handle.push(record(LAST, number).to_vec());
        self.target.note(LAST, number, result);
    }
}

/// Who says something.
struct Speaker {
    from: u8,
    number: u32,
    targets: Arc<[Arc<Target>]>,
    random: Random,
}

impl Speaker {
    fn next(&mut self) -> (u32, [u8; RECORD_BYTES]) {
        self.number += 1;
        (self.number, record(self.from, self.number))
    }

    fn push(&mut self, to: usize) {
        let target = self.targets[to].clone();
        let handle = target.handle();
        match self.random.below(8) {
            0 => {
                let mut next = target.locked.lock().unwrap();
                let result = handle.push(record(LOCKED, *next).to_vec());
                target.note(LOCKED, *next, result);
                *next += 1;
            }
            1 => {
                let (number, record) = self.next();
                let other = self.targets[self.random.below(CLIENTS as u64) as usize].clone();
                let owner = Owner {
                    record,
                    handle: other.handle(),
                    target: other,
                };
                let result = handle.push(Bytes::from_owner(owner));
                target.note(self.from, number, result);
            }
            _ => {
                let (number, record) = self.next();
                let result = handle.push(record.to_vec());
                target.note(self.from, number, result);
            }
        }
    }

    /// The same to all.
    fn publish(&mut self) {
        let (number, record) = self.next();
        let event = Bytes::copy_from_slice(&record);
        for target in self.targets.iter() {
            let result = target.handle().push_shared(&event);
            target.note(self.from, number, result);
        }
    }

    fn answer(&mut self, asked: Asked) {
        let (number, record) = self.next();
        if self.random.below(2) == 0 {
            // Whether it comes is another question, but it is not said twice, nor out of order.
            asked.responder.answer(record.to_vec());
            return;
        }
        let answered = asked.responder.try_answer(record.to_vec());
        let tried = (asked.ticket, self.from, number, answered.is_ok());
        self.targets[asked.of].tried.lock().unwrap().push(tried);
    }

    fn close(&mut self, to: usize) {
        let target = &self.targets[to];
        if target.handle().close("on purpose").is_ok() {
            target.is_closed.store(true, Ordering::Relaxed);
        }
    }

    fn somebody(&mut self) -> usize {
        self.random.below(CLIENTS as u64) as usize
    }
}

/// A promise.
struct Asked {
    /// Whose.
    of: usize,
    ticket: u32,
    responder: Responder,
}

/// Does on the worker's thread what others do on theirs.
struct Speaking {
    own: Speaker,
    asked: Sender<Asked>,
    connected: usize,
    /// Who cannot be handed over.
    unsaved: Option<usize>,
    ticks: bool,
    /// How many promises were made to each, and how many of them the service was told that they are not kept.
    promises: Arc<[AtomicU32; CLIENTS]>,
}

impl Service for Speaking {
    type Session = usize;

    fn connected(&mut self, peer: &Peer<'_>, _: &mut Reply<'_>) -> Result<usize, Refusal> {
        let number = self.connected;
        self.connected += 1;
        *self.own.targets[number].handle.lock().unwrap() = Some(peer.handle());
        Ok(number)
    }

    fn frame(&mut self, me: &mut usize, frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        let promise = |reply: &mut Reply<'_>| {
            let number = self.promises[*me].fetch_add(1, Ordering::Relaxed);
            let ticket = Ticket(u64::from(number));
            let [low, high, ..] = number.to_le_bytes();
            Asked {
                of: *me,
                ticket: number,
                responder: match frame[0] < 80 {
                    true => reply.defer_repeatable(ticket, &[AGAIN, high, low]),
                    false => reply.defer(ticket),
                },
            }
        };
        match frame[0] % 8 {
            0 => self.own.publish(),
            1 => {
                let _ = self.asked.send(promise(reply));
            }
            2 => {
                let asked = promise(reply);
                self.own.answer(asked);
            }
            3 => drop(promise(reply)),
            _ => {
                let to = self.own.somebody();
                self.own.push(to);
            }
        }
        Flow::Continue
    }

    fn abandoned(
        &mut self,
        me: &mut usize,
        ticket: Ticket,
        _: Abandoned,
        reply: &mut Reply<'_>,
    ) -> Flow {
        reply.write(|out| out.extend_from_slice(&record(ABANDONED, ticket.0 as u32)));
        let to = self.own.somebody();
        self.own.push(*me);
        self.own.push(to);
        Flow::Continue
    }

    fn tick(&mut self, _: &Tick<'_>) -> Option<Duration> {
        self.ticks.then_some(Duration::from_millis(1))
    }

    fn save(&self, me: &usize) -> Saved {
        match self.unsaved == Some(*me) {
            true => Saved::Close,
            false => Saved::Bytes(Bytes::new()),
        }
    }
}

/// What others do until nobody listens any more.
fn speak(mut speaker: Speaker, asked: &Mutex<Receiver<Asked>>, ends: bool, is_over: &AtomicBool) {
    let mut promises = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let to = speaker.somebody();
        match speaker.random.below(40) {
            // More than is taken at once.
            0 => (0..100).for_each(|_| speaker.push(to)),
            1 => speaker.publish(),
            2..8 => {
                promises.extend(asked.lock().unwrap().try_iter().take(3));
                while promises.len() > 5 {
                    let at = speaker.random.below(promises.len() as u64) as usize;
                    let asked: Asked = promises.swap_remove(at);
                    match speaker.random.below(4) {
                        0 => drop(asked),
                        _ => speaker.answer(asked),
                    }
                }
            }
            8 if ends && to < 2 => speaker.close(to),
            9..20 => std::thread::yield_now(),
            _ => speaker.push(to),
        }
    }
}

/// What a client was sent is what was accepted, once each, in the order in which each thread said it, and as it was said under the lock.
fn check(
    seed: u64,
    client: usize,
    sent: &[u8],
    again: &[u32],
    target: &Target,
    is_open: bool,
    promised: u32,
) {
    let (records, rest) = sent.as_chunks::<RECORD_BYTES>();
    assert!(rest.is_empty());
    let mut came = BTreeMap::<u8, Vec<u32>>::new();
    for record in records {
        let number = u32::from_le_bytes(record[4..].try_into().unwrap());
        came.entry(record[0]).or_default().push(number);
    }
    let accepted = std::mem::take(&mut *target.accepted.lock().unwrap());
    for (ticket, from, number, is_accepted) in target.tried.lock().unwrap().drain(..) {
        let has = |from| came.get(&from).map_or(&[][..], |came| &came[..]);
        assert_eq!(
            has(from).contains(&number),
            is_accepted,
            "seed {seed}, client {client}, from {from}: {number}, the answer to {ticket}, abandoned {}, again {}",
            has(ABANDONED).contains(&ticket),
            again.contains(&ticket),
        );
        if is_accepted {
            assert!(
                !has(ABANDONED).contains(&ticket) && !again.contains(&ticket),
                "seed {seed}, client {client}: {ticket}"
            );
        }
    }
    let mut outcomes = again.len();
    for (from, mut came) in came.clone() {
        let accepted = accepted.get(&from).cloned().unwrap_or_default();
        if [LAST, ABANDONED].contains(&from) {
            came.sort_unstable();
        }
        assert!(
            came.is_sorted_by(|a, b| a < b),
            "seed {seed}, client {client}, from {from}: {came:?}"
        );
        if from == ABANDONED {
            outcomes += came.len();
            continue;
        }
        // What was not pushed is an answer.
        let answers = came.iter().filter(|number| !accepted.contains(number));
        outcomes += answers.count();
    }
    for (from, accepted) in &accepted {
        let came = came.get(from).cloned().unwrap_or_default();
        let came: std::collections::BTreeSet<u32> = came.into_iter().collect();
        let lost: Vec<_> = accepted
            .iter()
            .filter(|number| !came.contains(number))
            .collect();
        assert!(
            lost.is_empty(),
            "seed {seed}, client {client}, from {from}: lost {lost:?} of {}",
            accepted.len()
        );
    }
    assert!(outcomes <= promised as usize);
    if is_open {
        assert_eq!(outcomes, promised as usize, "seed {seed}, client {client}");
    }
}

/// Of which promises the successor is asked, by its input.
fn asked_again(input: &[u8]) -> Vec<u32> {
    let requests = input.as_chunks::<3>().0.iter();
    let requests = requests.take_while(|request| request[0] == AGAIN);
    let again: Vec<u32> = requests
        .map(|request| u32::from(u16::from_be_bytes([request[1], request[2]])))
        .collect();
    assert!(again.is_sorted_by(|a, b| a < b), "{again:?}");
    assert!(!input[3 * again.len()..].contains(&AGAIN));
    again
}

/// As an engine does, that takes only so much mail in a turn, and to which more can come at any moment.
fn turn(exchange: &mut Exchange, random: &mut Random) {
    exchange.shard.woken(exchange.now);
    exchange.shard.tick();
    for _ in 0..random.below(12) {
        let Some(mail) = exchange.mailbox.next() else {
            break;
        };
        let _ = exchange.shard.deliver(mail);
    }
    exchange.shard.work();
    let touched: Vec<u32> = std::iter::from_fn(|| exchange.shard.next_touched()).collect();
    for slot in touched {
        exchange.update(slot);
    }
}

/// How it ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// When all have said what they had to say.
    Quiet,
    /// With a handover in the middle of it.
    HandOver,
    /// With a stop without a successor.
    Stop,
}

fn round(seed: u64, end: End, ends: bool) -> usize {
    let targets: Arc<[Arc<Target>]> = (0..CLIENTS).map(|_| Arc::new(Target::new())).collect();
    let speaker = |from: u8| Speaker {
        from,
        number: 0,
        targets: targets.clone(),
        random: Random((seed << 8) | (u64::from(from) + 1)),
    };
    let (asked, to_answer) = channel();
    let promises = Arc::<[AtomicU32; CLIENTS]>::default();
    let mut exchange = Exchange::new(Speaking {
        own: speaker(OWN),
        asked,
        connected: 0,
        unsaved: (seed % 4 == 2).then_some(1),
        ticks: seed % 5 > 1,
        promises: promises.clone(),
    });
    let clients: [Client; CLIENTS] = [(); CLIENTS].map(|()| exchange.connect());
    let (is_over, to_answer) = (AtomicBool::new(false), Mutex::new(to_answer));
    let mut random = Random(seed << 8 | 255);
    std::thread::scope(|scope| {
        for number in 0..THREADS {
            let speaker = speaker(number as u8);
            let (is_over, to_answer) = (&is_over, &to_answer);
            scope.spawn(move || speak(speaker, to_answer, ends, is_over));
        }
        let start = Instant::now();
        let length = Duration::from_micros(2000 + random.below(6000));
        while start.elapsed() < length {
            let client = clients[random.below(CLIENTS as u64) as usize];
            let frames = random
                .below(8)
                .to_le_bytes()
                .map(|_| random.below(100) as u8);
            match random.below(50) {
                0 if ends && client.0 == 2 => {
                    if let Some(wire) = exchange.wire(client) {
                        wire.ended = true;
                    }
                }
                0 => {
                    exchange.deliver_within(Duration::from_micros(50));
                }
                1..25 => {}
                _ => {
                    if let Some(wire) = exchange.wire(client) {
                        wire.incoming.push_back(Bytes::copy_from_slice(&frames));
                    }
                }
            }
            if let Some(id) = exchange.id(client) {
                exchange.shard.touch(id.slot);
            }
            turn(&mut exchange, &mut random);
        }
        if end != End::Quiet {
            exchange.tell_to_stop(Duration::from_millis(1 + seed % 7), end == End::HandOver);
            let start = Instant::now();
            while exchange.shard.len() > 0 {
                turn(&mut exchange, &mut random);
                for client in clients {
                    let is_shut = exchange.is_shut(client);
                    if let Some(wire) = exchange.wire(client)
                        && is_shut
                    {
                        wire.ended = true;
                    }
                }
                // Nobody waits long for what others still owe.
                exchange.now += random.below(2);
                assert!(
                    start.elapsed().as_secs() < 60,
                    "seed {seed}: a handover hangs"
                );
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    drop(to_answer);
    exchange.settle();
    let mut count = 0;
    for (number, client) in clients.into_iter().enumerate() {
        let mut sent = exchange.take_sent(client);
        let mut is_open = exchange.is_open(client);
        let mut again = Vec::new();
        if let Some(parted) = exchange
            .parted
            .iter()
            .find(|parted| parted.client == client)
        {
            sent = [&parted.wire.sent[..], &parted.parcel.state.output[..]].concat();
            is_open = true;
            again = asked_again(&parted.parcel.state.input);
        }
        if end != End::Stop && (!ends || number > 2) {
            assert!(is_open, "seed {seed}: client {number}");
        }
        let promised = promises[number].load(Ordering::Relaxed);
        count += sent.len() / RECORD_BYTES;
        check(
            seed,
            number,
            &sent,
            &again,
            &targets[number],
            is_open,
            promised,
        );
    }
    count
}

#[test]
fn what_several_threads_say_arrives_once_and_in_order() {
    let start = Instant::now();
    let seeds = std::env::var("RINGHOLD_SEEDS")
        .ok()
        .and_then(|s| s.parse().ok());
    let most = if seeds.is_some() { 3600.0 } else { 1.0 };
    let mut count = 0;
    for seed in 1..=seeds.unwrap_or(60_u64) {
        let end = match seed % 6 {
            0 => End::Quiet,
            1 => End::Stop,
            _ => End::HandOver,
        };
        count += round(seed, end, seed % 2 == 0);
        if start.elapsed().as_secs_f64() > most {
            break;
        }
    }
    assert!(count > 0);
}

/// More waits than is taken at once when the connection ends.
#[test]
fn all_that_waits_comes_before_the_end() {
    let targets: Arc<[Arc<Target>]> = (0..CLIENTS).map(|_| Arc::new(Target::new())).collect();
    let own = Speaker {
        from: OWN,
        number: 0,
        targets: targets.clone(),
        random: Random(1),
    };
    let mut exchange = Exchange::new(Speaking {
        own,
        asked: channel().0,
        connected: 0,
        unsaved: None,
        ticks: false,
        promises: Arc::default(),
    });
    let client = exchange.connect();
    let handle = targets[0].handle();
    std::thread::scope(|scope| {
        scope.spawn(|| (0..200).for_each(|number| handle.push(vec![number]).unwrap()));
    });
    // The peer has ended its side, and the worker learns of this first.
    let wire = exchange.wire(client).unwrap();
    (wire.ended, wire.end_seen) = (true, true);
    let slot = exchange.id(client).unwrap().slot;
    exchange.shard.ended(slot);
    assert_eq!(handle.push(vec![200]), Err(PushError::Gone));
    exchange.settle();
    assert_eq!(exchange.take_sent(client), Vec::from_iter(0..200));
    assert!(exchange.is_shut(client) && !exchange.is_open(client));
}
