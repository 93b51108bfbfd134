//! Connections that are cut through their handles, and other ends that are resets.

use std::time::Duration;

use ringhold_core::limits::Limits;
use ringhold_core::testing::Client;
use ringhold_core::{Handle, PushError};

use crate::service::{Manner, Rig, ask, bin, defer};

const CUT: &str = "the service cut the connection: too slow";

fn manner() -> Manner {
    Manner {
        makes_handles: true,
        apology: Some(0x55),
        ..Manner::default()
    }
}

/// With a client that reads nothing.
fn rig() -> (Rig, Client, Handle) {
    let mut rig = Rig::with_manner(manner());
    let client = rig.connect();
    rig.set_window(client, Some(0));
    let handle = rig.seen().handles[0].clone();
    (rig, client, handle)
}

/// Calls `act` on another thread, and waits for it.
fn elsewhere<R: Send>(act: impl FnOnce() -> R + Send) -> R {
    std::thread::scope(|scope| scope.spawn(act).join().unwrap())
}

fn cut(handle: &Handle) {
    assert_eq!(handle.cut("too slow"), Ok(()));
    assert!(!handle.is_open());
    let gone = Err(PushError::Gone);
    assert_eq!(handle.push(vec![2]), gone);
    assert_eq!(handle.close("too late"), gone);
    assert_eq!(handle.cut("too late"), gone);
}

#[test]
fn what_waits_is_not_written() {
    for from_elsewhere in [false, true] {
        let (mut rig, client, handle) = rig();
        // Of one part it is known that it waits, of the other one not yet.
        handle.push(bin(3000, 7)).unwrap();
        rig.deliver();
        let act = || {
            handle.push(vec![1]).unwrap();
            cut(&handle);
        };
        if from_elsewhere {
            elsewhere(act)
        } else {
            act()
        }
        rig.deliver();
        assert!(rig.is_cut(client) && !rig.is_shut(client));
        assert_eq!(rig.take_sent(client), []);
        assert_eq!(rig.reasons(), [CUT]);
        assert_eq!(rig.counters().cut, 1);
        assert_eq!(rig.counters().ended_by_service, 0);
        rig.assert_empty(&[client]);
        assert_eq!(handle.cut("too late"), Err(PushError::Gone));
    }
}

/// It was reset for this and nothing else, once, and nothing is left of it.
#[track_caller]
fn assert_was_cut(rig: &mut Rig, client: Client) {
    assert!(rig.is_cut(client));
    assert_eq!(
        (rig.reasons(), rig.counters().cut),
        (vec![CUT.to_owned()], 1)
    );
    rig.assert_empty(&[client]);
}

#[test]
fn who_is_owed_nothing_is_cut_as_well() {
    let (mut rig, client, handle) = rig();
    elsewhere(|| cut(&handle));
    rig.deliver();
    assert_was_cut(&mut rig, client);
}

#[test]
fn who_is_being_closed_is_waited_for_no_longer() {
    let (mut rig, client, handle) = rig();
    rig.receive(client, &ask(5000));
    elsewhere(|| handle.close("kicked")).unwrap();
    rig.deliver();
    // A byte now and then keeps it.
    for _ in 0..10 {
        rig.set_window(client, Some(1));
        rig.advance(Duration::from_secs(29));
        assert!(rig.is_open(client));
    }
    elsewhere(|| assert_eq!(handle.cut("too slow"), Ok(())));
    rig.deliver();
    assert!(rig.is_cut(client) && !rig.is_shut(client));
    assert_eq!(rig.take_sent(client).len(), 10);
    assert_eq!(rig.reasons(), ["the service ended the connection: kicked"]);
    let counters = rig.counters();
    assert_eq!((counters.ended_by_service, counters.cut), (1, 1));
    rig.assert_empty(&[client]);
}

/// Another thread's close is still under way, and a push that comes before it.
#[test]
fn who_is_about_to_be_closed_ends_for_that() {
    let (mut rig, client, handle) = rig();
    elsewhere(|| {
        handle.push(vec![1]).unwrap();
        handle.close("kicked").unwrap();
        handle.cut("too slow").unwrap();
    });
    rig.deliver();
    assert!(rig.is_cut(client));
    assert_eq!(rig.reasons(), ["the service ended the connection: kicked"]);
    rig.assert_empty(&[client]);
}

