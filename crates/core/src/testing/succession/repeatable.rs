//! Requests of which the successor is asked again, so that nobody waits for their answers.

use std::cell::RefCell;
use std::rc::Rc;

use super::*;
use crate::frame::Frame;
use crate::peer::{Peer, PushError};
use crate::reply::{Abandoned, Reply, Responder, Ticket};
use crate::service::{Flow, Refusal, Saved};
use crate::tick::Tick;

const DRAIN: Duration = Duration::from_secs(3);

/// Promises an answer to each frame. Those below 100 are repeatable, and those from 50 to there answered at once.
#[derive(Clone, Default)]
struct Asked {
    frames: Rc<RefCell<Vec<u8>>>,
    owed: Rc<RefCell<Vec<Responder>>>,
    abandoned: Rc<RefCell<Vec<(u64, Abandoned)>>>,
    is_closed: bool,
    ticks: bool,
}

impl Service for Asked {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, _: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        let number = frame[0];
        self.frames.borrow_mut().push(number);
        let ticket = Ticket(u64::from(number));
        let responder = match number {
            0..100 => reply.defer_repeatable(ticket, &frame),
            _ => reply.defer(ticket),
        };
        match number {
            50..100 => responder.answer(vec![number]),
            _ => self.owed.borrow_mut().push(responder),
        }
        Flow::Continue
    }

    fn abandoned(&mut self, _: &mut (), ticket: Ticket, why: Abandoned, _: &mut Reply<'_>) -> Flow {
        self.abandoned.borrow_mut().push((ticket.0, why));
        Flow::Continue
    }

    fn tick(&mut self, _: &Tick<'_>) -> Option<Duration> {
        self.ticks.then_some(DRAIN)
    }

    fn save(&self, _: &()) -> Saved {
        match self.is_closed {
            true => Saved::Close,
            false => Saved::Stateless,
        }
    }
}

impl Asked {
    /// Answers what was asked first.
    fn answer(&self, exchange: &mut Exchange, number: u8) -> Result<(), PushError> {
        let first = self.owed.borrow_mut().remove(0);
        let answered = first.try_answer(vec![number]);
        exchange.settle();
        answered
    }
}

/// What each connection that has parted has sent, and what its successor reads first.
fn parted(exchange: &Exchange) -> Vec<(Client, &[u8], &[u8])> {
    let parted = exchange.parted.iter();
    let parted = parted.map(|it| (it.client, &it.wire.sent[..], &it.parcel.state.input[..]));
    parted.collect()
}

#[test]
fn the_successor_is_asked_what_has_no_answer_and_nobody_waits_for_that() {
    let service = Asked::default();
    let mut exchange = Exchange::new(service.clone());
    let [client, other] = [(); 2].map(|()| exchange.connect());
    exchange.receive(client, &[1, 2, 3]);
    exchange.receive(other, &[4]);
    assert_eq!(service.answer(&mut exchange, 11), Ok(()));
    // Of a frame that has only just begun.
    exchange.receive(client, &[0x92, 7]);
    assert_eq!(exchange.snapshot().owed, 3);
    exchange.begin_stop(DRAIN, true);
    assert_eq!(
        parted(&exchange),
        [
            (client, &[11][..], &[2, 3, 0x92, 7][..]),
            (other, &[], &[4])
        ]
    );
    assert_eq!(exchange.shard.desk.crew.repeatable.count(), 0);
    assert_eq!(service.abandoned.borrow().len(), 0);
    for responder in service.owed.take() {
        assert!(!responder.is_wanted());
        assert_eq!(responder.try_answer(vec![9]), Err(PushError::Gone));
    }
}

