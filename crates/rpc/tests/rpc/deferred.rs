//! Answers that come later, or never.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use ringhold_core::PushError;
use ringhold_rpc::{Fault, Responder, Router};
use rmpv::Value;

use crate::client::{Wire, failure, notification, read_all, reply, request, write};

/// A service whose method `later` hands its responders to the test.
fn later() -> (Wire, Receiver<(u32, Responder)>) {
    let (sender, responders) = channel();
    let router = Router::new().deferred("later", move |n: u32, responder| {
        sender.send((n, responder)).unwrap();
    });
    (Wire::new(router), responders)
}

#[test]
fn answers_come_in_any_order_from_any_thread() {
    let (mut wire, responders) = later();
    let frames: Vec<u8> = (0..100)
        .flat_map(|id| write(&request(id, "later", vec![(id * 10).into()])))
        .collect();
    assert_eq!(wire.raw(&frames), b"");
    assert_eq!(
        wire.call("ping", vec![]),
        Ok("pong".into()),
        "nothing waits for them"
    );

    let mut waiting: Vec<(u32, Responder)> = responders.try_iter().collect();
    assert_eq!(waiting.len(), 100);
    // One thread after the other, so that the order is known.
    let mut expected = Vec::new();
    for round in 0..4 {
        let mut part: Vec<_> = waiting.split_off(waiting.len() - 25);
        if round % 2 == 0 {
            part.reverse();
        }
        expected.extend(part.iter().map(|(n, _)| reply(n / 10, *n + 1)));
        std::thread::spawn(move || {
            for (n, responder) in part {
                responder.ok(&(n + 1));
            }
        })
        .join()
        .unwrap();
    }
    assert_eq!(wire.arrived(), expected);
}

#[test]
fn many_threads_at_once() {
    let (mut wire, responders) = later();
    let frames: Vec<u8> = (0..1000)
        .flat_map(|id| write(&request(id, "later", vec![id.into()])))
        .collect();
    wire.raw(&frames);
    let mut parts: [Vec<_>; 4] = Default::default();
    for (i, waiting) in responders.try_iter().enumerate() {
        parts[i % 4].push(waiting);
    }
    let threads = parts.map(|part| {
        std::thread::spawn(move || {
            for (n, responder) in part {
                match n % 3 {
                    0 => responder.ok(&n),
                    1 => responder.fault(Fault::new(format!("not {n}"))),
                    _ => drop(responder),
                }
            }
        })
    });
    for thread in threads {
        thread.join().unwrap();
    }
    let mut replies = wire.arrived();
    replies.sort_by_key(|message| message[1].as_u64());
    assert_eq!(replies.len(), 1000);
    for (n, message) in (0..1000u32).zip(&replies) {
        let expected = match n % 3 {
            0 => reply(n, n),
            1 => failure(n, format!("not {n}")),
            _ => failure(n, "the handler gave no answer"),
        };
        assert_eq!(*message, expected);
    }
    assert_eq!(wire.exchange.counters().abandoned, 333);
}

#[test]
fn a_responder_answers_in_every_way() {
    let (mut wire, responders) = later();
    let mut answer = |with: fn(Responder)| {
        wire.raw(&write(&request(3, "later", vec![0.into()])));
        let (_, responder) = responders.try_recv().unwrap();
        assert!(responder.is_heard());
        assert!(responder.connection().is_some());
        with(responder);
        let mut replies = wire.arrived();
        assert_eq!(replies.len(), 1);
        replies.remove(0)
    };
    assert_eq!(answer(|responder| responder.ok("text")), reply(3, "text"));
    assert_eq!(answer(|responder| responder.ok(&())), reply(3, Value::Nil));
    assert_eq!(
        answer(|responder| responder.fault(Fault::value(&5))),
        failure(3, 5)
    );
    assert_eq!(
        answer(|responder| responder.fault("x".parse::<f32>().unwrap_err())),
        failure(3, "invalid float literal")
    );
    assert_eq!(answer(|responder| responder.result(Ok(1))), reply(3, 1));
    assert_eq!(
        answer(|responder| responder.result(Err::<(), _>(Fault::new("no")))),
        failure(3, "no")
    );
    assert_eq!(
        answer(|responder| responder.encoded(b"\x92\x01\x02")),
        reply(3, Value::Array(vec![1.into(), 2.into()]))
    );
    assert_eq!(
        answer(|responder| responder.encoded(b"")),
        reply(3, Value::Nil)
    );
    assert_eq!(answer(drop), failure(3, "the handler gave no answer"));
}

