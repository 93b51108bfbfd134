//! Replies that are given later: who waits for them, and for how long.

use std::time::Duration;

use nix::sys::signal::Signal;
use ringhold_client::load::LoadPlan;
use ringhold_client::{Client, Options, RemoteError};
use ringhold_core::Abandoned;
use rmpv::Value;

use crate::common::until;
use crate::common::wire::{Wire, counter, request};
use crate::load::Load;
use crate::manager::Manager;

fn config(drain: &str) -> String {
    format!("workers = 2\n[handover]\ndrain = \"{drain}\"\n[sockets.rpc]\n")
}

/// One call is held; everybody, and those who connect meanwhile, is served until it is answered, deferred replies too. Then all go
/// on.
#[test]
fn a_deferred_reply_freezes_nobody() {
    let mut manager = Manager::new(16, &config("10min")).with_test_daemon();
    let address = manager.listen_tcp("rpc");
    manager.start();
    let [mut held, mut other] = [(); 2].map(|()| Wire::connect(&address));
    for (round, signal) in [Signal::SIGHUP, Signal::SIGTERM].into_iter().enumerate() {
        held.send(&request(1, "hold", &[]));
        // Requests are taken in order, so it is held by then.
        held.echo(0, 0);
        let mark = manager.mark();
        let frames = counter(&address, "rpc", "frames_in");
        manager.signal(signal);
        manager.logged(round + 1, &["waiting for deferred replies (1 open)"]);
        // Both workers have read their mail when they have served somebody who came after it.
        for id in 0..10 {
            Wire::connect(&address).echo(id, 8);
        }
        let later = |wire: &mut Wire, id: u32| {
            wire.send(&request(id, "later", &[Value::Binary(vec![id as u8])]));
            assert_eq!(wire.reply(), (id.into(), Ok(Value::Binary(vec![id as u8]))));
        };
        for id in 2..100 {
            held.echo(id, 6);
            later(&mut held, id);
            later(&mut other, id);
            Wire::connect(&address).echo(id, 8);
            later(&mut Wire::connect(&address), id);
        }
        assert!(counter(&address, "rpc", "frames_in") > frames + 490);
        assert_eq!(manager.count(mark, "READY=1"), 0);

        other.send(&request(100, "release", &[]));
        assert_eq!(other.reply(), (100, Ok(1.into())));
        assert_eq!(held.reply(), (1, Ok("released".into())));
        if signal == Signal::SIGTERM {
            assert!(manager.ended().success());
            manager.start();
        }
        manager.wait_for(mark, "READY=1");
        held.echo(101, 9);
        other.echo(101, 9);
    }
    assert_eq!(counter(&address, "rpc", "abandoned"), 0);
    manager.stop_for_good();
}

#[test]
fn a_deferred_reply_that_outlives_the_drain_becomes_an_error() {
    let mut manager = Manager::new(16, &config("150ms")).with_test_daemon();
    let address = manager.listen_unix("rpc");
    manager.start();
    let mut held: Vec<Wire> = (0..10).map(|_| Wire::connect(&address)).collect();
    let mut other = Wire::connect(&address);
    // Both ends have the text, and neither knows the other.
    assert_eq!(RemoteError::STOPPING, Abandoned::STOPPING);
    let mut client = Client::connect(&address, Options::default()).unwrap();
    client.set_call_timeout(None);
    for step in [Manager::reload, Manager::restart] {
        let promised = client.send("hold", &()).unwrap();
        assert_eq!(client.call::<_, u8>("echo", &(3,)).unwrap(), 3);
        for wire in &mut held {
            wire.send(&request(1, "hold", &[]));
            wire.send(&request(2, "hold", &[]));
            wire.echo(3, 3);
        }
        other.echo(1, 1);
        step(&mut manager);
        let error = client.receive_reply(promised).unwrap().result.unwrap_err();
        assert!(error.is_stopping(), "{error}");
        let error = client.call::<_, u8>("nothing", &()).unwrap_err();
        assert!(!error.remote().unwrap().is_stopping(), "{error}");
        for wire in &mut held {
            for id in 1..=2 {
                let (answered, error) = wire.reply();
                let error: Value = error.unwrap_err();
                assert_eq!(answered, id);
                assert!(error.as_str().unwrap().contains("restarting"), "{error}");
            }
            // The connection goes on.
            wire.echo(4, 4);
        }
        other.echo(2, 2);
    }
    manager.stop_for_good();
}

