//! One connection publishes, many get it: what a service pushes to all of its connections from within its calls.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use ringhold_core::limits::Limits;
use ringhold_core::testing::{Client, Exchange};
use ringhold_core::{Flow, Frame, Handle, Peer, PushError, Refusal, Reply, Service};

use crate::service::bin;

/// Pushes each frame to all connections, in the order in which they came; a frame of one byte goes to those before that
/// number only.
struct Publish {
    handles: Rc<RefCell<Vec<Handle>>>,
    /// What the pushes that were refused said.
    refusals: Rc<RefCell<Vec<(usize, PushError)>>>,
}

impl Service for Publish {
    type Session = ();

    fn connected(&mut self, peer: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        self.handles.borrow_mut().push(peer.handle());
        Ok(())
    }

    fn frame(&mut self, _: &mut (), frame: Frame<'_>, _: &mut Reply<'_>) -> Flow {
        let event = Bytes::copy_from_slice(&frame);
        let count = match *frame {
            [number] => number as usize,
            _ => usize::MAX,
        };
        for (number, handle) in self.handles.borrow().iter().enumerate().take(count) {
            if let Err(error) = handle.push_shared(&event) {
                self.refusals.borrow_mut().push((number, error));
            }
        }
        Flow::Continue
    }
}

struct Stage {
    exchange: Exchange,
    clients: Vec<Client>,
    handles: Rc<RefCell<Vec<Handle>>>,
    refusals: Rc<RefCell<Vec<(usize, PushError)>>>,
}

fn stage(limits: Limits) -> Stage {
    let handles = Rc::default();
    let refusals = Rc::default();
    let service = Publish {
        handles: Rc::clone(&handles),
        refusals: Rc::clone(&refusals),
    };
    let mut exchange = Exchange::with_limits(service, limits);
    let clients = (0..5).map(|_| exchange.connect()).collect();
    Stage {
        exchange,
        clients,
        handles,
        refusals,
    }
}

#[test]
fn all_get_all_events_of_one_receive_in_order() {
    let mut stage = stage(Limits::default());
    let frames: Vec<Vec<u8>> = (0..20)
        .map(|number| bin(number * 100, number as u8))
        .collect();
    let events = frames.concat();
    stage.exchange.receive(stage.clients[0], &events);
    for client in &stage.clients {
        assert!(stage.exchange.take_sent(*client) == events);
    }
    assert_eq!(stage.exchange.memory_held(), 0);
    assert!(stage.refusals.borrow().is_empty());
}

#[test]
fn who_is_left_out_of_one_event_gets_the_next() {
    let mut stage = stage(Limits::default());
    let (large, small) = (bin(3000, 1), bin(3, 2));
    let frames = [&large[..], &[3], &small, &[4], &[1], &large];
    stage.exchange.receive(stage.clients[4], &frames.concat());
    for (number, client) in stage.clients.iter().enumerate() {
        let gets = |frame: &&&[u8]| !matches!(frame, [count] if *count as usize <= number);
        let expected: Vec<u8> = frames
            .iter()
            .filter(gets)
            .copied()
            .flatten()
            .copied()
            .collect();
        assert!(stage.exchange.take_sent(*client) == expected);
    }
}

#[test]
fn a_slow_connection_overflows_alone_and_says_so() {
    let limits = Limits {
        outbox_bytes: 10_000,
        ..Limits::default()
    };
    let mut stage = stage(limits);
    let slow = stage.clients[2];
    stage.exchange.set_window(slow, Some(0));
    let event = bin(1000, 9);
    for _ in 0..3 {
        stage.exchange.receive(stage.clients[0], &event.repeat(3));
    }
    assert_eq!(stage.exchange.memory_held(), 9 * event.len() as u64);
    stage.exchange.receive(stage.clients[0], &event.repeat(3));
    assert!(!stage.exchange.is_open(slow));
    assert_eq!(
        stage.handles.borrow()[2].push_shared(&Bytes::new()),
        Err(PushError::Overflow)
    );
    stage.exchange.receive(stage.clients[0], &event);
    assert_eq!(*stage.refusals.borrow(), [(2, PushError::Overflow)]);
    for client in stage.clients.iter().filter(|client| **client != slow) {
        assert!(stage.exchange.take_sent(*client) == event.repeat(13));
    }
    assert_eq!(stage.exchange.memory_held(), 0);
    assert_eq!(stage.exchange.counters().cut, 1);
}

#[test]
fn what_is_pushed_in_one_call_is_limited_before_it_is_delivered() {
    let limits = Limits {
        outbox_bytes: 10_000,
        ..Limits::default()
    };
    let mut stage = stage(limits);
    let event = bin(1000, 9);
    // One piece is received, and nothing delivered before all of its frames were dispatched.
    stage.exchange.receive(stage.clients[0], &event.repeat(11));
    let refused: Vec<usize> = stage
        .refusals
        .borrow()
        .iter()
        .map(|(number, _)| *number)
        .collect();
    assert_eq!(refused, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]);
    assert_eq!(stage.exchange.counters().cut, 5);
    assert_eq!(stage.exchange.memory_held(), 0);
}

#[test]
fn a_connection_that_is_gone_is_left_out() {
    let mut stage = stage(Limits::default());
    stage.exchange.reset(stage.clients[1]);
    let event = bin(200, 4);
    stage.exchange.receive(stage.clients[0], &event.repeat(8));
    assert_eq!(*stage.refusals.borrow(), [(1, PushError::Gone); 8]);
    for number in [0, 2, 3, 4] {
        assert!(stage.exchange.take_sent(stage.clients[number]) == event.repeat(8));
    }
    // The same number of a slot means somebody else now.
    let newcomer = stage.exchange.connect();
    stage.exchange.receive(stage.clients[0], &event);
    assert!(stage.exchange.take_sent(newcomer) == event);
}
