//! Everything that goes wrong in a call.

use std::fmt;
use std::time::Instant;

use ringhold_core::Refusal;
use ringhold_rpc::{Fault, Router};
use rmpv::Value;
use serde::Serialize;

use crate::client::{Wire, failure, map, read_all, reply, request, write};

#[test]
fn an_unknown_method_is_named_and_a_slip_is_corrected() {
    let mut wire = Wire::new(Router::new().method("subtract", |()| Ok(0)));
    assert_eq!(
        wire.error("substract", vec![]),
        "there is no method \"substract\"; did you mean \"subtract\"?"
    );
    assert_eq!(
        wire.error("Ping", vec![]),
        "there is no method \"Ping\"; did you mean \"ping\"?"
    );
    assert_eq!(
        wire.error("multiply", vec![]),
        "there is no method \"multiply\"; call \"methods\" for a list"
    );
    assert_eq!(
        wire.error("a\r\n\x1b[31m", vec![]),
        "there is no method \"a\\r\\n\\u{1b}[31m\"; call \"methods\" for a list"
    );
    let mut bare = Wire::new(Router::bare());
    assert_eq!(bare.error("a", vec![]), "there is no method \"a\"");
}

#[test]
fn a_flood_of_wrong_names_gets_few_guesses() {
    let names: Vec<String> = (0..200).map(|i| format!("read.channel.{i:04}")).collect();
    let router = names.iter().fold(Router::new(), |router, name| {
        router.method(name, |()| Ok(0))
    });
    let mut wire = Wire::new(router);
    let wrong = |id| write(&request(id, &format!("read.chanel.{id:04}"), vec![]));
    let flood: Vec<u8> = (0..2048).flat_map(wrong).collect();
    let begun = Instant::now();
    let replies = read_all(&wire.raw(&flood));
    // How many a worker guesses in a second.
    let seconds = 1 + begun.elapsed().as_secs() as usize;
    assert_eq!(replies.len(), 2048);
    let guessed = |reply: &&Value| {
        let error = reply[2].as_str().unwrap();
        let (_, hint) = error.split_once("; ").unwrap();
        assert!(
            hint.starts_with("did you mean \"read.channel.")
                || hint == "call \"methods\" for a list",
            "{error}"
        );
        hint.starts_with("did")
    };
    let guesses = replies.iter().filter(guessed).count();
    assert!((1..=6 * seconds).contains(&guesses), "{guesses}");
}

#[test]
fn answers_about_a_call_fit_into_4096_bytes() {
    let mut wire = Wire::new(Router::new().method("add", |(a, b): (i64, i64)| Ok(a + b)));
    for text in [
        "x".repeat(1 << 20),
        "\x1b".repeat(1 << 20),
        "é".repeat(1 << 20),
    ] {
        let unknown = write(&request(1, &text, vec![]));
        let wrong = write(&request(1, "add", vec![text.as_str().into(), 1.into()]));
        for frame in [unknown, wrong] {
            let mut bytes = Vec::new();
            for piece in frame.chunks(1 << 16) {
                bytes.extend(wire.raw(piece));
            }
            assert!(bytes.len() < 4096, "{} bytes", bytes.len());
            assert!(!read_all(&bytes)[0][2].is_nil());
        }
    }
}

#[test]
fn what_serializers_say_is_shortened() {
    struct Verbose;
    impl Serialize for Verbose {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("x".repeat(1 << 20)))
        }
    }
    let router = Router::new()
        .method("result", |()| Ok(Verbose))
        .method("error", |()| -> Result<(), _> {
            Err(Fault::value(&Verbose))
        })
        .deferred("later", |(), responder| responder.ok(&Verbose));
    let mut wire = Wire::new(router);
    for (method, start) in [
        ("result", "the result cannot be serialized: xxx"),
        (
            "error",
            "the call failed, and the error cannot be serialized: xxx",
        ),
        ("later", "the result cannot be serialized: xxx"),
    ] {
        let error = wire.error(method, vec![]);
        assert!(error.starts_with(start), "{error}");
        assert!(error.len() < 2048, "{} bytes", error.len());
    }
}

#[derive(Debug)]
struct Layered(Option<Box<Layered>>, &'static str);

impl fmt::Display for Layered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.1)
    }
}

impl std::error::Error for Layered {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.as_deref().map(|source| source as _)
    }
}

