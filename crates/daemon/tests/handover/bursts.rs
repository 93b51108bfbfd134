//! Signals at any moment, and many connections.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringhold_client::Address;
use rmpv::Value;

use crate::built::handover_daemon;
use crate::common::until;
use crate::common::wire::{Wire, counter, request};
use crate::load::Load;
use crate::manager::{Manager, RINGHOLD, write_program};

const CONFIG: &str = "workers = 2\n[sockets.rpc]\n";

/// Sends SIGHUP without a pause, from a thread, until told to stop.
struct Burst {
    over: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Burst {
    fn start(pid: i32) -> Self {
        let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let told = over.clone();
        let thread = std::thread::spawn(move || {
            while !told.load(std::sync::atomic::Ordering::Relaxed) {
                // The process may have ended; its number is not used again until it has been waited for.
                let _ = kill(Pid::from_raw(pid), Signal::SIGHUP);
                std::thread::sleep(std::time::Duration::from_micros(500));
            }
        });
        Burst { over, thread }
    }

    fn end(self) {
        self.over.store(true, std::sync::atomic::Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

#[test]
fn a_burst_of_hangups_reloads_again_and_again() {
    let mut manager = Manager::new(16, CONFIG);
    let address = manager.listen_tcp("rpc");
    manager.start();
    let load = Load::start(&address, 20, 4);
    let mark = manager.mark();
    let burst = Burst::start(manager.pid());
    manager.logged(15, &["took over"]);
    burst.end();
    // The last one that is pending.
    manager.reload();
    let reloading = |manager: &Manager| manager.count(mark, "RELOADING=1");
    until("as many ends as beginnings", || {
        (manager.count(mark, "READY=1") == reloading(&manager)).then_some(())
    });
    load.end();
    manager.stop_for_good();
}

/// SIGTERM in the middle of a burst of SIGHUP, at another moment each time: it stops, and nothing is lost.
#[test]
fn a_stop_in_a_burst_stops() {
    let mut manager = Manager::new(16, CONFIG);
    let address = manager.listen_tcp("rpc");
    manager.start();
    let mut wire = Wire::connect(&address);
    let load = Load::start(&address, 20, 4);
    for round in 0..12 {
        let burst = Burst::start(manager.pid());
        std::thread::sleep(std::time::Duration::from_millis(round * 4));
        for _ in 0..3 {
            manager.signal(Signal::SIGTERM);
        }
        let status = manager.ended_while(|| burst.end());
        assert!(status.success(), "{status}:\n{}", manager.log());
        manager.start();
        wire.echo(round as u32, round);
    }
    load.end();
    manager.stop_for_good();
}

/// From the very beginning: as soon as the process exists.
#[test]
fn signals_before_it_is_ready_do_not_kill() {
    let mut manager = Manager::new(16, CONFIG);
    let address = manager.listen_unix("rpc");
    manager.start();
    let mut wire = Wire::connect(&address);
    wire.echo(0, 0);
    for round in 1..=5 {
        manager.reload();
        // The process that was just replaced gets another one at once.
        manager.signal(Signal::SIGHUP);
        manager.signal(Signal::SIGTERM);
        assert!(manager.ended().success());
        manager.start();
        wire.echo(round, 1);
    }
    manager.stop_for_good();
}

/// Runs a program that may open so many files.
pub(crate) fn limited(manager: &mut Manager, program: &str, limit: usize) {
    let script = format!("#!/bin/sh\nulimit -n {limit}\nexec {program} \"$@\"\n");
    let path = manager.path("limited");
    write_program(&path, &script);
    manager.run_as(&path);
}

/// A daemon that may open 100 files, and more clients than it can accept.
fn crowded(engine: &'static str, clients: usize) -> (Manager, Vec<Wire>) {
    let mut manager = Manager::on(engine, 16, CONFIG);
    let address = manager.listen_tcp("rpc");
    limited(&mut manager, RINGHOLD, 100);
    manager.start();
    let wires = (0..clients).map(|_| Wire::connect(&address)).collect();
    manager.logged(
        1,
        &[
            "accepting rests",
            "Too many open files",
            "; raise LimitNOFILE=",
        ],
    );
    (manager, wires)
}

/// Connections have used up every descriptor, and more are waiting. They can be handed over all the same.
#[test]
fn no_descriptor_is_left() {
    for engine in ["auto", "portable"] {
        let (mut manager, mut wires) = crowded(engine, 100);
        // They are accepted in the order in which they connected.
        let served = wires[0].counter("rpc", "accepted") as usize;
        assert!((41..100).contains(&served), "{served}");
        wires[served].send(&request(0, "ping", &[]));
        for round in 1..=4 {
            if round % 2 == 0 {
                manager.restart();
            } else {
                manager.reload();
            }
            manager.logged(round, &["took over"]);
            for wire in &mut wires[..served] {
                wire.echo(7, 7);
            }
        }
        // The others have not been lost, either. The first of them has asked already.
        wires.drain(..served);
        assert_eq!(wires[0].reply(), (0, Ok("pong".into())));
        wires.iter_mut().for_each(|wire| wire.echo(8, 8));
        assert!(!manager.log().contains("were lost"), "{}", manager.log());
        manager.stop_for_good();
    }
}

/// While a deferred reply is waited for, connections are accepted, but not with the descriptors that the handover needs.
#[test]
fn no_descriptor_is_left_while_a_deferred_reply_is_waited_for() {
    for (engine, signal) in [
        ("auto", Signal::SIGHUP),
        ("auto", Signal::SIGTERM),
        ("portable", Signal::SIGHUP),
        ("portable", Signal::SIGTERM),
    ] {
        let mut manager = Manager::on(
            engine,
            16,
            "workers = 1\n[handover]\ndrain = \"60s\"\n[sockets.rpc]\n",
        )
        .with_test_daemon();
        let address = manager.listen_tcp("rpc");
        limited(&mut manager, handover_daemon().to_str().unwrap(), 100);
        manager.start();
        let [mut held, mut other] = [(); 2].map(|()| Wire::connect(&address));
        held.send(&request(1, "hold", &[]));
        held.echo(2, 2);
        let mut served: Vec<Wire> = (0..100).map(|_| Wire::connect(&address)).collect();
        manager.logged(
            1,
            &[
                "accepting rests",
                "Too many open files",
                "; raise LimitNOFILE=",
            ],
        );
        // Two of them came before.
        let count = other.counter("rpc", "accepted") as usize - 2;
        assert!((41..100).contains(&count), "{count}");
        let mut waiting = served.split_off(count);
        waiting[0].send(&request(0, "ping", &[]));

        let mark = manager.mark();
        manager.signal(signal);
        manager.logged(1, &["waiting for deferred replies (1 open)"]);
        // The first of them has asked already. Each takes the place of one that leaves.
        assert_eq!(
            take_the_place_of(&mut served, &mut waiting[0]),
            (0, Ok("pong".into()))
        );
        for wire in &mut waiting[1..4] {
            wire.send(&request(0, "ping", &[]));
            assert_eq!(take_the_place_of(&mut served, wire), (0, Ok("pong".into())));
        }
        other.send(&request(3, "release", &[]));
        assert_eq!(other.reply(), (3, Ok(1.into())));
        assert_eq!(held.reply(), (1, Ok("released".into())));
        if signal == Signal::SIGTERM {
            let status = manager.ended();
            assert!(status.success(), "{status}:\n{}", manager.log());
            manager.start();
        }
        manager.wait_for(mark, "READY=1");
        for wire in [&mut held, &mut other].into_iter().chain(&mut served) {
            wire.echo(7, 7);
        }
        drop(served);
        waiting.iter_mut().for_each(|wire| wire.echo(8, 8));
        assert!(!manager.log().contains("were lost"), "{}", manager.log());
        manager.stop_for_good();
    }
}

/// What is kept for a child and for questions is not taken by any listener while it is borrowed.
#[test]
fn no_descriptor_is_left_on_two_listeners() {
    for engine in ["auto", "portable"] {
        let config = "workers = 2\n[sockets.rpc]\n[sockets.topics]\n";
        let mut manager = Manager::on(engine, 16, config).with_test_daemon();
        let addresses = ["rpc", "topics"].map(|name| manager.listen_tcp(name));
        limited(&mut manager, handover_daemon().to_str().unwrap(), 100);
        manager.start();
        let wires: Vec<Wire> = (0..200)
            .map(|index| Wire::connect(&addresses[index % 2]))
            .collect();
        manager.logged(
            1,
            &[
                "accepting rests",
                "Too many open files",
                "; raise LimitNOFILE=",
            ],
        );
        for round in 1..=20 {
            match round % 2 {
                0 => manager.restart(),
                _ => manager.reload(),
            }
            manager.logged(round, &["took over"]);
        }
        let log = manager.log();
        for fault in ["were lost", "is refused", "is unknown"] {
            assert!(!log.contains(fault), "{fault}:\n{log}");
        }
        drop(wires);
        manager.stop_for_good();
    }
}

/// Reloads that are refused meanwhile do not use up what is kept for the next one.
#[test]
fn no_descriptor_is_left_and_reloads_are_refused() {
    for engine in ["auto", "portable"] {
        let (mut manager, mut wires) = crowded(engine, 200);
        manager.configure("[sockets.rpc\n");
        for refusal in 1..=6 {
            manager.reload();
            let parts = ["the reload is refused", "refuses (exit status: 2)"];
            manager.logged(refusal, &parts);
            wires[0].echo(1, 1);
            // Accepting rests for 100 ms at a time; then it takes what descriptors there are.
            std::thread::sleep(std::time::Duration::from_millis(150));
        }
        manager.configure(CONFIG);
        manager.reload();
        manager.logged(1, &["took over"]);
        wires[0].echo(2, 2);
        manager.stop_for_good();
    }
}

/// One of `served` ends its connection, and the first reply to `wire`, which could not be accepted, comes.
fn take_the_place_of(served: &mut Vec<Wire>, wire: &mut Wire) -> (u64, Result<Value, Value>) {
    served.pop();
    wire.reply()
}

/// With a lower limit not all connections can be received. Those are closed and counted; the others go on.
#[test]
fn fewer_descriptors_than_connections() {
    let mut manager = Manager::new(16, CONFIG);
    let address = manager.listen_unix("rpc");
    manager.start();
    let mut wires: Vec<Wire> = (0..120).map(|_| Wire::connect(&address)).collect();
    wires.iter_mut().for_each(|wire| wire.echo(1, 1));
    manager.stop();
    limited(&mut manager, RINGHOLD, 100);
    manager.start();
    manager.logged(1, &["too many open files; raise LimitNOFILE="]);
    manager.logged(1, &["connections of the predecessor", "lost"]);
    let alive: Vec<bool> = wires.iter_mut().map(Wire::is_served).collect();
    let count = alive.iter().filter(|alive| **alive).count();
    assert!((20..100).contains(&count), "{count} of 120");
    manager.logged(1, &[&format!("took over {count} connections")]);
    manager.stop_for_good();
}

/// What is handed over is described in a file, in memory. Exceeding the limit of files would end the process.
#[test]
fn a_file_that_may_be_smaller_than_the_state() {
    for step in [Manager::reload, Manager::restart] {
        let mut manager = Manager::new(16, CONFIG);
        let address = manager.listen_unix("rpc");
        let script = manager.path("small-files");
        // Blocks of 512 or 1024 bytes.
        let text = format!("#!/bin/sh\nulimit -f 8\nexec {RINGHOLD} \"$@\"\n");
        write_program(&script, &text);
        manager.run_as(&script);
        manager.start();
        let mut wire = Wire::connect(&address);
        wire.echo(1, 1);
        step(&mut manager);
        wire.echo(2, 2);

        let mut large = Wire::connect(&address);
        let frame = request(3, "echo", &[Value::Binary(vec![0; 30_000])]);
        large.send(&frame[..20_000]);
        until("the bytes", || {
            (wire.counter("rpc", "bytes_in") >= 20_000).then_some(())
        });
        step(&mut manager);
        let why = "not everything fits into the handover (File too large (os error 27)), 2 connections shut down: ";
        manager.logged(1, &[why, "raise LimitFSIZE="]);
        assert!(wire.is_over() && large.is_over());
        Wire::connect(&address).echo(4, 4);
        manager.stop_for_good();
    }
}

/// A limit that is too low for the daemon itself is named, and costs no connection: everything stays stored. Under the lowest
/// one that suffices, connections live on as ever.
#[test]
fn fewer_descriptors_than_a_daemon() {
    for engine in ["auto", "portable"] {
        let mut manager = Manager::on(engine, 16, CONFIG);
        let address = manager.listen_unix("rpc");
        manager.start();
        let mut wires: Vec<Wire> = (0..3).map(|_| Wire::connect(&address)).collect();
        wires.iter_mut().for_each(|wire| wire.echo(1, 1));
        manager.stop();
        let mut failures = 0;
        for limit in 8.. {
            limited(&mut manager, RINGHOLD, limit);
            let (mark, before) = (manager.mark(), manager.log().len());
            manager.launch();
            if manager.becomes_ready(mark) {
                break;
            }
            failures += 1;
            assert_eq!(manager.ended().code(), Some(1));
            let log = manager.log().split_off(before);
            let said = log.matches("raise LimitNOFILE=").count();
            assert_eq!((log.lines().count(), said), (1, 1), "{limit}: {log}");
            let stored = manager.state().stored().join(" ");
            assert_eq!(stored, "ringhold.inlet ringhold.outlet ringhold.state");
        }
        assert!(failures > 0);
        manager.logged(1, &["took over 3 connections"]);
        wires.iter_mut().for_each(|wire| wire.echo(2, 2));
        for step in [Manager::reload, Manager::restart] {
            step(&mut manager);
            wires.iter_mut().for_each(|wire| wire.echo(3, 3));
        }
        manager.stop_for_good();
    }
}

#[test]
fn five_thousand_connections() {
    // This process needs one for each, and its other tests some; the service raises its limit itself.
    let limit = ringhold_core::rlimit::raise().map_or(1024, |raised| raised.after);
    let half = 2500.min(limit.saturating_sub(1000) / 2) as usize;
    let all = 2 * half as u64;
    if all < 5000 {
        eprintln!("only {all} connections: the limit of descriptors is {limit}");
    }
    let mut manager = Manager::new(16, CONFIG);
    let tcp = manager.listen_tcp("rpc");
    let unix = manager.listen_unix("rpc");
    manager.start();
    let of = |address: &Address, count: usize| -> Vec<Wire> {
        (0..count).map(|_| Wire::connect(address)).collect()
    };
    let mut wires = [of(&tcp, half), of(&unix, half)].concat_all();
    until("as many connections", || {
        (wires[half].counter("rpc", "open") == all).then_some(())
    });
    for step in [Manager::restart, Manager::reload, Manager::restart] {
        // Those of the first half have a request under way.
        for (id, wire) in wires.iter_mut().enumerate().take(half) {
            wire.send(&request(id as u32, "echo", &[id.into()]));
        }
        step(&mut manager);
        assert_eq!(wires[half].counter("rpc", "restored"), all);
        for (id, wire) in wires.iter_mut().enumerate().take(half) {
            assert_eq!(wire.reply(), (id as u64, Ok(id.into())));
        }
        for (id, wire) in wires.iter_mut().enumerate().skip(half) {
            wire.echo(id as u32, 3);
        }
    }
    drop(wires);
    until("the end of all", || {
        (counter(&tcp, "rpc", "open") == 1).then_some(())
    });
    manager.stop_for_good();
}

trait ConcatAll {
    fn concat_all(self) -> Vec<Wire>;
}

impl<const N: usize> ConcatAll for [Vec<Wire>; N] {
    fn concat_all(self) -> Vec<Wire> {
        self.into_iter().flatten().collect()
    }
}
