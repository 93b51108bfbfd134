//! From parameter arrays to types, and from results to msgpack.

use std::collections::BTreeMap;
use std::fmt;

use ringhold_rpc::{Fault, Router};
use rmpv::Value;
use serde::de::Visitor;
use serde::ser::{SerializeSeq, Serializer};
use serde::{Deserialize, Deserializer, Serialize};
use serde_bytes::ByteBuf;

use crate::client::{Wire, map};

#[derive(Debug, Serialize, Deserialize)]
struct Point {
    x: i32,
    y: i32,
    #[serde(default)]
    label: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Shape {
    Dot,
    Circle(f64),
    Rectangle { width: u32, height: u32 },
}

#[derive(Debug, Serialize, Deserialize)]
struct Metres(f64);

/// Bytes, whether they are sent as bin or in the raw family of old.
#[derive(Debug)]
#[expect(dead_code, reason = "it is shown by Debug")]
struct Blob(Vec<u8>);

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Blob;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(bytes.to_vec()))
            }
            fn visit_str<E>(self, text: &str) -> Result<Blob, E> {
                Ok(Blob(text.as_bytes().to_vec()))
            }
        }
        deserializer.deserialize_byte_buf(Bytes)
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Tagged {
    Dot,
    Circle { radius: f64 },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Number(i64),
    Text(String),
    Pair(i64, i64),
    None(),
}

/// Answers with what the parameters became.
fn show<P: fmt::Debug + serde::de::DeserializeOwned + 'static>(
    router: Router,
    name: &str,
) -> Router {
    router.method(name, |params: P| Ok(format!("{params:?}")))
}

fn router() -> Router {
    let mut router = Router::new();
    router = show::<()>(router, "none");
    router = show::<i64>(router, "one");
    router = show::<u8>(router, "byte");
    router = show::<bool>(router, "flag");
    router = show::<char>(router, "letter");
    router = show::<f64>(router, "float");
    router = show::<i128>(router, "wide");
    router = show::<String>(router, "text");
    router = show::<Blob>(router, "blob");
    router = show::<(i64, String)>(router, "two");
    router = show::<(i64,)>(router, "tuple");
    router = show::<(i64, Option<i64>, Option<String>)>(router, "optional");
    router = show::<Option<i64>>(router, "maybe");
    router = show::<Option<Metres>>(router, "maybe metres");
    router = show::<Option<(i64, i64)>>(router, "maybe two");
    router = show::<(Option<i64>,)>(router, "tuple of maybe");
    router = show::<Vec<i64>>(router, "many");
    router = show::<Point>(router, "point");
    router = show::<(Point,)>(router, "one point");
    router = show::<Shape>(router, "shape");
    router = show::<Metres>(router, "metres");
    router = show::<BTreeMap<String, i64>>(router, "map");
    router = show::<(Vec<i64>, [u8; 2])>(router, "nested");
    router = show::<Value>(router, "value");
    router = show::<(Value,)>(router, "one value");
    router = show::<Vec<Value>>(router, "values");
    router = show::<Option<Value>>(router, "maybe value");
    router = show::<Tagged>(router, "tagged");
    router = show::<Untagged>(router, "untagged");
    router
}

fn bin(bytes: &[u8]) -> Value {
    Value::Binary(bytes.to_vec())
}

