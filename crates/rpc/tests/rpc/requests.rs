//! Requests, and the replies that they get.

use std::time::Duration;

use bytes::Bytes;
use ringhold_core::{Credentials, PeerAddress};
use ringhold_rpc::{Fault, Router};
use rmpv::Value;

use crate::client::{Wire, map, notification, read_all, reply, request, write};

#[test]
fn a_reply_is_these_bytes() {
    let mut wire = Wire::new(Router::new().method("add", |(a, b): (i64, i64)| Ok(a + b)));
    assert_eq!(
        wire.raw(b"\x94\x00\x07\xa4ping\x90"),
        b"\x94\x01\x07\xc0\xa4pong"
    );
    assert_eq!(
        wire.raw(b"\x94\x00\xcd\x01\x00\xa3add\x92\x02\xfd"),
        b"\x94\x01\xcd\x01\x00\xc0\xff"
    );
    assert_eq!(
        wire.raw(b"\x94\x00\x01\xa3foo\x90"),
        b"\x94\x01\x01\xd9\x33there is no method \"foo\"; call \"methods\" for a list\xc0"
    );
}

#[test]
fn ping_takes_anything() {
    let mut wire = Wire::new(Router::new());
    assert_eq!(wire.call("ping", vec![]), Ok("pong".into()));
    assert_eq!(
        wire.call("ping", vec![1.into(), 2.into()]),
        Ok("pong".into())
    );
}

#[test]
fn echo_gives_back_what_it_gets_byte_for_byte() {
    let mut wire = Wire::new(Router::new());
    for object in [
        &b"\xc0"[..],
        // An integer wider than it need be, a NaN with a payload, a negative zero.
        b"\xcf\0\0\0\0\0\0\0\x01",
        b"\xcb\x7f\xf8\0\0\0\0\x12\x34",
        b"\xcb\x80\0\0\0\0\0\0\0",
        // Not UTF-8, a duplicate key, a map as a key, an unknown extension type, a wrong timestamp.
        b"\xa2\xff\xfe",
        b"\x82\xa1k\x01\xa1k\x02",
        b"\x81\x81\x01\x02\x03",
        b"\xd5\x63ab",
        b"\xc7\x05\xffabcde",
        b"\x92\x90\x80",
        b"\xc4\x03bin",
    ] {
        let one = [b"\x94\x00\x01\xa4echo\x91", object].concat();
        assert_eq!(wire.raw(&one), [b"\x94\x01\x01\xc0", object].concat());
        let two = [b"\x94\x00\x01\xa4echo\x92", object, b"\x05"].concat();
        assert_eq!(
            wire.raw(&two),
            [b"\x94\x01\x01\xc0\x92", object, b"\x05"].concat()
        );
    }
    assert_eq!(wire.call("echo", vec![]), Ok(Value::Array(vec![])));
}

#[test]
fn echo_of_large_parameters_comes_back_between_small_ones() {
    let mut wire = Wire::new(Router::new());
    let mut sent = Vec::new();
    let mut expected = Vec::new();
    for (id, size) in [10, 5_000, 31 * 1024, 33 * 1024, 100_000, 1 << 20, 10]
        .into_iter()
        .enumerate()
    {
        let blob = Value::Binary((0..size).map(|i| (i * 7 + id) as u8).collect());
        sent.extend(write(&request(id as u32, "echo", vec![blob.clone()])));
        expected.push(reply(id as u32, blob));
    }
    let mut received = Vec::new();
    for piece in sent.chunks(16 * 1024) {
        assert!(wire.exchange.receive(wire.client, piece));
        received.extend(wire.exchange.take_sent(wire.client));
    }
    assert_eq!(read_all(&received), expected);
}

#[test]
fn methods_lists_names_and_descriptions() {
    let router = Router::new()
        .method("add", |(a, b): (i64, i64)| Ok(a + b))
        .notification("log", |_: String| {})
        .describe("add", "adds two integers")
        .describe("ping", "described anew");
    let mut wire = Wire::new(router);
    let text = |text: &'static str| Value::from(text);
    assert_eq!(
        wire.call("methods", vec![]),
        Ok(map(&[
            ("add", text("adds two integers")),
            ("echo", text("gives its parameter back")),
            ("log", text("")),
            ("methods", text("the methods and what they do")),
            ("ping", text("described anew")),
            ("status", text("the server's counters")),
            (
                "time",
                text("the server's clock: seconds and nanoseconds since 1970-01-01 UTC")
            ),
        ]))
    );
    assert_eq!(
        wire.error("methods", vec![1.into()]),
        "wrong parameters for \"methods\": 1 given, the method takes 0 parameters"
    );
}

