//! Time limits that are exceeded while the engine always finds more, and what else comes up with them.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::tests::talkative;
use super::{Client, Exchange};
use crate::frame::Frame;
use crate::limits::Limits;
use crate::peer::Peer;
use crate::reply::{Abandoned, Reply, Responder, Ticket};
use crate::service::{Flow, Refusal, Service};

/// How long a limit that is exceeded waits for an engine that never says that it has caught up, if it was noticed in time, and
/// how late that may be.
const HOLDUP: u64 = 1000;
const PRECISION: u64 = 32;

/// More than the engine is given, in any case.
const TURNS: u64 = 20;

fn exchange(idle: u64, frame: u64) -> Exchange {
    let limits = Limits {
        idle_timeout: Duration::from_millis(idle),
        frame_timeout: Duration::from_millis(frame),
        ..Limits::default()
    };
    Exchange::with_limits(talkative(), limits)
}

/// A turn of an engine that finds something again. Returns how many connections were cut by now.
fn turn_at(exchange: &mut Exchange, now: u64) -> u64 {
    exchange.now = now;
    exchange.shard.woken(now);
    exchange.shard.tick();
    exchange.shard.work();
    exchange.counters().timed_out
}

/// Something arrives in the turn.
fn arrives(exchange: &mut Exchange, client: Client, bytes: &[u8]) {
    exchange.shard.received(client.0 as u32, bytes, None);
}

/// A client that does not read what it asks for, and asks for more than is answered at once.
fn runs_ahead(exchange: &mut Exchange, client: Client) {
    for _ in 0..10 {
        arrives(exchange, client, &[0x01]);
    }
    assert!(!exchange.reads(client), "it is served too far ahead");
}

#[test]
fn a_busy_worker_looks_at_once_whether_a_peer_still_does_not_read() {
    let mut exchange = exchange(5000, 0);
    let silent = exchange.connect();
    exchange.advance(Duration::from_millis(100));
    let clients = [(); 2].map(|()| exchange.connect());
    for client in clients {
        exchange.set_window(client, Some(0));
    }
    let then = exchange.now + 4950;
    // What one waits for comes up with a limit that is exceeded, and what the other waits for later.
    turn_at(&mut exchange, then - 12);
    runs_ahead(&mut exchange, clients[0]);
    assert_eq!(turn_at(&mut exchange, then + PRECISION), 0);
    assert!(exchange.shard.is_catching_up() && exchange.reads(clients[0]));
    runs_ahead(&mut exchange, clients[1]);
    for turn in 1..5 {
        turn_at(&mut exchange, then + PRECISION + turn * 10);
    }
    assert!(exchange.shard.is_catching_up() && exchange.reads(clients[1]));
    assert!(exchange.counters().timed_out == 0 && exchange.is_open(silent));
}

#[test]
fn whoever_is_not_late_is_looked_at_without_catching_up() {
    let mut exchange = exchange(1000, 0);
    let client = exchange.connect();
    exchange.advance(Duration::from_millis(900));
    exchange.receive(client, &[0x01]);
    let then = exchange.now + 200;
    assert_eq!(turn_at(&mut exchange, then), 0);
    assert!(!exchange.shard.is_catching_up());
    exchange.advance(Duration::from_millis(799));
    assert!(exchange.is_open(client));
    exchange.advance(Duration::from_millis(1 + PRECISION));
    assert!(!exchange.is_open(client));
}

#[test]
fn a_limit_that_is_exceeded_behind_another_one_waits_no_longer() {
    let mut exchange = exchange(5000, 0);
    exchange.connect();
    exchange.advance(Duration::from_millis(200));
    exchange.connect();
    let dues = [exchange.now + 4800, exchange.now + 5000];
    let mut cut_at = Vec::new();
    for now in (dues[0] - 100..dues[1] + 3 * HOLDUP).step_by(10) {
        let cut = turn_at(&mut exchange, now);
        cut_at.resize(cut as usize, now);
    }
    assert_eq!(cut_at.len(), 2);
    for (cut_at, due) in cut_at.into_iter().zip(dues) {
        let late = cut_at - due;
        assert!(late >= HOLDUP, "it was cut after {late} ms");
        assert!(
            late <= HOLDUP + PRECISION + 2 * 10,
            "it was cut after {late} ms"
        );
    }
}

