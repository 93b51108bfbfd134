//! Limits hold exactly: what just reaches them passes, one more is refused.

mod common;

use common::samples::{awkward, one_of_each_type};
use common::{Verdict, WIDE, check_all_cuts, check_pieces, judge_prefixes};
use ringhold_framer::{ErrorKind, Framer, Limits, Progress};

#[test]
fn the_defaults_are_documented() {
    assert_eq!(
        Limits::default(),
        Limits {
            frame_bytes: 16 * 1024 * 1024,
            depth: 128
        }
    );
    assert_eq!(Framer::new(WIDE).limits(), WIDE);
}

#[test]
fn a_frame_may_be_as_long_as_the_limit() {
    for frame in one_of_each_type().into_iter().chain(awkward()) {
        let len = frame.len() as u32;
        for frame_bytes in [len, len + 1] {
            let mut framer = Framer::new(Limits {
                frame_bytes,
                ..WIDE
            });
            assert_eq!(
                framer.feed(&frame),
                Ok(Progress::Complete { used: frame.len() })
            );
        }
        let mut framer = Framer::new(Limits {
            frame_bytes: len - 1,
            ..WIDE
        });
        let error = framer.feed(&frame).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge, "{frame:02x?}");
        assert_eq!(error.frame_bytes(), Some(len), "{frame:02x?}");
    }
}

#[test]
fn a_refusal_says_how_long_the_frame_is_to_be_at_least() {
    let limits = Limits {
        frame_bytes: 1000,
        ..WIDE
    };
    for (input, at_least) in [
        // A text, behind two objects and with two to come.
        (&b"\x95\x01\x02\xda\x10\x00"[..], 3 + 3 + 4096 + 2),
        // 4096 objects, and in a map twice as many.
        (b"\xdc\x10\x00", 3 + 4096),
        (b"\xde\x10\x00", 3 + 8192),
        (b"\xc9\x00\x00\x10\x00\x2a", 6 + 4096),
        // More than can be said.
        (b"\xdf\xff\xff\xff\xff", u32::MAX),
        (b"\xc6\xff\xff\xff\xff", u32::MAX),
    ] {
        let error = Framer::new(limits).feed(input).unwrap_err();
        assert_eq!(error.frame_bytes(), Some(at_least), "{input:02x?}");
        let said = format!("allows: {at_least} bytes at least (at byte");
        assert!(error.to_string().contains(&said), "{error}");
        check_all_cuts(&mut Framer::new(limits), input);
    }
    let error = Framer::new(limits).feed(b"\xc1").unwrap_err();
    assert_eq!(error.frame_bytes(), None);
}

/// Around the limit for frames that are long compared to a buffer, with the limit reached by a payload, by objects, and by
/// both.
#[test]
fn long_frames_around_the_limit() {
    const LIMIT: usize = 70_000;
    let make: [fn(usize) -> Vec<u8>; 3] = [
        |len| {
            [
                &[0xc6][..],
                &(len as u32 - 5).to_be_bytes(),
                &vec![0xc1; len - 5],
            ]
            .concat()
        },
        |len| {
            [
                &[0xdd][..],
                &(len as u32 - 5).to_be_bytes(),
                &vec![0; len - 5],
            ]
            .concat()
        },
        |len| {
            [
                &[0xdc, 0x80, 0x00][..],
                &vec![0; 0x7fff],
                &[0xc6, 0, 0],
                &(len as u16).to_be_bytes(),
                &vec![0; len],
            ]
            .concat()
        },
    ];
    let mut framer = Framer::new(Limits {
        frame_bytes: LIMIT as u32,
        ..WIDE
    });
    for (make, surplus) in make.into_iter().zip([0, 0, 3 + 0x7fff + 5]) {
        for len in [LIMIT - 1, LIMIT, LIMIT + 1] {
            let frame = make(len - surplus);
            assert_eq!(frame.len(), len);
            for piece in [1, 2, 3, 1448, 65_536, len] {
                let mut fed = 0;
                let verdict = loop {
                    let bytes = &frame[fed..len.min(fed + piece)];
                    match framer.feed(bytes) {
                        Ok(Progress::More { at_least }) => {
                            fed += bytes.len();
                            assert!(at_least <= len - fed);
                        }
                        Ok(Progress::Complete { used }) => break Verdict::End(fed + used),
                        Err(error) => break Verdict::Refused(error.kind(), error.offset()),
                    }
                };
                framer.reset();
                let start = if surplus == 0 { 0 } else { 3 + 0x7fff };
                let expected = match len {
                    ..=LIMIT => Verdict::End(len),
                    _ => Verdict::Refused(ErrorKind::TooLarge, start),
                };
                assert_eq!(verdict, expected, "{len} in pieces of {piece}");
            }
        }
    }
}

