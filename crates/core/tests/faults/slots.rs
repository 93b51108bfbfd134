//! Connections come and go while others go on: slots, descriptors and buffers are used again and again, and nothing of
//! one connection may reach another.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::bed::{Bed, Engine, assert_no_kernel_workers};
use crate::common::client;
use crate::common::random::Random;
use crate::frames::{frame, push_frame};
use crate::services::{Echo, gated};

/// What a client sends, all of it marked as its own, and where its frames end.
fn tagged(tag: u64, random: &mut Random) -> (Vec<u8>, Vec<usize>) {
    let (mut stream, mut ends) = (Vec::new(), Vec::new());
    for _ in 0..1 + random.below(60) {
        let size = match random.below(20) {
            0 => 1 + random.below(100_000),
            _ => 1 + random.below(2000),
        };
        let seed = (tag << 20) + stream.len() as u64;
        push_frame(&mut stream, size, seed);
        ends.push(stream.len());
    }
    (stream, ends)
}

/// Reads some of the answers, which must be the client's own. Returns how many bytes.
fn read_some(stream: &mut TcpStream, own: &[u8], most: usize) -> usize {
    let mut buffer = vec![0; 16 * 1024];
    let mut done = 0;
    while done < most {
        let room = buffer.len().min(most - done);
        let count = client::read(stream, &mut buffer[..room]).unwrap();
        assert!(count > 0, "ended");
        assert!(
            buffer[..count] == own[done..done + count],
            "an answer to somebody else"
        );
        done += count;
    }
    done
}

/// One connection after the other, which leave in the middle of it, in every way.
fn come_and_go(bed: &Bed, tags: &AtomicU64, rounds: usize) {
    for _ in 0..rounds {
        let tag = tags.fetch_add(1, Ordering::Relaxed);
        let mut random = Random::new(tag);
        let (sent, ends) = tagged(tag, &mut random);
        let mut client = bed.connect("echo");
        // Whatever the sockets take; the answers are read only afterwards.
        client.set_nonblocking(true).unwrap();
        let mut taken = 0;
        while let Ok(count @ 1..) = client.write(&sent[taken..]) {
            taken += count;
        }
        client.set_nonblocking(false).unwrap();
        // Whole frames are answered, the rest of another one is not.
        let answered = ends
            .iter()
            .rfind(|end| **end <= taken)
            .copied()
            .unwrap_or(0);
        let read = random.below(answered + 1);
        read_some(&mut client, &sent, read);
        match random.below(4) {
            0 => client::reset(client),
            1 => {
                client.shutdown(Shutdown::Both).unwrap();
            }
            2 if taken == sent.len() => {
                client.shutdown(Shutdown::Write).unwrap();
                client::expect(&mut client, &sent[read..]);
                client::expect_end(&mut client);
            }
            _ => drop(client),
        }
    }
}

pub(crate) fn no_answer_reaches_another_connection(engine: Engine) {
    for (buffers, bytes) in [(2, 1024), (64, 16 * 1024)] {
        let config = format!(
            "workers = 2
            [limits] # None that could end what nothing else ended.
            frame_timeout = \"0s\"
            write_timeout = \"0s\"
            [ring]
            entries = 8
            buffers = {buffers}
            buffer_bytes = {bytes}
            [sockets.echo]
            listen = [\"127.0.0.1:0\"]"
        );
        let (bed, gate) = gated(engine, &config, |server| server.service("echo", |_| Echo));
        let fresh = gate.lack(&bed, "echo", 2, buffers);
        bed.until_open(0);
        let before = bed.total().opened;
        let tags = AtomicU64::new(1);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| come_and_go(&bed, &tags, 150));
            }
            // Some stay and notice if anything of the others reaches them.
            for _ in 0..2 {
                scope.spawn(|| {
                    let client = bed.connect("echo");
                    let tag = tags.fetch_add(1, Ordering::Relaxed);
                    for round in 0..150 {
                        let own = frame(1 + 40 * round, (tag << 20) + round as u64);
                        client::exchange(&client, &own, &own);
                    }
                });
            }
        });
        assert_no_kernel_workers();
        bed.until("all were accepted", |bed| {
            bed.total().opened == before + 4 * 150 + 2
        });
        bed.until_open(0);
        gate.assert_all_buffers_are_back(&bed, "echo", 2, buffers, fresh);
        bed.until("memory back", |bed| bed.memory_held() == 0);
        bed.finish();
    }
}
