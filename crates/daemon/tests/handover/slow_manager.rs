//! A service manager that has other things to do.

use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;

use nix::sys::signal::Signal;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::common::until;
use crate::common::wire::{Wire, request};
use crate::crash::{PARTS, all_go_on, stopped};
use crate::manager::Manager;

/// A successor that cannot get hold of it leaves everything as it was, and this is no attempt.
#[test]
fn a_start_that_is_not_answered_leaves_everything_to_the_next() {
    let (mut manager, mut wires) = stopped();
    manager.stand_still_at("BARRIER=1");
    let mark = manager.mark();
    manager.launch();
    assert_eq!(manager.ended().code(), Some(1));
    let why = "the service manager has not answered for 20s; nothing was taken out of its store";
    let what = "the connections of the predecessor cannot be taken over";
    manager.logged(1, &[&format!("{what}: {why}")]);
    manager.go_on();
    manager.wait_for(mark, "BARRIER=1");
    {
        let state = manager.state();
        assert_eq!(state.stored(), PARTS);
        let file = std::fs::File::from(state.find("ringhold.state").try_clone().unwrap());
        let mut attempts = [0xff; 4];
        file.read_exact_at(&mut attempts, 24).unwrap();
        assert_eq!(attempts, [0; 4]);
    }
    manager.start();
    all_go_on(&mut manager, &mut wires);
}

/// Once it has been told to take the connections out of the store, it is waited for: it will, and then nobody else has them.
#[test]
fn a_confirmation_is_waited_for() {
    let (mut manager, mut wires) = stopped();
    manager.stand_still_at("FDSTOREREMOVE=1");
    let mark = manager.mark();
    manager.launch();
    manager.logged(
        1,
        &["the service manager has not answered for 20s; they go on when it has"],
    );
    manager.go_on();
    manager.wait_for(mark, "READY=1");
    all_go_on(&mut manager, &mut wires);
}

/// When the first part is out of the store there is no way back, so that what it takes is there before.
#[test]
fn a_successor_that_may_open_nothing_more_takes_over_all_the_same() {
    let (mut manager, mut wires) = stopped();
    manager.stand_still_at("BARRIER=1");
    let mark = manager.mark();
    manager.launch();
    until("the first barrier", || {
        manager.state().stands_still.then_some(())
    });
    let pid = Pid::from_raw(manager.pid());
    let may_open = |limit: Rlimit| prlimit(pid, Resource::Nofile, limit).unwrap();
    // As many are open. (poll(2) refuses to look at more than the limit.)
    let nothing = Rlimit {
        current: Some(8),
        maximum: getrlimit(Resource::Nofile).maximum,
    };
    let before = may_open(nothing);
    manager.go_on();
    manager.wait_for(mark, "READY=1");
    may_open(before);
    all_go_on(&mut manager, &mut wires);
}

/// The connections are on their way to it, and where they are is said.
#[test]
fn a_stop_that_is_not_confirmed_says_what_became_of_the_connections() {
    let mut manager = Manager::new(16, "[sockets.rpc]\n");
    let address = manager.listen_tcp("rpc");
    manager.start();
    let mut wire = Wire::connect(&address);
    wire.echo(1, 1);
    manager.wait_until_nothing_is_stored();
    manager.stand_still_at("BARRIER=1");
    let mark = manager.mark();
    manager.signal(Signal::SIGTERM);
    assert_eq!(manager.ended().code(), Some(1));
    let given = "ringhold: the service manager was given 1 connection, and has not confirmed that it keeps them";
    let then =
        "the service manager has not answered for 20s; the next start takes over what it has kept";
    manager.logged(1, &[&format!("{given}: {then}")]);
    manager.go_on();
    until("both barriers", || {
        (manager.count(mark, "BARRIER=1") == 2).then_some(())
    });
    assert_eq!(manager.state().stored(), PARTS);
    manager.start();
    wire.echo(2, 2);
    manager.stop_for_good();
}