/// Small objects may pass the limit only when they turn out to be larger than the one byte that each was counted for.
#[test]
fn the_bound_counts_each_object_that_is_due() {
    let mut framer = Framer::new(Limits {
        frame_bytes: 20,
        ..WIDE
    });
    // Three bytes of header and 17 elements of one byte: the frame is just long enough.
    let exact = [&[0xdc, 0, 17][..], &[0; 17]].concat();
    assert_eq!(framer.feed(&exact), Ok(Progress::Complete { used: 20 }));
    // The last element has two bytes.
    let input = [&[0xdc, 0, 17][..], &[0; 16], &[0xcc, 0]].concat();
    let verdicts = judge_prefixes(&input, framer.limits());
    assert_eq!(verdicts[19], Verdict::More(1));
    assert_eq!(verdicts[20], Verdict::Refused(ErrorKind::TooLarge, 19));
    for cut in 0..=input.len() {
        check_pieces(&mut framer, &input, &verdicts, [cut]);
    }
    // A length that is longer than it may be without what it announces is refused before that is known.
    let input = [&[0xdc, 0, 17][..], &[0; 16], &[0xc5, 1, 0]].concat();
    let verdicts = judge_prefixes(&input, framer.limits());
    let error = framer.feed(&input).unwrap_err();
    assert_eq!(error.frame_bytes(), Some(19 + 3));
    framer.reset();
    for cut in 0..=input.len() {
        check_pieces(&mut framer, &input, &verdicts, [cut]);
    }
    // The first one has, which is known before the others are there.
    let error = framer.feed(&[0xdc, 0, 17, 0xcc]).unwrap_err();
    assert_eq!((error.kind(), error.offset()), (ErrorKind::TooLarge, 3));
}

#[test]
fn a_limit_of_zero_refuses_every_byte_and_accepts_no_bytes() {
    let mut framer = Framer::new(Limits {
        frame_bytes: 0,
        depth: 0,
    });
    assert_eq!(framer.feed(b""), Ok(Progress::More { at_least: 1 }));
    assert!(framer.is_idle());
    for byte in 0..=u8::MAX {
        let error = framer.feed(&[byte]).unwrap_err();
        assert_eq!((error.kind(), error.offset()), (ErrorKind::TooLarge, 0));
        framer.reset();
    }
}

/// So many levels, opened by these in turn. The last but one is a plain array, since some openers have siblings that are a
/// level deeper themselves.
fn nested(levels: usize, openers: &[&[u8]], innermost: &[u8]) -> Vec<u8> {
    let outer =
        (0..levels.saturating_sub(2)).flat_map(|level| openers[level % openers.len()].to_vec());
    let last = if levels > 1 { &b"\x91"[..] } else { b"" };
    outer.chain(last.iter().chain(innermost).copied()).collect()
}

