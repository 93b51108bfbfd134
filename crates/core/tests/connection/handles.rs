//! Pushing to connections from anywhere.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ringhold_core::testing::Exchange;
use ringhold_core::{Flow, Frame, Handle, Peer, PushError, Refusal, Reply, Service};

use crate::service::{Manner, Rig, bin, verb};

fn rig() -> Rig {
    Rig::with_manner(Manner {
        makes_handles: true,
        ..Manner::default()
    })
}

#[test]
fn a_push_from_within_a_call_comes_behind_the_calls_own_reply() {
    let mut rig = rig();
    let client = rig.connect();
    rig.receive(client, &[0x92, verb::PUSH, 0x63]);
    assert_eq!(rig.take_sent(client), [0x92, verb::PUSH, 0x63, 0x63]);
}

#[test]
fn pushes_of_one_thread_keep_their_order() {
    let mut rig = rig();
    let client = rig.connect();
    let handle = rig.seen().handles[0].clone();
    let copy = handle.clone();
    for i in 0..100 {
        let handle = if i % 2 == 0 { &handle } else { &copy };
        handle.push(bin(i as usize * 20, i)).unwrap();
    }
    rig.deliver();
    let expected: Vec<u8> = (0..100).flat_map(|i| bin(i as usize * 20, i)).collect();
    assert!(rig.take_sent(client) == expected);
}

