//! A reference to judge the framer by. Tests of connections and the fuzz targets use it too.

use ringhold_framer::{ErrorKind, Limits};

/// What is to be said about a piece of input that begins with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    End(usize),
    More(u64),
    Refused(ErrorKind, u64),
}

/// Judges by recursive descent, straight from the table of formats in the specification: slow, plain, and written
/// without a look at the framer's tables.
pub fn judge(input: &[u8], limits: Limits) -> Verdict {
    if limits.frame_bytes == 0 && !input.is_empty() {
        return Verdict::Refused(ErrorKind::TooLarge, 0);
    }
    let mut reference = Reference {
        input,
        limits,
        at: 0,
    };
    match reference.object(0, 0) {
        Ok(()) => Verdict::End(reference.at),
        Err(verdict) => verdict,
    }
}

/// Cuts a stream into whole frames; the second value is what follows them.
pub fn split(stream: &[u8], limits: Limits) -> (Vec<&[u8]>, &[u8]) {
    let mut frames = Vec::new();
    let mut rest = stream;
    while let Verdict::End(length) = judge(rest, limits) {
        let (frame, after) = rest.split_at(length);
        frames.push(frame);
        rest = after;
    }
    (frames, rest)
}

struct Reference<'a> {
    input: &'a [u8],
    limits: Limits,
    at: usize,
}

impl Reference<'_> {
    /// Reads an object inside `level` arrays and maps, behind which `outside` others are due.
    fn object(&mut self, level: u32, outside: u64) -> Result<(), Verdict> {
        let start = self.at as u64;
        let Some(&byte) = self.input.get(self.at) else {
            return Err(Verdict::More(1 + outside));
        };
        // The width of the length, the payload apart from what the length says, and what a unit of the length is.
        enum Unit {
            Byte,
            Objects(u64),
        }
        use Unit::{Byte, Objects};
        let (width, fixed, unit) = match byte {
            0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => (0, 0, Byte),
            0x80..=0x8f => (0, u64::from(byte & 15), Objects(2)),
            0x90..=0x9f => (0, u64::from(byte & 15), Objects(1)),
            0xa0..=0xbf => (0, u64::from(byte & 31), Byte),
            0xc1 => return Err(Verdict::Refused(ErrorKind::Reserved, start)),
            0xc4 | 0xd9 => (1, 0, Byte),
            0xc5 | 0xda => (2, 0, Byte),
            0xc6 | 0xdb => (4, 0, Byte),
            0xc7 => (1, 1, Byte),
            0xc8 => (2, 1, Byte),
            0xc9 => (4, 1, Byte),
            0xcc | 0xd0 => (0, 1, Byte),
            0xcd | 0xd1 => (0, 2, Byte),
            0xce | 0xd2 | 0xca => (0, 4, Byte),
            0xcf | 0xd3 | 0xcb => (0, 8, Byte),
            0xd4 => (0, 2, Byte),
            0xd5 => (0, 3, Byte),
            0xd6 => (0, 5, Byte),
            0xd7 => (0, 9, Byte),
            0xd8 => (0, 17, Byte),
            0xdc => (2, 0, Objects(1)),
            0xdd => (4, 0, Objects(1)),
            0xde => (2, 0, Objects(2)),
            0xdf => (4, 0, Objects(2)),
        };
        // A length that is not all there counts as zero: the least that it can be.
        let digits = self.input.get(self.at + 1..self.at + 1 + width);
        let length = digits
            .unwrap_or_default()
            .iter()
            .fold(0, |length, &digit| length << 8 | u64::from(digit));
        let header = 1 + width as u64;
        let (payload, children) = match unit {
            Byte => (fixed + length, 0),
            Objects(each) => (0, (fixed + length) * each),
        };

        if matches!(unit, Objects(_)) && level + 1 > u32::from(self.limits.depth) {
            return Err(Verdict::Refused(ErrorKind::TooDeep, start));
        }
        let end = start + header + payload;
        if end + children + outside > u64::from(self.limits.frame_bytes) {
            return Err(Verdict::Refused(ErrorKind::TooLarge, start));
        }
        let there = self.input.len() as u64;
        if digits.is_none() || end > there {
            return Err(Verdict::More(end - there + outside));
        }
        self.at = end as usize;
        for child in 0..children {
            self.object(level + 1, children - 1 - child + outside)?;
        }
        Ok(())
    }
}
