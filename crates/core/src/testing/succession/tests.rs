use std::cell::RefCell;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use bytes::Bytes;

use super::*;
use crate::close::{Close, Ended};
use crate::crew::Step;
use crate::frame::Frame;
use crate::limits::Limits;
use crate::mailbox::Mail;
use crate::peer::{ConnectionId, Handle, Peer, PushError};
use crate::reply::{Abandoned, Reply, Ticket};
use crate::service::{Flow, Refusal, RestoreError, Saved};
use crate::tick::Tick;

/// Greets with 0xcc and its own generation, and answers every frame with the generation and the sum of the session.
/// Negative numbers are orders.
struct Adder(u8);

const LARGE: u8 = 0xff;
const DEFER: u8 = 0xfe;
const UNSAVED: u8 = 100;
const UNRESTORED: u8 = 101;

impl Service for Adder {
    type Session = u8;

    fn connected(&mut self, _: &Peer<'_>, reply: &mut Reply<'_>) -> Result<u8, Refusal> {
        reply.write(|out| out.extend_from_slice(&[0xcc, self.0]));
        Ok(0)
    }

    fn frame(&mut self, sum: &mut u8, frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        match frame[0] {
            LARGE => reply.write(|out| out.resize(out.len() + 100_000, LARGE)),
            // Never answered, and not dropped either.
            DEFER => std::mem::forget(reply.defer(Ticket(7))),
            // The number may be written in more than one byte.
            _ => {
                *sum += frame[frame.len() - 1];
                reply.write(|out| out.extend_from_slice(&[self.0, *sum]));
            }
        }
        Flow::Continue
    }

    fn abandoned(
        &mut self,
        _: &mut u8,
        ticket: Ticket,
        _: Abandoned,
        reply: &mut Reply<'_>,
    ) -> Flow {
        reply.write(|out| out.extend_from_slice(&[self.0, ticket.0 as u8]));
        Flow::Continue
    }

    fn save(&self, sum: &u8) -> Saved {
        match *sum {
            0 => Saved::Stateless,
            UNSAVED => Saved::Close,
            sum => Saved::Bytes(Bytes::copy_from_slice(&[sum])),
        }
    }

    fn restore(&mut self, _: &Peer<'_>, saved: &[u8]) -> Result<u8, RestoreError> {
        match saved {
            [UNRESTORED] => Err(RestoreError::new("on purpose")),
            saved => Ok(saved[0]),
        }
    }
}

fn exchange() -> (Exchange, Client) {
    let mut exchange = Exchange::new(Adder(1));
    let client = exchange.connect();
    assert_eq!(exchange.take_sent(client), [0xcc, 1]);
    (exchange, client)
}

#[test]
fn a_session_goes_on_in_the_middle_of_a_frame() {
    let (mut exchange, client) = exchange();
    exchange.receive(client, &[3, 0xcd, 0]);
    let mut second = exchange.hand_over(|_| Adder(2));
    second.receive(client, &[4]);
    assert_eq!(second.take_sent(client), [1, 3, 2, 7]);
    assert_eq!(second.counters().restored, 1);
    let mut third = second.hand_over(|_| Adder(3));
    third.receive(client, &[1]);
    assert_eq!(third.take_sent(client), [3, 8]);
}

#[test]
fn a_stateless_session_is_made_anew_without_a_greeting() {
    let (exchange, client) = exchange();
    let mut exchange = exchange.hand_over(|_| Adder(2));
    assert_eq!(exchange.take_sent(client), []);
    exchange.receive(client, &[5]);
    assert_eq!(exchange.take_sent(client), [2, 5]);
    let other = exchange.connect();
    assert_eq!(exchange.take_sent(other), [0xcc, 2]);
}

#[test]
fn what_a_slow_client_has_not_read_or_not_sent_yet_goes_along() {
    let limits = Limits {
        outbox_bytes: 250_000,
        ..Limits::default()
    };
    let mut exchange = Exchange::with_limits(Adder(1), limits.clone());
    let client = exchange.connect();
    exchange.set_window(client, Some(10));
    // The second reply fills the outbox to more than its half, and what comes then waits in the socket.
    exchange.receive(client, &[1, LARGE, LARGE]);
    assert!(!exchange.receive(client, &[2]));
    let mut exchange = exchange.hand_over(|_| Adder(2));
    assert_eq!(exchange.shard.desk.limits, limits);
    assert_eq!(
        exchange.take_sent(client),
        [&[0xcc, 1, 1, 1][..], &[LARGE; 8]].concat()
    );
    assert_eq!(exchange.unread(client), 1);
    exchange.set_window(client, None);
    let mut expected = vec![LARGE; 200_000 - 8];
    expected.extend([2, 3]);
    assert!(exchange.take_sent(client) == expected);
    assert_eq!(exchange.unread(client), 0);
}

