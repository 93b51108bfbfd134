//! Input that has broken other implementations, and lengths that lie.

mod common;

use common::{Verdict, WIDE, check_all_cuts, judge_prefixes};
use ringhold_framer::{Error, ErrorKind, Framer, Limits, Progress};

const TIGHT: Limits = Limits {
    frame_bytes: 1 << 20,
    depth: 128,
};

fn refused(limits: Limits, input: &[u8]) -> Option<(ErrorKind, u64)> {
    Framer::new(limits)
        .feed(input)
        .err()
        .map(|error: Error| (error.kind(), error.offset()))
}

#[test]
fn the_reserved_byte_is_refused_wherever_an_object_begins() {
    for (input, offset) in [
        (&b"\xc1"[..], 0),
        (b"\x91\xc1", 1),
        (b"\x81\xa1k\xc1", 3),
        (b"\x92\xa2\xc1\xc1\xc1", 4),
        (b"\x93\x90\x80\xc1\x00\x00\x00\x00\x00", 3),
        (
            b"\x92\xd8\xc1\xc1\xc1\xc1\xc1\xc1\xc1\xc1\xc1\xc1\xc1\xc1\xc1\xc1\xc1\xc1\xc1\xc1",
            19,
        ),
    ] {
        assert_eq!(
            refused(WIDE, input),
            Some((ErrorKind::Reserved, offset)),
            "{input:02x?}"
        );
        if input.len() <= 12 {
            check_all_cuts(&mut Framer::new(WIDE), input);
        }
    }
}

/// A length that is no use is refused on its header, with nothing behind it. For lengths of four bytes that exceed the
/// limit, that is after five bytes.
#[test]
fn lying_lengths_are_refused_on_the_header() {
    for byte in [0xc6, 0xc9, 0xdb, 0xdd, 0xdf] {
        for length in [
            1u32 << 20,
            1 << 24,
            0x7fff_ffff,
            0x8000_0000,
            0x8000_0001,
            0xffff_fffe,
            0xffff_ffff,
        ] {
            let header = [&[byte][..], &length.to_be_bytes()].concat();
            for limits in [TIGHT, Limits::default()] {
                if length < limits.frame_bytes {
                    continue;
                }
                // At the end of a buffer, in the middle of one, and inside a container.
                assert_eq!(
                    refused(limits, &header),
                    Some((ErrorKind::TooLarge, 0)),
                    "{header:02x?}"
                );
                assert_eq!(
                    refused(limits, &[&header[..], &[0; 9]].concat()),
                    Some((ErrorKind::TooLarge, 0))
                );
                assert_eq!(
                    refused(limits, &[&[0x92, 0x00], &header[..]].concat()),
                    Some((ErrorKind::TooLarge, 2))
                );
                check_all_cuts(&mut Framer::new(limits), &header);
                check_all_cuts(&mut Framer::new(limits), &[&header[..], &[0]].concat());
            }
        }
    }
}

/// The largest limit that there is: 2^32-1. Sums that pass it must not wrap.
#[test]
fn lying_lengths_under_the_widest_limit() {
    let widest = Limits {
        frame_bytes: u32::MAX,
        depth: u16::MAX,
    };
    for byte in [0xc6, 0xc9, 0xdb, 0xdd, 0xdf] {
        for length in [
            0x7fff_fffd,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_fff8,
            0xffff_fff9,
            0xffff_fffa,
            0xffff_fffb,
            u32::MAX,
        ] {
            let header = [&[byte][..], &length.to_be_bytes()].concat();
            for input in [
                header.clone(),
                [&header[..], &[0; 3]].concat(),
                [&[0x91], &header[..]].concat(),
            ] {
                // Lengths that just fit are announced exactly.
                check_all_cuts(&mut Framer::new(widest), &input);
            }
        }
    }
    let mut framer = Framer::new(widest);
    let most = u32::MAX as usize - 5;
    assert_eq!(
        framer.feed(b"\xc6\xff\xff\xff\xfa"),
        Ok(Progress::More { at_least: most })
    );
    framer.reset();
    assert_eq!(
        framer.feed(b"\xdd\xff\xff\xff\xfa"),
        Ok(Progress::More { at_least: most })
    );
    framer.reset();
    assert_eq!(
        framer.feed(b"\xdf\x7f\xff\xff\xfd"),
        Ok(Progress::More { at_least: most })
    );
    framer.reset();
    assert_eq!(
        refused(widest, b"\xdf\x7f\xff\xff\xfe"),
        Some((ErrorKind::TooLarge, 0))
    );
    assert_eq!(
        refused(widest, b"\xc9\xff\xff\xff\xfa"),
        Some((ErrorKind::TooLarge, 0))
    );
}

/// Containers of containers that announce more and more: refused at the header whose children cannot fit any more.
#[test]
fn nested_bombs() {
    for levels in [20, 1000] {
        for header in [
            &b"\xdd\xff\xff\xff\xff"[..],
            b"\xdf\xff\xff\xff\xff",
            b"\xdf\x80\x00\x00\x00",
        ] {
            assert_eq!(
                refused(WIDE, &header.repeat(levels)),
                Some((ErrorKind::TooLarge, 0))
            );
        }
        // 65,535 elements each: a megabyte is passed at the sixteenth level, 16 MiB not before the limit of depth.
        let input = b"\xdc\xff\xff".repeat(levels);
        assert_eq!(refused(TIGHT, &input), Some((ErrorKind::TooLarge, 15 * 3)));
        let expected = (levels > 128).then_some((ErrorKind::TooDeep, 128 * 3));
        assert_eq!(refused(Limits::default(), &input), expected);
        // The last element is the next level, so that nothing else is due: only depth can stop it.
        let expected = (levels > 128).then_some((ErrorKind::TooDeep, 128 * 5));
        assert_eq!(
            refused(TIGHT, &b"\xdd\x00\x00\x00\x01".repeat(levels)),
            expected
        );
    }
}

