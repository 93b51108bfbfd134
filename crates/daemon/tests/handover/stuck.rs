//! A worker that takes no turns any more: it costs its own connections, and those of the others are handed over.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use ringhold_client::Address;

use crate::common::until;
use crate::common::wire::{Wire, request};
use crate::manager::Manager;

/// Two workers with two connections each. The one that serves connection `stuck` is kept busy for ever, then `step`
/// brings the successor.
fn only_its_own_are_lost(engine: &'static str, stuck: usize, step: fn(&mut Manager)) {
    let mut manager = Manager::on(engine, 16, "workers = 2\n[sockets.bus]\n").with_test_daemon();
    let address = manager.listen_unix("bus");
    manager.start();
    // They are dealt to the workers in turn.
    let mut wires: Vec<Wire> = (0..4).map(|_| Wire::connect(&address)).collect();
    for wire in &mut wires {
        wire.send(b"\x01");
        assert_eq!(wire.exactly(1), [0xc3]);
    }
    wires[stuck].send(b"\x80");
    manager.logged(1, &["busy for ever"]);
    step(&mut manager);
    let said = "it has taken no turn for 16s: a call of service bus (frame, socket bus) does not return; the handover goes on \
                without it and its 2 connections";
    manager.logged(1, &["ERROR", &format!("worker {stuck} is busy: {said}")]);
    manager.logged(1, &["took over 2 connections"]);
    for (index, wire) in wires.iter_mut().enumerate() {
        if index % 2 == stuck {
            assert!(wire.is_over());
        } else {
            wire.send(b"\x01");
            assert_eq!(wire.exactly(1), [0xc3]);
        }
    }
    manager.stop_for_good();
}

/// Without a watchdog, too. One that sleeps for want of work is not taken for it.
fn the_log_says_who_is_blocked(engine: &'static str) {
    let mut manager = Manager::on(engine, 0, "workers = 2\n[sockets.bus]\n").with_test_daemon();
    let address = manager.listen_unix("bus");
    manager.set_flag("keep-busy", true);
    manager.start();
    let mut wires = [(); 2].map(|()| Wire::connect(&address));
    for wire in &mut wires {
        wire.send(b"\x01");
        assert_eq!(wire.exactly(1), [0xc3]);
    }
    wires[1].send(b"\x90");
    let said = "worker 1 has taken no turn for 10s: a call of service bus (frame, socket bus) does not return";
    manager.logged(1, &["ERROR", said]);
    manager.set_flag("keep-busy", false);
    assert_eq!(wires[1].exactly(1), [0xc3]);
    manager.logged(1, &["worker 1 takes turns again"]);
    let log = manager.log();
    assert_eq!(log.matches("has taken no turn").count(), 1, "{log}");
    assert_eq!(log.matches("takes turns again").count(), 1, "{log}");
    manager.stop_for_good();
}

#[test]
fn a_blocked_worker_is_found_before_the_next_handover() {
    std::thread::scope(|scope| {
        scope.spawn(|| the_log_says_who_is_blocked("auto"));
        scope.spawn(|| the_log_says_who_is_blocked("portable"));
    });
}

/// On the listener of the worker that is stuck, too.
fn new_clients_are_served_by_the_other(engine: &'static str) {
    let mut manager = Manager::on(engine, 0, "workers = 2\n[sockets.bus]\n").with_test_daemon();
    let address = manager.listen_unix("bus");
    manager.set_flag("keep-busy", true);
    manager.start();
    let mut first = Wire::connect(&address);
    first.send(b"\x90");
    manager.logged(1, &["busy until told otherwise"]);
    let served = [(); 3].map(|()| {
        let mut wire = Wire::connect(&address);
        wire.send(b"\x01");
        assert_eq!(wire.exactly(1), [0xc3]);
        wire
    });
    manager.set_flag("keep-busy", false);
    assert_eq!(first.exactly(1), [0xc3]);
    drop(served);
    manager.stop_for_good();
}

#[test]
fn new_clients_do_not_wait_for_a_stuck_worker() {
    std::thread::scope(|scope| {
        scope.spawn(|| new_clients_are_served_by_the_other("auto"));
        scope.spawn(|| new_clients_are_served_by_the_other("portable"));
    });
}

/// The services of a worker that has finished may take their time to end.
fn the_watchdog_is_fed_to_the_end(engine: &'static str) {
    let mut manager = Manager::on(engine, 0, "workers = 2\n[sockets.bus]\n").with_test_daemon();
    manager.set_environment("WATCHDOG_USEC", "200000");
    manager.listen_unix("bus");
    manager.start();
    manager.set_flag("keep-busy", true);
    manager.signal(Signal::SIGTERM);
    manager.logged(2, &["slow to end"]);
    let mark = manager.mark();
    let complaints = [1, 10].map(|count| {
        until("the watchdog is fed", || {
            (manager.count(mark, "WATCHDOG=1") >= count).then_some(())
        });
        manager.log().matches("the watchdog is not fed").count()
    });
    assert_eq!(complaints[0], complaints[1], "{}", manager.log());
    manager.set_flag("keep-busy", false);
    assert!(manager.ended().success());
}

