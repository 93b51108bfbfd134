//! Calls, notifications and requests, in both directions.

use std::io::Read;
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use ringhold_client::{Address, CallError, Client, Message, Options};
use rmpv::Value;
use serde::{Deserialize, Serialize};
use serde_bytes::Bytes;

use crate::reference::{Behaviour, Family, Fault, Server};
use crate::{PATIENCE, connect, serve};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Point {
    x: i32,
    label: Option<String>,
}

#[test]
fn calls_over_every_family() {
    for family in [Family::Tcp, Family::Unix, Family::Abstract] {
        let server = Server::start_on(family, Behaviour::default());
        let mut client = connect(&server);
        assert_eq!(client.call::<_, i64>("sum", &(1, 2, 300)).unwrap(), 303);
        assert_eq!(client.call::<_, i64>("sum", &()).unwrap(), 0);
        assert_eq!(client.call::<_, i64>("sum", &[5; 20]).unwrap(), 100);
        let point = Point {
            x: -7,
            label: Some("corner".to_owned()),
        };
        assert_eq!(client.call::<_, Point>("echo", &(&point,)).unwrap(), point);
        assert_eq!(
            client.call_raw("all", b"\x92\x01\xa2ab").unwrap(),
            b"\x92\x01\xa2ab"
        );
        assert_eq!(client.outstanding(), 0);
    }
}

#[test]
fn structs_are_sent_as_maps() {
    let server = Server::start(Behaviour::default());
    let point = Point { x: 1, label: None };
    let result = {
        let mut client = connect(&server);
        let bytes = client
            .send("echo", &(point,))
            .and_then(|id| client.receive_reply(id))
            .unwrap()
            .result
            .unwrap();
        rmpv::decode::read_value(&mut &bytes[..]).unwrap()
    };
    assert_eq!(
        result,
        Value::Map(vec![("x".into(), 1.into()), ("label".into(), Value::Nil)])
    );
}

#[test]
fn bytes_are_sent_as_binary_and_a_vec_as_a_list() {
    let server = Server::start(Behaviour::default());
    let mut client = connect(&server);
    let data = vec![0xfe, 0xff];
    let as_bytes = client.send("echo", &(Bytes::new(&data),)).unwrap();
    let as_vec = client.send("echo", &(&data,)).unwrap();
    for (id, expected) in [
        (as_bytes, &b"\xc4\x02\xfe\xff"[..]),
        (as_vec, b"\x92\xcc\xfe\xcc\xff"),
    ] {
        let reply = client.receive_reply(id).unwrap();
        assert_eq!(reply.result.unwrap(), expected);
    }
    assert!(matches!(
        client.send("echo", Bytes::new(&data)),
        Err(CallError::Params(_))
    ));
}

#[test]
fn large_values_pass_both_ways() {
    let server = Server::start(Behaviour::default());
    let mut client = connect(&server);
    for size in [1000, 65_536, 3_000_000] {
        let text = "x".repeat(size);
        assert_eq!(client.call::<_, String>("echo", &(&text,)).unwrap(), text);
    }
    assert_eq!(client.call::<_, u8>("echo", &(7,)).unwrap(), 7);
}

#[test]
fn every_split_and_every_width_is_understood() {
    let server = Server::start(Behaviour {
        split: true,
        wide: true,
        ..Behaviour::default()
    });
    let mut client = connect(&server);
    for number in 0..50u64 {
        assert_eq!(
            client.call::<_, u64>("echo", &(number << number,)).unwrap(),
            number << number
        );
    }
}

