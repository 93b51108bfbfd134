//! The state that a service keeps for a connection.

use std::time::Duration;

use nix::sys::signal::Signal;
use ringhold_client::Address;
use rmpv::Value;

use crate::common::wire::{Wire, counter, request};
use crate::manager::Manager;

const CONFIG: &str = "workers = 2\n[sockets.counter]\n[sockets.rpc]\n";

/// The tests' daemon, and the addresses of `counter` and `rpc`.
fn started(engine: &'static str, config: &str) -> (Manager, Address, Address) {
    let mut manager = Manager::on(engine, 16, config).with_test_daemon();
    let [counter, rpc] = ["counter", "rpc"].map(|name| manager.listen_unix(name));
    manager.start();
    (manager, counter, rpc)
}

fn count(wire: &mut Wire) -> u64 {
    wire.send(b"\xc0");
    wire.value().as_u64().unwrap()
}

fn greeted(wire: &mut Wire) {
    assert_eq!(wire.value(), Value::from("hello"));
}

#[test]
fn sessions_go_on_and_are_not_greeted_again() {
    let (mut manager, address, _) = started("auto", CONFIG);
    let mut wires: Vec<Wire> = (0..20).map(|_| Wire::connect(&address)).collect();
    wires.iter_mut().for_each(greeted);
    for round in 1..=6 {
        for (index, wire) in wires.iter_mut().enumerate() {
            // Each at its own pace, so that a mix-up is seen.
            for _ in 0..index {
                count(wire);
            }
            assert_eq!(count(wire), (index as u64 + 1) * round);
        }
        if round % 2 == 0 {
            manager.restart();
        } else {
            manager.reload();
        }
    }
    // New ones are greeted.
    greeted(&mut Wire::connect(&address));
    manager.stop_for_good();
}

#[test]
fn what_cannot_be_saved_or_restored_is_closed_and_nothing_else() {
    let (mut manager, address, rpc) = started("auto", CONFIG);
    let connect = || {
        let mut wire = Wire::connect(&address);
        greeted(&mut wire);
        wire
    };
    let mut other = Wire::connect(&rpc);
    other.echo(1, 1);

    let [mut odd, mut even] = [(); 2].map(|()| connect());
    assert_eq!(
        (count(&mut odd), count(&mut even), count(&mut even)),
        (1, 1, 2)
    );
    manager.set_flag("refuse-to-restore", true);
    manager.restart();
    assert_eq!(odd.rest(), b"");
    assert_eq!(count(&mut even), 3);
    manager.logged(
        1,
        &["its session cannot be restored: an odd count, on purpose"],
    );
    let some = "closing 1 connection that could not be restored";
    manager.logged(1, &[some, "socket=counter"]);
    manager.logged(1, &["took over 3 connections"]);
    assert_eq!(counter(&rpc, "counter", "bad_input"), 0);
    assert_eq!(counter(&rpc, "counter", "unrestored"), 1);
    manager.set_flag("refuse-to-restore", false);

    manager.set_flag("panic-in-restore", true);
    manager.reload();
    assert_eq!(even.rest(), b"");
    assert_eq!(counter(&rpc, "counter", "panics"), 1);
    manager.logged(2, &[some, "socket=counter"]);
    manager.set_flag("panic-in-restore", false);

    // One that is refused is no fault of the restart, whatever the reason.
    let mut refused = [(); 2].map(|()| connect());
    manager.set_flag("refuse", true);
    manager.reload();
    for wire in &mut refused {
        assert_eq!(wire.rest(), b"");
    }
    let others = "closing 2 connections that their service refuses now";
    manager.logged(1, &[others, "socket=counter"]);
    manager.logged(
        2,
        &[
            " WARN ",
            "of counter over a unix socket",
            "nobody comes in any more, on purpose",
        ],
    );
    assert_eq!(counter(&rpc, "counter", "refused"), 2);
    assert_eq!(counter(&rpc, "counter", "unrestored"), 0);
    manager.set_flag("refuse", false);

    let mut unsaved = connect();
    manager.set_flag("save-nothing", true);
    manager.restart();
    assert_eq!(unsaved.rest(), b"");
    let said = "closed 1 connection whose sessions their services did not save";
    manager.logged(1, &[said, "counter"]);
    other.echo(2, 2);
    manager.stop_for_good();
}