/// What a runtime may do with a task, without one: any of them may send it to another thread.
fn poll(task: Pin<&mut (impl Future<Output = ()> + Send)>) -> Poll<()> {
    task.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn a_task_answers_with_what_it_comes_to() {
    let (mut wire, responders) = later();
    let mut task = |text: &str| {
        wire.raw(&write(&request(3, "later", vec![0.into()])));
        let (_, responder) = responders.try_recv().unwrap();
        // It is pending when it is polled for the first time.
        let mut waits = true;
        let awaited = std::future::poll_fn(|_| match std::mem::take(&mut waits) {
            true => Poll::Pending,
            false => Poll::Ready(text),
        });
        let mut task = pin!(responder.with(async {
            let n: f64 = awaited.await.parse()?;
            if n < 0.0 {
                panic!("on purpose");
            }
            Ok(n)
        }));
        assert_eq!(poll(task.as_mut()), Poll::Pending);
        let ended = catch_unwind(AssertUnwindSafe(|| poll(task)));
        (ended.ok(), wire.arrived())
    };
    let done = Some(Poll::Ready(()));
    assert_eq!(task("1.5"), (done, vec![reply(3, 1.5)]));
    let invalid = failure(3, "invalid float literal");
    assert_eq!(task("x"), (done, vec![invalid]));
    let panicked = failure(3, "the handler panicked");
    assert_eq!(task("-1"), (None, vec![panicked]));
}

#[test]
fn a_task_that_is_dropped_gives_no_answer() {
    let (mut wire, responders) = later();
    for is_begun in [false, true] {
        wire.raw(&write(&request(3, "later", vec![0.into()])));
        let (_, responder) = responders.try_recv().unwrap();
        let mut task = Box::pin(responder.with(std::future::pending::<Result<(), Fault>>()));
        if is_begun {
            assert_eq!(poll(task.as_mut()), Poll::Pending);
        }
        assert_eq!(wire.arrived(), [] as [Value; 0]);
        drop(task);
        assert_eq!(wire.arrived(), [failure(3, "the handler gave no answer")]);
    }
}

#[test]
fn a_panic_with_the_responder_in_hand_is_an_error() {
    let router = Router::new()
        .deferred("here", |(), _responder| panic!("on purpose"))
        .deferred("there", |(), responder| {
            let thread = std::thread::spawn(move || {
                let _responder: Responder = responder;
                panic!("on purpose");
            });
            thread.join().unwrap_err();
        })
        .deferred("passed on", |(), responder| {
            std::thread::spawn(move || responder.ok("all the same"))
                .join()
                .unwrap();
            panic!("on purpose");
        });
    let mut wire = Wire::new(router);
    for method in ["here", "there"] {
        assert_eq!(
            wire.send(request(1, method, vec![])),
            [failure(1, "the handler panicked")]
        );
    }
    assert_eq!(
        wire.send(request(2, "passed on", vec![])),
        [reply(2, "all the same")]
    );
    assert_eq!(
        wire.exchange.counters().panics,
        2,
        "those that happened in a call"
    );
    assert!(wire.is_open());
}

#[test]
fn wrong_parameters_are_answered_at_once() {
    let (mut wire, responders) = later();
    assert_eq!(
        wire.error("later", vec!["x".into()]),
        "wrong parameters for \"later\": parameter 1: a str does not fit, an integer is due"
    );
    assert!(responders.try_recv().is_err());
}

#[test]
fn the_same_id_twice_gets_two_replies() {
    let (mut wire, responders) = later();
    let frame = write(&request(7, "later", vec![1.into()]));
    wire.raw(&[&frame[..], &frame].concat());
    for (_, responder) in responders.try_iter() {
        responder.ok("x");
    }
    assert_eq!(wire.arrived(), [reply(7, "x"), reply(7, "x")]);
}

#[test]
fn a_stop_answers_what_is_open_with_an_error() {
    let (mut wire, responders) = later();
    for id in [u32::MAX, 5] {
        wire.raw(&write(&request(id, "later", vec![1.into()])));
    }
    wire.exchange.stop();
    let stopping = "the server is stopping or restarting and could not wait for the answer";
    let mut replies = wire.arrived();
    replies.sort_by_key(|message| message[1].as_u64());
    assert_eq!(replies, [failure(5, stopping), failure(u32::MAX, stopping)]);
    assert!(!wire.is_open());
    // Too late: nobody is there, and nothing happens.
    for (_, responder) in responders.try_iter() {
        responder.ok("late");
    }
    assert_eq!(wire.arrived(), Vec::<Value>::new());
}

#[test]
fn an_answer_to_nobody_is_discarded() {
    let (mut wire, responders) = later();
    wire.raw(&write(&request(1, "later", vec![1.into()])));
    let gone = wire.client;
    wire.exchange.reset(gone);
    wire.client = wire.exchange.connect();
    let (_, responder) = responders.try_recv().unwrap();
    responder.ok("to whom?");
    assert_eq!(wire.arrived(), Vec::<Value>::new());
    assert_eq!(wire.exchange.take_sent(gone), b"");
    assert_eq!(wire.call("ping", vec![]), Ok("pong".into()));
}

#[test]
fn a_half_closed_peer_waits_for_its_answer() {
    let (mut wire, responders) = later();
    wire.raw(&write(&request(1, "later", vec![1.into()])));
    wire.exchange.end(wire.client);
    assert!(wire.is_open());
    let (_, responder) = responders.try_recv().unwrap();
    responder.ok("there you are");
    assert_eq!(wire.arrived(), [reply(1, "there you are")]);
    assert!(!wire.is_open());
}

/// Bytes of which one knows for how long anybody has them.
struct Lent(
    Vec<u8>,
    #[expect(dead_code, reason = "it is counted")] Arc<()>,
);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// How bytes are shared, and whether somebody waits for them.
type Share = fn(Responder, Bytes) -> Result<(), PushError>;

const SHARES: [Share; 2] = [
    |responder, object| {
        responder.share(object);
        Ok(())
    },
    Responder::try_share,
];

#[test]
fn what_is_shared_is_copied_only_if_it_is_small() {
    for share in SHARES {
        let (mut wire, responders) = later();
        for length in [0x1_0000, 40] {
            wire.raw(&write(&request(300, "later", vec![1.into()])));
            let value = Value::Binary(vec![9; length]);
            let held = Arc::new(());
            let object = Bytes::from_owner(Lent(write(&value), held.clone()));
            wire.exchange.set_window(wire.client, Some(0));
            let (_, responder) = responders.try_recv().unwrap();
            assert_eq!(share(responder, object.clone()), Ok(()));
            drop(object);
            wire.exchange.deliver();
            let is_copied = Arc::strong_count(&held) == 1;
            assert_eq!(is_copied, length == 40, "{length}");
            wire.exchange.set_window(wire.client, None);
            assert_eq!(wire.arrived(), [reply(300, value)]);
            assert_eq!(Arc::strong_count(&held), 1);
        }
        // Nothing is nil.
        wire.raw(&write(&request(1, "later", vec![1.into()])));
        let (_, responder) = responders.try_recv().unwrap();
        assert_eq!(share(responder, Bytes::new()), Ok(()));
        assert_eq!(wire.arrived(), [reply(1, Value::Nil)]);
        assert_eq!(wire.exchange.counters().abandoned, 0);
    }
}

#[test]
fn what_is_shared_with_nobody_is_discarded() {
    for length in [10, 10_000] {
        let object = Bytes::from(write(&Value::Binary(vec![9; length])));
        for (share, told) in SHARES.into_iter().zip([Ok(()), Err(PushError::Gone)]) {
            let (mut wire, responders) = later();
            wire.send(notification("later", vec![1.into()]));
            wire.raw(&write(&request(1, "later", vec![2.into()])));
            let [(_, unheard), (_, late)] = [(); 2].map(|()| responders.try_recv().unwrap());
            assert_eq!(share(unheard, object.clone()), told);
            wire.exchange.reset(wire.client);
            assert_eq!(share(late, object.clone()), told);
            assert_eq!(wire.arrived(), Vec::<Value>::new());
        }
    }
}

#[test]
fn the_responder_of_a_notification_is_not_heard() {
    let (mut wire, responders) = later();
    assert_eq!(wire.send(notification("later", vec![1.into()])), []);
    assert_eq!(wire.send(notification("later", vec![2.into()])), []);
    let (_, first) = responders.try_recv().unwrap();
    assert!(!first.is_heard());
    assert_eq!(first.connection(), None);
    first.ok("to nobody");
    let (_, second) = responders.try_recv().unwrap();
    drop(second);
    assert_eq!(wire.arrived(), Vec::<Value>::new());
    assert_eq!(wire.exchange.counters().abandoned, 0);
}

#[test]
fn an_answer_is_wanted_as_long_as_its_client_is_there() {
    let (mut wire, responders) = later();
    wire.send(request(1, "later", vec![1.into()]));
    let message = notification("later", vec![2.into()]);
    wire.send(message);
    let [(_, question), (_, order)] = [(); 2].map(|()| responders.try_recv().unwrap());
    assert!(question.is_wanted() && order.is_wanted());
    // What a thread pool may do.
    let waiting = std::thread::spawn(move || {
        while question.is_wanted() {
            std::thread::yield_now();
        }
        question.ok(&1);
    });
    wire.exchange.reset(wire.client);
    waiting.join().unwrap();
    assert!(order.is_wanted(), "its work is asked for all the same");
    assert_eq!(wire.arrived(), Vec::<Value>::new());
}

#[test]
fn a_raw_handler_defers_too_and_a_deferred_one_knows_its_connection() {
    let (sender, responders) = channel();
    let raw = sender.clone();
    let router = Router::new()
        .raw("raw", move |_, answer| {
            let (responder, answered) = answer.defer();
            raw.send(responder).unwrap();
            answered
        })
        .deferred_with("with", move |context, (), responder| {
            *context.data::<u32>() += 1;
            assert_eq!(context.message_id(), Some(2));
            sender.send(responder).unwrap();
        });
    let mut wire = Wire::new(router);
    let frames = [
        write(&request(1, "raw", vec![])),
        write(&request(2, "with", vec![])),
    ];
    assert_eq!(read_all(&wire.raw(&frames.concat())), []);
    for (n, responder) in responders.try_iter().enumerate() {
        responder.ok(&n);
    }
    assert_eq!(wire.arrived(), [reply(1, 0), reply(2, 1)]);
}
