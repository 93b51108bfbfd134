//! Sockets that fail though their peers are there.

use std::io;

use bytes::Bytes;

use super::{Client, Exchange};
use crate::answering::answering;
use crate::service::Flow;

/// Sends frames back, to a client that reads no more than a byte.
fn reads_a_byte() -> (Exchange, Client) {
    let mut exchange = Exchange::new(answering(|frame, reply| {
        reply.write(|out| out.extend_from_slice(&frame));
        Flow::Continue
    }));
    let client = exchange.connect();
    exchange.set_window(client, Some(1));
    (exchange, client)
}

fn fail_for_want_of_memory(exchange: &mut Exchange, client: Client) {
    let error = io::Error::from_raw_os_error(libc::ENOBUFS);
    exchange.shard.failed(client.0 as u32, error);
    exchange.settle();
}

/// It may be there, and must not take what it was sent for all that there was.
#[test]
fn who_loses_output_for_want_of_memory_is_reset() {
    for last in [&[][..], &[0xc1]] {
        let (mut exchange, client) = reads_a_byte();
        exchange.receive(client, &[&[1, 2, 3], last].concat());
        fail_for_want_of_memory(&mut exchange, client);
        assert_eq!(exchange.take_sent(client), [1]);
        assert!(exchange.is_cut(client) && !exchange.is_shut(client));
        assert_eq!(exchange.counters().failed, 1);
    }
}

/// Also what the service answers behind that.
#[test]
fn who_is_answered_when_its_socket_has_failed_is_reset() {
    let (mut exchange, client) = reads_a_byte();
    exchange.receive(client, &[1]);
    // The kernel has it, and it is the service's all the same.
    let wire = exchange.wire(client).unwrap();
    wire.incoming.push_back(Bytes::from_static(&[2]));
    fail_for_want_of_memory(&mut exchange, client);
    assert!(exchange.is_cut(client));
}

#[test]
fn who_loses_nothing_ends_in_order() {
    let (mut exchange, client) = reads_a_byte();
    exchange.receive(client, &[1]);
    fail_for_want_of_memory(&mut exchange, client);
    assert_eq!(exchange.take_sent(client), [1]);
    assert!(!exchange.is_open(client) && !exchange.is_cut(client));
}
