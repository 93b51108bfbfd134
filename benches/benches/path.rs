//! What a small message costs between the receive buffer and the outbox: framing, the RPC envelope, the method, the answer if it
//! is a request, and the bookkeeping of a connection. No sockets, no kernel.
//!
//! `cargo bench -p ringhold-benches --bench path`. The loads are those of the cells `echo` with 16 bytes and `ingest` with 200 bytes
//! of the bench `throughput`, in buffers of one and of 64 messages. The in-memory client costs something, too, mostly per buffer.
#![forbid(unsafe_code)]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringhold_core::limits::Limits;
use ringhold_core::testing::Exchange;
use ringhold_rpc::{Router, Rpc};

/// `[0, id, "echo", [bin of 16 bytes]]`
fn echo() -> Vec<u8> {
    let head = b"\x94\x00\xce\x00\x01\x02\x03\xa4echo\x91\xc4\x10";
    [&head[..], &[7; 16]].concat()
}

/// `[2, "ping", [bin of 200 bytes]]`
fn ping() -> Vec<u8> {
    [&b"\x93\x02\xa4ping\x91\xc4\xc8"[..], &[7; 200]].concat()
}

fn path(criterion: &mut Criterion) {
    let by_turns = [echo(), ping()].concat();
    for (name, message) in [
        ("echo-16B", echo()),
        ("ping-200B", ping()),
        ("by-turns", by_turns),
    ] {
        let mut group = criterion.benchmark_group(format!("path/{name}"));
        for count in [1, 64] {
            let make = |worker: &_| Rpc::new(worker, Router::new());
            let mut exchange = Exchange::with_worker(make, Limits::default());
            let client = exchange.connect();
            let buffer = message.repeat(count);
            group.throughput(Throughput::Elements(count as u64));
            group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
                bencher.iter(|| {
                    assert!(exchange.receive(client, &buffer));
                    black_box(exchange.take_sent(client))
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, path);
criterion_main!(benches);
