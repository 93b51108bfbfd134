//! Notifications: those of clients, which are never answered, and those of the server.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, channel};

use ringhold_core::PushError;
use ringhold_rpc::{Fault, Notification, Notifier, NotifyError, Router};
use rmpv::Value;
use serde::Serialize;

use crate::client::{Wire, map, notification, read_all, reply, request, write};

#[test]
fn nothing_that_a_notification_does_is_answered() {
    let router = Router::new()
        .method("add", |(a, b): (i64, i64)| Ok(a + b))
        .method("fail", |()| -> Result<(), _> { Err(Fault::new("no")) })
        .method("panic", |()| -> Result<(), Fault> { panic!("on purpose") })
        .deferred("drop", |(), responder| drop(responder))
        .raw("raw", |call, answer| {
            assert_eq!(call.id(), None);
            answer.write(|_| unreachable!("there is no reply to write"))
        })
        .raw("share", |_, answer| answer.share(vec![0xc0].into()))
        .notification("log", |_: String| {})
        .notification_with("with", |context, ()| assert_eq!(context.message_id(), None));
    let mut wire = Wire::new(router);
    let mut frames = Vec::new();
    let (one, text) = (|| vec![Value::from(1)], || vec![Value::from("x")]);
    for (method, params) in [
        ("ping", vec![]),
        ("echo", text()),
        ("methods", vec![]),
        ("time", vec![]),
        ("status", vec![]),
        ("add", vec![1.into(), 2.into()]),
        ("add", one()),
        ("fail", vec![]),
        ("panic", vec![]),
        ("drop", vec![]),
        ("drop", one()),
        ("raw", vec![]),
        ("share", vec![]),
        ("log", text()),
        ("log", one()),
        ("with", vec![]),
        ("unknown", vec![]),
        ("pin", vec![]),
    ] {
        frames.extend(write(&notification(method, params)));
    }
    assert_eq!(wire.raw(&frames), b"");
    assert!(wire.is_open());
    assert_eq!(wire.exchange.counters().frames_in, 18);
    assert_eq!(wire.exchange.counters().panics, 1);
    assert_eq!(wire.call("ping", vec![]), Ok("pong".into()));
}

#[test]
fn notifications_run_their_handlers_in_order() {
    let log = Rc::new(RefCell::new(Vec::new()));
    let kept = log.clone();
    let router = Router::new().notification("log", move |(level, line): (u8, String)| {
        kept.borrow_mut().push(format!("{level} {line}"));
    });
    let mut wire = Wire::new(router);
    let frames: Vec<u8> = (0..5)
        .flat_map(|i| {
            write(&notification(
                "log",
                vec![i.into(), format!("line {i}").into()],
            ))
        })
        .collect();
    for byte in &frames {
        assert_eq!(wire.raw(&[*byte]), b"");
    }
    assert_eq!(
        *log.borrow(),
        ["0 line 0", "1 line 1", "2 line 2", "3 line 3", "4 line 4"]
    );
}

/// A service whose method `subscribe` hands notifiers to the test, and notifies at once.
fn subscribing() -> (Router, Receiver<Notifier>) {
    let (sender, notifiers) = channel();
    let router = Router::new().method_with("subscribe", move |context, ()| {
        let notifier = context.notifier();
        notifier.notify("welcome", &())?;
        sender.send(notifier).unwrap();
        Ok("subscribed")
    });
    (router, notifiers)
}

#[test]
fn the_server_notifies_behind_the_reply_and_from_any_thread() {
    let (router, notifiers) = subscribing();
    let mut wire = Wire::new(router);
    assert_eq!(
        wire.send(request(1, "subscribe", vec![])),
        [reply(1, "subscribed"), notification("welcome", vec![])]
    );
    let notifier = notifiers.try_recv().unwrap();
    assert!(notifier.is_open());
    std::thread::spawn(move || {
        for n in 0..100 {
            notifier.notify("tick", &(n, "tock")).unwrap();
        }
    })
    .join()
    .unwrap();
    let expected: Vec<Value> = (0..100)
        .map(|n| notification("tick", vec![n.into(), "tock".into()]))
        .collect();
    assert_eq!(wire.arrived(), expected);
}

#[test]
fn replies_to_requests_of_the_same_buffer_overtake_a_notification() {
    let (router, _notifiers) = subscribing();
    let mut wire = Wire::new(router);
    let frames = [
        write(&request(1, "subscribe", vec![])),
        write(&request(2, "ping", vec![])),
    ];
    assert_eq!(
        read_all(&wire.raw(&frames.concat())),
        [
            reply(1, "subscribed"),
            reply(2, "pong"),
            notification("welcome", vec![])
        ]
    );
}

