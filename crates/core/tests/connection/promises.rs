//! Deferred replies that take too long: `promise_timeout`.

use std::time::Duration;

use ringhold_core::Abandoned;
use ringhold_core::limits::Limits;

use crate::service::{Manner, Rig, defer, verb};

const LIMIT: u64 = 1000;

/// A time limit takes effect within so many milliseconds.
const PRECISION: u64 = 32;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn rig() -> Rig {
    with_limits(Limits {
        promise_timeout: ms(LIMIT),
        ..Limits::default()
    })
}

/// With an apology for each reply that does not come.
fn with_limits(limits: Limits) -> Rig {
    let manner = Manner {
        apology: Some(0x55),
        makes_handles: true,
        ..Manner::default()
    };
    Rig::with(limits, manner)
}

#[test]
fn a_promise_is_kept_until_its_time_is_over() {
    let mut rig = rig();
    let client = rig.connect();
    rig.receive(client, &[defer(1), defer(2)].concat());
    rig.advance(ms(LIMIT - 1));
    rig.responder().answer(vec![7]);
    rig.deliver();
    assert_eq!(rig.take_sent(client), [7]);
    let late = rig.responder();
    assert!(late.is_wanted());
    rig.advance(ms(1 + PRECISION));
    assert_eq!(rig.take_sent(client), [0x55, 2]);
    assert_eq!(rig.seen().abandoned, [(0, 2, Abandoned::Late)]);
    assert_eq!(rig.counters().abandoned, 1);
    assert!(!late.is_wanted());
    // It goes nowhere, and the connection goes on.
    late.answer(vec![8]);
    rig.deliver();
    rig.receive(client, &[5]);
    assert_eq!(rig.take_sent(client), [5]);
    rig.receive(client, &defer(3));
    rig.advance(ms(LIMIT - 1));
    drop(rig.responder());
    rig.deliver();
    assert_eq!(rig.seen().abandoned[1], (0, 3, Abandoned::Dropped));
    rig.advance(ms(10 * LIMIT));
    assert_eq!(rig.counters().abandoned, 2);
    rig.end(client);
    rig.assert_empty(&[client]);
}

/// What the connection was looked at for before must not be what counts.
#[test]
fn each_promise_has_its_own_time() {
    let mut rig = rig();
    let client = rig.connect();
    for n in 0..5 {
        rig.receive(client, &defer(n));
        rig.advance(ms(200));
    }
    // It is a second now since the first, which is answered in time, as is the third.
    let third = rig.take_responder(2);
    rig.advance(ms(PRECISION));
    assert_eq!(rig.take_sent(client), [0x55, 0]);
    third.answer(vec![7]);
    rig.deliver();
    assert_eq!(rig.take_sent(client), [7]);
    let mut given_up = Vec::new();
    for now in LIMIT + PRECISION + 1..3 * LIMIT {
        rig.advance(ms(1));
        let sent = rig.take_sent(client);
        if let [0x55, n] = sent[..] {
            let due = LIMIT + u64::from(n) * 200;
            assert!((due..=due + PRECISION).contains(&now), "{n} at {now}");
            given_up.push(n);
        }
    }
    assert_eq!(given_up, [1, 3, 4]);
    rig.let_go();
    assert_eq!(rig.counters().abandoned, 4);
}

#[test]
fn those_of_one_moment_are_given_up_together_and_each_connection_for_itself() {
    let mut rig = rig();
    let clients = [(); 3].map(|()| rig.connect());
    for (n, client) in clients.iter().enumerate() {
        rig.receive(*client, &[defer(1), defer(2), defer(3)].concat());
        // The last one still has its time when the others have not.
        rig.advance(ms(if n == 1 { 500 } else { 0 }));
    }
    rig.advance(ms(500 + PRECISION));
    for client in &clients[..2] {
        assert_eq!(rig.take_sent(*client), [0x55, 1, 0x55, 2, 0x55, 3]);
    }
    assert_eq!(rig.take_sent(clients[2]), []);
    for n in [7, 8, 9] {
        rig.take_responder(6).answer(vec![n]);
    }
    rig.deliver();
    assert_eq!(rig.take_sent(clients[2]), [7, 8, 9]);
    rig.let_go();
    assert_eq!(rig.counters().abandoned, 6);
}

#[test]
fn without_a_limit_a_promise_lasts_for_ever() {
    let mut rig = with_limits(Limits::default());
    let client = rig.connect();
    rig.receive(client, &defer(1));
    rig.advance(Duration::from_secs(100 * 24 * 3600));
    rig.responder().answer(vec![7]);
    rig.deliver();
    assert_eq!(rig.take_sent(client), [7]);
    assert_eq!(rig.counters().abandoned, 0);
}

