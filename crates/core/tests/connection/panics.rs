//! A service that panics loses the connection whose call it was, and nothing else.

use crate::service::{BEFORE_PANIC, Manner, Rig, array, bin, defer, verb};

const PANICKED: &str = "the service panicked";

fn panicking(call: &'static str, connection: usize) -> Rig {
    Rig::with_manner(Manner {
        panics_in: Some((call, connection)),
        greeting: b"\xa2hi",
        apology: Some(0x55),
        ..Manner::default()
    })
}

#[test]
fn in_connected() {
    let mut rig = panicking("connected", 1);
    let clients: Vec<_> = (0..3).map(|_| rig.connect()).collect();
    for client in &clients {
        assert_eq!(
            rig.take_sent(*client),
            b"\xa2hi",
            "what was written is sent"
        );
    }
    assert!(rig.is_shut(clients[1]));
    assert_eq!(rig.reasons(), [""; 0], "there was no session");
    for i in [0, 2] {
        rig.receive(clients[i], &[7]);
        assert_eq!(rig.take_sent(clients[i]), [7]);
        rig.end(clients[i]);
    }
    rig.assert_empty(&clients);
    let counters = rig.counters();
    assert_eq!(
        (counters.panics, counters.opened, counters.frames_in),
        (1, 3, 2)
    );
}

#[test]
fn in_frame_every_whole_reply_is_sent_and_no_half_one() {
    let stream = [&[1, 2][..], &[0x91, verb::PANIC], &[3, 4]].concat();
    for split in 0..=stream.len() {
        let mut rig = Rig::new();
        let [bad, good] = [rig.connect(), rig.connect()];
        rig.receive(good, &bin(100, 1)[..50]);
        rig.receive(bad, &stream[..split]);
        rig.receive(bad, &stream[split..]);
        assert_eq!(rig.take_sent(bad), [1, 2, BEFORE_PANIC]);
        assert!(rig.is_shut(bad));
        rig.receive(good, &bin(100, 1)[50..]);
        assert_eq!(rig.take_sent(good), bin(100, 1));
        rig.end(good);
        rig.assert_empty(&[bad, good]);
        assert_eq!(rig.reasons(), [PANICKED, "the peer ended the connection"]);
        let counters = rig.counters();
        assert_eq!((counters.panics, counters.bad_input), (1, 0));
        assert_eq!(
            counters.frames_in, 4,
            "the one that panicked is one of them"
        );
    }
}

#[test]
fn in_a_frame_that_was_carried_over_or_received_into_its_own_buffer() {
    for size in [100, 50_000, 300_000] {
        let mut rig = Rig::new();
        let client = rig.connect();
        let frame = array(&[&[verb::PANIC], &bin(size, 1)]);
        for piece in frame.chunks(size / 3) {
            rig.receive(client, piece);
        }
        assert_eq!(rig.take_sent(client), [BEFORE_PANIC]);
        assert_eq!((rig.counters().panics, rig.counters().frames_in), (1, 1));
        rig.assert_empty(&[client]);
    }
}

#[test]
fn in_a_frame_that_had_to_wait() {
    let mut rig = Rig::new();
    let client = rig.connect();
    let mut stream = vec![1; 5000];
    stream.extend([0x91, verb::PANIC, 2]);
    rig.receive(client, &stream);
    let mut expected = vec![1; 5000];
    expected.push(BEFORE_PANIC);
    assert_eq!(rig.take_sent(client), expected);
    assert_eq!((rig.counters().panics, rig.counters().frames_in), (1, 5001));
    rig.assert_empty(&[client]);
}

#[test]
fn in_frame_with_open_tickets() {
    let mut rig = panicking("", 0);
    let client = rig.connect();
    rig.receive(client, &[&defer(1)[..], &[0x91, verb::PANIC]].concat());
    rig.let_go();
    assert_eq!(
        rig.take_sent(client),
        [&b"\xa2hi"[..], &[BEFORE_PANIC]].concat()
    );
    assert_eq!(rig.seen().abandoned, []);
    rig.assert_empty(&[client]);
}

#[test]
fn in_abandoned() {
    let mut rig = panicking("abandoned", 0);
    let clients = [rig.connect(), rig.connect()];
    for client in clients {
        rig.receive(client, &[defer(1), defer(2)].concat());
        rig.take_sent(client);
    }
    rig.let_go();
    assert_eq!(rig.take_sent(clients[0]), []);
    assert_eq!(rig.take_sent(clients[1]), [0x55, 1, 0x55, 2]);
    assert_eq!(rig.reasons(), [PANICKED]);
    assert_eq!(rig.counters().panics, 1);
    assert_eq!(rig.counters().abandoned, 3);
    rig.end(clients[1]);
    rig.assert_empty(&clients);
}

#[test]
fn in_abandoned_while_stopping() {
    let mut rig = panicking("abandoned", 0);
    let clients = [rig.connect(), rig.connect()];
    for client in clients {
        rig.receive(client, &[defer(1), defer(2)].concat());
        rig.take_sent(client);
    }
    rig.stop();
    assert_eq!(rig.take_sent(clients[0]), []);
    assert_eq!(rig.take_sent(clients[1]), [0x55, 1, 0x55, 2]);
    assert_eq!(rig.counters().panics, 1);
    rig.assert_empty(&clients);
    rig.let_go();
}

#[test]
fn in_disconnected() {
    let mut rig = panicking("disconnected", 1);
    let clients: Vec<_> = (0..3).map(|_| rig.connect()).collect();
    for client in &clients {
        rig.receive(*client, &[9]);
        rig.end(*client);
    }
    assert_eq!(rig.reasons().len(), 3);
    assert_eq!(rig.counters().panics, 1);
    rig.assert_empty(&clients);
}

#[test]
fn the_service_goes_on_after_many_panics() {
    let mut rig = Rig::new();
    for round in 1..=50 {
        let client = rig.connect();
        rig.receive(client, &[1, 0x91, verb::PANIC]);
        assert_eq!(rig.take_sent(client), [1, BEFORE_PANIC]);
        rig.assert_empty(&[client]);
        assert_eq!(rig.counters().panics, round);
    }
}
