//! What the log says of values that are left under names that nobody asks for. It is the only test of its process, for the reason
//! in `panics.rs`.

#![allow(clippy::unwrap_used)]

mod common;

use ringhold_core::Worker;
use ringhold_core::testing::Exchange;
use ringhold_rpc::{Router, Rpc};

use crate::common::{lines, logged};

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
fn what_is_left_under_a_name_that_nobody_asks_for_is_lost_and_said() {
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
        " WARN ringhold_core::handover::bequest: dropping what service service of the predecessor left (1 values): this program has no \
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
