//! What a framer remembers between two calls: parking, errors, ends.

mod common;

use common::samples::{awkward, one_of_each_type};
use common::{Verdict, WIDE, judge_prefixes};
use ringhold_framer::{ErrorKind, Framer, Limits, Parked, Progress};

#[test]
fn parked_state_is_small() {
    assert_eq!(size_of::<Parked>(), 64);
    assert_eq!(size_of::<Option<Parked>>(), 64);
}

#[test]
fn nothing_is_parked_at_a_boundary() {
    let mut framer = Framer::new(WIDE);
    assert!(framer.park().is_none());
    assert_eq!(framer.feed(b""), Ok(Progress::More { at_least: 1 }));
    assert!(framer.park().is_none());
    assert_eq!(
        framer.feed(b"\x91\x00\x91"),
        Ok(Progress::Complete { used: 2 })
    );
    assert!(framer.park().is_none());
}

/// Parked between any two bytes, resumed in another framer after something else went through it: no difference.
#[test]
fn parking_at_every_byte_changes_nothing() {
    let deep = [vec![0x92; 40], vec![0x00], b"\xa3two".repeat(40)].concat();
    let deep_maps = [
        b"\x82\x00".repeat(20),
        b"\x80".to_vec(),
        b"\xcd\x00\x00\x90".repeat(20),
    ]
    .concat();
    let refused = [
        &b"\x92\x91\x90"[..],
        b"\x92\xda\x00\x01x\xc1",
        b"\x93\x00\xdd\x00\x01\x00\x00",
        &[0x91; 60],
    ];
    let mut inputs = [awkward(), one_of_each_type(), vec![deep, deep_maps]].concat();
    inputs.extend(refused.map(<[u8]>::to_vec));

    let limits = Limits {
        frame_bytes: 60_000,
        depth: 50,
    };
    let mut framers = [Framer::new(limits), Framer::new(limits)];
    for input in inputs {
        let verdicts = judge_prefixes(&input, limits);
        for cuts in [1, 2, 3] {
            let mut parked = None;
            for (turn, start) in (0..input.len()).step_by(cuts).enumerate() {
                let end = input.len().min(start + cuts);
                let framer = &mut framers[turn % 2];
                assert!(framer.is_idle());
                if let Some(parked) = parked.take() {
                    framer.resume(parked);
                    assert!(!framer.is_idle());
                }
                let answer = framer.feed(&input[start..end]);
                parked = framer.park();
                match verdicts[end] {
                    Verdict::More(at_least) => {
                        assert_eq!(
                            answer,
                            Ok(Progress::More {
                                at_least: at_least as usize
                            })
                        );
                        assert!(parked.is_some());
                    }
                    Verdict::End(at) => {
                        assert_eq!(answer, Ok(Progress::Complete { used: at - start }));
                        assert!(parked.is_none());
                        break;
                    }
                    Verdict::Refused(kind, offset) => {
                        let error = answer.unwrap_err();
                        assert_eq!((error.kind(), error.offset()), (kind, offset));
                        assert!(parked.is_some());
                        break;
                    }
                }
                // Another stream has the framer in the meantime, and leaves it deep inside a frame.
                assert_eq!(
                    framer.feed(b"\xdc\x00\x02\x91\x91"),
                    Ok(Progress::More { at_least: 2 })
                );
                framer.reset();
            }
        }
    }
}

/// A stream that failed stays failed when its state is moved; the framer is free.
#[test]
fn an_error_is_parked_with_its_stream() {
    let mut framer = Framer::new(WIDE);
    let error = framer.feed(b"\x91\xc1").unwrap_err();
    let parked = framer.park().unwrap();
    assert_eq!(framer.feed(b"\x00"), Ok(Progress::Complete { used: 1 }));
    framer.resume(parked);
    assert_eq!(framer.feed(b"\x00"), Err(error));
    assert_eq!(framer.finish(), Err(error));
}