#[test]
fn time_limits_begin_anew() {
    let limits = Limits {
        idle_timeout: Duration::from_secs(40),
        write_timeout: Duration::from_secs(40),
        ..Limits::default()
    };
    let mut exchange = Exchange::with_limits(Adder(1), limits);
    let [idle, slow] = [exchange.connect(), exchange.connect()];
    exchange.set_window(slow, Some(2));
    exchange.receive(slow, &[LARGE]);
    exchange.advance(Duration::from_secs(39));
    let mut exchange = exchange.hand_over(|_| Adder(2));
    exchange.advance(Duration::from_secs(39));
    assert!(exchange.is_open(idle) && exchange.is_open(slow));
    exchange.advance(Duration::from_secs(2));
    assert!(!exchange.is_open(idle) && !exchange.is_open(slow));
    assert_eq!(exchange.counters().timed_out, 2);
}

#[test]
fn who_cannot_be_saved_or_restored_is_closed() {
    let (mut exchange, client) = exchange();
    let [unsaved, unrestored, ended] = [UNSAVED, UNRESTORED, 2].map(|sum| {
        let client = exchange.connect();
        exchange.receive(client, &[sum]);
        client
    });
    exchange.end(ended);
    let mut exchange = exchange.hand_over(|_| Adder(2));
    assert!(exchange.is_open(client));
    for gone in [unsaved, unrestored, ended] {
        assert!(!exchange.is_open(gone));
        assert!(!exchange.receive(gone, &[1]));
    }
    assert_eq!(exchange.take_sent(unsaved), [0xcc, 1, 1, UNSAVED]);
    assert_eq!(exchange.take_sent(unrestored), [0xcc, 1, 1, UNRESTORED]);
    assert_eq!(exchange.take_sent(ended), [0xcc, 1, 1, 2]);
    let counters = exchange.counters();
    assert_eq!((counters.restored, counters.unrestored), (2, 1));
    assert_eq!(counters.open, 1);
}

#[test]
fn deferred_replies_are_given_up_and_names_stay() {
    let mut exchange = Setup::new(Limits::default())
        .service("adder", &["one", "other"], |_| Adder(1))
        .start();
    let client = exchange.connect_to("other");
    exchange.receive(client, &[5, DEFER]);
    let mut exchange = exchange.hand_over(|_| Adder(2));
    assert_eq!(exchange.take_sent(client), [0xcc, 1, 1, 5, 1, 7]);
    exchange.receive(client, &[1]);
    assert_eq!(exchange.take_sent(client), [2, 6]);
    let snapshot = exchange.snapshot();
    let open = |name| snapshot.name(name).map(|name| name.open);
    assert_eq!((open("one"), open("other")), (Some(0), Some(1)));
}

/// Counts frames on all connections, and does as it is told in the end.
struct Totals {
    frames: u8,
    taken_over: Vec<Vec<u8>>,
    at_the_end: fn(u8) -> Option<Bytes>,
}

impl Totals {
    fn new(worker: &Worker, at_the_end: fn(u8) -> Option<Bytes>) -> Self {
        let taken_over: Vec<Vec<u8>> = worker.taken_over().iter().map(|it| it.to_vec()).collect();
        Totals {
            frames: taken_over.iter().flatten().sum(),
            taken_over,
            at_the_end,
        }
    }
}

impl Service for Totals {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, _: &mut (), _: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        self.frames += 1;
        let said = [self.taken_over.len() as u8, self.frames];
        reply.write(|out| out.extend_from_slice(&said));
        Flow::Continue
    }

    fn disconnected(&mut self, (): (), ended: &Ended<'_>) {
        assert!(matches!(ended.why(), Close::HandedOver));
        // It comes before what is left is asked for.
        self.frames += 100;
    }

    fn save(&self, _: &()) -> Saved {
        Saved::Stateless
    }

    fn hand_over(&mut self, _: &Tick<'_>) -> Option<Bytes> {
        (self.at_the_end)(self.frames)
    }
}

