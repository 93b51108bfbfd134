//! What a type byte says about the object that it begins.
//!
//! The tables are computed from [`rmp::Marker`], so that the assignment of codes to types is stated in one place only.

use rmp::Marker;

/// Marks the types whose length follows the type byte, and 0xc1: look into [`sized`].
pub(crate) const SIZED: i8 = i8::MIN;

/// One number for each type byte, ordered so that two comparisons tell the three classes apart (the idea is msgpuck's
/// `mp_parser_hint`):
/// - above zero: an object of this many bytes, type byte included;
/// - zero and below: an array or a map, with minus this many objects in it (two for each entry of a map);
/// - [`SIZED`]: the length follows.
pub(crate) static CLASS: [i8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = class(byte as u8);
        byte += 1;
    }
    table
};

/// The objects in an array or a map of [`CLASS`]; zero for all else.
pub(crate) static OBJECTS: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < table.len() {
        if CLASS[byte] < 0 && CLASS[byte] != SIZED {
            table[byte] = CLASS[byte].unsigned_abs();
        }
        byte += 1;
    }
    table
};

const fn class(byte: u8) -> i8 {
    match Marker::from_u8(byte) {
        Marker::FixPos(_) | Marker::FixNeg(_) | Marker::Null | Marker::False | Marker::True => 1,
        Marker::U8 | Marker::I8 => 2,
        Marker::U16 | Marker::I16 => 3,
        Marker::U32 | Marker::I32 | Marker::F32 => 5,
        Marker::U64 | Marker::I64 | Marker::F64 => 9,
        // The type of an extension is one byte more.
        Marker::FixExt1 => 3,
        Marker::FixExt2 => 4,
        Marker::FixExt4 => 6,
        Marker::FixExt8 => 10,
        Marker::FixExt16 => 18,
        Marker::FixStr(len) => 1 + len as i8,
        Marker::FixArray(len) => -(len as i8),
        Marker::FixMap(len) => -2 * len as i8,
        Marker::Reserved
        | Marker::Bin8
        | Marker::Bin16
        | Marker::Bin32
        | Marker::Ext8
        | Marker::Ext16
        | Marker::Ext32
        | Marker::Str8
        | Marker::Str16
        | Marker::Str32
        | Marker::Array16
        | Marker::Array32
        | Marker::Map16
        | Marker::Map32 => SIZED,
    }
}

/// A type whose length follows the type byte, as a big-endian number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sized {
    /// The bytes of the header: the type byte and the length. Zero for 0xc1, which is no type.
    pub(crate) header: u8,
    /// The bytes that follow in any case, whatever the length says: the type of an extension.
    pub(crate) extra: u8,
    /// For an array or a map, the objects that each unit of the length stands for. Zero for a payload of bytes.
    pub(crate) objects: u8,
}

/// The longest header: a type byte and a length of four bytes.
pub(crate) const HEADER_MAX: usize = 5;

impl Sized {
    pub(crate) const fn is_reserved(self) -> bool {
        self.header == 0
    }

    /// The length, out of the bytes that follow the type byte. Those behind the header do not matter.
    #[inline(always)]
    pub(crate) fn length(self, header: &[u8; HEADER_MAX]) -> u64 {
        let [_, length @ ..] = *header;
        let unused = HEADER_MAX as u32 - u32::from(self.header);
        u64::from(u32::from_be_bytes(length) >> (8 * unused))
    }
}

/// The entry for a type byte of class [`SIZED`]. Meaningless for others.
#[inline(always)]
pub(crate) fn sized(byte: u8) -> Sized {
    SIZED_TYPES[usize::from(byte % 32)]
}

/// The types of class [`SIZED`] lie between 0xc0 and 0xdf.
static SIZED_TYPES: [Sized; 32] = {
    let mut table = [Sized {
        header: 0,
        extra: 0,
        objects: 0,
    }; 32];
    let mut low = 0;
    while low < table.len() {
        table[low] = sized_type(0xc0 + low as u8);
        low += 1;
    }
    table
};

const fn sized_type(byte: u8) -> Sized {
    let (header, extra, objects) = match Marker::from_u8(byte) {
        Marker::Str8 | Marker::Bin8 => (2, 0, 0),
        Marker::Str16 | Marker::Bin16 => (3, 0, 0),
        Marker::Str32 | Marker::Bin32 => (5, 0, 0),
        Marker::Ext8 => (2, 1, 0),
        Marker::Ext16 => (3, 1, 0),
        Marker::Ext32 => (5, 1, 0),
        Marker::Array16 => (3, 0, 1),
        Marker::Array32 => (5, 0, 1),
        Marker::Map16 => (3, 0, 2),
        Marker::Map32 => (5, 0, 2),
        _ => (0, 0, 0),
    };
    Sized {
        header,
        extra,
        objects,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lengths in the specification's table of formats, written out a second time.
    #[test]
    fn every_type_byte() {
        for byte in 0..=u8::MAX {
            let expected = match byte {
                0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => 1,
                0x80..=0x8f => -2 * (byte as i8 & 0x0f),
                0x90..=0x9f => -(byte as i8 & 0x0f),
                0xa0..=0xbf => 1 + (byte & 0x1f) as i8,
                0xcc | 0xd0 => 2,
                0xcd | 0xd1 => 3,
                0xce | 0xd2 | 0xca => 5,
                0xcf | 0xd3 | 0xcb => 9,
                0xd4..=0xd8 => 2 + (1 << (byte - 0xd4)),
                0xc1 | 0xc4..=0xc9 | 0xd9..=0xdf => SIZED,
            };
            assert_eq!(CLASS[usize::from(byte)], expected, "{byte:#04x}");
            let objects = match byte {
                0x80..=0x8f => 2 * (byte & 0x0f),
                0x90..=0x9f => byte & 0x0f,
                _ => 0,
            };
            assert_eq!(OBJECTS[usize::from(byte)], objects, "{byte:#04x}");
            if expected == SIZED {
                assert_eq!(sized(byte).is_reserved(), byte == 0xc1, "{byte:#04x}");
            }
        }
    }

    #[test]
    fn lengths_are_big_endian_and_unsigned() {
        let header = [0xd9, 0x81, 0x82, 0x83, 0x84];
        assert_eq!(sized(0xd9).length(&header), 0x81);
        assert_eq!(sized(0xda).length(&header), 0x8182);
        assert_eq!(sized(0xdb).length(&header), 0x8182_8384);
    }
}