#[test]
fn it_is_answered_by_whichever_of_the_two_is_asked_last() {
    let service = Asked::default();
    let mut exchange = Exchange::new(service.clone());
    let [client, ended] = [(); 2].map(|()| exchange.connect());
    exchange.receive(client, &[1, 2]);
    exchange.receive(ended, &[3]);
    exchange.end(ended);
    service.answer(&mut exchange, 11).unwrap();
    let next = Asked::default();
    let made = next.clone();
    let mut exchange = exchange.hand_over(|_| made);
    assert_eq!(*next.frames.borrow(), [2, 3]);
    exchange.receive(client, &[4]);
    for number in [12, 13, 14] {
        assert_eq!(next.answer(&mut exchange, number), Ok(()));
    }
    assert_eq!(exchange.take_sent(client), [11, 12, 14]);
    assert_eq!(exchange.take_sent(ended), [13]);
    assert!(exchange.is_open(client) && !exchange.is_open(ended));
    assert_eq!(exchange.snapshot().owed, 0);
}

/// What somebody else asks next may be what it waits for.
#[test]
fn its_connection_is_served_while_a_stop_waits_for_others() {
    for hand_over in [true, false] {
        let service = Asked::default();
        let mut exchange = Exchange::new(service.clone());
        let [client, slow] = [(); 2].map(|()| exchange.connect());
        exchange.receive(slow, &[100]);
        exchange.receive(client, &[1]);
        exchange.begin_stop(DRAIN, hand_over);
        let owed = service.owed.borrow_mut().remove(0);
        exchange.receive(slow, &[101]);
        owed.answer(vec![9]);
        exchange.settle();
        // From now on who waits for any that is awaited is not read.
        exchange.advance(DRAIN - Duration::from_millis(1));
        assert!(exchange.reads(client) && !exchange.reads(slow));
        exchange.receive(client, &[2]);
        assert_eq!(service.answer(&mut exchange, 11), Ok(()));
        assert_eq!(exchange.take_sent(client), [11]);
        assert_eq!(*service.frames.borrow(), [100, 1, 101, 2]);
    }
}

/// It goes along all the same, and is not given up with them.
#[test]
fn it_is_not_given_up_with_what_is_waited_for_too_long() {
    let service = Asked::default();
    let mut exchange = Exchange::new(service.clone());
    let client = exchange.connect();
    exchange.receive(client, &[1, 100, 2]);
    exchange.begin_stop(DRAIN, true);
    exchange.advance(DRAIN);
    exchange.advance(DRAIN);
    assert_eq!(*service.abandoned.borrow(), [(100, Abandoned::Stopping)]);
    assert_eq!(parted(&exchange), [(client, &[][..], &[1, 2][..])]);
}

/// As long as something else is waited for it may still be answered.
#[test]
fn a_stop_without_a_successor_gives_it_up_when_it_waits_for_nothing_else() {
    let service = Asked::default();
    let mut exchange = Exchange::new(service.clone());
    let client = exchange.connect();
    exchange.receive(client, &[100, 1, 2, 3]);
    exchange.begin_stop(DRAIN, false);
    let [awaited, first, second, third] = service.owed.take().try_into().unwrap();
    assert_eq!(first.try_answer(vec![11]), Ok(()));
    exchange.settle();
    assert!(second.is_wanted());
    // That is known when the next ones are given up.
    awaited.answer(vec![10]);
    assert_eq!(second.try_answer(vec![12]), Ok(()));
    exchange.settle();
    assert_eq!(exchange.take_sent(client), [11, 10, 12]);
    assert_eq!(*service.abandoned.borrow(), [(3, Abandoned::Stopping)]);
    assert!(!third.is_wanted());
    assert_eq!(third.try_answer(vec![13]), Err(PushError::Gone));
    assert!(exchange.is_shut(client));
}

/// What it had sent before is served to the end, and given up at once where that would take an answer.
#[test]
fn what_arrives_last_in_a_stop_is_given_up_at_once() {
    let service = Asked::default();
    let mut exchange = Exchange::new(service.clone());
    let client = exchange.connect();
    exchange.stop_unread(client, &[1, 2]);
    assert_eq!(*service.frames.borrow(), [1, 2]);
    let given_up = [1, 2].map(|ticket| (ticket, Abandoned::Stopping));
    assert_eq!(*service.abandoned.borrow(), given_up);
    assert!(exchange.is_shut(client));
}

