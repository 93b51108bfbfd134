//! Which families of strings a client knows.
//!
//! Before 2013 msgpack had one family for text and binary alike: raw, with the markers of today's fixstr, str16 and
//! str32. Clients of that age know neither str8, nor bin, nor extension types, and fail on them in the middle of a
//! reply.

use rmp::Marker;

use crate::fault::Fault;
use crate::token::{Family, Token};

/// Which msgpack the clients of a service read.
///
/// What they write is understood either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Strings {
    /// Today's: str, bin and extension types.
    #[default]
    Current,
    /// The one of old: text and binary are both raw, which is written as fixstr, str16 or str32; extension types do
    /// not exist. Every reply and notification is rewritten for that, which costs a pass over it. A result with an
    /// extension type in it becomes an error.
    OldRaw,
}

impl Strings {
    /// Rewrites the one object from `start` to the end of `out` so that the clients can read it.
    pub(crate) fn convert_tail(self, out: &mut Vec<u8>, start: usize) -> Result<(), Fault> {
        match self {
            Strings::Current => Ok(()),
            Strings::OldRaw => {
                let converted = to_old_raw(&out[start..])
                    .map_err(|why| Fault::new(format!("the result cannot be serialized: {why}")))?;
                out.truncate(start);
                out.extend_from_slice(&converted);
                Ok(())
            }
        }
    }

    /// Appends a short text.
    pub(crate) fn write_str(self, out: &mut Vec<u8>, text: &str) {
        match self {
            // Writing to a vector cannot fail.
            Strings::Current => {
                let _ = rmp::encode::write_str(out, text);
            }
            Strings::OldRaw => write_raw(out, text.as_bytes()),
        }
    }
}

/// Rewrites objects of today's msgpack as objects of the old one. The error says why they cannot be.
pub(crate) fn to_old_raw(objects: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut out = Vec::with_capacity(objects.len() + 16);
    let mut rest = objects;
    while !rest.is_empty() {
        let Some(token) = Token::read(rest) else {
            return Err("it is not whole msgpack");
        };
        let bytes = &rest[..token.len()];
        match token.family {
            Family::Other => out.extend_from_slice(bytes),
            Family::String => write_raw(&mut out, &bytes[token.header..]),
            Family::Extension => {
                return Err("the old msgpack of this service's clients has no extension types");
            }
        }
        rest = &rest[token.len()..];
    }
    Ok(out)
}

/// Appends a raw.
fn write_raw(out: &mut Vec<u8>, bytes: &[u8]) {
    match bytes.len() {
        length @ 0..=31 => out.push(Marker::FixStr(length as u8).to_u8()),
        length @ 32..=0xffff => {
            out.push(Marker::Str16.to_u8());
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(Marker::Str32.to_u8());
            // A msgpack string is never longer than that.
            out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        }
    }
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_binary_become_raw_of_the_three_lengths() {
        let long = "x".repeat(70_000);
        for (length, head) in [
            (0, &b"\xa0"[..]),
            (31, b"\xbf"),
            (32, b"\xda\x00\x20"),
            (255, b"\xda\x00\xff"),
            (256, b"\xda\x01\x00"),
            (0x8000, b"\xda\x80\x00"),
            (0xffff, b"\xda\xff\xff"),
            (0x10000, b"\xdb\x00\x01\x00\x00"),
        ] {
            let text = &long[..length];
            let expected = [head, text.as_bytes()].concat();
            let as_str = rmp_serde::to_vec(text).unwrap();
            assert_eq!(to_old_raw(&as_str).unwrap(), expected);
            let mut as_bin = Vec::new();
            rmp::encode::write_bin(&mut as_bin, text.as_bytes()).unwrap();
            assert_eq!(to_old_raw(&as_bin).unwrap(), expected);
        }
    }

    #[test]
    fn everything_else_stays_as_it_is() {
        let value = (
            (1u8, 200u8, 300u16, 70_000u32, u64::MAX),
            (-1i8, -100i8, -300i16, -70_000i32, i64::MIN),
            (1.5f32, -0.0f64, true, false, ()),
            vec![[1u8; 3]; 20],
            std::collections::BTreeMap::from_iter((0..20u32).map(|i| (i, vec![i * 1000; 70]))),
        );
        let bytes = rmp_serde::to_vec(&value).unwrap();
        assert_eq!(to_old_raw(&bytes).unwrap(), bytes);
    }

    #[test]
    fn an_extension_type_is_an_error() {
        for ext in [
            &b"\x91\xd4\x01\x00"[..],
            b"\x91\xd8\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            b"\x91\xc7\x01\x05\x00",
        ] {
            assert!(to_old_raw(ext).unwrap_err().contains("extension type"));
        }
    }
}
