//! Peers that do not read what they asked for.

use std::time::Duration;

use ringhold_core::PushError;
use ringhold_core::limits::Limits;
use ringhold_core::testing::Client;

use crate::service::{Manner, Rig, ask, bin, defer, pattern};

const OVERFLOW: &str = "more was pushed to the connection than outbox_bytes allows";

fn limits(outbox_bytes: usize) -> Limits {
    Limits {
        outbox_bytes,
        ..Limits::default()
    }
}

/// With handles, and an outbox of 10000 bytes: dispatch stops above 5000 and goes on at 2500.
fn rig() -> Rig {
    let manner = Manner {
        makes_handles: true,
        ..Manner::default()
    };
    Rig::with(limits(10_000), manner)
}

/// With a client that reads nothing for now.
fn deaf() -> (Rig, Client) {
    let mut rig = rig();
    let client = rig.connect();
    rig.set_window(client, Some(0));
    (rig, client)
}

/// `count` frames of 1000 bytes each that tell their number.
fn thousands(count: u8) -> Vec<u8> {
    (0..count).flat_map(|i| bin(995, i)).collect()
}

fn push(rig: &mut Rig, bytes: Vec<u8>) -> Result<(), PushError> {
    let handle = rig.seen().handles[0].clone();
    let pushed = handle.push(bytes);
    rig.deliver();
    pushed
}

/// Lets the client read everything, in steps of `step` bytes.
fn read_all(rig: &mut Rig, client: Client, step: usize) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        rig.set_window(client, Some(step));
        let some = rig.take_sent(client);
        if some.is_empty() {
            return all;
        }
        all.extend(some);
    }
}

#[test]
fn dispatch_stops_in_mid_buffer_above_half_of_the_outbox() {
    let (mut rig, client) = deaf();
    let stream = thousands(60);
    assert!(rig.receive(client, &stream), "all in one buffer");
    assert_eq!(
        rig.frames(),
        6,
        "the sixth reply is the one above 5000 bytes"
    );
    assert!(!rig.reads(client));
    assert_eq!(rig.counters().pauses, 1);
    // At most a quarter of the outbox must be left before it goes on.
    rig.set_window(client, Some(3499));
    assert_eq!(rig.frames(), 6);
    rig.set_window(client, Some(1));
    assert_eq!(rig.frames(), 9, "2500 and three times 1000 bytes");
    assert_eq!(rig.counters().pauses, 2);
    let mut sent = rig.take_sent(client);
    sent.extend(read_all(&mut rig, client, 777));
    assert!(sent == stream, "nothing is lost, nothing is out of order");
    assert_eq!(rig.frames(), 60);
    assert!(rig.reads(client));
    rig.set_window(client, None);
    rig.end(client);
    rig.assert_empty(&[client]);
}

#[test]
fn exactly_half_of_the_outbox_does_not_pause() {
    let (mut rig, client) = deaf();
    rig.receive(client, &thousands(5));
    assert!(rig.reads(client));
    rig.receive(client, &[1]);
    assert!(!rig.reads(client));
    assert_eq!(rig.counters().pauses, 1);
}

/// `count` frames of 10,000 bytes each.
fn ten_thousands(count: usize) -> Vec<u8> {
    (0..count).flat_map(|i| bin(9_997, i as u8)).collect()
}

/// With an outbox of 8 MiB, and a client that has asked for 7 MB and does not read.
fn greedy() -> (Rig, Client, Vec<u8>) {
    let mut rig = Rig::with(limits(8 << 20), Manner::default());
    let client = rig.connect();
    rig.set_window(client, Some(0));
    let stream = ten_thousands(700);
    assert!(rig.receive(client, &stream));
    (rig, client, stream)
}

#[test]
fn who_reads_is_not_served_far_ahead() {
    let (mut rig, client, stream) = greedy();
    assert_eq!(rig.frames(), 53, "the first ones above 512 KiB");
    assert!(!rig.reads(client));
    // Not before 256 KiB are left.
    rig.set_window(client, Some(267_000));
    assert_eq!(rig.frames(), 53);
    rig.set_window(client, Some(1_000));
    assert_eq!(rig.frames(), 80);
    let mut sent = rig.take_sent(client);
    sent.extend(read_all(&mut rig, client, 77_777));
    assert!(sent == stream, "nothing is lost, nothing is out of order");
    assert_eq!(rig.counters().pauses, 0, "it has never not read");
    assert!(rig.reads(client));
    rig.end(client);
    rig.assert_empty(&[client]);
}

