//! Parameters of which there are too few, and values of another length than is due.

use std::fmt::{self, Debug, Formatter};

use ringhold_rpc::Router;
use rmpv::Value;
use serde::de::{DeserializeOwned, Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::client::{Wire, map};

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "it is shown by Debug")]
struct Last(String, #[serde(default)] u32);

fn five() -> u32 {
    5
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "it is shown by Debug")]
struct Several(
    String,
    #[serde(default = "five")] u32,
    #[serde(default)] Option<u32>,
    #[serde(default)] Vec<u8>,
);

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "it is shown by Debug")]
struct Between(String, Option<u32>, String);

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "it is shown by Debug")]
enum Speed {
    Fast,
    Slow(u8),
}

/// A latitude and, if it is known, a height, which are looked at while they are read.
#[derive(Debug)]
#[expect(dead_code, reason = "it is shown by Debug")]
struct Place(f64, Option<f64>);

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_tuple(2, PlaceVisitor)
    }
}

struct PlaceVisitor;

impl<'de> Visitor<'de> for PlaceVisitor {
    type Value = Place;

    fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("a place")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Place, A::Error> {
        let latitude = list.next_element()?;
        let latitude = latitude.ok_or_else(|| A::Error::invalid_length(0, &self))?;
        let height = list.next_element()?;
        let height = height.ok_or_else(|| A::Error::invalid_length(1, &self))?;
        if latitude > 90.0 {
            return Err(A::Error::custom("latitude above 90"));
        }
        Ok(Place(latitude, height))
    }
}

/// As [`Place`], but a height that is not known is 0.
#[derive(Debug)]
#[expect(dead_code, reason = "it is shown by Debug")]
struct Level(f64, f64);

impl<'de> Deserialize<'de> for Level {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_tuple(2, LevelVisitor)
    }
}

struct LevelVisitor;

impl<'de> Visitor<'de> for LevelVisitor {
    type Value = Level;

    fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("a level")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Level, A::Error> {
        let latitude = list.next_element()?;
        let latitude = latitude.ok_or_else(|| A::Error::invalid_length(0, &self))?;
        let height = list.next_element()?.unwrap_or(0.0);
        if latitude > 90.0 {
            return Err(A::Error::custom("latitude above 90"));
        }
        Ok(Level(latitude, height))
    }
}

fn show<P: Debug + DeserializeOwned + 'static>(router: Router, name: &str) -> Router {
    router.method(name, |params: P| Ok(format!("{params:?}")))
}

fn wire() -> Wire {
    let mut router = Router::new();
    router = show::<Last>(router, "last");
    router = show::<Several>(router, "several");
    router = show::<Between>(router, "between");
    router = show::<Place>(router, "place");
    router = show::<Level>(router, "level");
    router = show::<Speed>(router, "speed");
    router = show::<i128>(router, "signed");
    router = show::<u128>(router, "unsigned");
    router = show::<(u8, [u8; 2])>(router, "nested");
    Wire::new(router.method("twice", |value: i128| Ok(value * 2)))
}

fn assert_refused(cases: impl IntoIterator<Item = (&'static str, Vec<Value>, &'static str)>) {
    let mut wire = wire();
    for (method, params, why) in cases {
        assert_eq!(
            wire.error(method, params),
            format!("wrong parameters for \"{method}\": {why}")
        );
    }
}

#[test]
fn the_last_fields_of_a_tuple_struct_have_defaults() {
    let mut wire = wire();
    let accepted: [(&str, Vec<Value>, &str); 6] = [
        ("last", vec!["a".into()], r#"Last("a", 0)"#),
        ("last", vec!["a".into(), 1.into()], r#"Last("a", 1)"#),
        ("several", vec!["a".into()], r#"Several("a", 5, None, [])"#),
        (
            "several",
            vec!["a".into(), 1.into()],
            r#"Several("a", 1, None, [])"#,
        ),
        (
            "several",
            vec!["a".into(), 1.into(), 2.into()],
            r#"Several("a", 1, Some(2), [])"#,
        ),
        (
            "between",
            vec!["a".into(), 1.into(), "b".into()],
            r#"Between("a", Some(1), "b")"#,
        ),
    ];
    for (method, params, expected) in accepted {
        assert_eq!(wire.call(method, params), Ok(expected.into()), "{method}");
    }
    assert_refused([
        ("last", vec![], "parameter 1 is missing"),
        (
            "last",
            vec!["a".into(), 1.into(), 2.into()],
            "3 given, the method takes 2 parameters",
        ),
        ("several", vec![], "parameter 1 is missing"),
        ("between", vec!["a".into()], "parameter 3 is missing"),
        (
            "between",
            vec!["a".into(), 1.into()],
            "parameter 3 is missing",
        ),
        (
            "last",
            vec!["a".into(), "b".into()],
            "parameter 2: a str does not fit, an integer is due",
        ),
    ]);
}

#[test]
fn what_a_visitor_says_is_not_taken_for_a_missing_parameter() {
    let shown = wire().call("place", vec![1.5.into()]);
    assert_eq!(shown, Ok("Place(1.5, None)".into()));
    let shown = wire().call("level", vec![1.5.into()]);
    assert_eq!(shown, Ok("Level(1.5, 0.0)".into()));
    let why = "latitude above 90";
    assert_refused([
        ("place", vec![91.5.into(), 1.0.into()], why),
        ("place", vec![91.5.into()], why),
        ("place", vec![], "parameter 1 is missing"),
        ("level", vec![91.5.into(), 1.0.into()], why),
        ("level", vec![91.5.into()], why),
        ("level", vec![], "parameter 1 is missing"),
    ]);
}

#[test]
fn another_length_than_is_due_is_named_without_a_number() {
    let two = map(&[("Slow", 3.into()), ("Fast", 1.into())]);
    let bytes = Value::Binary(vec![1, 2, 3]);
    let why = "parameter 1: a number of elements or bytes does not fit";
    let list = Value::Array(vec![1.into(), 2.into(), 3.into()]);
    assert_refused([
        ("speed", vec![two], why),
        ("speed", vec![map(&[])], why),
        ("signed", vec![bytes], why),
        (
            "nested",
            vec![0.into(), list],
            "parameter 2: a number of elements or bytes does not fit",
        ),
    ]);
}

/// As the documentation of [`Router::method`] says.
#[test]
fn integers_of_128_bits_are_bins() {
    let mut wire = wire();
    let bin = |value: i128| Value::Binary(value.to_be_bytes().to_vec());
    for (value, twice) in [(5.into(), 10), (bin(-5), -10), (bin(1 << 100), 1 << 101)] {
        assert_eq!(wire.call("twice", vec![value]), Ok(bin(twice)));
    }
    for (value, expected) in [
        (7.into(), 7),
        (bin(-1), u128::MAX),
        ((-1).into(), u128::MAX),
    ] {
        assert_eq!(
            wire.call("unsigned", vec![value]),
            Ok(expected.to_string().into())
        );
    }
}