#[test]
fn remote_errors_keep_their_value_and_the_connection() {
    let structured = Value::Map(vec![
        ("code".into(), 7.into()),
        ("why".into(), "broken".into()),
    ]);
    let server = serve([
        (1, Fault::Error(structured)),
        (2, Fault::Error(Value::Binary(vec![1, 2]))),
    ]);
    let mut client = connect(&server);

    let error = client.call::<_, i64>("nothing", &()).unwrap_err();
    assert_eq!(
        error.remote().unwrap().as_str(),
        Some("there is no method nothing")
    );
    assert_eq!(
        error.to_string(),
        "the server answered with an error: there is no method nothing"
    );
    assert!(!error.is_fatal());

    #[derive(Deserialize)]
    struct Why {
        code: u8,
        why: String,
    }
    let error = client.call::<_, i64>("echo", &(1,)).unwrap_err();
    let why: Why = error.remote().unwrap().decode().unwrap();
    assert_eq!((why.code, why.why.as_str()), (7, "broken"));
    assert!(
        error
            .to_string()
            .ends_with(r#"{"code": 7, "why": "broken"}"#),
        "{error}"
    );

    let error = client.call::<_, i64>("echo", &(1,)).unwrap_err();
    assert_eq!(error.remote().unwrap().value(), b"\xc4\x02\x01\x02");
    assert_eq!(client.call::<_, i64>("sum", &(1, 1)).unwrap(), 2);
}

#[test]
fn a_result_of_another_type_is_shown() {
    let server = Server::start(Behaviour::default());
    let mut client = connect(&server);
    let error = client.call::<_, i64>("echo", &("text",)).unwrap_err();
    assert!(matches!(&error, CallError::Result { result, .. } if result == b"\xa4text"));
    assert!(error.to_string().contains("\"text\""), "{error}");
    assert_eq!(client.call::<_, i64>("sum", &(1, 1)).unwrap(), 2);
}

#[test]
fn parameters_that_would_break_the_stream_are_not_sent() {
    let server = Server::start(Behaviour::default());
    let mut client = connect(&server);
    let cases: [(&[u8], &str); 6] = [
        (b"", "array"),
        (b"\x01", "array"),
        (b"\x80", "array"),
        (b"\x92\x01", "cut off"),
        (b"\x91\x01\x01", "follow"),
        (b"\x91\xc1", "0xc1"),
    ];
    for (params, part) in cases {
        let error = client.call_raw("echo", params).unwrap_err();
        assert!(matches!(error, CallError::Params(_)));
        assert!(error.to_string().contains(part), "{error}");
        assert!(
            client.notify_raw("echo", params).is_err() && client.send_raw("echo", params).is_err()
        );
    }
    let error = client.call::<_, i64>("sum", &5).unwrap_err();
    assert!(matches!(error, CallError::Params(_)));
    assert!(error.to_string().contains("(value,)"), "{error}");
    assert!(matches!(
        client.respond(1, Ok(b"")),
        Err(CallError::Params(_))
    ));
    assert_eq!(client.call::<_, i64>("sum", &(1, 1)).unwrap(), 2);
    assert_eq!((server.requests(), client.outstanding()), (1, 0));
}

#[test]
fn pipelined_replies_come_in_any_order() {
    let server = Server::start(Behaviour {
        reverse: true,
        gather: 50,
        ..Behaviour::default()
    });
    let mut client = connect(&server);
    let ids: Vec<u32> = (0..50)
        .map(|number| client.send("echo", &(number,)).unwrap())
        .collect();
    assert_eq!(client.outstanding(), 50);
    // One of them first, the others as they came: the last request was answered first.
    let reply = client.receive_reply(ids[20]).unwrap();
    assert_eq!(reply.result, Ok(vec![20]));
    assert_eq!(reply.decode::<u8>().unwrap(), 20);
    assert!(matches!(
        reply.decode::<String>(),
        Err(CallError::Result { result, .. }) if result == [20]
    ));
    let mut expected: Vec<u32> = ids
        .iter()
        .rev()
        .copied()
        .filter(|id| *id != ids[20])
        .collect();
    for id in expected.drain(..) {
        let reply = client.receive().unwrap();
        assert_eq!(reply.id, id);
        assert_eq!(
            reply.result,
            Ok(vec![ids.iter().position(|sent| *sent == id).unwrap() as u8])
        );
    }
    assert!(matches!(
        client.receive(),
        Err(CallError::NothingOutstanding)
    ));
    assert!(matches!(
        client.receive_reply(ids[0]),
        Err(CallError::NothingOutstanding)
    ));
}

#[test]
fn a_pipeline_deeper_than_all_buffers_does_not_deadlock() {
    let server = Server::start(Behaviour::default());
    let mut client = connect(&server);
    let text = "y".repeat(100_000);
    let ids: Vec<u32> = (0..300)
        .map(|_| client.send("echo", &(&text,)).unwrap())
        .collect();
    for id in ids {
        let reply = client.receive_reply(id).unwrap().result.unwrap();
        assert_eq!(reply.len(), text.len() + 5);
    }
}

#[test]
fn notifications_arrive_between_the_replies() {
    let server = Server::start(Behaviour {
        chatty: true,
        ..Behaviour::default()
    });
    let mut client = connect(&server);
    for number in 0..3 {
        assert_eq!(client.call::<_, u8>("echo", &(number,)).unwrap(), number);
    }
    for number in 0..3u64 {
        let notification = client.take_notification().unwrap();
        assert_eq!(notification.method(), "chat");
        assert_eq!(notification.decode::<(u64,)>().unwrap(), (number,));
    }
    assert_eq!(client.take_notification(), None);

    let id = client.send("count", &(10, 11)).unwrap();
    let mut messages = Vec::new();
    for _ in 0..4 {
        messages.push(match client.next_message().unwrap() {
            Message::Notification(notification) => notification.method().into_owned(),
            Message::Reply(reply) => {
                assert_eq!(reply.id, id);
                "reply".to_owned()
            }
            Message::Request(request) => panic!("{request:?}"),
        });
    }
    // Those that the method sends are written while it runs, after the one that goes before every reply.
    assert_eq!(messages, ["chat", "tick", "tick", "reply"]);
    assert_eq!(client.next_message_within(Duration::ZERO).unwrap(), None);
}

/// Whoever asks now and then whether something has come, without waiting, hears of it.
#[test]
fn a_look_without_waiting_sees_what_has_come() {
    let server = Server::start(Behaviour::default());
    let mut client = connect(&server);
    assert_eq!(client.next_message_within(Duration::ZERO).unwrap(), None);
    let id = client.send("echo", &(1,)).unwrap();
    let start = std::time::Instant::now();
    let message = loop {
        if let Some(message) = client.next_message_within(Duration::ZERO).unwrap() {
            break message;
        }
        assert!(start.elapsed() < PATIENCE, "never");
        thread::sleep(Duration::from_millis(1));
    };
    assert!(matches!(message, Message::Reply(reply) if reply.id == id));
    assert_eq!(client.next_message_within(Duration::ZERO).unwrap(), None);
}

#[test]
fn a_request_of_the_server_is_answered() {
    let server = Server::start(Behaviour::default());
    let mut client = connect(&server);
    client.call::<_, ()>("ask", &("why", 1)).unwrap();
    let Message::Request(request) = client.next_message().unwrap() else {
        panic!("not a request");
    };
    assert_eq!((request.id, request.method().as_ref()), (77, "question"));
    assert_eq!(
        request.decode::<(String, u8)>().unwrap(),
        ("why".to_owned(), 1)
    );
    // Nil in the place of the error would say that there is none.
    let error = client.respond(request.id, Err(b"\xc0")).unwrap_err();
    assert!(matches!(error, CallError::Params(_)), "{error}");
    assert!(error.to_string().contains("nil"), "{error}");
    client.respond(request.id, Ok(b"\x2a")).unwrap();
    client.respond(request.id, Err(b"\xa2no")).unwrap();
    // The server has read both when it answers this.
    client.call::<_, u8>("echo", &(1,)).unwrap();
    let answers = server.responses();
    assert_eq!(answers.len(), 2);
    assert_eq!(
        answers[0],
        Value::Array(vec![1.into(), 77.into(), Value::Nil, 42.into()])
    );
    assert_eq!(
        answers[1],
        Value::Array(vec![1.into(), 77.into(), "no".into(), Value::Nil])
    );
}

#[test]
fn notifications_are_sent() {
    let server = Server::start(Behaviour::default());
    let mut client = connect(&server);
    client.notify("log", &("text",)).unwrap();
    client.notify_raw("log", b"\x90").unwrap();
    client.call::<_, u8>("echo", &(1,)).unwrap();
    assert_eq!(server.notifications(), 2);
}

#[test]
fn a_host_name_is_looked_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let address: Address = format!("localhost:{port}").parse().unwrap();
    let mut client = Client::connect(&address, Options::default()).unwrap();
    client.notify("hello", &()).unwrap();
    let mut received = [0; 9];
    listener
        .accept()
        .unwrap()
        .0
        .read_exact(&mut received)
        .unwrap();
    assert_eq!(&received, b"\x93\x02\xa5hello\x90");
}
