//! How connections end: the peer's end, a reset, the service's wish.

use ringhold_core::Abandoned;

use crate::service::{Manner, Rig, array, ask, bin, defer, pattern, verb};

const FINISHED: &str = "the peer ended the connection";
const TRUNCATED: &str = "the peer ended the connection in the middle of a frame";
const RESET: &str = "the socket failed: connection reset";

#[test]
fn the_reply_to_the_last_request_comes_before_the_end() {
    let mut rig = Rig::new();
    let client = rig.connect();
    rig.set_window(client, Some(0));
    rig.receive(client, &ask(100_000));
    rig.end(client);
    assert!(rig.is_open(client), "the reply is still on its way");
    assert!(!rig.reads(client));
    rig.set_window(client, Some(60_000));
    assert!(rig.is_open(client));
    rig.set_window(client, None);
    assert_eq!(rig.take_sent(client), pattern(100_000));
    assert_eq!(rig.reasons(), [FINISHED]);
    rig.assert_empty(&[client]);
    assert_eq!(rig.counters().bad_input, 0);
}

#[test]
fn the_end_behind_a_burst_comes_when_the_burst_is_answered() {
    let mut rig = Rig::new();
    let client = rig.connect();
    rig.receive(client, &vec![5; 10_000]);
    rig.end(client);
    assert_eq!(rig.take_sent(client), vec![5; 10_000]);
    assert_eq!(rig.reasons(), [FINISHED]);
    rig.assert_empty(&[client]);
}

#[test]
fn the_end_in_mid_frame_is_bad_input_and_earlier_replies_arrive() {
    let frame = array(&[&[1], &bin(100_000, 1)]);
    let mut rig = Rig::new();
    let mut clients = Vec::new();
    // In the header, in a payload, in a large frame that has its own buffer.
    for at in [1, 4, 200, 90_000, frame.len() - 1] {
        let client = rig.connect();
        rig.receive(client, &[&[0x2a, 0x90][..], &frame[..at.min(100)]].concat());
        rig.receive(client, &frame[at.min(100)..at]);
        rig.end(client);
        assert_eq!(rig.take_sent(client), [0x2a, 0x90]);
        clients.push(client);
    }
    assert_eq!(rig.reasons(), [TRUNCATED; 5]);
    assert_eq!(rig.counters().bad_input, 5);
    rig.assert_empty(&clients);
}

#[test]
fn the_end_without_a_word_is_no_fault() {
    let mut rig = Rig::new();
    let client = rig.connect();
    rig.end(client);
    assert_eq!(rig.reasons(), [FINISHED]);
    assert_eq!(rig.counters().bad_input, 0);
    rig.assert_empty(&[client]);
}

#[test]
fn deferred_answers_come_after_the_peers_end_and_before_ours() {
    let mut rig = Rig::new();
    let client = rig.connect();
    rig.receive(client, &[defer(1), defer(2), defer(3)].concat());
    rig.end(client);
    assert!(rig.is_open(client));
    let [first, second, third] = [rig.responder(), rig.responder(), rig.responder()];
    second.answer(&b"\xa3two"[..]);
    rig.deliver();
    assert_eq!(rig.take_sent(client), b"\xa3two");
    third.answer(&b"\xa5three"[..]);
    rig.deliver();
    assert!(rig.is_open(client));
    first.answer(pattern(3000));
    rig.deliver();
    assert_eq!(
        rig.take_sent(client),
        [&b"\xa5three"[..], &pattern(3000)].concat()
    );
    assert_eq!(rig.reasons(), [FINISHED]);
    rig.assert_empty(&[client]);
}

#[test]
fn deferred_answers_come_even_if_the_peer_ended_in_mid_frame() {
    let mut rig = Rig::new();
    let client = rig.connect();
    rig.receive(client, &[&defer(1)[..], &[0x92, 1]].concat());
    rig.end(client);
    assert!(rig.is_open(client));
    rig.responder().answer(&b"\x07"[..]);
    rig.deliver();
    assert_eq!(rig.take_sent(client), [7]);
    assert_eq!(rig.reasons(), [TRUNCATED]);
    rig.assert_empty(&[client]);
}