#[test]
fn resuming_forgets_what_was_there() {
    let mut framer = Framer::new(WIDE);
    assert_eq!(framer.feed(b"\x92\x00"), Ok(Progress::More { at_least: 1 }));
    let parked = framer.park().unwrap();
    assert!(framer.feed(b"\x91\x91\xc1").is_err());
    framer.resume(parked);
    assert_eq!(framer.feed(b"\x00\x00"), Ok(Progress::Complete { used: 1 }));
}

#[test]
fn a_frame_parked_under_wider_limits_is_refused_under_narrower_ones() {
    let partial = b"\x92\x00\x92\x92\xc4\x10xx";
    let park = || {
        let mut framer = Framer::new(WIDE);
        assert_eq!(framer.feed(partial), Ok(Progress::More { at_least: 16 }));
        framer.park().unwrap()
    };
    for (frame_bytes, depth, expected) in [
        (24, 3, None),
        (23, 3, Some(ErrorKind::TooLarge)),
        (3, 3, Some(ErrorKind::TooLarge)),
        (0, 3, Some(ErrorKind::TooLarge)),
        (24, 2, Some(ErrorKind::TooDeep)),
        (0, 0, Some(ErrorKind::TooDeep)),
    ] {
        let mut framer = Framer::new(Limits { frame_bytes, depth });
        framer.resume(park());
        match expected {
            None => assert_eq!(framer.feed(&[0; 20]), Ok(Progress::Complete { used: 16 })),
            Some(kind) => {
                let error = framer.feed(&[0; 20]).unwrap_err();
                assert_eq!((error.kind(), error.offset()), (kind, 8));
                let is_long = kind == ErrorKind::TooLarge;
                assert_eq!(error.frame_bytes(), is_long.then_some(24));
                assert_eq!(framer.finish(), Err(error));
                framer.reset();
                assert!(framer.is_idle());
            }
        }
    }
}

#[test]
fn a_frame_that_has_begun_is_held_to_another_length() {
    let partial = b"\x92\x00\xc4\x10xx";
    for (frame_bytes, is_taken) in [(20, true), (19, false), (3, false), (0, false)] {
        let mut framer = Framer::new(WIDE);
        assert_eq!(framer.feed(partial), Ok(Progress::More { at_least: 14 }));
        framer.set_frame_bytes(frame_bytes);
        match framer.feed(&[0; 20]) {
            Ok(progress) => assert_eq!(
                (progress, is_taken),
                (Progress::Complete { used: 14 }, true)
            ),
            Err(error) => {
                assert_eq!(
                    (error.kind(), error.offset(), is_taken),
                    (ErrorKind::TooLarge, 6, false)
                );
                // It was not taken, whatever is allowed now.
                framer.set_frame_bytes(100);
                assert_eq!(framer.feed(&[0; 20]), Err(error));
            }
        }
    }
}

/// Frames that look like the one before, too: between any two of them the length may change.
#[test]
fn each_frame_is_held_to_the_length_that_holds_when_it_begins() {
    let frames = [
        &[&b"\xc4\x1e"[..], &[7; 30]].concat()[..],
        b"\x92\xa3abc\x01",
    ];
    for frame in frames {
        let longest = frame.len() as u32;
        let mut framer = Framer::new(WIDE);
        for frame_bytes in [
            100,
            100,
            100,
            0,
            100,
            1,
            1,
            longest,
            longest - 1,
            longest,
            longest,
            longest - 1,
        ] {
            framer.set_frame_bytes(frame_bytes);
            let limits = framer.limits();
            assert_eq!(
                limits,
                Limits {
                    frame_bytes,
                    ..WIDE
                }
            );
            let expected = Framer::new(limits).feed(frame);
            assert_eq!(framer.feed(frame), expected, "{frame_bytes} bytes");
            assert_eq!(expected.is_ok(), longest <= frame_bytes);
            framer.reset();
        }
    }
}