#[test]
fn time_is_a_map_of_seconds_and_nanoseconds() {
    let mut wire = Wire::new(Router::new());
    let time = wire.call("time", vec![]).unwrap();
    assert_eq!(time.as_map().unwrap().len(), 2);
    // 2024 had begun when this was written.
    assert!(time["seconds"].as_u64().unwrap() > 1_704_000_000);
    assert!(time["nanoseconds"].as_u64().unwrap() < 1_000_000_000);
}

#[test]
fn status_counts_by_socket_name_and_worker() {
    let mut wire = Wire::new(Router::new());
    wire.call("ping", vec![]).unwrap();
    wire.send(notification("ping", vec![]));
    let status = wire.call("status", vec![]).unwrap();
    assert!(status["uptime_seconds"].is_f64());
    for counters in [
        &status["names"]["test"],
        &status["workers"][0]["names"]["test"],
    ] {
        assert_eq!(counters["open"], Value::from(1));
        // Frames are counted when the whole buffer that they came in is dispatched.
        assert_eq!(counters["frames_in"], Value::from(2));
    }
    assert!(status["workers"][0]["engine"]["turns"].is_u64());
}

#[test]
fn a_method_takes_the_place_of_a_built_in_one() {
    let router = Router::new()
        .method("status", |()| Ok("fine"))
        .method("methods", |()| Ok(3))
        .method("ping", |()| Ok("PONG"));
    let mut wire = Wire::new(router);
    assert_eq!(wire.call("status", vec![]), Ok("fine".into()));
    assert_eq!(wire.call("methods", vec![]), Ok(3.into()));
    assert_eq!(wire.call("ping", vec![]), Ok("PONG".into()));
    let mut bare = Wire::new(Router::bare());
    assert_eq!(bare.error("ping", vec![]), "there is no method \"ping\"");
}

#[test]
#[should_panic(expected = "there are two methods named \"add\"")]
fn a_name_is_taken_once() {
    let _ = Router::new()
        .method("add", |()| Ok(1))
        .method("add", |()| Ok(2));
}

#[test]
#[should_panic(expected = "there is no method \"ad\" to describe")]
fn only_what_there_is_can_be_described() {
    let _ = Router::new()
        .method("add", |()| Ok(1))
        .describe("ad", "adds");
}

#[test]
fn an_id_may_be_written_in_any_width() {
    let mut wire = Wire::new(Router::new());
    let all: &[(&[u8], u32)] = &[
        (b"\x00", 0),
        (b"\x7f", 127),
        (b"\xcc\x00", 0),
        (b"\xcc\x05", 5),
        (b"\xcc\xff", 255),
        (b"\xcd\x00\x01", 1),
        (b"\xcd\xff\xff", 0xffff),
        (b"\xce\x00\x00\x00\x07", 7),
        (b"\xce\xff\xff\xff\xff", u32::MAX),
        (b"\xcf\0\0\0\0\0\0\0\x01", 1),
        (b"\xcf\0\0\0\0\xff\xff\xff\xff", u32::MAX),
        // Signed encodings of numbers that are not negative.
        (b"\xd0\x05", 5),
        (b"\xd1\x7f\xff", 0x7fff),
        (b"\xd2\x7f\xff\xff\xff", 0x7fff_ffff),
        (b"\xd3\0\0\0\0\x80\0\0\0", 0x8000_0000),
    ];
    for (encoded, id) in all {
        let frame = [b"\x94\x00", *encoded, b"\xa4ping\x90"].concat();
        let bytes = wire.raw(&frame);
        assert_eq!(read_all(&bytes), [reply(*id, "pong")], "{encoded:x?}");
        assert_eq!(bytes, write(&reply(*id, "pong")), "in its shortest form");
        // An error has the same id.
        let frame = [b"\x94\x00", *encoded, b"\xa1?\x90"].concat();
        let replies = read_all(&wire.raw(&frame));
        assert_eq!(replies[0][1], Value::from(*id), "{encoded:x?}");
    }
}