/// Connections are ended in order if there is nobody to leave them with any more.
#[test]
fn a_manager_that_is_gone_is_given_nothing() {
    let mut manager = Manager::new(16, "[sockets.rpc]\n");
    let address = manager.listen_tcp("rpc");
    manager.start();
    let mut wire = Wire::connect(&address);
    wire.echo(1, 1);
    let [place, elsewhere] = ["notify", "elsewhere"].map(|name| manager.path(name));
    std::fs::rename(&place, &elsewhere).unwrap();
    manager.stop();
    std::fs::rename(&elsewhere, &place).unwrap();
    assert_eq!(wire.rest(), b"");
    let why = format!("the service manager cannot be notified at NOTIFY_SOCKET={place}");
    let what = "the service manager cannot keep open connections";
    manager.logged(1, &[&format!("{what}: {why}"), "No such file or directory"]);
}

/// Two connections of a daemon that was told to reload and waits for the reply to the first one. It has asked for its store by then.
fn waits_in_a_reload(store_max: usize) -> (Manager, [Wire; 2]) {
    let config = "[handover]\ndrain = \"10min\"\n[sockets.rpc]\n";
    let mut manager = Manager::new(store_max, config).with_test_daemon();
    let address = manager.listen_unix("rpc");
    manager.start();
    manager.wait_until_nothing_is_stored();
    let [mut held, mut other] = [(); 2].map(|()| Wire::connect(&address));
    held.send(&request(1, "hold", &[]));
    held.echo(2, 2);
    other.echo(3, 3);
    manager.signal(Signal::SIGHUP);
    manager.logged(1, &["waiting for deferred replies (1 open)"]);
    (manager, [held, other])
}

/// Has the reply given that was waited for.
fn release([held, other]: &mut [Wire; 2]) {
    other.send(&request(4, "release", &[]));
    assert_eq!(other.reply(), (4, Ok(1.into())));
    assert_eq!(held.reply(), (1, Ok("released".into())));
}

/// A successor in the same process has the connections itself, whatever the store has.
#[test]
fn a_manager_that_goes_in_a_reload_costs_nobody() {
    let (mut manager, mut wires) = waits_in_a_reload(16);
    let [place, elsewhere] = ["notify", "elsewhere"].map(|name| manager.path(name));
    std::fs::rename(&place, &elsewhere).unwrap();
    release(&mut wires);
    manager.logged(1, &["took over 2 connections"]);
    for wire in &mut wires {
        wire.echo(5, 5);
    }
    std::fs::rename(&elsewhere, &place).unwrap();
    manager.restart();
    for wire in &mut wires {
        wire.echo(6, 6);
    }
    manager.wait_until_nothing_is_stored();
    manager.stop_for_good();
}

/// The connections of a daemon that has reloaded, while of its state a part was stored, nobody took that out, and the manager then stored
/// the rest.
fn stored_in_part(store_max: usize) -> (Manager, [Wire; 2]) {
    let (mut manager, mut wires) = waits_in_a_reload(store_max);
    manager.put_aside_from("FDNAME=ringhold.outlet");
    let mark = manager.mark();
    release(&mut wires);
    // The last that is sent, so that nothing fails to be sent to where the manager is no more.
    until("the barrier", || {
        manager.state().has_aside("BARRIER=1").then_some(())
    });
    assert_eq!(manager.state().stored(), ["ringhold.state"]);
    let [place, elsewhere] = ["notify", "elsewhere"].map(|name| manager.path(name));
    std::fs::rename(&place, &elsewhere).unwrap();
    manager.logged(1, &["took over 2 connections"]);
    for wire in &mut wires {
        wire.echo(5, 5);
    }
    std::fs::rename(&elsewhere, &place).unwrap();
    manager.go_on();
    manager.wait_for(mark, "BARRIER=1");
    assert_eq!(manager.state().stored(), PARTS);
    (manager, wires)
}