#[test]
fn what_a_service_leaves_is_there_for_the_next_one_and_only_for_that() {
    let all: fn(u8) -> Option<Bytes> = |frames| Some(Bytes::copy_from_slice(&[frames]));
    let mut exchange = Exchange::with_worker(|worker| Totals::new(worker, all), Limits::default());
    let client = exchange.connect();
    exchange.receive(client, &[1, 1]);
    assert_eq!(exchange.take_sent(client), [0, 1, 0, 2]);
    let mut exchange = exchange.hand_over(|worker| Totals::new(worker, |_| None));
    exchange.receive(client, &[1]);
    assert_eq!(exchange.take_sent(client), [1, 103]);
    let mut exchange = exchange.hand_over(|worker| Totals::new(worker, |_| panic!("on purpose")));
    exchange.receive(client, &[1]);
    assert_eq!(exchange.take_sent(client), [0, 1]);
    let mut exchange = exchange.hand_over(|worker| Totals::new(worker, all));
    exchange.receive(client, &[1]);
    assert_eq!(exchange.take_sent(client), [0, 1]);
    // Without any connection.
    exchange.end(client);
    let mut exchange = exchange.hand_over(|worker| Totals::new(worker, all));
    let other = exchange.connect();
    exchange.receive(other, &[1]);
    assert_eq!(exchange.take_sent(other)[0], 1);
}

/// Whoever leaves what it would never take over is told so in a daemon, too, and nothing gets through.
#[test]
fn what_a_service_leaves_that_does_not_ask_is_dropped() {
    let forgetful = Totals {
        frames: 7,
        taken_over: Vec::new(),
        at_the_end: |frames| Some(Bytes::copy_from_slice(&[frames])),
    };
    let _ = Exchange::new(forgetful).hand_over(|worker| {
        assert!(worker.taken_over().is_empty());
        Adder(2)
    });
}

#[test]
fn a_panic_in_the_last_call_is_counted_and_a_plain_stop_does_not_call() {
    let panics: fn(u8) -> Option<Bytes> = |_| panic!("on purpose");
    let exchange = || Exchange::with_worker(|it| Totals::new(it, panics), Limits::default());
    let mut stopped = exchange();
    stopped.stop();
    assert!(stopped.shard.is_done() && stopped.shard.hand_over().is_empty());
    assert_eq!(stopped.counters().panics, 0);
    let mut handed_over = exchange();
    handed_over.begin_stop(Duration::ZERO, true);
    assert_eq!(handed_over.shard.hand_over(), [None]);
    assert_eq!(handed_over.counters().panics, 1);
}

/// Whoever accepts may deal it the last connection when it has looked for mail, and then accept no more. What services leave
/// is asked for only when nobody is given anything any more.
#[test]
fn a_worker_that_has_mail_is_not_done() {
    let mut exchange = Exchange::new(Adder(1));
    exchange.tell_to_stop(Duration::ZERO, true);
    exchange.shard.woken(exchange.now);
    let id = ConnectionId {
        worker: 0,
        slot: 0,
        generation: 0,
    };
    exchange.ids.push(Some(id));
    let (socket, _peer) = UnixStream::pair().unwrap();
    let crew = &exchange.shard.desk.crew;
    crew.dealer.hold(0, 0);
    let mail = Mail::Accepted {
        name: 0,
        socket: socket.into(),
        place: None,
    };
    assert!(crew.posts[0].send(mail).is_ok());
    exchange.shard.work();
    assert!(exchange.shard.has_nothing_left());
    assert!(!exchange.shard.is_done());
    exchange.settle();
    let parted: Vec<Client> = exchange.parted.iter().map(|it| it.client).collect();
    assert_eq!(parted, [Client(0)]);
    assert!(exchange.shard.is_done());
}

/// Nobody is read any more when all workers know, which may be long after the time for older promises was over.
#[test]
fn what_is_promised_while_a_busy_worker_is_waited_for_has_all_its_time() {
    const DRAIN: Duration = Duration::from_secs(3);
    let (mut exchange, _) = exchange();
    let _mailbox = exchange.add_busy_worker(1 << 30);
    let crew = exchange.shard.desk.crew.clone();
    let client = exchange.connect();
    exchange.begin_stop(DRAIN, true);
    exchange.advance(DRAIN * 3);
    exchange.receive(client, &[DEFER]);
    assert!(crew.all_part(1));
    crew.reach(1, Step::Rests);
    exchange.settle();
    exchange.advance(DRAIN - Duration::from_millis(1));
    assert!(!exchange.reads(client) && exchange.is_open(client));
    exchange.advance(Duration::from_millis(1));
    assert_eq!(exchange.counters().abandoned, 1);
}

/// It may still be in time with its connections, and none of the others counts what it owes.
#[test]
fn a_worker_that_takes_turns_again_when_it_was_left_behind_gives_up_what_it_owes() {
    const DRAIN: Duration = Duration::from_secs(3);
    let (mut exchange, client) = exchange();
    exchange.receive(client, &[DEFER]);
    exchange.shard.desk.crew.leave_behind(0);
    exchange.begin_stop(DRAIN, true);
    assert!(exchange.is_open(client));
    exchange.advance(DRAIN);
    assert_eq!(exchange.counters().abandoned, 1);
    assert_eq!(exchange.parted[0].wire.sent, [1, 7]);
    assert!(exchange.shard.is_done());
}

