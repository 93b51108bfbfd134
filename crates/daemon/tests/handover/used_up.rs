//! Connections have used up the descriptors, and the next process is to have more of its own.

use nix::sys::signal::Signal;
use ringhold_client::Address;

use crate::built::handover_daemon;
use crate::bursts::limited;
use crate::changes::{free, sections};
use crate::common::until;
use crate::common::wire::{Wire, counter, request};
use crate::manager::{Manager, RINGHOLD};

/// This configuration, and `count` addresses more, which are called so.
fn with_more(config: &str, count: usize, name: &str) -> String {
    let paths = (0..count).map(|index| format!("\"unix:DIR/{name}.{index}.sock\""));
    let listen = paths.collect::<Vec<_>>().join(", ");
    format!("{config}[sockets.more]\nservice = \"rpc\"\nlisten = [{listen}]\n")
}

/// Starts a service that may open so many files, and connects to it as often as it accepts.
fn use_up(manager: &mut Manager, limit: usize, address: &Address) -> Vec<Wire> {
    limited(manager, RINGHOLD, limit);
    manager.start();
    let mut wires: Vec<Wire> = (0..limit).map(|_| Wire::connect(address)).collect();
    manager.logged(1, &["accepting rests", "Too many open files"]);
    // They are accepted in the order in which they connected.
    let served = wires[0].counter("a", "accepted") as usize;
    wires.truncate(served);
    wires
}

/// Nobody could go back if the new program had them no more.
#[test]
fn a_reload_that_takes_more_than_connections_leave_is_refused() {
    for engine in ["auto", "portable"] {
        let a = free();
        let config = sections(&[("a", &a)]);
        let mut manager = Manager::on(engine, 0, &config);
        let mut wires = use_up(&mut manager, 200, &a);
        let served = wires.len();
        let too_much = [
            with_more(&config, 60, "x"),
            config.replace("workers = 2", "workers = 12"),
        ];
        for (refusals, other) in too_much.iter().enumerate() {
            manager.configure(other);
            manager.reload();
            let why = [
                "the reload is refused, nothing has changed",
                "connections that are open leave ",
                "; raise LimitNOFILE=",
                "or try again when connections have ended",
            ];
            manager.logged(refusals + 1, &why);
            wires.iter_mut().for_each(|wire| wire.echo(1, 1));
        }
        // What takes no more is not.
        for reloads in 1..=2 {
            manager.configure(&config);
            manager.reload();
            manager.logged(reloads, &["took over", "connections"]);
            wires.iter_mut().for_each(|wire| wire.echo(2, 2));
        }
        // Nor is the rest, once there is room for it.
        wires.truncate(served / 4);
        until("the end of most", || {
            (counter(&a, "a", "open") <= wires.len() as u64 + 1).then_some(())
        });
        for other in too_much.iter().rev() {
            manager.configure(other);
            manager.reload();
            wires.iter_mut().for_each(|wire| wire.echo(3, 3));
        }
        let log = manager.log();
        assert_eq!(log.matches("is refused").count(), 2, "{log}");
        assert!(!log.contains("connections of the predecessor"), "{log}");
        manager.stop_for_good();
    }
}

/// Those who connect while a reload waits for a deferred reply do not use up what the new program takes.
#[test]
fn what_a_reload_is_promised_is_kept_for_it() {
    for engine in ["auto", "portable"] {
        let a = free();
        let config = sections(&[("a", &a)]) + "[handover]\ndrain = \"10min\"\n";
        let mut manager = Manager::on(engine, 0, &config).with_test_daemon();
        limited(&mut manager, handover_daemon().to_str().unwrap(), 300);
        manager.start();
        let [mut held, mut other] = [(); 2].map(|()| Wire::connect(&a));
        held.send(&request(1, "hold", &[]));
        held.echo(2, 2);
        other.echo(3, 3);
        manager.configure(&with_more(&config, 60, "x"));
        manager.signal(Signal::SIGHUP);
        manager.logged(1, &["waiting for deferred replies (1 open)"]);
        let mut wires: Vec<Wire> = (0..300).map(|_| Wire::connect(&a)).collect();
        manager.logged(1, &["accepting rests", "Too many open files"]);
        let served = other.counter("a", "accepted") as usize - 2;
        wires.truncate(served);
        other.send(&request(4, "release", &[]));
        assert_eq!(other.reply(), (4, Ok(1.into())));
        assert_eq!(held.reply(), (1, Ok("released".into())));
        manager.logged(1, &[&format!("took over {} connections", served + 2)]);
        for wire in wires.iter_mut().chain([&mut held, &mut other]) {
            wire.echo(5, 5);
        }
        let log = manager.log();
        assert!(!log.contains("connections of the predecessor"), "{log}");
        manager.stop_for_good();
    }
}

/// Those of the addresses that are given up are enough for the new ones.
#[test]
fn a_reload_to_as_many_other_addresses_needs_no_descriptor() {
    for engine in ["auto", "portable"] {
        let a = free();
        let config = sections(&[("a", &a)]);
        let mut manager = Manager::on(engine, 0, &with_more(&config, 60, "x"));
        let mut wires = use_up(&mut manager, 260, &a);
        for other in [with_more(&config, 60, "y"), with_more(&config, 20, "x")] {
            manager.configure(&other);
            manager.reload();
            wires.iter_mut().for_each(|wire| wire.echo(2, 2));
        }
        let log = manager.log();
        for fault in ["is refused", "connections of the predecessor"] {
            assert!(!log.contains(fault), "{fault}:\n{log}");
        }
        manager.stop_for_good();
    }
}

/// Nobody is asked before a start. It makes room for what it binds: some connections are lost rather than all.
#[test]
fn a_restart_that_takes_more_than_connections_leave_goes_on_with_those_that_fit() {
    for engine in ["auto", "portable"] {
        // What is inherited is described with what the predecessor had bound, and makes no room for anything.
        for inherited in [0, 60] {
            let a = free();
            let mut config = sections(&[("a", &a)]);
            if inherited > 0 {
                config += "[sockets.unit]\nservice = \"rpc\"\n";
            }
            let mut manager = Manager::on(engine, 16, &config);
            (0..inherited).for_each(|_| drop(manager.listen_unix("unit")));
            let mut wires = use_up(&mut manager, 200 + inherited, &a);
            manager.stop();
            manager.configure(&with_more(&config, 60, "x"));
            manager.start();
            let why = "could not be received: too many open files; raise LimitNOFILE=";
            manager.logged(1, &[why]);
            let all = wires.len();
            let served = wires.iter_mut().map(Wire::is_served);
            let alive = served.filter(|is_served| *is_served).count();
            assert!((all - 60..all).contains(&alive), "{alive} of {all}");
            manager.logged(1, &[&format!("took over {alive} connections")]);
            manager.logged(
                1,
                &[&format!(
                    "lost {} connections of the predecessor",
                    all - alive
                )],
            );
            manager.stop_for_good();
        }
    }
}
