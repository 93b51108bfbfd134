//! What the log says of handlers that panic, that give no answer and that take long, and of what is left to the successor. It is the only test of its
//! process: a place that logs is asked once whether anybody listens, and the answer is that of the thread which comes there first (tokio-rs/tracing#3611), so that a test
//! beside this one could silence it.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::mpsc::channel;
use std::time::Duration;

use ringhold_core::Worker;
use ringhold_core::limits::Limits;
use ringhold_core::testing::{Client, Exchange};
use ringhold_rpc::{Fault, Router, Rpc};
use rmpv::Value;

use crate::common::{HOSTILE, connect_as, hostile, lines, logged, notification};

#[test]
fn what_is_wrong_with_a_handler_is_logged_with_its_method() {
    a_panic_is_logged_after_any_number_of_others();
    so_is_a_request_that_gets_no_answer();
    so_is_one_that_a_stop_waits_for();
    so_is_a_call_that_takes_long();
    so_is_a_panic_when_a_connection_begins_or_ends();
    so_are_several_in_one_end();
    a_panic_costs_one_of_the_values_that_are_left();
    each_value_that_a_panic_costs_is_logged();
    what_a_panic_says_stays_in_its_line();
}

fn count(text: &str, part: &str) -> usize {
    text.lines().filter(|line| line.contains(part)).count()
}

/// Whoever can cause one panic again and again does not hide another one that comes later.
fn a_panic_is_logged_after_any_number_of_others() {
    let text = logged(|| {
        let router = Router::bare()
            .method("often", |()| -> Result<(), Fault> {
                panic!("as often as you like")
            })
            .every(Duration::from_secs(60), |turn| {
                assert!(turn.now() < Duration::from_secs(60), "each minute");
            })
            .method("once", |()| -> Result<(), Fault> { panic!("only once") });
        let mut exchange =
            Exchange::with_worker(|worker| Rpc::new(worker, router), Limits::default());
        let client = exchange.connect();
        for _ in 0..100 {
            call(&mut exchange, client, "often");
        }
        // And whoever does so does not hide who else can.
        let other = connect_as(4711, &mut exchange);
        call(&mut exchange, other, "often");
        exchange.advance(Duration::from_secs(2));
        call(&mut exchange, client, "once");
        assert_eq!(exchange.counters().panics, 102);
        exchange.advance(Duration::from_secs(60));
        assert_eq!(exchange.counters().panics, 103);
    });
    let count = |part| count(&text, part);
    assert_eq!(count("the handler of \"once\" panicked"), 1, "{text}");
    assert_eq!(count(": only once"), 1, "{text}");
    assert_eq!(count("the handler of \"often\" panicked"), 3, "{text}");
    let other = "the handler of \"often\" panicked on connection 0.1.1 of";
    assert_eq!(count(other), 1, "{text}");
    assert_eq!(count(" 98 panics "), 1, "{text}");
    assert_eq!(
        count("what is due every 60s of service service panicked in tick: each minute"),
        1,
        "{text}"
    );
}

