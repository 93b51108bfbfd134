//! Connections that are closed through their handles.

use std::time::Duration;

use bytes::Bytes;
use ringhold_core::limits::Limits;
use ringhold_core::testing::{Client, Setup};
use ringhold_core::{Flow, Frame, Handle, Peer, PushError, Refusal, Reply, Service};

use crate::service::{Manner, Rig, ask, bin, defer, pattern, verb};

const ENDED: &str = "the service ended the connection: ";

fn rig() -> (Rig, Client, Handle) {
    let mut rig = Rig::with_manner(Manner {
        makes_handles: true,
        apology: Some(0x55),
        ..Manner::default()
    });
    let client = rig.connect();
    let handle = rig.seen().handles[0].clone();
    (rig, client, handle)
}

/// Calls `act` on another thread, and waits for it.
fn elsewhere<R: Send>(act: impl FnOnce() -> R + Send) -> R {
    std::thread::scope(|scope| scope.spawn(act).join().unwrap())
}

#[track_caller]
fn assert_closed(rig: &mut Rig, client: Client, reason: &str) {
    assert!(rig.is_shut(client));
    assert_eq!(rig.reasons(), [format!("{ENDED}{reason}")]);
    assert_eq!(rig.counters().ended_by_service, 1);
    rig.assert_empty(&[client]);
}

#[test]
fn what_was_pushed_before_is_written_and_what_comes_behind_it_refused() {
    for from_elsewhere in [false, true] {
        let (mut rig, client, handle) = rig();
        let act = || {
            handle.push(vec![1]).unwrap();
            handle.push(bin(3000, 7)).unwrap();
            assert_eq!(handle.close("kicked"), Ok(()));
            assert!(!handle.is_open());
            assert_eq!(handle.push(vec![2]), Err(PushError::Gone));
        };
        if from_elsewhere {
            elsewhere(act)
        } else {
            act()
        }
        rig.deliver();
        let expected = [vec![1], bin(3000, 7)].concat();
        assert!(rig.take_sent(client) == expected);
        assert_closed(&mut rig, client, "kicked");
    }
}

/// What the worker's thread pushes waits to be joined with more of it.
#[test]
fn another_thread_does_not_overtake_what_the_worker_itself_pushed() {
    let (mut rig, client, handle) = rig();
    let others = [rig.connect(), rig.connect()];
    let handles = rig.seen().handles.clone();
    let events = [bin(10, 1), bin(2000, 2)].map(Bytes::from);
    for event in &events {
        for handle in &handles {
            handle.push_shared(event).unwrap();
        }
    }
    elsewhere(|| handle.close("kicked")).unwrap();
    assert_eq!(handle.push_shared(&events[0]), Err(PushError::Gone));
    for handle in &handles[1..] {
        handle.push_shared(&events[0]).unwrap();
    }
    rig.deliver();
    assert!(rig.take_sent(client) == events.concat());
    for other in others {
        let expected = [&events[0][..], &events[1], &events[0]].concat();
        assert!(rig.take_sent(other) == expected);
        assert!(rig.is_open(other));
    }
    assert!(rig.is_shut(client) && !rig.is_open(client));
}

#[test]
fn the_first_reason_stays() {
    let (mut rig, client, handle) = rig();
    assert_eq!(handle.close("kicked"), Ok(()));
    assert_eq!(handle.clone().close("too late"), Err(PushError::Gone));
    rig.deliver();
    assert_eq!(handle.close("much too late"), Err(PushError::Gone));
    rig.deliver();
    assert_closed(&mut rig, client, "kicked");
}

#[test]
fn who_has_ended_is_not_closed_any_more() {
    let (mut rig, client, handle) = rig();
    rig.end(client);
    assert_eq!(handle.close("kicked"), Err(PushError::Gone));
    // The next one has the same slot.
    let next = rig.connect();
    rig.deliver();
    assert!(rig.is_open(next));

    // It ends while the mail is under way.
    let handle = rig.seen().handles[1].clone();
    assert_eq!(elsewhere(|| handle.close("kicked")), Ok(()));
    rig.reset(next);
    let last = rig.connect();
    rig.deliver();
    assert!(rig.is_open(last));
    assert_eq!(rig.reasons()[0], "the peer ended the connection");
    assert!(rig.reasons()[1].starts_with("the socket failed"));
}

#[test]
fn who_is_closed_for_an_overflow_stays_so() {
    let (mut rig, client, handle) = rig();
    assert_eq!(handle.push(vec![0; 100 << 20]), Err(PushError::Overflow));
    assert_eq!(handle.close("kicked"), Err(PushError::Overflow));
    rig.deliver();
    assert!(rig.reasons()[0].contains("outbox_bytes"));

    let client_too = rig.connect();
    let handle = rig.seen().handles[1].clone();
    assert_eq!(handle.close("kicked"), Ok(()));
    assert_eq!(handle.push(vec![0; 100 << 20]), Err(PushError::Gone));
    rig.deliver();
    assert_eq!(rig.reasons()[1], format!("{ENDED}kicked"));
    rig.assert_empty(&[client, client_too]);
}

#[test]
fn a_slow_reader_gets_what_was_queued() {
    let (mut rig, client, handle) = rig();
    rig.set_window(client, Some(10));
    rig.receive(client, &ask(5000));
    elsewhere(|| {
        handle.push(bin(100, 1)).unwrap();
        handle.close("kicked").unwrap();
    });
    rig.deliver();
    assert!(rig.is_open(client) && !rig.is_shut(client));
    // It is read, so that its close is no reset, but not served.
    let frames = rig.frames();
    rig.receive(client, &[1, 2, 3]);
    assert_eq!(rig.frames(), frames);
    rig.set_window(client, None);
    assert!(rig.take_sent(client) == [pattern(5000), bin(100, 1)].concat());
    assert_closed(&mut rig, client, "kicked");
}

