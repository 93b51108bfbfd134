//! What connections really hold, beside what the meter says.

use std::time::Duration;

use bytes::Bytes;
use ringhold_core::Flow;
use ringhold_core::limits::Limits;
use ringhold_core::testing::{Client, Exchange};

use crate::counting::balance_of_this_thread;
use crate::service::answering;

const REPLY_BYTES: usize = 512;
const CLIENTS: usize = 200;

/// What may be held beyond what the meter says: a connection itself, and the shelves for what is used again, which are
/// given up to half a mebibyte each when nobody needs them.
const PER_CONNECTION_MAX: usize = 10_000;
const SHELVES_MAX: usize = 4 * 512 * 1024;

/// Clients send requests ahead, in one piece each, until they are not read any more; when they have read all replies, the
/// beginning of one more request is left.
fn held_beyond_the_meter(requests: usize, request: usize) -> usize {
    let limits = Limits {
        outbox_bytes: 64 * 1024,
        ..Limits::default()
    };
    let talkative = answering(|_, reply| {
        reply.write(|out| out.resize(out.len() + REPLY_BYTES, 0xc0));
        Flow::Continue
    });
    let mut exchange = Exchange::with_limits(talkative, limits);
    let before = balance_of_this_thread();
    let mut frame = vec![0xc4, (request - 2) as u8];
    frame.resize(request, 0);
    let mut piece = frame.repeat(requests);
    piece.push(0xc4);
    let clients: Vec<Client> = (0..CLIENTS)
        .map(|_| {
            let client = exchange.connect();
            exchange.set_window(client, Some(0));
            exchange.receive(client, &piece);
            client
        })
        .collect();
    let waiting = exchange.memory_held() as usize;
    assert!(waiting > CLIENTS * piece.len() / 2, "{waiting} bytes wait");
    for client in &clients {
        exchange.set_window(*client, None);
        assert_eq!(exchange.take_sent(*client).len(), requests * REPLY_BYTES);
    }
    for _ in 0..30 {
        exchange.advance(Duration::from_secs(1));
    }
    let held = (balance_of_this_thread() - before) as usize - exchange.memory_held() as usize;
    // What is left is not forgotten.
    for client in &clients {
        exchange.receive(*client, &[0, 0xc4, 0]);
        assert_eq!(exchange.take_sent(*client).len(), 2 * REPLY_BYTES);
    }
    held
}

#[test]
fn requests_that_have_been_answered_are_not_held() {
    // Up to the size of a receive buffer, and more.
    for (requests, request) in [(600, 100), (3000, 20), (1500, 200)] {
        let held = held_beyond_the_meter(requests, request);
        eprintln!("{requests} requests of {request} bytes: {held} bytes beyond the meter");
        assert!(
            held < CLIENTS * PER_CONNECTION_MAX + SHELVES_MAX,
            "{held} bytes of {CLIENTS} connections, {requests} requests of {request} bytes"
        );
    }
}

/// The buffers that the large replies have grown are used again.
#[test]
fn small_replies_between_shared_bytes_do_not_keep_large_buffers() {
    const REPLIES: usize = 500;
    let shared = Bytes::from(vec![0xc0; 600]);
    let mut exchange = Exchange::new(answering(move |frame, reply| {
        if *frame == [1] {
            for _ in 0..60 {
                reply.write(|out| out.extend_from_slice(&[0xc0; 1000]));
            }
        } else {
            reply.write(|out| out.extend_from_slice(&[0xc4; 2]));
            reply.share(shared.clone());
        }
        Flow::Continue
    }));
    let before = balance_of_this_thread();
    let [quick, slow] = [exchange.connect(), exchange.connect()];
    exchange.set_window(slow, Some(0));
    for _ in 0..REPLIES {
        exchange.receive(quick, &[1]);
        assert_eq!(exchange.take_sent(quick).len(), 60_000);
        exchange.receive(slow, &[2; 3]);
    }
    let metered = exchange.memory_held() as usize;
    let held = (balance_of_this_thread() - before) as usize;
    assert!(
        held < 2 * metered + SHELVES_MAX,
        "{held} bytes are held, {metered} metered"
    );
    exchange.set_window(slow, None);
    let reply = [&[0xc4; 2][..], &[0xc0; 600]].concat();
    assert!(exchange.take_sent(slow) == reply.repeat(3 * REPLIES));
    assert_eq!(exchange.memory_held(), 0);
}
