//! What a frame may be.

use ringhold_core::limits::Limits;
use ringhold_core::testing::Exchange;
use ringhold_core::{Flow, Frame, Peer, Refusal, Reply, Service, TopLevel};

use crate::service::{Rig, array, bin};

fn frame_bytes(frame_bytes: usize) -> Limits {
    Limits {
        frame_bytes,
        ..Limits::default()
    }
}

#[test]
fn a_frame_of_just_the_limit_is_taken() {
    for (size, pieces) in [(100, 1), (100, 7), (100_000, 1000), (100_000, 100_000)] {
        let mut rig = Rig::with_limits(frame_bytes(size));
        let client = rig.connect();
        let frame = bin(size - 5, 1);
        for piece in frame.chunks(frame.len().div_ceil(pieces)) {
            rig.receive(client, piece);
        }
        assert!(rig.take_sent(client) == frame);
        assert!(rig.is_open(client));
    }
}

#[test]
fn a_larger_one_is_refused_as_soon_as_its_header_says_so() {
    for size in [100, 100_000] {
        let mut rig = Rig::with_limits(frame_bytes(size));
        let client = rig.connect();
        let frame = [&[0x2a][..], &bin(size - 4, 1)].concat();
        rig.receive(client, &frame[..5]);
        assert!(rig.is_open(client), "the length is not complete");
        rig.receive(client, &frame[5..6]);
        assert!(rig.is_shut(client));
        assert_eq!(rig.take_sent(client), [0x2a]);
        let expected =
            "the input is not acceptable msgpack: the frame is larger than the limit allows";
        assert!(
            rig.reasons()[0].starts_with(expected),
            "{:?}",
            rig.reasons()
        );
        assert_eq!(rig.counters().bad_input, 1);
        rig.assert_empty(&[client]);
    }
}

#[test]
fn a_frame_that_grows_beyond_the_limit_is_refused_wherever_it_is_received() {
    // An array of large parts, none of which is too large: in shared buffers, and in a buffer of its own.
    let frame = array(&[&bin(70_000, 1), &bin(70_000, 2), &bin(70_000, 3)]);
    for piece in [10, 4096, 75_000, frame.len()] {
        let mut rig = Rig::with_limits(frame_bytes(frame.len() - 1));
        let client = rig.connect();
        for piece in frame.chunks(piece) {
            rig.receive(client, piece);
        }
        assert_eq!(rig.frames(), 0);
        assert_eq!(rig.counters().bad_input, 1);
        rig.assert_empty(&[client]);
        let mut rig = Rig::with_limits(frame_bytes(frame.len()));
        let client = rig.connect();
        for piece in frame.chunks(piece) {
            rig.receive(client, piece);
        }
        assert!(rig.take_sent(client) == frame);
    }
}

#[test]
fn depth_at_its_limit_and_beyond() {
    let nested = |levels: usize| [vec![0x91; levels], vec![0xc0]].concat();
    let limits = Limits {
        depth: 20,
        ..Limits::default()
    };
    for piece in [1, 5, 100] {
        let mut rig = Rig::with_limits(limits.clone());
        let client = rig.connect();
        let stream = [nested(20), nested(3), nested(20), nested(21)].concat();
        for piece in stream.chunks(piece) {
            rig.receive(client, piece);
        }
        assert_eq!(
            rig.take_sent(client),
            [nested(20), nested(3), nested(20)].concat()
        );
        assert_eq!(rig.frames(), 3);
        assert!(
            rig.reasons()[0].contains("nested deeper"),
            "{:?}",
            rig.reasons()
        );
        assert_eq!(rig.counters().bad_input, 1);
        rig.assert_empty(&[client]);
    }
}

#[test]
fn what_is_not_msgpack_ends_its_connection_and_no_other() {
    let mut rig = Rig::new();
    let [bad, good] = [rig.connect(), rig.connect()];
    rig.receive(good, &bin(100, 1)[..50]);
    rig.receive(bad, &[1, 2, 0x92, 3, 0xc1, 4]);
    assert_eq!(rig.take_sent(bad), [1, 2]);
    assert!(rig.is_shut(bad));
    rig.receive(good, &bin(100, 1)[50..]);
    assert_eq!(rig.take_sent(good), bin(100, 1));
    rig.end(good);
    rig.assert_empty(&[bad, good]);
    assert_eq!(rig.counters().bad_input, 1);
}

/// Echoes what it takes.
struct Only<const TOP_LEVEL: u8>;

impl<const T: u8> Service for Only<T> {
    type Session = ();
    const TOP_LEVEL: TopLevel = match T {
        0 => TopLevel::Any,
        1 => TopLevel::Array,
        2 => TopLevel::Map,
        _ => TopLevel::ArrayOrMap,
    };

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, _: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        reply.write(|out| out.extend_from_slice(&frame));
        Flow::Continue
    }
}

#[track_caller]
fn check_top_level(service: impl Service, array: bool, map: bool) {
    let mut exchange = Exchange::new(service);
    let large = [&[0x91][..], &bin(100_000, 1)].concat();
    let arrays = [vec![0x91, 0x01], vec![0xdc, 0, 1, 0xc0], large];
    let maps = [vec![0x81, 0xa1, b'k', 0xc0], vec![0xde, 0, 0]];
    let others = [vec![0x41], vec![0xc0], b"\xa1x".to_vec(), bin(100_000, 1)];
    let mut refused = 0;
    let cases = arrays.iter().map(|frame| (frame, array));
    let cases = cases.chain(maps.iter().map(|frame| (frame, map)));
    let cases = cases.chain(others.iter().map(|frame| (frame, array && map)));
    for (frame, taken) in cases {
        // As the first frame, behind another one in the same piece, and behind one that was carried over.
        let good = if array {
            &[0x91, 0x00][..]
        } else {
            &[0x81, 0x00, 0x00]
        };
        for (head, split) in [(&[][..], 0), (good, 0), (good, 1)] {
            let client = exchange.connect();
            let stream = [head, frame].concat();
            exchange.receive(client, &stream[..split]);
            exchange.receive(client, &stream[split..]);
            if taken {
                assert!(exchange.take_sent(client) == stream);
                exchange.end(client);
            } else {
                refused += 1;
                assert_eq!(exchange.take_sent(client), head);
            }
            assert!(!exchange.is_open(client));
            assert_eq!(exchange.counters().bad_input, refused);
        }
    }
    assert_eq!(exchange.memory_held(), 0);
}

#[test]
fn top_level_types_that_the_service_does_not_take_end_the_connection() {
    check_top_level(Only::<1>, true, false);
    check_top_level(Only::<2>, false, true);
}

#[test]
fn what_may_not_stand_at_the_top_may_stand_inside() {
    let mut exchange = Exchange::new(Only::<1>);
    let client = exchange.connect();
    let frame = array(&[
        &[0x41],
        &[0x81, 0x01, 0x02],
        b"\xa1x",
        &[0xcb, 0, 0, 0, 0, 0, 0, 0, 0],
    ]);
    for byte in &frame {
        exchange.receive(client, &[*byte]);
    }
    assert_eq!(exchange.take_sent(client), frame);
}

#[test]
fn a_service_that_takes_anything_takes_it() {
    let mut exchange = Exchange::new(Only::<0>);
    let client = exchange.connect();
    let stream: Vec<u8> = (0..0x80)
        .chain(0xe0..=0xff)
        .chain([0xc0, 0xc2, 0xc3, 0x80, 0x90])
        .collect();
    exchange.receive(client, &stream);
    assert_eq!(exchange.take_sent(client), stream);
    assert_eq!(exchange.counters().frames_in, stream.len() as u64);
}
