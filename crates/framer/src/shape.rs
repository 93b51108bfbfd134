//! Frames that look like one before.
//!
//! Where a frame ends is decided by its headers alone. What comes in at a high rate repeats itself: the same method or the
//! same fields in every frame, the headers at the same places, other values between them. So the headers of one frame are
//! kept as a pattern, and of a frame that has all of them the end is known without reading it object by object.

use crate::table::{CLASS, HEADER_MAX, SIZED, sized};

/// Bytes that are compared in one step.
const STEP: usize = size_of::<u128>();
/// A frame whose last header is not within so many steps is not learned.
const STEPS_MAX: usize = 16;
/// A pattern that hits less often than this between two misses has failed once.
const HITS_MIN: u32 = 4;
/// After so many failures in a row nothing is learned for a while ...
const FAILURES_MAX: u32 = 8;
/// ... which are so many frames.
const REST_FRAMES: u32 = 256;

/// The headers of one frame, and whether they were of use lately.
#[derive(Debug)]
pub(crate) struct Shape {
    /// How long a frame is that has these headers. Nothing is so long if none are known.
    length: usize,
    /// In so many steps are the headers.
    steps: usize,
    headers: [Step; STEPS_MAX],
    /// Frames that had these headers since the last one that had not.
    hits: u32,
    /// How often that were too few, in a row.
    failures: u32,
    /// So many more frames pass before one may be learned.
    rest: u32,
    /// The length of the last frame that did not have these headers.
    missed: usize,
}

/// What the headers in one step look like: `mask` has the bits that belong to them, `bits` their values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Step {
    mask: u128,
    bits: u128,
}

impl Step {
    #[inline(always)]
    fn has(self, bytes: [u8; STEP]) -> bool {
        (u128::from_ne_bytes(bytes) ^ self.bits) & self.mask == 0
    }
}

impl Shape {
    pub(crate) const UNKNOWN: Shape = Shape {
        length: usize::MAX,
        steps: 0,
        headers: [Step { mask: 0, bits: 0 }; STEPS_MAX],
        hits: 0,
        failures: 0,
        rest: 0,
        missed: 0,
    };

    /// Where the frame that `bytes` begin with ends, if it is whole and has the known headers.
    #[inline]
    pub(crate) fn end(&mut self, bytes: &[u8]) -> Option<usize> {
        if bytes.len() < self.length {
            return None;
        }
        let (first, behind) = bytes.split_first_chunk()?;
        if !self.headers[0].has(*first) || (self.steps > 1 && !self.goes_on(behind)) {
            return None;
        }
        self.hits = self.hits.wrapping_add(1);
        Some(self.length)
    }

    /// Nothing longer than this many bytes is found any more.
    #[inline]
    pub(crate) fn forget_longer(&mut self, bytes: usize) {
        if self.length > bytes {
            self.length = usize::MAX;
        }
    }

    /// Whether the headers behind those of the first step are there.
    fn goes_on(&self, behind: &[u8]) -> bool {
        let (steps, _) = behind.as_chunks();
        let Some(steps) = steps.get(..self.steps - 1) else {
            return false;
        };
        let mut pairs = self.headers[1..].iter().zip(steps);
        pairs.all(|(header, bytes)| header.has(*bytes))
    }

    /// Takes note of a whole frame whose end had to be found otherwise.
    #[inline]
    pub(crate) fn missed(&mut self, frame: &[u8]) {
        if self.rest > 0 {
            self.rest -= 1;
        } else {
            self.consider(frame);
        }
    }

    /// Learns the second of two frames of the same length, and gives up when that does not pay.
    #[cold]
    fn consider(&mut self, frame: &[u8]) {
        let hits = core::mem::take(&mut self.hits);
        let missed = core::mem::replace(&mut self.missed, frame.len());
        self.failures = if hits < HITS_MIN {
            self.failures + 1
        } else {
            0
        };
        if self.failures == FAILURES_MAX {
            self.length = usize::MAX;
            self.failures = 0;
            self.rest = REST_FRAMES;
        } else if hits == 0 && missed == frame.len() {
            self.learn(frame);
        }
    }

    /// Keeps the headers of a whole frame.
    fn learn(&mut self, frame: &[u8]) {
        let mut mask = [0; STEP * STEPS_MAX];
        let mut steps = 0;
        let mut next = 0;
        while let Some(rest @ [byte, ..]) = frame.get(next..) {
            let (header, object) = extent(rest, *byte);
            let Some(marked) = mask.get_mut(next..next + header) else {
                self.length = usize::MAX;
                return;
            };
            marked.fill(0xff);
            marked[0] = kind(*byte);
            steps = (next + header).div_ceil(STEP);
            next += object;
        }
        debug_assert_eq!(next, frame.len(), "it is one whole frame");
        let mut bytes = [0; STEP * STEPS_MAX];
        let common = frame.len().min(bytes.len());
        bytes[..common].copy_from_slice(&frame[..common]);
        let (masks, _) = mask.as_chunks();
        let (bytes, _) = bytes.as_chunks();
        for ((header, mask), bytes) in self.headers.iter_mut().zip(masks).zip(bytes) {
            let mask = u128::from_ne_bytes(*mask);
            let bits = u128::from_ne_bytes(*bytes) & mask;
            *header = Step { mask, bits };
        }
        self.steps = steps;
        self.length = frame.len();
    }
}