#[test]
fn services_that_are_slow_to_end_do_not_starve_the_watchdog() {
    std::thread::scope(|scope| {
        scope.spawn(|| the_watchdog_is_fed_to_the_end("auto"));
        scope.spawn(|| the_watchdog_is_fed_to_the_end("portable"));
    });
}

/// With each engine, and on the worker that owns the listener as well as on the other.
fn with_each(step: fn(&mut Manager)) {
    std::thread::scope(|scope| {
        scope.spawn(move || only_its_own_are_lost("auto", 0, step));
        scope.spawn(move || only_its_own_are_lost("portable", 1, step));
    });
}

#[test]
fn a_restart_goes_on_without_a_stuck_worker() {
    with_each(|manager| {
        manager.signal(Signal::SIGTERM);
        assert_eq!(manager.ended().code(), Some(1));
        let stored = manager.state().stored().join(" ");
        assert_eq!(stored, "ringhold.inlet ringhold.outlet ringhold.state");
        manager.start();
    });
}

#[test]
fn a_reload_goes_on_without_a_stuck_worker() {
    with_each(Manager::reload);
}

/// Two workers with two connections each. A deferred reply keeps a handover waiting.
struct Waiting {
    manager: Manager,
    bus: Address,
    wires: Vec<Wire>,
    /// On worker 0.
    operator: Wire,
    /// Who is owed the reply.
    _owed: Wire,
}

impl Waiting {
    fn new(engine: &'static str, bus_keys: &str) -> Self {
        let configuration = format!(
            "workers = 2\nhandover.drain = \"60s\"\n[sockets.bus]\n{bus_keys}\n[sockets.rpc]\nworkers = [0]\n"
        );
        let mut manager = Manager::on(engine, 0, &configuration).with_test_daemon();
        let (bus, rpc) = (manager.listen_unix("bus"), manager.listen_unix("rpc"));
        manager.start();
        let mut wires: Vec<Wire> = (0..4).map(|_| Wire::connect(&bus)).collect();
        for wire in &mut wires {
            wire.send(b"\x01");
            assert_eq!(wire.exactly(1), [0xc3]);
        }
        let [mut owed, operator] = [(); 2].map(|()| Wire::connect(&rpc));
        owed.send(&request(1, "hold", &[]));
        Waiting {
            manager,
            bus,
            wires,
            operator,
            _owed: owed,
        }
    }

    /// Worker 1 takes no turns any more.
    fn block(&mut self) {
        self.wires[1].send(b"\x80");
        self.manager.logged(1, &["busy for ever"]);
    }

    /// Lets the handover go on, in which so many connections are taken over.
    fn release(&mut self, mark: usize, taken_over: usize) {
        self.operator.send(&request(2, "release", &[]));
        assert_eq!(self.operator.reply(), (2, Ok(1.into())));
        self.manager.wait_for(mark, "READY=1");
        let took_over = format!("took over {taken_over} connections");
        self.manager.logged(1, &[&took_over]);
    }
}

/// They have room for three each, and more come while the handover waits.
fn the_others_keep_to_their_limits(engine: &'static str) {
    let mut it = Waiting::new(engine, "connections = 3");
    it.block();
    let mark = it.manager.mark();
    it.manager.signal(Signal::SIGHUP);
    it.manager
        .logged(1, &["worker 1 is busy", "the handover goes on without it"]);
    let more: Vec<Wire> = (0..10).map(|_| Wire::connect(&it.bus)).collect();
    until("the others have no room", || {
        (it.operator.counter("bus", "accept_pauses") > 0).then_some(())
    });
    // The third of worker 0. The next ones wait.
    let counts = ["accepted", "open"].map(|name| it.operator.counter("bus", name));
    assert_eq!(counts, [5, 5]);
    it.release(mark, 5);
    it.wires.clear();
    for mut wire in more {
        wire.send(b"\x01");
        assert_eq!(wire.exactly(1), [0xc3]);
    }
    it.manager.stop_for_good();
}

#[test]
fn without_a_stuck_worker_the_others_keep_to_their_limits() {
    std::thread::scope(|scope| {
        scope.spawn(|| the_others_keep_to_their_limits("auto"));
        scope.spawn(|| the_others_keep_to_their_limits("portable"));
    });
}