/// Nobody goes on with them in the next process, so they are told here, and see an orderly end behind that, although what they have sent
/// since was not read. Nobody waits for what is repeatable.
#[test]
fn who_has_sent_bad_input_gets_an_error_and_the_end() {
    for engine in ["auto", "portable"] {
        let mut manager = Manager::on(engine, 16, &config("300ms")).with_test_daemon();
        let address = manager.listen_tcp("rpc");
        manager.start();
        let mut other = Wire::connect(&address);
        for step in [Manager::reload, Manager::restart] {
            let mut refused: Vec<Wire> = (0..10).map(|_| Wire::connect(&address)).collect();
            for (number, wire) in refused.iter_mut().enumerate() {
                let methods = [["hold", "wait"], ["wait", "wait"]][number % 2];
                for (id, method) in (1..).zip(methods) {
                    wire.send(&request(id, method, &[]));
                }
                wire.echo(3, 3);
                wire.send(&[0xc1]);
            }
            until("the refusals", || {
                (other.counter("rpc", "bad_input") == 10).then_some(())
            });
            for wire in &mut refused {
                wire.send(&[7; 5000]);
            }
            step(&mut manager);
            for wire in &mut refused {
                let mut ids = [0; 2].map(|_| {
                    let (id, error) = wire.reply();
                    let error: Value = error.unwrap_err();
                    assert!(error.as_str().unwrap().contains("restarting"), "{error}");
                    id
                });
                ids.sort_unstable();
                assert_eq!(ids, [1, 2]);
                assert_eq!(wire.rest(), []);
            }
            other.echo(4, 4);
        }
        manager.stop_for_good();
    }
}

/// However a process ends, its log says what it waited for, what it gave up, and what it has done.
#[test]
fn what_is_given_up_is_in_the_log() {
    for (store_max, carrier) in [(16, "left 2 connections"), (0, "stopped; 2 connections")] {
        let mut manager = Manager::new(store_max, &config("150ms")).with_test_daemon();
        let address = manager.listen_tcp("rpc");
        manager.start();
        let mut held = [(); 2].map(|()| Wire::connect(&address));
        let mut ends = 0;
        for (step, carrier) in [
            (Manager::reload as fn(&mut Manager), "handing 2 connections"),
            (Manager::stop, carrier),
        ] {
            for wire in &mut held {
                wire.send(&request(1, "hold", &[]));
                // Requests are taken in order, so it is held by then.
                wire.echo(2, 2);
            }
            step(&mut manager);
            ends += 1;
            for part in [
                "waiting for deferred replies (2 open)",
                "gave up 2 deferred replies after handover.drain",
                "2 connections and 4 frames",
            ] {
                manager.logged(ends, &[part]);
                assert_eq!(manager.log().matches(part).count(), ends, "{part}");
            }
            manager.logged(1, &[carrier]);
            for wire in &mut held {
                assert_eq!(wire.reply().0, 1);
            }
        }
        // The first process had both connections, and the other one took them over.
        let log = manager.log();
        for part in [
            "this process has served 2 connections and 4 frames",
            "stopped; 2 connections and 4 frames were served",
        ] {
            assert_eq!(log.matches(part).count(), 1, "{log}");
        }
    }
}

/// Calls that are made while a handover waits for an endless one take less than the drain, but end after it.
#[test]
fn what_is_called_during_the_drain_has_a_drain_of_its_own() {
    for engine in ["auto", "portable"] {
        let mut manager = Manager::on(engine, 16, &config("3s")).with_test_daemon();
        let address = manager.listen_tcp("rpc");
        manager.start();
        let mut held = Wire::connect(&address);
        let mut others: Vec<Wire> = (0..10).map(|_| Wire::connect(&address)).collect();
        for (round, signal) in [Signal::SIGHUP, Signal::SIGTERM].into_iter().enumerate() {
            held.send(&request(1, "hold", &[]));
            held.echo(2, 2);
            let mark = manager.mark();
            manager.signal(signal);
            manager.logged(round + 1, &["waiting for deferred replies (1 open)"]);
            std::thread::sleep(Duration::from_secs(1));
            for other in &mut others {
                other.send(&request(1, "sleep", &[2500.into()]));
            }
            let (answered, error) = held.reply();
            let error: Value = error.unwrap_err();
            assert_eq!(answered, 1);
            assert!(error.as_str().unwrap().contains("restarting"), "{error}");
            for other in &mut others {
                assert_eq!(other.reply(), (1, Ok(2500.into())));
            }
            if signal == Signal::SIGTERM {
                assert!(manager.ended().success());
                manager.start();
            }
            manager.wait_for(mark, "READY=1");
            for wire in &mut others {
                wire.echo(3, 3);
            }
        }
        manager.stop_for_good();
    }
}