#[test]
fn pushes_from_other_threads_keep_the_order_of_each() {
    let mut rig = rig();
    let clients: Vec<_> = (0..3).map(|_| rig.connect()).collect();
    let threads: Vec<_> = (0..4u8)
        .map(|thread| {
            let handles = rig.seen().handles.clone();
            std::thread::spawn(move || {
                for i in 0..100u8 {
                    for handle in &handles {
                        handle.push(vec![0x92, thread, i]).unwrap();
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    rig.deliver();
    for client in &clients {
        let sent = rig.take_sent(*client);
        assert_eq!(sent.len(), 4 * 100 * 3);
        let mut next = [0; 4];
        for frame in sent.chunks(3) {
            let thread = frame[1] as usize;
            assert_eq!(frame[2], next[thread]);
            next[thread] += 1;
        }
        assert_eq!(next, [100; 4]);
        rig.end(*client);
    }
    rig.assert_empty(&clients);
}

#[test]
fn one_connection_pushes_to_the_others() {
    let mut rig = rig();
    let clients: Vec<_> = (0..10).map(|_| rig.connect()).collect();
    let frame = bytes::Bytes::from(bin(5000, 7));
    for handle in &rig.seen().handles[1..] {
        handle.push(frame.clone()).unwrap();
    }
    for client in &clients[1..] {
        rig.set_window(*client, Some(1000));
    }
    assert!(
        !frame.is_unique(),
        "it is shared as long as it is on its way"
    );
    for client in &clients[1..] {
        rig.set_window(*client, None);
    }
    assert!(frame.is_unique());
    assert_eq!(rig.take_sent(clients[0]), []);
    for client in &clients[1..] {
        assert!(rig.take_sent(*client) == frame[..]);
        rig.end(*client);
    }
    rig.end(clients[0]);
    rig.assert_empty(&clients);
}

#[test]
fn a_connection_that_is_gone_says_so() {
    for end in 0..4 {
        let mut rig = rig();
        let client = rig.connect();
        let handle = rig.seen().handles[0].clone();
        assert!(handle.is_open());
        match end {
            0 => rig.end(client),
            1 => rig.reset(client),
            2 => drop(rig.receive(client, &[0xc1])),
            _ => rig.stop(),
        }
        rig.assert_empty(&[client]);
        assert!(!handle.is_open());
        assert_eq!(handle.push(vec![1]), Err(PushError::Gone));
        // The next connection has the same slot, and is another one.
        let next = rig.connect();
        assert_eq!(handle.push(vec![1]), Err(PushError::Gone));
        rig.deliver();
        assert_eq!(rig.take_sent(next), []);
        assert_ne!(rig.seen().handles[1].id(), handle.id());
    }
}

#[test]
fn a_push_that_was_under_way_when_the_connection_ended_is_discarded() {
    let mut rig = rig();
    let client = rig.connect();
    let handle = rig.seen().handles[0].clone();
    handle.push(vec![1]).unwrap();
    // Mail is delivered when the exchange turns next: here with the reset, and behind it.
    rig.reset(client);
    let next = rig.connect();
    rig.deliver();
    assert_eq!(rig.take_sent(next), []);
    assert_eq!(handle.push(vec![1]), Err(PushError::Gone));
}

#[test]
fn a_connection_that_is_ending_takes_no_pushes() {
    let mut rig = rig();
    let client = rig.connect();
    let handle = rig.seen().handles[0].clone();
    rig.set_window(client, Some(0));
    rig.receive(client, &[0x91, verb::CLOSE]);
    assert!(rig.is_open(client));
    assert_eq!(handle.push(vec![1]), Err(PushError::Gone));
    rig.set_window(client, None);
    assert_eq!(rig.take_sent(client), [0x91, verb::CLOSE]);
    rig.assert_empty(&[client]);
}

/// So many connections end, each while another thread pushes to it, a little earlier or later. Returns how many pushes were
/// accepted, which must be those that were delivered.
fn end_while_another_thread_pushes(count: usize) -> usize {
    let mut rig = rig();
    let clients: Vec<_> = (0..count).map(|_| rig.connect()).collect();
    let handles = rig.seen().handles.clone();
    // The round that may begin, and the one that the other thread has ended.
    let (begun, ended) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let wait_for = |counter: &AtomicUsize, round: usize| {
        let mut looks = 0;
        while counter.load(Ordering::Acquire) < round {
            looks += 1;
            // The other one may need this CPU.
            match looks % 1000 {
                0 => std::thread::yield_now(),
                _ => std::hint::spin_loop(),
            }
        }
    };
    let accepted = std::thread::scope(|scope| {
        let pushing = scope.spawn(|| {
            let push = |(round, handle): (usize, &Handle)| {
                wait_for(&begun, round + 1);
                (0..round % 211).for_each(|_| std::hint::spin_loop());
                let accepted = handle.push(vec![0x63]).is_ok();
                ended.store(round + 1, Ordering::Release);
                accepted
            };
            handles.iter().enumerate().map(push).collect::<Vec<_>>()
        });
        let mut delivered = Vec::with_capacity(count);
        for (round, client) in clients.iter().enumerate() {
            // Now and then one of them comes first for certain.
            if round % 10 == 1 {
                rig.end(*client);
            }
            begun.store(round + 1, Ordering::Release);
            if round % 10 == 0 {
                wait_for(&ended, round + 1);
            }
            if round % 10 != 1 {
                rig.end(*client);
            }
            wait_for(&ended, round + 1);
            rig.deliver();
            delivered.push(rig.take_sent(*client) == [0x63]);
        }
        let accepted = pushing.join().unwrap();
        assert!(accepted == delivered);
        accepted
    });
    rig.assert_empty(&clients);
    accepted.iter().filter(|accepted| **accepted).count()
}

#[test]
fn a_push_while_the_connection_ends_is_delivered_or_refused() {
    // On a machine with much else to do, fewer must do.
    let start = std::time::Instant::now();
    for _ in (0..30).take_while(|_| start.elapsed().as_secs() < 3) {
        let accepted = end_while_another_thread_pushes(100);
        assert!((10..=90).contains(&accepted), "{accepted}");
    }
}

#[test]
fn an_overflow_does_not_take_back_the_last_word_of_a_connection_that_ends_anyway() {
    let mut rig = rig();
    let client = rig.connect();
    let handle = rig.seen().handles[0].clone();
    rig.set_window(client, Some(0));
    assert_eq!(handle.push(vec![0; 100 << 20]), Err(PushError::Overflow));
    // The call ends the connection before the overflow is heard of.
    rig.receive_unasked(client, &[0x91, verb::CLOSE]);
    rig.set_window(client, None);
    assert_eq!(rig.take_sent(client), [0x91, verb::CLOSE]);
    assert_eq!(
        rig.reasons(),
        ["the service ended the connection: asked to"]
    );
    assert_eq!(rig.counters().cut, 0);
    rig.assert_empty(&[client]);
}

#[test]
fn a_half_closed_connection_that_is_still_owed_an_answer_takes_pushes() {
    let mut rig = rig();
    let client = rig.connect();
    rig.receive(client, &crate::service::defer(1));
    rig.end(client);
    rig.seen().handles[0].push(vec![5]).unwrap();
    rig.deliver();
    assert_eq!(rig.take_sent(client), [5]);
    rig.responder().answer(vec![6]);
    rig.deliver();
    assert_eq!(rig.take_sent(client), [6]);
    rig.assert_empty(&[client]);
}

#[test]
fn an_empty_push_is_nothing() {
    let mut rig = rig();
    let client = rig.connect();
    rig.seen().handles[0].push(vec![]).unwrap();
    rig.deliver();
    assert_eq!(rig.memory_held(), 0);
    rig.end(client);
    rig.assert_empty(&[client]);
}

/// Makes two handles of each connection while it is made: one of the peer, one of the reply; and one in each call.
struct Doubler {
    handles: Rc<RefCell<Vec<[Handle; 2]>>>,
    refuses: bool,
}

impl Service for Doubler {
    type Session = Handle;

    fn connected(&mut self, peer: &Peer<'_>, reply: &mut Reply<'_>) -> Result<Handle, Refusal> {
        let handles = match self.handles.borrow().len() % 2 {
            0 => [peer.handle(), reply.handle()],
            _ => {
                let of_reply = reply.handle();
                [peer.handle(), of_reply]
            }
        };
        self.handles.borrow_mut().push(handles);
        match self.refuses {
            true => Err(Refusal::new("no")),
            false => Ok(peer.handle()),
        }
    }

    fn frame(&mut self, session: &mut Handle, frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        let handle = match frame.first() {
            Some(1) => session.clone(),
            _ => reply.handle(),
        };
        assert_eq!(handle.id(), reply.connection());
        handle.push(frame.to_bytes()).unwrap();
        Flow::Continue
    }
}

fn doubler(refuses: bool) -> (Exchange, Rc<RefCell<Vec<[Handle; 2]>>>) {
    let handles = Rc::default();
    let service = Doubler {
        handles: Rc::clone(&handles),
        refuses,
    };
    let limits = ringhold_core::limits::Limits {
        outbox_bytes: 1000,
        ..Default::default()
    };
    (Exchange::with_limits(service, limits), handles)
}

#[test]
fn all_handles_of_a_connection_are_one() {
    let (mut exchange, handles) = doubler(false);
    for _ in 0..2 {
        let client = exchange.connect();
        let [of_peer, of_reply] = handles.borrow().last().unwrap().clone();
        // Much more than may be under way at once, through either.
        for _ in 0..1000 {
            of_peer.push(vec![1; 5]).unwrap();
            of_reply.push(vec![2; 5]).unwrap();
            exchange.receive(client, &[1, 2]);
            let sent = exchange.take_sent(client);
            assert_eq!(sent.len(), 12);
        }
        // What is under way counts together.
        of_peer.push(vec![1; 600]).unwrap();
        assert_eq!(of_reply.push(vec![2; 600]), Err(PushError::Overflow));
        exchange.deliver();
        assert!(!exchange.is_open(client));
        assert!(!of_peer.is_open() && !of_reply.is_open());
        assert_eq!(of_peer.push(vec![1]), Err(PushError::Overflow));
    }
}

#[test]
fn both_handles_learn_of_the_end() {
    let (mut exchange, handles) = doubler(false);
    for _ in 0..2 {
        let client = exchange.connect();
        exchange.end(client);
        for handle in handles.borrow().last().unwrap() {
            assert!(!handle.is_open());
            assert_eq!(handle.push(vec![1]), Err(PushError::Gone));
        }
    }
}

#[test]
fn handles_of_a_refused_connection_are_closed() {
    let (mut exchange, handles) = doubler(true);
    for _ in 0..2 {
        let client = exchange.connect();
        exchange.keep_open(client);
        for handle in handles.borrow().last().unwrap() {
            assert_eq!(handle.push(vec![1]), Err(PushError::Gone));
        }
    }
}

/// Bytes that report that the last of them is gone, as one does to confirm what was delivered.
struct Reporting(Vec<u8>, Handle);

impl AsRef<[u8]> for Reporting {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Reporting {
    fn drop(&mut self) {
        let _ = self.1.push(vec![0x2a]);
    }
}

#[test]
fn shared_bytes_may_push_when_they_go() {
    for length in [10, 10_000] {
        let mut rig = rig();
        let clients = [rig.connect(), rig.connect(), rig.connect()];
        let [one, other, reported] = [0, 1, 2].map(|client| rig.seen().handles[client].clone());
        // Some end while the next one is pushed, some when they are delivered.
        for _ in 0..3 {
            let event = bytes::Bytes::from_owner(Reporting(bin(length, 7), reported.clone()));
            one.push_shared(&event).unwrap();
            other.push_shared(&event).unwrap();
        }
        rig.deliver();
        for client in &clients[..2] {
            assert!(rig.take_sent(*client) == bin(length, 7).repeat(3));
        }
        rig.deliver();
        assert_eq!(rig.take_sent(clients[2]), [0x2a; 3]);
        for client in &clients {
            rig.end(*client);
        }
        rig.assert_empty(&clients);
    }
}
