//! What the log says of handlers that panic. It is the only test of its process: a place that logs is asked once whether
//! anybody listens, and the answer is that of the thread which comes there first (tokio-rs/tracing#3611), so that a test
//! beside this one could silence it.

#![allow(clippy::unwrap_used)]

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringhold_core::limits::Limits;
use ringhold_core::testing::{Client, Exchange};
use ringhold_rpc::{Fault, Router, Rpc};
use rmpv::Value;

/// Whoever can cause one panic again and again does not hide another one that comes later.
#[test]
fn a_panic_is_logged_after_any_number_of_others() {
    let log = Log::default();
    let sink = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || sink.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        let router = Router::bare()
            .method("often", |()| -> Result<(), Fault> {
                panic!("as often as you like")
            })
            .every(Duration::from_secs(60), || panic!("each minute"))
            .method("once", |()| -> Result<(), Fault> { panic!("only once") });
        let mut exchange =
            Exchange::with_worker(|worker| Rpc::new(worker, router), Limits::default());
        let client = exchange.connect();
        for _ in 0..100 {
            call(&mut exchange, client, "often");
        }
        exchange.advance(Duration::from_secs(2));
        call(&mut exchange, client, "once");
        assert_eq!(exchange.counters().panics, 101);
        exchange.advance(Duration::from_secs(60));
        assert_eq!(exchange.counters().panics, 102);
    });
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let count = |part: &str| text.lines().filter(|line| line.contains(part)).count();
    assert_eq!(count("the handler of \"once\" panicked"), 1, "{text}");
    assert_eq!(count(": only once"), 1, "{text}");
    assert_eq!(count("the handler of \"often\" panicked"), 10, "{text}");
    assert_eq!(count(" 90 panics "), 1, "{text}");
    assert_eq!(
        count("what is due every 60s of test panicked in tick: each minute"),
        1,
        "{text}"
    );
}

fn call(exchange: &mut Exchange, client: Client, method: &str) {
    let request = Value::Array(vec![
        0.into(),
        1.into(),
        method.into(),
        Value::Array(vec![]),
    ]);
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, &request).unwrap();
    assert!(exchange.receive(client, &bytes));
    assert!(!exchange.take_sent(client).is_empty());
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
