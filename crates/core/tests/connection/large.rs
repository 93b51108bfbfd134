//! Frames that announce so much that they are received straight into a buffer of their own.

use ringhold_core::limits::Limits;

use crate::service::{Manner, Rig, array, bin, verb};

/// From this announced size on; see `connection.rs`.
const LARGE: usize = 64 * 1024;

/// Sends `stream` in pieces of these sizes, again and again; the replies must be the stream.
#[track_caller]
fn check(stream: &[u8], sizes: &[usize]) {
    let mut rig = Rig::new();
    let client = rig.connect();
    let mut rest = stream;
    for size in sizes.iter().cycle() {
        let (piece, tail) = rest.split_at((*size).min(rest.len()));
        assert!(rig.receive(client, piece));
        rest = tail;
        if rest.is_empty() {
            break;
        }
    }
    assert!(rig.take_sent(client) == stream, "the replies differ");
    assert_eq!(rig.memory_held(), 0);
    assert_eq!(rig.counters().bytes_in, stream.len() as u64);
    assert_eq!(rig.counters().bytes_out, stream.len() as u64);
    rig.end(client);
    rig.assert_empty(&[client]);
}

#[test]
fn sizes_around_the_threshold() {
    for length in LARGE - 10..=LARGE + 10 {
        let stream = [bin(length, 1), vec![0x2a], bin(length, 2)].concat();
        check(&stream, &[stream.len()]);
        check(&stream, &[1, 16 * 1024]);
        check(&stream, &[5, length, 6]);
        check(&stream, &[7, length - 2, 6]);
        check(&stream, &[4096]);
    }
}

#[test]
fn input_that_trickles() {
    let stream = [bin(200_000, 1), array(&[&[1], &bin(100_000, 2)])].concat();
    check(&stream, &[1, 2, 3]);
    check(&stream, &[97]);
    check(&stream, &[100_000, 1]);
}

#[test]
fn a_frame_that_ends_with_a_piece_and_one_that_ends_a_byte_before_or_behind_it() {
    let frame = bin(150_000, 1);
    let stream = [frame.clone(), frame.clone(), vec![0x01], frame.clone()].concat();
    for off in [0, 1, 2, 5, 6] {
        check(&stream, &[frame.len() + off]);
        check(&stream, &[frame.len() - off]);
        check(&stream, &[10, frame.len() - 10 + off]);
        check(&stream, &[10, frame.len() - 10 - off]);
    }
}

#[test]
fn an_array_of_several_large_binaries() {
    let frame = array(&[
        &[0x11],
        &bin(100_000, 1),
        b"\xa3mid",
        &bin(70_000, 2),
        &bin(10, 3),
        &bin(1_000_000, 4),
        &[0xc0],
    ]);
    let stream = [frame.clone(), vec![0x90], frame].concat();
    for sizes in [
        &[stream.len()][..],
        &[16 * 1024],
        &[65_536],
        &[100_008, 1],
        &[33, 262_144, 9],
    ] {
        check(&stream, sizes);
    }
}

#[test]
fn many_objects_announced_at_once_are_a_large_frame_too() {
    // 100000 nils: as many bytes are missing as objects are due.
    let mut frame = vec![0xdd];
    frame.extend_from_slice(&100_000u32.to_be_bytes());
    frame.extend(vec![0xc0; 100_000]);
    let stream = [frame.clone(), frame].concat();
    for sizes in [&[stream.len()][..], &[4096], &[5, 100_000], &[50_000, 3]] {
        check(&stream, sizes);
    }
}

#[test]
fn more_than_is_announced_at_first() {
    // Every object announces the next ones: the frame grows while it is received into its own buffer.
    let mut frame = vec![0xdc, 0, 3];
    frame.extend(bin(80_000, 1));
    frame.extend([0x92]);
    frame.extend(bin(80_000, 2));
    frame.extend([0xdc, 0, 2]);
    frame.extend(bin(300_000, 3));
    frame.extend(bin(80_000, 4));
    frame.extend([0x81, 0x01]);
    frame.extend(bin(90_000, 5));
    for sizes in [&[frame.len()][..], &[1000], &[80_008], &[80_009, 80_000]] {
        check(&frame, sizes);
    }
}