/// Also behind others that were given up.
#[test]
fn what_arrives_last_is_answered_where_that_takes_no_time() {
    for is_closed in [false, true] {
        let service = Asked {
            is_closed,
            ..Asked::default()
        };
        let mut exchange = Exchange::new(service.clone());
        let client = exchange.connect();
        exchange.receive(client, &[1]);
        let wire = exchange.wire(client).unwrap();
        wire.incoming.push_back(vec![50, 2, 51].into());
        wire.incoming.push_back(vec![52].into());
        exchange.begin_stop(DRAIN, is_closed);
        assert_eq!(*service.frames.borrow(), [1, 50, 2, 51, 52]);
        assert_eq!(exchange.take_sent(client), [50, 51, 52]);
        let given_up = [1, 2].map(|ticket| (ticket, Abandoned::Stopping));
        assert_eq!(*service.abandoned.borrow(), given_up);
        assert!(exchange.is_shut(client));
    }
}

#[test]
fn on_a_connection_that_cannot_be_handed_over_it_is_given_up() {
    let service = Asked {
        is_closed: true,
        ..Asked::default()
    };
    let mut exchange = Exchange::new(service.clone());
    let client = exchange.connect();
    exchange.receive(client, &[1]);
    exchange.begin_stop(DRAIN, true);
    assert_eq!(*service.abandoned.borrow(), [(1, Abandoned::Stopping)]);
    assert!(exchange.is_shut(client) && exchange.parted.is_empty());
    assert_eq!(exchange.shard.desk.crew.repeatable.count(), 0);
}

/// Or whoever asks for long things without end has the process keep them.
#[test]
fn what_is_kept_of_requests_counts() {
    let service = Asked::default();
    let mut exchange = Exchange::new(service.clone());
    let client = exchange.connect();
    let before = exchange.memory_held();
    exchange.receive(client, &[1, 2, 3]);
    assert_eq!(exchange.memory_held(), before + 3);
    service.answer(&mut exchange, 9).unwrap();
    assert_eq!(exchange.memory_held(), before + 2);
}

/// As with any other promise.
#[test]
fn it_is_given_up_by_promise_timeout_and_when_its_responder_is_dropped() {
    let service = Asked::default();
    let limits = crate::limits::Limits {
        promise_timeout: Duration::from_secs(1),
        ..crate::limits::Limits::default()
    };
    let made = service.clone();
    let mut exchange = Exchange::with_worker(|_| made, limits);
    let client = exchange.connect();
    exchange.receive(client, &[1, 2]);
    drop(service.owed.borrow_mut().remove(0));
    exchange.settle();
    exchange.advance(Duration::from_secs(2));
    assert_eq!(
        *service.abandoned.borrow(),
        [(1, Abandoned::Dropped), (2, Abandoned::Late)]
    );
    assert_eq!(exchange.snapshot().owed, 0);
    assert!(exchange.is_open(client));
}

/// Several answers come at once, behind the moment from which on nothing more is waited for.
#[test]
fn what_was_answered_in_time_is_written_together_with_others() {
    for is_closed in [false, true] {
        let service = Asked {
            is_closed,
            ..Asked::default()
        };
        let mut exchange = Exchange::new(service.clone());
        let client = exchange.connect();
        exchange.receive(client, &[1, 2, 3, 4]);
        exchange.tell_to_stop(DRAIN, is_closed);
        let mut owed = service.owed.take().into_iter();
        for number in [11, 12] {
            let answered = owed.next().unwrap().try_answer(vec![number]);
            assert_eq!(answered, Ok(()));
        }
        drop(owed.next());
        exchange.shard.work();
        exchange.settle();
        assert_eq!(exchange.take_sent(client), [11, 12]);
        let abandoned = service.abandoned.borrow();
        let abandoned: Vec<u64> = abandoned.iter().map(|(ticket, _)| *ticket).collect();
        assert_eq!(abandoned, [3, 4]);
    }
}

