//! msgpack values as JSON, and back.
//!
//! JSON has fewer types than msgpack. What it lacks is written as an object with one key that begins with `$`; the
//! same can be given. What is printed means the same value when it is given again, except that
//! - a float of 32 bits is printed with the digits that it needs, and those are read as the float of 64 bits that is
//!   nearest to them,
//! - the bits of a NaN are not kept,
//! - what is nested more than 127 levels deep in JSON is refused. A map as pairs of key and value takes three levels.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ringhold_client::Plain;
use rmpv::Value;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

/// How the types are written, for the help of the commands.
pub(crate) const NOTATION: &str = "\
How msgpack is written as JSON, in parameters and in results:
  nil, booleans, strings, arrays    as in JSON
  integers                          as they are, from -9223372036854775808 to 18446744073709551615;
                                    others are refused, never rounded
  floats                            with a fraction or an exponent: 1.0, 6.02e23 (sent with 64 bits; those
                                    of 32 bits are shown with the digits that they need). -0 is one, too
  maps                              as objects; order and repeated keys are kept
  bin                               {\"$bin\": \"AAEC\"}, base64
  ext                               {\"$ext\": [5, \"AAEC\"]}, type and base64
  NaN and infinities                {\"$float\": \"nan\"}, {\"$float\": \"inf\"}, {\"$float\": \"-inf\"}
  a str that is not UTF-8           {\"$str\": \"/w==\"}, base64
  a map with keys that are not
  strings, or are repeated          {\"$map\": [[1, \"one\"], [2, \"two\"]]}, pairs of key and value
A parameter may be nested 126 levels deep, of which such a map takes three.";

const BIN: &str = "$bin";
const EXT: &str = "$ext";
const FLOAT: &str = "$float";
const STR: &str = "$str";
const MAP: &str = "$map";

/// Reads one JSON text.
///
/// # Errors
/// What is wrong, with its place.
pub(crate) fn parse(text: &str) -> Result<Value, String> {
    let Given(value) = serde_json::from_str(text).map_err(|error| error.to_string())?;
    // The parser has found the text well-formed, and would have rounded this.
    match integer_beyond_64_bits(text) {
        // As the parser says it, which repeats nothing of the text either.
        Some(at) => {
            let before = &text[..at];
            let line = 1 + before.matches('\n').count();
            let column = 1 + at - before.rfind('\n').map_or(0, |end| end + 1);
            Err(format!(
                "an integer does not fit in 64 bits, which is all that msgpack has, at line {line} column {column}"
            ))
        }
        None => Ok(value),
    }
}

/// A value as one line of JSON. What could do something to a terminal is escaped, so that it means the same.
pub(crate) fn print(value: &Value) -> String {
    // Writing to a string cannot fail, and every key is written as a string.
    let json = serde_json::to_string(&Shown(value)).unwrap_or_default();
    if !json.contains(Plain::escapes) {
        return json;
    }
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        // Such characters are in strings only, and four digits are enough for each.
        match Plain::escapes(c) {
            true => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => text.push(c),
        }
    }
    text
}

/// An encoded value as one line of JSON.
///
/// # Errors
/// It is not one whole msgpack object.
pub(crate) fn print_encoded(mut encoded: &[u8]) -> Result<String, String> {
    let value = rmpv::decode::read_value(&mut encoded)
        .map_err(|error| format!("it is not valid msgpack: {error}"))?;
    match encoded.len() {
        0 => Ok(print(&value)),
        left => Err(format!("{left} bytes follow the msgpack object")),
    }
}

/// The msgpack encoding of a value.
pub(crate) fn encode(value: &Value) -> Vec<u8> {
    let mut encoded = Vec::new();
    append(&mut encoded, value);
    encoded
}

/// As `rmpv::encode`, which would make a bin of a str that is not UTF-8. Writing to a vector cannot fail.
fn append(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::String(text) => {
            let bytes = text.as_bytes();
            let _ = rmp::encode::write_str_len(out, bytes.len() as u32);
            out.extend_from_slice(bytes);
        }
        Value::Array(items) => {
            let _ = rmp::encode::write_array_len(out, items.len() as u32);
            for item in items {
                append(out, item);
            }
        }
        Value::Map(pairs) => {
            let _ = rmp::encode::write_map_len(out, pairs.len() as u32);
            for (key, value) in pairs {
                append(out, key);
                append(out, value);
            }
        }
        value => {
            let _ = rmpv::encode::write_value(out, value);
        }
    }
}

/// Where the first integer is in a well-formed JSON text that neither an i64 nor a u64 holds.
fn integer_beyond_64_bits(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                at += 1;
                while bytes.get(at).is_some_and(|byte| *byte != b'"') {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b'-' | b'0'..=b'9' => {
                let rest = &text[at..];
                let end = rest
                    .find(|c: char| !(c.is_ascii_digit() || "+-.eE".contains(c)))
                    .unwrap_or(rest.len());
                let number = &rest[..end];
                let integer = !number.contains(['.', 'e', 'E']);
                if integer && number.parse::<u64>().is_err() && number.parse::<i64>().is_err() {
                    return Some(at);
                }
                at += end;
            }
            _ => at += 1,
        }
    }
    None
}

/// A value to be written as JSON.
struct Shown<'a>(&'a Value);

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Nil => serializer.serialize_unit(),
            Value::Boolean(value) => serializer.serialize_bool(*value),
            Value::Integer(value) => match (value.as_u64(), value.as_i64()) {
                (Some(value), _) => serializer.serialize_u64(value),
                (None, value) => serializer.serialize_i64(value.unwrap_or_default()),
            },
            Value::F32(value) if value.is_finite() => serializer.serialize_f32(*value),
            Value::F64(value) if value.is_finite() => serializer.serialize_f64(*value),
            Value::F32(value) => special(serializer, FLOAT, non_finite(f64::from(*value))),
            Value::F64(value) => special(serializer, FLOAT, non_finite(*value)),
            Value::String(value) => match value.as_str() {
                Some(text) => serializer.serialize_str(text),
                None => special(serializer, STR, &STANDARD.encode(value.as_bytes())),
            },
            Value::Binary(bytes) => special(serializer, BIN, &STANDARD.encode(bytes)),
            Value::Array(items) => serializer.collect_seq(items.iter().map(Shown)),
            Value::Map(pairs) if is_object(pairs) => {
                let pairs = pairs
                    .iter()
                    .map(|(key, value)| (key.as_str().unwrap_or_default(), Shown(value)));
                serializer.collect_map(pairs)
            }
            Value::Map(pairs) => {
                let pairs: Vec<[Shown<'_>; 2]> = pairs
                    .iter()
                    .map(|(key, value)| [Shown(key), Shown(value)])
                    .collect();
                special(serializer, MAP, &pairs)
            }
            Value::Ext(kind, bytes) => special(serializer, EXT, &(kind, STANDARD.encode(bytes))),
        }
    }
}

