//! What the log says of notifications that fail, since nobody else is told. It is the only test of its process, for the reason in
//! `panics.rs`.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use ringhold_core::Refusal;
use ringhold_core::testing::Exchange;
use ringhold_rpc::{Fault, Router, Rpc};
use serde::Deserialize;

use crate::common::{HOSTILE, connect_as, hostile, lines, logged, notification};

#[test]
fn what_nobody_else_is_told_is_logged() {
    a_notification_that_fails_is_a_warning_that_says_why();
    so_is_one_that_a_guard_refuses();
    whatever_a_client_sends_stays_in_its_line();
}

fn a_notification_that_fails_is_a_warning_that_says_why() {
    let text = logged(|| {
        let router = || {
            Router::bare()
                .notification("log", |_: String| {})
                .method("fail", |()| -> Result<(), Fault> { Err(Fault::new("no")) })
                .deferred("sift", |(), responder| responder.fault(Fault::new("no")))
        };
        let make = |worker: &ringhold_core::Worker| Rpc::new(worker, router());
        let mut exchange = Exchange::with_worker(make, Default::default());
        let [client, again] = [(); 2].map(|()| exchange.connect());
        let other = connect_as(4711, &mut exchange);
        let second = Duration::from_secs(1);
        // [2, method, params]
        for frame in [
            &b"\x93\x02\xa3log\x91\xa1x"[..],
            b"\x93\x02\xa3log\x91\x01",
            b"\x93\x02\xa4fail\x90",
            b"\x93\x02\xa3lag\x90",
            // It is only counted, but for its parameters.
            b"\x93\x02\xa4sift\x90",
            b"\x93\x02\xa4sift\x91\x01",
            // A request is answered.
            b"\x94\x00\x01\xa4fail\x90",
        ] {
            exchange.receive(client, frame);
            exchange.advance(second);
        }
        for _ in 0..25 {
            exchange.receive(client, b"\x93\x02\xa3log\x91\x01");
        }
        // It does not hide what others do in the same second, with however many connections.
        exchange.receive(again, b"\x93\x02\xa3log\x91\x01");
        exchange.receive(other, b"\x93\x02\xa3lag\x90");
        exchange.advance(second);
        assert!(exchange.is_open(client));
    });
    let lines = lines(&text);
    let undecoded = (0, "its notification of \"log\" failed: ");
    let unknown = "there is no method \"lag\", for which it sent a notification";
    let expected = [
        undecoded,
        (
            0,
            "its notification of \"fail\" failed: no socket=test connection=0.0.0 peer=unix",
        ),
        (0, unknown),
        (
            0,
            "its notification of \"sift\" failed: wrong parameters for \"sift\": ",
        ),
        undecoded,
        undecoded,
        (2, unknown),
    ];
    assert_eq!(lines.len(), expected.len() + 1, "{text}");
    for (line, (client, expected)) in lines.iter().zip(expected) {
        let who =
            format!("connection 0.{client}.{client} of test over a unix socket is not told that ");
        assert!(
            line.contains(" WARN ") && line.contains(&format!("{who}{expected}")),
            "{line}"
        );
    }
    assert!(lines[0].contains("string"), "the reason: {}", lines[0]);
    assert!(
        lines[7].ends_with(
            "24 failures that peers are not told of were not logged one by one worker=0"
        ),
        "{text}"
    );
}

/// Whichever method it is of, and whether or not there is one.
fn so_is_one_that_a_guard_refuses() {
    let text = logged(|| {
        let router = Router::new()
            .deferred("sift", |(), responder| responder.ok(&()))
            .guard(|_, method| match method {
                "echo" => panic!("on purpose"),
                _ => Err(Fault::new("log in first")),
            });
        let mut exchange =
            Exchange::with_worker(|worker| Rpc::new(worker, router), Default::default());
        let client = exchange.connect();
        for method in ["ping", "sift", "lag", "echo"] {
            exchange.receive(client, &notification(method, ""));
            exchange.advance(Duration::from_secs(1));
        }
        for _ in 0..25 {
            exchange.receive(client, &notification("ping", ""));
        }
        exchange.receive(client, b"\x94\x00\x01\xa4ping\x90");
        exchange.advance(Duration::from_secs(1));
        assert!(exchange.is_open(client));
    });
    let lines = lines(&text);
    let refused = |method, why| format!("its notification of {method:?} failed: {why}");
    let ping = refused("ping", "log in first");
    let expected = [
        ping.clone(),
        refused("sift", "log in first"),
        refused("lag", "log in first"),
        "the guard of \"echo\" panicked".to_owned(),
        refused("echo", "the guard of \"echo\" panicked"),
        ping.clone(),
        ping,
        "23 failures that peers are not told of were not logged one by one".to_owned(),
    ];
    assert_eq!(lines.len(), expected.len(), "{text}");
    for (line, expected) in lines.iter().zip(&expected) {
        assert!(line.contains(expected), "{line}");
    }
}

#[derive(Deserialize)]
enum Mode {
    Fast,
}

/// However the service repeats it.
fn whatever_a_client_sends_stays_in_its_line() {
    let text = logged(|| {
        let mut count = 0;
        let router = Router::bare()
            .method("mode", |(Mode::Fast,): (Mode,)| Ok(()))
            .method("find", |(name,): (String,)| -> Result<(), Fault> {
                Err(Fault::new(format!("no channel {name}")))
            })
            .connected(move |_| {
                count += 1;
                match count {
                    1 => Ok(()),
                    _ => Err(Refusal::new(format!("not from {}", hostile()))),
                }
            });
        let mut exchange =
            Exchange::with_worker(|worker| Rpc::new(worker, router), Default::default());
        let client = exchange.connect();
        for method in ["mode", "find", &hostile()] {
            exchange.receive(client, &notification(method, &hostile()));
            exchange.advance(Duration::from_secs(1));
        }
        assert!(exchange.is_open(client));
        exchange.connect();
    });
    let lines = lines(&text);
    let said = [
        format!(
            "its notification of \"mode\" failed: wrong parameters for \"mode\": parameter 1: unknown variant `{HOSTILE}"
        ),
        format!("its notification of \"find\" failed: no channel {HOSTILE}"),
        "there is no method \"x\\n<2>ringhold: ".to_owned(),
        format!("closes: the service refused the connection: not from {HOSTILE}"),
    ];
    assert_eq!(lines.len(), said.len(), "{} lines", lines.len());
    for (line, said) in lines.iter().zip(&said) {
        assert!(line.contains(" WARN ") && line.contains(said), "{line}");
        assert!(line.len() < 3000, "{} bytes", line.len());
    }
}