/// Far above what the wheel of timers reaches in one go, and with a shorter limit in between.
#[test]
fn a_long_limit_is_kept_as_well() {
    let mut rig = with_limits(Limits {
        promise_timeout: Duration::from_secs(3600),
        idle_timeout: ms(5000),
        ..Limits::default()
    });
    let client = rig.connect();
    rig.receive(client, &[&defer(1)[..], &[0x92]].concat());
    rig.advance(ms(100));
    rig.receive(client, &[1, 2]);
    for _ in 0..3599 {
        rig.advance(ms(1000));
    }
    rig.advance(ms(899));
    assert_eq!(rig.seen().abandoned, []);
    rig.advance(ms(1 + PRECISION));
    assert_eq!(rig.seen().abandoned, [(0, 1, Abandoned::Late)]);
    // Only then nothing is waited for, so that it may be idle.
    assert!(rig.is_open(client));
    rig.advance(ms(5000 + PRECISION));
    rig.assert_empty(&[client]);
    rig.let_go();
}

#[test]
fn a_connection_that_waits_for_too_many_goes_on() {
    let mut rig = rig();
    let client = rig.connect();
    let all: Vec<u8> = (0..5000u32).flat_map(|n| defer((n % 100) as u8)).collect();
    rig.receive(client, &all);
    assert_eq!(rig.seen().responders.len(), 4096);
    rig.advance(ms(LIMIT + PRECISION));
    assert_eq!(rig.counters().abandoned, 4096);
    assert_eq!(rig.seen().responders.len(), 5000);
    rig.advance(ms(LIMIT + PRECISION));
    assert_eq!(rig.counters().abandoned, 5000);
    rig.let_go();
}

#[test]
fn a_peer_that_has_ended_its_side_waits_no_longer() {
    let mut rig = rig();
    let client = rig.connect();
    rig.receive(client, &[defer(1), defer(2)].concat());
    rig.end(client);
    rig.advance(ms(LIMIT - 1));
    rig.responder().answer(vec![7]);
    rig.deliver();
    assert!(rig.is_open(client));
    rig.advance(ms(1 + PRECISION));
    assert_eq!(rig.take_sent(client), [7, 0x55, 2]);
    assert_eq!(rig.reasons(), ["the peer ended the connection"]);
    rig.assert_empty(&[client]);
    rig.let_go();
}

/// A connection that is ending answers nobody, nor does one that has gone.
#[test]
fn who_ends_before_is_told_nothing() {
    let mut rig = rig();
    let clients = [(); 2].map(|()| rig.connect());
    for client in clients {
        rig.receive(client, &defer(1));
    }
    rig.set_window(clients[0], Some(0));
    rig.receive(clients[0], &[7, 0x91, verb::CLOSE]);
    rig.reset(clients[1]);
    let other = rig.connect();
    rig.receive(other, &[5]);
    rig.advance(ms(LIMIT + PRECISION));
    assert!(rig.is_open(clients[0]) && rig.is_open(other));
    assert_eq!(rig.seen().abandoned, []);
    rig.set_window(clients[0], None);
    assert_eq!(rig.take_sent(clients[0]), [7, 0x91, verb::CLOSE]);
    assert_eq!(rig.take_sent(other), [5]);
    rig.let_go();
    assert_eq!(rig.counters().abandoned, 0);
}

/// A hung backend does not hold up a restart for all of `drain`, nor is its promise waited for twice.
#[test]
fn a_stop_waits_no_longer_than_promised() {
    let mut rig = rig();
    let clients = [(); 2].map(|()| rig.connect());
    rig.receive(clients[0], &defer(1));
    rig.advance(ms(LIMIT / 2));
    rig.receive(clients[1], &defer(2));
    rig.stop_within(ms(100 * LIMIT));
    rig.advance(ms(LIMIT / 2 + PRECISION));
    assert_eq!(rig.take_sent(clients[0]), [0x55, 1]);
    assert!(clients.iter().all(|client| rig.is_open(*client)));
    rig.advance(ms(LIMIT / 2));
    assert_eq!(rig.take_sent(clients[1]), [0x55, 2]);
    assert!(
        rig.seen()
            .abandoned
            .iter()
            .all(|(.., why)| *why == Abandoned::Late)
    );
    assert_eq!(rig.reasons(), ["the server stops"; 2]);
    rig.assert_empty(&clients);
    rig.let_go();
}

/// It is more milliseconds than 2^32.
#[test]
fn a_time_limit_of_a_year_takes_effect() {
    let longest = Duration::from_secs(365 * 24 * 60 * 60);
    let mut rig = with_limits(Limits {
        promise_timeout: longest,
        ..Limits::default()
    });
    let client = rig.connect();
    rig.receive(client, &defer(1));
    let _late = rig.responder();
    rig.advance(longest - ms(1));
    assert_eq!(rig.counters().abandoned, 0);
    rig.advance(ms(1 + PRECISION));
    assert_eq!(rig.seen().abandoned, [(0, 1, Abandoned::Late)]);
}
