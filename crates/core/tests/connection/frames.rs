//! Frames in every kind of pieces.

use ringhold_core::Flow;
use ringhold_core::testing::Exchange;

use crate::answering::answering;
use crate::service::{Rig, array, bin, pattern, verb};

/// Frames of every shape, small enough to be split everywhere.
fn sample() -> Vec<Vec<u8>> {
    vec![
        vec![0xc0],
        vec![0x7f],
        vec![0xcd, 0x12, 0x34],
        vec![0xcb, 1, 2, 3, 4, 5, 6, 7, 8],
        b"\xa5hello".to_vec(),
        b"\xd9\x03abc".to_vec(),
        b"\xda\x00\x02ok".to_vec(),
        vec![0x90],
        vec![0x80],
        array(&[
            &[1],
            &[0x92, 2, 0x91, 3],
            b"\xa1x",
            &[0x81, 0xa1, b'k', 0xc3],
        ]),
        vec![0xd4, 5, 0xff],
        vec![0xc7, 3, 9, 7, 7, 7],
        vec![0xdc, 0, 3, 0xc2, 0xc3, 0xc0],
        vec![0xde, 0, 1, 0xa1, b'k', 0x91, 0xc0],
        vec![0xdd, 0, 0, 0, 2, 0x90, 0xdc, 0, 1, 0xdb, 0, 0, 0, 1, b'!'],
        bin(40, 0xc1),
        vec![0x91; 30].into_iter().chain([0xc0]).collect(),
        vec![0x00],
    ]
}

/// Sends `pieces` to a new connection, which must answer `expected` and nothing else.
#[track_caller]
fn check<'p>(rig: &mut Rig, pieces: impl IntoIterator<Item = &'p [u8]>, expected: &[Vec<u8>]) {
    let before = rig.frames();
    let client = rig.connect();
    for piece in pieces {
        assert!(rig.receive(client, piece) || piece.is_empty());
    }
    let frames: Vec<Vec<u8>> = rig.seen().frames[before..]
        .iter()
        .map(|(_, frame)| frame.clone())
        .collect();
    assert_eq!(frames, expected);
    assert_eq!(rig.take_sent(client), expected.concat());
    rig.end(client);
    assert!(!rig.is_open(client));
    assert_eq!(rig.memory_held(), 0);
}

#[test]
fn a_frame_in_one_piece() {
    let mut rig = Rig::new();
    for frame in sample() {
        check(&mut rig, [&frame[..]], std::slice::from_ref(&frame));
    }
    assert!(
        rig.reasons()
            .iter()
            .all(|why| why == "the peer ended the connection")
    );
}

#[test]
fn many_frames_in_one_piece() {
    let frames = sample();
    check(&mut Rig::new(), [&frames.concat()[..]], &frames);
}

#[test]
fn two_pieces_split_at_every_byte() {
    let frames = sample();
    let stream = frames.concat();
    let mut rig = Rig::new();
    for at in 0..=stream.len() {
        let (head, tail) = stream.split_at(at);
        check(&mut rig, [head, tail], &frames);
    }
}

#[test]
fn three_pieces_split_at_every_pair_of_bytes() {
    let frames: Vec<Vec<u8>> = sample().split_off(9);
    let stream = frames.concat();
    let mut rig = Rig::new();
    for from in 0..=stream.len() {
        for to in from..=stream.len() {
            let pieces = [&stream[..from], &stream[from..to], &stream[to..]];
            check(&mut rig, pieces, &frames);
        }
    }
}

#[test]
fn byte_by_byte() {
    let frames = sample();
    check(&mut Rig::new(), frames.concat().chunks(1), &frames);
}

#[test]
fn one_frame_over_two_and_over_twenty_pieces() {
    let frame = array(&[&[1], &bin(10_000, 1), &bin(20_000, 2), b"\xa3end"]);
    let mut rig = Rig::new();
    for count in [2, 20] {
        let size = frame.len().div_ceil(count);
        assert_eq!(frame.chunks(size).count(), count);
        check(&mut rig, frame.chunks(size), std::slice::from_ref(&frame));
    }
}

#[test]
fn a_frame_and_a_half_in_every_piece() {
    let frame = array(&[&[9], &bin(1000, 3), &[0xc0]]);
    let frames = vec![frame.clone(); 60];
    let stream = frames.concat();
    check(&mut Rig::new(), stream.chunks(frame.len() * 3 / 2), &frames);
}

#[test]
fn ten_thousand_pipelined_frames_are_answered_in_order() {
    let frames: Vec<Vec<u8>> = (0..10_000u32)
        .map(|i| {
            let mut frame = vec![0x92, 0x1f, 0xce];
            frame.extend_from_slice(&i.to_be_bytes());
            frame
        })
        .collect();
    let stream = frames.concat();
    let mut rig = Rig::new();
    check(&mut rig, [&stream[..]], &frames);
    check(&mut rig, stream.chunks(16 * 1024), &frames);
    assert_eq!(rig.counters().frames_in, 20_000);
}

#[test]
fn a_burst_beyond_the_budget_of_a_turn_is_answered_in_order() {
    // A budget counts frames, and these have one byte each. The pieces behind the first one find it waiting.
    let frames: Vec<Vec<u8>> = (0..150_000u32).map(|i| vec![(i % 127) as u8]).collect();
    let stream = frames.concat();
    let mut rig = Rig::new();
    let client = rig.connect();
    for piece in stream.chunks(10_007) {
        rig.receive_unasked(client, piece);
    }
    assert_eq!(rig.take_sent(client), stream);
    let mut rig = Rig::new();
    check(&mut rig, [&stream[..]], &frames);
}