#[test]
fn each_limit_of_a_connection_waits_for_itself_and_once() {
    // It is silent for too long, and then does not complete its frame either.
    let mut exchange = exchange(5000, 5500);
    let client = exchange.connect();
    exchange.receive(client, &[0x92]);
    let began = exchange.now;
    assert_eq!(turn_at(&mut exchange, began + 5000 + PRECISION), 0);
    assert!(exchange.shard.is_catching_up());
    let mut cut_at = None;
    for now in (began + 5100..began + 9000).step_by(10) {
        // What had arrived in time comes bit by bit, and is no frame.
        if now < began + 5800 {
            arrives(&mut exchange, client, &[0x91]);
        }
        if turn_at(&mut exchange, now) == 1 {
            cut_at.get_or_insert(now);
        }
        assert!(exchange.shard.timers() <= 2 && exchange.shard.overdue() <= 2);
    }
    let late = cut_at.unwrap() - (began + 5500);
    assert!(
        (HOLDUP..=HOLDUP + 2 * PRECISION + 10).contains(&late),
        "{late}"
    );
}

#[test]
fn a_limit_that_waits_is_void_once_its_connection_is_gone() {
    let mut exchange = exchange(5000, 0);
    let client = exchange.connect();
    let then = exchange.now + 5000 + PRECISION;
    assert_eq!(turn_at(&mut exchange, then), 0);
    let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    exchange.shard.failed(client.0 as u32, reset);
    drop(exchange.shard.closed(client.0 as u32));
    // Another one has its slot now.
    let other = exchange.connect();
    for turn in 0..TURNS {
        turn_at(&mut exchange, then + HOLDUP + turn);
    }
    assert!(exchange.is_open(other) && !exchange.shard.is_catching_up());
    assert_eq!(exchange.counters().timed_out, 0);
}

/// Promises a reply to every frame.
struct Promising(Rc<RefCell<Vec<Responder>>>);

impl Service for Promising {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, _: &mut (), _: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        self.0.borrow_mut().push(reply.defer(Ticket(1)));
        Flow::Continue
    }

    fn abandoned(&mut self, _: &mut (), _: Ticket, _: Abandoned, _: &mut Reply<'_>) -> Flow {
        Flow::Continue
    }
}

/// With a service that has five seconds for what it promises, and its promises.
fn promising() -> (Exchange, Rc<RefCell<Vec<Responder>>>) {
    let promises = Rc::new(RefCell::new(Vec::new()));
    let limits = Limits {
        promise_timeout: Duration::from_secs(5),
        ..Limits::default()
    };
    let exchange = Exchange::with_limits(Promising(promises.clone()), limits);
    (exchange, promises)
}

#[test]
fn a_deferred_reply_that_is_in_the_mail_by_then_is_in_time() {
    let (mut exchange, promises) = promising();
    let client = exchange.connect();
    exchange.receive(client, &[1, 2]);
    let [first, second] = [(); 2].map(|()| promises.borrow_mut().remove(0));
    first.answer(vec![7]);
    let then = exchange.now + 5000 + PRECISION;
    turn_at(&mut exchange, then);
    assert!(exchange.shard.is_catching_up());
    second.answer(vec![8]);
    exchange.deliver_mail();
    exchange.shard.caught_up();
    exchange.deliver();
    assert_eq!(exchange.take_sent(client), [7, 8]);
    assert_eq!(exchange.counters().abandoned, 0);

    // What has been answered long before is no reason to look whether more has come.
    exchange.receive(client, &[1]);
    exchange.advance(Duration::from_secs(1));
    exchange.receive(client, &[2]);
    promises.borrow_mut().remove(0).answer(vec![9]);
    exchange.deliver();
    let then = exchange.now + 4000 + PRECISION;
    turn_at(&mut exchange, then);
    assert!(!exchange.shard.is_catching_up());
    assert_eq!(exchange.shard.timers(), 1);
    turn_at(&mut exchange, then + 1000);
    assert!(exchange.shard.is_catching_up());
    assert_eq!(exchange.counters().abandoned, 0);
    exchange.shard.caught_up();
    assert_eq!(exchange.counters().abandoned, 1);
}