#[test]
fn an_abandoned_ticket_is_apologised_for_after_the_peers_end() {
    let mut rig = Rig::with_manner(Manner {
        apology: Some(0x55),
        ..Manner::default()
    });
    let client = rig.connect();
    rig.receive(client, &defer(9));
    rig.end(client);
    drop(rig.responder());
    rig.deliver();
    assert_eq!(rig.take_sent(client), [0x55, 9]);
    assert_eq!(rig.seen().abandoned, [(0, 9, Abandoned::Dropped)]);
    assert_eq!(rig.reasons(), [FINISHED]);
    rig.assert_empty(&[client]);
}

#[test]
fn a_reset_in_mid_frame() {
    let mut rig = Rig::new();
    let clients = [rig.connect(), rig.connect()];
    rig.receive(clients[0], &bin(1000, 1)[..500]);
    rig.receive(clients[1], &bin(1_000_000, 1)[..500_000]);
    rig.reset(clients[0]);
    rig.reset(clients[1]);
    assert_eq!(rig.reasons(), [RESET; 2]);
    assert_eq!(rig.counters().failed, 2);
    assert_eq!(rig.counters().bad_input, 0);
    rig.assert_empty(&clients);
}

#[test]
fn a_reset_with_output_on_its_way_and_input_waiting() {
    let mut rig = Rig::new();
    let client = rig.connect();
    rig.set_window(client, Some(1000));
    for _ in 0..20 {
        rig.receive(client, &ask(1_000_000));
    }
    assert!(rig.unread(client) > 0, "reading has paused");
    rig.reset(client);
    assert_eq!(rig.take_sent(client), pattern(1000));
    assert_eq!(rig.reasons(), [RESET]);
    assert_eq!(rig.counters().failed, 1);
    rig.assert_empty(&[client]);
}

#[test]
fn a_reset_after_the_peers_end() {
    let mut rig = Rig::new();
    let client = rig.connect();
    rig.receive(client, &defer(1));
    rig.end(client);
    rig.reset(client);
    assert_eq!(rig.reasons(), [RESET]);
    rig.responder().answer(&b"\x01"[..]);
    rig.deliver();
    assert_eq!(rig.take_sent(client), []);
    rig.assert_empty(&[client]);
}

/// Replies that the peer has asked for are lost with it, whoever had ended its side.
#[test]
fn a_reset_before_the_last_output_is_taken_is_counted_and_told() {
    let condemned = "not acceptable msgpack";
    for (last, ends, why) in [
        (&[][..], true, RESET),
        (&[0x92], true, "in the middle of a frame"),
        (&[0x91, verb::CLOSE], false, "the service ended"),
        (&[0xc1], false, condemned),
    ] {
        let mut rig = Rig::new();
        let client = rig.connect();
        rig.set_window(client, Some(5));
        rig.receive(client, &[&ask(100), last].concat());
        if ends {
            rig.end(client);
        }
        assert!(rig.is_open(client));
        rig.reset(client);
        assert_eq!(rig.take_sent(client), pattern(5));
        let reasons = rig.reasons();
        assert!(
            reasons.len() == 1 && reasons[0].contains(why),
            "{reasons:?}"
        );
        assert_eq!(rig.counters().failed, 1, "{why}");
        rig.assert_empty(&[client]);
    }
}

#[test]
fn the_service_ends_a_connection_after_its_reply() {
    let mut rig = Rig::new();
    let client = rig.connect();
    rig.set_window(client, Some(0));
    rig.receive(client, &[0x01, 0x91, verb::CLOSE, 0x02, 0x03]);
    assert_eq!(rig.frames(), 2, "what comes behind is not dispatched");
    rig.receive(client, &[0x04]);
    assert_eq!(rig.frames(), 2);
    assert_eq!(rig.memory_held(), 3, "nor is it kept");
    assert!(!rig.is_shut(client), "the reply is not taken yet");
    rig.set_window(client, None);
    assert_eq!(rig.take_sent(client), [0x01, 0x91, verb::CLOSE]);
    assert!(rig.is_shut(client));
    assert_eq!(
        rig.reasons(),
        ["the service ended the connection: asked to"]
    );
    rig.assert_empty(&[client]);
}

