//! Deferred replies.

use std::time::Duration;

use ringhold_core::limits::Limits;
use ringhold_core::{Abandoned, PushError};

use crate::service::{Manner, Rig, array, bin, defer, pattern, verb};

fn apologetic() -> Rig {
    Rig::with_manner(Manner {
        apology: Some(0x55),
        ..Manner::default()
    })
}

#[test]
fn answers_come_in_the_order_in_which_they_are_given() {
    let mut rig = Rig::new();
    let client = rig.connect();
    rig.receive(client, &(0..10).flat_map(defer).collect::<Vec<u8>>());
    let mut order = Vec::new();
    for n in [3, 0, 9, 1, 8, 2, 7, 4, 6, 5] {
        let place = order.iter().filter(|earlier| **earlier < n).count();
        let responder = rig.seen().responders.len();
        assert_eq!(responder, 10 - order.len());
        rig.take_responder(n as usize - place).answer(vec![n]);
        order.push(n);
    }
    rig.deliver();
    assert_eq!(rig.take_sent(client), order);
    rig.end(client);
    rig.assert_empty(&[client]);
    assert_eq!(rig.counters().abandoned, 0);
}

#[test]
fn an_answer_comes_behind_the_replies_that_were_written_before_it() {
    let mut rig = Rig::new();
    let client = rig.connect();
    rig.receive(client, &[&defer(1)[..], &[5, 6]].concat());
    rig.responder().answer(bin(2000, 1));
    rig.receive(client, &[7]);
    let sent = rig.take_sent(client);
    // It was given before 7 arrived, but mail is delivered between turns: either order would be one.
    assert_eq!(sent[..2], [5, 6]);
    assert_eq!(sent.len(), 2 + 2005 + 1);
}

#[test]
fn an_answer_may_have_two_pieces() {
    let mut rig = Rig::new();
    let client = rig.connect();
    for [head, body] in [[0, 0], [1, 10], [3, 10_000], [10_000, 3], [5000, 6000]] {
        rig.receive(client, &[defer(1), defer(2), defer(3)].concat());
        let pieces = || [vec![1; head].into(), vec![2; body].into()];
        rig.take_responder(0).answer_in_two(pieces());
        rig.take_responder(0).answer(vec![3]);
        assert_eq!(rig.take_responder(0).try_answer_in_two(pieces()), Ok(()));
        rig.deliver();
        let whole = pieces().concat();
        assert!(rig.take_sent(client) == [&whole[..], &[3], &whole].concat());
    }
    rig.receive(client, &defer(1));
    rig.reset(client);
    let late = rig.take_responder(0);
    let pieces = [vec![1].into(), vec![2].into()];
    assert_eq!(late.try_answer_in_two(pieces), Err(PushError::Gone));
    rig.deliver();
    rig.assert_empty(&[client]);
    assert_eq!(rig.counters().abandoned, 0);
}

/// Otherwise a client could make the process hold any number of promises.
#[test]
fn too_many_open_tickets_pause_dispatch_until_half_of_them_are_answered() {
    let mut rig = Rig::new();
    let client = rig.connect();
    let all: Vec<u8> = (0..10_000u32)
        .flat_map(|n| defer((n % 100) as u8))
        .collect();
    rig.receive(client, &all);
    assert_eq!(rig.seen().responders.len(), 4096);
    assert!(!rig.reads(client));
    for n in 0..2047 {
        rig.take_responder(0).answer(vec![(n % 100) as u8]);
    }
    rig.deliver();
    assert_eq!(rig.seen().responders.len(), 4096 - 2047, "not yet");
    rig.take_responder(0).answer(vec![1]);
    rig.take_responder(0).answer(vec![1]);
    rig.deliver();
    assert_eq!(rig.seen().responders.len(), 4096);
    while !rig.seen().responders.is_empty() {
        rig.take_responder(0).answer(vec![0]);
        rig.deliver();
    }
    assert_eq!(rig.take_sent(client).len(), 10_000);
    rig.end(client);
    rig.assert_empty(&[client]);
}

/// Whatever is promised comes at once and of any size, so that few may be promised where answers are large.
#[test]
fn a_few_promises_at_a_time_are_all_kept_in_order() {
    for promises in [1, 2, 3, 16] {
        let mut rig = Rig::with_limits(Limits {
            promises,
            ..Limits::default()
        });
        let client = rig.connect();
        let all: Vec<u8> = (0..100).flat_map(defer).collect();
        rig.receive(client, &all);
        let (mut most, mut sent) = (0, Vec::new());
        for n in 0..100 {
            most = most.max(rig.seen().responders.len());
            rig.take_responder(0).answer(vec![n]);
            rig.deliver();
            sent.extend(rig.take_sent(client));
        }
        assert_eq!(most, promises as usize);
        assert_eq!(sent, (0..100).collect::<Vec<u8>>());
        rig.end(client);
        rig.assert_empty(&[client]);
    }
}