#[test]
fn who_writes_everything_before_it_reads_is_served_up_to_half_of_the_outbox() {
    let (mut rig, client, stream) = greedy();
    rig.advance(Duration::from_millis(9));
    assert_eq!(rig.frames(), 53);
    rig.advance(Duration::from_millis(50));
    assert_eq!(rig.frames(), 420, "the first ones above 4 MiB");
    assert_eq!(rig.counters().pauses, 1);
    rig.advance(Duration::from_millis(1000));
    assert_eq!(rig.frames(), 420);
    assert!(read_all(&mut rig, client, 300_000) == stream);
    assert!(rig.reads(client));
    rig.end(client);
    rig.assert_empty(&[client]);
}

#[test]
fn who_reads_a_little_is_waited_for_again() {
    let (mut rig, client, _) = greedy();
    for _ in 0..10 {
        rig.advance(Duration::from_millis(9));
        rig.set_window(client, Some(1));
        assert_eq!(rig.frames(), 53);
    }
    rig.advance(Duration::from_millis(50));
    assert_eq!(rig.frames(), 420);
}

#[test]
fn what_a_paused_connection_does_not_read_waits_in_its_socket() {
    let (mut rig, client) = deaf();
    let stream = thousands(100);
    for piece in stream.chunks(1500) {
        rig.receive(client, piece);
    }
    let waiting = rig.unread(client);
    assert!(waiting >= 90_000, "{waiting}");
    rig.end(client);
    assert!(rig.is_open(client), "the end comes behind what is unread");
    let sent = read_all(&mut rig, client, 2100);
    assert!(sent == stream);
    assert_eq!(rig.unread(client), 0);
    assert_eq!(rig.reasons(), ["the peer ended the connection"]);
    rig.assert_empty(&[client]);
}

#[test]
fn what_arrives_unasked_waits_its_turn() {
    let (mut rig, client) = deaf();
    let stream = thousands(100);
    for piece in stream.chunks(1499) {
        assert!(rig.receive_unasked(client, piece));
    }
    assert_eq!(rig.frames(), 6);
    assert!(rig.memory_held() >= 100_000);
    assert!(read_all(&mut rig, client, 5000) == stream);
    assert_eq!(rig.memory_held(), 0);
    rig.end(client);
    rig.assert_empty(&[client]);
}

#[test]
fn a_frame_that_is_incomplete_when_dispatch_stops_is_completed_later() {
    let stream = thousands(30);
    // The piece that pauses ends at every place of the frame behind.
    for at in (6000..7000).step_by(3) {
        let (mut rig, client) = deaf();
        rig.receive(client, &stream[..at]);
        for piece in stream[at..].chunks(2500) {
            rig.receive_unasked(client, piece);
        }
        rig.set_window(client, None);
        assert!(rig.take_sent(client) == stream, "split at {at}");
    }
}

#[test]
fn a_push_that_pauses_in_mid_frame() {
    // The beginning of a frame is parked when a push, not a reply, stops dispatch.
    let frame = bin(2000, 1);
    for at in [1, 4, 100, 2004] {
        let (mut rig, client) = deaf();
        rig.receive(client, &frame[..at]);
        push(&mut rig, vec![7; 6000]).unwrap();
        assert!(!rig.reads(client));
        assert!(rig.receive_unasked(client, &frame[at..]));
        assert!(rig.receive_unasked(client, &[0x2a]));
        // This is read in the turn in which dispatch goes on, before the rest is dispatched.
        assert!(!rig.receive(client, &[0x2b, 0xc1]));
        assert_eq!(rig.frames(), 0);
        assert!(rig.is_open(client), "0xc1 is not looked at yet");
        rig.set_window(client, None);
        assert!(rig.take_sent(client) == [&[7; 6000][..], &frame, &[0x2a, 0x2b]].concat());
        assert_eq!(rig.counters().bad_input, 1);
        rig.assert_empty(&[client]);
    }
}