fn so_is_a_request_that_gets_no_answer() {
    let limits = Limits {
        promise_timeout: Duration::from_secs(60),
        ..Limits::default()
    };
    let text = logged(|| {
        let mut held = Vec::new();
        let router = Router::bare()
            .deferred("forget", |(), responder| drop(responder))
            .deferred("keep", move |(), responder| held.push(responder));
        let mut exchange = Exchange::with_worker(|worker| Rpc::new(worker, router), limits);
        let client = exchange.connect();
        for id in 0..15 {
            exchange.receive(client, &request(id, "forget"));
        }
        exchange.advance(Duration::from_secs(2));
        exchange.receive(client, &request(20, "keep"));
        exchange.advance(Duration::from_secs(61));
        let sent = exchange.take_sent(client);
        let late = b"the handler gave no answer within promise_timeout\xc0";
        assert!(sent.ends_with(late), "{}", sent.escape_ascii());
        exchange.receive(client, &request(u32::MAX, "keep"));
        exchange.take_sent(client);
        exchange.stop_within(Duration::from_secs(5));
        exchange.advance(Duration::from_secs(6));
        let sent = exchange.take_sent(client);
        assert!(
            sent.starts_with(b"\x94\x01\xce\xff\xff\xff\xff"),
            "{sent:x?}"
        );
        assert_eq!(exchange.counters().abandoned, 17);
    });
    let dropped = "of test over a unix socket gets no answer to request 1 for \"forget\": \
        the service dropped its Responder without an answer socket=test";
    assert_eq!(count(&text, dropped), 1, "{text}");
    assert_eq!(count(&text, " for \"forget\": "), 2, "{text}");
    assert_eq!(
        count(&text, " 13 deferred replies that will not come "),
        1,
        "{text}"
    );
    let kept = "request 4294967295 for \"keep\": the server is stopping or restarting";
    assert_eq!(count(&text, kept), 1, "{text}");
    let late = "request 20 for \"keep\": the handler gave no answer within promise_timeout";
    assert_eq!(count(&text, late), 1, "{text}");
    assert_eq!(count(&text, " WARN "), 5, "{text}");
}

/// Whoever waits for a restart learns whose answer it waits for as long as something can be done about it.
fn so_is_one_that_a_stop_waits_for() {
    let (sender, responders) = channel();
    let [other, late] = [(); 2].map(|()| sender.clone());
    let router = Router::bare()
        .deferred("usual", move |(), responder| other.send(responder).unwrap())
        .deferred("late", move |(), responder| late.send(responder).unwrap())
        .deferred("hung", move |(), responder| sender.send(responder).unwrap());
    let mut exchange = Exchange::with_worker(|worker| Rpc::new(worker, router), Limits::default());
    let clients = [(); 4].map(|()| exchange.connect());
    let text = logged(|| {
        for id in 0..4 {
            exchange.receive(clients[0], &request(id, "usual"));
        }
        exchange.advance(Duration::from_secs(2));
        exchange.receive(clients[1], &request(9, "hung"));
        for _ in 0..4 {
            responders.recv().unwrap().ok(&());
        }
        exchange.advance(Duration::from_millis(500));
        for id in 4..16 {
            exchange.receive(clients[0], &request(id, "usual"));
        }
        exchange.stop_within(Duration::from_secs(5));
        exchange.advance(Duration::from_millis(500));
        // It is not known to be slow when it is looked for the first time.
        exchange.receive(clients[2], &request(16, "late"));
        exchange.advance(Duration::from_millis(499));
    });
    assert_eq!(text, "", "usual ones need not be known");
    let text = logged(|| exchange.advance(Duration::from_millis(1)));
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 11, "{text}");
    let hung = "connection 0.1.1 of test over a unix socket still waits for the answer to \
        request 9 for \"hung\", promised 1.5s ago socket=test connection=0.1.1 peer=unix";
    assert!(
        lines[0].contains(" INFO ") && lines[0].ends_with(hung),
        "{text}"
    );
    let usual =
        "connection 0.0.0 of test over a unix socket still waits for the answer to request ";
    let usual =
        |line: &&str| line.contains(usual) && line.contains(" for \"usual\", promised 1s ago");
    assert!(lines[1..10].iter().all(usual), "{text}");
    assert!(
        lines[10].ends_with("3 more deferred replies are waited for worker=0"),
        "{text}"
    );
    let text = logged(|| exchange.advance(Duration::from_millis(999)));
    assert_eq!(text, "", "once a second is enough");
    // Promised when the first were named already, and as old as that when the next are.
    let text = logged(|| {
        exchange.receive(clients[3], &request(17, "late"));
        exchange.advance(Duration::from_millis(1));
    });
    let late = |connection, id, ago| {
        format!(
            "connection {connection} of test over a unix socket still waits for the answer to \
             request {id} for \"late\", promised {ago} ago socket=test connection={connection} peer=unix"
        )
    };
    assert_eq!(text.lines().count(), 1, "each is named once: {text}");
    assert!(
        text.trim_end().ends_with(&late("0.2.2", 16, "1.5s")),
        "{text}"
    );
    let text = logged(|| exchange.advance(Duration::from_secs(1)));
    assert_eq!(text.lines().count(), 1, "each is named once: {text}");
    assert!(
        text.trim_end().ends_with(&late("0.3.3", 17, "1.001s")),
        "{text}"
    );
    let text = logged(|| exchange.advance(Duration::from_millis(1999)));
    assert_eq!(text, "", "once is enough");
}

