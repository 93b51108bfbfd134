//! What handlers keep themselves, and leave to the next process.

use ringhold_core::Worker;
use ringhold_core::testing::Exchange;
use ringhold_rpc::{Router, Rpc};
use serde::{Deserialize, Serialize, Serializer};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Old {
    count: u64,
    gone: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct New {
    #[serde(default)]
    limit: Option<u64>,
    count: u64,
}

struct Broken;

impl Serialize for Broken {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("out of ideas"))
    }
}

fn old() -> Old {
    let gone = "gone".into();
    Old { count: 7, gone }
}

fn exchange(router: Router) -> Exchange {
    let make = |worker: &Worker| {
        for name in ["numbers", "broken", "state"] {
            assert_eq!(Router::taken_over::<u64>(worker, name), []);
        }
        Rpc::new(worker, router)
    };
    Exchange::with_worker(make, Default::default())
}

/// Hands over to a process that only looks at what it has taken over.
fn look(exchange: Exchange, look: impl FnOnce(&Worker)) -> Exchange {
    exchange.hand_over(|worker| {
        look(worker);
        Rpc::new(worker, Router::new())
    })
}

#[test]
fn each_value_is_found_by_its_name() {
    let router = Router::new()
        .hand_over("numbers", || [1, 2, 3])
        .hand_over("broken", || Broken)
        .hand_over("state", old);
    let next = look(exchange(router), |worker| {
        assert_eq!(
            Router::taken_over::<Vec<u8>>(worker, "numbers"),
            [[1, 2, 3]]
        );
        let new = New {
            limit: None,
            count: 7,
        };
        assert_eq!(Router::taken_over::<New>(worker, "state"), [new]);
        assert_eq!(Router::taken_over::<Old>(worker, "state"), [old()]);
        // Of another type, not written, or never heard of.
        assert_eq!(Router::taken_over::<u64>(worker, "state"), []);
        assert_eq!(Router::taken_over::<u64>(worker, "broken"), []);
        assert_eq!(Router::taken_over::<u64>(worker, "other"), []);
        // Or it is an error, for who cannot do without.
        assert_eq!(
            Router::try_taken_over::<Old>(worker, "state"),
            Ok(vec![old()])
        );
        assert_eq!(Router::try_taken_over::<u64>(worker, "other"), Ok(vec![]));
        let error = Router::try_taken_over::<u64>(worker, "state").unwrap_err();
        let said = "\"state\", which the predecessor left, cannot be taken over: ";
        assert!(error.to_string().starts_with(said), "{error}");
    });
    // That one has left nothing.
    let _ = look(next, |worker| {
        assert!(worker.taken_over().is_empty());
        assert_eq!(Router::taken_over::<Old>(worker, "state"), []);
    });
}

/// The same under another name of its field.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Either")]
struct Renamed {
    total: u64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Either {
    Renamed { total: u64 },
    Old(Old),
}

impl From<Either> for Renamed {
    fn from(either: Either) -> Self {
        match either {
            Either::Renamed { total } | Either::Old(Old { count: total, .. }) => Renamed { total },
        }
    }
}

#[test]
fn a_version_can_read_either_type() {
    let exchange = exchange(Router::new().hand_over("state", old));
    let renamed = || Renamed { total: 7 };
    let look = |worker: &Worker| {
        assert_eq!(Router::taken_over::<Renamed>(worker, "state"), [renamed()]);
        Rpc::new(worker, Router::new().hand_over("state", renamed))
    };
    let _ = exchange.hand_over(look).hand_over(look);
}

#[test]
#[should_panic(expected = "two values are handed over as \"state\"")]
fn a_name_stands_for_one_value() {
    let _ = Router::new()
        .hand_over("state", old)
        .hand_over("state", old);
}
