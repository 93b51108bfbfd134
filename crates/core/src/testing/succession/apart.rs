//! An exchange and its successor are two processes.

use std::cell::RefCell;
use std::rc::Rc;

use super::*;
use crate::close::{Close, Ended};
use crate::frame::Frame;
use crate::limits::Limits;
use crate::peer::{Handle, Peer};
use crate::reply::Reply;
use crate::service::{Flow, Refusal, Saved};
use crate::testing::alone;

/// Notes when it is made and dropped, and pushes as many bytes as it is sent.
struct Noted {
    log: Rc<RefCell<Vec<&'static str>>>,
    client: Option<Handle>,
}

impl Noted {
    fn new(log: &Rc<RefCell<Vec<&'static str>>>) -> Self {
        log.borrow_mut().push("made");
        Noted {
            log: log.clone(),
            client: None,
        }
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        self.log.borrow_mut().push("dropped");
    }
}

impl Service for Noted {
    type Session = ();

    fn connected(&mut self, peer: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        self.client = Some(peer.handle());
        Ok(())
    }

    fn frame(&mut self, _: &mut (), frame: Frame<'_>, _: &mut Reply<'_>) -> Flow {
        let client = self.client.as_ref().unwrap();
        for _ in 0..frame[0] {
            client.push(vec![1]).unwrap();
        }
        Flow::Continue
    }

    fn disconnected(&mut self, (): (), ended: &Ended<'_>) {
        let is_handed_over = matches!(ended.why(), Close::HandedOver);
        let ended = if is_handed_over {
            "handed over"
        } else {
            "ended"
        };
        self.log.borrow_mut().push(ended);
    }

    fn save(&self, (): &()) -> Saved {
        Saved::Stateless
    }
}

#[test]
fn nothing_of_the_predecessor_is_there_when_the_service_is_made() {
    let log = Rc::default();
    // Little room beside what a push from another thread is counted with.
    let limits = Limits {
        outbox_bytes: 1024,
        ..Limits::default()
    };
    let mut exchange = Exchange::with_limits(Noted::new(&log), limits);
    let client = exchange.connect();
    for _ in 0..2 {
        exchange.receive(client, &[50]);
        assert_eq!(exchange.take_sent(client), [1; 50]);
        exchange = exchange.hand_over(|_| Noted::new(&log));
    }
    let again = ["handed over", "dropped", "made"];
    assert_eq!(*log.borrow(), [&["made"], &again[..], &again].concat());
}

#[test]
fn who_only_reads_on_has_not_ended_either() {
    let log = Rc::default();
    let mut exchange = Exchange::new(Noted::new(&log));
    let client = exchange.connect();
    exchange.set_window(client, Some(0));
    exchange.receive(client, &[3]);
    exchange.end(client);
    for _ in 0..2 {
        exchange = exchange.hand_over(|_| Noted::new(&log));
    }
    exchange.set_window(client, None);
    assert_eq!(exchange.take_sent(client), [1; 3]);
    let again = ["handed over", "dropped", "made"];
    let expected = [&["made"], &again[..], &again, &["ended"]].concat();
    assert_eq!(*log.borrow(), expected);
}

/// The predecessor, or whoever is started next, has it still.
#[test]
fn what_a_start_that_fails_had_taken_over_has_not_ended() {
    let log = Rc::default();
    let mut exchange = alone(|_| Noted::new(&log), Limits::default()).make(Left::default());
    exchange.connect();
    exchange.tell_to_stop(Duration::ZERO, false);
    drop(exchange);
    assert_eq!(*log.borrow(), ["made", "handed over", "dropped"]);
}
