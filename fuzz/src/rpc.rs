//! MessagePack-RPC over a connection without a socket, against what another decoder reads in the same frames.
//!
//! Input: a byte with the number of pieces (its low four bits), with 0x10 for clients of old, 0x20 for a stop before
//! deferred calls are answered, 0x40 for answering some between pieces, and 0x80 for a client that ends its side at the end
//! of the stream; the lengths of the pieces, a byte each; and the stream.

mod oracle;
mod router;

use std::time::Duration;

use ringhold_core::limits::Limits;
use ringhold_core::testing::Exchange;
use ringhold_rpc::{Responder, Rpc, Strings};

use self::oracle::{check_replies, expect};
use self::router::{Waiting, router};
use super::Input;

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let Some(flags) = input.byte() else {
        return;
    };
    let pieces = input.bytes(usize::from(flags & 15));
    exchange(flags, pieces, input.0);
}

fn exchange(flags: u8, pieces: &[u8], stream: &[u8]) {
    let old = flags & 0x10 != 0;
    let strings = if old {
        Strings::OldRaw
    } else {
        Strings::Current
    };
    let waiting = Waiting::default();
    let calls = router(&waiting);
    let make = |worker: &_| Rpc::new(worker, calls).strings(strings);
    let mut exchange = Exchange::with_worker(make, Limits::default());
    let good = exchange.connect();
    let client = exchange.connect();

    let mut rest = stream;
    for length in pieces {
        let (piece, after) = rest.split_at(usize::from(*length).min(rest.len()));
        rest = after;
        exchange.receive(client, piece);
        if flags & 0x40 != 0
            && let Some(responder) = waiting.take_one()
        {
            answer(*length, responder);
            exchange.deliver();
        }
    }
    exchange.receive(client, rest);

    let expected = expect(stream);
    // Notifications have responders, too, whose answers nobody waits for.
    let may_be_owed = expected.has_deferred() && !expected.is_asked && !waiting.is_empty();
    if !may_be_owed {
        assert_eq!(exchange.is_open(client), !expected.ends);
    }
    assert!(exchange.receive(good, b"\x94\x00\x01\xa4ping\x90"));
    assert_eq!(exchange.take_sent(good), b"\x94\x01\x01\xc0\xa4pong");
    if flags & 0x80 != 0 {
        exchange.end(client);
    }
    if flags & 0x20 != 0 {
        exchange.stop_within(Duration::from_millis(u64::from(flags & 15)));
        exchange.advance(Duration::from_millis(20));
    }
    for (kind, responder) in (0..).zip(waiting.take_all()) {
        answer(kind, responder);
    }
    exchange.deliver();
    exchange.end(client);
    exchange.end(good);

    assert!(exchange.is_shut(client), "the client has seen everything");
    assert_eq!(exchange.counters().open, 0);
    assert_eq!(exchange.memory_held(), 0);
    check_replies(&exchange.take_sent(client), &expected, old);
}

fn answer(kind: u8, responder: Responder) {
    match kind % 5 {
        0 => responder.ok(&(1, "late")),
        1 => responder.fault("x".parse::<f32>().unwrap_err()),
        2 => responder.encoded(b"\x92\xc4\x01x\xd9\x01y"),
        3 => responder.encoded(b"\xd4\x01x"),
        _ => drop(responder),
    }
}
