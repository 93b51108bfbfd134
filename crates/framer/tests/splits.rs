//! The verdict does not depend on how the stream is cut.

mod common;

use common::samples::{awkward, one_of_each_type};
use common::{WIDE, check_all_cuts, check_few_cuts};
use ringhold_framer::{Framer, Limits};

/// Each type, and each followed by what does not belong to the frame any more.
#[test]
fn every_type_at_every_cut() {
    let mut framer = Framer::new(WIDE);
    for frame in one_of_each_type() {
        for rest in [&b""[..], b"\x00", b"\xc1\xdd\xff\xff\xff\xff"] {
            check_few_cuts(&mut framer, &[&frame[..], rest].concat());
        }
    }
}

#[test]
fn awkward_frames_at_every_cut() {
    let mut framer = Framer::new(WIDE);
    for frame in awkward() {
        assert!(frame.len() <= 64);
        check_few_cuts(&mut framer, &frame);
        check_few_cuts(&mut framer, &[&frame[..], b"\x91\x00"].concat());
    }
}

/// Every subset of the places where a short input can be cut.
#[test]
fn short_frames_in_every_way() {
    let mut framer = Framer::new(WIDE);
    let mut short = awkward();
    short.extend(one_of_each_type());
    short.retain(|frame| frame.len() <= 12);
    assert!(short.len() > 200);
    for frame in short {
        check_all_cuts(&mut framer, &frame);
    }
}

/// The same under limits that some of them pass, at each value there is to pass.
#[test]
fn short_frames_in_every_way_under_every_limit() {
    let mut short = awkward();
    short.retain(|frame| frame.len() <= 10);
    assert!(short.len() > 30);
    for frame in short {
        for frame_bytes in 0..frame.len() as u32 {
            check_all_cuts(
                &mut Framer::new(Limits {
                    frame_bytes,
                    ..WIDE
                }),
                &frame,
            );
        }
        for depth in 0..5 {
            check_all_cuts(&mut Framer::new(Limits { depth, ..WIDE }), &frame);
        }
        check_all_cuts(
            &mut Framer::new(Limits {
                frame_bytes: frame.len() as u32 - 1,
                depth: 2,
            }),
            &frame,
        );
    }
}

/// Every input of a few bytes out of those that matter, valid or not, in every way under tight limits.
#[test]
fn every_short_sequence_of_headers() {
    const BYTES: [u8; 10] = [0x00, 0x01, 0x80, 0x81, 0x92, 0xa1, 0xc1, 0xc7, 0xdc, 0xde];
    let mut framers = [
        Framer::new(WIDE),
        Framer::new(Limits {
            frame_bytes: 4,
            depth: 2,
        }),
        Framer::new(Limits {
            frame_bytes: 300,
            depth: 1,
        }),
    ];
    for number in 0..BYTES.len().pow(5) {
        let input: [u8; 5] = std::array::from_fn(|place| {
            BYTES[number / BYTES.len().pow(place as u32) % BYTES.len()]
        });
        for framer in &mut framers {
            check_all_cuts(framer, &input);
        }
    }
}
