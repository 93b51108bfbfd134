//! What came before a connection was over is given first, however it came and however the connection ended.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::sync::mpsc;
use std::thread;

use ringhold_client::{Address, CallError, Client, Message, Options};

use crate::reference::{Behaviour, Fault, Server, once};
use crate::{PATIENCE, connect, patient, reset_at_close};

/// The request that a new client makes by `call("x", &())`, and a reply to it.
const REQUEST: &[u8] = b"\x94\x00\x00\xa1x\x90";
const REPLY: &[u8] = b"\x94\x01\x00\xc0\x2a";

/// Three notifications.
const TICKS: &[u8] = b"\x93\x02\xa1t\x91\x00\x93\x02\xa1t\x91\x01\x93\x02\xa1t\x91\x02";

/// What a client does not take, and a part of what it says then. The first is a frame that is too large, the last a reply
/// to a request that was not made.
const REFUSED: [(&[u8], &str); 4] = [
    (
        b"\x93\x02\xa1n\x91\xc6\x7f\xff\xff\xff",
        "limit of 16777216 bytes",
    ),
    (b"\xc1", "0xc1"),
    (b"\x2a", "not an array"),
    (b"\x94\x01\x07\xc0\xc0", "the request 7"),
];

fn is_told_in_full(error: &CallError, part: &str) -> bool {
    matches!(error, CallError::Limit { .. } | CallError::Violation { .. })
        && error.is_fatal()
        && error.to_string().contains(part)
}

/// Every operation answers with the reason.
fn assert_cut(client: &mut Client, part: &str) {
    for error in [
        client.call::<_, u8>("x", &()).unwrap_err(),
        client.send("x", &()).unwrap_err(),
        client.receive().unwrap_err(),
        client.receive_reply(0).unwrap_err(),
        client.next_message().unwrap_err(),
        client.notify("x", &()).unwrap_err(),
        client.respond(1, Ok(b"\xc0")).unwrap_err(),
        client.finish_sending().unwrap_err(),
    ] {
        assert!(matches!(error, CallError::Cut { .. }), "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
}

fn assert_ticks(client: &mut Client) {
    for number in 0..3 {
        let Message::Notification(tick) = client.next_message().unwrap() else {
            panic!("not a notification");
        };
        assert_eq!(tick.decode::<(u8,)>().unwrap(), (number,));
    }
}

#[test]
fn what_came_before_a_refusal_can_be_taken() {
    for (refused, part) in REFUSED {
        for together in [true, false] {
            let (taken, all_taken) = mpsc::channel();
            let (server, address) = once(move |mut stream| {
                stream.read_exact(&mut [0; REQUEST.len()]).unwrap();
                let before = [REPLY, TICKS].concat();
                if together {
                    stream.write_all(&[&before, refused].concat()).unwrap();
                } else {
                    stream.write_all(&before).unwrap();
                    all_taken.recv().unwrap();
                    stream.write_all(refused).unwrap();
                }
                let _ = stream.read_to_end(&mut Vec::new());
            });
            let mut client = patient(&address);
            assert_eq!(client.call::<_, u8>("x", &()).unwrap(), 42);
            assert_ticks(&mut client);
            if !together {
                taken.send(()).unwrap();
            }
            let error = client.next_message().unwrap_err();
            assert!(is_told_in_full(&error, part), "{error}");
            assert_cut(&mut client, part);
            server.join().unwrap();
        }
    }
}

#[test]
fn replies_that_came_before_a_refusal_can_be_received() {
    for (refused, part) in REFUSED {
        let (server, address) = once(move |mut stream| {
            stream.read_exact(&mut [0; 2 * REQUEST.len()]).unwrap();
            let replies = b"\x94\x01\x01\xc0\x2b\x94\x01\x00\xc0\x2a";
            stream.write_all(&[replies, refused].concat()).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let mut client = patient(&address);
        let first = client.send("x", &()).unwrap();
        client.send("x", &()).unwrap();
        assert_eq!(client.receive_reply(first).unwrap().result, Ok(vec![42]));
        assert_eq!(client.receive().unwrap().result, Ok(vec![43]));
        // This does not wait for anything, so it does not see what came next.
        let error = client.receive().unwrap_err();
        assert!(matches!(error, CallError::NothingOutstanding), "{error}");
        let error = client.next_message().unwrap_err();
        assert!(is_told_in_full(&error, part), "{error}");
        assert_cut(&mut client, part);
        server.join().unwrap();
    }
}

#[test]
fn what_came_before_a_refusal_can_be_taken_after_it() {
    for (refused, part) in REFUSED {
        let (server, address) = once(move |mut stream| {
            stream.read_exact(&mut [0; REQUEST.len()]).unwrap();
            stream.write_all(&[REPLY, TICKS, refused].concat()).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let mut client = patient(&address);
        assert_eq!(client.call::<_, u8>("x", &()).unwrap(), 42);
        let error = client.call::<_, u8>("x", &()).unwrap_err();
        assert!(is_told_in_full(&error, part), "{error}");
        assert_ticks(&mut client);
        assert_cut(&mut client, part);
        server.join().unwrap();
    }
}

#[test]
fn a_reply_that_is_refused_is_not_taken_for_received() {
    // One message is queued, and that is too much for the reply.
    let server = Server::start(Behaviour {
        chatty: true,
        ..Behaviour::default()
    });
    let options = Options {
        call_timeout: Some(PATIENCE),
        queue_bytes: 0,
        ..Options::default()
    };
    let mut client = Client::connect(&server.address, options).unwrap();
    let error = client.call::<_, u8>("echo", &(1,)).unwrap_err();
    assert!(is_told_in_full(&error, "limit of 0 bytes"), "{error}");
    assert!(client.take_notification().is_some());
    assert_cut(&mut client, "limit of 0 bytes");
}

#[test]
fn what_came_before_a_reset_can_be_taken() {
    let (server, address) = once(|mut stream| {
        stream.read_exact(&mut [0; REQUEST.len()]).unwrap();
        stream.write_all(&[REPLY, TICKS].concat()).unwrap();
        reset_at_close(&stream);
    });
    let mut client = patient(&address);
    let id = client.send("x", &()).unwrap();
    server.join().unwrap();
    assert_eq!(client.receive_reply(id).unwrap().result, Ok(vec![42]));
    assert_ticks(&mut client);
    let error = client.next_message().unwrap_err();
    assert!(matches!(error, CallError::Cut { .. }), "{error}");
    assert_cut(&mut client, "the server cut it");
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
    for error in [
        client.receive().unwrap_err(),
        client.next_message().unwrap_err(),
    ] {
        assert!(matches!(error, CallError::Cut { .. }), "{error}");
    }
}
