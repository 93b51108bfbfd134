//! Deferred replies that only the next request of somebody gives whom a stop does not read any more.

use std::cell::RefCell;
use std::mem::take;
use std::rc::Rc;

use super::*;
use crate::crew::Step;
use crate::frame::Frame;
use crate::limits::Limits;
use crate::mailbox::Mail;
use crate::peer::Peer;
use crate::reply::{Abandoned, Reply, Responder, Ticket};
use crate::service::{Flow, Refusal, Saved};

const DRAIN: Duration = Duration::from_secs(8);
const QUARTER: Duration = Duration::from_secs(2);
const MOMENT: Duration = Duration::from_millis(1);

/// Waits for a job.
const TAKE: u8 = 1;
/// Waits for a result.
const RESULT: u8 = 2;
/// Says that a job is done.
const DONE: u8 = 3;

/// Who waits for what.
#[derive(Clone, Default)]
struct Jobs {
    connected: usize,
    /// With the number of the client.
    taking: Rc<RefCell<Vec<(usize, Responder)>>>,
    waiting: Rc<RefCell<Vec<Responder>>>,
}

impl Service for Jobs {
    type Session = usize;

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<usize, Refusal> {
        self.connected += 1;
        Ok(self.connected - 1)
    }

    fn frame(&mut self, client: &mut usize, frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        match frame[0] {
            TAKE => {
                let responder = reply.defer(Ticket(1));
                self.taking.borrow_mut().push((*client, responder));
            }
            RESULT => self.waiting.borrow_mut().push(reply.defer(Ticket(2))),
            _ => {
                // Who has waited longest has it.
                self.waiting.borrow_mut().remove(0).answer(&[RESULT][..]);
                reply.write(|out| out.push(DONE));
            }
        }
        Flow::Continue
    }

    fn abandoned(&mut self, _: &mut usize, _: Ticket, _: Abandoned, reply: &mut Reply<'_>) -> Flow {
        reply.write(|out| out.push(0xc0));
        Flow::Continue
    }

    fn save(&self, _: &usize) -> Saved {
        Saved::Stateless
    }
}

impl Jobs {
    /// There are jobs for all who wait for one.
    fn give(&self, exchange: &mut Exchange) {
        for (_, responder) in take(&mut *self.taking.borrow_mut()) {
            responder.answer(&[TAKE][..]);
        }
        exchange.settle();
    }
}

/// What a client has been sent, wherever its connection is now.
fn sent(exchange: &mut Exchange, client: Client) -> Vec<u8> {
    let parted = exchange.parted.iter_mut();
    let parted = parted.filter(|parted| parted.client == client);
    let parted: Vec<u8> = parted.flat_map(|it| take(&mut it.wire.sent)).collect();
    [exchange.take_sent(client), parted].concat()
}

/// Somebody waits for a result when a stop freezes, and the one who has the job is not read, since that one waited for it by then.
fn freeze_with_a_job(hand_over: bool) -> (Exchange, Jobs, [Client; 2]) {
    let jobs = Jobs::default();
    let mut exchange = Exchange::new(jobs.clone());
    let [first, waiting, working] = [(); 3].map(|()| exchange.connect());
    exchange.receive(first, &[RESULT]);
    exchange.begin_stop(DRAIN, hand_over);
    exchange.receive(waiting, &[RESULT]);
    exchange.receive(working, &[TAKE]);
    exchange.receive(first, &[DONE]);
    assert_eq!(exchange.take_sent(first), [DONE, RESULT]);
    jobs.give(&mut exchange);
    assert_eq!(exchange.take_sent(working), [TAKE]);
    assert!(exchange.reads(first) && !exchange.reads(working));
    (exchange, jobs, [waiting, working])
}

#[test]
fn what_only_somebody_gives_who_is_not_read_is_given_before_the_end() {
    for hand_over in [false, true] {
        let (mut exchange, _, [waiting, working]) = freeze_with_a_job(hand_over);
        assert!(!exchange.receive(working, &[DONE]));
        exchange.advance(QUARTER - MOMENT);
        assert_eq!(exchange.shard.next_due(), Some(exchange.now + 1));
        assert_eq!(sent(&mut exchange, waiting), []);
        exchange.advance(MOMENT);
        assert_eq!(sent(&mut exchange, waiting), [RESULT]);
        assert_eq!(sent(&mut exchange, working), [DONE]);
        assert_eq!(exchange.counters().abandoned, 0);
        assert_eq!(exchange.parted.len(), if hand_over { 3 } else { 0 });
        exchange.settle();
        assert!(exchange.shard.is_done());
    }
}

