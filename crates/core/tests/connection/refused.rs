//! Peers whose input is of no use any more, while they are owed deferred replies to what they sent before.

use std::time::Duration;

use ringhold_core::limits::Limits;
use ringhold_core::testing::Client;
use ringhold_core::{Abandoned, PushError};

use crate::service::{Manner, Rig, defer, verb};

const FRAME_TIMEOUT: Duration = Duration::from_secs(5);
const REPLY_TIMEOUT: Duration = Duration::from_secs(60);

/// What is of no use, and the reason that it is.
const OF_NO_USE: [(&[u8], &str); 2] = [
    (&[7, 0xc1, 9], "the input is not acceptable msgpack: "),
    (
        &[7, 0x91, verb::REJECT, 9],
        "the service rejects the input: of no use",
    ),
];

/// A client that is owed the replies to three tickets, and has sent this behind them.
fn refused(last: &[u8]) -> (Rig, Client) {
    let limits = Limits {
        frame_timeout: FRAME_TIMEOUT,
        reply_timeout: REPLY_TIMEOUT,
        ..Limits::default()
    };
    let manner = Manner {
        apology: Some(0x55),
        makes_handles: true,
        ..Manner::default()
    };
    let mut rig = Rig::with(limits, manner);
    let client = rig.connect();
    rig.receive(client, &[defer(1), defer(2), defer(3)].concat());
    rig.receive(client, last);
    (rig, client)
}

#[test]
fn what_was_asked_for_before_is_answered_and_nothing_behind() {
    for (last, why) in OF_NO_USE {
        let (mut rig, client) = refused(last);
        assert_eq!(rig.counters().bad_input, 1);
        assert!(!rig.reads(client) && !rig.is_shut(client));
        rig.receive_unasked(client, &[5, 6]);
        let frames = rig.frames();
        let [first, second, third] = [(); 3].map(|()| rig.responder());
        assert!(first.is_wanted());
        rig.seen().handles[0].push(vec![8]).unwrap();
        first.answer(vec![1]);
        drop(second);
        rig.deliver();
        assert_eq!(rig.take_sent(client), [7, 8, 1, 0x55, 2]);
        assert!(!rig.is_shut(client) && rig.is_open(client));
        assert_eq!(third.try_answer(vec![3]), Ok(()));
        rig.deliver();
        assert_eq!(rig.take_sent(client), [3]);
        assert!(rig.is_shut(client));
        // What it sends now is thrown away, so that what it was sent does not turn into a reset.
        rig.receive(client, &[5, 0xc1, 6]);
        assert_eq!(rig.unread(client), 0);
        rig.end(client);
        assert!(!rig.is_open(client));
        assert_eq!(rig.frames(), frames);
        assert!(rig.reasons()[0].starts_with(why), "{:?}", rig.reasons());
        assert_eq!(rig.counters().bad_input, 1);
        rig.let_go();
        rig.assert_empty(&[client]);
    }
}

/// Whoever begins a frame and does not go on, too.
#[test]
fn who_does_not_complete_a_frame_is_answered() {
    let (mut rig, client) = refused(&[0x92, 1]);
    rig.advance(2 * FRAME_TIMEOUT);
    assert_eq!(rig.counters().timed_out, 1);
    assert!(rig.is_open(client) && !rig.is_shut(client));
    for n in 1..4 {
        rig.responder().answer(vec![n]);
    }
    rig.deliver();
    assert_eq!(rig.take_sent(client), [1, 2, 3]);
    assert!(rig.is_shut(client));
    rig.end(client);
    rig.let_go();
    rig.assert_empty(&[client]);
    let why = "a frame was not complete within frame_timeout";
    assert_eq!(rig.reasons(), [why]);
}

/// It has no more time for that than whoever has ended its side.
#[test]
fn deferred_replies_are_not_waited_for_without_end() {
    for (last, _) in OF_NO_USE {
        let (mut rig, client) = refused(last);
        rig.advance(REPLY_TIMEOUT / 2);
        rig.responder().answer(vec![1]);
        rig.deliver();
        rig.advance(REPLY_TIMEOUT / 2 + Duration::from_secs(1));
        assert_eq!(rig.take_sent(client), [7, 1]);
        rig.advance(REPLY_TIMEOUT / 2);
        assert_eq!(rig.take_sent(client), [0x55, 2, 0x55, 3]);
        let abandoned = [2, 3].map(|ticket| (0, ticket, Abandoned::TimedOut));
        assert_eq!(rig.seen().abandoned, abandoned);
        assert!(rig.is_shut(client));
        rig.end(client);
        assert_eq!(rig.counters().bad_input, 1);
        rig.let_go();
        rig.assert_empty(&[client]);
    }
}

