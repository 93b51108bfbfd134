//! Many connections on one worker. The ring engine asks them for more before it waits.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::channel;

use bytes::Bytes;
use ringhold_core::Flow;
use socket2::SockRef;

use crate::bed::{Bed, Engine, GREETING, engines, exchange, expect, expect_end, frame, serve_echo};
use crate::common::service::answering;

const CLIENTS: usize = 200;

/// A server with one worker, and clients that have said much at the same time for a while.
fn start(engine: Engine) -> (Bed, Vec<TcpStream>) {
    let config = "
        workers = 1
        [sockets.echo]
        listen = [\"127.0.0.1:0\"]
    ";
    let bed = serve_echo(engine, config);
    let clients: Vec<TcpStream> = (0..CLIENTS).map(|_| bed.connect("echo")).collect();
    for mut client in &clients {
        expect(&mut client, &[GREETING]);
    }
    let is_ring = engine == Engine::Ring;
    let mut rounds = 0;
    bed.until("looks", |bed| {
        rounds += 1;
        crowd(&clients, rounds);
        let looks = bed.counters().looks;
        rounds > 60 && (looks > 0) == is_ring
    });
    (bed, clients)
}

/// Everybody says something, then everybody hears it.
fn crowd(clients: &[TcpStream], round: u32) {
    let said = |i: usize| frame(20 + i, round * 1000 + i as u32);
    for (i, mut client) in clients.iter().enumerate() {
        client.write_all(&said(i)).unwrap();
    }
    for (i, mut client) in clients.iter().enumerate() {
        expect(&mut client, &said(i));
    }
}

#[test]
fn a_crowd_is_answered_in_order() {
    for engine in engines() {
        let (bed, clients) = start(engine);
        let said: Vec<Vec<u8>> = (0..CLIENTS)
            .map(|i| {
                (0..300)
                    .flat_map(|seed| frame(6 + (i + seed as usize) % 90, seed))
                    .collect()
            })
            .collect();
        // Bit by bit, cut wherever it happens.
        for part in 0..60 {
            for (i, mut client) in clients.iter().enumerate() {
                let size = said[i].len().div_ceil(60);
                let end = said[i].len().min((part + 1) * size);
                client
                    .write_all(&said[i][(part * size).min(end)..end])
                    .unwrap();
            }
        }
        for (i, mut client) in clients.iter().enumerate() {
            expect(&mut client, &said[i]);
        }
        drop(clients);
        let total = bed.finish();
        assert_eq!(
            (total.bad_input, total.bytes_in + CLIENTS as u64),
            (0, total.bytes_out)
        );
    }
}

#[test]
fn when_the_crowd_is_over_nobody_is_asked_in_vain() {
    for engine in engines() {
        let (bed, clients) = start(engine);
        let mut seed = 0;
        bed.until("a round without looks", |bed| {
            let before = bed.counters().looks;
            for client in &clients {
                seed += 1;
                exchange(client, &frame(30, seed));
            }
            bed.counters().looks == before
        });
        let counters = bed.counters();
        assert_eq!(counters.looks_in_vain > 0, engine == Engine::Ring);
        assert!(counters.looks_in_vain <= counters.looks);
        drop(clients);
        bed.finish();
    }
}

#[test]
fn everybody_who_leaves_a_crowd_is_seen_to_leave() {
    for engine in engines() {
        let (bed, mut clients) = start(engine);
        for (i, mut client) in clients.iter().enumerate() {
            match i % 4 {
                // With an answer to wait for, or without.
                0 => {
                    client.write_all(&frame(50, 1)).unwrap();
                    client.shutdown(Shutdown::Write).unwrap();
                    expect(&mut client, &frame(50, 1));
                    expect_end(&mut client);
                }
                1 => {
                    client.shutdown(Shutdown::Write).unwrap();
                    expect_end(&mut client);
                }
                2 => SockRef::from(client)
                    .set_linger(Some(std::time::Duration::ZERO))
                    .unwrap(),
                _ => {}
            }
        }
        let staying = clients.split_off(CLIENTS - 2);
        drop(clients);
        bed.until("two connections", |bed| bed.total().open == 2);
        drop(staying);
        bed.until("no connection", |bed| bed.total().open == 0);
        let total = bed.finish();
        assert_eq!((total.failed, total.bad_input), (CLIENTS as u64 / 4, 0));
    }
}

#[test]
fn a_crowd_can_be_stopped() {
    for engine in engines() {
        let (bed, clients) = start(engine);
        for mut client in &clients {
            client.write_all(&frame(50, 1)).unwrap();
        }
        bed.stop();
        for mut client in &clients {
            expect(&mut client, &frame(50, 1));
            expect_end(&mut client);
        }
        bed.finish();
    }
}

#[test]
fn what_a_crowd_says_can_be_kept() {
    for engine in engines() {
        let config = "workers = 1\n[sockets.echo]\nlisten = [\"127.0.0.1:0\"]\n";
        let (give, take) = channel();
        let bed = Bed::start(engine, config, |server| {
            server.service("echo", move |_| {
                let give = give.clone();
                answering(move |frame, reply| {
                    give.send(frame.to_bytes()).unwrap();
                    reply.write(|out| out.push(0xc0));
                    Flow::Continue
                })
            })
        });
        let is_ring = engine == Engine::Ring;
        let clients: Vec<TcpStream> = (0..CLIENTS).map(|_| bed.connect("echo")).collect();
        let mut seed = 0;
        // Everybody says something, and goes on without waiting for the answers. Looks bring what comes after the first
        // frames, so those are too short to be lent.
        let mut crowd = || {
            let mut said = Vec::new();
            for i in 0..10 * CLIENTS {
                seed += 1;
                let size = if i < CLIENTS { 100 } else { 1100 };
                said.push(frame(size + i % CLIENTS, seed));
            }
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    for (mut client, frame) in clients.iter().cycle().zip(&said) {
                        client.write_all(frame).unwrap();
                    }
                });
                for mut client in &clients {
                    expect(&mut client, &[0xc0; 10]);
                }
            });
            said
        };
        let take_all = || take.try_iter().collect::<Vec<Bytes>>();
        let sorted = |mut frames: Vec<Vec<u8>>| {
            frames.sort_unstable();
            frames
        };
        bed.until("looks", |bed| {
            crowd();
            drop(take_all());
            (bed.counters().looks > 1000) == is_ring
        });
        let said = crowd();
        let kept = take_all();
        assert_eq!(bed.counters().leased > 0, is_ring);
        let looks = bed.counters().looks;
        // The others go on, into other buffers or into none that can be kept.
        let mut crowds = 0;
        bed.until("looks again", |bed| {
            let said = crowd();
            let others = take_all().iter().map(|frame| frame.to_vec()).collect();
            assert!(sorted(others) == sorted(said), "{engine}");
            crowds += 1;
            crowds >= 10 && (bed.counters().looks > looks) == is_ring
        });
        let unchanged = kept.iter().map(|frame| frame.to_vec()).collect();
        assert!(sorted(unchanged) == sorted(said), "{engine}");
        drop(kept);
        // A worker counts its leases when it takes a turn.
        bed.until("no lease", |bed| {
            let mut client = &clients[0];
            client.write_all(&frame(100, 0)).unwrap();
            expect(&mut client, &[0xc0]);
            bed.counters().leased == 0
        });
        drop(clients);
        let total = bed.finish();
        assert_eq!(total.bad_input, 0);
    }
}
