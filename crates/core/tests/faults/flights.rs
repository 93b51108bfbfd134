//! Sends that are not waited for unless they fail, and all of them fail.

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;

use bytes::Bytes;
use ringhold_core::inherit::Inherited;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::bed::{Bed, Engine, assert_no_kernel_workers};
use crate::common::client;
use crate::common::random::Random;
use crate::frames::frame;
use crate::pushes::{Read, Readers};
use crate::services::Gate;

const CLIENTS: usize = 150;
const ROUNDS: u64 = 12;

/// A completion queue for 32 completions, and sockets that take less than a message: those of the name `read`.
fn start(engine: Engine) -> (Bed, Readers, Gate) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    // Accepted sockets inherit it.
    listener.set_send_buffer_size(4096).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    listener.bind(&SockAddr::from(any)).unwrap();
    listener.listen(1000).unwrap();
    let inherited = Inherited::from_descriptors(vec![("read".to_owned(), listener.into())]);
    let config = "
        workers = 1
        [ring]
        entries = 8
        buffers = 2
        buffer_bytes = 1024
        [sockets.read]
        [sockets.deaf]
        listen = [\"unix:@/deaf\"]
        [sockets.gate]
        listen = [\"127.0.0.1:0\"]
    ";
    let (readers, gate) = (Readers::default(), Gate::default());
    let (theirs, others, service) = (readers.clone(), readers.clone(), gate.clone());
    let bed = Bed::start_inheriting(engine, config, inherited, |server| {
        server
            .service("read", move |_| Read(theirs.clone()))
            .service("deaf", move |_| Read(others.clone()))
            .service("gate", move |_| service.clone())
    });
    (bed, readers, gate)
}

/// What is pushed in a round: one piece, which the sockets take in part.
fn message(round: u64) -> Bytes {
    let size = 30_000 + Random::new(round).below(30_000);
    Bytes::from(frame(size, round))
}

/// Everybody is sent something in the same turn, again and again; some have read all that there was before, some a part of it,
/// and some nothing.
pub(crate) fn more_sends_may_fail_than_completions_fit(engine: Engine) {
    let (bed, readers, gate) = start(engine);
    let connect = |_| (bed.connect("read"), 0);
    let mut clients: Vec<(TcpStream, usize)> = (0..CLIENTS).map(connect).collect();
    bed.until_open(CLIENTS as u64);
    let readers = std::mem::take(&mut *readers.lock().unwrap());
    let mut random = Random::new(1);
    let mut pushed = Vec::new();
    for round in 0..ROUNDS {
        let message = message(round);
        gate.hold(&bed, 1, || {
            for reader in &readers {
                reader.push_shared(&message).unwrap();
            }
        });
        pushed.extend_from_slice(&message);
        for (client, read) in &mut clients {
            let rest = &pushed[*read..];
            let count = match (round % 3, random.below(3)) {
                (0, _) | (_, 0) => rest.len(),
                (_, 1) => random.below(rest.len() + 1),
                _ => 0,
            };
            client::expect(client, &rest[..count]);
            *read += count;
        }
    }
    for (client, read) in &mut clients {
        client::expect(client, &pushed[*read..]);
    }
    assert_no_kernel_workers();
    // What a client has may not have been counted yet.
    let all = (CLIENTS * pushed.len()) as u64;
    bed.until("all is sent", |bed| bed.name("read").bytes_out >= all);
    let total = bed.name("read");
    assert_eq!(total.bytes_out, all);
    assert_eq!((total.cut, total.failed), (0, 0));
    if engine == Engine::Ring {
        let overflows = bed.counters().overflows;
        assert!(overflows >= ROUNDS / 3, "{overflows}");
    }
    drop((clients, readers));
    bed.finish();
}

/// Linux 6.1 tells of sends that found no room before it tells of those to peers that do not want any more, whatever came first.
pub(crate) fn sends_may_fail_in_another_order(engine: Engine) {
    const PAIRS: usize = 24;
    let (bed, readers, gate) = start(engine);
    let deaf: Vec<UnixStream> = (0..PAIRS).map(|_| bed.connect_unix("deaf")).collect();
    bed.until_open_on("deaf", PAIRS as u64);
    let mut slow: Vec<TcpStream> = (0..PAIRS).map(|_| bed.connect("read")).collect();
    bed.until_open_on("read", PAIRS as u64);
    for client in &deaf {
        client.shutdown(Shutdown::Read).unwrap();
    }
    let readers = std::mem::take(&mut *readers.lock().unwrap());
    let (to_deaf, to_slow) = readers.split_at(PAIRS);
    let message = message(0);
    gate.hold(&bed, 1, || {
        for (one, other) in to_deaf.iter().zip(to_slow) {
            one.push_shared(&message).unwrap();
            other.push_shared(&message).unwrap();
        }
    });
    bed.until("the deaf are gone", |bed| bed.name("deaf").open == 0);
    let gone = bed.name("deaf");
    assert_eq!((gone.failed, gone.bytes_out), (PAIRS as u64, 0));
    for client in &mut slow {
        client::expect(client, &message);
    }
    assert_eq!(bed.name("read").open, PAIRS as u64);
    drop((deaf, slow, readers));
    bed.finish();
}