/// Data that the router of MessagePack-RPC does not resume is not saved, and its connection closed, so that nobody goes on
/// with a connection that has forgotten.
#[test]
fn rpc_connections_with_data_are_closed() {
    let (mut manager, _, rpc) = started("auto", CONFIG);
    let [mut stateful, mut stateless] = [(); 2].map(|()| Wire::connect(&rpc));
    stateful.send(&request(1, "remember", &[5.into()]));
    assert_eq!(stateful.reply(), (1, Ok(5.into())));
    stateless.echo(1, 1);
    manager.restart();
    assert_eq!(stateful.rest(), b"");
    manager.logged(1, &["closed 1 connection", "socket=rpc"]);
    manager.logged(1, &["handlers keep data of the type u64, "]);
    stateless.echo(2, 2);
    manager.reload();
    stateless.echo(3, 3);
    assert_eq!(manager.log().matches("closed 1 connection").count(), 1);
    manager.stop_for_good();
}

#[test]
fn clients_on_unix_sockets_stay_known() {
    let mut manager = Manager::new(16, CONFIG).with_test_daemon();
    manager.listen_unix("counter");
    let unix = manager.listen_unix("rpc");
    let tcp = manager.listen_tcp("rpc");
    manager.start();
    let [mut unix, mut tcp] = [unix, tcp].map(|address| Wire::connect(&address));
    let ourselves = [
        std::process::id(),
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    ];
    let ourselves = Value::Array(ourselves.map(Value::from).to_vec());
    for round in 0..3 {
        match round {
            0 => {}
            1 => manager.restart(),
            _ => manager.reload(),
        }
        for (wire, expected) in [(&mut unix, &ourselves), (&mut tcp, &Value::Nil)] {
            wire.send(&request(round, "who", &[]));
            assert_eq!(wire.reply(), (u64::from(round), Ok(expected.clone())));
        }
    }
    manager.stop_for_good();
}

/// Threads of the program's own use their descriptors up to the moment when it is replaced, although others are laid at the
/// same numbers for the successor.
#[test]
fn what_threads_write_meanwhile_goes_where_it_should() {
    for _ in 0..10 {
        let mut manager =
            Manager::new(0, "[sockets.rpc]\nlisten = [\"unix:DIR/rpc.sock\"]\n").with_test_daemon();
        manager.set_flag("take-first", true);
        manager.set_flag("journal", true);
        manager.start();
        let address = Address::Unix(manager.path("rpc.sock").into());
        let mut wires: Vec<Wire> = (0..4).map(|_| Wire::connect(&address)).collect();
        wires.iter_mut().for_each(|wire| wire.echo(1, 1));
        manager.reload();
        wires.iter_mut().for_each(|wire| wire.echo(2, 2));
        manager.stop();
        let log = manager.log();
        assert_eq!(log.matches("took over 4 connections").count(), 1, "{log}");
        assert!(!log.contains("close_range"), "{log}");
        let journal = std::fs::read(manager.path("flags/journal")).unwrap();
        assert_eq!(journal, b"written without pause");
    }
}

/// The numbers of the replies to so many requests.
fn numbers(count: u64) -> Vec<u8> {
    let reply = |number: u64| [&[0xcf][..], &number.to_be_bytes()].concat();
    (1..=count).flat_map(reply).collect()
}

const ASKED: u64 = 60_000;
/// As many of its requests come when the server is busy.
const ASKED_LATE: u64 = 3;