fn special<S: Serializer, T: Serialize + ?Sized>(
    serializer: S,
    key: &str,
    value: &T,
) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(1))?;
    map.serialize_entry(key, value)?;
    map.end()
}

fn non_finite(value: f64) -> &'static str {
    if value.is_nan() {
        "nan"
    } else if value > 0.0 {
        "inf"
    } else {
        "-inf"
    }
}

/// Whether a map can be written as a JSON object that means just this map.
fn is_object(pairs: &[(Value, Value)]) -> bool {
    let mut seen = std::collections::HashSet::new();
    let plain = pairs
        .iter()
        .all(|(key, _)| key.as_str().is_some_and(|key| seen.insert(key)));
    let looks_special = matches!(pairs, [(key, _)] if is_special(key));
    plain && !looks_special
}

fn is_special(key: &Value) -> bool {
    key.as_str()
        .is_some_and(|key| [BIN, EXT, FLOAT, STR, MAP].contains(&key))
}

/// A value read from JSON.
struct Given(Value);

impl<'de> Deserialize<'de> for Given {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(GivenVisitor).map(Given)
    }
}

struct GivenVisitor;

impl<'de> Visitor<'de> for GivenVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Nil)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(Given(item)) = items.next_element()? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut pairs: Vec<(Value, Value)> = Vec::new();
        while let Some((key, Given(value))) = entries.next_entry::<String, Given>()? {
            pairs.push((key.into(), value));
        }
        match &pairs[..] {
            [(key, value)] if is_special(key) => {
                meant(key.as_str().unwrap_or_default(), value).map_err(A::Error::custom)
            }
            _ => Ok(Value::Map(pairs)),
        }
    }
}

