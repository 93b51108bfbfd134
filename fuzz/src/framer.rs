//! The framer against the recursive reference of its tests.
//!
//! Input: a byte of depth, two of `frame_bytes` (little endian), a byte with the number of pieces (its low five bits), with
//! 0x20 for parking between pieces and 0x40 for going on under narrower limits as well; the lengths of the pieces, a byte
//! each; and the stream. The pieces are taken in turn, at most [`PIECES_MAX`] of them, and then all the rest.

use ringhold_framer::{Error, ErrorKind, Framer, Limits, Parked, Progress};

use super::reference::{Verdict, judge};

/// The reference reads everything again for each piece.
const PIECES_MAX: usize = 200;

/// Runs one input.
pub fn run(data: &[u8]) {
    let [depth, low, high, flags, rest @ ..] = data else {
        return;
    };
    let Some((pieces, stream)) = rest.split_at_checked(usize::from(flags & 0x1f)) else {
        return;
    };
    let limits = Limits {
        frame_bytes: u32::from(u16::from_le_bytes([*low, *high])),
        depth: u16::from(*depth),
    };
    whole(stream, limits);
    familiar(stream, limits);
    let mut split = Split {
        framer: Framer::new(limits),
        parks: flags & 0x20 != 0,
        narrower: (flags & 0x40 != 0).then(|| Framer::new(narrower(limits))),
    };
    split.run(stream, pieces);
}

/// Fed as a whole, frame by frame.
fn whole(stream: &[u8], limits: Limits) {
    let mut framer = Framer::new(limits);
    let mut rest = stream;
    loop {
        let expected = judge(rest, limits);
        let answer = framer.feed(rest);
        assert_eq!(verdict(answer, 0), expected);
        if let Verdict::End(used) = expected {
            rest = &rest[used..];
            continue;
        }
        // Fed again, an error is the same error, and an unfinished frame goes on.
        assert_eq!(framer.feed(&[]), answer);
        if answer.is_err() {
            assert_eq!(framer.feed(rest), answer);
        }
        let finish = match expected {
            Verdict::Refused(kind, offset) => Some((kind, offset)),
            _ if rest.is_empty() => None,
            _ => Some((ErrorKind::Truncated, rest.len() as u64)),
        };
        let found = framer.finish().err().map(|e| (e.kind(), e.offset()));
        assert_eq!(found, finish);
        assert_eq!(framer.is_idle(), finish.is_none());
        return;
    }
}

/// The first frame of the stream three times, so that it is known, and then whatever the rest of the stream makes of it: each two
/// bytes of it are a place and what is there instead.
fn familiar(stream: &[u8], limits: Limits) {
    let Verdict::End(length) = judge(stream, limits) else {
        return;
    };
    let (frame, changes) = stream.split_at(length);
    let mut framer = Framer::new(limits);
    let mut other = [frame, frame].concat();
    for change in [[0, frame[0]].as_slice(); 3]
        .into_iter()
        .chain(changes.chunks_exact(2).take(PIECES_MAX))
    {
        let [place, byte] = change else { return };
        let place = usize::from(*place) % other.len();
        let before = std::mem::replace(&mut other[place], *byte);
        for bytes in [&other[..], &other[..length]] {
            assert_eq!(verdict(framer.feed(bytes), 0), judge(bytes, limits));
            framer.reset();
        }
        if place % 2 == 0 {
            other[place] = before;
        }
    }
}

/// The same stream in pieces.
struct Split {
    framer: Framer,
    parks: bool,
    narrower: Option<Framer>,
}

impl Split {
    fn run(&mut self, stream: &[u8], pieces: &[u8]) {
        let lengths = pieces.iter().map(|length| usize::from(*length));
        let mut lengths = lengths.cycle().take(PIECES_MAX).chain([usize::MAX]);
        // Where the frame began, and how much was fed.
        let (mut start, mut fed) = (0, 0);
        let mut piece_end = 0;
        while fed < stream.len() {
            if fed == piece_end {
                let Some(length) = lengths.next() else {
                    return;
                };
                piece_end = fed.saturating_add(length).min(stream.len());
                self.park(&stream[start..], fed - start);
            }
            let answer = self.framer.feed(&stream[fed..piece_end]);
            let limits = self.framer.limits();
            let expected = judge(&stream[start..piece_end], limits);
            assert_eq!(verdict(answer, fed - start), expected);
            match answer {
                Ok(Progress::Complete { used }) => {
                    fed += used;
                    start = fed;
                }
                Ok(Progress::More { at_least }) => {
                    fed = piece_end;
                    assert!(at_least > 0);
                    if let Verdict::End(length) = judge(&stream[start..], limits) {
                        assert!(fed - start + at_least <= length, "{at_least} are too many");
                    }
                }
                Err(_) => {
                    let parked = self.framer.park();
                    assert!(self.framer.is_idle());
                    self.resume(parked);
                    assert_eq!(self.framer.feed(&stream[fed..]), answer);
                    return;
                }
            }
        }
    }

    /// Between two pieces, in the frame that `frame` begins with and of which `there` bytes were fed.
    fn park(&mut self, frame: &[u8], there: usize) {
        if !self.parks {
            return;
        }
        let idle = self.framer.is_idle();
        let parked = self.framer.park();
        assert_eq!(parked.is_none(), idle);
        assert_eq!(parked.is_none(), there == 0);
        assert!(self.framer.is_idle());
        // Another stream in between.
        let _ = self.framer.feed(&[0x93, 0x91, 0xda, 1]);
        self.framer.reset();
        if let Some(narrower) = &mut self.narrower
            && let Some(parked) = &parked
        {
            go_on_under(narrower, parked.clone(), frame, there, self.framer.limits());
        }
        self.resume(parked);
    }

    fn resume(&mut self, parked: Option<Parked>) {
        if let Some(parked) = parked {
            self.framer.resume(parked);
            assert!(!self.framer.is_idle());
        }
    }
}

/// A frame that goes on under narrower limits ends where it would have, or is refused.
fn go_on_under(narrower: &mut Framer, parked: Parked, frame: &[u8], there: usize, wide: Limits) {
    narrower.resume(parked);
    let answer = narrower.feed(&frame[there..]);
    match verdict(answer, there) {
        Verdict::Refused(ErrorKind::Reserved, at) => {
            let reserved = Verdict::Refused(ErrorKind::Reserved, at);
            assert_eq!(judge(frame, wide), reserved);
        }
        Verdict::Refused(_, at) => assert!(at <= frame.len() as u64),
        other => {
            assert_eq!(other, judge(frame, wide));
            if let Verdict::End(length) = other {
                assert!(length <= narrower.limits().frame_bytes as usize);
            }
        }
    }
    narrower.reset();
}

fn narrower(limits: Limits) -> Limits {
    Limits {
        frame_bytes: limits.frame_bytes / 2,
        depth: limits.depth / 2,
    }
}

/// `before` bytes of the frame were fed earlier.
fn verdict(answer: Result<Progress, Error>, before: usize) -> Verdict {
    match answer {
        Ok(Progress::Complete { used }) => Verdict::End(before + used),
        Ok(Progress::More { at_least }) => Verdict::More(at_least as u64),
        Err(error) => Verdict::Refused(error.kind(), error.offset()),
    }
}
