//! What streams are made of: objects of every msgpack family, requests to the service, and what is neither.

use crate::common::random::{Random, filling};

/// A part of a client's stream.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    /// Any object that follows from the seed, at most four levels deep.
    Any(u64),
    /// An object of exactly so many bytes (at least eight), filled from a seed.
    Sized(Family, usize, u64),
    /// An array in an array and so on, with so many levels.
    Nested(usize),
    /// So many objects of one byte.
    Many(usize),
    /// A request to [`super::actor::Actor`].
    Ask(Ask),
    /// The header of an object of so many bytes, and nothing of them.
    Announced(Family, u32),
    /// An array of two, the second of which begins with the byte that msgpack reserves.
    Reserved,
    /// So many bytes of anything that follows from the seed.
    Garbage(u64, usize),
    /// A number, which is no array.
    Bare(u8),
}

/// Families whose members can have any size.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Family {
    Bin,
    Str,
    Ext,
    /// Of numbers in one byte.
    Array,
    /// Of numbers in one byte to nil.
    Map,
}

impl Family {
    pub(crate) const ALL: [Family; 5] = [
        Family::Bin,
        Family::Str,
        Family::Ext,
        Family::Array,
        Family::Map,
    ];

    /// The header of the widest form with this length.
    fn header(self, length: u32) -> Vec<u8> {
        let marker = match self {
            Family::Bin => 0xc6,
            Family::Str => 0xdb,
            Family::Ext => 0xc9,
            Family::Array => 0xdd,
            Family::Map => 0xdf,
        };
        let mut header = vec![marker];
        header.extend(length.to_be_bytes());
        header
    }

    /// An object of `size` bytes, at least eight.
    fn object(self, size: usize, seed: u64) -> Vec<u8> {
        let rest = size - 5;
        match self {
            Family::Bin | Family::Str => {
                let mut object = self.header(rest as u32);
                object.extend(filling(seed, rest));
                object
            }
            Family::Ext => {
                let mut object = self.header(rest as u32 - 1);
                object.extend(filling(seed, rest));
                object
            }
            Family::Array => {
                let mut object = self.header(rest as u32);
                object.extend(filling(seed, rest).iter().map(|byte| byte & 0x7f));
                object
            }
            Family::Map => {
                // An odd byte goes into a key of two.
                let mut object = self.header(rest as u32 / 2);
                if rest % 2 == 1 {
                    object.push(0xcc);
                }
                let keys = filling(seed, rest / 2);
                object.extend(keys.iter().flat_map(|byte| [byte & 0x7f, 0xc0]));
                object
            }
        }
    }
}

/// What a frame asks of the service: `["ask", verb, number]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// A ticket, and no reply.
    Defer,
    /// A reply with so many bytes.
    Fill(u32),
    /// The same, of shared bytes.
    Share(u32),
    /// A push of so many bytes to the own connection, and a reply.
    Push(u32),
    /// A reply, and a push of more than may be pushed.
    Flood,
    /// A reply, and the end.
    Close,
    /// A reply, half of another one, and a panic.
    Panic,
    /// A reply after so many milliseconds, in which the worker does nothing else: what comes meanwhile comes at once.
    Nap(u32),
}

const ASK: [u8; 5] = [0x93, 0xa3, b'a', b's', b'k'];

impl Ask {
    fn bytes(self) -> Vec<u8> {
        let (verb, number) = match self {
            Ask::Defer => (0, 0),
            Ask::Fill(length) => (1, length),
            Ask::Share(length) => (2, length),
            Ask::Push(length) => (3, length),
            Ask::Flood => (4, 0),
            Ask::Close => (5, 0),
            Ask::Panic => (6, 0),
            Ask::Nap(milliseconds) => (7, milliseconds),
        };
        let mut frame = ASK.to_vec();
        frame.extend([verb, 0xce]);
        frame.extend(number.to_be_bytes());
        frame
    }

    /// What `frame` asks for; `None` if it is any other object.
    pub(crate) fn of(frame: &[u8]) -> Option<Self> {
        let [verb, 0xce, number @ ..] = frame.strip_prefix(&ASK)? else {
            return None;
        };
        let number = u32::from_be_bytes(number.try_into().ok()?);
        Some(match verb {
            0 => Ask::Defer,
            1 => Ask::Fill(number),
            2 => Ask::Share(number),
            3 => Ask::Push(number),
            4 => Ask::Flood,
            5 => Ask::Close,
            6 => Ask::Panic,
            7 => Ask::Nap(number),
            _ => return None,
        })
    }
}

