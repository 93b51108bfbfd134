//! What becomes of connections that are closed through their handles while they are handed over.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use super::Exchange;
use crate::close::{Close, Ended};
use crate::frame::Frame;
use crate::peer::{Handle, Peer, PushError};
use crate::reply::Reply;
use crate::service::{Flow, Refusal, Saved, Service};

/// Another thread acts on the connection in the moment in which it is asked for the session, the first time or a later one.
#[derive(Clone)]
struct ActedOn {
    act: fn(&Handle) -> Result<(), PushError>,
    /// So many times it is asked before.
    patience: Rc<Cell<usize>>,
    /// And from this time on it cannot be saved.
    unsaved_from: usize,
    asked: Rc<Cell<usize>>,
    acts: Rc<RefCell<Vec<Result<(), PushError>>>>,
    ends: Rc<RefCell<Vec<String>>>,
    /// Of the last connection.
    handle: Rc<RefCell<Option<Handle>>>,
}

impl ActedOn {
    fn new(act: fn(&Handle) -> Result<(), PushError>, patience: usize) -> Self {
        ActedOn {
            act,
            patience: Rc::new(Cell::new(patience)),
            unsaved_from: usize::MAX,
            asked: Rc::default(),
            acts: Rc::default(),
            ends: Rc::default(),
            handle: Rc::default(),
        }
    }
}

impl Service for ActedOn {
    type Session = Handle;

    fn connected(&mut self, peer: &Peer<'_>, _: &mut Reply<'_>) -> Result<Handle, Refusal> {
        self.handle.replace(Some(peer.handle()));
        Ok(peer.handle())
    }

    fn frame(&mut self, _: &mut Handle, _: Frame<'_>, _: &mut Reply<'_>) -> Flow {
        Flow::Continue
    }

    fn disconnected(&mut self, handle: Handle, ended: &Ended<'_>) {
        assert_eq!(handle.id(), ended.connection());
        let still = if handle.is_open() {
            ", but is open"
        } else {
            ""
        };
        self.ends
            .borrow_mut()
            .push(format!("{}{still}", ended.why()));
    }

    fn save(&self, handle: &Handle) -> Saved {
        self.asked.set(self.asked.get() + 1);
        match self.patience.get().checked_sub(1) {
            Some(patience) => self.patience.set(patience),
            None => {
                let act = self.act;
                let done = std::thread::scope(|scope| scope.spawn(|| act(handle)).join());
                self.acts.borrow_mut().push(done.unwrap());
            }
        }
        match self.asked.get() < self.unsaved_from {
            true => Saved::Stateless,
            false => Saved::Close,
        }
    }
}

fn close(handle: &Handle) -> Result<(), PushError> {
    handle.push(vec![9])?;
    handle.close("kicked")
}

fn overflow(handle: &Handle) -> Result<(), PushError> {
    handle.push(vec![9; 100 << 20])
}

fn cut(handle: &Handle) -> Result<(), PushError> {
    handle.push(vec![9])?;
    handle.cut("too slow")
}

/// How the connection ended when `act` came after it was asked so many times, what its client was sent, and what the acts
/// were answered.
fn handed_over(
    act: fn(&Handle) -> Result<(), PushError>,
    patience: usize,
    is_late: bool,
) -> (Vec<String>, Vec<u8>, Vec<Result<(), PushError>>) {
    let service = ActedOn::new(act, patience);
    let mut exchange = Exchange::new(service.clone());
    let early = (!is_late).then(|| exchange.connect());
    exchange.begin_stop(Duration::ZERO, true);
    let client = early.unwrap_or_else(|| exchange.connect());
    let parted = exchange.parted.first();
    let sent = match parted {
        Some(parted) => [&parted.wire.sent, &parted.parcel.state.output[..]].concat(),
        None => exchange.take_sent(client),
    };
    (service.ends.take(), sent, service.acts.take())
}

#[test]
fn a_service_is_told_of_an_end_when_handles_say_so() {
    let service = ActedOn::new(close, usize::MAX);
    let mut exchange = Exchange::new(service.clone());
    let client = exchange.connect();
    // As where another process turns out to have it, so that it has no reason of its own.
    drop(exchange.shard.closed(client.0 as u32));
    assert_eq!(service.ends.take(), ["the server stops"]);
}

#[test]
fn a_close_that_was_accepted_comes_before_the_handover() {
    let kicked = "the service ended the connection: kicked";
    let kept = "a successor goes on with the connection";
    for (patience, is_late) in [(0, false), (1, false), (2, false), (0, true), (1, true)] {
        let (ends, sent, acts) = handed_over(close, patience, is_late);
        let is_closed = acts.contains(&Ok(()));
        let expected = if is_closed { kicked } else { kept };
        assert_eq!(ends, [expected], "{acts:?} {patience} {is_late}");
        let written: &[u8] = if is_closed { &[9] } else { &[] };
        assert_eq!(sent, written);
        assert!(
            acts[usize::from(is_closed)..]
                .iter()
                .all(|act| *act == Err(PushError::Gone))
        );
    }
}

