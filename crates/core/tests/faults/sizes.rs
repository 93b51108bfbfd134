//! Rings that are too small for what happens.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::bed::{Bed, Engine, assert_no_kernel_workers};
use crate::common::client;
use crate::frames::{DIGEST_BYTES, Script, frame};
use crate::services::{Digest, Gate, Sink, count, gated};

/// The least that the configuration allows.
const SMALLEST: &str = "
    workers = 1
    [ring]
    entries = 8
    buffers = 2
    buffer_bytes = 1024
    [sockets.digest]
    listen = [\"127.0.0.1:0\"]
    [sockets.sink]
    listen = [\"127.0.0.1:0\"]
    [sockets.count]
    listen = [\"127.0.0.1:0\"]";

fn start(engine: Engine, config: &str) -> (Bed, Gate) {
    let sink = Sink::default();
    gated(engine, config, |server| {
        server
            .service("digest", |_| Digest)
            .service("count", {
                let sink = sink.clone();
                move |_| count(sink.clone())
            })
            .service("sink", move |_| sink.clone())
    })
}

/// What completes brings a worker of the ring engine back, and several things do so together. The portable engine takes few turns however
/// much it receives, so that this would say nothing of it.
fn assert_few_enters(bed: &Bed) {
    let counters = bed.counters();
    if bed.engine == Engine::Ring {
        assert!(counters.enters <= counters.completions, "{counters:?}");
    }
}

pub(crate) fn the_smallest_ring_loses_nothing_and_keeps_the_order(engine: Engine) {
    const HEAD: usize = 16 * 1024;
    let (bed, gate) = start(engine, SMALLEST);
    let scripts: Vec<Script> = (0..100)
        .map(|i| Script::of((i + 1..=5000).step_by(100), i as u64))
        .collect();
    let clients: Vec<TcpStream> = gate.hold(&bed, 1, || {
        let connect = |script: &Script| {
            let mut client = bed.connect("digest");
            client.write_all(&script.sent[..HEAD]).unwrap();
            client
        };
        scripts.iter().map(connect).collect()
    });
    std::thread::scope(|scope| {
        for (clients, scripts) in clients.chunks(25).zip(scripts.chunks(25)) {
            scope.spawn(move || {
                for (mut client, script) in clients.iter().zip(scripts) {
                    client.write_all(&script.sent[HEAD..]).unwrap();
                }
            });
        }
    });
    for (mut client, script) in clients.iter().zip(&scripts) {
        client::expect(&mut client, &script.answers);
        client.shutdown(Shutdown::Write).unwrap();
        client::expect_end(&mut client);
    }
    assert_eq!(bed.name("digest").frames_in, 100 * 50);
    assert_eq!(bed.total().failed, 0);
    let counters = bed.counters();
    assert_few_enters(&bed);
    assert_eq!(counters.starved > 0, engine == Engine::Ring, "{counters:?}");
    drop(clients);
    bed.finish();
}

pub(crate) fn a_burst_of_a_thousand_connections_shares_sixteen_buffers(engine: Engine) {
    let (bed, gate) = start(
        engine,
        &SMALLEST
            .replace("buffers = 2", "buffers = 16")
            .replace("entries = 8", "entries = 64"),
    );
    let scripts: Vec<Script> = (0..1000).map(|i| Script::of([3000, 1, 2000], i)).collect();
    let clients: Vec<TcpStream> = gate.hold(&bed, 1, || {
        let connect = |script: &Script| {
            let mut client = bed.connect("digest");
            client.write_all(&script.sent).unwrap();
            client
        };
        scripts.iter().map(connect).collect()
    });
    for (mut client, script) in clients.iter().zip(&scripts) {
        client::expect(&mut client, &script.answers);
    }
    assert_eq!(bed.name("digest").open, 1000, "nobody is closed for it");
    assert_eq!(bed.name("digest").frames_in, 3000);
    let counters = bed.counters();
    assert_few_enters(&bed);
    assert_eq!(counters.starved > 0, engine == Engine::Ring, "{counters:?}");
    drop(clients);
    bed.finish();
}

pub(crate) fn a_full_socket_does_not_come_before_others(engine: Engine) {
    for (buffers, slow) in [
        (2, 1),
        (2, 2),
        (2, 40),
        (16, 1),
        (16, 15),
        (16, 16),
        (16, 40),
    ] {
        let config = SMALLEST.replace("buffers = 2", &format!("buffers = {buffers}"));
        let (bed, gate) = start(engine, &config);
        let full = bed.connect("sink");
        let mut clients: Vec<TcpStream> = (0..slow).map(|_| bed.connect("count")).collect();
        bed.until_open(1 + slow);
        let full = gate.hold(&bed, 1, || {
            let full = fill(full, &frame(700, 1));
            for client in &mut clients {
                client.write_all(&[7]).unwrap();
            }
            full
        });
        // A buffer holds one frame and a half of the full one.
        let fair = 2 * (buffers + slow + 20);
        for client in &mut clients {
            let mut answer = [0; 9];
            client.read_exact(&mut answer).unwrap();
            let before = u64::from_be_bytes(answer[1..].try_into().unwrap());
            assert!(
                before < fair,
                "{before} frames came before it: {buffers} buffers, {slow} slow"
            );
        }
        drop((full, clients));
        bed.finish();
    }
}

/// Writes `frame` again and again until neither side's kernel takes more.
fn fill(mut stream: TcpStream, frame: &[u8]) -> TcpStream {
    stream.set_nonblocking(true).unwrap();
    let frames = frame.repeat(100);
    let mut patience = 0;
    while patience < 3 {
        match stream.write(&frames) {
            // The rest of a frame that was taken in part never comes.
            Ok(count) if count == frames.len() => patience = 0,
            Ok(_) => break,
            Err(error) if error.kind() == ErrorKind::WouldBlock => patience += 1,
            Err(error) => panic!("{error}"),
        }
    }
    stream
}

pub(crate) fn a_fast_sender_leaves_room_for_the_others(engine: Engine) {
    for (buffers, slow) in [(2, 1), (2, 3), (2, 40), (16, 7), (16, 15), (16, 40)] {
        let config = SMALLEST.replace("buffers = 2", &format!("buffers = {buffers}"));
        let (bed, _) = start(engine, &config);
        let full = AtomicBool::new(false);
        let flood = frame(700, 1).repeat(100);
        std::thread::scope(|scope| {
            scope.spawn(|| flood_with(bed.connect("sink"), &flood, &full));
            bed.until("the fast one is served", |bed| {
                bed.name("sink").frames_in > 10_000
            });
            let before = bed.name("sink").frames_in;
            let clients: Vec<TcpStream> = (0..slow).map(|_| bed.connect("digest")).collect();
            let script = Script::of((0..20).map(|i| 10 + 90 * i), 5);
            let mut start = 0;
            for answer in script.answers.chunks(DIGEST_BYTES) {
                let length = u32::from_be_bytes(answer[6..10].try_into().unwrap()) as usize;
                for mut client in &clients {
                    client
                        .write_all(&script.sent[start..start + length])
                        .unwrap();
                }
                for mut client in &clients {
                    client::expect(&mut client, answer);
                }
                start += length;
            }
            let meanwhile = bed.name("sink").frames_in - before;
            assert!(meanwhile > 0, "the fast one was served, too");
            full.store(true, Ordering::Relaxed);
        });
        assert_eq!(bed.name("digest").frames_in, 20 * slow);
        assert_no_kernel_workers();
        bed.finish();
    }
}

/// Sends `frames` again and again until `full`.
fn flood_with(mut stream: TcpStream, frames: &[u8], full: &AtomicBool) {
    while !full.load(Ordering::Relaxed) {
        stream.write_all(frames).unwrap();
    }
}
