//! Guards: what is asked before each call.

use std::cell::RefCell;
use std::rc::Rc;

use ringhold_rpc::{Fault, Router};
use rmpv::Value;
use serde::{Deserialize, Serialize};

use crate::client::{Wire, failure, notification, read_all, reply, request, write};

/// Who has logged in.
#[derive(Default, Serialize, Deserialize)]
struct User(String);

/// What handlers were called.
type Called = Rc<RefCell<Vec<&'static str>>>;

/// Lets those call what there is who have logged in.
fn router(called: &Called) -> Router {
    let [raw, deferred, notified] = [(); 3].map(|()| called.clone());
    Router::new()
        .raw("raw", move |_, answer| {
            raw.borrow_mut().push("raw");
            answer.ok("raw")
        })
        .guard(|context, method| match (method, context.get::<User>()) {
            ("log_in", _) | (_, Some(_)) => Ok(()),
            _ => Err(Fault::new("log in first")),
        })
        .method_with("log_in", |context, name: String| {
            context.data::<User>().0 = name;
            Ok(())
        })
        .method_with("log_out", |context, ()| {
            Ok(context.take_data::<User>().map(|User(name)| name))
        })
        .resume("user", |_, _: &mut User| Ok(()))
        .deferred("deferred", move |(), responder| {
            deferred.borrow_mut().push("deferred");
            responder.ok("deferred");
        })
        .notification("note", move |(): ()| notified.borrow_mut().push("note"))
}

const BUILT_IN: [&str; 5] = ["ping", "echo", "methods", "time", "status"];

#[test]
fn a_guard_is_asked_before_each_method_and_one_that_there_is_not() {
    let called = Called::default();
    let mut wire = Wire::new(router(&called));
    let own = ["raw", "deferred", "note", "log_out"];
    let all = || BUILT_IN.into_iter().chain(own);
    for method in all().chain(["methode", ""]) {
        assert_eq!(wire.error(method, vec![]), "log in first", "{method}");
        assert_eq!(wire.send(notification(method, vec![])), [], "{method}");
    }
    assert_eq!(*called.borrow(), [""; 0]);
    assert!(wire.is_open());
    wire.call("log_in", vec!["ann".into()]).unwrap();
    for method in all().filter(|method| *method != "log_out") {
        wire.send(notification(method, vec![]));
        wire.send(request(7, method, vec![]));
        wire.arrived();
    }
    let each = ["raw", "deferred", "note"].map(|method| [method; 2]);
    assert_eq!(called.take(), each.concat());
    let unknown = wire.error("methode", vec![]);
    assert!(unknown.contains("did you mean \"methods\"?"), "{unknown}");
    // It is asked each time.
    assert_eq!(wire.call("log_out", vec![]), Ok("ann".into()));
    assert_eq!(wire.error("ping", vec![]), "log in first");
}

#[test]
fn calls_of_one_buffer_are_judged_one_after_the_other() {
    let mut wire = Wire::new(router(&Called::default()));
    // So many that they are recognized by how they are written.
    let calls = |count: u32| (0..count).map(|id| request(1_000_000 + id, "ping", vec![1.into()]));
    let frames: Vec<u8> = calls(40)
        .chain([request(1, "log_in", vec!["ann".into()])])
        .chain(calls(40))
        .chain([request(2, "log_out", vec![])])
        .chain(calls(40))
        .flat_map(|frame| write(&frame))
        .collect();
    let refused = |id: u32| failure(1_000_000 + id, "log in first");
    let expected: Vec<Value> = (0..40)
        .map(refused)
        .chain([reply(1, Value::Nil)])
        .chain((0..40).map(|id| reply(1_000_000 + id, "pong")))
        .chain([reply(2, "ann")])
        .chain((0..40).map(refused))
        .collect();
    assert_eq!(read_all(&wire.raw(&frames)), expected);
}