#[test]
fn a_burst_on_one_connection_does_not_hold_up_another() {
    let mut rig = Rig::new();
    let [busy, other] = [rig.connect(), rig.connect()];
    rig.receive(busy, &vec![1; 20_000]);
    rig.receive(other, &[2]);
    assert_eq!(rig.take_sent(busy), vec![1; 20_000]);
    assert_eq!(rig.take_sent(other), [2]);
    rig.end(busy);
    rig.end(other);
    rig.assert_empty(&[busy, other]);
}

#[test]
fn a_burst_is_dispatched_in_shares_of_a_turn() {
    // What is pushed within a call is delivered between two turns: the position of the pushed byte in the replies
    // shows where the turn ended.
    let mut rig = Rig::new();
    let client = rig.connect();
    let mut stream = vec![0x92, verb::PUSH, 0x63];
    stream.extend(vec![1; 40_000]);
    rig.receive(client, &stream);
    let sent = rig.take_sent(client);
    assert_eq!(sent.len(), stream.len() + 1);
    let position = sent.iter().rposition(|byte| *byte == 0x63).unwrap();
    assert!(position > 3 && position < 40_000, "{position}");
}

#[test]
fn kept_frames_outlive_the_call_and_the_connection() {
    let mut rig = Rig::new();
    let client = rig.connect();
    let small = array(&[&[verb::KEEP], b"\xa3key"]);
    let medium = array(&[&[verb::KEEP], &bin(3000, 1)]);
    let carried = array(&[&[verb::KEEP], &bin(50_000, 2)]);
    let large = array(&[&[verb::KEEP], &bin(300_000, 3)]);
    let frames = [small, medium, carried, large];
    let stream = frames.concat();
    for size in [stream.len(), 4096, 70_000] {
        for piece in stream.chunks(size) {
            rig.receive(client, piece);
        }
        // What comes behind may use the same memory again.
        rig.receive(client, &bin(100_000, 0xee));
        for piece in bin(400_000, 0xdd).chunks(5000) {
            rig.receive(client, piece);
        }
    }
    rig.end(client);
    rig.assert_empty(&[client]);
    let seen = rig.seen();
    assert_eq!(seen.kept.len(), 12);
    for (i, kept) in seen.kept.iter().enumerate() {
        assert!(kept[..] == frames[i % 4], "kept frame {i} has changed");
    }
}

#[test]
fn shared_replies_and_written_ones_keep_their_order() {
    let mut rig = Rig::new();
    let client = rig.connect();
    let mut expected = Vec::new();
    for (i, length) in [10, 600, 5, 5000, 511, 512, 513, 100_000, 1]
        .into_iter()
        .enumerate()
    {
        expected.extend(array(&[&[verb::SHARE], &bin(length, i as u8)]));
        expected.extend([0x91, i as u8 + 0x10]);
    }
    for piece in expected.chunks(777) {
        rig.receive(client, piece);
    }
    assert!(rig.take_sent(client) == expected);
}

#[test]
fn connections_do_not_mix() {
    let frame = |client: u8, i: u8| array(&[&[0x20, client, i], &bin(100 + i as usize, client)]);
    let mut rig = Rig::new();
    let clients: Vec<_> = (0..20).map(|_| rig.connect()).collect();
    let streams: Vec<Vec<u8>> = (0..20)
        .map(|client| (0..20).flat_map(|i| frame(client, i)).collect())
        .collect();
    let mut at = [0; 20];
    for step in 1.. {
        for (i, client) in clients.iter().enumerate() {
            let size = ((step * 37 + i * 11) % 90).min(streams[i].len() - at[i]);
            rig.receive(*client, &streams[i][at[i]..at[i] + size]);
            at[i] += size;
        }
        if at
            .iter()
            .zip(&streams)
            .all(|(at, stream)| *at == stream.len())
        {
            break;
        }
    }
    for (client, stream) in clients.iter().zip(&streams) {
        assert!(rig.take_sent(*client) == *stream);
        rig.end(*client);
    }
    rig.assert_empty(&clients);
}

#[test]
fn an_idle_connection_holds_no_memory() {
    let mut rig = Rig::new();
    let client = rig.connect();
    assert_eq!(rig.memory_held(), 0);
    rig.receive(client, &bin(1000, 1)[..600]);
    assert!(rig.memory_held() >= 600, "a partial frame is held");
    rig.receive(client, &bin(1000, 1)[600..]);
    assert_eq!(rig.memory_held(), 0, "a whole one is not");
    rig.set_window(client, Some(10));
    rig.receive(client, &bin(1000, 1));
    assert!(rig.memory_held() >= 995, "a reply on its way is held");
    rig.set_window(client, None);
    assert_eq!(rig.memory_held(), 0);
    let echoed = rig.take_sent(client);
    assert_eq!(echoed.len(), 2 * 1005);
    assert_eq!(echoed[6..1005], pattern(1000)[1..]);
}

#[test]
fn what_is_encoded_halfway_is_taken_back() {
    let service = answering(|frame, reply| {
        reply.write(|out| out.push(1));
        let written = reply.try_write(|out| {
            out.extend_from_slice(&frame);
            match frame.len() {
                1 => Ok(out.len()),
                _ => Err("half"),
            }
        });
        reply.write(|out| out.push(written.map_or(0x7e, |length| length as u8)));
        Flow::Continue
    });
    let mut exchange = Exchange::new(service);
    let client = exchange.connect();
    exchange.receive(client, &[0x05, 0x91, 0x06, 0x07]);
    assert_eq!(exchange.take_sent(client), [1, 5, 2, 1, 0x7e, 1, 7, 7]);
}