/// A client has read few of its replies when the stop comes, and some of its requests are not even read by the server. The
/// replies come in order, and then the end; `check` is told how many they were.
fn asks_more_than_it_reads(
    engine: &'static str,
    flag: &str,
    carry: [fn(&mut Manager); 2],
    check: fn(u64),
) {
    for (unix, carry) in [false, true].into_iter().zip(carry) {
        let mut manager = Manager::on(
            engine,
            16,
            "workers = 1\nhandover.drain = \"60s\"\n[sockets.counter]\n[sockets.bus]\n",
        )
        .with_test_daemon();
        let address = match unix {
            true => manager.listen_unix("counter"),
            false => manager.listen_tcp("counter"),
        };
        let bus = manager.listen_unix("bus");
        manager.start();
        let mut wire = Wire::connect(&address);
        greeted(&mut wire);
        let mut other = Wire::connect(&bus);
        manager.set_flag(flag, true);
        wire.send(&[0xc0; ASKED as usize]);
        assert_eq!(wire.exactly(9), numbers(1));
        other.send(&[0xc2]);
        manager.logged(1, &["busy for a while"]);
        wire.send(&[0xc0; ASKED_LATE as usize]);
        let replies = std::thread::scope(|scope| {
            let reading = scope.spawn(|| {
                assert_eq!(other.exactly(1), [0xc3]);
                // A server that did not wait for this client would have closed the connection by then.
                std::thread::sleep(Duration::from_millis(300));
                let rest = wire.rest();
                // Only then does this side end.
                drop(wire);
                rest
            });
            carry(&mut manager);
            reading.join().unwrap()
        });
        let (whole, rest) = replies.as_chunks::<9>();
        assert_eq!(rest, [], "{engine}: after {} replies", whole.len());
        let count = 1 + whole.len() as u64;
        assert!(numbers(count)[9..] == replies);
        check(count);
        // All that the service was given, and the frame of the other one.
        let served = format!("2 connections and {} frames", count + 1);
        manager.logged(1, &[&served]);
        manager.logged(1, &["closed 1 connection whose", "counter"]);
        other.send(&[0x01]);
        assert_eq!(other.exactly(1), [0xc3]);
        manager.stop_for_good();
    }
}

#[test]
fn every_request_of_one_that_cannot_be_saved_is_answered_before_its_end() {
    for engine in ["auto", "portable"] {
        let carry = [Manager::reload, Manager::restart];
        asks_more_than_it_reads(engine, "save-nothing", carry, |count| {
            assert_eq!(count, ASKED + ASKED_LATE);
        });
    }
}

/// What no service has been given by then is not answered any more.
#[test]
fn every_reply_of_one_that_cannot_be_saved_in_the_end_is_written() {
    for engine in ["auto", "portable"] {
        let carry: [fn(&mut Manager); 2] = [Manager::reload; 2];
        asks_more_than_it_reads(engine, "save-nothing-at-last", carry, |count| {
            assert!((1..=ASKED + ASKED_LATE).contains(&count), "{count}");
        });
    }
}

/// Slow calls that were received together are not all waited for: what is left of them is the successor's.
#[test]
fn what_is_too_slow_is_left_to_the_successor() {
    const ASKED: u64 = 150;
    for engine in ["auto", "portable"] {
        let config = "workers = 1\n[sockets.counter]\n[sockets.rpc]\n";
        let (mut manager, counter, rpc) = started(engine, config);
        manager.set_flag("slow", true);
        let mut wire = Wire::connect(&counter);
        greeted(&mut wire);
        wire.send(&[0xc0; ASKED as usize]);
        assert_eq!(wire.exactly(9), numbers(1));
        manager.reload();
        manager.set_flag("slow", false);
        assert!(wire.exactly(9 * (ASKED as usize - 1)) == numbers(ASKED)[9..]);
        assert_ne!(Wire::connect(&rpc).counter("counter", "frames_in"), 0);
        manager.logged(1, &["took over 1 connection"]);
        manager.stop_for_good();
    }
}