#[test]
fn a_successor_asks_its_own_guard_of_who_was_let_in() {
    let called = Called::default();
    let mut wire = Wire::new(router(&called));
    let half = write(&request(5, "ping", vec![]));
    wire.call("log_in", vec!["ann".into()]).unwrap();
    assert_eq!(wire.raw(&half[..4]), b"");
    let mut wire = wire.hand_over(router(&called));
    assert_eq!(read_all(&wire.raw(&half[4..])), [reply(5, "pong")]);
    let closed = router(&called).guard(|_, method| match method {
        "log_out" => Ok(()),
        _ => Err(Fault::value(&("closed", 7))),
    });
    let mut wire = wire.hand_over(closed);
    let error = wire.call("ping", vec![]).unwrap_err();
    assert_eq!(error, Value::Array(vec!["closed".into(), 7.into()]));
    assert_eq!(wire.call("log_out", vec![]), Ok("ann".into()));
}

#[test]
fn several_guards_are_asked_in_order_up_to_the_first_that_refuses() {
    let asked = Rc::new(RefCell::new(Vec::new()));
    let guard = |name: &'static str, refused: &'static str| {
        let asked = asked.clone();
        move |router: Router| {
            router.guard(move |context, method| {
                let is_notification = context.message_id().is_none();
                asked
                    .borrow_mut()
                    .push((name, method.to_owned(), is_notification));
                match method == refused {
                    true => Err(Fault::new(name)),
                    false => Ok(()),
                }
            })
        }
    };
    let router = guard("second", "time")(guard("first", "echo")(Router::new()));
    let mut wire = Wire::new(router);
    let said = |wire: &mut Wire, message| {
        wire.send(message);
        let asked = asked.take();
        let same = asked
            .iter()
            .all(|(_, method, notification)| (method, notification) == (&asked[0].1, &asked[0].2));
        assert!(same, "{asked:?}");
        let names: Vec<_> = asked.iter().map(|(name, ..)| *name).collect();
        (names.join(" "), asked[0].1.clone(), asked[0].2)
    };
    for (method, expected) in [
        ("ping", "first second"),
        ("echo", "first"),
        ("time", "first second"),
        ("unknown", "first second"),
    ] {
        let expected = |is_notification| (expected.to_owned(), method.to_owned(), is_notification);
        assert_eq!(said(&mut wire, request(1, method, vec![])), expected(false));
        assert_eq!(
            said(&mut wire, notification(method, vec![])),
            expected(true)
        );
    }
    // A name that is no text is unknown.
    let frame = b"\x94\x00\x01\xc4\x03a\xffb\x90";
    assert!(wire.raw(frame).starts_with(b"\x94\x01\x01\xd9"));
    assert_eq!(asked.borrow()[0].1, "\"a\u{fffd}b\"");
    assert_eq!(wire.error("echo", vec![]), "first");
    assert_eq!(wire.error("time", vec![]), "second");
}

#[test]
fn a_guard_may_end_the_connection_behind_its_answer() {
    for (method, is_request) in [
        ("ping", true),
        ("ping", false),
        ("lacks", true),
        ("lacks", false),
    ] {
        let mut asked = 0;
        let router = Router::new().guard(move |context, _| {
            asked += 1;
            if asked == 2 {
                context.close("enough");
            }
            Err(Fault::new("no"))
        });
        let mut wire = Wire::new(router);
        let message = |id| match is_request {
            true => request(id, method, vec![]),
            false => notification(method, vec![]),
        };
        let frames: Vec<u8> = (1..=3).flat_map(|id| write(&message(id))).collect();
        let expected: Vec<Value> = match is_request {
            true => [1, 2].map(|id| failure(id, "no")).into(),
            false => vec![],
        };
        let sent = {
            wire.exchange.receive(wire.client, &frames);
            wire.exchange.take_sent(wire.client)
        };
        assert_eq!(read_all(&sent), expected, "{method}");
        assert!(!wire.is_open(), "{method}");
    }
}

#[test]
fn a_guard_that_panics_refuses() {
    let called = Called::default();
    let router = router(&called).guard(|_, method| match method {
        "log_in" => Ok(()),
        _ => panic!("as asked"),
    });
    let mut wire = Wire::new(router);
    wire.call("log_in", vec!["ann".into()]).unwrap();
    for method in ["raw", "lacks"] {
        let error = wire.error(method, vec![]);
        assert_eq!(error, format!("the guard of {method:?} panicked"));
        assert_eq!(wire.send(notification(method, vec![])), []);
    }
    assert_eq!(*called.borrow(), [""; 0]);
    assert_eq!(wire.exchange.counters().panics, 4);
    assert!(wire.is_open());
}