#[test]
fn memory_follows_what_arrives_and_not_what_is_announced() {
    let mut rig = Rig::new();
    let client = rig.connect();
    let frame = bin(10_000_000, 1);
    rig.receive(client, &frame[..100]);
    assert!(rig.memory_held() >= 100);
    assert!(rig.memory_held() < 1_000_000, "{}", rig.memory_held());
    rig.receive(client, &frame[100..2_000_000]);
    assert!(rig.memory_held() >= 2_000_000);
    assert!(rig.memory_held() <= 5_000_000, "{}", rig.memory_held());
    rig.receive(client, &frame[2_000_000..]);
    assert_eq!(rig.memory_held(), 0);
    assert!(rig.take_sent(client) == frame);
}

#[test]
fn pieces_that_arrive_unasked_while_a_large_frame_is_received() {
    // The shared receive was under way when the connection asked for the other kind.
    let stream = [bin(200_000, 1), vec![0x01], bin(200_000, 2)].concat();
    let mut rig = Rig::new();
    let client = rig.connect();
    for (i, piece) in stream.chunks(30_011).enumerate() {
        if i % 3 == 1 {
            assert!(rig.receive_unasked(client, piece));
        } else {
            assert!(rig.receive(client, piece));
        }
    }
    assert!(rig.take_sent(client) == stream);
}

#[test]
fn the_end_of_a_large_frame_that_arrives_as_its_connection_pauses() {
    let frame = array(&[&[verb::KEEP], &bin(100_000, 1)]);
    for at in [80_000, frame.len() - 20_000, frame.len() - 1] {
        let mut rig = Rig::with(limits(), pushing());
        let client = rig.connect();
        rig.set_window(client, Some(0));
        rig.receive(client, &frame[..20_000]);
        rig.receive(client, &frame[20_000..at]);
        rig.seen().handles[0].push(vec![7; 6000]).unwrap();
        rig.deliver();
        assert!(!rig.reads(client));
        assert!(rig.receive_unasked(client, &frame[at..]));
        assert_eq!(rig.frames(), 0, "nothing is dispatched while paused");
        rig.set_window(client, None);
        assert_eq!(rig.frames(), 1);
        assert!(rig.seen().kept[0] == frame);
        assert_eq!(rig.memory_held(), 0);
    }
    let mut rig = Rig::with(limits(), pushing());
    let client = rig.connect();
    rig.set_window(client, Some(0));
    rig.receive(client, &frame[..20_000]);
    rig.seen().handles[0].push(vec![7; 6000]).unwrap();
    // The push is delivered first.
    rig.receive(client, &frame[20_000..]);
    let rest = frame.len() - 20_000;
    assert_eq!((rig.frames(), rig.unread(client)), (0, rest));
    rig.set_window(client, None);
    assert_eq!(rig.frames(), 1);
}

/// An outbox of which 5000 bytes are the half.
fn limits() -> Limits {
    Limits {
        outbox_bytes: 10_000,
        ..Limits::default()
    }
}

fn pushing() -> Manner {
    Manner {
        makes_handles: true,
        ..Manner::default()
    }
}

#[test]
fn a_push_that_pauses_in_the_middle_of_a_large_frame() {
    let mut rig = Rig::with(limits(), pushing());
    let client = rig.connect();
    let frame = array(&[&[verb::KEEP], &bin(200_000, 1)]);
    rig.set_window(client, Some(0));
    rig.receive(client, &frame[..50_000]);
    rig.receive(client, &frame[50_000..100_000]);
    rig.seen().handles[0].push(vec![7; 6000]).unwrap();
    rig.deliver();
    assert!(!rig.reads(client));
    assert!(rig.receive_unasked(client, &frame[100_000..150_000]));
    assert!(rig.receive_unasked(client, &frame[150_000..]));
    assert!(rig.receive_unasked(client, &[0x2a]));
    assert_eq!(rig.frames(), 0, "nothing is dispatched while paused");
    rig.set_window(client, None);
    assert_eq!(rig.take_sent(client), [vec![7; 6000], vec![0x2a]].concat());
    assert_eq!(rig.frames(), 2);
    assert!(rig.seen().kept[0] == frame);
    assert_eq!(rig.memory_held(), 0);
}
