//! Clients whose msgpack has one family for text and binary, and no extension types.

use std::sync::mpsc::channel;

use ringhold_rpc::{Fault, Notification, Notifier, NotifyError, Router, Strings};
use rmpv::Value;

use crate::client::Wire;

/// What a decoder of old makes of a stream: markers that it does not know are an error.
fn read_old(bytes: &[u8]) -> Vec<Old> {
    let mut rest = bytes;
    let mut objects = Vec::new();
    while !rest.is_empty() {
        objects.push(read_one(&mut rest));
    }
    objects
}

#[derive(Clone, Debug, PartialEq)]
enum Old {
    Nil,
    Number(u64),
    Raw(Vec<u8>),
    List(Vec<Old>),
    Map(Vec<(Old, Old)>),
}

fn raw(bytes: impl AsRef<[u8]>) -> Old {
    Old::Raw(bytes.as_ref().to_vec())
}

fn read_one(rest: &mut &[u8]) -> Old {
    fn take<'a>(rest: &mut &'a [u8], count: usize) -> &'a [u8] {
        let (head, tail) = rest.split_at(count);
        *rest = tail;
        head
    }
    fn number(rest: &mut &[u8], width: usize) -> u64 {
        take(rest, width)
            .iter()
            .fold(0, |value, byte| value << 8 | u64::from(*byte))
    }
    let list = |rest: &mut &[u8], count| (0..count).map(|_| read_one(rest)).collect();
    match take(rest, 1)[0] {
        byte @ 0..=0x7f => Old::Number(byte.into()),
        0xcc => Old::Number(number(rest, 1)),
        0xcd => Old::Number(number(rest, 2)),
        0xce => Old::Number(number(rest, 4)),
        0xc0 => Old::Nil,
        byte @ 0xa0..=0xbf => raw(take(rest, usize::from(byte & 31))),
        0xda => {
            let length = number(rest, 2) as usize;
            raw(take(rest, length))
        }
        0xdb => {
            let length = number(rest, 4) as usize;
            raw(take(rest, length))
        }
        byte @ 0x90..=0x9f => Old::List(list(rest, u64::from(byte & 15))),
        byte @ 0x80..=0x8f => Old::Map(
            (0..byte & 15)
                .map(|_| (read_one(rest), read_one(rest)))
                .collect(),
        ),
        byte => panic!("an old client does not know {byte:#04x}"),
    }
}

fn ok(id: u64, result: Old) -> Old {
    Old::List(vec![Old::Number(1), Old::Number(id), Old::Nil, result])
}

fn failed(id: u64, error: impl AsRef<[u8]>) -> Old {
    Old::List(vec![Old::Number(1), Old::Number(id), raw(error), Old::Nil])
}

/// A request as an old client writes it.
fn old_request(id: u8, method: &str, params: &[&[u8]]) -> Vec<u8> {
    let mut out = vec![0x94, 0, id, 0xda, 0, method.len() as u8];
    out.extend_from_slice(method.as_bytes());
    out.push(0x90 | params.len() as u8);
    for param in params {
        out.push(0xda);
        out.extend_from_slice(&(param.len() as u16).to_be_bytes());
        out.extend_from_slice(param);
    }
    out
}

fn router() -> Router {
    Router::new()
        .method("binary", |length: String| {
            let length: usize = length.parse()?;
            Ok(Value::Binary(vec![9; length]))
        })
        .method("text", |text: String| Ok(vec![text.clone(), text]))
        .method("time", |()| Ok(Value::Ext(-1, vec![0, 0, 0, 1])))
        .method("panic", |()| -> Result<(), Fault> { panic!("on purpose") })
        .method("value", |()| -> Result<(), _> {
            Err(Fault::value(&("c".repeat(40), 7)))
        })
        .method("bad value", |()| -> Result<(), _> {
            Err(Fault::value(&Value::Ext(1, vec![0])))
        })
        .deferred("drop", |(), responder| drop(responder))
        .deferred("later", |text: String, responder| responder.ok(&text))
        .deferred("shared", |(), responder| {
            responder.share([&[0xc5, 0x13, 0x88][..], &[9; 5000]].concat().into());
        })
}