fn so_is_a_call_that_takes_long() {
    let text = logged(|| {
        let router = Router::bare()
            .method("quick", |()| Ok(()))
            // Much more than what is said to be slow, on a clock that moves on by up to 10 ms.
            .method("slow", |()| {
                std::thread::sleep(Duration::from_millis(150));
                Ok(())
            });
        let mut exchange =
            Exchange::with_worker(|worker| Rpc::new(worker, router), Limits::default());
        let client = exchange.connect();
        // As many as it takes for a frame to be like one before.
        for _ in 0..3 {
            call(&mut exchange, client, "quick");
            call(&mut exchange, client, "slow");
        }
        let frames = [request(1, "quick"), request(2, "slow")].concat();
        exchange.receive(client, &frames);
    });
    assert_eq!(
        count(&text, " ms for a call of \"slow\" on connection "),
        3,
        "{text}"
    );
    let several = " ms for 2 frames, the last of them a call of \"slow\", on connection ";
    assert_eq!(count(&text, several), 1, "{text}");
}

fn so_is_a_panic_when_a_connection_begins_or_ends() {
    let text = logged(|| {
        let mut count = 0;
        let router = Router::bare()
            .connected(move |_| {
                count += 1;
                assert!(count != 2, "no second one");
                Ok(())
            })
            .gone(|_| panic!("no end"));
        let mut exchange =
            Exchange::with_worker(|worker| Rpc::new(worker, router), Limits::default());
        let clients = [(); 3].map(|()| exchange.connect());
        exchange.end(clients[0]);
        let open = clients.map(|client| exchange.is_open(client));
        assert_eq!(open, [false, false, true]);
        assert_eq!(exchange.counters().panics, 2);
    });
    for said in ["no second one", "no end"] {
        let said = format!(" of test over a unix socket: {said}");
        assert_eq!(count(&text, &said), 1, "{text}");
    }
    for call in ["connected", "disconnected"] {
        let panicked = format!("the service panicked in {call} on connection ");
        assert_eq!(count(&text, &panicked), 1, "{text}");
    }
}

/// By whoever leaves them to the log.
fn so_are_several_in_one_end() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(|info| {
        ringhold_core::panics::leave_to_log(info);
    }));
    let text = logged(|| {
        let router = Router::bare()
            .gone(|_| panic!("no first end"))
            .gone(|_| ())
            .gone(|_| panic!("no last end"));
        let mut exchange =
            Exchange::with_worker(|worker| Rpc::new(worker, router), Limits::default());
        let client = exchange.connect();
        exchange.end(client);
        assert_eq!(exchange.counters().panics, 1);
    });
    std::panic::set_hook(usual);
    for said in [
        "a call of a service panics again; before: no first end, at crates/rpc/tests/panics.rs:",
        " of test over a unix socket: no last end, at crates/rpc/tests/panics.rs:",
    ] {
        assert_eq!(count(&text, said), 1, "{text}");
    }
}