/// What an object with the one key `key`, which is special, means.
fn meant(key: &str, value: &Value) -> Result<Value, String> {
    match key {
        BIN => Ok(Value::Binary(bytes(key, value)?)),
        STR => Ok(str_of(&bytes(key, value)?)),
        FLOAT => match value.as_str() {
            Some("nan") => Ok(f64::NAN.into()),
            Some("inf") => Ok(f64::INFINITY.into()),
            Some("-inf") => Ok(f64::NEG_INFINITY.into()),
            _ => Err(format!("{key:?} needs \"nan\", \"inf\" or \"-inf\"")),
        },
        EXT => {
            let parts = value.as_array().map(Vec::as_slice);
            let Some([kind, payload]) = parts else {
                return Err(format!(
                    "{key:?} needs an array of the type and the base64 text"
                ));
            };
            let Some(kind) = kind.as_i64().and_then(|kind| i8::try_from(kind).ok()) else {
                return Err(format!("{key:?} needs a type from -128 to 127"));
            };
            Ok(Value::Ext(kind, bytes(key, payload)?))
        }
        _ => {
            let pairs = value.as_array().map(Vec::as_slice).unwrap_or_default();
            let pairs = pairs.iter().map(|pair| match pair.as_array()?.as_slice() {
                [key, value] => Some((key.clone(), value.clone())),
                _ => None,
            });
            match (value.is_array(), pairs.collect()) {
                (true, Some(pairs)) => Ok(Value::Map(pairs)),
                _ => Err(format!("{key:?} needs an array of pairs, [key, value]")),
            }
        }
    }
}

/// A str of any bytes, which only decoding can make. What a person gives is never 4 GiB.
fn str_of(bytes: &[u8]) -> Value {
    let mut encoded = Vec::new();
    let _ = rmp::encode::write_str_len(&mut encoded, bytes.len() as u32);
    encoded.extend_from_slice(bytes);
    rmpv::decode::read_value(&mut &encoded[..]).unwrap_or(Value::Nil)
}