/// So a protocol without answers holds up who sends.
#[test]
fn an_empty_answer_keeps_a_promise_and_sends_nothing() {
    let mut rig = Rig::with_limits(Limits {
        promises: 1,
        ..Limits::default()
    });
    let client = rig.connect();
    rig.receive(client, &(0..5).flat_map(defer).collect::<Vec<u8>>());
    for _ in 0..5 {
        assert_eq!(rig.seen().responders.len(), 1);
        assert!(!rig.reads(client));
        rig.take_responder(0).answer(Vec::new());
        rig.deliver();
        assert_eq!(rig.take_sent(client), []);
    }
    assert!(rig.reads(client));
    rig.end(client);
    rig.assert_empty(&[client]);
}

#[test]
fn answers_come_from_other_threads() {
    let mut rig = Rig::new();
    let clients: Vec<_> = (0..4).map(|_| rig.connect()).collect();
    for round in 0..25 {
        for client in &clients {
            rig.receive(*client, &defer(round));
        }
    }
    let mut by_thread: Vec<Vec<_>> = (0..4).map(|_| Vec::new()).collect();
    for i in 0..100 {
        by_thread[i % 3].push((i as u8 / 4, rig.responder()));
    }
    let threads: Vec<_> = by_thread
        .into_iter()
        .map(|responders| {
            std::thread::spawn(move || {
                for (n, responder) in responders {
                    responder.answer(vec![n]);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    rig.deliver();
    for client in &clients {
        let mut sent = rig.take_sent(*client);
        sent.sort_unstable();
        assert_eq!(sent, (0..25).collect::<Vec<u8>>(), "each one exactly once");
        rig.end(*client);
    }
    rig.assert_empty(&clients);
}

#[test]
fn a_dropped_responder_is_an_abandoned_ticket() {
    let mut rig = apologetic();
    let client = rig.connect();
    rig.receive(client, &[defer(1), defer(2), defer(3)].concat());
    drop(rig.take_responder(1));
    rig.deliver();
    assert_eq!(rig.take_sent(client), [0x55, 2]);
    assert_eq!(rig.seen().abandoned, [(0, 2, Abandoned::Dropped)]);
    assert_eq!(rig.counters().abandoned, 1);
    rig.responder().answer(vec![9]);
    rig.let_go();
    assert_eq!(rig.take_sent(client), [9, 0x55, 3]);
    assert_eq!(rig.counters().abandoned, 2);
    assert!(rig.is_open(client));
    rig.end(client);
    rig.assert_empty(&[client]);
}

#[test]
fn by_default_an_abandoned_ticket_ends_its_connection() {
    let mut rig = Rig::new();
    let [unlucky, other] = [rig.connect(), rig.connect()];
    rig.receive(unlucky, &[&defer(1)[..], &defer(2), &[7]].concat());
    rig.receive(other, &defer(3));
    drop(rig.responder());
    rig.deliver();
    assert_eq!(rig.take_sent(unlucky), [7]);
    assert!(rig.is_shut(unlucky));
    assert_eq!(
        rig.reasons(),
        ["the service ended the connection: the handler gave no answer"]
    );
    let counters = rig.counters();
    assert_eq!((counters.abandoned, counters.bad_input), (1, 0));
    rig.let_go();
    assert_eq!(
        rig.seen().abandoned.len(),
        2,
        "not told about the one on the ended connection"
    );
    rig.assert_empty(&[unlucky, other]);
}

#[test]
fn an_answer_to_a_connection_that_has_ended_is_discarded() {
    for end in 0..2 {
        let mut rig = apologetic();
        let client = rig.connect();
        rig.receive(client, &[&defer(1)[..], &defer(2)].concat());
        match end {
            0 => rig.reset(client),
            _ => drop(rig.receive(client, &[0x91, verb::CLOSE])),
        }
        rig.take_sent(client);
        assert!(!rig.is_open(client));
        // The next connection may have the same slot.
        let next = rig.connect();
        rig.receive(next, &defer(3));
        rig.responder().answer(vec![7]);
        rig.deliver();
        drop(rig.responder());
        rig.deliver();
        assert_eq!(rig.take_sent(client), []);
        assert_eq!(rig.take_sent(next), []);
        assert_eq!(rig.seen().abandoned, []);
        rig.responder().answer(vec![8]);
        rig.deliver();
        assert_eq!(rig.take_sent(next), [8]);
        rig.end(next);
        rig.assert_empty(&[client, next]);
    }
}

#[test]
fn an_answer_while_the_connection_ends_comes_too_late() {
    let mut rig = apologetic();
    let client = rig.connect();
    rig.receive(client, &[defer(1), defer(2)].concat());
    rig.set_window(client, Some(0));
    rig.receive(client, &[0x91, verb::CLOSE]);
    assert!(rig.is_open(client), "its last word is not taken yet");
    rig.responder().answer(vec![7]);
    drop(rig.responder());
    rig.deliver();
    rig.set_window(client, None);
    assert_eq!(
        rig.take_sent(client),
        [0x91, verb::CLOSE],
        "nothing is behind the last word"
    );
    assert_eq!(rig.seen().abandoned, []);
    assert_eq!(rig.counters().abandoned, 0);
    rig.assert_empty(&[client]);
}

#[test]
fn an_answer_after_our_end_was_sent() {
    let mut rig = apologetic();
    let client = rig.connect();
    rig.keep_open(client);
    rig.receive(
        client,
        &[&defer(1)[..], &defer(2), &[0x91, verb::CLOSE]].concat(),
    );
    assert!(rig.is_shut(client) && rig.is_open(client));
    drop(rig.responder());
    rig.responder().answer(vec![7]);
    rig.deliver();
    assert_eq!(rig.memory_held(), 0);
    rig.end(client);
    assert_eq!(rig.take_sent(client), [0x91, verb::CLOSE]);
    rig.assert_empty(&[client]);
}

#[test]
fn empty_and_large_answers() {
    let mut rig = Rig::new();
    let client = rig.connect();
    rig.receive(client, &[defer(1), defer(2), defer(3)].concat());
    rig.responder().answer(vec![]);
    rig.responder().answer(pattern(1_000_000));
    rig.responder().answer(&b"\x01"[..]);
    rig.deliver();
    let sent = rig.take_sent(client);
    assert_eq!(sent.len(), 1_000_001);
    assert!(sent[..1_000_000] == pattern(1_000_000));
    rig.end(client);
    rig.assert_empty(&[client]);
}

#[test]
fn answers_to_a_peer_that_does_not_read_wait_in_order() {
    let mut rig = Rig::new();
    let client = rig.connect();
    rig.receive(client, &(0..20).flat_map(defer).collect::<Vec<u8>>());
    rig.set_window(client, Some(1500));
    for n in 0..20 {
        rig.responder().answer(bin(1000, n));
        rig.deliver();
    }
    rig.set_window(client, None);
    let expected: Vec<u8> = (0..20).flat_map(|n| bin(1000, n)).collect();
    assert!(rig.take_sent(client) == expected);
    rig.end(client);
    rig.assert_empty(&[client]);
}

#[test]
fn very_many_open_tickets_end_with_their_connection() {
    // Closing them one by one from the beginning would take minutes.
    let mut rig = apologetic();
    let client = rig.connect();
    let stream: Vec<u8> = (0..200_000u32)
        .flat_map(|n| defer(n as u8 & 0x7f))
        .collect();
    rig.receive(client, &stream);
    assert_eq!(rig.seen().responders.len(), 4096);
    rig.reset(client);
    rig.assert_empty(&[client]);

    let client = rig.connect();
    rig.receive(client, &stream);
    rig.stop();
    assert_eq!(rig.seen().abandoned.len(), 200_000);
    assert_eq!(rig.take_sent(client).len(), 400_000);
    rig.let_go();
    rig.assert_empty(&[client]);
}

#[test]
fn requests_behind_a_deferred_one_are_answered_meanwhile() {
    let mut rig = Rig::new();
    let client = rig.connect();
    let frame = array(&[&[1], b"\xa1x"]);
    rig.receive(client, &[&defer(1)[..], &frame].concat());
    assert_eq!(rig.take_sent(client), frame);
    rig.receive(client, &bin(100_000, 1));
    assert!(rig.take_sent(client) == bin(100_000, 1));
    rig.responder().answer(vec![1]);
    rig.deliver();
    assert_eq!(rig.take_sent(client), [1]);
}

#[test]
fn an_answer_is_wanted_until_the_connection_has_ended() {
    for end in 0..3 {
        let mut rig = apologetic();
        let client = rig.connect();
        rig.receive(client, &[&defer(1)[..], &defer(2)].concat());
        let [first, second] = [(); 2].map(|()| rig.responder());
        assert!(first.is_wanted() && second.is_wanted());
        first.answer(vec![1]);
        rig.deliver();
        assert!(second.is_wanted(), "that was another one");
        // Who has only ended its side still gets it.
        if end == 0 {
            rig.end(client);
            assert!(second.is_wanted());
        }
        match end {
            0 | 1 => rig.reset(client),
            _ => drop(rig.receive(client, &[0x91, verb::CLOSE])),
        }
        assert!(!second.is_wanted(), "{end}");
        // The next one has the same slot.
        let next = rig.connect();
        rig.receive(next, &defer(2));
        assert!(!second.is_wanted());
        let third = rig.responder();
        assert!(third.is_wanted());
        second.answer(vec![2]);
        drop(third);
        rig.deliver();
        assert_eq!(rig.take_sent(next), [0x55, 2]);
    }
}

#[test]
fn an_answer_that_a_stop_has_given_up_is_not_wanted() {
    let mut rig = apologetic();
    let [old, fresh] = [(); 2].map(|()| rig.connect());
    rig.receive(old, &defer(1));
    rig.stop_within(Duration::from_secs(5));
    rig.advance(Duration::from_secs(4));
    rig.receive(fresh, &defer(2));
    let [first, second] = [(); 2].map(|()| rig.responder());
    assert!(first.is_wanted() && second.is_wanted());
    rig.advance(Duration::from_secs(1));
    assert!(!first.is_wanted() && second.is_wanted());
    rig.advance(Duration::from_secs(5));
    assert!(!second.is_wanted());
    assert_eq!(rig.seen().abandoned.len(), 2);
}

#[test]
fn an_answer_that_took_too_long_is_not_wanted_on_a_connection_that_goes_on() {
    let limits = Limits {
        outbox_bytes: 10_000,
        write_timeout: Duration::ZERO,
        ..Limits::default()
    };
    let manner = Manner {
        apology: Some(0x55),
        makes_handles: true,
        ..Manner::default()
    };
    let mut rig = Rig::with(limits, manner);
    let client = rig.connect();
    rig.set_window(client, Some(0));
    rig.receive(client, &[defer(1), defer(2)].concat());
    rig.end(client);
    let [first, second] = [(); 2].map(|()| rig.responder());
    // What waits in the outbox keeps the connection from ending.
    second.answer(pattern(8000));
    rig.deliver();
    rig.advance(Duration::from_secs(299));
    assert!(first.is_wanted());
    rig.advance(Duration::from_secs(2));
    assert_eq!(rig.seen().abandoned, [(0, 1, Abandoned::TimedOut)]);
    assert!(rig.seen().handles[0].is_open());
    assert!(!first.is_wanted());
    rig.set_window(client, None);
    let expected = [&pattern(8000)[..], &[0x55, 1]].concat();
    assert!(rig.take_sent(client) == expected);
    rig.assert_empty(&[client]);
}

#[test]
fn who_tests_may_wait_for_another_thread() {
    let mut rig = apologetic();
    let client = rig.connect();
    assert!(!rig.deliver_within(Duration::ZERO));
    assert!(!rig.deliver_within(Duration::from_millis(1)));
    rig.receive(client, &(0..100).flat_map(defer).collect::<Vec<u8>>());
    let responders = rig.take_responders();
    let answering = std::thread::spawn(move || {
        for (n, responder) in (0..).zip(responders) {
            responder.answer(vec![n]);
        }
    });
    let mut sent = Vec::new();
    while sent.len() < 100 {
        assert!(rig.deliver_within(Duration::MAX));
        sent.extend(rig.take_sent(client));
    }
    assert_eq!(sent, (0..100).collect::<Vec<u8>>());
    answering.join().unwrap();
    // What was there before it began to wait, and what its own thread posts.
    rig.receive(client, &[&defer(1)[..], &defer(2)].concat());
    let [elsewhere, here] = [(); 2].map(|()| rig.responder());
    std::thread::spawn(|| elsewhere.answer(vec![1]))
        .join()
        .unwrap();
    assert!(rig.deliver_within(Duration::ZERO));
    drop(here);
    assert!(rig.deliver_within(Duration::ZERO));
    assert_eq!(rig.take_sent(client), [1, 0x55, 2]);
    assert!(!rig.deliver_within(Duration::ZERO));
}
