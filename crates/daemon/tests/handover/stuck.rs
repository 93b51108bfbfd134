//! A worker that takes no turns any more: it costs its own connections, and those of the others are handed over.

use nix::sys::signal::Signal;

use crate::manager::Manager;
use crate::wire::Wire;

/// Two workers with two connections each. The one that serves connection `stuck` is kept busy for ever, then `step`
/// brings the successor.
fn only_its_own_are_lost(engine: &'static str, stuck: usize, step: fn(&mut Manager)) {
    let mut manager = Manager::new(16, "").with_test_daemon();
    manager.use_engine(engine);
    manager.configure("workers = 2\n[sockets.bus]\n");
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
    let said =
        "it has taken no turn for 16s; the handover goes on without it and its 2 connections";
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
