//! An encoded msgpack value as text for people.

use std::fmt::{self, Write};

use rmp::Marker;
use rmp::decode::{self, Bytes, RmpRead};

/// Displays an encoded value in a notation close to JSON. What is not valid msgpack ends as `<cut off>`.
pub(crate) struct Rendered<'a>(pub(crate) &'a [u8]);

/// Values nested deeper, and what lies behind this many bytes of output, are shown as dots.
const DEPTH: u32 = 32;
const LENGTH: usize = 2000;

impl fmt::Display for Rendered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        let mut bytes = Bytes::new(self.0);
        if value(&mut bytes, &mut text, 0).is_none() {
            text.push_str("<cut off>");
        }
        f.write_str(&text)
    }
}

/// The text of `bytes` if it is one str, as the message of an error usually is.
pub(crate) fn as_str(bytes: &[u8]) -> Option<&str> {
    let mut rest = Bytes::new(bytes);
    let length = decode::read_str_len(&mut rest).ok()?;
    std::str::from_utf8(rest.remaining_slice().get(..length as usize)?).ok()
}

fn value(bytes: &mut Bytes<'_>, text: &mut String, depth: u32) -> Option<()> {
    if depth > DEPTH || text.len() > LENGTH {
        text.push('…');
        return None;
    }
    match bytes
        .remaining_slice()
        .first()
        .map(|byte| Marker::from_u8(*byte))?
    {
        Marker::Null => literal(bytes, text, "nil"),
        Marker::False => literal(bytes, text, "false"),
        Marker::True => literal(bytes, text, "true"),
        Marker::F32 => show(text, decode::read_f32(bytes).ok()?),
        Marker::F64 => show(text, decode::read_f64(bytes).ok()?),
        Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => {
            let length = decode::read_str_len(bytes).ok()?;
            let string = payload(bytes, length)?;
            write!(text, "{:?}", String::from_utf8_lossy(string)).ok()
        }
        Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => {
            let length = decode::read_bin_len(bytes).ok()?;
            payload(bytes, length)?;
            write!(text, "<{length} bytes>").ok()
        }
        Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => {
            let length = decode::read_array_len(bytes).ok()?;
            items(bytes, text, length, ['[', ']'], |bytes, text| {
                value(bytes, text, depth + 1)
            })
        }
        Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => {
            let length = decode::read_map_len(bytes).ok()?;
            items(bytes, text, length, ['{', '}'], |bytes, text| {
                value(bytes, text, depth + 1)?;
                text.push_str(": ");
                value(bytes, text, depth + 1)
            })
        }
        Marker::FixExt1
        | Marker::FixExt2
        | Marker::FixExt4
        | Marker::FixExt8
        | Marker::FixExt16 => extension(bytes, text),
        Marker::Ext8 | Marker::Ext16 | Marker::Ext32 => extension(bytes, text),
        Marker::U64 => show(text, decode::read_u64(bytes).ok()?),
        Marker::Reserved => None,
        _ => show(text, decode::read_int::<i64, _>(bytes).ok()?),
    }
}

fn literal(bytes: &mut Bytes<'_>, text: &mut String, word: &str) -> Option<()> {
    bytes.read_u8().ok()?;
    text.push_str(word);
    Some(())
}

fn show(text: &mut String, number: impl fmt::Display) -> Option<()> {
    write!(text, "{number}").ok()
}

fn payload<'a>(bytes: &mut Bytes<'a>, length: u32) -> Option<&'a [u8]> {
    let (payload, rest) = bytes.remaining_slice().split_at_checked(length as usize)?;
    *bytes = Bytes::new(rest);
    Some(payload)
}

fn extension(bytes: &mut Bytes<'_>, text: &mut String) -> Option<()> {
    let meta = decode::read_ext_meta(bytes).ok()?;
    payload(bytes, meta.size)?;
    write!(text, "<extension {}, {} bytes>", meta.typeid, meta.size).ok()
}

fn items<'a>(
    bytes: &mut Bytes<'a>,
    text: &mut String,
    length: u32,
    [open, close]: [char; 2],
    mut item: impl FnMut(&mut Bytes<'a>, &mut String) -> Option<()>,
) -> Option<()> {
    text.push(open);
    for index in 0..length {
        if index > 0 {
            text.push_str(", ");
        }
        item(bytes, text)?;
    }
    text.push(close);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_every_kind() {
        let cases: [(&[u8], &str); 11] = [
            (b"\xc0", "nil"),
            (b"\x93\xc2\xc3\x05", "[false, true, 5]"),
            (b"\xff", "-1"),
            (
                b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
                "18446744073709551615",
            ),
            (b"\xcb\x3f\xf8\0\0\0\0\0\0", "1.5"),
            (b"\xa3a\"b", "\"a\\\"b\""),
            (b"\x82\xa1a\x01\xa1b\x90", "{\"a\": 1, \"b\": []}"),
            (b"\xc4\x02\xff\xff", "<2 bytes>"),
            (b"\xd4\x05\x00", "<extension 5, 1 bytes>"),
            (b"\x92\x01", "[1, <cut off>"),
            (b"", "<cut off>"),
        ];
        for (bytes, text) in cases {
            assert_eq!(Rendered(bytes).to_string(), text);
        }
        assert_eq!(as_str(b"\xa2no"), Some("no"));
        assert_eq!(as_str(b"\x01"), None);
    }

    #[test]
    fn stays_bounded() {
        assert!(Rendered(&[0x91; 4096]).to_string().len() < 200);
        let mut long = vec![0xdc, 0xff, 0xff];
        long.resize(70_000, 0x01);
        assert!(Rendered(&long).to_string().len() < LENGTH + 100);
    }
}