#[test]
fn a_peer_that_ends_while_its_last_reply_is_on_its_way_is_not_waited_for() {
    let mut rig = Rig::new();
    let client = rig.connect();
    rig.set_window(client, Some(0));
    rig.receive(client, &[0x91, verb::CLOSE]);
    rig.end(client);
    assert!(rig.is_open(client));
    rig.set_window(client, None);
    assert_eq!(rig.take_sent(client), [0x91, verb::CLOSE]);
    rig.assert_empty(&[client]);
}

#[test]
fn what_the_peer_sends_after_our_end_is_discarded_until_it_ends() {
    let mut rig = Rig::new();
    let client = rig.connect();
    rig.keep_open(client);
    rig.receive(client, &[0x91, verb::CLOSE]);
    assert!(rig.is_shut(client) && rig.is_open(client));
    for _ in 0..100 {
        assert!(rig.receive(client, &vec![0xc1; 10_000]), "it is read");
    }
    assert_eq!(rig.memory_held(), 0);
    assert_eq!(rig.frames(), 1);
    rig.end(client);
    rig.assert_empty(&[client]);
    let counters = rig.counters();
    assert_eq!((counters.ended_by_service, counters.bad_input), (1, 0));
}

#[test]
fn a_reset_after_our_end_does_not_change_the_reason() {
    let mut rig = Rig::new();
    let client = rig.connect();
    rig.keep_open(client);
    rig.receive(client, &[0x91, verb::CLOSE]);
    rig.reset(client);
    assert_eq!(
        rig.reasons(),
        ["the service ended the connection: asked to"]
    );
    assert_eq!(rig.counters().failed, 0);
    rig.assert_empty(&[client]);
}

#[test]
fn a_greeting_is_sent_before_anything_is_received() {
    let mut rig = Rig::with_manner(Manner {
        greeting: b"\xa5hello",
        ..Manner::default()
    });
    let client = rig.connect();
    assert_eq!(rig.take_sent(client), b"\xa5hello");
    rig.receive(client, &[1]);
    assert_eq!(rig.take_sent(client), [1]);
}

#[test]
fn a_refusal_follows_its_greeting() {
    let mut rig = Rig::with_manner(Manner {
        greeting: b"\xa4busy",
        refuses: Some("too many"),
        ..Manner::default()
    });
    let client = rig.connect();
    assert_eq!(rig.take_sent(client), b"\xa4busy");
    assert!(rig.is_shut(client));
    assert_eq!(rig.seen().connected, 1);
    assert_eq!(rig.reasons(), [""; 0], "there was no session to end");
    rig.assert_empty(&[client]);
    let counters = rig.counters();
    assert_eq!(
        (counters.opened, counters.bad_input, counters.failed),
        (1, 0, 0)
    );
}

#[test]
fn a_refused_connection_takes_no_frames() {
    let mut rig = Rig::with_manner(Manner {
        refuses: Some("no"),
        ..Manner::default()
    });
    let client = rig.connect();
    assert!(!rig.receive(client, &[1]) || !rig.is_open(client));
    assert_eq!(rig.frames(), 0);
}

#[test]
fn every_session_ends_once_with_its_own_reason() {
    let mut rig = Rig::new();
    let clients: Vec<_> = (0..5).map(|_| rig.connect()).collect();
    rig.end(clients[3]);
    rig.receive(clients[1], &[0xc1]);
    rig.receive(clients[4], &[0x91, verb::CLOSE]);
    rig.reset(clients[0]);
    rig.stop();
    rig.assert_empty(&clients);
    for client in &clients {
        rig.end(*client);
        rig.reset(*client);
        assert!(!rig.receive(*client, &[1]) || rig.unread(*client) == 0);
    }
    let seen = rig.seen();
    let ends: Vec<(usize, &str)> = seen.ends.iter().map(|(n, why)| (*n, &why[..])).collect();
    assert_eq!(
        ends,
        [
            (3, FINISHED),
            (
                1,
                "the input is not acceptable msgpack: not msgpack: the reserved byte 0xc1 (at byte 0 of the frame)"
            ),
            (4, "the service ended the connection: asked to"),
            (0, RESET),
            (2, "the server stops"),
        ]
    );
}
