//! Deferred methods of which the successor is asked again.

use std::cell::RefCell;
use std::rc::Rc;

use ringhold_core::PushError;
use ringhold_core::limits::Limits;
use ringhold_core::testing::Setup;
use ringhold_rpc::{Fault, Responder, Router, Rpc};

use crate::client::{Wire, failure, notification, reply, request, write};

/// What was asked, by whom, and not answered.
type Waiting = Rc<RefCell<Vec<(String, Responder)>>>;

/// `take` waits for an answer, also in the next process; `late` waits for one of this process.
fn router(waiting: &Waiting) -> Router {
    let [taken, late, raw] = [(); 3].map(|()| waiting.clone());
    Router::new()
        .deferred("take", move |what: String, responder| {
            taken.borrow_mut().push((what, responder));
        })
        .repeatable("take")
        .deferred("late", move |what: String, responder| {
            late.borrow_mut().push((what, responder));
        })
        .raw("raw", move |call, answer| {
            let what = call.decode();
            let (responder, answered) = answer.defer_repeatable(&call);
            raw.borrow_mut().push((what.unwrap(), responder));
            answered
        })
}

fn asked(waiting: &Waiting) -> Vec<String> {
    let waiting = waiting.borrow();
    waiting.iter().map(|(what, _)| what.clone()).collect()
}

fn answer(waiting: &Waiting, with: &str) -> Result<(), PushError> {
    let (what, responder) = waiting.borrow_mut().remove(0);
    responder.try_ok(&format!("{what} {with}"))
}

#[test]
fn a_request_goes_on_waiting_in_the_next_process() {
    let (before, after) = (Waiting::default(), Waiting::default());
    let mut wire = Wire::new(router(&before));
    let calls = [
        (1, "take", "a"),
        (2, "raw", "b"),
        (3, "late", "c"),
        (4, "take", "d"),
    ];
    for (id, method, what) in calls {
        wire.raw(&write(&request(id, method, vec![what.into()])));
    }
    assert_eq!(asked(&before), ["a", "b", "c", "d"]);
    assert_eq!(answer(&before, "before"), Ok(()));
    assert_eq!(wire.arrived(), [reply(1, "a before")]);
    let mut wire = wire.hand_over(router(&after));
    assert_eq!(asked(&after), ["b", "d"]);
    let stopping = ringhold_core::Abandoned::STOPPING;
    assert_eq!(wire.arrived(), [failure(3, stopping)]);
    for (what, responder) in before.take() {
        assert!(!responder.is_wanted(), "{what}");
        assert_eq!(responder.try_ok("too late"), Err(PushError::Gone));
    }
    assert_eq!(answer(&after, "after"), Ok(()));
    assert_eq!(wire.arrived(), [reply(2, "b after")]);
    assert_eq!(wire.call("ping", vec![]), Ok("pong".into()));
    assert_eq!(answer(&after, "last"), Ok(()));
    assert_eq!(wire.arrived(), [reply(4, "d last")]);
    assert!(wire.is_open());
}

/// Here the reply to the ping comes behind it, since it was answered before.
#[test]
fn what_was_answered_before_is_not_asked_again() {
    let (before, after) = (Waiting::default(), Waiting::default());
    let mut wire = Wire::new(router(&before));
    wire.raw(&write(&request(1, "take", vec!["a".into()])));
    let (_, responder) = before.borrow_mut().pop().unwrap();
    responder.ok("at the last moment");
    let mut wire = wire.hand_over(router(&after));
    assert_eq!(wire.arrived(), [reply(1, "at the last moment")]);
    assert!(asked(&after).is_empty());
}

