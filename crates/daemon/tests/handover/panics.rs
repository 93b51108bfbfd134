//! Panics of services are logged where they are caught, with what they said and where, and printed nowhere else.

use ringhold_client::Address;

use crate::common::wire::{Wire, counter, request};
use crate::manager::Manager;

const CONFIG: &str = "workers = 1\n[sockets.rpc]\n[sockets.counter]\n";

/// What the standard library's hook prints of each panic.
const PRINTED: &str = "panicked at ";
const PLACE: &str = "tests/handover/daemon.rs:";

/// The daemon, and the addresses of `rpc` and `counter`.
fn started() -> (Manager, Address, Address) {
    let mut manager = Manager::new(0, CONFIG).with_test_daemon();
    let rpc = manager.listen_unix("rpc");
    let counter = manager.listen_unix("counter");
    manager.start();
    (manager, rpc, counter)
}

/// Of so many panics not each has a line, which are those with `what`, and each line says where it was.
fn are_bounded_lines(log: &str, panics: usize, what: &str, says: &[&str]) {
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(what)).collect();
    assert!((1..panics).contains(&lines.len()), "{log}");
    for line in lines {
        assert!(says.iter().all(|part| line.contains(part)), "{line}");
    }
    assert!(!log.contains(PRINTED), "{log}");
}

#[test]
fn panics_of_a_handler_are_bounded_lines_with_message_and_place() {
    let (mut manager, address, _) = started();
    let mut wire = Wire::connect(&address);
    for id in 0..100 {
        wire.send(&request(id, "panic", &[]));
        let (of, result) = wire.reply();
        assert_eq!(of, u64::from(id));
        assert_eq!(result, Err("the handler of \"panic\" panicked".into()));
    }
    assert_eq!(counter(&address, "rpc", "panics"), 100);
    manager.stop();
    are_bounded_lines(
        &manager.log(),
        100,
        "handler of \"panic\"",
        &[" of rpc over a unix socket: on purpose, at ", PLACE],
    );
}

#[test]
fn panics_of_a_service_are_bounded_lines_with_message_and_place() {
    let (mut manager, rpc, address) = started();
    manager.set_flag("panic-in-frame", true);
    for _ in 0..200 {
        let mut wire = Wire::connect(&address);
        assert_eq!(wire.value(), "hello".into());
        wire.send(b"\xc0");
        assert_eq!(wire.rest(), b"");
    }
    assert_eq!(counter(&rpc, "counter", "panics"), 200);
    manager.stop();
    let who = "the service panicked on connection ";
    are_bounded_lines(
        &manager.log(),
        200,
        "a frame, on purpose",
        &[who, " of counter over a unix socket: ", PLACE],
    );
}

#[test]
fn a_panic_when_a_connection_has_ended_is_logged_too() {
    let (mut manager, _, address) = started();
    manager.set_flag("panic-at-the-end", true);
    let mut wire = Wire::connect(&address);
    assert_eq!(wire.value(), "hello".into());
    drop(wire);
    let parts = [
        "the service panicked in disconnected on connection ",
        "the end, on purpose",
        PLACE,
    ];
    manager.logged(1, &parts);
    assert!(!manager.log().contains(PRINTED));
    manager.set_flag("panic-at-the-end", false);
    manager.stop();
}

#[test]
fn a_panic_is_logged_with_its_stack_if_one_is_asked_for() {
    for (asked, frames) in [("1", 1), ("0", 0)] {
        let mut manager = Manager::new(0, CONFIG).with_test_daemon();
        manager.set_environment("RUST_BACKTRACE", asked);
        let address = manager.listen_unix("rpc");
        manager.listen_unix("counter");
        manager.start();
        let mut wire = Wire::connect(&address);
        wire.send(&request(1, "panic", &[]));
        assert!(matches!(wire.reply(), (1, Err(_))));
        manager.stop();
        let log = manager.log();
        // Of the function that panics, below those of the machinery.
        let lines = log
            .lines()
            .filter(|line| line.contains(": handover_daemon::router::"));
        assert_eq!(lines.count(), frames, "{log}");
        assert_eq!(log.matches("on purpose, at ").count(), 1, "{log}");
    }
}

/// Nobody logs those: a thread of the application's own, and a panic that ends the process because it meets another.
#[test]
fn panics_that_nobody_catches_are_printed() {
    let (mut manager, address, _) = started();
    let mut wire = Wire::connect(&address);
    wire.send(&request(1, "panic_elsewhere", &[]));
    assert_eq!(wire.reply(), (1, Err("the handler panicked".into())));
    let line = manager.logged(1, &[PRINTED]);
    assert!(line.contains(PLACE), "{line}");
    manager.logged(1, &["elsewhere, on purpose"]);
    wire.send(&request(2, "panic_twice", &[]));
    assert!(!manager.ended().success());
    let log = manager.log();
    assert!(log.contains("the second one, on purpose"), "{log}");
    let first = log.lines().find(|line| line.contains("the first one"));
    assert!(first.is_some_and(|line| line.contains(PLACE)), "{log}");
}