#[test]
fn type_and_count_may_be_written_in_any_width() {
    let mut wire = Wire::new(Router::new());
    for head in [
        &b"\xdc\x00\x04\x00"[..],
        b"\xdd\x00\x00\x00\x04\x00",
        b"\x94\xcc\x00",
        b"\x94\xcf\0\0\0\0\0\0\0\0",
        b"\x94\xd0\x00",
    ] {
        for params in [&b"\x90"[..], b"\xdc\x00\x00", b"\xdd\x00\x00\x00\x00"] {
            let frame = [head, b"\x09\xa4ping", params].concat();
            assert_eq!(wire.raw(&frame), b"\x94\x01\x09\xc0\xa4pong");
        }
    }
}

#[test]
fn a_method_may_be_written_in_any_family() {
    let name = "m".repeat(40);
    let mut wire = Wire::new(Router::new().method(&name, |()| Ok(1)));
    for head in [
        &b"\xd9\x28"[..],
        // The raw family of old, which has no length of one byte.
        b"\xda\x00\x28",
        b"\xdb\x00\x00\x00\x28",
        b"\xc4\x28",
        b"\xc5\x00\x28",
        b"\xc6\x00\x00\x00\x28",
    ] {
        let frame = [b"\x94\x00\x02", head, name.as_bytes(), b"\x90"].concat();
        assert_eq!(wire.raw(&frame), b"\x94\x01\x02\xc0\x01");
    }
}

#[test]
fn a_method_name_need_not_be_text() {
    let mut wire = Wire::new(Router::new());
    let replies = read_all(&wire.raw(b"\x94\x00\x01\xa3\xffab\x90"));
    assert_eq!(
        replies[0][2],
        Value::from("there is no method \"\u{fffd}ab\"; call \"methods\" for a list")
    );
    let mut empty = Wire::new(Router::new().method("", |()| Ok("the empty name")));
    assert_eq!(empty.call("", vec![]), Ok("the empty name".into()));
}

#[test]
fn ten_thousand_pipelined_requests_are_answered_in_order() {
    let router = Router::new().method("add", |(a, b): (u64, u64)| Ok(a + b));
    let mut wire = Wire::new(router);
    let mut sent = Vec::new();
    let mut expected = Vec::new();
    for id in 0..10_000u32 {
        let (method, params, result): (_, Vec<Value>, Value) = match id % 4 {
            0 => ("ping", vec![], "pong".into()),
            1 => ("echo", vec![id.into()], id.into()),
            2 => ("add", vec![id.into(), 1.into()], (id + 1).into()),
            _ => (
                "add",
                vec![id.into(), (id / 2).into()],
                (id + id / 2).into(),
            ),
        };
        sent.extend(write(&request(id, method, params)));
        expected.extend(write(&reply(id, result)));
    }
    assert!(wire.raw(&sent) == expected, "in one piece");
    for size in [1, 7, 1448] {
        let mut received = Vec::new();
        for piece in sent.chunks(size) {
            received.extend(wire.raw(piece));
        }
        assert!(received == expected, "in pieces of {size}");
    }
    assert_eq!(wire.exchange.counters().frames_in, 40_000);
}

#[test]
fn replies_to_a_peer_that_does_not_read_are_not_lost() {
    let mut wire = Wire::new(Router::new());
    wire.exchange.set_window(wire.client, Some(0));
    let blob = Value::Binary(vec![7; 60_000]);
    let mut next = 0;
    // Reading pauses twice: for a peer that may be about to read, and for one that has not done so for a while.
    for expected in [9, 70] {
        while wire.exchange.reads(wire.client) {
            let message = write(&request(next, "echo", vec![blob.clone()]));
            assert!(wire.exchange.receive(wire.client, &message));
            next += 1;
        }
        assert_eq!(next, expected);
        wire.exchange.advance(Duration::from_millis(100));
    }
    wire.exchange.set_window(wire.client, None);
    let replies = wire.arrived();
    assert_eq!(replies.len(), next as usize);
    for (id, message) in replies.iter().enumerate() {
        assert!(*message == reply(id as u32, blob.clone()));
    }
}

#[test]
fn a_half_closed_peer_gets_its_replies() {
    let mut wire = Wire::new(Router::new());
    let frames = [
        write(&request(1, "ping", vec![])),
        write(&request(2, "ping", vec![])),
    ]
    .concat();
    assert!(wire.exchange.receive(wire.client, &frames));
    wire.exchange.end(wire.client);
    assert_eq!(wire.arrived(), [reply(1, "pong"), reply(2, "pong")]);
    assert!(!wire.is_open());
    assert_eq!(wire.ends(), ["the peer ended the connection"]);
}