#[test]
fn values_become_parameters() {
    #[derive(Serialize)]
    struct Reading {
        channel: u8,
        volts: f64,
    }
    fn sent<T: Serialize + ?Sized>(params: &T) -> Vec<Value> {
        let encoded = Notification::new("n", params).unwrap();
        let [Value::Array(message)] = &read_all(encoded.bytes())[..] else {
            panic!("one message is due");
        };
        assert_eq!(message[..2], [Value::from(2), "n".into()]);
        assert_eq!(message.len(), 3);
        message[2].as_array().expect("parameters").clone()
    }
    assert_eq!(sent(&()), []);
    assert_eq!(sent(&(1, "two")), [1.into(), "two".into()]);
    assert_eq!(sent(&[1, 2, 3]), [1.into(), 2.into(), 3.into()]);
    assert_eq!(sent(&vec![0u8; 20]).len(), 20);
    assert_eq!(sent(&5), [5.into()]);
    // An optional parameter that is not there, and one parameter that is nil.
    assert_eq!(sent(&Some(5)), [5.into()]);
    assert_eq!(sent(&None::<u8>), []);
    assert_eq!(sent(&(None::<u8>,)), [Value::Nil]);
    assert_eq!(sent("text"), ["text".into()]);
    let reading = Reading {
        channel: 3,
        volts: 1.5,
    };
    let expected = map(&[("channel", 3.into()), ("volts", 1.5.into())]);
    assert_eq!(sent(&reading), [expected]);
}

#[test]
fn one_encoding_reaches_a_thousand_subscribers() {
    let (router, notifiers) = subscribing();
    let mut wire = Wire::new(router);
    let clients: Vec<_> = (0..1000).map(|_| wire.exchange.connect()).collect();
    let subscribe = write(&request(1, "subscribe", vec![]));
    for client in &clients {
        assert!(wire.exchange.receive(*client, &subscribe));
        wire.exchange.take_sent(*client);
    }
    let subscribers: Vec<Notifier> = notifiers.try_iter().collect();
    assert_eq!(subscribers.len(), 1000);
    let frame = Notification::new("frame", &vec![7u8; 2000]).unwrap();
    for subscriber in &subscribers {
        subscriber.send(&frame).unwrap();
    }
    wire.exchange.deliver();
    for client in clients {
        assert!(wire.exchange.take_sent(client) == **frame.bytes());
    }
}

#[test]
fn a_notifier_ends_its_connection_behind_its_last_notification() {
    let (router, notifiers) = subscribing();
    let mut wire = Wire::new(router);
    wire.send(request(1, "subscribe", vec![]));
    let notifier = notifiers.try_recv().unwrap();
    let other = notifier.clone();
    std::thread::spawn(move || {
        other.notify("taken over", &()).unwrap();
        other.close("the device is there a second time").unwrap();
    })
    .join()
    .unwrap();
    assert!(!notifier.is_open());
    let gone = Err(NotifyError::Push(PushError::Gone));
    assert_eq!(notifier.notify("too late", &()), gone);
    assert_eq!(notifier.close("once more"), Err(PushError::Gone));
    assert_eq!(wire.arrived(), [notification("taken over", vec![])]);
    assert!(!wire.is_open());
    assert_eq!(
        wire.ends(),
        ["the service ended the connection: the device is there a second time"]
    );
}

#[test]
fn a_notifier_cuts_its_connection_without_its_last_notification() {
    let (router, notifiers) = subscribing();
    let mut wire = Wire::new(router);
    wire.send(request(1, "subscribe", vec![]));
    let notifier = notifiers.try_recv().unwrap();
    wire.arrived();
    let other = notifier.clone();
    std::thread::spawn(move || {
        other.notify("news", &()).unwrap();
        other.cut("it is behind by a minute").unwrap();
    })
    .join()
    .unwrap();
    assert!(!notifier.is_open());
    assert_eq!(notifier.cut("once more"), Err(PushError::Gone));
    assert_eq!(wire.arrived(), []);
    assert!(!wire.is_open() && wire.exchange.is_cut(wire.client));
    assert_eq!(
        wire.ends(),
        ["the service cut the connection: it is behind by a minute"]
    );
}

#[test]
fn a_connection_that_is_gone_says_so() {
    let (router, notifiers) = subscribing();
    let mut wire = Wire::new(router);
    wire.send(request(1, "subscribe", vec![]));
    let notifier = notifiers.try_recv().unwrap();
    wire.exchange.reset(wire.client);
    assert!(!notifier.is_open());
    assert_eq!(
        notifier.notify("tick", &()),
        Err(NotifyError::Push(PushError::Gone))
    );
}

