//! What the log says of notifications that fail, since nobody else is told. It is the only test of its process, for the reason in
//! `panics.rs`.

#![allow(clippy::unwrap_used)]

use std::io::{Read, pipe};
use std::sync::Mutex;
use std::time::Duration;

use ringhold_core::testing::Exchange;
use ringhold_rpc::{Fault, Router, Rpc};

#[test]
fn a_notification_that_fails_is_a_warning_that_says_why() {
    let (mut log, sink) = pipe().unwrap();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(Mutex::new(sink))
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        let router = || {
            Router::bare()
                .notification("log", |_: String| {})
                .method("fail", |()| -> Result<(), Fault> { Err(Fault::new("no")) })
        };
        let make = |worker: &ringhold_core::Worker| Rpc::new(worker, router());
        let mut exchange = Exchange::with_worker(make, Default::default());
        let client = exchange.connect();
        let second = Duration::from_secs(1);
        // [2, method, params]
        for frame in [
            &b"\x93\x02\xa3log\x91\xa1x"[..],
            b"\x93\x02\xa3log\x91\x01",
            b"\x93\x02\xa4fail\x90",
            b"\x93\x02\xa3lag\x90",
            // A request is answered.
            b"\x94\x00\x01\xa4fail\x90",
        ] {
            exchange.receive(client, frame);
            exchange.advance(second);
        }
        for _ in 0..25 {
            exchange.receive(client, b"\x93\x02\xa3log\x91\x01");
        }
        exchange.advance(second);
        assert!(exchange.is_open(client));
    });
    let mut text = String::new();
    log.read_to_string(&mut text).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let who = "connection 0.0.0 of test over a unix socket is not told that ";
    let undecoded = "its notification of \"log\" failed: ";
    let mut expected = vec![
        undecoded,
        "its notification of \"fail\" failed: no socket=test connection=0.0.0 peer=unix",
        "there is no method \"lag\", for which it sent a notification",
    ];
    expected.resize(3 + 10, undecoded);
    assert_eq!(lines.len(), expected.len() + 1, "{text}");
    for (line, expected) in lines.iter().zip(&expected) {
        assert!(
            line.contains(" WARN ") && line.contains(&format!("{who}{expected}")),
            "{line}"
        );
    }
    assert!(lines[0].contains("string"), "the reason: {}", lines[0]);
    assert!(
        lines[13].ends_with(
            "15 failures that peers are not told of were not logged one by one worker=0"
        ),
        "{text}"
    );
}
