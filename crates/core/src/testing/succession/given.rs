//! Deferred replies that only a call of a service gives, in a handover.

use std::cell::RefCell;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::rc::Rc;

use super::*;
use crate::crew::Step;
use crate::frame::Frame;
use crate::mailbox::Mailbox;
use crate::peer::Peer;
use crate::reply::{Abandoned, Reply, Responder, Ticket};
use crate::service::{Flow, Refusal, Saved, SourceId, Watch};
use crate::tick::Tick;

const DRAIN: Duration = Duration::from_secs(3);

/// Answers when there is something to read from its line, with that, or in a tick.
struct Relay {
    line: Option<Rc<UnixDatagram>>,
    ticks: Rc<RefCell<u32>>,
    asked: Vec<Responder>,
}

impl Service for Relay {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, _: &mut (), _: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        self.asked.push(reply.defer(Ticket(7)));
        Flow::Continue
    }

    fn abandoned(&mut self, _: &mut (), _: Ticket, _: Abandoned, _: &mut Reply<'_>) -> Flow {
        Flow::Continue
    }

    fn readable(&mut self, _: SourceId, _: &Tick<'_>) -> io::Result<Watch> {
        let mut read = [0; 1];
        let line = self.line.as_ref().unwrap();
        line.recv(&mut read)?;
        for responder in self.asked.drain(..) {
            responder.answer(read.to_vec());
        }
        Ok(Watch::Continue)
    }

    fn tick(&mut self, _: &Tick<'_>) -> Option<Duration> {
        if self.line.is_some() {
            return None;
        }
        *self.ticks.borrow_mut() += 1;
        for responder in self.asked.drain(..) {
            responder.answer(vec![2]);
        }
        Some(Duration::from_millis(100))
    }

    fn save(&self, _: &()) -> Saved {
        Saved::Stateless
    }
}

/// With a line on which something can be sent to the service.
fn reading() -> (Exchange, UnixDatagram) {
    let (line, device) = UnixDatagram::pair().unwrap();
    let make = |worker: &Worker| {
        let line = Rc::new(line);
        worker.watch(line.clone());
        Relay {
            line: Some(line),
            ticks: Rc::default(),
            asked: Vec::new(),
        }
    };
    (Exchange::with_worker(make, Default::default()), device)
}

/// A request is received when nobody is waited for any more, of which another worker has heard just now. Returns that one's mailbox.
fn receive_at_the_end(exchange: &mut Exchange, client: Client) -> Mailbox {
    let mailbox = exchange.add_busy_worker(1 << 30);
    let crew = exchange.shard.desk.crew.clone();
    exchange.begin_stop(DRAIN, true);
    crew.reach(1, Step::Asked);
    exchange.settle();
    exchange.receive(client, &[1]);
    assert!(crew.all_part(1));
    mailbox
}

/// And it is read. What it asks for is owed.
fn ask_at_the_end(exchange: &mut Exchange, client: Client) -> Mailbox {
    let mailbox = receive_at_the_end(exchange, client);
    exchange.settle();
    assert_eq!(exchange.shard.desk.crew.open_tickets.count(), 1);
    mailbox
}

fn update_touched(exchange: &mut Exchange) {
    while let Some(slot) = exchange.shard.next_touched() {
        exchange.update(slot);
    }
}

/// The other worker has nothing more to do.
fn end_other(exchange: &mut Exchange) {
    let crew = exchange.shard.desk.crew.clone();
    crew.reach(1, Step::Served);
    crew.reach(1, Step::Rests);
    exchange.settle();
}

#[test]
fn what_a_source_brings_is_read_as_long_as_it_is_owed() {
    let (mut exchange, device) = reading();
    let [client, other] = [(); 2].map(|()| exchange.connect());
    let _mailbox = ask_at_the_end(&mut exchange, client);
    end_other(&mut exchange);
    assert!(exchange.is_open(other), "its service may still push to it");
    for number in [9, 8] {
        // The second one is the successor's.
        device.send(&[number]).unwrap();
        exchange.deliver();
    }
    let parted = exchange.parted.iter();
    let mut parted: Vec<(usize, &[u8])> =
        parted.map(|it| (it.client.0, &it.wire.sent[..])).collect();
    parted.sort();
    assert_eq!(parted, [(client.0, &[9][..]), (other.0, &[])]);
    assert_eq!(exchange.counters().abandoned, 0);
}

#[test]
fn ticks_go_on_as_long_as_anything_is_owed() {
    let ticks = Rc::new(RefCell::new(0));
    let mut exchange = Exchange::new(Relay {
        line: None,
        ticks: ticks.clone(),
        asked: Vec::new(),
    });
    let client = exchange.connect();
    assert_eq!(*ticks.borrow(), 1);
    let _mailbox = ask_at_the_end(&mut exchange, client);
    end_other(&mut exchange);
    assert!(exchange.is_open(client));
    for _ in 0..2 {
        exchange.advance(Duration::from_millis(100));
        assert_eq!(*ticks.borrow(), 2);
    }
    assert_eq!(exchange.parted[0].wire.sent, [2]);
}

/// It is given up when every other one would be, and not waited for any longer.
#[test]
fn what_no_source_brings_is_given_up() {
    let (mut exchange, _device) = reading();
    let client = exchange.connect();
    let _mailbox = ask_at_the_end(&mut exchange, client);
    end_other(&mut exchange);
    exchange.advance(DRAIN * 2 - Duration::from_millis(1));
    assert!(exchange.is_open(client));
    exchange.advance(Duration::from_millis(1));
    assert_eq!(exchange.counters().abandoned, 1);
    assert_eq!(exchange.parted.len(), 1);
}

/// Another worker may still be given a frame for which it promises what only a source of this one brings.
#[test]
fn a_worker_with_sources_is_there_for_what_others_promise() {
    let (mut exchange, device) = reading();
    let client = exchange.connect();
    let _mailbox = ask_at_the_end(&mut exchange, client);
    let crew = exchange.shard.desk.crew.clone();
    device.send(&[9]).unwrap();
    exchange.deliver();
    assert_eq!(crew.open_tickets.count(), 0);
    assert!(!crew.has_reached(0, Step::Rests));
    // Whoever owes it.
    crew.open_tickets.opened(0);
    crew.reach(1, Step::Served);
    exchange.settle();
    assert!(!crew.has_reached(0, Step::Rests));
    crew.ticket_closed(0, false);
    exchange.settle();
    assert!(crew.has_reached(0, Step::Rests));
}

/// What the services had no time for is the successor's, and no reason to take turns until what is owed has come.
#[test]
fn a_late_worker_sleeps_as_long_as_anything_is_owed() {
    let (mut exchange, device) = reading();
    let [client, late] = [(); 2].map(|()| exchange.connect());
    let _mailbox = receive_at_the_end(&mut exchange, client);
    exchange.shard.work();
    // This was received before the engine knew.
    exchange.shard.desk.stopwatch.make_late();
    exchange.shard.received(late.0 as u32, &[1], None);
    update_touched(&mut exchange);
    exchange.shard.work();
    let crew = exchange.shard.desk.crew.clone();
    assert!(crew.has_reached(0, Step::Served) && !crew.has_reached(0, Step::Rests));
    update_touched(&mut exchange);
    exchange.deliver_mail();
    assert!(!exchange.shard.is_busy());
    end_other(&mut exchange);
    device.send(&[9]).unwrap();
    exchange.deliver();
    assert_eq!(exchange.parted.len(), 2);
}