/// It waited long for its job, since there was none.
#[test]
fn who_was_slow_is_read_again_when_nothing_comes() {
    for hand_over in [false, true] {
        let jobs = Jobs::default();
        let mut exchange = Exchange::new(jobs.clone());
        let [waiting, working, slow] = [(); 3].map(|()| exchange.connect());
        exchange.receive(working, &[TAKE]);
        exchange.advance(QUARTER);
        exchange.receive(waiting, &[RESULT]);
        exchange.begin_stop(DRAIN, hand_over);
        jobs.give(&mut exchange);
        exchange.receive(slow, &[TAKE]);
        assert!(!exchange.receive(working, &[DONE]));
        exchange.advance(QUARTER - MOMENT);
        assert_eq!(exchange.shard.next_due(), Some(exchange.now + 1));
        assert_eq!(exchange.take_sent(waiting), []);
        exchange.advance(MOMENT);
        assert_eq!(exchange.take_sent(waiting), [RESULT]);
        assert!(!exchange.reads(slow), "it still waits");
        jobs.give(&mut exchange);
        assert_eq!(sent(&mut exchange, slow), [TAKE]);
        exchange.settle();
        assert!(exchange.shard.is_done());
        assert_eq!(exchange.counters().abandoned, 0);
    }
}

/// Each job is waited for, and done by the same one, before it has the next.
#[test]
fn who_is_read_again_is_served_for_a_while() {
    let (mut exchange, jobs, [waiting, working]) = freeze_with_a_job(true);
    exchange.advance(QUARTER);
    assert!(!exchange.reads(waiting) && exchange.reads(working));
    let others = [(); 20].map(|()| exchange.connect());
    for other in others {
        exchange.receive(other, &[RESULT]);
    }
    exchange.advance(QUARTER / 2);
    for other in [&[waiting], &others[..19]].concat() {
        assert!(exchange.receive(working, &[DONE, TAKE]));
        assert_eq!(sent(&mut exchange, other), [RESULT]);
        jobs.give(&mut exchange);
        assert_eq!(exchange.take_sent(working), [DONE, TAKE]);
    }
    exchange.receive(working, &[TAKE]);
    exchange.advance(QUARTER / 2 - MOMENT);
    assert!(exchange.reads(working));
    assert_eq!(exchange.shard.next_due(), Some(exchange.now + 1));
    exchange.advance(MOMENT);
    assert!(!exchange.reads(working) && exchange.reads(others[0]));
    jobs.give(&mut exchange);
    assert!(!exchange.reads(working));
    assert!(!exchange.receive(working, &[DONE]));
    exchange.advance(QUARTER);
    assert_eq!(sent(&mut exchange, others[19]), [RESULT]);
    assert_eq!(exchange.counters().abandoned, 0);
    assert_eq!(exchange.parted.len(), 23);
}

/// Calls again as soon as it is answered, at its own times.
struct Caller {
    client: Client,
    /// Milliseconds.
    takes: u64,
    /// When its call has been read.
    since: Option<u64>,
    waits: bool,
    answers: usize,
}

impl Caller {
    fn new(exchange: &mut Exchange, takes: u64) -> Caller {
        Caller {
            client: exchange.connect(),
            takes,
            since: None,
            waits: false,
            answers: 0,
        }
    }

    fn go_on(&mut self, exchange: &mut Exchange, jobs: &Jobs) {
        self.look(exchange, jobs);
        if let Some(since) = self.since
            && exchange.now >= since + self.takes
        {
            let mut taking = jobs.taking.borrow_mut();
            let is_own = |(client, _): &(usize, Responder)| *client == self.client.0;
            let own = taking.extract_if(.., |it| is_own(it)).last();
            own.unwrap().1.answer(&[TAKE][..]);
            drop(taking);
            exchange.settle();
            assert_eq!(sent(exchange, self.client), [TAKE]);
            self.answers += 1;
            (self.since, self.waits) = (None, false);
        }
        if !self.waits {
            self.waits = true;
            exchange.receive(self.client, &[TAKE]);
            self.look(exchange, jobs);
        }
    }

    fn look(&mut self, exchange: &Exchange, jobs: &Jobs) {
        let taking = jobs.taking.borrow();
        if taking.iter().any(|(client, _)| *client == self.client.0) {
            self.since.get_or_insert(exchange.now);
        }
    }
}

/// Each moment, they go on. Returns how often each was answered.
fn call(exchange: &mut Exchange, jobs: &Jobs, callers: &mut [Caller], moments: u64) -> Vec<usize> {
    for _ in 0..moments {
        for caller in &mut *callers {
            caller.go_on(exchange, jobs);
        }
        exchange.advance(MOMENT);
    }
    let answers = callers.iter_mut().map(|caller| take(&mut caller.answers));
    answers.collect()
}

