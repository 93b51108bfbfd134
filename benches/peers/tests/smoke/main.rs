//! Every peer does what the bench relies on.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "in a test a panic is the report"
)]

mod conversation;
mod peer;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use conversation::{bin, echo, echo_reply, event, notification, request};
use peer::{Kind, Peer, READ_TIME_MAX, Ring, Stream};

/// Tests of the service, for one peer.
macro_rules! service {
    ($name:ident, $program:literal, $ring:expr) => {
        mod $name {
            use super::*;

            fn each(test: fn(&Peer, Kind)) {
                each_of(1, test);
            }

            fn each_of(threads: usize, test: fn(&Peer, Kind)) {
                let program = env!(concat!("CARGO_BIN_EXE_", $program));
                let Some(peer) = Peer::start(program, $ring, threads) else {
                    return;
                };
                for kind in [Kind::Tcp, Kind::Unix] {
                    test(&peer, kind);
                }
            }

            #[test]
            fn several_threads_do_the_same() {
                each_of(2, |peer, kind| {
                    super::pipelined_echoes_may_be_cut_anywhere(peer, kind);
                    super::large_values_come_back_whole(peer, kind);
                    super::notifications_are_not_answered(peer, kind);
                    super::many_connections_are_served_at_once(peer, kind);
                    super::the_end_and_garbage_close_the_connection(peer, kind);
                    super::short_connections_leave_nothing_behind(peer, kind);
                });
            }

            #[test]
            fn pipelined_echoes_may_be_cut_anywhere() {
                each(super::pipelined_echoes_may_be_cut_anywhere);
            }

            #[test]
            fn large_values_come_back_whole() {
                each(super::large_values_come_back_whole);
            }

            #[test]
            fn as_much_as_is_asked_for_is_fetched() {
                each(super::as_much_as_is_asked_for_is_fetched);
            }

            #[test]
            fn notifications_are_not_answered() {
                each(super::notifications_are_not_answered);
            }

            #[test]
            fn every_subscriber_gets_every_event() {
                each(super::every_subscriber_gets_every_event);
            }

            #[test]
            fn many_connections_are_served_at_once() {
                each(super::many_connections_are_served_at_once);
            }

            #[test]
            fn the_end_and_garbage_close_the_connection() {
                each(super::the_end_and_garbage_close_the_connection);
            }

            #[test]
            fn short_connections_leave_nothing_behind() {
                each(super::short_connections_leave_nothing_behind);
            }
        }
    };
}

service!(tokio, "peer-tokio", Ring::No);
service!(tokio_uring, "peer-tokio-uring", Ring::Cooperating);
service!(monoio, "peer-monoio", Ring::Deferring);
service!(compio, "peer-compio", Ring::Deferring);

/// The one that only knows bytes.
mod bare {
    use super::*;

    fn each(test: fn(&Peer, Kind)) {
        let Some(peer) = Peer::start(env!("CARGO_BIN_EXE_peer-bare"), Ring::Deferring, 1) else {
            return;
        };
        for kind in [Kind::Tcp, Kind::Unix] {
            test(&peer, kind);
        }
    }

    #[test]
    fn bytes_come_back_in_order() {
        each(|peer, kind| {
            for length in [1, 1000, 100_000, 1 << 20, 20 << 20] {
                let mut stream = peer.connect(kind);
                let bytes = bin(length, 3);
                let mut writer = stream.try_clone();
                let sent = bytes.clone();
                let sending = std::thread::spawn(move || {
                    for piece in sent.chunks(70_001) {
                        writer.write_all(piece).unwrap();
                    }
                    writer.shutdown(Shutdown::Write);
                });
                // A reader that is slow at first: sends are short, and what is held has a limit.
                std::thread::sleep(Duration::from_millis(50));
                expect(&mut stream, &bytes);
                sending.join().unwrap();
                assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
            }
        });
    }

    #[test]
    fn a_client_that_does_not_read_harms_no_other() {
        each(|peer, kind| {
            let mut deaf = peer.connect(kind);
            let mut writer = deaf.try_clone();
            let sending = std::thread::spawn(move || {
                // Ends with an error when the test is over.
                let _ = writer.write_all(&vec![7; 256 << 20]);
            });
            for round in 0..100 {
                let mut stream = peer.connect(kind);
                let bytes = bin(50_000, round);
                stream.write_all(&bytes).unwrap();
                expect(&mut stream, &bytes);
            }
            expect(&mut deaf, &[7; 1000]);
            deaf.shutdown(Shutdown::Both);
            sending.join().unwrap();
        });
    }