/// What opens a level: an array or the value of a map entry, with a length of every width, alone or after siblings.
const OPENERS: [&[&[u8]]; 7] = [
    &[b"\x91"],
    &[b"\x81\x00"],
    &[b"\x91", b"\x81\x00"],
    &[b"\xdc\x00\x01", b"\xde\x00\x01\xa1k"],
    &[b"\xdd\x00\x00\x00\x01", b"\xdf\x00\x00\x00\x01\xcc\x07"],
    &[b"\x92\x90", b"\x93\x91\x00\x80"],
    &[b"\x82\x90\x80\x02"],
];

#[test]
fn depth_is_exact() {
    for limit in [1, 2, 3, 9, 10, 11, 12, 32, 33, 127, 128, 129, 1000] {
        let mut framer = Framer::new(Limits {
            depth: limit,
            ..WIDE
        });
        for openers in OPENERS {
            for innermost in [
                &b"\x90"[..],
                b"\x80",
                b"\x91\x00",
                b"\x81\x00\x00",
                b"\xdc\x00\x00",
                b"\xdf\x00\x00\x00\x00",
            ] {
                let levels = usize::from(limit);
                let frame = nested(levels, openers, innermost);
                assert_eq!(
                    framer.feed(&frame),
                    Ok(Progress::Complete { used: frame.len() }),
                    "{levels} of {openers:02x?}"
                );

                let frame = nested(levels + 1, openers, innermost);
                let error = framer.feed(&frame).unwrap_err();
                let offset = (frame.len() - innermost.len()) as u64;
                assert_eq!(
                    (error.kind(), error.offset()),
                    (ErrorKind::TooDeep, offset),
                    "{levels} of {openers:02x?}"
                );
                framer.reset();

                // The same in single bytes; the type byte alone decides.
                let verdict = frame
                    .iter()
                    .enumerate()
                    .find_map(|(at, byte)| Some((at, framer.feed(&[*byte]).err()?)));
                assert_eq!(verdict, Some((offset as usize, error)));
                framer.reset();
            }
        }
    }
}

#[test]
fn depth_zero_allows_only_what_is_no_container() {
    let mut framer = Framer::new(Limits { depth: 0, ..WIDE });
    assert_eq!(framer.feed(b"\xa3two"), Ok(Progress::Complete { used: 4 }));
    for input in [
        &b"\x90"[..],
        b"\x80",
        b"\x91",
        b"\xdc",
        b"\xdd\x00\x00\x00\x00",
        b"\xdf\x00\x00",
    ] {
        let error = framer.feed(input).unwrap_err();
        assert_eq!((error.kind(), error.offset()), (ErrorKind::TooDeep, 0));
        framer.reset();
    }
}

/// A level that was left no longer counts: it is depth that is limited, not the number of containers.
#[test]
fn levels_are_given_back() {
    let mut framer = Framer::new(Limits { depth: 3, ..WIDE });
    let element = b"\x92\x91\x00\x81\x01\x02";
    let frame = [&[0xdc, 0x03, 0xe8][..], &element.repeat(1000)].concat();
    assert_eq!(
        framer.feed(&frame),
        Ok(Progress::Complete { used: frame.len() })
    );
    for piece in [1, 2, 5, 7, 64] {
        let mut fed = 0;
        for bytes in frame.chunks(piece) {
            match framer.feed(bytes) {
                Ok(Progress::More { .. }) => fed += bytes.len(),
                other => assert_eq!(
                    other,
                    Ok(Progress::Complete {
                        used: frame.len() - fed
                    })
                ),
            }
        }
        assert!(framer.is_idle());
    }
    // Down, up by several levels at once, and down again to just the limit, then below it.
    let mut framer = Framer::new(Limits { depth: 4, ..WIDE });
    assert_eq!(
        framer.feed(b"\x92\x91\x91\x91\x00\x91\x91\x90"),
        Ok(Progress::Complete { used: 8 })
    );
    let error = framer
        .feed(b"\x92\x91\x91\x91\x00\x91\x91\x91\x90")
        .unwrap_err();
    assert_eq!((error.kind(), error.offset()), (ErrorKind::TooDeep, 8));
}