impl Item {
    /// Its bytes; those of objects are in an array if `in_array`.
    pub(crate) fn bytes(&self, in_array: bool) -> Vec<u8> {
        let wrapped = |object: Vec<u8>| match in_array {
            true => [vec![0x91], object].concat(),
            false => object,
        };
        match self {
            Item::Any(seed) => {
                let mut object = Vec::new();
                any(&mut Random::new(*seed), 3, &mut object);
                wrapped(object)
            }
            Item::Sized(family, size, seed) => {
                wrapped(family.object(size - usize::from(in_array), *seed))
            }
            Item::Nested(levels) => [vec![0x91; *levels], vec![0xc0]].concat(),
            Item::Many(count) if in_array => vec![0x90; *count],
            Item::Many(count) => (0..*count).map(|i| i as u8 & 0x7f).collect(),
            Item::Ask(ask) => ask.bytes(),
            Item::Announced(family, length) => wrapped(family.header(*length)),
            Item::Reserved => vec![0x92, 0x01, 0xc1],
            Item::Garbage(seed, length) => filling(*seed, *length),
            Item::Bare(number) => vec![number & 0x7f],
        }
    }
}

/// Appends any object with at most `levels` levels below its own.
fn any(random: &mut Random, levels: usize, out: &mut Vec<u8>) {
    let nests = if levels > 0 { 16 } else { 10 };
    match random.below(nests) {
        // The numbers in one byte.
        0 => out.push(random.next() as u8 & 0x7f),
        1 => out.push(random.next() as u8 | 0xe0),
        // nil, false, true.
        2 => out.push(random.pick(&[0xc0, 0xc2, 0xc3])),
        // Numbers of fixed length: uint, int, float.
        3 | 4 => {
            let (marker, length) = random.pick(&[
                (0xcc, 1),
                (0xcd, 2),
                (0xce, 4),
                (0xcf, 8),
                (0xd0, 1),
                (0xd1, 2),
                (0xd2, 4),
                (0xd3, 8),
                (0xca, 4),
                (0xcb, 8),
            ]);
            out.push(marker);
            out.extend(filling(random.next(), length));
        }
        // fixext.
        5 => {
            let log = random.below(5);
            out.push(0xd4 + log as u8);
            out.extend(filling(random.next(), 1 + (1 << log)));
        }
        // Strings, bytes and extensions with lengths in one, two or four bytes.
        6 => {
            let length = random.below(32);
            out.push(0xa0 | length as u8);
            out.extend(filling(random.next(), length));
        }
        7..=9 => {
            let max = random.pick(&[100, 100, 100, 2000]);
            let length = random.below(max);
            let (marker, extra) = random.pick(&[(0xd9, 0), (0xc4, 0), (0xc7, 1)]);
            header(random, [marker, marker + 1, marker + 2], length, out);
            out.extend(filling(random.next(), length + extra));
        }
        10..=12 => {
            let count = random.below(6);
            match random.once_in(2) {
                true => out.push(0x90 | count as u8),
                false => header(random, [0xdc, 0xdc, 0xdd], count, out),
            }
            (0..count).for_each(|_| any(random, levels - 1, out));
        }
        _ => {
            let count = random.below(4);
            match random.once_in(2) {
                true => out.push(0x80 | count as u8),
                false => header(random, [0xde, 0xde, 0xdf], count, out),
            }
            (0..2 * count).for_each(|_| any(random, levels - 1, out));
        }
    }
}

/// Appends one of three forms of a header, the first two of which may have the same marker and then have the wider
/// form.
fn header(random: &mut Random, markers: [u8; 3], length: usize, out: &mut Vec<u8>) {
    let narrow = markers[0] != markers[1] && length < 256;
    let form = random.below(3).max(usize::from(!narrow));
    out.push(markers[form]);
    match form {
        0 => out.push(length as u8),
        1 => out.extend((length as u16).to_be_bytes()),
        _ => out.extend((length as u32).to_be_bytes()),
    }
}
