//! Compared with other readers of msgpack, on random frames and on random bytes.

mod common;

use common::samples::{frame, soup};
use common::{Verdict, WIDE, check_few_cuts, check_pieces, judge, judge_prefixes};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use ringhold_framer::{ErrorKind, Framer, Limits, Progress};

fn sorted(cuts: Vec<Index>, len: usize) -> Vec<usize> {
    let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.index(len + 1)).collect();
    cuts.sort_unstable();
    cuts
}

/// Verdicts on prefixes are quadratic, so they are asked for only where the input is cut.
fn check_cut(limits: Limits, input: &[u8], cuts: Vec<usize>) {
    let mut verdicts = vec![Verdict::More(0); input.len() + 1];
    for &end in cuts.iter().chain([&input.len()]) {
        verdicts[end] = judge(&input[..end], limits);
    }
    check_pieces(&mut Framer::new(limits), input, &verdicts, cuts);
}

/// Fed to an idle framer, which is idle again afterwards.
fn check_one(framer: &mut Framer, input: &[u8]) {
    let verdict = judge(input, framer.limits());
    let verdicts: Vec<_> = (0..=input.len()).map(|_| verdict).collect();
    check_pieces(framer, input, &verdicts, []);
    framer.reset();
}

/// How many bytes rmpv reads, or `None` if the object is not all there. It takes 0xc1 for nil, so input whose frame has
/// one in the place of an object is not for it; neither is what is nested deeper than a few hundred levels.
fn read_by_rmpv(input: &[u8]) -> Option<usize> {
    let mut rest = input;
    match rmpv::decode::read_value_ref(&mut rest) {
        Ok(_) => Some(input.len() - rest.len()),
        Err(rmpv::decode::Error::DepthLimitExceeded) => panic!("too deep for rmpv: {input:02x?}"),
        Err(_) => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn valid_frames_end_where_rmpv_ends(frames in vec(frame(), 1..4)) {
        let stream = frames.concat();
        let mut framer = Framer::new(WIDE);
        let mut start = 0;
        for frame in frames {
            let rest = &stream[start..];
            prop_assert_eq!(framer.feed(rest), Ok(Progress::Complete { used: frame.len() }));
            prop_assert_eq!(read_by_rmpv(rest), Some(frame.len()));
            prop_assert_eq!(judge(rest, WIDE), Verdict::End(frame.len()));
            start += frame.len();
        }
    }

    #[test]
    fn valid_frames_in_random_pieces(
        frame in frame(), cuts in vec(any::<Index>(), 0..20), tail in vec(any::<u8>(), 0..4), frame_bytes in any::<Index>(), depth in 0u16..8,
    ) {
        let input = [&frame[..], &tail].concat();
        let cuts = sorted(cuts, input.len());
        let frame_bytes = frame_bytes.index(frame.len() + 8) as u32;
        check_cut(WIDE, &input, cuts.clone());
        check_cut(Limits { frame_bytes, ..WIDE }, &input, cuts.clone());
        check_cut(Limits { depth, ..WIDE }, &input, cuts.clone());
        check_cut(Limits { frame_bytes, depth }, &input, cuts);
    }

    #[test]
    fn small_frames_at_every_cut(frame in frame().prop_filter("small", |frame| frame.len() <= 64), depth in 0u16..6) {
        check_few_cuts(&mut Framer::new(WIDE), &frame);
        check_few_cuts(&mut Framer::new(Limits { frame_bytes: 32, depth }), &frame);
    }

    #[test]
    fn damaged_frames_in_random_pieces(
        mut frame in frame(), damage in vec((any::<Index>(), any::<u8>()), 1..4), cuts in vec(any::<Index>(), 0..20), limits in any::<bool>(),
    ) {
        for (place, byte) in damage {
            let place = place.index(frame.len());
            frame[place] = byte;
        }
        let limits = if limits { WIDE } else { Limits { frame_bytes: 200, depth: 3 } };
        let cuts = sorted(cuts, frame.len());
        check_cut(limits, &frame, cuts);
    }

    #[test]
    fn soup_in_random_pieces(input in soup(), cuts in vec(any::<Index>(), 0..20), frame_bytes in 0u32..300, depth in 0u16..12) {
        let cuts = sorted(cuts, input.len());
        check_cut(WIDE, &input, cuts.clone());
        check_cut(Limits { frame_bytes, depth }, &input, cuts);
    }

    #[test]
    fn soup_is_read_as_rmpv_reads_it(input in soup()) {
        match Framer::new(WIDE).feed(&input) {
            Ok(Progress::Complete { used }) => prop_assert_eq!(read_by_rmpv(&input), Some(used)),
            Ok(Progress::More { .. }) => prop_assert_eq!(read_by_rmpv(&input), None),
            Err(error) => match error.kind() {
                // What rmpv reads on from there is its own affair.
                ErrorKind::Reserved => prop_assert_eq!(input[error.offset() as usize], 0xc1),
                // The bytes for what is announced are not there.
                ErrorKind::TooLarge => prop_assert_eq!(read_by_rmpv(&input), None),
                kind => prop_assert!(false, "{:?}", kind),
            },
        }
    }

    /// A framer that has come to know a frame says of others that look much like it what one says that knows none.
    #[test]
    fn frames_like_one_that_is_known(
        frame in frame(), others in vec((vec((any::<Index>(), any::<u8>()), 0..3), any::<Index>(), vec(any::<u8>(), 0..20)), 1..12),
        frame_bytes in 0u32..400, depth in 0u16..6,
    ) {
        for limits in [WIDE, Limits { frame_bytes, depth }] {
            let mut framer = Framer::new(limits);
            for (damage, end, tail) in &others {
                for _ in 0..3 {
                    check_one(&mut framer, &frame);
                }
                let mut other = frame.clone();
                for (place, byte) in damage {
                    let place = place.index(other.len());
                    other[place] = *byte;
                }
                check_one(&mut framer, &[&other[..], tail].concat());
                check_one(&mut framer, &other[..end.index(other.len() + 1)]);
            }
        }
    }

    /// Every piece in which the frame may be parked, in a framer that others use too.
    #[test]
    fn parked_in_random_pieces(frames in vec((frame(), vec(any::<Index>(), 0..6)), 2..5)) {
        let mut framer = Framer::new(WIDE);
        let mut streams: Vec<_> = frames
            .into_iter()
            .map(|(frame, cuts)| {
                let cuts = sorted(cuts, frame.len());
                let verdicts = judge_prefixes(&frame[..frame.len().min(400)], WIDE);
                (frame, cuts.into_iter(), 0, None, verdicts)
            })
            .collect();
        while !streams.is_empty() {
            streams.retain_mut(|(frame, cuts, fed, parked, verdicts)| {
                assert!(framer.is_idle());
                if let Some(parked) = parked.take() {
                    framer.resume(parked);
                }
                let end = cuts.next().unwrap_or(frame.len());
                let answer = framer.feed(&frame[*fed..end]).unwrap();
                if let (Some(Verdict::More(expected)), Progress::More { at_least }) = (verdicts.get(end), answer) {
                    assert_eq!(at_least as u64, *expected);
                }
                let more = end < frame.len();
                match answer {
                    Progress::More { .. } => assert!(more),
                    Progress::Complete { used } => assert_eq!(*fed + used, frame.len()),
                }
                *parked = framer.park();
                *fed = end;
                more
            });
        }
    }
}
