//! Who is cut when the connections of all workers together hold more than they may.

use std::sync::Arc;

use crate::limits::Limits;
use crate::mailbox::{Mail, Mailbox};
use crate::memory::{Memory, Meter};
use crate::testing::tests::talkative;
use crate::testing::{Client, Exchange};

/// What each connection holds that was sent a frame: the peer reads nothing.
const HELD: u64 = 60_000;

fn connect(exchange: &mut Exchange) -> Client {
    let client = exchange.connect();
    exchange.set_window(client, Some(0));
    client
}

fn ask(exchange: &mut Exchange, client: Client) {
    let id = exchange.id(client).unwrap();
    exchange.shard.received(id.slot, &[0x01], None);
}

/// A worker, and another one that is busy, with its mailbox and what its connections hold.
struct Two {
    exchange: Exchange,
    memory: Arc<Memory>,
    busy: Meter,
    mailbox: Mailbox,
}

impl Two {
    fn new(limit: u64) -> Self {
        let mut exchange = Exchange::new(talkative());
        let mailbox = exchange.add_busy_worker(limit);
        let memory = exchange.shard.desk.crew.memory.clone();
        Two {
            exchange,
            busy: Meter::new(memory.clone(), 1),
            memory,
            mailbox,
        }
    }

    /// What the busy worker was told meanwhile, which must be nothing else.
    fn told_to_cut(&self) -> usize {
        let mail = std::iter::from_fn(|| self.mailbox.next());
        mail.map(|mail| assert!(matches!(mail, Mail::Shed))).count()
    }
}

#[test]
fn a_worker_that_is_busy_is_told_to_cut_once() {
    let mut two = Two::new(1_000_000);
    two.busy.change(0, 950_000);
    two.busy.publish();
    let client = connect(&mut two.exchange);
    ask(&mut two.exchange, client);
    for _ in 0..100 {
        two.exchange.shard.work();
    }
    assert_eq!(two.told_to_cut(), 1);
    assert_eq!(two.exchange.counters().cut, 0, "that one holds more");
    // It comes to its mail, and it is not enough.
    two.busy.hear();
    two.busy.change(950_000, 945_000);
    two.busy.publish();
    two.exchange.shard.work();
    two.exchange.shard.work();
    assert_eq!(two.told_to_cut(), 1);
    assert_eq!(two.exchange.counters().cut, 0);
}

#[test]
fn little_is_told_before_a_worker_sleeps_or_if_it_is_too_much() {
    let limit = 1 << 30;
    let mut two = Two::new(limit);
    let clients = [connect(&mut two.exchange), connect(&mut two.exchange)];
    ask(&mut two.exchange, clients[0]);
    two.exchange.shard.work();
    assert_eq!(two.memory.total(), 0);
    assert!(!two.exchange.shard.settle_memory());
    assert_eq!(two.memory.total(), HELD);
    two.busy.change(0, (limit - HELD) as usize);
    two.busy.publish();
    assert_eq!(two.told_to_cut(), 0);
    ask(&mut two.exchange, clients[1]);
    two.exchange.shard.work();
    assert_eq!(two.told_to_cut(), 1);
    assert_eq!(two.memory.total(), limit + HELD);
}

#[test]
fn the_limit_holds_while_the_worker_that_holds_most_is_busy() {
    let limit = 1_000_000;
    let mut two = Two::new(limit);
    two.busy.change(0, 900_000);
    two.busy.publish();
    for _ in 0..50 {
        let client = connect(&mut two.exchange);
        ask(&mut two.exchange, client);
        two.exchange.shard.work();
        let total = two.memory.total();
        assert!(total <= limit + limit / 16, "{total}");
    }
    assert_eq!(two.told_to_cut(), 1);
    // Two fit in what the limit may be exceeded by meanwhile.
    two.exchange.deliver();
    assert_eq!(two.exchange.counters().open, 2);
    assert_eq!(two.memory.total(), 900_000 + 2 * HELD);
}

#[test]
fn as_many_are_cut_in_one_turn_as_have_become_too_many_in_it() {
    let limits = Limits {
        memory: 1_000_000,
        ..Limits::default()
    };
    let mut exchange = Exchange::with_limits(talkative(), limits);
    let clients: Vec<Client> = (0..50).map(|_| connect(&mut exchange)).collect();
    for client in clients {
        ask(&mut exchange, client);
    }
    exchange.shard.work();
    assert_eq!(exchange.counters().cut, 50 - 16);
    assert_eq!(exchange.memory_held(), 16 * HELD);
}

#[test]
fn memory_that_an_engine_is_about_to_give_back_costs_nobody_else_a_connection() {
    let limits = Limits {
        memory: 100_000,
        ..Limits::default()
    };
    let mut exchange = Exchange::with_limits(talkative(), limits);
    let clients = [exchange.connect(), exchange.connect()];
    for client in clients {
        exchange.set_window(client, Some(0));
        exchange.shard.received(client.0 as u32, &[0x01], None);
    }
    // Turns in which the engine waits for what it has in flight on the connection that is cut.
    for _ in 0..5 {
        exchange.shard.work();
    }
    exchange.settle();
    assert_eq!(exchange.counters().cut, 1);
    assert_eq!(exchange.counters().open, 1);
}