#[test]
fn a_cut_that_was_accepted_comes_before_the_handover() {
    let was_cut = "the service cut the connection: too slow";
    let kept = "a successor goes on with the connection";
    for (patience, is_late) in [(0, false), (1, false), (2, false), (0, true), (1, true)] {
        let (ends, sent, acts) = handed_over(cut, patience, is_late);
        let is_cut = acts.contains(&Ok(()));
        let expected = if is_cut { was_cut } else { kept };
        assert_eq!(ends, [expected], "{acts:?} {patience} {is_late}");
        assert_eq!(sent, []);
    }
}

/// Who has only replies to read is handed over, unless it is cut.
#[test]
fn a_handover_waits_for_nobody_who_is_cut() {
    for has_ended in [false, true] {
        let service = ActedOn::new(close, usize::MAX);
        let mut exchange = Exchange::new(service.clone());
        let client = exchange.connect();
        exchange.set_window(client, Some(0));
        let handle = service.handle.borrow().clone().unwrap();
        handle.push(vec![9]).unwrap();
        if has_ended {
            exchange.end(client);
        } else {
            handle.close("kicked").unwrap();
        }
        exchange.deliver();
        exchange.tell_to_stop(Duration::from_secs(5), true);
        if !has_ended {
            exchange.settle();
            assert!(!exchange.shard.is_done(), "it is waited for");
        }
        assert_eq!(handle.push(vec![9]), Err(PushError::Gone));
        assert_eq!(handle.cut("too slow"), Ok(()));
        assert_eq!(handle.cut("too late"), Err(PushError::Gone));
        exchange.settle();
        assert!(exchange.parted.is_empty() && exchange.shard.is_done());
        assert!(exchange.is_cut(client));
        assert_eq!(exchange.counters().cut, 1);
        let expected = match has_ended {
            true => "the service cut the connection: too slow",
            false => "the service ended the connection: kicked",
        };
        assert_eq!(service.ends.take(), [expected]);
    }
}

/// That is known before anybody is given away, when all are, or is said when it is to be given away itself.
#[test]
fn who_cannot_be_handed_over_can_be_cut_to_the_end() {
    let drain = Duration::from_secs(5);
    for unsaved_from in [1, 2, 3] {
        let service = ActedOn {
            unsaved_from,
            ..ActedOn::new(close, usize::MAX)
        };
        let mut exchange = Exchange::new(service.clone());
        let client = exchange.connect();
        exchange.set_window(client, Some(0));
        let handle = service.handle.borrow().clone().unwrap();
        handle.push(vec![9]).unwrap();
        exchange.deliver();
        exchange.begin_stop(drain, true);
        exchange.advance(drain);
        // It has a second to take what it was sent.
        assert!(exchange.is_open(client), "{unsaved_from}");
        assert_eq!(exchange.counters().timed_out, 0);
        assert_eq!(handle.cut("too slow"), Ok(()), "{unsaved_from}");
        assert_eq!(handle.cut("too late"), Err(PushError::Gone));
        exchange.settle();
        assert!(exchange.is_cut(client) && exchange.shard.is_done());
        assert!(exchange.parted.is_empty());
        assert_eq!(exchange.counters().cut, 1);
    }
}

/// Another thread has begun to end the connection when it is about to be given away.
#[test]
fn a_close_that_is_about_to_be_posted_is_awaited() {
    for (error, why) in [
        (PushError::Gone, Close::Service("kicked".into())),
        (PushError::Overflow, Close::Overflow("outbox_bytes")),
    ] {
        let service = ActedOn::new(close, usize::MAX);
        let mut exchange = Exchange::new(service.clone());
        exchange.connect();
        let handle = service.handle.borrow().clone().unwrap();
        let expected = why.to_string();
        let mail = handle.begin_end(error, why);
        exchange.begin_stop(Duration::ZERO, true);
        assert!(exchange.parted.is_empty() && exchange.shard.len() == 1);
        assert_eq!(handle.push(vec![1]), Err(error));
        assert_eq!(handle.close("too late"), Err(error));
        let _ = exchange.shard.deliver(mail);
        exchange.settle();
        assert_eq!(service.ends.take(), [expected]);
        assert!(exchange.parted.is_empty() && exchange.shard.is_done());
        assert_eq!(handle.push(vec![1]), Err(error));
    }
}

/// Otherwise the client would go on without what was pushed, and not know.
#[test]
fn nor_is_a_connection_handed_over_that_was_pushed_too_much() {
    let (ends, _, acts) = handed_over(overflow, 0, false);
    assert_eq!(acts[0], Err(PushError::Overflow));
    assert_eq!(ends.len(), 1);
    assert!(ends[0].contains("outbox_bytes"), "{ends:?}");
    let (ends, _, acts) = handed_over(overflow, 2, false);
    assert_eq!(
        ends,
        ["a successor goes on with the connection"],
        "{acts:?}"
    );
}