/// Nor is what it has of use to anybody any more, should it not be told to close it.
#[test]
fn what_is_stored_in_part_is_neither_waited_for_nor_taken_over_twice() {
    let (mut manager, mut wires) = stored_in_part(16);
    manager.kill();
    manager.start();
    manager.logged(1, &["closing 2 descriptors that were taken over before"]);
    for wire in &mut wires {
        assert_eq!(wire.rest(), b"");
    }
    assert!(!manager.log().contains("were lost"), "{}", manager.log());
    manager.wait_until_nothing_is_stored();
    manager.stop_for_good();
}

/// The next start goes on with both, and leaves nothing stored.
fn starts_with_both(mut manager: Manager, mut wires: [Wire; 2]) {
    manager.start();
    manager.logged(2, &["took over 2 connections"]);
    for wire in &mut wires {
        wire.echo(6, 6);
    }
    manager.wait_until_nothing_is_stored();
    manager.stop_for_good();
}

/// What is stored next takes the place of that: also where there is no room for both, and in whatever order they would be passed on.
#[test]
fn what_was_stored_in_part_is_in_nobody_s_way() {
    for store_max in [4, 16] {
        let (mut manager, wires) = stored_in_part(store_max);
        manager.stop();
        assert_eq!(manager.state().stored(), PARTS);
        manager.state().store.reverse();
        starts_with_both(manager, wires);
    }
}

/// What it is owed by then is the removal of what was stored for the reload.
#[test]
fn a_manager_that_reads_late_after_a_reload_costs_nobody() {
    let (mut manager, mut wires) = waits_in_a_reload(16);
    manager.stand_still_at("BARRIER=1");
    release(&mut wires);
    until("the barrier", || manager.state().stands_still.then_some(()));
    stop_reading(&manager);
    manager.logged(1, &["took over 2 connections"]);
    for wire in &mut wires {
        wire.echo(5, 5);
    }
    assert_eq!(manager.state().stored(), PARTS);
    manager.signal(Signal::SIGTERM);
    manager.logged(1, &["SIGTERM: stopping"]);
    manager.go_on();
    assert!(manager.ended().success());
    assert_eq!(manager.state().stored(), PARTS);
    starts_with_both(manager, wires);
}

/// Whether there is a store is asked again when it matters.
#[test]
fn a_store_that_was_not_found_at_start_is_found_by_a_restart() {
    let mut manager = Manager::new(16, "[sockets.rpc]\n");
    let address = manager.listen_tcp("rpc");
    manager.stand_still_at("BARRIER=1");
    let mark = manager.mark();
    manager.launch();
    manager.logged(1, &["is unknown, a restart will ask again"]);
    manager.go_on();
    manager.wait_for(mark, "READY=1");
    // What it was asked with does not stay there.
    manager.wait_until_nothing_is_stored();
    let mut wire = Wire::connect(&address);
    wire.echo(1, 1);
    manager.restart();
    wire.echo(2, 2);
    manager.wait_until_nothing_is_stored();
    manager.stop_for_good();
}

/// Makes the manager read nothing, and its queue full.
fn stop_reading(manager: &Manager) {
    const NEWS: &str = "from another process";
    manager.stand_still_at(NEWS);
    // A socket has room for so much that is unread, too.
    loop {
        let socket = UnixDatagram::unbound().unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.connect(manager.path("notify")).unwrap();
        let is_blocked = |error: std::io::Error| {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
        };
        if socket.send(NEWS.as_bytes()).map_err(is_blocked).is_err() {
            return;
        }
        while socket.send(NEWS.as_bytes()).map_err(is_blocked).is_ok() {}
    }
}