    #[test]
    fn many_connections_are_served_at_once() {
        each(many_connections_are_echoed_at_once);
    }

    #[test]
    fn short_connections_leave_nothing_behind() {
        each(|peer, kind| short_connections(peer, kind, echo));
    }
}

fn many_connections_are_echoed_at_once(peer: &Peer, kind: Kind) {
    let mut streams: Vec<Stream> = (0..200).map(|_| peer.connect(kind)).collect();
    for round in 0..3 {
        for (seed, stream) in streams.iter_mut().enumerate() {
            stream.write_all(&bin(100 + round, seed as u8)).unwrap();
        }
        for (seed, stream) in streams.iter_mut().enumerate() {
            expect(stream, &bin(100 + round, seed as u8));
        }
    }
}

fn pipelined_echoes_may_be_cut_anywhere(peer: &Peer, kind: Kind) {
    let mut requests = Vec::new();
    let mut replies = Vec::new();
    for id in 0..256 {
        let value = bin(id as usize * 37 % 1500, id as u8);
        requests.extend(echo(id * 1000, &value));
        replies.extend(echo_reply(id * 1000, &value));
    }
    for steps in [&[1][..], &[2, 3, 5, 7, 11], &[1000, 1, 4096], &[65_536]] {
        let mut stream = peer.connect(kind);
        let mut writer = stream.try_clone();
        let requests = requests.clone();
        let sending = std::thread::spawn(move || {
            let mut rest = &requests[..];
            for step in steps.iter().cycle() {
                let (piece, behind) = rest.split_at((*step).min(rest.len()));
                writer.write_all(piece).unwrap();
                rest = behind;
                if rest.is_empty() {
                    return;
                }
            }
        });
        expect(&mut stream, &replies);
        sending.join().unwrap();
    }
}

fn large_values_come_back_whole(peer: &Peer, kind: Kind) {
    for length in [16 << 10, 40_000, 1 << 20] {
        let mut stream = peer.connect(kind);
        let mut requests = Vec::new();
        let mut replies = Vec::new();
        for id in 0..3 {
            let value = bin(length + id as usize, id as u8);
            requests.extend(echo(id, &value));
            replies.extend(echo_reply(id, &value));
            // One that is small, right behind it.
            requests.extend(echo(id, b"\xa1x"));
            replies.extend(echo_reply(id, b"\xa1x"));
        }
        let mut writer = stream.try_clone();
        let sending = std::thread::spawn(move || writer.write_all(&requests).unwrap());
        expect(&mut stream, &replies);
        sending.join().unwrap();
    }
}

fn as_much_as_is_asked_for_is_fetched(peer: &Peer, kind: Kind) {
    let mut stream = peer.connect(kind);
    let mut requests = Vec::new();
    let mut replies = Vec::new();
    for (id, length) in [0, 1, 300, 70_000, 1 << 20, 16 << 10]
        .into_iter()
        .enumerate()
    {
        let mut params = vec![0x91];
        rmp::encode::write_uint(&mut params, length as u64).unwrap();
        requests.extend(request(id as u32, "fetch", &params));
        let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        let mut value = Vec::new();
        rmp::encode::write_bin(&mut value, &bytes).unwrap();
        replies.extend(echo_reply(id as u32, &value));
    }
    stream.write_all(&requests).unwrap();
    expect(&mut stream, &replies);
}

fn notifications_are_not_answered(peer: &Peer, kind: Kind) {
    let mut stream = peer.connect(kind);
    let mut messages = notification("ping", b"\x91\x01");
    messages.extend(request(7, "ping", b"\x91\x01"));
    messages.extend(notification("unknown", b"\x90"));
    messages.extend(request(8, "ping", b"\x90"));
    stream.write_all(&messages).unwrap();
    expect(
        &mut stream,
        b"\x94\x01\x07\xc0\xa4pong\x94\x01\x08\xc0\xa4pong",
    );
}

