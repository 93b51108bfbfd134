//! What had been received before a socket failed, and waits for the service.

use ringhold_core::PushError;

use crate::service::{Manner, Rig, ask, defer, verb};

const RESET: &str = "the socket failed: connection reset";

/// A client that reads nothing, so that what is behind the first frames waits, and then resets.
fn reset_behind(rig: &mut Rig, waiting: &[u8]) {
    end_behind(rig, waiting);
    assert_eq!(rig.reasons(), [RESET]);
}

/// As [`reset_behind`], for whatever reason.
fn end_behind(rig: &mut Rig, waiting: &[u8]) {
    let client = rig.connect();
    rig.set_window(client, Some(0));
    rig.receive(client, &[&ask(600_000).repeat(2)[..], waiting].concat());
    assert_eq!(rig.frames(), 1, "dispatch has paused");
    rig.reset(client);
    rig.assert_empty(&[client]);
    assert_eq!(rig.take_sent(client), []);
    assert_eq!(rig.counters().failed, 1);
}

#[test]
fn it_is_given_although_nobody_reads_the_replies() {
    let mut rig = Rig::new();
    reset_behind(
        &mut rig,
        &[&ask(9_000_000)[..], &ask(700_000), &[1; 5000]].concat(),
    );
    assert_eq!(rig.frames(), 2 + 2 + 5000);
    let counters = rig.counters();
    assert_eq!(counters.frames_in, 2 + 2 + 5000);
    assert_eq!((counters.pauses, counters.timed_out), (0, 0));
}

#[test]
fn it_may_end_in_mid_frame() {
    let mut rig = Rig::new();
    reset_behind(&mut rig, &[1, 0x92, 2]);
    assert_eq!(rig.frames(), 3);
    assert_eq!(rig.counters().bad_input, 0);
}

#[test]
fn it_may_wait_in_the_socket() {
    let mut rig = Rig::new();
    let client = rig.connect();
    rig.set_window(client, Some(0));
    rig.receive(client, &ask(600_000));
    assert!(!rig.receive(client, &[&ask(700_000)[..], &[1; 5000]].concat()));
    rig.reset(client);
    assert_eq!(rig.frames(), 2 + 5000);
    assert_eq!(rig.reasons(), [RESET]);
    rig.assert_empty(&[client]);
}

#[test]
fn what_it_promises_is_owed_to_nobody() {
    let mut rig = Rig::with_manner(Manner {
        apology: Some(0x55),
        makes_handles: true,
        ..Manner::default()
    });
    let client = rig.connect();
    rig.set_window(client, Some(0));
    let waiting = [&ask(600_000)[..], &defer(2), &ask(600_000), &defer(3)].concat();
    rig.receive(client, &[&defer(1)[..], &ask(600_000), &waiting].concat());
    assert_eq!(rig.frames(), 2);
    // It was on its way.
    rig.seen().handles[0].push(vec![7]).unwrap();
    rig.reset(client);
    assert_eq!(rig.frames(), 6);
    assert_eq!(rig.seen().handles[0].push(vec![8]), Err(PushError::Gone));
    let responders = rig.take_responders();
    assert_eq!(responders.len(), 3);
    assert!(responders.iter().all(|responder| !responder.is_wanted()));
    assert_eq!(rig.snapshot().owed, 0);
    // Neither comes to anything.
    let mut responders = responders.into_iter();
    responders.next().unwrap().answer(vec![9]);
    drop(responders);
    rig.deliver();
    assert_eq!(
        (rig.seen().abandoned.len(), rig.counters().abandoned),
        (0, 0)
    );
    assert_eq!(rig.reasons(), [RESET]);
    rig.assert_empty(&[client]);
}

/// A responder is made with the first handle of the connection, unless the service has made one.
#[test]
fn the_first_handle_knows_that_it_has_failed() {
    for waiting in [defer(1), [0x92, verb::LOOK, 1]] {
        let mut rig = Rig::new();
        reset_behind(&mut rig, &waiting);
        let seen = rig.seen();
        assert_eq!([&seen.wanted[..], &seen.open].concat(), [false]);
    }
}

#[test]
fn too_many_promises_do_not_hold_it_up() {
    let mut rig = Rig::new();
    let client = rig.connect();
    rig.receive(client, &defer(1).repeat(10_000));
    assert_eq!(rig.frames(), 4096, "dispatch has paused");
    rig.reset(client);
    assert_eq!(rig.frames(), 10_000);
    assert_eq!(rig.snapshot().owed, 0);
    rig.assert_empty(&[client]);
    rig.let_go();
}

/// As on a connection that goes on.
#[test]
fn it_ends_where_the_service_or_bad_input_ends_it() {
    let ends = [
        (&[0x91, verb::CLOSE][..], 4),
        (&[0x91, verb::PANIC], 4),
        (&[0xc1], 3),
    ];
    for (number, (end, frames)) in ends.into_iter().enumerate() {
        let mut rig = Rig::new();
        end_behind(&mut rig, &[&[1], end, &[2; 5000]].concat());
        assert_eq!(rig.frames(), frames);
        let reasons = rig.reasons();
        assert!(reasons.len() == 1 && reasons[0] != RESET, "{reasons:?}");
        let counters = rig.counters();
        let counts = [
            counters.ended_by_service,
            counters.panics,
            counters.bad_input,
        ];
        assert_eq!(counts, [0, 1, 2].map(|it| u64::from(it == number)));
    }
}