/// Its version may have no such method, or not know that it is repeatable.
#[test]
fn the_next_process_answers_as_it_does() {
    let before = Waiting::default();
    let mut wire = Wire::new(router(&before));
    wire.raw(&write(&request(1, "take", vec!["a".into()])));
    let mut wire = wire.hand_over(Router::new());
    let error = "there is no method \"take\"; call \"methods\" for a list";
    assert_eq!(wire.arrived(), [failure(1, error)]);

    let mut wire = Wire::new(router(&before));
    wire.raw(&write(&request(2, "take", vec!["b".into()])));
    let next = Router::new().method("take", |what: String| Ok(what + " at once"));
    let mut wire = wire.hand_over(next);
    assert_eq!(wire.arrived(), [reply(2, "b at once")]);
}

#[test]
fn a_stop_without_a_successor_says_so_to_who_waits() {
    let waiting = Waiting::default();
    let mut wire = Wire::new(router(&waiting));
    wire.raw(&write(&request(1, "take", vec!["a".into()])));
    wire.exchange.stop();
    let stopping = ringhold_core::Abandoned::STOPPING;
    assert_eq!(wire.arrived(), [failure(1, stopping)]);
    assert_eq!(answer(&waiting, "late"), Err(PushError::Gone));
    assert!(!wire.is_open());
}

#[test]
fn an_answer_that_nobody_gets_is_told_apart() {
    let waiting = Waiting::default();
    let mut wire = Wire::new(router(&waiting));
    // A notification waits for nothing.
    wire.raw(&write(&notification("take", vec!["a".into()])));
    assert_eq!(answer(&waiting, "x"), Err(PushError::Gone));
    wire.raw(&write(&request(1, "late", vec!["b".into()])));
    assert_eq!(answer(&waiting, "x"), Ok(()));
    assert_eq!(wire.arrived(), [reply(1, "b x")]);
    // A value that is none is answered with an error.
    wire.raw(&write(&request(2, "late", vec!["c".into()])));
    let (_, responder) = waiting.borrow_mut().remove(0);
    struct Bad;
    impl serde::Serialize for Bad {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("bad"))
        }
    }
    assert_eq!(responder.try_ok(&Bad), Ok(()));
    let error = "the result cannot be serialized: bad";
    assert_eq!(wire.arrived(), [failure(2, error)]);
    // The client has gone.
    wire.raw(&write(&request(3, "late", vec!["d".into()])));
    wire.exchange.reset(wire.client);
    assert_eq!(answer(&waiting, "x"), Err(PushError::Gone));
}

#[test]
fn only_what_is_deferred_can_be_repeatable() {
    for (name, why) in [
        (
            "ping",
            "the method \"ping\" is not deferred, and needs not be repeatable",
        ),
        ("tkae", "there is no method \"tkae\" to be repeatable"),
    ] {
        let made = std::panic::catch_unwind(|| Router::new().repeatable(name));
        let said = made.unwrap_err();
        assert_eq!(said.downcast_ref::<String>().unwrap(), why);
    }
    let _ = Router::new()
        .deferred("put", |_: u8, responder| responder.fault(Fault::new("no")))
        .repeatable("put");
}

/// It is a frame as any other there.
#[test]
fn a_request_that_the_successor_holds_for_too_long_costs_the_connection() {
    let (before, after) = (Waiting::default(), Waiting::default());
    let setup = |frame_bytes, waiting: &Waiting| {
        let (router, limits) = (router(waiting), Limits::default());
        let limits = Limits {
            frame_bytes,
            ..limits
        };
        Setup::new(limits).service("rpc", &["rpc"], |worker| Rpc::new(worker, router))
    };
    let mut exchange = setup(1000, &before).start();
    let [large, small] = ["rpc"; 2].map(|name| exchange.connect_to(name));
    for (client, length) in [(large, 91), (small, 10)] {
        let request = write(&request(1, "take", vec!["a".repeat(length).into()]));
        assert!(exchange.receive(client, &request));
    }
    assert_eq!(before.borrow().len(), 2);
    let mut exchange = exchange.hand_over_to(setup(100, &after));
    assert_eq!(asked(&after), ["a".repeat(10)]);
    assert!(exchange.is_shut(large) && exchange.is_open(small));
    assert_eq!(exchange.take_sent(large), []);
    assert_eq!(exchange.snapshot().total().bad_input, 1);
}
