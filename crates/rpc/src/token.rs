//! Objects that this process wrote, one token after the other.
//!
//! What peers send is cut by the framer of the core; this is for the few places that look again at what a handler
//! wrote.

use rmp::Marker;
use rmp::decode::{Bytes, RmpRead, read_marker};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// str and bin.
    String,
    /// Extension types.
    Extension,
    Other,
}

/// A marker with its length bytes, and the payload up to the next marker.
pub(crate) struct Token {
    pub(crate) family: Family,
    /// Bytes of the marker, the length and the extension type.
    pub(crate) header: usize,
    payload: usize,
    /// Objects that belong to it and follow it.
    children: u64,
}

impl Token {
    /// The token at the beginning of `bytes`; `None` if there is no whole one.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let mut rest = Bytes::new(bytes);
        let marker = read_marker(&mut rest).ok()?;
        let length_bytes = match marker {
            Marker::Str8 | Marker::Bin8 | Marker::Ext8 => 1,
            Marker::Str16 | Marker::Bin16 | Marker::Ext16 | Marker::Array16 | Marker::Map16 => 2,
            Marker::Str32 | Marker::Bin32 | Marker::Ext32 | Marker::Array32 | Marker::Map32 => 4,
            _ => 0,
        };
        let mut length = 0usize;
        for _ in 0..length_bytes {
            length = length << 8 | usize::from(rest.read_u8().ok()?);
        }
        let token = match marker {
            Marker::FixStr(length) => Self::string(0, length.into()),
            Marker::Str8 | Marker::Str16 | Marker::Str32 => Self::string(length_bytes, length),
            Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => Self::string(length_bytes, length),
            Marker::FixExt1 => Self::extension(0, 1),
            Marker::FixExt2 => Self::extension(0, 2),
            Marker::FixExt4 => Self::extension(0, 4),
            Marker::FixExt8 => Self::extension(0, 8),
            Marker::FixExt16 => Self::extension(0, 16),
            Marker::Ext8 | Marker::Ext16 | Marker::Ext32 => Self::extension(length_bytes, length),
            Marker::FixArray(children) => Self::container(0, children.into()),
            Marker::Array16 | Marker::Array32 => Self::container(length_bytes, length as u64),
            Marker::FixMap(pairs) => Self::container(0, 2 * u64::from(pairs)),
            Marker::Map16 | Marker::Map32 => Self::container(length_bytes, 2 * length as u64),
            Marker::U8 | Marker::I8 => Self::number(1),
            Marker::U16 | Marker::I16 => Self::number(2),
            Marker::U32 | Marker::I32 | Marker::F32 => Self::number(4),
            Marker::U64 | Marker::I64 | Marker::F64 => Self::number(8),
            Marker::FixPos(_) | Marker::FixNeg(_) | Marker::Null | Marker::True | Marker::False => {
                Self::number(0)
            }
            Marker::Reserved => return None,
        };
        (token.len() <= bytes.len()).then_some(token)
    }

    /// Bytes up to the next token.
    pub(crate) fn len(&self) -> usize {
        self.header + self.payload
    }

    fn string(length_bytes: usize, payload: usize) -> Self {
        Token {
            family: Family::String,
            header: 1 + length_bytes,
            payload,
            children: 0,
        }
    }

    fn extension(length_bytes: usize, payload: usize) -> Self {
        Token {
            family: Family::Extension,
            header: 1 + length_bytes + 1,
            payload,
            children: 0,
        }
    }

    fn container(length_bytes: usize, children: u64) -> Self {
        Token {
            family: Family::Other,
            header: 1 + length_bytes,
            payload: 0,
            children,
        }
    }

    fn number(payload: usize) -> Self {
        Token {
            family: Family::Other,
            header: 1,
            payload,
            children: 0,
        }
    }
}

/// Whether `bytes` are what a handler may give as a result: one whole object, or nothing, which means nil.
pub(crate) fn is_result(bytes: &[u8]) -> bool {
    bytes.is_empty() || is_one_object(bytes)
}

/// Whether `bytes` are exactly one whole object.
fn is_one_object(mut bytes: &[u8]) -> bool {
    let mut due = 1u64;
    while due > 0 {
        let Some(token) = Token::read(bytes) else {
            return false;
        };
        due = due - 1 + token.children;
        bytes = &bytes[token.len()..];
    }
    bytes.is_empty()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_object_is_neither_none_nor_two_nor_a_part() {
        let whole: &[&[u8]] = &[
            b"\xc0",
            b"\x93\x01\x81\xa1k\xc4\x02xy\x92\xcf\0\0\0\0\0\0\0\x01\xcb\0\0\0\0\0\0\0\0",
            b"\xc7\x02\x05xy",
            b"\xd5\x05xy",
            b"\xdc\x00\x01\xde\x00\x01\xd9\x01k\xd0\xff",
        ];
        for object in whole {
            assert!(is_one_object(object), "{object:x?}");
            for cut in 0..object.len() {
                assert!(!is_one_object(&object[..cut]), "{object:x?} cut at {cut}");
            }
            assert!(!is_one_object(&[*object, b"\x00"].concat()));
        }
        assert!(!is_one_object(b"\xc1"));
    }

    proptest! {
        #[test]
        fn agrees_with_rmpv(bytes in proptest::collection::vec(any::<u8>(), 0..30)) {
            let mut rest = &bytes[..];
            // rmpv takes the reserved byte for nil.
            prop_assume!(!bytes.contains(&0xc1));
            let read = rmpv::decode::read_value(&mut rest);
            prop_assert_eq!(is_one_object(&bytes), read.is_ok() && rest.is_empty());
        }
    }
}