#[test]
fn parameters_become_types() {
    let mut wire = Wire::new(router());
    let point = map(&[("y", 2.into()), ("x", 1.into()), ("label", "p".into())]);
    let accepted: Vec<(&str, Vec<Value>, &str)> = vec![
        ("none", vec![], "()"),
        ("one", vec![(-5).into()], "-5"),
        ("one", vec![i64::MIN.into()], "-9223372036854775808"),
        ("byte", vec![255.into()], "255"),
        ("flag", vec![true.into()], "true"),
        ("letter", vec!["é".into()], "'é'"),
        ("float", vec![1.5.into()], "1.5"),
        ("float", vec![2.into()], "2.0"),
        ("wide", vec![u64::MAX.into()], "18446744073709551615"),
        ("text", vec!["hello".into()], "\"hello\""),
        ("text", vec![bin(b"as bin")], "\"as bin\""),
        ("blob", vec![bin(b"ab")], "Blob([97, 98])"),
        ("blob", vec!["ab".into()], "Blob([97, 98])"),
        ("two", vec![1.into(), "x".into()], "(1, \"x\")"),
        ("tuple", vec![1.into()], "(1,)"),
        ("optional", vec![1.into()], "(1, None, None)"),
        ("optional", vec![1.into(), Value::Nil], "(1, None, None)"),
        (
            "optional",
            vec![1.into(), 2.into(), "x".into()],
            "(1, Some(2), Some(\"x\"))",
        ),
        ("maybe", vec![], "None"),
        ("maybe", vec![Value::Nil], "None"),
        ("maybe", vec![3.into()], "Some(3)"),
        ("maybe metres", vec![Value::Nil], "None"),
        ("maybe metres", vec![2.5.into()], "Some(Metres(2.5))"),
        ("maybe two", vec![], "None"),
        ("maybe two", vec![Value::Nil], "None"),
        ("tuple of maybe", vec![Value::Nil], "(None,)"),
        ("maybe two", vec![3.into(), 4.into()], "Some((3, 4))"),
        ("many", vec![], "[]"),
        ("many", vec![1.into(), 2.into(), 3.into()], "[1, 2, 3]"),
        (
            "point",
            vec![1.into(), 2.into(), "p".into()],
            "Point { x: 1, y: 2, label: Some(\"p\") }",
        ),
        (
            "point",
            vec![1.into(), 2.into()],
            "Point { x: 1, y: 2, label: None }",
        ),
        (
            "one point",
            vec![point],
            "(Point { x: 1, y: 2, label: Some(\"p\") },)",
        ),
        ("shape", vec!["dot".into()], "Dot"),
        ("shape", vec![map(&[("circle", 1.5.into())])], "Circle(1.5)"),
        (
            "shape",
            vec![map(&[(
                "rectangle",
                map(&[("height", 2.into()), ("width", 1.into())]),
            )])],
            "Rectangle { width: 1, height: 2 }",
        ),
        ("metres", vec![2.5.into()], "Metres(2.5)"),
        ("map", vec![map(&[("k", 1.into())])], "{\"k\": 1}"),
        (
            "nested",
            vec![
                Value::Array(vec![1.into()]),
                Value::Array(vec![2.into(), 3.into()]),
            ],
            "([1], [2, 3])",
        ),
    ];
    for (method, params, shown) in accepted {
        assert_eq!(
            wire.call(method, params.clone()),
            Ok(shown.into()),
            "{method} {params:?}"
        );
    }
}

#[test]
fn a_type_that_takes_whatever_comes_takes_the_only_parameter() {
    let mut wire = Wire::new(router());
    let list = |values: &[i64]| Value::Array(values.iter().map(|value| (*value).into()).collect());
    let values: [(&str, Vec<Value>, Value); 9] = [
        ("value", vec![5.into()], 5.into()),
        ("value", vec![Value::Nil], Value::Nil),
        ("value", vec![list(&[5])], list(&[5])),
        (
            "value",
            vec![map(&[("a", 1.into())])],
            map(&[("a", 1.into())]),
        ),
        (
            "value",
            vec![Value::Ext(5, vec![1])],
            Value::Ext(5, vec![1]),
        ),
        ("value", vec![], list(&[])),
        ("value", vec![1.into(), 2.into()], list(&[1, 2])),
        ("maybe value", vec![5.into()], 5.into()),
        ("maybe value", vec![1.into(), 2.into()], list(&[1, 2])),
    ];
    for (method, params, expected) in values {
        let expected = match method {
            "value" => format!("{expected:?}"),
            _ => format!("Some({expected:?})"),
        };
        let shown = wire.call(method, params.clone());
        assert_eq!(shown, Ok(expected.into()), "{method} {params:?}");
    }
    let circle = map(&[("kind", "circle".into()), ("radius", 2.5.into())]);
    let others: [(&str, Vec<Value>, &str); 9] = [
        ("maybe value", vec![], "None"),
        ("maybe value", vec![Value::Nil], "None"),
        ("tagged", vec![map(&[("kind", "dot".into())])], "Dot"),
        ("tagged", vec![circle], "Circle { radius: 2.5 }"),
        ("untagged", vec![5.into()], "Number(5)"),
        ("untagged", vec!["x".into()], "Text(\"x\")"),
        ("untagged", vec![list(&[1, 2])], "Pair(1, 2)"),
        ("untagged", vec![1.into(), 2.into()], "Pair(1, 2)"),
        ("untagged", vec![], "None"),
    ];
    for (method, params, expected) in others {
        let shown = wire.call(method, params.clone());
        assert_eq!(shown, Ok(expected.into()), "{method} {params:?}");
    }
    // Those that say how many they take take them as ever.
    let five = Value::from(5);
    let one = [five.clone()];
    let as_ever = [
        ("one value", format!("({five:?},)")),
        ("values", format!("{one:?}")),
    ];
    for (method, expected) in as_ever {
        assert_eq!(
            wire.call(method, one.to_vec()),
            Ok(expected.into()),
            "{method}"
        );
    }
    let error = wire.call("tagged", vec![5.into()]).unwrap_err();
    assert!(error.to_string().contains("parameter 1"), "{error}");
}

