//! The blocking client against a server that behaves, and one that does not.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod reference;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use reference::{Behaviour, Family, Fault, Server};
use ringhold_client::{Address, CallError, Client, Exceeded, Limits, Message, Options};
use rmpv::Value;
use serde::{Deserialize, Serialize};

/// No test waits longer than this for what should come.
const PATIENCE: Duration = Duration::from_secs(20);

/// What should not come is waited for this long.
const SHORT: Duration = Duration::from_millis(50);

fn connect_with(server: &Server, call_timeout: Duration) -> Client {
    let options = Options {
        call_timeout: Some(call_timeout),
        ..Options::default()
    };
    Client::connect(&server.address, options).unwrap()
}

fn connect(server: &Server) -> Client {
    connect_with(server, PATIENCE)
}

fn serve(faults: impl IntoIterator<Item = (u64, Fault)>) -> Server {
    Server::start(Behaviour::faulty(faults))
}

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
    assert_eq!(client.receive_reply(ids[20]).unwrap().result, Ok(vec![20]));
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
fn a_timeout_leaves_the_connection_usable() {
    let server = serve([(0, Fault::Drop)]);
    let mut client = connect_with(&server, SHORT);
    let error = client.call::<_, u8>("echo", &(1,)).unwrap_err();
    assert!(matches!(&error, CallError::Timeout { after, .. } if *after == SHORT));
    assert!(!error.is_fatal());
    assert_eq!(
        error.to_string(),
        format!("{}: no reply within 50ms", server.address)
    );
    assert_eq!(client.outstanding(), 0);
    assert!(matches!(
        client.next_message(),
        Err(CallError::Timeout { .. })
    ));
    assert_eq!(client.next_message_within(SHORT).unwrap(), None);
}

#[test]
fn a_reply_that_comes_after_its_timeout_is_dropped() {
    // The first request is answered when the second has come.
    let server = Server::start(Behaviour {
        gather: 2,
        ..Behaviour::default()
    });
    let mut client = connect_with(&server, SHORT);
    assert!(matches!(
        client.call::<_, u8>("echo", &(1,)),
        Err(CallError::Timeout { .. })
    ));
    let id = client.send("echo", &(2,)).unwrap();
    // Waited for without a limit on the single wait, so that a slow machine does not matter.
    let reply = loop {
        if let Some(message) = client.next_message_within(PATIENCE).unwrap() {
            break message;
        }
    };
    assert!(
        matches!(reply, Message::Reply(reply) if reply.id == id && reply.result == Ok(vec![2]))
    );
    assert_eq!(client.next_message_within(Duration::ZERO).unwrap(), None);
}

#[test]
fn a_server_that_is_always_ahead_does_not_outlast_the_timeout() {
    // All of it lies in the socket before it is waited for, so the client never has to wait for more.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("server.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let (sent, all_sent) = mpsc::channel();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        socket2::SockRef::from(&stream)
            .set_send_buffer_size(1 << 20)
            .unwrap();
        stream.read_exact(&mut [0; 9]).unwrap();
        // More than the client reads at once.
        let mut bytes = b"\x93\x02\xa4tick\x90".repeat(20_000);
        bytes.extend_from_slice(b"\x94\x01\x00\xc0\x2a");
        stream.write_all(&bytes).unwrap();
        sent.send(()).unwrap();
        let _ = stream.read(&mut [0]);
    });
    let options = Options {
        call_timeout: Some(Duration::from_nanos(1)),
        ..Options::default()
    };
    let mut client = Client::connect(&Address::Unix(path), options).unwrap();
    let id = client.send("echo", &()).unwrap();
    all_sent.recv().unwrap();
    let error = client.receive_reply(id).unwrap_err();
    assert!(matches!(error, CallError::Timeout { .. }), "{error}");
    // What was read in time is there, and the rest can still be had.
    assert!(client.take_notification().is_some());
    let reply = std::iter::repeat_with(|| client.receive_reply(id))
        .find_map(Result::ok)
        .unwrap();
    assert_eq!(reply.result, Ok(vec![42]));
    drop(client);
    server.join().unwrap();
}