#[test]
fn who_has_ended_its_side_and_does_not_read_is_cut() {
    let (mut rig, client, handle) = rig();
    rig.receive(client, &ask(5000));
    rig.end(client);
    assert!(rig.is_open(client));
    assert_eq!(handle.cut("too slow"), Ok(()));
    rig.deliver();
    assert_was_cut(&mut rig, client);
}

/// All is written, and its end is waited for, so that the close is no reset.
#[test]
fn who_does_not_end_its_side_is_waited_for_no_longer() {
    let (mut rig, client, handle) = rig();
    rig.set_window(client, None);
    rig.keep_open(client);
    handle.push(vec![1]).unwrap();
    handle.close("kicked").unwrap();
    rig.deliver();
    assert!(rig.is_open(client) && rig.is_shut(client));
    assert_eq!(handle.cut("too slow"), Ok(()));
    rig.deliver();
    assert!(rig.is_cut(client));
    assert_eq!(rig.take_sent(client), [1]);
    assert_eq!(rig.reasons(), ["the service ended the connection: kicked"]);
    assert_eq!(rig.counters().cut, 0, "nothing is lost that is known of");
    rig.assert_empty(&[client]);
}

#[test]
fn an_open_question_is_dropped() {
    let (mut rig, client, handle) = rig();
    rig.receive(client, &defer(1));
    elsewhere(|| cut(&handle));
    let responder = rig.responder();
    assert!(!responder.is_wanted());
    rig.deliver();
    assert!(rig.seen().abandoned.is_empty());
    responder.answer(vec![1]);
    rig.deliver();
    assert_eq!(rig.reasons(), [CUT]);
    rig.assert_empty(&[client]);
}

#[test]
fn who_is_gone_is_not_cut_nor_is_the_next_one() {
    let (mut rig, client, handle) = rig();
    rig.end(client);
    assert_eq!(handle.cut("too slow"), Err(PushError::Gone));
    let next = rig.connect();
    rig.deliver();
    assert!(rig.is_open(next));

    // It ends while the mail is under way.
    let handle = rig.seen().handles[1].clone();
    assert_eq!(elsewhere(|| handle.cut("too slow")), Ok(()));
    rig.reset(next);
    let last = rig.connect();
    rig.deliver();
    assert!(rig.is_open(last));
    assert_eq!(rig.counters().cut, 0);
}

#[test]
fn who_was_pushed_too_much_is_reset() {
    let (mut rig, client, handle) = rig();
    handle.push(vec![1]).unwrap();
    rig.deliver();
    assert_eq!(handle.push(vec![0; 100 << 20]), Err(PushError::Overflow));
    // It is cut anyway.
    assert_eq!(handle.cut("too slow"), Ok(()));
    assert_eq!(handle.cut("too slow"), Err(PushError::Overflow));
    rig.deliver();
    assert!(rig.is_cut(client));
    assert!(rig.reasons()[0].contains("outbox_bytes"));
    assert_eq!(rig.counters().cut, 1);
}

#[test]
fn who_takes_nothing_is_reset() {
    let limits = Limits {
        write_timeout: Duration::from_secs(1),
        ..Limits::default()
    };
    let mut rig = Rig::with_limits(limits);
    let client = rig.connect();
    rig.set_window(client, Some(0));
    rig.receive(client, &ask(5000));
    rig.advance(Duration::from_secs(3));
    assert!(rig.is_cut(client));
    assert_eq!(rig.counters().timed_out, 1);
}

/// What the kernel has is delivered behind the end of the server.
#[test]
fn who_takes_nothing_in_a_stop_is_not_reset() {
    let (mut rig, client, handle) = rig();
    handle.push(bin(3000, 7)).unwrap();
    rig.deliver();
    rig.stop_within(Duration::from_secs(1));
    (0..5).for_each(|_| rig.advance(Duration::from_secs(1)));
    assert!(!rig.is_open(client) && !rig.is_cut(client));
    assert_eq!(rig.counters().timed_out, 1);
}

#[test]
fn a_stop_does_not_wait_for_who_is_cut() {
    let (mut rig, client, handle) = rig();
    rig.receive(client, &defer(1));
    rig.stop_within(Duration::from_secs(100));
    assert!(rig.is_open(client));
    elsewhere(|| cut(&handle));
    rig.deliver();
    assert_eq!(rig.reasons(), [CUT]);
    rig.assert_empty(&[client]);
}