/// However their calls overlap, as long as none is slow: each waits for the answer to the one that is under way, and the next one is the
/// successor's.
#[test]
fn calls_without_end_hold_up_no_handover() {
    let quarter = QUARTER.as_millis() as u64;
    for takes in [12, quarter / 2, quarter - 1] {
        let jobs = Jobs::default();
        let mut exchange = Exchange::new(jobs.clone());
        let mut callers = Vec::new();
        for _ in 0..3 {
            callers.push(Caller::new(&mut exchange, takes));
            call(&mut exchange, &jobs, &mut callers, takes / 3);
        }
        let [waiting, working] = [(); 2].map(|()| exchange.connect());
        exchange.receive(waiting, &[RESULT]);
        exchange.begin_stop(DRAIN, true);
        let answers = call(&mut exchange, &jobs, &mut callers, takes);
        assert_eq!(answers, [1, 1, 1]);
        exchange.receive(working, &[DONE]);
        let answers = call(&mut exchange, &jobs, &mut callers, takes + 1);
        assert_eq!(answers, [1, 1, 1]);
        assert_eq!(exchange.parted.len(), 5, "{takes}");
    }
}

/// Nor if it thaws meanwhile, when it has been given what it waited for.
#[test]
fn calls_without_end_hold_up_no_handover_that_thaws() {
    let quarter = QUARTER.as_millis() as u64;
    let (mut exchange, jobs, [waiting, working]) = freeze_with_a_job(true);
    let mut callers = [7, 500, 1900].map(|takes| Caller::new(&mut exchange, takes));
    exchange.receive(working, &[DONE]);
    let answers = call(&mut exchange, &jobs, &mut callers, quarter - 1);
    assert_eq!(
        (answers, sent(&mut exchange, waiting)),
        (vec![1; 3], vec![])
    );
    let answers = call(&mut exchange, &jobs, &mut callers, quarter);
    assert_eq!(sent(&mut exchange, waiting), [RESULT]);
    assert!(answers[0] > 200 && answers[2] == 1, "{answers:?}");
    // It is frozen again.
    let answers = call(&mut exchange, &jobs, &mut callers, quarter - 1);
    assert_eq!(answers, [1, 1, 1]);
    assert_eq!(exchange.parted.len(), 6);
    assert_eq!(exchange.counters().abandoned, 0);
}

/// What nobody gives is given up when it always was.
#[test]
fn a_stop_takes_no_longer_for_who_is_read_again() {
    for hand_over in [false, true] {
        let (mut exchange, jobs, [waiting, working]) = freeze_with_a_job(hand_over);
        let begun = exchange.now;
        for time in 0..DRAIN.as_millis() * 2 {
            assert_eq!(exchange.counters().abandoned, 0, "{time}");
            exchange.receive(working, &[TAKE]);
            jobs.give(&mut exchange);
            exchange.advance(MOMENT);
        }
        assert_eq!(exchange.now - begun, DRAIN.as_millis() as u64 * 2);
        assert_eq!(exchange.counters().abandoned, 1);
        assert_eq!(sent(&mut exchange, waiting), [0xc0]);
        exchange.settle();
        assert!(exchange.shard.is_done());
    }
}

/// Or calls that one of them lets in would be what another one waits for.
#[test]
fn all_workers_thaw_at_once() {
    for is_first in [false, true] {
        let jobs = Jobs::default();
        let mut exchange = Exchange::new(jobs.clone());
        let mailbox = exchange.add_busy_worker(1 << 30);
        let crew = exchange.shard.desk.crew.clone();
        let working = exchange.connect();
        // As if it were owed by the other worker.
        crew.open_tickets.opened(0);
        exchange.begin_stop(DRAIN, true);
        exchange.receive(working, &[TAKE]);
        crew.reach(1, Step::Kept);
        exchange.settle();
        jobs.give(&mut exchange);
        assert!(!exchange.reads(working));
        while mailbox.next().is_some() {}
        if is_first {
            exchange.advance(QUARTER);
            assert!(matches!(mailbox.next(), Some(Mail::Look)));
        } else {
            exchange.advance(QUARTER / 2);
            assert!(!exchange.reads(working));
            crew.thaw(0);
            exchange.settle();
        }
        assert!(exchange.reads(working));
        // The other one has found it, too, and comes late.
        crew.thaw(0);
        assert_eq!(crew.thaws(), 1);
    }
}

/// While it was not read it could not complete its frame.
#[test]
fn the_time_for_a_frame_begins_anew_for_who_is_read_again() {
    let limits = Limits {
        frame_timeout: QUARTER * 3 / 4,
        ..Limits::default()
    };
    let jobs = Jobs::default();
    let mut exchange = Exchange::with_limits(jobs.clone(), limits);
    let [first, half] = [(); 2].map(|()| exchange.connect());
    exchange.receive(first, &[RESULT]);
    exchange.begin_stop(DRAIN, false);
    exchange.receive(half, &[RESULT, 0x92, 1]);
    exchange.receive(first, &[DONE]);
    exchange.receive(first, &[RESULT, DONE]);
    assert_eq!(exchange.take_sent(half), [RESULT]);
    for _ in 0..2 {
        exchange.advance(QUARTER / 2);
    }
    assert!(exchange.reads(half) && !exchange.reads(first));
    exchange.advance(QUARTER * 3 / 4 - MOMENT);
    assert!(exchange.is_open(half));
    exchange.advance(QUARTER / 8);
    assert!(!exchange.is_open(half));
}