/// Of the object that `rest` begins with: the bytes of its header, and the bytes up to where the next one begins, which
/// is its first element if it has any.
fn extent(rest: &[u8], byte: u8) -> (usize, usize) {
    let class = CLASS[usize::from(byte)];
    if class != SIZED {
        return (1, if class > 0 { class as usize } else { 1 });
    }
    let sized = sized(byte);
    let mut header = [0; HEADER_MAX];
    let there = rest.len().min(header.len());
    header[..there].copy_from_slice(&rest[..there]);
    let payload = match sized.objects {
        0 => usize::from(sized.extra) + sized.length(&header) as usize,
        _ => 0,
    };
    let header = usize::from(sized.header);
    (header, header + payload)
}

/// The bits of a type byte that decide how the object is read on: all of them, but for numbers and booleans that are
/// their own value.
fn kind(byte: u8) -> u8 {
    match byte {
        0x00..=0x7f => 0x80,
        0xe0..=0xff => 0xe0,
        0xc2 | 0xc3 => 0xfe,
        _ => 0xff,
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    /// `[0, id, "echo", [number, bin of 20 bytes]]`
    fn call(id: u8, number: u8, payload: u8) -> Vec<u8> {
        let head = [
            0x94, 0, 0xce, 9, 9, 9, id, 0xa4, b'e', b'c', b'h', b'o', 0x92, number, 0xc4, 20,
        ];
        [&head[..], &[payload; 20]].concat()
    }

    fn learned(frame: &[u8]) -> Shape {
        let mut shape = Shape::UNKNOWN;
        for _ in 0..2 {
            assert_eq!(shape.end(frame), None);
            shape.missed(frame);
        }
        shape
    }

    #[test]
    fn the_second_frame_of_a_length_is_learned_and_values_do_not_matter() {
        let mut shape = learned(&call(1, 5, 7));
        let two = [call(200, 0x7f, 0xff), call(3, 0, 0)].concat();
        assert_eq!(shape.end(&two), Some(36));
        assert_eq!(shape.end(&two[36..]), Some(36));
        assert_eq!(shape.end(&two[37..]), None, "a byte is missing");
        for (place, byte) in [
            (0, 0x93),
            (2, 0xcd),
            (7, 0xa3),
            (12, 0x91),
            (13, 0xcc),
            (13, 0xe0),
            (15, 21),
        ] {
            let mut other = call(1, 5, 7);
            other[place] = byte;
            other.push(0);
            assert_eq!(shape.end(&other), None, "{byte:#x} at {place}");
        }
    }

    #[test]
    fn headers_may_lie_far_behind_but_not_everywhere() {
        let far = |length: u8| {
            [
                &[0x92, 0xc4, length][..],
                &[0xc1; 255][..usize::from(length)],
                &[0xcd, 1, 2],
            ]
            .concat()
        };
        let mut shape = learned(&far(240));
        let more = [far(240), far(9)].concat();
        assert_eq!(shape.end(&more), Some(246));
        assert_eq!(shape.end(&[&far(240)[..243], &[0xce; 30]].concat()), None);
        let mut shape = learned(&far(253));
        assert_eq!(shape.end(&far(253).repeat(2)), None);
    }

    #[test]
    fn what_does_not_repeat_is_left_alone_for_a_while() {
        let mut shape = Shape::UNKNOWN;
        for length in 0..FAILURES_MAX as usize {
            shape.missed(&[&[0xa0 + length as u8][..], &[1; 31][..length]].concat());
        }
        let frame = call(1, 1, 1);
        for _ in 0..REST_FRAMES + 2 {
            assert_eq!(shape.end(&frame), None);
            shape.missed(&frame);
        }
        assert_eq!(shape.end(&frame), Some(36));
    }

    #[test]
    fn a_stray_frame_does_not_replace_what_is_known() {
        let mut shape = learned(&call(1, 5, 7));
        for _ in 0..100 {
            for _ in 0..HITS_MIN {
                assert_eq!(shape.end(&call(1, 5, 7)), Some(36));
            }
            shape.missed(b"\x93\x02\xa4ping\x90");
        }
    }
}