#[test]
fn bad_input_behind_a_parked_frame_that_had_to_wait() {
    let (mut rig, client) = deaf();
    rig.receive(client, &[0x93, 1]);
    push(&mut rig, vec![7; 6000]).unwrap();
    rig.receive_unasked(client, &[2, 0xc1, 3, 4, 5]);
    rig.set_window(client, Some(5000));
    assert!(rig.is_open(client), "the rest of the push is on its way");
    assert_eq!(rig.counters().bad_input, 1);
    assert_eq!(rig.memory_held(), 6000, "the input is not held any more");
    rig.set_window(client, None);
    assert_eq!(rig.take_sent(client), vec![7; 6000]);
    assert_eq!(rig.counters().bad_input, 1);
    assert_eq!(rig.counters().panics, 0);
    rig.assert_empty(&[client]);
}

#[test]
fn pauses_by_pushes_and_answers_are_counted_too() {
    let (mut rig, client) = deaf();
    push(&mut rig, vec![1; 6000]).unwrap();
    assert!(!rig.reads(client));
    assert_eq!(rig.counters().pauses, 1);
    rig.set_window(client, None);
    rig.receive(client, &defer(1));
    rig.set_window(client, Some(0));
    rig.responder().answer(pattern(6000));
    rig.deliver();
    assert!(!rig.reads(client));
    assert_eq!(rig.counters().pauses, 2);
}

#[test]
fn what_waits_to_be_dispatched_is_bounded() {
    // Frames of one byte, which take many turns, behind a pause: they are not all read at once.
    let mut rig = Rig::with(
        Limits {
            memory: 400_000,
            ..limits(200_000)
        },
        Manner::default(),
    );
    let client = rig.connect();
    rig.set_window(client, Some(0));
    rig.receive(client, &ask(150_000));
    for _ in 0..16 {
        rig.receive(client, &[1; 50_000]);
    }
    assert_eq!(rig.unread(client), 800_000);
    rig.set_window(client, None);
    assert_eq!(rig.counters().cut, 0);
    assert_eq!(rig.take_sent(client).len(), 950_000);
}

#[test]
fn one_reply_may_be_larger_than_the_outbox() {
    let (mut rig, client) = deaf();
    rig.receive(client, &[ask(100_000), vec![1]].concat());
    assert_eq!(rig.frames(), 1);
    assert!(rig.is_open(client));
    let expected = [pattern(100_000), vec![1]].concat();
    assert!(read_all(&mut rig, client, 9999) == expected);
    assert!(rig.is_open(client));
}

#[test]
fn an_answer_may_be_larger_than_the_outbox() {
    let (mut rig, client) = deaf();
    rig.receive(client, &defer(1));
    rig.responder().answer(pattern(100_000));
    rig.deliver();
    assert!(read_all(&mut rig, client, 9999) == pattern(100_000));
    assert!(rig.is_open(client));
}

#[test]
fn a_tiny_outbox_still_answers_one_frame_after_the_other() {
    for bytes in [0, 1, 2, 3] {
        let mut rig = Rig::with_limits(limits(bytes));
        let client = rig.connect();
        let stream = thousands(20);
        rig.receive(client, &stream);
        assert!(rig.take_sent(client) == stream, "{bytes}");
    }
}

#[test]
fn pushes_up_to_the_outbox_are_delivered() {
    let (mut rig, client) = deaf();
    for i in 0..10 {
        push(&mut rig, bin(995, i)).unwrap();
    }
    assert!(rig.is_open(client));
    assert!(read_all(&mut rig, client, 3000) == thousands(10));
    assert_eq!(rig.counters().cut, 0);
}

