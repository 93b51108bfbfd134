//! What is under way on a connection at the moment of a restart: cut requests, half-sent replies, half-closed peers.

use std::net::Shutdown;
use std::time::Duration;

use ringhold_client::Address;
use rmpv::Value;

use crate::common::until;
use crate::common::wire::{Wire, counter, request};
use crate::manager::Manager;

const INHERITED: &str = "workers = 2\n[sockets.rpc]\n";

/// A running service with a TCP and a unix socket.
fn both(engine: &'static str) -> (Manager, [Address; 2]) {
    let mut manager = Manager::on(engine, 16, INHERITED).with_test_daemon();
    let addresses = [manager.listen_tcp("rpc"), manager.listen_unix("rpc")];
    manager.start();
    (manager, addresses)
}

/// The best that the machine has, and the one that works on all.
const ENGINES: [&str; 2] = ["auto", "portable"];

/// Both ways to a successor, one after the other.
const STEPS: [fn(&mut Manager); 2] = [Manager::restart, Manager::reload];

#[test]
fn a_request_that_is_cut_anywhere_is_answered_once() {
    ENGINES.into_iter().for_each(cut_requests);
}

fn cut_requests(engine: &'static str) {
    let (mut manager, addresses) = both(engine);
    let whole = request(
        7,
        "echo",
        &["a text that is longer than thirty-one bytes".into()],
    );
    for step in STEPS {
        let mut cut: Vec<(usize, Wire)> = Vec::new();
        for address in &addresses {
            for at in 0..=whole.len() {
                let mut wire = Wire::connect(address);
                wire.send(&whole[..at]);
                cut.push((at, wire));
            }
        }
        until("everything has arrived", || {
            (counter(&addresses[0], "rpc", "bytes_in") as usize >= whole.len() * (whole.len() + 1))
                .then_some(())
        });
        step(&mut manager);
        for (at, wire) in &mut cut {
            wire.send(&whole[*at..]);
            let expected: Value = "a text that is longer than thirty-one bytes".into();
            assert_eq!(wire.reply(), (7, Ok(expected)), "cut at {at}");
            wire.finish_sending();
            assert_eq!(wire.rest(), b"", "cut at {at}");
        }
    }
    manager.stop_for_good();
}

/// Frames that are received into buffers of their own, with the cut in the middle of the data.
#[test]
fn a_large_request_goes_on_where_it_was() {
    ENGINES.into_iter().for_each(large_requests);
}

fn large_requests(engine: &'static str) {
    let (mut manager, addresses) = both(engine);
    let blob: Vec<u8> = (0..1_000_000u32).map(|index| (index % 253) as u8).collect();
    let whole = request(1, "echo", &[Value::Binary(blob.clone())]);
    for step in STEPS {
        let cuts = [10, 70_000, 500_000, whole.len() - 1];
        let mut wires: Vec<(usize, Wire)> = Vec::new();
        for address in &addresses {
            for at in cuts {
                let mut wire = Wire::connect(address);
                wire.send(&whole[..at]);
                wires.push((at, wire));
            }
        }
        step(&mut manager);
        for (at, wire) in &mut wires {
            wire.send(&whole[*at..]);
            assert_eq!(
                wire.reply(),
                (1, Ok(Value::Binary(blob.clone()))),
                "cut at {at}"
            );
        }
    }
    manager.stop_for_good();
}

/// Who sends at length without being answered is waited for in a way of its own.
#[test]
fn a_stream_of_notifications_goes_on_where_it_was() {
    ENGINES.into_iter().for_each(streams_of_notifications);
}

fn streams_of_notifications(engine: &'static str) {
    let (mut manager, addresses) = both(engine);
    let event = [
        2.into(),
        "ping".into(),
        Value::Array(vec![Value::Binary(vec![7; 16_000])]),
    ];
    let mut whole = Vec::new();
    rmpv::encode::write_value(&mut whole, &Value::Array(event.to_vec())).unwrap();
    let burst = whole.repeat(40);
    let mut wires = [0, 1].map(|index: usize| Wire::connect(&addresses[index]));
    for step in STEPS {
        let before = counter(&addresses[0], "rpc", "bytes_in") as usize;
        for round in 1..=3 {
            for wire in &mut wires {
                wire.send(&burst);
            }
            until("both bursts have arrived", || {
                let bytes = counter(&addresses[0], "rpc", "bytes_in") as usize;
                (bytes >= before + 2 * round * burst.len()).then_some(())
            });
        }
        let cut = burst.len() - 1000;
        for wire in &mut wires {
            wire.send(&burst[..cut]);
        }
        step(&mut manager);
        for wire in &mut wires {
            wire.send(&burst[cut..]);
            wire.echo(1, 1);
        }
    }
    manager.stop_for_good();
}

const BIG: usize = 4 << 20;

/// The reply to `big`, byte for byte.
fn big_reply(id: u8) -> Vec<u8> {
    let mut reply = vec![0x94, 1, id, 0xc0, 0xc6];
    reply.extend_from_slice(&(BIG as u32).to_be_bytes());
    reply.extend((0..BIG).map(|index| (index % 251) as u8));
    reply
}

fn slow_reader(address: &Address) -> Wire {
    Wire::connect_with(address, |socket| {
        socket.set_recv_buffer_size(4096).unwrap();
    })
}

/// One reply of 4 MiB, of which some more is read between the restarts, and a second one behind it.
#[test]
fn half_sent_replies_arrive_whole() {
    ENGINES.into_iter().for_each(half_sent_replies);
}