fn every_subscriber_gets_every_event(peer: &Peer, kind: Kind) {
    let mut subscribers: Vec<Stream> = (0..3).map(|_| subscribe(peer, kind)).collect();
    let mut publisher = peer.connect(kind);
    for length in [1, 300, 100_000, 1 << 20] {
        let values = [bin(length, 1), bin(length, 2)];
        let mut published = Vec::new();
        let mut events = Vec::new();
        for value in &values {
            published.extend(notification("publish", &[b"\x91", &value[..]].concat()));
            events.extend(event(value));
        }
        publisher.write_all(&published).unwrap();
        for subscriber in &mut subscribers {
            expect(subscriber, &events);
        }
    }
    // One ends, the others stay, and requests of theirs are answered between events.
    let mut ended = subscribers.remove(1);
    ended.write_all(&request(9, "ping", b"\x90")).unwrap();
    ended.shutdown(Shutdown::Write);
    expect(&mut ended, b"\x94\x01\x09\xc0\xa4pong");
    assert_eq!(ended.read(&mut [0; 8]).unwrap(), 0);
    for subscriber in &mut subscribers {
        subscriber.write_all(&echo(5, b"\xa1x")).unwrap();
        expect(subscriber, &echo_reply(5, b"\xa1x"));
    }
    publisher
        .write_all(&notification("publish", b"\x91\x2a"))
        .unwrap();
    for subscriber in &mut subscribers {
        expect(subscriber, &event(b"\x2a"));
    }
}

/// A connection that is known to have subscribed.
fn subscribe(peer: &Peer, kind: Kind) -> Stream {
    let mut stream = peer.connect(kind);
    let mut messages = notification("subscribe", b"\x90");
    messages.extend(request(1, "ping", b"\x90"));
    stream.write_all(&messages).unwrap();
    expect(&mut stream, b"\x94\x01\x01\xc0\xa4pong");
    stream
}

fn many_connections_are_served_at_once(peer: &Peer, kind: Kind) {
    let mut streams: Vec<Stream> = (0..200).map(|_| peer.connect(kind)).collect();
    for round in 0..3 {
        for (id, stream) in streams.iter_mut().enumerate() {
            let value = bin(100 + round, id as u8);
            stream.write_all(&echo(id as u32, &value)).unwrap();
        }
        for (id, stream) in streams.iter_mut().enumerate() {
            let value = bin(100 + round, id as u8);
            expect(stream, &echo_reply(id as u32, &value));
        }
    }
}

fn the_end_and_garbage_close_the_connection(peer: &Peer, kind: Kind) {
    // The end comes behind the reply, or with the request.
    for early in [false, true] {
        let mut ended = peer.connect(kind);
        ended.write_all(&echo(1, b"\x01")).unwrap();
        if early {
            ended.shutdown(Shutdown::Write);
        }
        expect(&mut ended, &echo_reply(1, b"\x01"));
        if !early {
            ended.shutdown(Shutdown::Write);
        }
        // This goes on after a signal.
        assert_eq!(ended.read_to_end(&mut Vec::new()).unwrap(), 0);
    }

    for garbage in [&b"\xc1"[..], b"\x05", b"\x91\x00", b"\xdd\xff\xff\xff\xff"] {
        let mut stream = peer.connect(kind);
        stream.write_all(garbage).unwrap();
        // An end, or a reset if the peer left something unread.
        assert!(matches!(
            stream.read_to_end(&mut Vec::new()),
            Ok(0) | Err(_)
        ));
    }
}

fn short_connections_leave_nothing_behind(peer: &Peer, kind: Kind) {
    short_connections(peer, kind, echo_reply);
}

/// Connections that ask once, get what `reply` makes, and end, one after the other and many at once: none of them is open in the
/// end. The first of them are not counted, since a runtime may keep something for them all, or have others that are about to be closed.
fn short_connections(peer: &Peer, kind: Kind, reply: fn(u32, &[u8]) -> Vec<u8>) {
    let mut open_before = None;
    for (id, at_once) in (0..).zip([1, 1, 99, 1, 99]) {
        let value = bin(if id % 2 == 0 { 16 } else { 200 }, id as u8);
        let mut streams: Vec<Stream> = (0..at_once).map(|_| peer.connect(kind)).collect();
        for stream in &mut streams {
            stream.write_all(&echo(id, &value)).unwrap();
        }
        for stream in &mut streams {
            expect(stream, &reply(id, &value));
            stream.shutdown(Shutdown::Write);
            assert_eq!(stream.read_to_end(&mut Vec::new()).unwrap(), 0);
        }
        // The end may come before the descriptor is closed.
        let most = *open_before.get_or_insert_with(|| peer.descriptors());
        let deadline = Instant::now() + READ_TIME_MAX;
        while peer.descriptors() > most {
            assert!(
                Instant::now() < deadline,
                "round {id}: more than {most} open"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Reads just so many bytes, which must be these.
fn expect(stream: &mut Stream, bytes: &[u8]) {
    let mut received = vec![0; bytes.len()];
    stream.read_exact(&mut received).unwrap();
    let wrong = received
        .iter()
        .zip(bytes)
        .position(|(received, sent)| received != sent);
    assert_eq!(wrong, None, "the first byte that is wrong");
}