/// When the last reply that is due has come. Until then it is.
#[test]
fn who_ends_its_side_is_subscribed_no_more() {
    let (router, notifiers) = subscribing();
    let (sender, responders) = channel();
    let router = router.deferred("later", move |(), responder| {
        sender.send(responder).unwrap();
    });
    let mut wire = Wire::new(router);
    wire.send(request(1, "subscribe", vec![]));
    let notifier = notifiers.try_recv().unwrap();
    wire.send(request(2, "later", vec![]));
    wire.exchange.end(wire.client);
    notifier.notify("tick", &()).unwrap();
    responders.try_recv().unwrap().ok(&"done");
    let mut arrived = wire.arrived();
    arrived.sort_by_key(|message| message.as_array().map(Vec::len));
    let expected = [notification("tick", vec![]), reply(2, "done")];
    assert_eq!(arrived, expected);
    assert!(!wire.is_open());
    let gone = Err(NotifyError::Push(PushError::Gone));
    assert_eq!(notifier.notify("tick", &()), gone);
}

#[test]
fn a_subscriber_that_does_not_read_loses_its_connection() {
    let (router, notifiers) = subscribing();
    let mut wire = Wire::new(router);
    wire.send(request(1, "subscribe", vec![]));
    let notifier = notifiers.try_recv().unwrap();
    wire.exchange.set_window(wire.client, Some(0));
    let large = Notification::new("frame", &"x".repeat(1 << 20)).unwrap();
    let mut count = 0;
    let error = loop {
        match notifier.send(&large) {
            Ok(()) => count += 1,
            Err(error) => break error,
        }
        assert!(count < 100, "the limit is 8 MiB");
    };
    assert_eq!(error, NotifyError::Push(PushError::Overflow));
    wire.exchange.deliver();
    assert!(!wire.is_open());
    assert_eq!(wire.exchange.counters().cut, 1);
}

#[test]
fn parameters_that_cannot_be_encoded_are_an_error_here() {
    struct Broken;
    impl Serialize for Broken {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("out of ideas"))
        }
    }
    let error = Notification::new("n", &Broken).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the notification cannot be encoded: out of ideas"
    );
}

/// Whether a successor goes on with the connection.
fn survives(wire: Wire) -> bool {
    let mut wire = wire.hand_over(Router::new());
    let survives = wire.is_open();
    // Either way the predecessor has let go of it.
    let why = if survives {
        "a successor goes on with the connection"
    } else {
        "the server stops"
    };
    assert_eq!(wire.ends(), [why]);
    if survives {
        assert_eq!(wire.call("ping", vec![]), Ok("pong".into()));
    }
    survives
}

#[test]
fn a_connection_is_handed_over_as_long_as_nobody_may_notify_it() {
    let wire = |router| {
        let mut wire = Wire::new(router);
        wire.send(request(1, "subscribe", vec![]));
        wire
    };
    assert!(survives(wire(Router::new())));
    let (router, notifiers) = subscribing();
    let subscribed = wire(router);
    let notifier = notifiers.try_recv().unwrap();
    let clone = notifier.clone();
    drop(notifier);
    assert!(!survives(subscribed));
    assert!(!clone.is_open());

    let (router, notifiers) = subscribing();
    let unsubscribed = wire(router);
    drop(notifiers.try_recv().unwrap());
    assert!(survives(unsubscribed));
}

#[test]
fn a_connection_with_data_is_handed_over_once_the_data_is_taken() {
    let router = || {
        Router::new()
            .method_with("login", |context, name: String| {
                *context.data() = name;
                Ok(())
            })
            .method_with("logout", |context, ()| Ok(context.take_data::<String>()))
    };
    let mut wire = Wire::new(router());
    assert_eq!(wire.call("logout", vec![]), Ok(Value::Nil));
    wire.call("login", vec!["me".into()]).unwrap();
    assert!(!survives(wire));

    let mut wire = Wire::new(router());
    wire.call("login", vec!["me".into()]).unwrap();
    assert_eq!(wire.call("logout", vec![]), Ok("me".into()));
    assert_eq!(wire.call("logout", vec![]), Ok(Value::Nil));
    assert!(survives(wire));
}

#[test]
fn a_request_of_which_a_part_was_received_is_answered_by_the_successor() {
    let mut wire = Wire::new(Router::new());
    let frame = write(&request(5, "who", vec![]));
    let (before, after) = frame.split_at(frame.len() / 2);
    assert_eq!(wire.raw(before), b"");
    let mut wire = wire.hand_over(Router::new().method("who", |()| Ok("the successor")));
    assert_eq!(read_all(&wire.raw(after)), [reply(5, "the successor")]);
}