fn a_panic_costs_one_of_the_values_that_are_left() {
    const NAMES: [&str; 3] = ["first", "second", "third"];
    let given = |worker: &Worker| NAMES.map(|name| Router::taken_over::<u8>(worker, name));
    let text = logged(|| {
        let mut metrics = None;
        let exchange = Exchange::with_worker(
            |worker| {
                metrics = Some(worker.metrics().clone());
                given(worker);
                let router = Router::bare()
                    .hand_over("first", || 1u8)
                    .hand_over("second", || -> u8 { panic!("out of ideas") })
                    .hand_over("third", || 3u8);
                Rpc::new(worker, router)
            },
            Limits::default(),
        );
        let _ = exchange.hand_over(|worker| {
            assert_eq!(given(worker), [vec![1], vec![], vec![3]]);
            Rpc::new(worker, Router::bare())
        });
        assert_eq!(metrics.unwrap().snapshot().total().panics, 1);
    });
    let said =
        "what is handed over as \"second\" of service service panicked in hand_over: out of ideas";
    assert_eq!(count(&text, said), 1, "{text}");
    assert_eq!(count(&text, "panicked"), 1, "{text}");
}

/// However many there are, and have been on connections just before.
fn each_value_that_a_panic_costs_is_logged() {
    let names: Vec<String> = (0..13).map(|number| format!("value {number}")).collect();
    let text = logged(|| {
        let mut exchange = Exchange::with_worker(
            |worker| {
                let mut router = Router::bare().method("often", |()| -> Result<(), Fault> {
                    panic!("as often as you like")
                });
                for name in &names {
                    Router::taken_over::<u8>(worker, name);
                    router = router.hand_over(name, || -> u8 { panic!("out of ideas") });
                }
                Rpc::new(worker, router)
            },
            Limits::default(),
        );
        for uid in 0..12 {
            let client = connect_as(uid, &mut exchange);
            call(&mut exchange, client, "often");
        }
        let _ = exchange.hand_over(|worker| Rpc::new(worker, Router::bare()));
    });
    assert_eq!(
        count(&text, "the handler of \"often\" panicked"),
        10,
        "{text}"
    );
    for name in names {
        let said =
            format!("what is handed over as {name:?} of service service panicked in hand_over");
        assert_eq!(count(&text, &said), 1, "{text}");
    }
}

/// Whatever a client made it say; and where it arose, if that is known, is not cut off.
fn what_a_panic_says_stays_in_its_line() {
    let usual = std::panic::take_hook();
    let panic = || {
        logged(|| {
            let router = Router::bare().method("find", |(name,): (String,)| -> Result<(), Fault> {
                panic!("no channel {name}")
            });
            let mut exchange =
                Exchange::with_worker(|worker| Rpc::new(worker, router), Limits::default());
            let client = exchange.connect();
            exchange.receive(client, &notification("find", &hostile()));
        })
    };
    std::panic::set_hook(Box::new(|_| {}));
    let text = panic();
    std::panic::set_hook(Box::new(|info| {
        assert!(ringhold_core::panics::leave_to_log(info));
    }));
    let placed = panic();
    std::panic::set_hook(usual);
    let said = format!(
        "the handler of \"find\" panicked on connection 0.0.0 of test over a unix socket: no channel {HOSTILE}"
    );
    for text in [&text, &placed] {
        let line = text.lines().next().unwrap();
        assert!(line.contains(&said), "{line}");
        assert!(line.len() < 3000, "{} bytes", line.len());
    }
    assert_eq!(lines(&text).len(), 1);
    // What follows is the stack, if it is asked for.
    let first = placed.lines().next().unwrap();
    assert!(
        first.contains("…, at crates/rpc/tests/panics.rs:"),
        "{first}"
    );
}

fn call(exchange: &mut Exchange, client: Client, method: &str) {
    assert!(exchange.receive(client, &request(1, method)));
    assert!(!exchange.take_sent(client).is_empty());
}

fn request(id: u32, method: &str) -> Vec<u8> {
    let request = Value::Array(vec![
        0.into(),
        id.into(),
        method.into(),
        Value::Array(vec![]),
    ]);
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, &request).unwrap();
    bytes
}
