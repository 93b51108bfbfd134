//! What is counted by method.

use std::collections::BTreeMap;
use std::sync::mpsc::channel;

use ringhold_rpc::{Fault, Responder, Router};
use rmpv::Value;

use crate::client::{Wire, notification};

/// By method, how many calls there were and how many of them failed; `None` stands for methods that there are not.
fn counts(wire: &Wire) -> BTreeMap<Option<String>, [i64; 2]> {
    let mut counts = BTreeMap::<_, [i64; 2]>::new();
    for metric in wire.exchange.snapshot().own {
        let column = usize::from(metric.name == "ringhold_method_faults");
        for value in metric.values {
            assert_eq!((&*value.service, value.worker), ("service", 0));
            let method = value.labels.get("method").cloned();
            counts.entry(method).or_default()[column] += value.value;
        }
    }
    counts.retain(|_, [calls, faults]| *calls > 0 || *faults > 0);
    counts
}

fn is(expected: &[(&str, [i64; 2])]) -> BTreeMap<Option<String>, [i64; 2]> {
    let named = |(name, counts): &(&str, [i64; 2])| (Some((*name).to_owned()), *counts);
    expected.iter().map(named).collect()
}

#[test]
fn calls_and_failures_are_counted_by_method() {
    let router = Router::new()
        .method("half", |n: u32| match n % 2 {
            0 => Ok(n / 2),
            _ => Err(Fault::new("odd")),
        })
        .method("panic", |()| -> Result<(), Fault> { panic!("as asked") })
        .raw("raw", |_, answer| answer.fault(Fault::new("never")));
    let mut wire = Wire::new(router);
    for n in 0..5 {
        let answer = wire.call("half", vec![n.into()]);
        assert_eq!(answer.is_ok(), n % 2 == 0);
    }
    wire.send(notification("half", vec![2.into()]));
    wire.send(notification("half", vec![3.into()]));
    wire.error("half", vec!["two".into()]);
    wire.error("panic", vec![]);
    wire.send(notification("panic", vec![]));
    wire.error("raw", vec![]);
    wire.send(notification("raw", vec![]));
    wire.call("ping", vec![]).unwrap();
    let mut expected = is(&[
        ("half", [8, 4]),
        ("panic", [2, 2]),
        ("raw", [2, 2]),
        ("ping", [1, 0]),
    ]);
    assert_eq!(counts(&wire), expected);
    wire.error("hlaf", vec![]);
    wire.send(notification("hlaf", vec![]));
    expected.insert(None, [2, 0]);
    assert_eq!(counts(&wire), expected);
}

#[test]
fn deferred_replies_count_when_they_fail() {
    let (sender, responders) = channel();
    let router = Router::new().deferred("later", move |(): (), responder| {
        sender.send(responder).unwrap();
    });
    let mut wire = Wire::new(router);
    let frames = [1, 2, 3, 4, 5].map(|id| crate::client::request(id, "later", vec![]));
    for frame in frames {
        wire.send(frame);
    }
    for _ in 0..4 {
        wire.send(notification("later", vec![]));
    }
    assert_eq!(counts(&wire), is(&[("later", [9, 0])]));
    let answers: Vec<fn(Responder)> = vec![
        |responder| responder.ok(&1),
        |responder| responder.fault(Fault::new("no")),
        drop,
        |responder| {
            let _guard = responder;
            panic!("as asked");
        },
        |responder| responder.result(Err::<(), _>(Fault::new("no"))),
        |responder| responder.fault(Fault::new("a notification")),
        drop,
        |responder| {
            let _guard = responder;
            panic!("as asked");
        },
        |responder| responder.ok(&1),
    ];
    for (responder, answer) in responders.try_iter().zip(answers) {
        let _ = std::thread::spawn(move || answer(responder)).join();
    }
    assert_eq!(wire.arrived().len(), 5);
    assert_eq!(counts(&wire), is(&[("later", [9, 7])]));
}

#[test]
fn deferred_notifications_count_once_as_requests_do() {
    let router = || {
        Router::bare()
            .deferred("panic", |(): (), _| panic!("as asked"))
            .deferred("drop", |(): (), responder| drop(responder))
            .deferred("fault", |(): (), responder| {
                responder.fault(Fault::new("no"));
            })
            .deferred("ok", |(): (), responder| responder.ok(&1))
            .raw("again", |_, answer| {
                let _ = answer.fault(Fault::new("no"));
                panic!("as asked")
            })
            .raw("late", |_, answer| {
                let _ = answer.ok(&1);
                panic!("as asked")
            })
    };
    let expected = is(&[
        ("panic", [1, 1]),
        ("drop", [1, 1]),
        ("fault", [1, 1]),
        ("ok", [1, 0]),
        ("again", [1, 1]),
        ("late", [1, 0]),
    ]);
    let mut requests = Wire::new(router());
    let mut notifications = Wire::new(router());
    for (id, name) in expected.keys().flatten().enumerate() {
        requests.send(crate::client::request(id as u32, name, vec![]));
        assert_eq!(notifications.send(notification(name, vec![])), []);
    }
    requests.arrived();
    assert_eq!(counts(&requests), expected);
    assert_eq!(counts(&notifications), expected);
}

#[test]
fn status_has_them() {
    let mut wire = Wire::new(Router::new());
    wire.call("ping", vec![]).unwrap();
    let status = wire.call("status", vec![]).unwrap();
    let calls = &status["own"][0];
    assert_eq!(calls["name"], "ringhold_method_calls".into());
    assert_eq!(calls["kind"], "counter".into());
    let values = calls["values"].as_array().unwrap();
    let of = |method: &str| {
        let labels = Value::Map(vec![("method".into(), method.into())]);
        let value = values.iter().find(|value| value["labels"] == labels);
        value.unwrap()["value"].clone()
    };
    assert_eq!([of("ping"), of("time")], [1.into(), 0.into()]);
}

#[test]
fn what_a_guard_refuses_has_failed() {
    let router = Router::new().guard(|_, method| match method {
        "ping" => Ok(()),
        _ => Err(Fault::new("no")),
    });
    let mut wire = Wire::new(router);
    for method in ["ping", "echo", "lacks"] {
        for message in [
            crate::client::request(1, method, vec![]),
            notification(method, vec![]),
        ] {
            wire.send(message);
        }
    }
    let mut expected = is(&[("ping", [2, 0]), ("echo", [2, 2])]);
    expected.insert(None, [2, 0]);
    assert_eq!(counts(&wire), expected);
}
