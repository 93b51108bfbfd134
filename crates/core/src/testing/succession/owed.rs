//! A handover waits for deferred replies.

use std::cell::RefCell;
use std::rc::Rc;

use super::*;
use crate::crew::Step;
use crate::frame::Frame;
use crate::peer::Peer;
use crate::reply::{Abandoned, Reply, Responder, Ticket};
use crate::service::{Flow, Refusal, Saved};

/// Lets others answer, and save nothing.
#[derive(Clone, Default)]
struct Deferring(Rc<RefCell<Vec<Responder>>>);

impl Service for Deferring {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, _: &mut (), _: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        self.0.borrow_mut().push(reply.defer(Ticket(7)));
        Flow::Continue
    }

    fn abandoned(&mut self, _: &mut (), _: Ticket, _: Abandoned, _: &mut Reply<'_>) -> Flow {
        Flow::Continue
    }

    fn save(&self, _: &()) -> Saved {
        Saved::Stateless
    }
}

/// Its connection takes nothing else any more by then, since all the others are let go.
#[test]
fn an_answer_is_wanted_for_as_long_as_a_handover_waits_for_it() {
    const DRAIN: Duration = Duration::from_secs(3);
    for is_answered in [true, false] {
        let service = Deferring::default();
        let mut exchange = Exchange::new(service.clone());
        let [old, fresh] = [(); 2].map(|()| exchange.connect());
        exchange.receive(old, &[1]);
        exchange.begin_stop(DRAIN, true);
        exchange.receive(fresh, &[1]);
        exchange.advance(DRAIN);
        let mut responders = service.0.take().into_iter();
        let [first, second] = [(); 2].map(|()| responders.next().unwrap());
        assert!(!first.is_wanted(), "it was given up");
        assert_eq!(exchange.parted.len(), 1);
        exchange.advance(DRAIN - Duration::from_millis(1));
        assert!(second.is_wanted());
        if is_answered {
            second.answer(&[9][..]);
            exchange.settle();
            assert_eq!(exchange.parted[1].wire.sent, [9]);
        } else {
            exchange.advance(Duration::from_millis(1));
            assert!(!second.is_wanted());
            assert_eq!(exchange.parted[1].wire.sent, []);
        }
    }
}

/// A call is slow, and others are quick: their clients notice nothing of the wait for it, and all go on in the successor.
#[test]
fn all_are_served_until_what_was_promised_before_a_handover_is_given() {
    let service = Deferring::default();
    let mut exchange = Exchange::new(service.clone());
    // The other worker may owe what was promised before for longer than this one.
    let _mailbox = exchange.add_busy_worker(1 << 30);
    let crew = exchange.shard.desk.crew.clone();
    let [slow, quick] = [(); 2].map(|()| exchange.connect());
    let responder = || service.0.borrow_mut().pop().unwrap();
    let call = |exchange: &mut Exchange, client, number: u8| {
        exchange.receive(client, &[1]);
        assert!(exchange.reads(client));
        responder().answer(vec![number]);
        exchange.settle();
        assert_eq!(exchange.take_sent(client), [number]);
    };
    exchange.receive(slow, &[1]);
    let owed = responder();
    exchange.begin_stop(Duration::from_secs(3), true);
    for number in 0..3 {
        call(&mut exchange, quick, number);
        call(&mut exchange, slow, number);
    }
    owed.answer(vec![9]);
    exchange.settle();
    assert_eq!(exchange.take_sent(slow), [9]);
    for number in 3..6 {
        call(&mut exchange, quick, number);
    }
    exchange.receive(quick, &[1]);
    assert!(exchange.reads(quick));
    crew.reach(1, Step::Kept);
    assert!(crew.have_all_reached(Step::Kept));
    exchange.settle();
    assert!(!exchange.reads(quick) && exchange.reads(slow));
    exchange.receive(quick, &[1, 1]);
    responder().answer(vec![6]);
    exchange.settle();
    assert!(exchange.parted.is_empty(), "the other worker has not asked");
    crew.reach(1, Step::Asked);
    exchange.settle();
    assert!(crew.all_part(1));
    crew.reach(1, Step::Rests);
    exchange.settle();
    let parted = exchange.parted.iter();
    let parted: Vec<(Client, &[u8], usize)> = parted
        .map(|it| (it.client, &it.wire.sent[..], it.wire.unread()))
        .collect();
    assert_eq!(parted, [(slow, &[][..], 0), (quick, &[6], 2)]);
    assert_eq!(exchange.counters().abandoned, 0);
    assert!(service.0.borrow().is_empty());
}

/// An engine says so in the turn that has looked whether the stop moves on, and may sleep then.
#[test]
fn who_has_gone_is_owed_nothing_in_the_next_turn() {
    let service = Deferring::default();
    let mut exchange = Exchange::new(service.clone());
    let [gone, quick] = [(); 2].map(|()| exchange.connect());
    exchange.receive(gone, &[1]);
    exchange.begin_stop(Duration::from_secs(3), true);
    exchange.receive(quick, &[1]);
    assert!(exchange.reads(quick) && !exchange.shard.is_busy());
    drop(exchange.shard.closed(gone.0 as u32));
    assert!(exchange.shard.is_busy());
    exchange.settle();
    assert!(!exchange.reads(quick) && !exchange.shard.is_busy());
}