#[test]
fn who_does_not_read_is_cut_in_the_end_and_keeps_the_reason() {
    let (mut rig, client, handle) = rig();
    rig.set_window(client, Some(0));
    handle.push(vec![1]).unwrap();
    handle.close("kicked").unwrap();
    rig.deliver();
    rig.advance(Duration::from_secs(29));
    assert!(rig.is_open(client));
    rig.advance(Duration::from_secs(2));
    assert!(!rig.is_shut(client) && rig.is_cut(client));
    assert_eq!(rig.reasons(), [format!("{ENDED}kicked")]);
    rig.assert_empty(&[client]);
}

#[test]
fn answers_that_were_given_are_written_and_those_still_owed_are_not_spoken_of() {
    let (mut rig, client, handle) = rig();
    rig.receive(client, &(1..=3).flat_map(defer).collect::<Vec<u8>>());
    let [given, late, dropped] = [(); 3].map(|()| rig.responder());
    elsewhere(|| given.answer(vec![1]));
    // Not yet, so that the end is not over when the late ones come.
    rig.set_window(client, Some(0));
    handle.close("kicked").unwrap();
    assert!(!late.is_wanted());
    rig.deliver();
    late.answer(vec![2]);
    drop(dropped);
    rig.deliver();
    rig.set_window(client, None);
    assert_eq!(rig.take_sent(client), [1]);
    assert_eq!(rig.counters().abandoned, 0);
    assert_closed(&mut rig, client, "kicked");
}

#[test]
fn an_open_question_does_not_keep_the_connection() {
    for has_ended in [false, true] {
        let (mut rig, client, handle) = rig();
        rig.receive(client, &defer(1));
        if has_ended {
            rig.end(client);
        }
        assert!(rig.is_open(client));
        elsewhere(|| handle.close("kicked")).unwrap();
        rig.deliver();
        assert_closed(&mut rig, client, "kicked");
        assert!(rig.seen().abandoned.is_empty());
        rig.responder().answer(vec![1]);
        rig.deliver();
        assert_eq!(rig.take_sent(client), []);
    }
}

#[test]
fn a_stop_finds_it_closed() {
    let (mut rig, client, handle) = rig();
    let other = rig.connect();
    rig.receive(other, &defer(1));
    rig.stop_within(Duration::from_secs(5));
    assert!(rig.is_open(client) && rig.is_open(other));
    handle.push(vec![5]).unwrap();
    assert_eq!(elsewhere(|| handle.close("kicked")), Ok(()));
    rig.deliver();
    assert_eq!(rig.take_sent(client), [5]);
    assert!(rig.is_shut(client) && !rig.is_open(client));
    assert_eq!(rig.reasons(), [format!("{ENDED}kicked")]);
    // The other one is waited for, until it is closed as well.
    let other_handle = rig.seen().handles[1].clone();
    other_handle.close("kicked, too").unwrap();
    rig.deliver();
    assert_eq!(rig.take_sent(other), []);
    rig.assert_empty(&[client, other]);
    assert_eq!(rig.reasons()[1], format!("{ENDED}kicked, too"));
    assert_eq!(handle.close("again"), Err(PushError::Gone));
}

/// Closes its own connection in the middle of a call: `[1]` goes on, `[2]` ends it itself.
struct Closing;

impl Service for Closing {
    type Session = ();

    fn connected(&mut self, peer: &Peer<'_>, reply: &mut Reply<'_>) -> Result<(), Refusal> {
        if reply.peer().socket_name() == "full" {
            reply.write(|out| out.push(0x2a));
            peer.handle().close("there is no room").unwrap();
        }
        Ok(())
    }

    fn frame(&mut self, _: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        let first = reply.handle().close("from within");
        assert_eq!(first.is_ok(), matches!(frame[0], 1 | 2));
        reply.write(|out| out.extend_from_slice(&frame));
        match frame[0] {
            2 => Flow::close("by itself"),
            _ => Flow::Continue,
        }
    }
}

#[test]
fn a_call_that_closes_its_own_connection_is_answered_first() {
    let mut exchange = Setup::new(Limits::default())
        .service("closing", &["test", "full"], |_| Closing)
        .start();
    for frames in [&[1][..], &[1, 7, 8], &[2]] {
        let client = exchange.connect();
        exchange.receive(client, frames);
        // Those that arrived with it are answered as well.
        assert_eq!(exchange.take_sent(client), frames);
        assert!(exchange.is_shut(client) && !exchange.is_open(client));
    }
    let client = exchange.connect_to("full");
    assert_eq!(exchange.take_sent(client), [0x2a]);
    assert!(exchange.is_shut(client) && !exchange.is_open(client));
    assert_eq!(exchange.counters().ended_by_service, 4);
    assert_eq!(exchange.memory_held(), 0);
}

#[test]
fn who_is_ended_by_the_service_meanwhile_keeps_that_reason() {
    let (mut rig, client, handle) = rig();
    // The call ends the connection before the close is heard of.
    assert_eq!(elsewhere(|| handle.close("kicked")), Ok(()));
    rig.receive_unasked(client, &[0x91, verb::CLOSE]);
    assert_eq!(rig.take_sent(client), [0x91, verb::CLOSE]);
    assert_closed(&mut rig, client, "asked to");
}