#[test]
fn faults_are_messages_or_values() {
    #[derive(Serialize)]
    struct Detail {
        code: i32,
        hint: &'static str,
    }
    let router = Router::new()
        .method("message", |()| -> Result<(), _> {
            Err(Fault::new("it is broken"))
        })
        .method("value", |()| -> Result<(), _> {
            Err(Fault::value(&Detail {
                code: -32000,
                hint: "try again",
            }))
        })
        .method("number", |()| -> Result<(), _> { Err(Fault::value(&7)) })
        .method("nil", |()| -> Result<(), _> {
            Err(Fault::value(&None::<i32>))
        })
        .method("sources", |()| -> Result<(), Fault> {
            let cause = Layered(None, "the disk is full");
            let quoting = Layered(Some(Box::new(cause)), "cannot write: the disk is full");
            Err(Layered(Some(Box::new(quoting)), "not saved"))?
        })
        .method("empty", |()| -> Result<(), _> { Err(Fault::new("")) });
    let mut wire = Wire::new(router);
    assert_eq!(wire.error("message", vec![]), "it is broken");
    assert_eq!(
        wire.call("value", vec![]),
        Err(map(&[
            ("code", (-32000).into()),
            ("hint", "try again".into())
        ]))
    );
    assert_eq!(wire.call("number", vec![]), Err(7.into()));
    assert_eq!(
        wire.error("nil", vec![]),
        "the call failed without saying why",
        "nil would mean that it did not fail"
    );
    assert_eq!(
        wire.error("sources", vec![]),
        "not saved: cannot write: the disk is full"
    );
    assert_eq!(wire.error("empty", vec![]), "");
}

#[test]
fn a_fault_can_be_compared_and_read() {
    let fault = Fault::value(&(-32000, "try again"));
    assert_eq!(fault.clone(), fault);
    assert_ne!(fault, Fault::value(&(-32001, "try again")));
    assert_ne!(fault, Fault::new("try again"));
    let value: (i32, String) = rmp_serde::from_slice(fault.value_bytes().unwrap()).unwrap();
    assert_eq!(value, (-32000, "try again".into()));
    assert_eq!(fault.message(), None);
    assert_eq!(Fault::new("").value_bytes(), None);
    let boxed: Box<dyn std::error::Error + Send + Sync> = Box::new(Layered(
        Some(Box::new(Layered(None, "the disk is full"))),
        "not saved",
    ));
    let expected = Fault::new("not saved: the disk is full");
    assert_eq!(Fault::from_error(&*boxed), expected);
}

#[test]
fn any_error_refuses_a_connection() {
    let full = || {
        Err(Layered(
            Some(Box::new(Layered(None, "the disk is full"))),
            "not saved",
        ))
    };
    let refused = || -> Result<(), Refusal> {
        full()?;
        Ok(())
    };
    assert_eq!(
        refused().unwrap_err().to_string(),
        "not saved: the disk is full"
    );
    let router = Router::new().connected(move |_| Ok(full()?));
    assert!(!Wire::new(router).is_open());
}

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("on purpose, when it is dropped");
    }
}

#[test]
fn a_panic_costs_the_call_and_nothing_else() {
    let mut calls = 0;
    let router = Router::new()
        .method("typed", move |fail: bool| {
            calls += 1;
            assert!(!fail, "on purpose");
            Ok(calls)
        })
        .method_with("with", |_, ()| -> Result<(), Fault> {
            panic!("{}", "formatted")
        })
        .raw("writing", |_, answer| {
            answer.write(|out| {
                out.extend_from_slice(b"\x93\x01\x02");
                panic!("in the middle of a result");
            })
        })
        .raw("strange", |_, _| std::panic::panic_any(42))
        .raw("stranger", |_, _| std::panic::panic_any(Bomb))
        .raw("afterwards", |call, answer| {
            let answered = answer.ok("all is well");
            assert!(call.id().is_none(), "too late");
            answered
        })
        .notification("noted", |()| panic!("on purpose"));
    let mut wire = Wire::new(router);
    let panicking = ["typed", "with", "writing", "strange", "stranger", "noted"];
    for (count, method) in panicking.into_iter().enumerate() {
        let params = if method == "typed" {
            vec![true.into()]
        } else {
            vec![]
        };
        let frames = [
            write(&request(1, "ping", vec![])),
            write(&request(2, method, params)),
            write(&request(3, "ping", vec![])),
        ];
        assert_eq!(
            read_all(&wire.raw(&frames.concat())),
            [
                reply(1, "pong"),
                failure(2, format!("the handler of \"{method}\" panicked")),
                reply(3, "pong"),
            ]
        );
        assert_eq!(wire.exchange.counters().panics, count as u64 + 1);
    }
    assert_eq!(
        wire.call("afterwards", vec![]),
        Ok("all is well".into()),
        "a reply that was given is not given again"
    );
    assert_eq!(wire.exchange.counters().panics, 7);
    assert_eq!(
        wire.call("typed", vec![false.into()]),
        Ok(Value::from(2)),
        "the handler goes on with the state that it left"
    );
    assert!(wire.is_open());
    assert_eq!(wire.exchange.counters().bad_input, 0);
}

#[cfg(debug_assertions)]
#[test]
fn a_raw_result_that_is_not_one_object_is_found_in_debug_builds() {
    let router = Router::new()
        .raw("none", |_, answer| answer.encoded(b"\xc1"))
        .raw("two", |_, answer| answer.encoded(b"\x01\x02"))
        .raw("half", |_, answer| answer.write(|out| out.push(0x91)));
    let mut wire = Wire::new(router);
    for method in ["none", "two", "half"] {
        assert_eq!(
            wire.error(method, vec![]),
            format!("the handler of {method:?} panicked")
        );
    }
}