#[test]
fn handles_tell_how_far_a_peer_is_behind() {
    let (mut rig, client) = deaf();
    rig.receive(client, &bin(495, 1));
    let handle = rig.seen().handles[0].clone();
    assert_eq!(handle.unsent_bytes(), 500);
    handle.push(bin(995, 2)).unwrap();
    assert_eq!(handle.unsent_bytes(), 1500);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            handle.push(bin(995, 3)).unwrap();
            assert!((2500..2600).contains(&handle.unsent_bytes()));
        });
    });
    rig.deliver();
    assert_eq!(handle.unsent_bytes(), 2500);
    rig.set_window(client, Some(700));
    assert_eq!(handle.unsent_bytes(), 1800);
    rig.set_window(client, None);
    assert_eq!(handle.unsent_bytes(), 0);
    assert_eq!(rig.take_sent(client).len(), 2500);
}

#[test]
fn a_push_above_the_outbox_closes_and_says_so() {
    let (mut rig, client) = deaf();
    for i in 0..10 {
        push(&mut rig, bin(995, i)).unwrap();
    }
    // What the peer has not read is known to the worker only: this push is accepted, and then it is one too many.
    push(&mut rig, vec![1]).unwrap();
    assert_eq!(rig.reasons(), [OVERFLOW]);
    assert_eq!(push(&mut rig, vec![1]), Err(PushError::Overflow));
    assert!(!rig.seen().handles[0].is_open());
    assert_eq!(rig.take_sent(client), [], "nothing more is sent to it");
    assert_eq!(rig.counters().cut, 1);
    rig.assert_empty(&[client]);
}

#[test]
fn pushes_that_are_too_many_for_one_turn_say_so_at_once() {
    let mut rig = rig();
    let [slow, other] = [rig.connect(), rig.connect()];
    let handle = rig.seen().handles[0].clone();
    for i in 0..10 {
        handle.push(bin(995, i)).unwrap();
    }
    assert_eq!(handle.push(vec![1]), Err(PushError::Overflow));
    assert_eq!(handle.push(vec![1]), Err(PushError::Overflow));
    assert!(!handle.is_open());
    rig.deliver();
    assert_eq!(rig.reasons(), [OVERFLOW]);
    assert_eq!(rig.counters().cut, 1);
    rig.seen().handles[1].push(vec![2]).unwrap();
    rig.receive(other, &[3]);
    assert_eq!(rig.take_sent(other), [2, 3]);
    rig.end(other);
    rig.assert_empty(&[slow, other]);
}

#[test]
fn a_single_push_above_the_outbox_is_refused() {
    let mut rig = rig();
    let client = rig.connect();
    assert_eq!(push(&mut rig, vec![0; 10_001]), Err(PushError::Overflow));
    assert_eq!(rig.reasons(), [OVERFLOW]);
    rig.assert_empty(&[client]);
}

#[test]
fn delivered_pushes_make_room_for_others() {
    let mut rig = rig();
    let client = rig.connect();
    for round in 0..100 {
        for i in 0..10 {
            rig.seen().handles[0].push(bin(995, i)).unwrap();
        }
        rig.deliver();
        assert!(rig.take_sent(client) == thousands(10), "round {round}");
    }
    assert_eq!(rig.counters().bytes_out, 1_000_000);
}

#[test]
fn what_is_pushed_behind_a_reply_larger_than_the_outbox_has_a_limit_of_its_own() {
    let (mut rig, client) = deaf();
    rig.receive(client, &ask(20_000));
    for i in 0..10 {
        push(&mut rig, bin(995, i)).unwrap();
    }
    assert!(rig.is_open(client));
    // The reply goes first, and takes no place of theirs.
    rig.set_window(client, Some(19_000));
    push(&mut rig, vec![1]).unwrap();
    assert_eq!(rig.reasons(), [OVERFLOW]);
    rig.assert_empty(&[client]);
}

#[test]
fn pushes_that_were_read_make_room_for_others_behind_a_reply() {
    let (mut rig, client) = deaf();
    rig.receive(client, &ask(20_000));
    for i in 0..10 {
        push(&mut rig, bin(995, i)).unwrap();
    }
    rig.set_window(client, Some(25_000));
    for i in 0..5 {
        push(&mut rig, bin(995, i)).unwrap();
    }
    rig.set_window(client, None);
    let sent = rig.take_sent(client);
    assert!(sent[20_000..] == [thousands(10), thousands(5)].concat());
    assert_eq!(rig.counters().cut, 0);
    rig.end(client);
    rig.assert_empty(&[client]);
}