/// Behind the beginning of a handover, one gets stuck.
fn who_connects_meanwhile_goes_to_the_other(engine: &'static str) {
    let mut it = Waiting::new(engine, "");
    it.operator.echo(1, 1);
    let mark = it.manager.mark();
    it.manager.signal(Signal::SIGHUP);
    it.manager.logged(1, &["waiting for deferred replies"]);
    it.block();
    // Worker 0 accepts, and answers the operator. Whom it has not begun to serve then it has dealt to the other.
    let mut unserved = 0;
    until("worker 1 is dealt nobody", || {
        it.wires.extend([(); 2].map(|()| Wire::connect(&it.bus)));
        until("they are accepted", || {
            (it.operator.counter("bus", "accepted") == it.wires.len() as u64).then_some(())
        });
        let before = unserved;
        unserved = it.wires.len() - it.operator.counter("bus", "open") as usize;
        (unserved == before).then_some(())
    });
    let log = it.manager.log();
    assert!(!log.contains("goes on without it"), "{log}");
    // Its own, and those that it has not come to.
    let lost = 2 + unserved;
    let without = format!("the handover goes on without it and its {lost} connections, ");
    it.manager.logged(1, &["worker 1 is busy", &without]);
    it.release(mark, it.wires.len() - lost + 2);
    it.manager.stop_for_good();
}

#[test]
fn who_connects_before_a_handover_is_not_lost_with_a_stuck_worker() {
    std::thread::scope(|scope| {
        scope.spawn(|| who_connects_meanwhile_goes_to_the_other("auto"));
        scope.spawn(|| who_connects_meanwhile_goes_to_the_other("portable"));
    });
}

/// Whoever is on another worker than a slow call is served until that returns, however soon a handover would go on without what
/// it waits for.
fn who_is_elsewhere_is_served(engine: &'static str, step: fn(&mut Manager)) {
    let mut manager = Manager::on(
        engine,
        16,
        "workers = 2\nhandover.drain = \"50ms\"\n[sockets.bus]\n",
    )
    .with_test_daemon();
    let address = manager.listen_unix("bus");
    manager.set_flag("keep-busy", true);
    manager.start();
    let mut wires = [(); 2].map(|()| Wire::connect(&address));
    let [busy, other] = &mut wires;
    for wire in [&mut *busy, other] {
        wire.send(b"\x01");
        assert_eq!(wire.exactly(1), [0xc3]);
    }
    busy.send(b"\x90");
    // Nobody is served any more once all know that the handover waits no more. One that is busy before does not know it.
    manager.logged(1, &["busy until told otherwise"]);
    let flag = manager.path("flags/keep-busy");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The drain is over long before the last one. And that is long before the busy worker would be left behind, however
            // long each takes.
            let end = Instant::now() + Duration::from_secs(1);
            while Instant::now() < end {
                std::thread::sleep(Duration::from_millis(10));
                other.send(b"\x01");
                assert_eq!(other.exactly(1), [0xc3]);
            }
            std::fs::remove_file(flag).unwrap();
            assert_eq!(busy.exactly(1), [0xc3]);
        });
        step(&mut manager);
    });
    manager.logged(1, &["took over 2 connections"]);
    for wire in &mut wires {
        wire.send(b"\x01");
        assert_eq!(wire.exactly(1), [0xc3]);
    }
    manager.stop_for_good();
}

#[test]
fn a_handover_that_waits_for_a_busy_worker_holds_up_nobody_else() {
    for step in [Manager::reload, Manager::restart] {
        std::thread::scope(|scope| {
            scope.spawn(|| who_is_elsewhere_is_served("auto", step));
            scope.spawn(|| who_is_elsewhere_is_served("portable", step));
        });
    }
}

/// Nobody goes on where nothing is handed over, and who stops the daemon learns what it waits for.
fn a_stop_says_whom_it_waits_for(engine: &'static str, workers: usize, said: &str) {
    let config = format!("workers = {workers}\n[sockets.bus]\n");
    let mut manager = Manager::on(engine, 0, &config).with_test_daemon();
    let address = manager.listen_unix("bus");
    manager.set_flag("keep-busy", true);
    manager.start();
    let mut wire = Wire::connect(&address);
    wire.send(b"\x90");
    manager.logged(1, &["busy until told otherwise"]);
    manager.signal(Signal::SIGTERM);
    let line = manager.logged(
        1,
        &[
            "ERROR",
            "worker 0 is busy: it has taken no turn for 16s: a call of service bus (frame, socket bus) does not return; ",
        ],
    );
    assert!(line.ends_with(&format!("; {said}")), "{line}");
    manager.set_flag("keep-busy", false);
    assert_eq!(wire.exactly(1), [0xc3]);
    assert!(manager.ended().success());
}

#[test]
fn a_stop_waits_for_a_stuck_worker_alone() {
    let alone = "the process ends when it does";
    let beside = "the others end without it, and the process when it does";
    std::thread::scope(|scope| {
        for engine in ["auto", "portable"] {
            scope.spawn(move || a_stop_says_whom_it_waits_for(engine, 1, alone));
            scope.spawn(move || a_stop_says_whom_it_waits_for(engine, 2, beside));
        }
    });
}
