//! Shared by the tests: a reference to judge by, and frames to be judged.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]

pub mod reference;
pub mod samples;

use ringhold_framer::{ErrorKind, Framer, Limits, Progress};

pub use self::reference::{Verdict, judge};

/// Limits that no sample reaches.
pub const WIDE: Limits = Limits {
    frame_bytes: 1 << 30,
    depth: 1000,
};

/// What is to be said about every prefix of some input.
pub fn judge_prefixes(input: &[u8], limits: Limits) -> Vec<Verdict> {
    (0..=input.len())
        .map(|end| judge(&input[..end], limits))
        .collect()
}

/// Feeds the input in pieces that end at `cuts` and at its end, and compares every answer with the verdict on what was fed
/// until then.
pub fn check_pieces(
    framer: &mut Framer,
    input: &[u8],
    verdicts: &[Verdict],
    cuts: impl IntoIterator<Item = usize>,
) {
    assert!(framer.is_idle());
    let mut fed = 0;
    for end in cuts.into_iter().chain([input.len()]) {
        let answer = framer.feed(&input[fed..end]);
        let verdict = match answer {
            Ok(Progress::Complete { used }) => Verdict::End(fed + used),
            Ok(Progress::More { at_least }) => Verdict::More(at_least as u64),
            Err(error) => Verdict::Refused(error.kind(), error.offset()),
        };
        assert_eq!(
            verdict,
            verdicts[end],
            "fed {:02x?}, then {:02x?}, under {:?}",
            &input[..fed],
            &input[fed..end],
            framer.limits()
        );
        match verdict {
            Verdict::More(at_least) => {
                assert_ne!(at_least, 0);
                assert_eq!(framer.is_idle(), end == 0);
                assert_eq!(
                    framer
                        .finish()
                        .map_err(|error| (error.kind(), error.offset())),
                    match end {
                        0 => Ok(()),
                        end => Err((ErrorKind::Truncated, end as u64)),
                    }
                );
            }
            Verdict::End(_) => {
                assert!(framer.is_idle());
                assert_eq!(framer.finish(), Ok(()));
                return;
            }
            Verdict::Refused(..) => {
                assert!(!framer.is_idle());
                assert_eq!(framer.finish().err(), answer.err());
                framer.reset();
                // All that is said of it does not depend on the cuts.
                assert_eq!(framer.feed(&input[..end]), answer);
                framer.reset();
                return;
            }
        }
        fed = end;
    }
    framer.reset();
}

/// Whole, and cut in every way into two pieces, into three, and into single bytes.
pub fn check_few_cuts(framer: &mut Framer, input: &[u8]) {
    let verdicts = judge_prefixes(input, framer.limits());
    check_pieces(framer, input, &verdicts, []);
    check_pieces(framer, input, &verdicts, 0..=input.len());
    for first in 0..=input.len() {
        for second in first..=input.len() {
            check_pieces(framer, input, &verdicts, [first, second]);
        }
    }
}

/// Cut in every way that there is.
pub fn check_all_cuts(framer: &mut Framer, input: &[u8]) {
    let verdicts = judge_prefixes(input, framer.limits());
    let places = input.len().saturating_sub(1);
    for chosen in 0u32..1 << places {
        let cuts = (0..places)
            .filter(|place| chosen >> place & 1 == 1)
            .map(|place| place + 1);
        check_pieces(framer, input, &verdicts, cuts);
    }
}
