//! An encoded msgpack value as text for people.

use std::fmt::{self, Write};

use rmp::Marker;
use rmp::decode::bytes::BytesReadError;
use rmp::decode::{self, Bytes, NumValueReadError, RmpRead, ValueReadError};

/// Displays an encoded value in a notation close to JSON. What is not valid msgpack ends as `<cut off>`, what is long or
/// deep as dots.
pub(crate) struct Rendered<'a>(pub(crate) &'a [u8]);

/// Displays a text that a server made, for people: without the characters that could do something to their terminal,
/// which are escaped, and at most 2000 bytes of it, followed by dots if there are more.
///
/// ```
/// use ringhold_client::Plain;
/// assert_eq!(Plain("a\u{1b}[2J\n\"é\"").to_string(), r#"a\u{1b}[2J\n"é""#);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Plain<'a>(pub &'a str);

impl Plain<'_> {
    /// Whether a character is escaped, since it could do something to a terminal. None of them is beyond U+FFFF.
    #[must_use]
    pub fn escapes(c: char) -> bool {
        c.is_control() || turns_text(c)
    }
}

/// Values nested deeper, and what lies behind this many bytes of output, are shown as dots.
const DEPTH: u32 = 32;
const LENGTH: usize = 2000;

/// Why a value is not shown to its end.
enum Cut {
    /// It is too long or too deep.
    Long,
    /// It is not valid msgpack.
    Invalid,
}

impl From<BytesReadError> for Cut {
    fn from(_: BytesReadError) -> Self {
        Self::Invalid
    }
}

impl From<ValueReadError<BytesReadError>> for Cut {
    fn from(_: ValueReadError<BytesReadError>) -> Self {
        Self::Invalid
    }
}

impl From<NumValueReadError<BytesReadError>> for Cut {
    fn from(_: NumValueReadError<BytesReadError>) -> Self {
        Self::Invalid
    }
}

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (text, is_whole) = beginning(self.0);
        for c in text.chars() {
            match Self::escapes(c) {
                true => c.escape_debug().fmt(f)?,
                false => f.write_char(c)?,
            }
        }
        match is_whole {
            true => Ok(()),
            false => f.write_char('…'),
        }
    }
}

/// Whether a character separates lines or changes the direction in which others are shown.
fn turns_text(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// As much of a text as is shown, and whether that is all.
fn beginning(text: &str) -> (&str, bool) {
    let mut end = text.len().min(LENGTH);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    (&text[..end], end == text.len())
}

impl fmt::Display for Rendered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        let mut bytes = Bytes::new(self.0);
        match value(&mut bytes, &mut text, 0) {
            Ok(()) => {}
            Err(Cut::Long) => text.push('…'),
            Err(Cut::Invalid) => text.push_str("<cut off>"),
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

fn value(bytes: &mut Bytes<'_>, text: &mut String, depth: u32) -> Result<(), Cut> {
    if depth > DEPTH || text.len() > LENGTH {
        return Err(Cut::Long);
    }
    match bytes
        .remaining_slice()
        .first()
        .map(|byte| Marker::from_u8(*byte))
        .ok_or(Cut::Invalid)?
    {
        Marker::Null => literal(bytes, text, "nil"),
        Marker::False => literal(bytes, text, "false"),
        Marker::True => literal(bytes, text, "true"),
        Marker::F32 => show(text, decode::read_f32(bytes)?),
        Marker::F64 => show(text, decode::read_f64(bytes)?),
        Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => {
            let length = decode::read_str_len(bytes)?;
            let string = payload(bytes, length)?;
            let string = String::from_utf8_lossy(string);
            let (shown, is_whole) = beginning(&string);
            // Writing to a string cannot fail, here and below.
            let _ = write!(text, "{shown:?}");
            match is_whole {
                true => Ok(()),
                false => Err(Cut::Long),
            }
        }
        Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => {
            let length = decode::read_bin_len(bytes)?;
            payload(bytes, length)?;
            let _ = write!(text, "<{length} bytes>");
            Ok(())
        }
        Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => {
            let length = decode::read_array_len(bytes)?;
            items(bytes, text, length, ['[', ']'], |bytes, text| {
                value(bytes, text, depth + 1)
            })
        }
        Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => {
            let length = decode::read_map_len(bytes)?;
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
        Marker::U64 => show(text, decode::read_u64(bytes)?),
        Marker::Reserved => Err(Cut::Invalid),
        _ => show(text, decode::read_int::<i64, _>(bytes)?),
    }
}

fn literal(bytes: &mut Bytes<'_>, text: &mut String, word: &str) -> Result<(), Cut> {
    bytes.read_u8()?;
    text.push_str(word);
    Ok(())
}

fn show(text: &mut String, number: impl fmt::Display) -> Result<(), Cut> {
    let _ = write!(text, "{number}");
    Ok(())
}

fn payload<'a>(bytes: &mut Bytes<'a>, length: u32) -> Result<&'a [u8], Cut> {
    let (payload, rest) = bytes
        .remaining_slice()
        .split_at_checked(length as usize)
        .ok_or(Cut::Invalid)?;
    *bytes = Bytes::new(rest);
    Ok(payload)
}

fn extension(bytes: &mut Bytes<'_>, text: &mut String) -> Result<(), Cut> {
    let meta = decode::read_ext_meta(bytes)?;
    payload(bytes, meta.size)?;
    let _ = write!(text, "<extension {}, {} bytes>", meta.typeid, meta.size);
    Ok(())
}

fn items<'a>(
    bytes: &mut Bytes<'a>,
    text: &mut String,
    length: u32,
    [open, close]: [char; 2],
    mut item: impl FnMut(&mut Bytes<'a>, &mut String) -> Result<(), Cut>,
) -> Result<(), Cut> {
    text.push(open);
    for index in 0..length {
        if index > 0 {
            text.push_str(", ");
        }
        item(bytes, text)?;
    }
    text.push(close);
    Ok(())
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
        // It is long, but valid.
        let shown = Rendered(&long).to_string();
        assert!(
            shown.len() < LENGTH + 100 && shown.ends_with(", …"),
            "{shown}"
        );
        // So is one long text.
        let mut text = vec![0xda, 0xff, 0xff];
        text.resize(3 + 0xffff, b'a');
        let shown = Rendered(&text).to_string();
        assert!(
            shown.len() < LENGTH + 100 && shown.ends_with("a\"…"),
            "{shown}"
        );
    }

    #[test]
    fn a_text_can_do_nothing_to_a_terminal() {
        let cases = [
            ("a \"b\" \\ 'é' e\u{301} 🦀", "a \"b\" \\ 'é' e\u{301} 🦀"),
            ("\0\t\r\n\u{1b}[2J", "\\0\\t\\r\\n\\u{1b}[2J"),
            (
                "\u{7f}\u{9b}5m\u{202e}\u{2028}",
                "\\u{7f}\\u{9b}5m\\u{202e}\\u{2028}",
            ),
        ];
        for (text, shown) in cases {
            assert_eq!(Plain(text).to_string(), shown);
        }
        let long = "é".repeat(LENGTH);
        let expected = format!("{}…", "é".repeat(LENGTH / 2));
        assert_eq!(Plain(&long).to_string(), expected);
    }
}
