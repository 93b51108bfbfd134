//! Services that are called from time to time.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use ringhold_core::testing::Exchange;
use ringhold_core::{Flow, Frame, Handle, Peer, Refusal, Reply, Saved, Service, Tick};

/// Gathers the bytes of frames, and tells the last client how many they were each time when it is called.
struct Batch {
    every: Option<Duration>,
    gathered: u8,
    calls: Rc<RefCell<usize>>,
    reader: Option<Handle>,
}

impl Batch {
    fn new(every: Option<Duration>) -> (Self, Rc<RefCell<usize>>) {
        let calls = Rc::default();
        let batch = Batch {
            every,
            gathered: 0,
            calls: Rc::clone(&calls),
            reader: None,
        };
        (batch, calls)
    }
}

/// A frame of this byte makes the next call panic.
const PANIC: u8 = 0x7f;

impl Service for Batch {
    type Session = ();

    fn connected(&mut self, peer: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        self.reader = Some(peer.handle());
        Ok(())
    }

    fn frame(&mut self, _: &mut (), frame: Frame<'_>, _: &mut Reply<'_>) -> Flow {
        self.gathered = match frame[0] {
            PANIC => PANIC,
            _ => self.gathered + 1,
        };
        Flow::Continue
    }

    fn tick(&mut self, _: &Tick<'_>) -> Option<Duration> {
        *self.calls.borrow_mut() += 1;
        let gathered = std::mem::take(&mut self.gathered);
        assert_ne!(gathered, PANIC, "on purpose");
        if let Some(reader) = &self.reader {
            // The last client may be gone.
            let _ = reader.push(vec![gathered]);
        }
        self.every
    }

    fn save(&self, _: &()) -> Saved {
        Saved::Stateless
    }
}

const SECOND: Duration = Duration::from_secs(1);
const NEARLY: Duration = Duration::from_millis(999);
const REST: Duration = Duration::from_millis(1);

#[test]
fn a_service_is_called_when_what_it_asked_for_is_over() {
    let (batch, calls) = Batch::new(Some(SECOND));
    let mut exchange = Exchange::new(batch);
    assert_eq!(*calls.borrow(), 1, "it begins");
    let client = exchange.connect();
    exchange.receive(client, &[1, 2, 3]);
    exchange.advance(NEARLY);
    assert_eq!(exchange.take_sent(client), []);
    exchange.advance(REST);
    assert_eq!(exchange.take_sent(client), [3]);
    // What was missed is not made up for, and the next one comes a whole second later.
    exchange.advance(5 * SECOND + NEARLY);
    assert_eq!(exchange.take_sent(client), [0]);
    exchange.advance(NEARLY);
    exchange.receive(client, &[1]);
    assert_eq!(exchange.take_sent(client), []);
    exchange.advance(REST);
    assert_eq!(exchange.take_sent(client), [1]);
    assert_eq!(*calls.borrow(), 4);
}

#[test]
fn who_asks_for_nothing_is_not_called_again() {
    let (batch, calls) = Batch::new(None);
    let mut exchange = Exchange::new(batch);
    exchange.connect();
    exchange.advance(100_000 * SECOND);
    assert_eq!(*calls.borrow(), 1);
}

#[test]
fn no_time_at_all_is_a_millisecond() {
    let (batch, calls) = Batch::new(Some(Duration::ZERO));
    let mut exchange = Exchange::new(batch);
    exchange.deliver();
    exchange.deliver();
    assert_eq!(*calls.borrow(), 1);
    exchange.advance(REST);
    assert_eq!(*calls.borrow(), 2);
}

#[test]
fn a_panic_costs_no_connection_and_no_further_call() {
    let (batch, calls) = Batch::new(Some(SECOND));
    let mut exchange = Exchange::new(batch);
    let client = exchange.connect();
    exchange.receive(client, &[PANIC]);
    exchange.advance(SECOND);
    assert_eq!((exchange.take_sent(client), *calls.borrow()), (vec![], 2));
    assert_eq!(exchange.counters().panics, 1);
    exchange.receive(client, &[1]);
    exchange.advance(SECOND);
    assert_eq!((exchange.take_sent(client), *calls.borrow()), (vec![1], 3));
    assert!(exchange.is_open(client));
}

#[test]
fn who_panics_at_first_is_called_again_a_second_later() {
    let (mut batch, calls) = Batch::new(Some(10 * SECOND));
    batch.gathered = PANIC;
    let mut exchange = Exchange::new(batch);
    exchange.advance(NEARLY);
    assert_eq!(*calls.borrow(), 1);
    exchange.advance(REST);
    assert_eq!(*calls.borrow(), 2);
    exchange.advance(9 * SECOND);
    assert_eq!(*calls.borrow(), 2);
}

#[test]
fn it_goes_on_in_a_stop_as_long_as_there_is_anybody() {
    let (batch, calls) = Batch::new(Some(SECOND));
    let mut exchange = Exchange::new(batch);
    let client = exchange.connect();
    exchange.keep_open(client);
    exchange.receive(client, &[1, 1]);
    exchange.stop_within(10 * SECOND);
    let before = *calls.borrow();
    exchange.advance(SECOND);
    assert_eq!(*calls.borrow(), before + 1);
}

#[test]
fn it_is_the_successors_turn_after_a_handover() {
    let (batch, calls) = Batch::new(Some(SECOND));
    let mut exchange = Exchange::new(batch);
    let client = exchange.connect();
    exchange.advance(10 * SECOND + NEARLY);
    let handed_over = *calls.borrow();
    exchange.receive(client, &[1]);
    exchange.take_sent(client);
    let (batch, later) = Batch::new(Some(SECOND));
    let mut exchange = exchange.hand_over(|_| batch);
    // What was handed over is there by then.
    assert_eq!(exchange.take_sent(client), [0]);
    assert_eq!((*calls.borrow(), *later.borrow()), (handed_over, 1));
    exchange.receive(client, &[1, 1]);
    exchange.advance(NEARLY);
    assert_eq!(exchange.take_sent(client), []);
    exchange.advance(REST);
    assert_eq!((*calls.borrow(), *later.borrow()), (handed_over, 2));
    assert_eq!(exchange.take_sent(client), [2]);
}