/// What is given up is what is waited for. Who has ticks is called until all of that is over.
#[test]
fn it_is_wanted_when_others_of_its_connection_are_given_up() {
    let service = Asked {
        ticks: true,
        ..Asked::default()
    };
    let mut exchange = Exchange::new(service.clone());
    let [client, late] = [(); 2].map(|()| exchange.connect());
    exchange.receive(client, &[1, 2, 100]);
    exchange.begin_stop(DRAIN, true);
    exchange.receive(late, &[101]);
    exchange.advance(DRAIN);
    assert_eq!(*service.abandoned.borrow(), [(100, Abandoned::Stopping)]);
    assert_eq!(service.answer(&mut exchange, 11), Ok(()));
    assert_eq!(exchange.take_sent(client), [11]);
    exchange.advance(DRAIN);
    assert_eq!(service.abandoned.borrow().len(), 2);
    assert_eq!(parted(&exchange)[0], (client, &[][..], &[2][..]));
}

/// No successor goes on with whoever sent what is of no use. It is waited for as for any deferred reply, but not for repeatable ones.
#[test]
fn who_was_refused_is_answered_here() {
    for hand_over in [true, false] {
        for before in [true, false] {
            let service = Asked::default();
            let mut exchange = Exchange::new(service.clone());
            let [owed, asked, other] = [(); 3].map(|()| exchange.connect());
            exchange.receive(owed, &[1, 100, 2]);
            exchange.receive(asked, &[3]);
            if before {
                exchange.begin_stop(DRAIN, hand_over);
            }
            for client in [owed, asked] {
                exchange.receive(client, &[0xc1, 5]);
            }
            if !before {
                exchange.begin_stop(DRAIN, hand_over);
            }
            assert!([owed, asked].map(|client| exchange.is_open(client)) == [true; 2]);
            assert_eq!(exchange.take_sent(owed), []);
            service.owed.borrow_mut().remove(1).answer(vec![100]);
            exchange.settle();
            assert_eq!(exchange.take_sent(owed), [100]);
            for client in [owed, asked] {
                assert!(exchange.is_shut(client), "{hand_over} {before}");
                exchange.end(client);
            }
            let abandoned = service.abandoned.take();
            let mut tickets: Vec<u64> = abandoned.iter().map(|(ticket, _)| *ticket).collect();
            tickets.sort_unstable();
            assert_eq!(tickets, [1, 2, 3]);
            assert_eq!(exchange.counters().bad_input, 2);
            let goes_on: &[_] = if hand_over {
                &[(other, &[][..], &[][..])]
            } else {
                &[]
            };
            assert_eq!(parted(&exchange), goes_on);
            let crew = &exchange.shard.desk.crew;
            let left =
                [&crew.repeatable, &crew.open_tickets, &crew.endings].map(|tally| tally.count());
            assert_eq!(left, [0; 3]);
        }
    }
}

/// Nor where it waits for another deferred reply until that is given up.
#[test]
fn who_was_refused_is_not_waited_for_behind_what_is_given_up() {
    let service = Asked::default();
    let mut exchange = Exchange::new(service.clone());
    let [refused, slow] = [(); 2].map(|()| exchange.connect());
    exchange.receive(refused, &[1, 0xc1]);
    exchange.receive(slow, &[100]);
    exchange.begin_stop(DRAIN, true);
    assert_eq!(*service.abandoned.borrow(), []);
    exchange.advance(DRAIN);
    exchange.advance(DRAIN);
    let abandoned = service.abandoned.take();
    let mut tickets: Vec<u64> = abandoned.iter().map(|(ticket, _)| *ticket).collect();
    tickets.sort_unstable();
    assert_eq!(tickets, [1, 100]);
    assert_eq!(parted(&exchange), [(slow, &[][..], &[][..])]);
    assert_eq!(exchange.shard.len(), 0);
}