/// What others waited for by then is nothing to it. Meanwhile all that are at rest are let go.
#[test]
fn what_is_promised_while_a_handover_waits_is_waited_for_as_long_from_then_on() {
    const DRAIN: Duration = Duration::from_secs(3);
    let (mut exchange, idle) = exchange();
    let [old, fresh] = [(); 2].map(|()| exchange.connect());
    exchange.receive(old, &[DEFER]);
    exchange.begin_stop(DRAIN, true);
    exchange.advance(DRAIN - Duration::from_millis(1));
    exchange.receive(fresh, &[DEFER]);
    exchange.receive(idle, &[1]);
    let parted = |exchange: &Exchange| -> Vec<(Client, Vec<u8>)> {
        let parted = exchange.parted.iter();
        parted
            .map(|parted| (parted.client, parted.wire.sent.clone()))
            .collect()
    };
    assert_eq!(parted(&exchange), []);
    exchange.advance(Duration::from_millis(1));
    let mut gone = parted(&exchange);
    gone.sort_by_key(|(client, _)| client.0);
    assert_eq!(
        gone,
        [(idle, vec![1, 1]), (old, vec![0xcc, 1, 1, 7])],
        "the first greeting was taken before"
    );
    assert!(!exchange.shard.is_done());
    exchange.advance(DRAIN - Duration::from_millis(1));
    assert!(!exchange.reads(fresh) && exchange.is_open(fresh));
    assert_eq!(exchange.take_sent(fresh), [0xcc, 1]);
    exchange.advance(Duration::from_millis(1));
    assert_eq!(parted(&exchange)[2..], [(fresh, vec![1, 7])]);
    assert!(exchange.shard.is_done());
    assert_eq!(exchange.counters().abandoned, 2);
    assert_eq!(exchange.counters().handed_over, 3);
}

/// Gives everybody who connects a handle, and counts nothing.
#[derive(Clone, Default)]
struct Reachable(Rc<RefCell<Vec<Handle>>>);

impl Service for Reachable {
    type Session = ();

    fn connected(&mut self, peer: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        self.0.borrow_mut().push(peer.handle());
        Ok(())
    }

    fn frame(&mut self, _: &mut (), _: Frame<'_>, _: &mut Reply<'_>) -> Flow {
        Flow::Continue
    }

    fn save(&self, _: &()) -> Saved {
        Saved::Stateless
    }
}

/// Another thread has begun to push when the connection is about to be given away.
#[test]
fn what_is_about_to_be_pushed_is_awaited() {
    let service = Reachable::default();
    let mut exchange = Exchange::new(service.clone());
    exchange.connect();
    let handle = service.0.borrow()[0].clone();
    let mail = handle.begin_push(&[9]);
    exchange.begin_stop(Duration::ZERO, true);
    assert!(exchange.parted.is_empty() && !handle.is_open());
    let _ = exchange.shard.deliver(mail);
    exchange.settle();
    let [parted] = &exchange.parted[..] else {
        panic!("it is not given away");
    };
    assert_eq!(
        [&parted.wire.sent, &parted.parcel.state.output[..]].concat(),
        [9]
    );
}

/// Another worker may accept a connection and deal it to this one when this one has begun to give its own away.
#[test]
fn of_a_push_to_a_late_connection_the_answer_is_true() {
    /// Another thread pushes to the connection in the moment in which it is given away.
    #[derive(Clone, Default)]
    struct PushedTo(Rc<RefCell<Vec<Result<(), PushError>>>>);

    impl Service for PushedTo {
        type Session = Handle;

        fn connected(&mut self, peer: &Peer<'_>, _: &mut Reply<'_>) -> Result<Handle, Refusal> {
            Ok(peer.handle())
        }

        fn frame(&mut self, _: &mut Handle, _: Frame<'_>, _: &mut Reply<'_>) -> Flow {
            Flow::Continue
        }

        fn save(&self, handle: &Handle) -> Saved {
            let handle = handle.clone();
            let elsewhere = std::thread::spawn(move || handle.push(vec![9]));
            self.0.borrow_mut().push(elsewhere.join().unwrap());
            Saved::Stateless
        }
    }

    let service = PushedTo::default();
    let mut exchange = Exchange::new(service.clone());
    exchange.begin_stop(Duration::ZERO, true);
    exchange.connect();
    let pushed = service.0.take();
    let [parted] = &exchange.parted[..] else {
        panic!("it is not given away");
    };
    let arrived = [&parted.wire.sent, &parted.parcel.state.output[..]].concat();
    let accepted = pushed.iter().filter(|pushed| pushed.is_ok()).count();
    assert_eq!(arrived, vec![9; accepted]);
    assert_eq!(pushed.last(), Some(&Err(PushError::Gone)));
}