/// The service, the peer and the server may end it before that.
#[test]
fn it_may_end_before() {
    for (last, why) in OF_NO_USE {
        for end in 0..4 {
            let (mut rig, client) = refused(last);
            match end {
                0 => rig.seen().handles[0].close("elsewhere").unwrap(),
                1 => rig.reset(client),
                2 => drop(rig.seen().handles[0].cut("at once")),
                _ => rig.stop_within(Duration::ZERO),
            }
            rig.deliver();
            rig.advance(Duration::from_secs(3));
            assert!(!rig.is_open(client), "{end}");
            let sent = rig.take_sent(client);
            match end {
                3 => assert_eq!(sent, [7, 0x55, 1, 0x55, 2, 0x55, 3]),
                _ => assert_eq!(sent, [7]),
            }
            let responders = rig.take_responders();
            assert!(responders.iter().all(|responder| !responder.is_wanted()));
            assert!(rig.reasons()[0].starts_with(why), "{:?}", rig.reasons());
            let counters = rig.counters();
            assert_eq!(counters.bad_input, 1);
            // What it was still owed is lost, which is counted besides.
            let lost = [(1, counters.failed), (2, counters.cut)];
            for (by, count) in lost {
                assert_eq!(count, u64::from(by == end), "{by} {end}");
            }
            drop(responders);
            rig.let_go();
            rig.assert_empty(&[client]);
        }
    }
}

/// As anywhere else, although the connection is ending anyway.
#[test]
fn a_panic_of_its_service_is_counted() {
    let manner = Manner {
        panics_in: Some(("abandoned", 0)),
        ..Manner::default()
    };
    let mut rig = Rig::with_manner(manner);
    let client = rig.connect();
    rig.receive(client, &[&defer(1)[..], &defer(2), &[0xc1]].concat());
    drop(rig.responder());
    rig.deliver();
    assert_eq!(rig.counters().panics, 1);
    assert_eq!(rig.counters().bad_input, 1);
    assert!(rig.is_shut(client), "the other reply is not waited for");
    rig.end(client);
    rig.let_go();
    rig.assert_empty(&[client]);
}

/// It may be pushed as much as any other connection. Its peer sees that it has not got all.
#[test]
fn who_is_pushed_too_much_is_cut() {
    let limits = Limits {
        outbox_bytes: 2_000,
        ..Limits::default()
    };
    let manner = Manner {
        makes_handles: true,
        ..Manner::default()
    };
    let mut rig = Rig::with(limits, manner);
    let client = rig.connect();
    // It has ended its side when what it sent is dispatched.
    rig.set_window(client, Some(0));
    let large = [&[0xc5, 0x05, 0xdc][..], &[0; 1500]].concat();
    rig.receive(client, &[&large[..], &defer(1), &[0xc1]].concat());
    rig.end(client);
    rig.set_window(client, None);
    assert_eq!(rig.take_sent(client), large);
    let handle = rig.seen().handles[0].clone();
    handle.push(vec![8; 2_000]).unwrap();
    rig.deliver();
    assert_eq!(rig.take_sent(client), [8; 2_000]);
    assert_eq!(handle.push(vec![9; 2_001]), Err(PushError::Overflow));
    rig.deliver();
    assert!(!rig.is_open(client) && rig.is_cut(client) && !rig.is_shut(client));
    assert_eq!(rig.take_sent(client), []);
    let counters = rig.counters();
    assert_eq!((counters.bad_input, counters.cut), (1, 1));
    drop(handle);
    rig.let_go();
    rig.assert_empty(&[client]);
}

/// Its peer may have ended its side by then, and what it sent is dispatched late.
#[test]
fn who_has_ended_its_side_too_is_answered() {
    let limits = Limits {
        promises: 2,
        ..Limits::default()
    };
    let mut rig = Rig::with_limits(limits);
    let client = rig.connect();
    rig.receive(
        client,
        &[&defer(1)[..], &defer(2), &defer(3), &[0xc1]].concat(),
    );
    rig.end(client);
    for n in 1..4 {
        rig.responder().answer(vec![n]);
        rig.deliver();
    }
    assert_eq!(rig.take_sent(client), [1, 2, 3]);
    assert!(!rig.is_open(client));
    assert_eq!(rig.counters().bad_input, 1);
    rig.let_go();
    rig.assert_empty(&[client]);
}