#[test]
fn a_server_that_takes_nothing_is_a_timeout() {
    let server = serve([(0, Fault::Stall)]);
    let mut client = connect_with(&server, SHORT);
    let text = "z".repeat(1 << 20);
    let error = (0..64)
        .find_map(|_| client.send("echo", &(&text,)).err())
        .unwrap();
    assert!(
        matches!(
            error,
            CallError::Timeout {
                what: "room for the request",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_connection_that_is_gone_is_said_with_address_and_reason() {
    let closed = |error: &CallError| matches!(error, CallError::Closed { .. });
    let cut = |error: &CallError| matches!(error, CallError::Cut { .. });
    type Expected = fn(&CallError) -> bool;
    let cases: [(Fault, Expected, &str); 2] = [
        (
            Fault::Close,
            closed,
            "the server closed it with 1 reply outstanding",
        ),
        (
            Fault::CutReply,
            cut,
            "in the middle of a frame, 4 bytes into it",
        ),
    ];
    for (fault, expected, reason) in cases {
        let server = serve([(1, fault)]);
        let mut client = connect(&server);
        client.call::<_, u8>("echo", &(1,)).unwrap();
        let error = client.call::<_, u8>("echo", &(1,)).unwrap_err();
        let text = error.to_string();
        assert!(expected(&error) && error.is_fatal(), "{text}");
        assert!(
            text.contains(reason) && text.contains(&server.address.to_string()),
            "{text}"
        );
        // From now on, every operation says the same.
        assert_eq!(
            client.call::<_, u8>("echo", &(1,)).unwrap_err().to_string(),
            text
        );
        assert_eq!(client.notify("log", &()).unwrap_err().to_string(), text);
        let error = client.next_message().unwrap_err();
        assert!(expected(&error), "{error}");
        assert_eq!(error.to_string(), text);
        assert!(client.finish_sending().is_err());
    }
}

/// Serves one connection with `serve` on a thread of its own.
fn once(serve: impl FnOnce(TcpStream) + Send + 'static) -> (thread::JoinHandle<()>, Address) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().into();
    let thread = thread::spawn(move || serve(listener.accept().unwrap().0));
    (thread, address)
}

/// Closing the stream then resets the connection.
fn reset_at_close(stream: &TcpStream) {
    socket2::SockRef::from(stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

fn patient(address: &Address) -> Client {
    let options = Options {
        call_timeout: Some(PATIENCE),
        ..Options::default()
    };
    Client::connect(address, options).unwrap()
}

#[test]
fn a_reset_is_no_orderly_end() {
    for finish in [false, true] {
        let (server, address) = once(move |mut stream| {
            stream.read_exact(&mut [0; 9]).unwrap();
            if finish {
                assert_eq!(stream.read(&mut [0]).unwrap(), 0);
            }
            reset_at_close(&stream);
        });
        let mut client = patient(&address);
        client.notify("hello", &()).unwrap();
        let error = match finish {
            false => client.next_message().unwrap_err(),
            true => client.finish().unwrap_err(),
        };
        server.join().unwrap();
        assert!(matches!(error, CallError::Cut { .. }), "{error:?}");
        assert!(error.to_string().contains("the server cut it"), "{error}");
    }
}

#[test]
fn a_client_that_finishes_reads_up_to_the_end() {
    let (server, address) = once(|mut stream| {
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        assert_eq!(received, b"\x93\x02\xa5hello\x90");
        stream.write_all(b"\x93\x02\xa3bye\x90").unwrap();
    });
    let mut client = patient(&address);
    client.notify("hello", &()).unwrap();
    client.finish().unwrap();
    server.join().unwrap();
}

#[test]
fn finishing_has_one_limit_however_much_comes() {
    // The server says something again and again, each time well within the limit, and never ends its side.
    let (server, address) = once(|mut stream| {
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        while stream.write_all(b"\x93\x02\xa4tick\x90").is_ok() {
            thread::sleep(SHORT / 10);
        }
    });
    let options = Options {
        call_timeout: Some(SHORT),
        ..Options::default()
    };
    let client = Client::connect(&address, options).unwrap();
    let error = client.finish().unwrap_err();
    assert!(
        matches!(
            error,
            CallError::Timeout {
                what: "end of the connection",
                ..
            }
        ),
        "{error}"
    );
    // The client is gone, and so the server is done.
    server.join().unwrap();
}

#[test]
fn what_came_before_the_end_can_be_taken() {
    let server = Server::start(Behaviour {
        gather: 3,
        ..Behaviour::faulty([(2, Fault::Close)])
    });
    let mut client = connect(&server);
    for number in 0..3 {
        client.send("echo", &(number,)).unwrap();
    }
    assert_eq!(client.receive().unwrap().result, Ok(vec![0]));
    assert_eq!(client.receive().unwrap().result, Ok(vec![1]));
    assert!(matches!(client.receive(), Err(CallError::Closed { .. })));
}

#[test]
fn what_came_before_a_write_failed_can_be_taken() {
    const REPLIES: u8 = 40;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("server.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let request = b"\x94\x00\x00\xa4echo\x90";
        stream
            .read_exact(&mut vec![0; request.len() * usize::from(REPLIES)])
            .unwrap();
        for id in 0..REPLIES {
            stream.write_all(&[0x94, 1, id, 0xc0, id]).unwrap();
        }
        // Some of one more.
        stream.write_all(&[0x94, 1]).unwrap();
    });
    let mut client = patient(&Address::Unix(path));
    for id in 0..REPLIES {
        assert_eq!(client.send("echo", &()).unwrap(), u32::from(id));
    }
    server.join().unwrap();
    let error = client.send("echo", &()).unwrap_err();
    assert!(matches!(error, CallError::Cut { .. }), "{error}");
    assert!(error.to_string().contains("Broken pipe"), "{error}");
    for id in 0..REPLIES {
        let reply = client.receive().unwrap();
        assert_eq!((reply.id, reply.result), (id.into(), Ok(vec![id])));
    }
    assert!(matches!(
        client.receive(),
        Err(CallError::NothingOutstanding)
    ));
    assert!(matches!(client.next_message(), Err(CallError::Cut { .. })));
}

#[test]
fn a_message_that_was_cut_by_a_timeout_is_sent_before_the_end_of_sending() {
    // More than the buffers between the two take, so that the rest of it waits when the time is over.
    const BYTES: usize = 16 << 20;
    let (begin, begun) = mpsc::channel();
    let (server, address) = once(move |mut stream| {
        begun.recv().unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        assert_eq!(received.len(), 6 + 1 + 5 + BYTES);
    });
    let options = Options {
        call_timeout: Some(SHORT),
        ..Options::default()
    };
    let mut client = Client::connect(&address, options).unwrap();
    let text = "x".repeat(BYTES);
    let error = client.notify("log", &(&text,)).unwrap_err();
    assert!(matches!(error, CallError::Timeout { .. }), "{error}");
    begin.send(()).unwrap();
    while let Err(error) = client.finish_sending() {
        assert!(matches!(error, CallError::Timeout { .. }), "{error}");
    }
    server.join().unwrap();
}

#[test]
fn replies_come_after_the_end_of_sending() {
    let server = Server::start(Behaviour::default());
    let mut client = connect(&server);
    let id = client.send("echo", &("last",)).unwrap();
    client.finish_sending().unwrap();
    assert_eq!(
        client.receive_reply(id).unwrap().result,
        Ok(b"\xa4last".to_vec())
    );
    assert!(matches!(
        client.next_message(),
        Err(CallError::Closed { .. })
    ));
}

#[test]
fn violations_say_what_was_received() {
    let cases: [(Fault, &str); 5] = [
        (Fault::Repeat, "which is not waiting for one"),
        (Fault::Unasked, "a reply to the request 1073741824"),
        (Fault::Bytes(b"\xc1".to_vec()), "0xc1"),
        (Fault::Bytes(b"\x2a".to_vec()), "not an array"),
        (
            Fault::Bytes(b"\x94\x05\x01\xc0\xc0".to_vec()),
            "unknown type 5",
        ),
    ];
    for (fault, part) in cases {
        let server = serve([(0, fault)]);
        let mut client = connect(&server);
        client.send("echo", &(1,)).unwrap();
        let error = std::iter::repeat_with(|| client.next_message())
            .find_map(Result::err)
            .unwrap();
        assert!(
            matches!(error, CallError::Violation { .. }) && error.is_fatal(),
            "{error}"
        );
        assert!(error.to_string().contains(part), "{error}");
        let after = client.call::<_, u8>("echo", &(1,)).unwrap_err();
        assert!(
            matches!(after, CallError::Cut { .. }) && after.to_string().contains(part),
            "{after}"
        );
    }
}

#[test]
fn what_exceeds_a_limit_is_not_called_a_violation() {
    let limits = Limits {
        frame_bytes: 1000,
        ..Limits::default()
    };
    let options = Options {
        limits,
        queue_bytes: 30_000,
        ..Options::default()
    };
    let server = Server::start(Behaviour::default());
    let mut client = Client::connect(&server.address, options.clone()).unwrap();
    let fits = "x".repeat(980);
    assert_eq!(client.call::<_, String>("echo", &(&fits,)).unwrap(), fits);
    let error = client
        .call::<_, String>("echo", &("x".repeat(1000),))
        .unwrap_err();
    exceeds(&error, Exceeded::FrameBytes(1000), "limit of 1000 bytes");
    let after = client.call::<_, u8>("echo", &(1,)).unwrap_err();
    assert!(after.to_string().contains("limit of 1000 bytes"), "{after}");

    let nested = serve([(0, Fault::Bytes([0x91; 200].to_vec()))]);
    let mut client = Client::connect(&nested.address, options.clone()).unwrap();
    let error = client.call::<_, u8>("echo", &(1,)).unwrap_err();
    exceeds(&error, Exceeded::Depth(128), "limit of 128 levels");

    let mut client = Client::connect(&server.address, options).unwrap();
    client.call::<_, ()>("count", &vec![0; 200]).unwrap();
    let error = client.call::<_, ()>("count", &vec![0; 200]).unwrap_err();
    exceeds(&error, Exceeded::QueueBytes(30_000), "limit of 30000 bytes");
    // What was queued before is not lost.
    assert!(client.take_notification().is_some());
}

fn exceeds(error: &CallError, limit: Exceeded, part: &str) {
    assert!(
        matches!(error, CallError::Limit { exceeded, .. } if *exceeded == limit),
        "{error}"
    );
    assert!(error.is_fatal());
    assert!(error.to_string().contains(part), "{error}");
    assert!(!error.to_string().contains("protocol"), "{error}");
}

#[test]
fn nobody_listening_is_an_error_with_the_address() {
    let directory = tempfile::tempdir().unwrap();
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let addresses = [
        Address::Unix(directory.path().join("none.sock")),
        Address::Abstract(b"nobody".to_vec()),
        free.into(),
    ];
    for address in addresses {
        let error = Client::connect(&address, Options::default()).unwrap_err();
        assert!(matches!(error, CallError::Connect { .. }) && error.is_fatal());
        assert!(
            error
                .to_string()
                .starts_with(&format!("cannot connect to {address}: ")),
            "{error}"
        );
    }
}

#[test]
fn connecting_does_not_wait_for_ever() {
    // A unix socket whose backlog is full lets a connect wait.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("full.sock");
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket
        .bind(&socket2::SockAddr::unix(&path).unwrap())
        .unwrap();
    socket.listen(0).unwrap();
    let options = Options {
        connect_timeout: Some(SHORT),
        ..Options::default()
    };
    let mut held = Vec::new();
    let error = loop {
        match Client::connect(&Address::Unix(path.clone()), options.clone()) {
            Ok(client) => held.push(client),
            Err(error) => break error,
        }
        assert!(held.len() < 100);
    };
    let CallError::Connect { source, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(source.kind(), std::io::ErrorKind::TimedOut);
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
