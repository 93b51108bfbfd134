//! What a small request costs between the receive buffer and the outbox: framing, the RPC envelope, the method, the answer,
//! and the bookkeeping of a connection. No sockets, no kernel.
//!
//! `cargo bench -p ringhold-benches --bench path`. The load is that of the cells with 16 bytes of the bench `throughput`, in
//! buffers of one and of 64 requests. The in-memory client costs something, too, mostly per buffer.
#![forbid(unsafe_code)]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringhold_core::limits::Limits;
use ringhold_core::testing::Exchange;
use ringhold_rpc::{Router, Rpc};

/// `[0, id, "echo", [bin of 16 bytes]]`
fn request() -> Vec<u8> {
    let head = b"\x94\x00\xce\x00\x01\x02\x03\xa4echo\x91\xc4\x10";
    [&head[..], &[7; 16]].concat()
}

fn echo(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("path/echo-16B");
    for count in [1, 64] {
        let make = |worker: &_| Rpc::new(worker, Router::new());
        let mut exchange = Exchange::with_worker(make, Limits::default());
        let client = exchange.connect();
        let buffer = request().repeat(count);
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

criterion_group!(benches, echo);
criterion_main!(benches);
