//! What connections push to each other while they are handed over.

use std::sync::atomic::{AtomicBool, Ordering};

use ringhold_client::Address;
use rmpv::Value;

use crate::common::wire::{Wire, request};
use crate::manager::Manager;

const READERS: usize = 8;
const PUBLISHERS: u64 = 2;
/// Events that a publisher has under way.
const BATCH: u64 = 200;

/// An event: its publisher and its number.
fn event(publisher: u64, number: u64) -> [u8; 9] {
    let mut frame = [0xcf; 9];
    frame[1..].copy_from_slice(&(publisher << 32 | number).to_be_bytes());
    frame
}

/// Publishes until it is told to end. Returns how many were confirmed.
fn publish(mut wire: Wire, publisher: u64, ends: &AtomicBool) -> u64 {
    let mut confirmed = 0;
    while !ends.load(Ordering::Relaxed) {
        let batch: Vec<u8> = (confirmed..confirmed + BATCH)
            .flat_map(|number| event(publisher, number))
            .collect();
        wire.send(&batch);
        assert_eq!(wire.exactly(BATCH as usize), [0xc3; BATCH as usize]);
        confirmed += BATCH;
    }
    confirmed
}

/// Every event that a service was given reaches every reader once and in order, although publishers and readers are on
/// different workers that are given up at different moments.
#[test]
fn no_event_is_lost_between_connections() {
    for engine in ["auto", "portable"] {
        relay(engine, "5s", |_, _| {});
    }
}

/// Nor if workers are told to read no more at different moments, because a deferred reply has not come.
#[test]
fn no_event_is_lost_when_a_reply_is_given_up() {
    for engine in ["auto", "portable"] {
        relay(engine, "50ms", |rpc, step| {
            let mut asking = Wire::connect(rpc);
            asking.send(&request(1, "hold", &[]));
            // Requests are taken in order, so it is held by then.
            asking.echo(2, 2);
            step();
            assert!(matches!(asking.reply(), (1, Err(_))));
        });
    }
}

/// Nor if a worker is busy for longer than any connection takes to be let go, when it publishes at last.
#[test]
fn no_event_of_a_busy_worker_is_lost() {
    for engine in ["auto", "portable"] {
        let mut manager =
            Manager::on(engine, 16, "workers = 2\n[sockets.bus]\n").with_test_daemon();
        let address = manager.listen_unix("bus");
        manager.start();
        let mut readers: Vec<Wire> = (0..READERS).map(|_| Wire::connect(&address)).collect();
        for reader in &mut readers {
            reader.send(b"\xc0");
            assert_eq!(reader.exactly(1), [0xc3]);
        }
        let mut publisher = Wire::connect(&address);
        publisher.send(&[b"\xc2", &event(0, 1)[..]].concat());
        manager.logged(1, &["busy for a while"]);
        manager.restart();
        assert_eq!(publisher.exactly(2), [0xc3; 2]);
        for reader in &mut readers {
            assert_eq!(reader.exactly(9), event(0, 1));
        }
        manager.stop_for_good();
    }
}

/// Subscriptions of MessagePack-RPC go on in the successor: each event is told once, in order, and goes to all readers.
#[test]
fn no_event_of_a_topic_is_lost() {
    for engine in ["auto", "portable"] {
        let mut manager =
            Manager::on(engine, 16, "workers = 2\n[sockets.topics]\n").with_test_daemon();
        let address = manager.listen_unix("topics");
        manager.start();
        let subscribe = |index: usize| {
            let mut reader = Wire::connect(&address);
            for topic in ["even", "odd"].iter().take(1 + index % 2) {
                reader.send(&request(1, "subscribe", &[(*topic).into()]));
                assert_eq!(reader.reply(), (1, Ok(Value::Nil)));
            }
            reader
        };
        let mut readers: Vec<Wire> = (0..READERS).map(subscribe).collect();
        let mut publisher = Wire::connect(&address);
        let ends = AtomicBool::new(false);
        let published = std::thread::scope(|scope| {
            let last = EndsAtLast(&ends);
            let publishing = scope.spawn(|| {
                let mut number = 0;
                while !ends.load(Ordering::Relaxed) {
                    let (topic, count) = [("even", READERS), ("odd", READERS / 2)][number % 2];
                    publisher.send(&request(7, "publish", &[topic.into(), number.into()]));
                    assert_eq!(publisher.reply(), (7, Ok(count.into())));
                    number += 1;
                }
                number
            });
            for step in [Manager::restart, Manager::reload].repeat(3) {
                step(&mut manager);
            }
            drop(last);
            publishing.join().unwrap()
        });
        for (index, reader) in readers.iter_mut().enumerate() {
            for number in (0..published).step_by(2 - index % 2) {
                let params = vec![["even", "odd"][number % 2].into(), number.into()];
                let event = vec![2.into(), "event".into(), Value::Array(params)];
                assert_eq!(reader.value(), Value::Array(event));
            }
        }
        manager.stop_for_good();
    }
}

struct EndsAtLast<'a>(&'a AtomicBool);

impl Drop for EndsAtLast<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Lets publishers and readers talk to each other over restarts and reloads, each of them `around` something.
fn relay(engine: &'static str, drain: &str, around: fn(&Address, &mut dyn FnMut())) {
    let mut manager = Manager::on(
        engine,
        16,
        &format!("workers = 2\nhandover.drain = \"{drain}\"\n[sockets.bus]\n[sockets.rpc]\n"),
    )
    .with_test_daemon();
    let [address, rpc] = ["bus", "rpc"].map(|name| manager.listen_unix(name));
    manager.start();
    let mut readers: Vec<Wire> = (0..READERS).map(|_| Wire::connect(&address)).collect();
    for reader in &mut readers {
        reader.send(b"\xc0");
        assert_eq!(reader.exactly(1), [0xc3]);
    }
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // If anything here fails, they are to end, too.
        let last = EndsAtLast(&ends);
        let publishers: Vec<_> = (0..PUBLISHERS)
            .map(|publisher| {
                let wire = Wire::connect(&address);
                let ends = &ends;
                scope.spawn(move || publish(wire, publisher, ends))
            })
            .collect();
        let readers: Vec<_> = readers
            .into_iter()
            .map(|mut wire| {
                scope.spawn(move || {
                    let mut next = [0; PUBLISHERS as usize];
                    loop {
                        let frame = wire.exactly(9);
                        let value = u64::from_be_bytes(frame[1..].try_into().unwrap());
                        if value == u64::MAX {
                            return next;
                        }
                        let publisher = (value >> 32) as usize;
                        assert_eq!(value & u64::from(u32::MAX), next[publisher]);
                        next[publisher] += 1;
                    }
                })
            })
            .collect();
        for step in [Manager::restart, Manager::reload].repeat(4) {
            around(&rpc, &mut || step(&mut manager));
        }
        drop(last);
        let confirmed: Vec<u64> = publishers
            .into_iter()
            .map(|publisher| publisher.join().unwrap())
            .collect();
        let mut last = Wire::connect(&address);
        last.send(&[0xcf, 255, 255, 255, 255, 255, 255, 255, 255]);
        assert_eq!(last.exactly(1), [0xc3]);
        for reader in readers {
            assert_eq!(reader.join().unwrap()[..], confirmed);
        }
    });
    manager.stop_for_good();
}