/// The workers have different things to wait for, and none stops reading before all have been asked.
#[test]
fn all_others_are_served_until_those_that_cannot_be_saved_have_ended() {
    for engine in ["auto", "portable"] {
        let config = "workers = 2\nhandover.drain = \"60s\"\n[sockets.counter]\nworkers = \"1\"\n[sockets.rpc]\nworkers = \"0\"\n";
        let (mut manager, address, rpc) = started(engine, config);
        manager.set_flag("save-nothing", true);
        let mut other = Wire::connect(&rpc);
        other.echo(1, 1);
        let [mut slow, mut idle] = [(); 2].map(|()| Wire::connect(&address));
        greeted(&mut slow);
        greeted(&mut idle);
        // The kernel does not take so much for a client that does not read.
        slow.send(&[0xc0; ASKED as usize]);
        assert_eq!(slow.exactly(9), numbers(1));
        let mark = manager.mark();
        manager.signal(Signal::SIGHUP);
        assert_eq!(idle.rest(), b"");
        drop(idle);
        other.echo(2, 2);
        // It is cut if the process does not answer others before it has ended.
        assert!(slow.rest() == numbers(ASKED)[9..]);
        drop(slow);
        manager.wait_for(mark, "RELOADING=1");
        manager.wait_for(mark, "READY=1");
        manager.logged(1, &["closed 2 connections whose", "counter"]);
        other.echo(3, 3);
        manager.stop_for_good();
    }
}

/// What one service saved, and what has come of a frame, means nothing to another one.
#[test]
fn connections_whose_name_another_service_answers_now_end() {
    // Who waits for the rest of a frame is not cut for that.
    let config = |of_x: &str| {
        format!(
            "workers = 2\n[limits]\nframe_timeout = \"1h\"\n[sockets.x]\nservice = \"{of_x}\"\n[sockets.y]\nservice = \"counter\"\n[sockets.rpc]\n"
        )
    };
    let mut manager = Manager::new(16, &config("counter")).with_test_daemon();
    let [x, y, rpc] = ["x", "y", "rpc"].map(|name| manager.listen_unix(name));
    manager.start();
    let mut other = Wire::connect(&y);
    greeted(&mut other);
    let mut at_rpc = Wire::connect(&rpc);
    for (round, (before, now)) in [("counter", "bus"), ("bus", "counter")].iter().enumerate() {
        // One of the bus's is a reader, whose session is saved, and one is stateless.
        let mut ending = [b"\xc0", b"\x07"].map(|frame| {
            let mut wire = Wire::connect(&x);
            if *before == "counter" {
                greeted(&mut wire);
            }
            wire.send(frame);
            wire.value();
            // The beginning of a frame of two.
            wire.send(b"\x92\xc0");
            wire
        });
        if *before == "bus" {
            // The reader is told what the other one sent.
            assert_eq!(ending[0].value(), Value::from(7));
        }
        at_rpc.echo(1, 1);
        manager.configure(&config(now));
        match round {
            0 => manager.reload(),
            _ => manager.restart(),
        }
        for wire in &mut ending {
            assert_eq!(wire.rest(), b"");
        }
        manager.logged(
            1,
            &[&format!(
                "closing 2 connections of service {before}: service {now} answers this name now"
            )],
        );
        // The others go on, and new ones are the new service's.
        assert_eq!(count(&mut other), round as u64 + 1);
        let mut new = Wire::connect(&x);
        if *now == "counter" {
            greeted(&mut new);
            assert_eq!(count(&mut new), 1);
        } else {
            new.send(b"\x07");
            assert_eq!(new.value(), Value::from(true));
        }
    }
    assert_eq!(at_rpc.counter("x", "unrestored"), 0);
    manager.stop_for_good();
}