/// What an error inside of a parameter is about, its number does not say.
#[test]
fn what_is_due_is_told() {
    let router = Router::new()
        .method("scale", |(factor, on): (f64, bool)| Ok((factor, on)))
        .method("sum", |(_, numbers): (u8, Vec<u64>)| Ok(numbers));
    let mut wire = Wire::new(router);
    for (method, params, why) in [
        (
            "scale",
            vec!["x".into(), true.into()],
            "parameter 1: a str does not fit, a number is due",
        ),
        (
            "scale",
            vec![1.5.into(), 1.into()],
            "parameter 2: invalid type: integer `1`, expected a boolean",
        ),
        (
            "sum",
            vec![1.into(), Value::Array(vec!["x".into()])],
            "parameter 2: a str does not fit",
        ),
    ] {
        let error = format!("wrong parameters for \"{method}\": {why}");
        assert_eq!(wire.error(method, params), error);
    }
}

#[test]
fn wrong_parameters_are_named() {
    let mut wire = Wire::new(router());
    let refused: Vec<(&str, Vec<Value>, &str)> = vec![
        (
            "none",
            vec![1.into()],
            "1 given, the method takes 0 parameters",
        ),
        ("one", vec![], "parameter 1 is missing"),
        (
            "one",
            vec![1.into(), 2.into()],
            "2 given, the method takes 1 parameter",
        ),
        (
            "one",
            vec!["x".into()],
            "parameter 1: a str does not fit, an integer is due",
        ),
        (
            "byte",
            vec![256.into()],
            "parameter 1: invalid value: integer `256`, expected u8",
        ),
        (
            "byte",
            vec![(-1).into()],
            "parameter 1: invalid value: integer `-1`, expected u8",
        ),
        (
            "maybe",
            vec![Value::Nil, Value::Nil],
            "2 given, the method takes 1 parameter",
        ),
        (
            "maybe",
            vec!["x".into()],
            "parameter 1: a str does not fit, an integer is due",
        ),
        ("two", vec![1.into()], "parameter 2 is missing"),
        ("two", vec![], "parameter 1 is missing"),
        (
            "two",
            vec![1.into(), 2.into()],
            "parameter 2: invalid type: integer `2`, expected a string",
        ),
        (
            "two",
            vec![1.into(), "x".into(), 3.into()],
            "3 given, the method takes 2 parameters",
        ),
        ("optional", vec![], "parameter 1 is missing"),
        (
            "optional",
            vec![1.into(), "x".into()],
            "parameter 2: a str does not fit",
        ),
        (
            "point",
            vec![1.into()],
            "invalid length 1, expected struct Point with 3 elements",
        ),
        (
            "point",
            vec![1.into(), 2.into(), Value::Nil, 4.into()],
            "4 given, the method takes 3 parameters",
        ),
        (
            "shape",
            vec!["blob".into()],
            "parameter 1: unknown variant `blob`, expected one of `dot`, `circle`, `rectangle`",
        ),
        (
            "many",
            vec![1.into(), 2.into(), Value::Nil],
            "parameter 3: invalid type: unit value, expected i64",
        ),
    ];
    for (method, params, why) in refused {
        assert_eq!(
            wire.error(method, params),
            format!("wrong parameters for \"{method}\": {why}")
        );
    }
    assert!(wire.is_open());
}

#[test]
fn text_that_is_not_utf8_is_an_error_and_bytes_are_not() {
    let mut wire = Wire::new(router());
    let replies = crate::client::read_all(&wire.raw(b"\x94\x00\x01\xa4text\x91\xa2\xff\xfe"));
    let error = replies[0][2].as_str().unwrap();
    assert!(
        error.starts_with("wrong parameters for \"text\": parameter 1: "),
        "{error}"
    );
    let replies = crate::client::read_all(&wire.raw(b"\x94\x00\x01\xa4blob\x91\xa2\xff\xfe"));
    assert_eq!(replies[0][3], Value::from("Blob([255, 254])"));
}

#[test]
fn parameters_nested_as_deep_as_frames_may_be_are_no_danger() {
    let router = Router::new().method("tree", |value: serde::de::IgnoredAny| {
        let _ = value;
        Ok("read")
    });
    let mut wire = Wire::new(router);
    let mut frame = b"\x94\x00\x01\xa4tree\x91".to_vec();
    frame.extend([0x91; 125]);
    frame.push(0xc0);
    assert_eq!(wire.raw(&frame), b"\x94\x01\x01\xc0\xa4read");
}