/// Or their next calls, which take as long again, would be waited for when nobody is read any more.
#[test]
fn who_makes_slow_calls_is_not_read_on_for_the_next_ones() {
    let service = Deferring::default();
    let mut exchange = Exchange::new(service.clone());
    let callers = [(); 4].map(|()| exchange.connect());
    let quick = exchange.connect();
    // Each call takes four seconds. The last one has just been made.
    let mut calls = Vec::new();
    for (second, caller) in (1..).zip(callers) {
        exchange.receive(caller, &[1]);
        calls.push((second, service.0.borrow_mut().pop().unwrap()));
        exchange.advance(Duration::from_secs(u64::from(second < 4)));
    }
    exchange.begin_stop(Duration::from_secs(5), true);
    for (second, (due, responder)) in (1..).zip(calls) {
        assert_eq!(second, due);
        assert!(exchange.parted.is_empty());
        exchange.receive(quick, &[1]);
        service.0.borrow_mut().pop().unwrap().answer(vec![second]);
        exchange.settle();
        exchange.advance(Duration::from_secs(1));
        responder.answer(&[9][..]);
        exchange.settle();
        let caller = callers[usize::from(second) - 1];
        if second < 4 {
            exchange.receive(caller, &[1]);
        }
    }
    assert_eq!(service.0.borrow().len(), 0, "the successor's");
    assert_eq!(exchange.parted.len(), 5);
    let parted = exchange.parted.iter();
    let quick = parted.filter(|parted| parted.client == quick);
    assert_eq!(
        Vec::from_iter(quick.map(|one| one.wire.sent.clone())),
        [[1, 2, 3, 4]]
    );
}

/// Nothing else happens to its connection meanwhile.
#[test]
fn who_becomes_slow_while_a_stop_waits_is_not_read_on() {
    const SECOND: Duration = Duration::from_secs(1);
    let service = Deferring::default();
    let mut exchange = Exchange::new(service.clone());
    let clients = [(); 3].map(|()| exchange.connect());
    let [first, second, idle] = clients;
    exchange.receive(first, &[1]);
    exchange.advance(SECOND);
    exchange.receive(second, &[1]);
    exchange.begin_stop(8 * SECOND, true);
    let begun = exchange.now;
    for (at, expected) in [(1000, [false, true, true]), (2000, [false, false, true])] {
        exchange.now = begun + at - 1;
        exchange.settle();
        assert_eq!(exchange.shard.next_due(), Some(begun + at));
        exchange.advance(Duration::from_millis(1));
        assert_eq!(clients.map(|client| exchange.reads(client)), expected);
    }
    // What is promised meanwhile is looked at in its time, too.
    exchange.receive(idle, &[1]);
    exchange.advance(4 * SECOND);
    assert!(!exchange.reads(idle));
}

/// Promises again whatever is given up.
#[derive(Clone, Default)]
struct Insisting(Deferring);

impl Service for Insisting {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, session: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        self.0.frame(session, frame, reply)
    }

    fn abandoned(
        &mut self,
        _: &mut (),
        ticket: Ticket,
        _: Abandoned,
        reply: &mut Reply<'_>,
    ) -> Flow {
        let mut promised = self.0.0.borrow_mut();
        // Or a test that fails would have no end.
        if promised.len() < 100 {
            promised.push(reply.defer(ticket));
        }
        Flow::Continue
    }

    fn save(&self, _: &()) -> Saved {
        Saved::Stateless
    }
}

#[test]
fn a_service_that_promises_again_holds_up_no_stop() {
    const DRAIN: Duration = Duration::from_secs(3);
    const MOMENT: Duration = Duration::from_millis(1);
    for hand_over in [false, true] {
        let mut exchange = Exchange::new(Insisting::default());
        let [owed, other] = [(); 2].map(|()| exchange.connect());
        exchange.receive(owed, &[1]);
        exchange.begin_stop(DRAIN, hand_over);
        exchange.advance(DRAIN);
        assert_eq!(exchange.counters().abandoned, 1);
        exchange.advance(DRAIN - MOMENT);
        assert!(exchange.is_open(owed), "it was promised in time");
        exchange.advance(MOMENT);
        assert_eq!(exchange.counters().abandoned, 2);
        assert!(!exchange.is_open(owed));
        exchange.settle();
        assert!(exchange.shard.is_done());
        let parted = exchange.parted.iter().map(|parted| parted.client);
        assert_eq!(
            Vec::from_iter(parted),
            Vec::from_iter(hand_over.then_some(other))
        );
        assert_eq!(exchange.counters().unsaved, u64::from(hand_over));
    }
}

/// Promises something to everybody who comes.
#[derive(Clone, Default)]
struct Promising(Deferring);

impl Service for Promising {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, reply: &mut Reply<'_>) -> Result<(), Refusal> {
        self.0.0.borrow_mut().push(reply.defer(Ticket(7)));
        Ok(())
    }

    fn frame(&mut self, _: &mut (), _: Frame<'_>, _: &mut Reply<'_>) -> Flow {
        Flow::Continue
    }

    fn abandoned(&mut self, _: &mut (), _: Ticket, _: Abandoned, _: &mut Reply<'_>) -> Flow {
        Flow::Continue
    }
}

/// Another worker may deal connections for as long as it accepts.
#[test]
fn what_is_promised_when_all_has_been_given_up_is_given_up_as_well() {
    const DRAIN: Duration = Duration::from_secs(3);
    let mut exchange = Exchange::new(Promising::default());
    let mut clients = vec![exchange.connect()];
    exchange.begin_stop(DRAIN, false);
    exchange.advance(DRAIN);
    exchange.advance(DRAIN);
    assert_eq!(exchange.counters().abandoned, 1);
    for count in 2..5 {
        clients.push(exchange.connect());
        assert_eq!(exchange.counters().abandoned, count);
    }
    for client in clients {
        assert!(!exchange.is_open(client));
    }
}