/// Only levels that are open are parked: those that were left do not count when it is resumed.
#[test]
fn levels_that_were_left_are_not_parked() {
    for left in [
        &b"\x91\x91\x91\x00"[..],
        b"\x90",
        b"\xdc\x00\x00",
        b"\x81\x00\x91\x91\x90",
    ] {
        let mut framer = Framer::new(WIDE);
        assert_eq!(
            framer.feed(&[b"\x93", left].concat()),
            Ok(Progress::More { at_least: 2 })
        );
        let parked = framer.park().unwrap();
        let mut shallow = Framer::new(Limits { depth: 1, ..WIDE });
        shallow.resume(parked);
        assert_eq!(
            shallow.feed(b"\x00\xa1x"),
            Ok(Progress::Complete { used: 3 })
        );
    }
}

#[test]
fn errors_stay_until_reset() {
    for input in [&b"\x91\xc1"[..], b"\xdd\xff\xff\xff\xff", &[0x91; 1001]] {
        let mut framer = Framer::new(WIDE);
        let error = framer.feed(input).unwrap_err();
        for more in [&b""[..], b"\x00", b"\x91\x00", b"\xc1", input] {
            assert_eq!(framer.feed(more), Err(error));
            assert_eq!(framer.finish(), Err(error));
            assert!(!framer.is_idle());
        }
        framer.reset();
        assert!(framer.is_idle());
        assert_eq!(framer.finish(), Ok(()));
        assert_eq!(framer.feed(b"\x91\x00"), Ok(Progress::Complete { used: 2 }));
    }
}

#[test]
fn feeding_nothing_changes_nothing() {
    let mut framer = Framer::new(WIDE);
    for frame in [awkward(), one_of_each_type()].concat() {
        let mut last = Ok(Progress::More { at_least: 1 });
        for (at, byte) in frame.iter().enumerate() {
            for _ in 0..2 {
                assert_eq!(framer.feed(b""), last);
                assert_eq!(framer.is_idle(), at == 0);
            }
            last = framer.feed(&[*byte]);
        }
        assert_eq!(last, Ok(Progress::Complete { used: 1 }));
    }
}

#[test]
fn the_end_of_a_stream_is_clean_or_truncated() {
    for frame in [awkward(), one_of_each_type()].concat() {
        for end in 0..frame.len() {
            let mut framer = Framer::new(WIDE);
            let _ = framer.feed(&frame[..end]);
            match framer.finish() {
                Ok(()) => assert_eq!(end, 0),
                Err(error) => {
                    assert_eq!(
                        (error.kind(), error.offset()),
                        (ErrorKind::Truncated, end as u64)
                    );
                    // It is no verdict: more may follow.
                    assert_eq!(
                        framer.feed(&frame[end..]),
                        Ok(Progress::Complete {
                            used: frame.len() - end
                        })
                    );
                    assert_eq!(framer.finish(), Ok(()));
                }
            }
        }
    }
}

/// The hint is the least that can complete the frame: that many zeros do, unless a length is being read.
#[test]
fn the_hint_is_a_lower_bound_that_can_be_met() {
    let mut framer = Framer::new(WIDE);
    for frame in [awkward(), one_of_each_type()].concat() {
        for end in 1..frame.len() {
            let Ok(Progress::More { at_least }) = framer.feed(&frame[..end]) else {
                panic!("{:02x?} is a frame", &frame[..end])
            };
            assert!((1..=frame.len() - end).contains(&at_least));
            match framer.feed(&vec![0; at_least]) {
                Ok(Progress::Complete { used }) => assert_eq!(used, at_least),
                other => {
                    assert!(matches!(other, Ok(Progress::More { .. })));
                    framer.reset();
                }
            }
        }
    }
}

#[test]
fn errors_are_for_people() {
    let mut framer = Framer::new(WIDE);
    let _ = framer.feed(b"\x92\x00");
    assert_eq!(
        framer.finish().unwrap_err().to_string(),
        "the stream ended inside a frame, 2 bytes after its start"
    );
    let error = framer.feed(b"\xc1").unwrap_err();
    assert_eq!(
        error.to_string(),
        "not msgpack: the reserved byte 0xc1 (at byte 2 of the frame)"
    );
    let _: &dyn core::error::Error = &error;
}