#[test]
fn results_become_msgpack() {
    let router = Router::new()
        .method("point", |()| {
            Ok(Point {
                x: -1,
                y: 70_000,
                label: None,
            })
        })
        .method("unit", |()| Ok(()))
        .method("none", |()| Ok(None::<i32>))
        .method("tuple", |()| Ok((1, "two", 3.5)))
        .method("shapes", |()| {
            Ok([
                Shape::Dot,
                Shape::Circle(1.0),
                Shape::Rectangle {
                    width: 1,
                    height: 2,
                },
            ])
        })
        .method("large", |size: usize| Ok("x".repeat(size)));
    let mut wire = Wire::new(router);
    assert_eq!(
        wire.call("point", vec![]),
        Ok(map(&[
            ("x", (-1).into()),
            ("y", 70_000.into()),
            ("label", Value::Nil)
        ]))
    );
    assert_eq!(wire.call("unit", vec![]), Ok(Value::Nil));
    assert_eq!(wire.call("none", vec![]), Ok(Value::Nil));
    assert_eq!(
        wire.call("tuple", vec![]),
        Ok(Value::Array(vec![1.into(), "two".into(), 3.5.into()]))
    );
    assert_eq!(
        wire.call("shapes", vec![]),
        Ok(Value::Array(vec![
            "dot".into(),
            map(&[("circle", 1.0.into())]),
            map(&[(
                "rectangle",
                map(&[("width", 1.into()), ("height", 2.into())])
            )]),
        ]))
    );
    for size in [0, 31, 32, 255, 256, 0x8000, 0xffff, 0x10000, 3_000_000] {
        assert_eq!(
            wire.call("large", vec![size.into()]),
            Ok("x".repeat(size).into())
        );
    }
}

#[test]
fn binary_data_is_a_byte_buf_and_a_vec_is_a_list() {
    let router = Router::new()
        .method("bytes", |data: ByteBuf| Ok(data))
        .method("numbers", |data: Vec<u8>| Ok(data));
    let mut wire = Wire::new(router);
    let binary = bin(b"\xfe\xff");
    let numbers = vec![254.into(), 255.into()];
    assert_eq!(wire.call("bytes", vec![binary.clone()]), Ok(binary.clone()));
    assert_eq!(
        wire.call("numbers", numbers.clone()),
        Ok(Value::Array(numbers))
    );
    assert_eq!(
        wire.error("numbers", vec![binary]),
        "wrong parameters for \"numbers\": parameter 1: a bin does not fit, an integer is due"
    );
}

/// Writes a part of itself and then fails, or panics.
struct Broken {
    panics: bool,
}

impl Serialize for Broken {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(3))?;
        list.serialize_element("the first part")?;
        assert!(!self.panics, "in the middle of a result");
        Err(serde::ser::Error::custom("out of ideas"))
    }
}

#[test]
fn a_result_that_cannot_be_serialized_is_an_error_and_leaves_no_trace() {
    let router = Router::new().method("broken", |panics: bool| Ok(Broken { panics }));
    let mut wire = Wire::new(router);
    assert_eq!(wire.call("ping", vec![]), Ok("pong".into()));
    assert_eq!(
        wire.error("broken", vec![false.into()]),
        "the result cannot be serialized: out of ideas"
    );
    assert_eq!(
        wire.error("broken", vec![true.into()]),
        "the handler of \"broken\" panicked"
    );
    assert_eq!(wire.call("ping", vec![]), Ok("pong".into()));
    assert_eq!(wire.exchange.counters().panics, 1);
}

#[test]
fn handlers_keep_state_that_is_not_shared() {
    let log = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let mut total = 0i64;
    let router = Router::new()
        .method("count", move |step: i64| {
            total += step;
            Ok(total)
        })
        .notification("log", {
            let log = log.clone();
            move |line: String| log.borrow_mut().push(line)
        })
        .method("fail", |()| -> Result<(), Fault> {
            Err("x".parse::<i32>().unwrap_err().into())
        });
    let mut wire = Wire::new(router);
    assert_eq!(wire.call("count", vec![5.into()]), Ok(5.into()));
    assert_eq!(wire.call("count", vec![(-2).into()]), Ok(3.into()));
    assert_eq!(
        wire.call("log", vec!["as a request".into()]),
        Ok(Value::Nil)
    );
    assert_eq!(*log.borrow(), ["as a request"]);
    assert_eq!(wire.error("fail", vec![]), "invalid digit found in string");
}