#[test]
fn raw_handlers_read_and_write_in_place() {
    let router = Router::new()
        .raw("reverse", |call, answer| {
            let text: &str = match call.decode() {
                Ok(text) => text,
                Err(fault) => return answer.fault(fault),
            };
            // Borrowed from the frame.
            assert!(call.params().as_ptr_range().contains(&text.as_ptr()));
            assert_eq!(call.method(), b"reverse");
            assert_eq!(call.id(), Some(77));
            let reversed: Vec<u8> = text.bytes().rev().collect();
            answer.write(|out| {
                out.push(0xa0 | reversed.len() as u8);
                out.extend_from_slice(&reversed);
            })
        })
        .raw("nothing", |_, answer| answer.write(|_| {}))
        .raw("nothing encoded", |_, answer| answer.encoded(b""))
        .raw("nothing shared", |_, answer| answer.share(Bytes::new()))
        .raw("partly", |_, answer| {
            answer.try_write(|out| {
                out.extend_from_slice(b"\x93\x01\x02");
                Err(Fault::new("changed my mind"))
            })
        })
        .raw("shared", |_, answer| {
            let mut object = vec![0xc6, 0, 1, 0, 0];
            object.resize(5 + 0x1_0000, 9);
            answer.share(Bytes::from(object))
        })
        .raw("small share", |_, answer| {
            answer.share(Bytes::from_static(b"\x2a"))
        })
        .raw("kept", |call, answer| {
            let kept = call.keep(call.params());
            assert_eq!(kept, call.params());
            answer.result(Ok(kept.len()))
        });
    let mut wire = Wire::new(router);
    assert_eq!(wire.call("reverse", vec!["abc".into()]), Ok("cba".into()));
    assert_eq!(
        wire.error("reverse", vec![1.into()]),
        "wrong parameters for \"reverse\": parameter 1: invalid type: integer `1`, expected a borrowed string"
    );
    for method in ["nothing", "nothing encoded", "nothing shared"] {
        assert_eq!(wire.call(method, vec![]), Ok(Value::Nil), "{method}");
    }
    assert_eq!(wire.error("partly", vec![]), "changed my mind");
    assert_eq!(
        wire.call("shared", vec![]),
        Ok(Value::Binary(vec![9; 0x1_0000]))
    );
    assert_eq!(wire.call("small share", vec![]), Ok(42.into()));
    let blob = Value::Binary(vec![1; 5000]);
    assert_eq!(wire.call("kept", vec![blob]), Ok(5004.into()));
}

#[test]
fn a_handler_knows_its_connection() {
    let router = Router::new()
        .method_with("who", |context, ()| {
            Ok((
                context.peer().socket_name().to_owned(),
                context.message_id(),
                context.connection().to_string(),
                context.peer().address()?.to_string(),
                context.peer().credentials()?.map(|who| who.uid),
            ))
        })
        .method_with("visits", |context, ()| {
            let visits: &mut u32 = context.data();
            *visits += 1;
            Ok(*visits)
        })
        .method_with("quit", |context, ()| {
            context.close("it asked for that");
            Ok("bye")
        });
    let mut wire = Wire::new(router);
    let somebody = Credentials {
        pid: None,
        uid: 1000,
        gid: 100,
    };
    wire.exchange.set_peer(PeerAddress::Unix, Some(somebody));
    wire.client = wire.exchange.connect();
    let who = wire.call("who", vec![]).unwrap();
    assert_eq!(who[0], Value::from("test"));
    assert_eq!(who[1], Value::from(77));
    assert_eq!(who[3], Value::from("unix"));
    assert_eq!(who[4], Value::from(1000));
    assert_eq!(wire.call("visits", vec![]), Ok(1.into()));
    assert_eq!(wire.call("visits", vec![]), Ok(2.into()));
    let other = wire.exchange.connect();
    let first = std::mem::replace(&mut wire.client, other);
    assert_eq!(
        wire.call("visits", vec![]),
        Ok(1.into()),
        "each connection has its own"
    );
    assert_ne!(wire.call("who", vec![]).unwrap()[2], who[2]);

    let frames = [
        write(&request(77, "quit", vec![])),
        write(&request(78, "ping", vec![])),
    ];
    assert_eq!(read_all(&wire.raw(&frames.concat())), [reply(77, "bye")]);
    assert!(!wire.is_open());
    assert_eq!(
        wire.ends(),
        ["the service ended the connection: it asked for that"]
    );
    assert!(wire.exchange.is_open(first));
}