/// The main thread waits for no service manager that does not read: it serves, stops when it is told to, and says what it
/// has to say as soon as somebody reads it.
#[test]
fn a_manager_that_does_not_read_keeps_nobody_from_stopping() {
    let mut manager = Manager::new(16, "[sockets.rpc]\n");
    manager.set_environment("WATCHDOG_USEC", "4000000");
    let address = manager.listen_tcp("rpc");
    let mark = manager.mark();
    stop_reading(&manager);
    manager.launch();
    manager.logged(1, &["does not read its notifications"]);
    let mut wire = Wire::connect(&address);
    wire.echo(1, 1);
    assert_eq!(manager.count(mark, "READY=1"), 0);
    manager.go_on();
    manager.wait_for(mark, "READY=1");
    manager.wait_until_nothing_is_stored();

    stop_reading(&manager);
    manager.logged(2, &["does not read its notifications"]);
    wire.echo(2, 2);
    manager.signal(Signal::SIGTERM);
    assert_eq!(wire.rest(), b"");
    assert!(manager.ended().success());
    assert_eq!(manager.count(mark, "STOPPING=1"), 0);
}

/// Whoever is handed over waits for it, so it is not waited for again with each descriptor of the application.
#[test]
fn a_manager_that_does_not_read_holds_up_a_reload_once() {
    let mut manager = Manager::new(100, "[sockets.rpc]\n").with_test_daemon();
    manager.set_flag("claim-many", true);
    let address = manager.listen_tcp("rpc");
    manager.start();
    let mut wire = Wire::connect(&address);
    let stored = |manager: &Manager| manager.state().stored().len();
    assert_eq!(stored(&manager), 60);
    stop_reading(&manager);
    manager.signal(Signal::SIGHUP);
    manager.logged(1, &["took over 1 connection"]);
    wire.echo(1, 1);
    let log = manager.log();
    let waits = log.matches("has not read its notifications for").count();
    assert_eq!(waits, 2, "before, while everybody is served, and after");
    manager.go_on();
    assert_eq!(stored(&manager), 60);
    manager.restart();
    wire.echo(2, 2);
    manager.stop_for_good();
}

/// The connection of a daemon whose 60 descriptors of its own are stored.
fn stores_many() -> (Manager, Wire) {
    let mut manager = Manager::new(100, "[sockets.rpc]\n").with_test_daemon();
    manager.set_flag("claim-many", true);
    let address = manager.listen_tcp("rpc");
    manager.start();
    let mut wire = Wire::connect(&address);
    wire.echo(1, 1);
    assert_eq!(manager.state().stored().len(), 60);
    (manager, wire)
}

/// Whoever is connected waits for the stop, which leaves them there once more: not longer than for one of them.
#[test]
fn a_manager_that_does_not_read_holds_up_a_stop_once() {
    let (mut manager, _wire) = stores_many();
    stop_reading(&manager);
    manager.signal(Signal::SIGTERM);
    // It is told to stop when the service manager has been asked.
    manager.logged(
        1,
        &["whether the service manager stores descriptors is unknown"],
    );
    let waits = manager.log().matches("cannot be stored once more").count();
    manager.go_on();
    assert!(manager.ended().success());
    assert_eq!(waits, 1);
}

/// Nor is it waited for again with each one that is not claimed any more.
#[test]
fn a_manager_that_does_not_read_holds_up_a_reload_once_for_what_is_given_up() {
    let (mut manager, mut wire) = stores_many();
    stop_reading(&manager);
    manager.set_flag("claim-many", false);
    manager.signal(Signal::SIGHUP);
    manager.logged(1, &["took over 1 connection"]);
    wire.echo(2, 1);
    let waits = manager
        .log()
        .matches("cannot remove it from the service manager's store")
        .count();
    assert!(waits <= 1, "{waits}");
    manager.go_on();
    manager.wait_until_nothing_is_stored();
    manager.stop_for_good();
}

/// Nor is it forgotten if the process replaces itself once more before that.
#[test]
fn what_is_given_up_is_removed_by_whoever_serves_when_the_manager_reads() {
    let (mut manager, mut wire) = stores_many();
    stop_reading(&manager);
    manager.set_flag("claim-many", false);
    for reloads in 1..=3 {
        manager.signal(Signal::SIGHUP);
        manager.logged(reloads, &["took over 1 connection"]);
        wire.echo(2, 1);
    }
    manager.go_on();
    manager.wait_until_nothing_is_stored();
    manager.stop_for_good();
}