#[test]
fn every_kind_of_answer_can_be_read() {
    let mut wire = Wire::with(router(), Strings::OldRaw);
    let mut answer = |method: &str, params: &[&[u8]]| {
        wire.exchange
            .receive(wire.client, &old_request(3, method, params));
        let mut objects = read_old(&wire.exchange.take_sent(wire.client));
        assert_eq!(objects.len(), 1, "{method}");
        objects.remove(0)
    };
    let long = [b'x'; 100];
    assert_eq!(answer("ping", &[]), ok(3, raw("pong")));
    assert_eq!(answer("echo", &[&long]), ok(3, raw(long)));
    assert_eq!(
        answer("echo", &[&[0xff; 40_000]]),
        ok(3, raw([0xff; 40_000]))
    );
    for length in [0, 31, 32, 255, 256, 70_000] {
        assert_eq!(
            answer("binary", &[length.to_string().as_bytes()]),
            ok(3, raw(vec![9; length]))
        );
    }
    assert_eq!(
        answer("text", &[&long]),
        ok(3, Old::List(vec![raw(long), raw(long)]))
    );
    assert_eq!(answer("later", &[&long]), ok(3, raw(long)));
    assert_eq!(answer("shared", &[]), ok(3, raw([9; 5000])));
    let Old::List(methods) = answer("methods", &[]) else {
        panic!("a reply is a list");
    };
    let Old::Map(methods) = &methods[3] else {
        panic!("the methods are a map");
    };
    assert_eq!(methods.len(), router().methods().len());

    // All of these messages are longer than a fixstr can be.
    assert_eq!(
        answer("an unknown method", &[]),
        failed(
            3,
            "there is no method \"an unknown method\"; call \"methods\" for a list"
        )
    );
    assert_eq!(
        answer("text", &[]),
        failed(3, "wrong parameters for \"text\": parameter 1 is missing")
    );
    assert_eq!(
        answer("panic", &[]),
        failed(3, "the handler of \"panic\" panicked")
    );
    assert_eq!(answer("drop", &[]), failed(3, "the handler gave no answer"));
    assert_eq!(
        answer("value", &[]),
        Old::List(vec![
            Old::Number(1),
            Old::Number(3),
            Old::List(vec![raw("c".repeat(40)), Old::Number(7)]),
            Old::Nil
        ])
    );
    assert_eq!(
        answer("time", &[]),
        failed(
            3,
            "the result cannot be serialized: the old msgpack of this service's clients has no extension types"
        )
    );
    assert_eq!(
        answer("bad value", &[]),
        failed(3, "the error cannot be expressed in old msgpack")
    );
}

#[test]
fn malformed_requests_and_stops_are_answered_readably() {
    let (sender, responders) = channel();
    let router = Router::new().deferred("later", move |(), responder| {
        sender.send(responder).unwrap();
    });
    let mut wire = Wire::with(router, Strings::OldRaw);
    assert_eq!(
        read_old(&wire.raw(b"\x93\x00\x05\xa4ping")),
        [failed(5, "a request has 4 elements, this one has 3")]
    );
    wire.raw(&old_request(6, "later", &[]));
    wire.exchange.stop();
    assert_eq!(
        read_old(&wire.exchange.take_sent(wire.client)),
        [failed(
            6,
            "the server is stopping or restarting and could not wait for the answer"
        )]
    );
    drop(responders);
}

#[test]
fn notifications_are_rewritten_for_those_who_need_it() {
    fn subscriber(strings: Strings) -> (Wire, Notifier) {
        let (sender, notifiers) = channel();
        let router = Router::new().method_with("subscribe", move |context, ()| {
            sender.send(context.notifier()).unwrap();
            Ok(())
        });
        let mut wire = Wire::with(router, strings);
        wire.raw(&old_request(1, "subscribe", &[]));
        let notifier = notifiers.try_recv().unwrap();
        (wire, notifier)
    }
    let (mut old, to_old) = subscriber(Strings::OldRaw);
    let (mut new, to_new) = subscriber(Strings::Current);
    let method = "m".repeat(50);
    let note = Notification::new(&method, &("x".repeat(60),)).unwrap();
    for _ in 0..2 {
        to_old.send(&note).unwrap();
        to_new.send(&note).unwrap();
    }
    let one = Old::List(vec![
        Old::Number(2),
        raw(&method),
        Old::List(vec![raw("x".repeat(60))]),
    ]);
    old.exchange.deliver();
    assert_eq!(
        read_old(&old.exchange.take_sent(old.client)),
        [one.clone(), one]
    );
    new.exchange.deliver();
    assert_eq!(new.exchange.take_sent(new.client), note.bytes().repeat(2));

    let ext = Notification::new("n", &Value::Ext(5, vec![1])).unwrap();
    assert_eq!(to_new.send(&ext), Ok(()));
    let error = to_old.send(&ext).unwrap_err();
    assert!(matches!(error, NotifyError::Encode(_)));
    assert_eq!(
        error.to_string(),
        "the notification cannot be encoded: the old msgpack of this service's clients has no extension types"
    );
}