#[test]
fn a_hundred_thousand_levels() {
    for opener in [
        &b"\x91"[..],
        b"\x81\x00",
        b"\x92\x00",
        b"\xdd\x00\x00\x00\x01",
    ] {
        let input = opener.repeat(100_000);
        let offset = 128 * opener.len() as u64;
        assert_eq!(
            refused(Limits::default(), &input),
            Some((ErrorKind::TooDeep, offset))
        );
        // Refused on the first byte of the level, before the rest is waited for.
        assert_eq!(refused(Limits::default(), &input[..offset as usize]), None);
        assert_eq!(
            refused(Limits::default(), &input[..=offset as usize]),
            Some((ErrorKind::TooDeep, offset))
        );
    }
    let deep = Limits {
        depth: u16::MAX,
        ..WIDE
    };
    let levels = usize::from(u16::MAX);
    let input = [vec![0x91; levels - 1], vec![0x90]].concat();
    assert_eq!(
        Framer::new(deep).feed(&input),
        Ok(Progress::Complete { used: levels })
    );
    assert_eq!(
        refused(deep, &[0x91; 100_000]),
        Some((ErrorKind::TooDeep, levels as u64))
    );
}

/// Lengths of two bytes are unsigned.
#[test]
fn sixteen_bits_from_0x8000() {
    let mut framer = Framer::new(WIDE);
    for length in (0x8000..=0xffffu32).step_by(0x0fff).chain([0xffff]) {
        for (byte, each, extra) in [
            (0xc5, 1, 0),
            (0xda, 1, 0),
            (0xc8, 1, 1),
            (0xdc, 1, 0),
            (0xde, 2, 0),
        ] {
            let body = (length * each + extra) as usize;
            let frame = [
                &[byte][..],
                &(length as u16).to_be_bytes(),
                &vec![0; body],
                b"\x91",
            ]
            .concat();
            assert_eq!(
                framer.feed(&frame),
                Ok(Progress::Complete { used: 3 + body })
            );
            assert_eq!(
                framer.feed(&frame[..2]),
                Ok(Progress::More {
                    at_least: 1 + extra as usize
                })
            );
            assert_eq!(
                framer.feed(&frame[2..4]),
                Ok(Progress::More { at_least: body - 1 })
            );
            assert_eq!(
                framer.feed(&frame[4..]),
                Ok(Progress::Complete { used: body - 1 })
            );
        }
    }
}

/// An extension without payload still has a type.
#[test]
fn extensions_of_length_zero() {
    let mut framer = Framer::new(WIDE);
    for frame in [
        &b"\xc7\x00\x05"[..],
        b"\xc8\x00\x00\x05",
        b"\xc9\x00\x00\x00\x00\x05",
    ] {
        assert_eq!(
            framer.feed(frame),
            Ok(Progress::Complete { used: frame.len() })
        );
        assert_eq!(
            framer.feed(&frame[..frame.len() - 1]),
            Ok(Progress::More { at_least: 1 })
        );
        assert_eq!(framer.feed(b"\x05\x05"), Ok(Progress::Complete { used: 1 }));
        check_all_cuts(&mut framer, &[frame, b"\xc1"].concat());
    }
}

/// Timestamps (type -1) of a wrong length, and truncated extensions of a fixed length.
#[test]
fn extensions_are_opaque() {
    assert_eq!(
        Framer::new(WIDE).feed(b"\xc7\x05\xff\x01\x02\x03\x04\x05"),
        Ok(Progress::Complete { used: 8 })
    );
    for (byte, payload) in [(0xd4, 1), (0xd5, 2), (0xd6, 4), (0xd7, 8), (0xd8, 16)] {
        let frame = [&[byte][..], &vec![0xff; payload + 1]].concat();
        let verdicts = judge_prefixes(&frame, WIDE);
        for (fed, verdict) in verdicts.iter().enumerate().take(frame.len()).skip(1) {
            assert_eq!(*verdict, Verdict::More((frame.len() - fed) as u64));
            let mut framer = Framer::new(WIDE);
            assert_eq!(
                framer.feed(&frame[..fed]),
                Ok(Progress::More {
                    at_least: frame.len() - fed
                })
            );
        }
    }
}

/// What is wrong with values is not for the framer to say: overlong integers, repeated keys, containers as keys, strings
/// that are not UTF-8.
#[test]
fn values_are_opaque() {
    for frame in [
        &b"\xcf\x00\x00\x00\x00\x00\x00\x00\x01"[..],
        b"\x82\xa1k\x01\xa1k\x02",
        b"\x82\x91\x01\x01\x81\x01\x02\x02",
        b"\xa4\xff\xfe\xc1\x80",
        b"\xca\x7f\xc0\x00\x01",
    ] {
        assert_eq!(
            Framer::new(WIDE).feed(frame),
            Ok(Progress::Complete { used: frame.len() })
        );
    }
}

/// Many containers side by side are not depth, and a stream of zeros is a stream of frames.
#[test]
fn flat_is_not_deep() {
    let flat = [&[0xdc, 0, 100][..], &b"\x91\x00".repeat(100)].concat();
    let mut framer = Framer::new(Limits { depth: 2, ..WIDE });
    assert_eq!(framer.feed(&flat), Ok(Progress::Complete { used: 203 }));
    let zeros = [0; 65_536];
    for start in 0..zeros.len() {
        assert_eq!(
            framer.feed(&zeros[start..]),
            Ok(Progress::Complete { used: 1 })
        );
    }
}
