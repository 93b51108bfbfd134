//! The time that peers have for what they are still owed when they have ended their side, or are refused.

use ringhold_core::Abandoned;
use ringhold_core::limits::Limits;
use ringhold_core::testing::Client;

use crate::service::{Manner, Rig, ask, defer, pattern, verb};
use crate::time::{PRECISION, limits, ms};

/// With an apology for each reply that does not come.
fn half_closed(reply_timeout: u64) -> (Rig, Client) {
    let limits = Limits {
        reply_timeout: ms(reply_timeout),
        ..limits(0, 0, 0)
    };
    let manner = Manner {
        apology: Some(0x55),
        ..Manner::default()
    };
    let mut rig = Rig::with(limits, manner);
    let client = rig.connect();
    rig.receive(client, &[defer(1), defer(2), defer(3)].concat());
    (rig, client)
}

#[test]
fn who_has_ended_its_side_does_not_wait_for_ever() {
    let (mut rig, client) = half_closed(60_000);
    rig.advance(ms(120_000));
    assert_eq!(rig.take_sent(client), [], "its side is open");
    rig.receive(client, &[7]);
    rig.end(client);
    assert_eq!(rig.take_sent(client), [7]);
    rig.advance(ms(59_999));
    rig.responder().answer(vec![9]);
    rig.deliver();
    // It counts from the last reply on.
    rig.advance(ms(59_999));
    assert_eq!(rig.take_sent(client), [9]);
    assert!(rig.is_open(client));
    rig.advance(ms(1 + PRECISION));
    assert_eq!(rig.take_sent(client), [0x55, 2, 0x55, 3]);
    assert!(rig.is_shut(client) && !rig.is_open(client));
    let abandoned = [2, 3].map(|ticket| (0, ticket, Abandoned::TimedOut));
    assert_eq!(rig.seen().abandoned, abandoned);
    assert_eq!(rig.counters().abandoned, 2);
    assert_eq!(rig.reasons(), ["the peer ended the connection"]);
    rig.let_go();
    rig.assert_empty(&[client]);
}

/// A peer that takes a byte whenever it would be cut otherwise, and whose connection ends because of `last`, if that is
/// anything, or because the peer `ends` its side.
fn dripping(reply_timeout: u64, last: &[u8], ends: bool) -> (Rig, Client) {
    let limits = Limits {
        reply_timeout: ms(reply_timeout),
        ..limits(0, 0, 1000)
    };
    let mut rig = Rig::with_limits(limits);
    let client = rig.connect();
    rig.set_window(client, Some(0));
    rig.receive(client, &[&ask(1000), last].concat());
    if ends {
        rig.end(client);
    }
    (rig, client)
}

#[track_caller]
fn drip(rig: &mut Rig, client: Client, bytes: u64) {
    for byte in 0..bytes {
        rig.advance(ms(900));
        assert!(rig.is_open(client), "it is gone after {byte} bytes");
        rig.set_window(client, Some(1));
    }
}

#[test]
fn the_last_output_must_be_taken_in_time_however_much_is_taken_of_it() {
    let condemned = [
        (&[0xc1][..], false, "the input is not acceptable msgpack"),
        (&[0x92], true, "in the middle of a frame"),
    ];
    for (last, ends, why) in condemned {
        let (mut rig, client) = dripping(90_000, last, ends);
        drip(&mut rig, client, 99);
        rig.advance(ms(899));
        assert!(rig.is_open(client), "{why}: a millisecond too early");
        rig.advance(ms(1 + PRECISION));
        assert!(!rig.is_open(client), "{why}: too late");
        assert_eq!(rig.take_sent(client), pattern(99));
        assert!(rig.is_cut(client), "it is cut, not ended");
        assert!(rig.reasons()[0].contains(why), "the first reason stays");
        let counters = rig.counters();
        assert_eq!((counters.bad_input, counters.timed_out), (1, 1));
        rig.assert_empty(&[client]);
    }
}

#[test]
fn the_last_output_has_for_ever_if_it_may() {
    let (mut rig, client) = dripping(0, &[0xc1], false);
    drip(&mut rig, client, 999);
    rig.set_window(client, None);
    assert_eq!(rig.take_sent(client), pattern(1000));
    assert!(rig.is_shut(client), "it is ended in an orderly way");
    rig.assert_empty(&[client]);
}

#[test]
fn who_is_served_may_take_its_time() {
    let (mut rig, client) = dripping(90_000, &[], false);
    drip(&mut rig, client, 500);
    // What it was slow with before does not count.
    rig.receive(client, &[0xc1]);
    drip(&mut rig, client, 99);
    rig.set_window(client, None);
    assert_eq!(rig.take_sent(client), pattern(1000));
    assert!(rig.is_shut(client));
    rig.assert_empty(&[client]);
}

#[test]
fn the_last_answer_has_as_much_time_as_any_other() {
    let close = [0x91, verb::CLOSE];
    for (last, ends) in [(&close[..], false), (&[], true)] {
        let (mut rig, client) = dripping(90_000, last, ends);
        drip(&mut rig, client, 500);
        rig.set_window(client, None);
        let answer = if ends { &[] } else { last };
        assert_eq!(rig.take_sent(client), [&pattern(1000), answer].concat());
        assert!(rig.is_shut(client));
        rig.assert_empty(&[client]);
    }
}

#[test]
fn who_has_ended_its_side_waits_for_ever_if_it_may() {
    let (mut rig, client) = half_closed(0);
    rig.end(client);
    rig.advance(ms(1_000_000_000));
    assert!(rig.is_open(client));
    for answer in [1, 2, 3] {
        rig.responder().answer(vec![answer]);
        rig.deliver();
    }
    assert_eq!(rig.take_sent(client), [1, 2, 3]);
    rig.assert_empty(&[client]);
}
