//! What the log says of values that are left under names that nobody asks for, or that cannot be written or read. It is the only
//! test of its process, for the reason in `panics.rs`.

#![allow(clippy::unwrap_used)]

mod common;

use ringhold_core::Worker;
use ringhold_core::testing::Exchange;
use ringhold_rpc::{Router, Rpc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use crate::common::{HOSTILE, hostile, lines, logged};

/// Asks for these names, each of which has to have this value, and hands over two.
fn version(asked: &[(&str, &[u8])]) -> impl FnOnce(&Worker) -> Rpc {
    move |worker| {
        for (name, left) in asked {
            assert_eq!(Router::taken_over::<u8>(worker, name), *left, "{name}");
        }
        let router = Router::bare().hand_over("a", || 1u8).hand_over("b", || 2u8);
        Rpc::new(worker, router)
    }
}

#[test]
fn what_does_not_come_to_the_successor_is_said() {
    what_is_left_under_a_name_that_nobody_asks_for_is_lost();
    why_a_value_is_not_written_or_read_stays_in_its_line();
}

fn what_is_left_under_a_name_that_nobody_asks_for_is_lost() {
    let text = logged(|| {
        let both = version(&[("a", &[]), ("b", &[])]);
        let _ = Exchange::with_worker(both, Default::default())
            // It drops what it is given, and leaves nothing under that name.
            .hand_over(version(&[("a", &[1])]))
            .hand_over(version(&[("b", &[]), ("a", &[1])]))
            // Both names are asked for, and neither is said to be lost.
            .hand_over(version(&[("b", &[2]), ("a", &[1])]))
            .hand_over(version(&[]))
            .hand_over(version(&[("a", &[])]));
    });
    let lines = lines(&text);
    let not_given = |name| {
        format!(
            "ERROR ringhold_rpc::left: {name:?} is lost and not handed over: this program does not ask for what was left under that name \
             (Router::taken_over)"
        )
    };
    let expected = [
        " WARN ringhold_core::handover::bequest: dropping \"b\", which service service of the predecessor left: this program does not ask \
          for it"
            .to_owned(),
        not_given("b"),
        " WARN ringhold_core::handover::bequest: dropping what service service of the predecessor left (1 value): this program has no \
          such service, or it does not ask for it (Worker::taken_over)"
            .to_owned(),
        not_given("a"),
        not_given("b"),
    ];
    assert_eq!(lines.len(), expected.len(), "{text}");
    for (line, expected) in lines.iter().zip(&expected) {
        assert!(line.ends_with(expected), "{line}\n{expected}");
    }
}

/// Neither written nor read, for reasons that quote a megabyte of what a client chose.
#[derive(Debug, Default, PartialEq)]
struct Broken;

impl Serialize for Broken {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(ser::Error::custom(hostile().repeat(2)))
    }
}

impl<'de> Deserialize<'de> for Broken {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(de::Error::custom(hostile().repeat(2)))
    }
}

fn why_a_value_is_not_written_or_read_stays_in_its_line() {
    let text = logged(|| {
        let first = |worker: &Worker| {
            for name in ["whole", "broken"] {
                assert_eq!(Router::taken_over::<u8>(worker, name), []);
            }
            let router = Router::bare()
                .hand_over("whole", || 1u8)
                .hand_over("broken", || Broken)
                .method_with("keep", |context, ()| {
                    context.data::<Broken>();
                    Ok(())
                })
                .resume("kept", |_, _: &mut Broken| Ok(()));
            Rpc::new(worker, router)
        };
        let mut exchange = Exchange::with_worker(first, Default::default());
        let client = exchange.connect();
        assert!(exchange.receive(client, b"\x94\0\x01\xa4keep\x90"));
        let exchange = exchange.hand_over(|worker| {
            assert_eq!(Router::taken_over::<Broken>(worker, "whole"), []);
            Rpc::new(worker, Router::bare())
        });
        assert!(!exchange.is_open(client));
    });
    let said = [
        "resume: the data \"kept\" of a connection cannot be serialized, so that the connection is closed instead of handed over",
        "left: \"broken\" cannot be handed over, it is no msgpack",
        "left: \"whole\", which the predecessor left, cannot be taken over",
    ];
    let lines = lines(&text);
    assert_eq!(lines.len(), said.len(), "{} lines", lines.len());
    for (line, said) in lines.iter().zip(said) {
        let said = format!("ERROR ringhold_rpc::{said}: {HOSTILE}");
        let beginning: String = line.chars().take(300).collect();
        assert!(line.contains(&said), "{beginning}");
        assert!(line.len() < 3000, "{} bytes", line.len());
    }
}