fn bytes(key: &str, value: &Value) -> Result<Vec<u8>, String> {
    let text = value
        .as_str()
        .ok_or_else(|| format!("{key:?} needs a text in base64"))?;
    STANDARD
        .decode(text)
        .map_err(|error| format!("{key:?} needs a text in base64: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_are_one_to_one() {
        let map = |pairs: &[(Value, Value)]| Value::Map(pairs.to_vec());
        let cases: Vec<(Value, &str)> = vec![
            (Value::Nil, "null"),
            (true.into(), "true"),
            (0.into(), "0"),
            (i64::MIN.into(), "-9223372036854775808"),
            (u64::MAX.into(), "18446744073709551615"),
            (1.0.into(), "1.0"),
            ((-0.0).into(), "-0.0"),
            (0.1.into(), "0.1"),
            (f64::MAX.into(), "1.7976931348623157e+308"),
            (5e-324.into(), "5e-324"),
            (f64::INFINITY.into(), r#"{"$float":"inf"}"#),
            (f64::NEG_INFINITY.into(), r#"{"$float":"-inf"}"#),
            ("a\"\u{1f980}\n\0".into(), r#""a\"🦀\n\u0000""#),
            (Value::Binary(vec![]), r#"{"$bin":""}"#),
            (Value::Binary(vec![0, 1, 2]), r#"{"$bin":"AAEC"}"#),
            (Value::Ext(-1, vec![255]), r#"{"$ext":[-1,"/w=="]}"#),
            (str_of(&[255]), r#"{"$str":"/w=="}"#),
            (Value::Array(vec![]), "[]"),
            (map(&[]), "{}"),
            (
                map(&[("b".into(), 1.into()), ("a".into(), Value::Nil)]),
                r#"{"b":1,"a":null}"#,
            ),
            (
                map(&[(1.into(), "one".into()), (Value::Nil, map(&[]))]),
                r#"{"$map":[[1,"one"],[null,{}]]}"#,
            ),
            (
                map(&[("a".into(), 1.into()), ("a".into(), 2.into())]),
                r#"{"$map":[["a",1],["a",2]]}"#,
            ),
            (
                map(&[("$bin".into(), 1.into())]),
                r#"{"$map":[["$bin",1]]}"#,
            ),
            (
                map(&[("$bin".into(), 1.into()), ("x".into(), 2.into())]),
                r#"{"$bin":1,"x":2}"#,
            ),
            (map(&[("$other".into(), 1.into())]), r#"{"$other":1}"#),
        ];
        for (value, text) in cases {
            assert_eq!(print(&value), text);
            assert_eq!(parse(text).as_ref(), Ok(&value), "{text}");
            assert_eq!(print_encoded(&encode(&value)).as_deref(), Ok(text));
        }
    }

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        let value = Value::from("é\u{9b}m\u{7f}\u{202e}\u{2066}\u{1f980}");
        let text = print(&value);
        assert_eq!(text, r#""é\u009bm\u007f\u202e\u2066🦀""#);
        assert_eq!(parse(&text), Ok(value));
    }

    #[test]
    fn what_has_no_way_back_is_shown_all_the_same() {
        assert_eq!(print(&Value::F32(0.1)), "0.1");
        assert_ne!(parse("0.1"), Ok(f64::from(0.1f32).into()));
        assert_eq!(print(&Value::F32(f32::NAN)), r#"{"$float":"nan"}"#);
        assert!(matches!(parse(r#"{"$float":"nan"}"#), Ok(Value::F64(value)) if value.is_nan()));
        assert_eq!(
            parse(r#"{"a":1,"a":2}"#).map(|value| print(&value)),
            Ok(r#"{"$map":[["a",1],["a",2]]}"#.to_owned())
        );
        assert!(print_encoded(&[0x91]).is_err());
        assert!(print_encoded(&[1, 2]).is_err());
    }

    /// How deep a JSON text may be nested.
    const NESTING: usize = 127;

    #[test]
    fn so_deep_a_nesting_is_read_again() {
        type Wrap = fn(Value) -> Value;
        let nest = |levels: usize, wrap: Wrap| (0..levels).fold(Value::Nil, |value, _| wrap(value));
        let wraps: [(Wrap, usize); 3] = [
            (|value| Value::Array(vec![value]), NESTING),
            (|value| Value::Map(vec![("a".into(), value)]), NESTING),
            (|value| Value::Map(vec![(1.into(), value)]), NESTING / 3),
        ];
        for (wrap, levels) in wraps {
            let value = nest(levels, wrap);
            assert_eq!(parse(&print(&value)), Ok(value));
            let error = parse(&print(&nest(levels + 1, wrap))).unwrap_err();
            assert!(error.contains("recursion limit"), "{error}");
        }
    }

    #[test]
    fn no_integer_is_rounded() {
        for (text, at) in [
            ("18446744073709551616", "line 1 column 1"),
            ("-9223372036854775809", "line 1 column 1"),
            (
                r#"["\"1", {"1\\": 99999999999999999999}]"#,
                "line 1 column 17",
            ),
            ("[1,\n\n 99999999999999999999]", "line 3 column 2"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains("does not fit in 64 bits"), "{text}: {error}");
            assert!(error.ends_with(at), "{text}: {error}");
        }
        assert_eq!(
            parse(r#""18446744073709551616""#),
            Ok("18446744073709551616".into())
        );
        assert_eq!(
            parse("18446744073709551616.0"),
            Ok(18446744073709551616.0.into())
        );
        assert_eq!(parse("-0"), Ok((-0.0).into()));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let cases = [
            ("hello", "expected"),
            ("1 2", "trailing"),
            ("1e999", "out of range"),
            (r#"{"$bin": 5}"#, "base64"),
            (r#"{"$bin": "?"}"#, "base64"),
            (r#"{"$ext": [200, ""]}"#, "-128 to 127"),
            (r#"{"$ext": 1}"#, "array"),
            (r#"{"$float": 1}"#, "nan"),
            (r#"{"$map": {"a": 1}}"#, "pairs"),
            (r#"{"$map": [[1]]}"#, "pairs"),
        ];
        for (text, part) in cases {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