/// They wait through any number of restarts, with what they ask besides, and nothing waits for them. Also those who have ended their
/// side.
#[test]
fn who_asks_what_is_repeatable_goes_on_waiting_in_the_next_process() {
    for engine in ["auto", "portable"] {
        let mut manager = Manager::on(engine, 16, &config("10min")).with_test_daemon();
        let address = &manager.listen_tcp("rpc");
        manager.start();
        let mut waiting: Vec<Wire> = (0..20).map(|_| Wire::connect(address)).collect();
        for (id, wire) in (1..).zip(&mut waiting) {
            wire.send(&request(id, "wait", &[]));
            wire.echo(100, 8);
        }
        let mut ended = Wire::connect(address);
        ended.send(&request(5, "wait", &[]));
        ended.echo(6, 8);
        ended.finish_sending();
        for step in [Manager::reload, Manager::restart, Manager::reload] {
            // Half of a request, of which the rest comes in the next process.
            let other = request(200, "echo", &["x".into()]);
            let (head, rest) = other.split_at(other.len() / 2);
            waiting.iter_mut().for_each(|wire| wire.send(head));
            step(&mut manager);
            for wire in &mut waiting {
                wire.send(rest);
                assert_eq!(wire.reply(), (200, Ok("x".into())));
            }
        }
        let mut giver = Wire::connect(address);
        let mut given = 0;
        // Each worker has a service of its own, and they share those who wait.
        while given < 21 {
            giver.send(&request(1, "give", &[7.into()]));
            given += giver.reply().1.unwrap().as_u64().unwrap();
        }
        for (id, wire) in (1..).zip(&mut waiting) {
            assert_eq!(wire.reply(), (id, Ok(7.into())));
            wire.echo(300, 8);
        }
        assert_eq!(ended.reply(), (5, Ok(7.into())));
        assert_eq!(counter(address, "rpc", "abandoned"), 0);
        assert!(!manager.log().contains("waiting for deferred replies"));
        manager.stop_for_good();
    }
}

/// Everybody calls slow methods all the time. If connections were read on as soon as they are answered, there would
/// always be an open ticket, until the drain is over and some get an error.
#[test]
fn steady_slow_calls_do_not_use_up_the_drain() {
    let mut manager = Manager::new(16, &config("20s")).with_test_daemon();
    let address = manager.listen_tcp("rpc");
    manager.start();
    let load = Load::with(LoadPlan {
        connections: 30,
        short_lived: 4,
        method: "later".into(),
        depth: 4,
        requests_per_connection: 3,
        ..LoadPlan::new(address.clone())
    });
    for round in 0..12 {
        if round % 2 == 0 {
            manager.reload();
        } else {
            manager.restart();
        }
    }
    load.end();
    manager.stop_for_good();
}

/// The main thread waits for the workers, who wait for a reply; the watchdog is fed all the same.
#[test]
fn the_watchdog_is_fed_meanwhile() {
    let mut manager = Manager::new(16, &config("3s")).with_test_daemon();
    manager.set_environment("WATCHDOG_USEC", "200000");
    let address = manager.listen_unix("rpc");
    manager.start();
    let mut held = Wire::connect(&address);
    held.send(&request(1, "hold", &[]));
    held.send(&request(2, "release", &[]));
    assert_eq!(held.reply(), (2, Ok(1.into())));
    assert_eq!(held.reply(), (1, Ok("released".into())));
    held.send(&request(3, "hold", &[]));
    held.echo(4, 4);
    let mark = manager.mark();
    manager.reload();
    // Once every 50 ms, of 3000; how punctual the machine is does not matter.
    assert!(manager.count(mark, "WATCHDOG=1") >= 3);
    assert!(held.reply().1.is_err());
    manager.stop_for_good();
}