fn half_sent_replies(engine: &'static str) {
    let (mut manager, addresses) = both(engine);
    let mut readers: Vec<Wire> = addresses.iter().map(slow_reader).collect();
    for reader in &mut readers {
        reader.send(&request(1, "big", &[BIG.into()]));
        reader.send(&request(2, "big", &[BIG.into()]));
    }
    let expected = [big_reply(1), big_reply(2)].concat();
    let mut received = vec![Vec::new(); readers.len()];
    for round in 0..6 {
        for (reader, received) in readers.iter_mut().zip(&mut received) {
            received.extend(reader.exactly(100_001));
        }
        STEPS[round % 2](&mut manager);
    }
    for (reader, mut received) in readers.iter_mut().zip(received) {
        reader.finish_sending();
        received.extend(reader.rest());
        assert!(
            received == expected,
            "{} of {} bytes",
            received.len(),
            expected.len()
        );
    }
    manager.stop_for_good();
}

/// The peer has ended its side and still waits for what it asked for. Nobody else has to wait for it.
#[test]
fn half_closed_peers_get_their_replies() {
    ENGINES.into_iter().for_each(half_closed_peers);
}

fn half_closed_peers(engine: &'static str) {
    let (mut manager, addresses) = both(engine);
    let mut readers: Vec<Wire> = addresses.iter().map(slow_reader).collect();
    for reader in &mut readers {
        reader.send(&request(1, "big", &[BIG.into()]));
        reader.finish_sending();
        // The reply is on its way: the end was seen, too, since it arrived together with the request.
        assert_eq!(reader.exactly(3), [0x94, 1, 1]);
    }
    let expected = &big_reply(1)[3..];
    for round in 0..4 {
        STEPS[round % 2](&mut manager);
    }
    for reader in &mut readers {
        let rest = reader.rest();
        assert!(
            rest == expected,
            "{} of {} bytes",
            rest.len(),
            expected.len()
        );
    }
    manager.stop_for_good();
}

/// A client that sends and does not read: requests wait in the connection, before the service, and in the kernel.
#[test]
fn a_pipeline_that_is_paused_keeps_its_order() {
    ENGINES.into_iter().for_each(paused_pipeline);
}

fn paused_pipeline(engine: &'static str) {
    let mut manager = Manager::on(
        engine,
        16,
        "[limits]\noutbox_bytes = \"64KiB\"\n[sockets.rpc]\n",
    );
    let address = manager.listen_tcp("rpc");
    manager.start();
    let mut wire = Wire::connect(&address);
    let mut sender = wire.socket.try_clone().unwrap();
    const COUNT: u32 = 3000;
    let sending = std::thread::spawn(move || {
        use std::io::Write;
        let text: Value = "x".repeat(2000).into();
        for id in 0..COUNT {
            sender
                .write_all(&request(id, "echo", std::slice::from_ref(&text)))
                .unwrap();
        }
    });
    until("a pause", || {
        (counter(&address, "rpc", "pauses") > 0).then_some(())
    });
    let mut next = 0;
    for round in 0..6 {
        STEPS[round % 2](&mut manager);
        for _ in 0..COUNT / 8 {
            assert_eq!(wire.reply().0, u64::from(next));
            next += 1;
        }
    }
    while next < COUNT {
        assert_eq!(wire.reply().0, u64::from(next));
        next += 1;
    }
    sending.join().unwrap();
    manager.stop_for_good();
}

/// Peers that end while nobody serves them: after the predecessor has let go and before the successor is there.
#[test]
fn peers_that_end_during_the_handover() {
    let mut manager = Manager::new(16, INHERITED);
    let address = manager.listen_tcp("rpc");
    manager.start();
    let connect = || {
        let mut wire = Wire::connect(&address);
        wire.echo(0, 0);
        wire
    };
    let [mut asks, mut silent, reset, mut stays] = [(); 4].map(|()| connect());
    manager.stop();
    asks.send(&request(5, "echo", &[55.into()]));
    asks.finish_sending();
    silent.finish_sending();
    reset.socket.set_linger(Some(Duration::ZERO)).unwrap();
    drop(reset);
    stays.send(&request(6, "echo", &[66.into()]));
    manager.start();
    assert_eq!(asks.reply(), (5, Ok(55.into())));
    assert_eq!(asks.rest(), b"");
    assert_eq!(silent.rest(), b"");
    assert_eq!(stays.reply(), (6, Ok(66.into())));
    // The three that ended are gone; `stays` and the one that asks are not.
    until("the end of the others", || {
        (counter(&address, "rpc", "open") == 2).then_some(())
    });
    assert_eq!(counter(&address, "rpc", "restored"), 4);
    manager.stop_for_good();
}

/// A connection that the server closes, with output that its peer does not take, is not handed over; and nobody waits
/// for it for longer than `drain`.
#[test]
fn closing_connections_hold_nobody_up() {
    let config = "[handover]\ndrain = \"200ms\"\n[sockets.rpc]\n";
    let mut manager = Manager::new(16, config).with_test_daemon();
    let address = manager.listen_tcp("rpc");
    manager.start();
    let mut other = Wire::connect(&address);
    other.echo(1, 1);
    let mut closing = slow_reader(&address);
    closing.send(&request(1, "big", &[BIG.into()]));
    // Not MessagePack-RPC: the connection ends, after the reply.
    closing.send(b"\x01");
    assert_eq!(closing.exactly(3), [0x94, 1, 1]);
    until("the end", || {
        (other.counter("rpc", "bad_input") == 1).then_some(())
    });
    let mut lingering = Wire::connect(&address);
    lingering.send(b"\x01");
    until("the end", || {
        (other.counter("rpc", "bad_input") == 2).then_some(())
    });
    manager.reload();
    other.echo(2, 2);
    assert_eq!(other.counter("rpc", "restored"), 1);
    assert_eq!(lingering.rest(), b"");
    let _ = closing.socket.shutdown(Shutdown::Both);
    manager.stop_for_good();
}
