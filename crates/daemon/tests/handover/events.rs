//! What connections push to each other while they are handed over.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ringhold_client::Address;
use rmpv::Value;

use crate::common::wire::{Wire, request};
use crate::manager::Manager;

const READERS: usize = 8;
const PUBLISHERS: u64 = 2;
/// Events that a publisher has under way.
const BATCH: u64 = 200;
/// A publisher waits for a reader that is this far behind. One whose worker gets less of the machine than that of a publisher would
/// be pushed more than it may hold, and closed.
const AHEAD_MAX: u64 = 100 * BATCH;

/// An event: its publisher and its number.
fn event(publisher: u64, number: u64) -> [u8; 9] {
    let mut frame = [0xcf; 9];
    frame[1..].copy_from_slice(&(publisher << 32 | number).to_be_bytes());
    frame
}

/// How many events of each publisher a reader has got.
type Progress = [AtomicU64; PUBLISHERS as usize];

/// Publishes until it is told to end. Returns how many were confirmed.
fn publish(mut wire: Wire, publisher: u64, readers: &[Progress], ends: &AtomicBool) -> u64 {
    let mut confirmed = 0;
    let is_far_behind = |reader: &Progress, confirmed: u64| {
        confirmed > AHEAD_MAX + reader[publisher as usize].load(Ordering::Relaxed)
    };
    while !ends.load(Ordering::Relaxed) {
        if readers
            .iter()
            .any(|reader| is_far_behind(reader, confirmed))
        {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
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
        let readers: Vec<Wire> = (0..READERS).map(subscribe).collect();
        let mut publisher = Wire::connect(&address);
        let ends = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let last = EndsAtLast(&ends);
            let publishing = scope.spawn(|| {
                let mut publish = |topic: &str, number: usize, count: usize| {
                    publisher.send(&request(7, "publish", &[topic.into(), number.into()]));
                    assert_eq!(publisher.reply(), (7, Ok(count.into())));
                };
                let mut number = 0;
                while !ends.load(Ordering::Relaxed) {
                    let (topic, count) = [("even", READERS), ("odd", READERS / 2)][number % 2];
                    publish(topic, number, count);
                    number += 1;
                }
                publish("even", THE_END, READERS);
                number
            });
            // They read meanwhile, as who does not is closed in the end.
            let reading = readers.into_iter().enumerate().map(|(index, mut reader)| {
                let step = 2 - index % 2;
                let read = move || {
                    let mut number = 0;
                    loop {
                        let told = reader.value();
                        if told == topic_event("even", THE_END) {
                            return (number, step);
                        }
                        assert_eq!(told, topic_event(["even", "odd"][number % 2], number));
                        number += step;
                    }
                };
                scope.spawn(read)
            });
            let reading: Vec<_> = reading.collect();
            for step in [Manager::restart, Manager::reload].repeat(3) {
                step(&mut manager);
            }
            drop(last);
            let published = publishing.join().unwrap();
            for reader in reading {
                let (number, step) = reader.join().unwrap();
                assert_eq!(number, published.next_multiple_of(step));
            }
        });
        manager.stop_for_good();
    }
}

/// Stands for the number of an event behind which there are none.
const THE_END: usize = usize::MAX;

fn topic_event(topic: &str, number: usize) -> Value {
    let params = vec![topic.into(), number.into()];
    Value::Array(vec![2.into(), "event".into(), Value::Array(params)])
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
    let progress: [Progress; READERS] = Default::default();
    std::thread::scope(|scope| {
        // If anything here fails, they are to end, too.
        let last = EndsAtLast(&ends);
        let publishers: Vec<_> = (0..PUBLISHERS)
            .map(|publisher| {
                let wire = Wire::connect(&address);
                let (progress, ends) = (&progress, &ends);
                scope.spawn(move || publish(wire, publisher, progress, ends))
            })
            .collect();
        let readers: Vec<_> = readers
            .into_iter()
            .zip(&progress)
            .map(|(mut wire, got)| {
                scope.spawn(move || {
                    loop {
                        let frame = wire.exactly(9);
                        let value = u64::from_be_bytes(frame[1..].try_into().unwrap());
                        if value == u64::MAX {
                            return got.each_ref().map(|count| count.load(Ordering::Relaxed));
                        }
                        let next = &got[(value >> 32) as usize];
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        assert_eq!(value & u64::from(u32::MAX), number);
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
