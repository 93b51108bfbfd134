//! How long and how much the client waits for and takes, and how connections end.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixListener;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use ringhold_client::{Address, CallError, Client, Exceeded, Limits, Message, Options};

use crate::reference::{Behaviour, Fault, Server, once};
use crate::{PATIENCE, SHORT, connect, connect_with, patient, reset_at_close, serve};

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
fn a_new_timeout_holds_for_the_next_calls() {
    let server = serve([(0, Fault::Drop), (2, Fault::Drop)]);
    let mut client = connect(&server);
    client.set_call_timeout(Some(SHORT));
    let error = client.call::<_, u8>("echo", &(1,)).unwrap_err();
    assert!(matches!(&error, CallError::Timeout { after, .. } if *after == SHORT));
    client.set_call_timeout(None);
    assert_eq!(client.call::<_, u8>("echo", &(2,)).unwrap(), 2);
    client.set_call_timeout(Some(Duration::ZERO));
    let error = client.call::<_, u8>("echo", &(3,)).unwrap_err();
    assert!(matches!(&error, CallError::Timeout { after, .. } if after.is_zero()));
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
fn what_would_be_sent_after_the_end_of_sending_is_refused_and_costs_nothing() {
    let (begin, begun) = mpsc::channel();
    let (server, address) = once(move |mut stream| {
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        assert_eq!(received, b"\x94\x00\x00\xa5first\x90");
        // The reply is due, and comes after everything that is refused.
        begun.recv().unwrap();
        stream.write_all(b"\x94\x01\x00\xc0\x2a").unwrap();
    });
    let mut client = patient(&address);
    let first = client.send("first", &()).unwrap();
    client.finish_sending().unwrap();
    for error in [
        client.call::<_, u8>("second", &()).unwrap_err(),
        client.send("second", &()).unwrap_err(),
        client.notify("second", &()).unwrap_err(),
        client.respond(1, Ok(b"\xc0")).unwrap_err(),
    ] {
        assert!(matches!(error, CallError::SendingEnded { .. }), "{error}");
        assert!(!error.is_fatal() && error.to_string().contains("this client"));
    }
    client.finish_sending().unwrap();
    assert_eq!(client.outstanding(), 1);
    begin.send(()).unwrap();
    assert_eq!(client.receive_reply(first).unwrap().result, Ok(vec![42]));
    client.finish().unwrap();
    server.join().unwrap();
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
    // Bound, so that nobody else is given it, and nobody listens.
    let bound = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    bound.bind(&any.into()).unwrap();
    let free = bound.local_addr().unwrap().as_socket().unwrap();
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
