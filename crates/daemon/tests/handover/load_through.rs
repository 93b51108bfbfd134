//! The promise: repeated restarts and reloads under a load that checks every reply.

use std::cell::Cell;

use ringhold_client::Address;

use crate::common::wire::{Wire, counter};
use crate::load::Load;
use crate::manager::{Manager, descriptors};

const TIMES: usize = 20;
const PERSISTENT: usize = 200;
const SHORT_LIVED: usize = 16;

const INHERITED: &str = "workers = 2\n[sockets.rpc]\n";

/// What every one of the repetitions must leave as it was.
fn go_through(mut manager: Manager, address: &Address, step: impl Fn(&mut Manager)) {
    manager.start();
    let load = Load::start(address, PERSISTENT, SHORT_LIVED);
    let mut witness = Wire::connect(address);
    // It has been accepted, and so have those that came before.
    witness.echo(0, 0);
    for round in 0..TIMES {
        step(&mut manager);
        witness.echo(round as u32, round as u64);
        assert!(counter(address, "rpc", "restored") > PERSISTENT as u64);
    }
    let report = load.end();
    eprintln!("{report}");
    assert!(report.counts.opened > (PERSISTENT + SHORT_LIVED) as u64);
    assert_eq!(manager.state().foreign, Vec::<String>::new());
    manager.stop_for_good();
}

#[test]
fn restarts_over_tcp() {
    let mut manager = Manager::new(16, INHERITED);
    let address = manager.listen_tcp("rpc");
    go_through(manager, &address, Manager::restart);
}

#[test]
fn restarts_over_unix_sockets() {
    let mut manager = Manager::new(16, INHERITED);
    let address = manager.listen_unix("rpc");
    go_through(manager, &address, Manager::restart);
}

#[test]
fn reloads_over_tcp() {
    let mut manager = Manager::new(16, INHERITED);
    let address = manager.listen_tcp("rpc");
    go_through(manager, &address, Manager::reload);
}

#[test]
fn reloads_of_a_unix_socket_that_was_bound() {
    let config = "workers = 2\n[sockets.rpc]\nlisten = [\"unix:DIR/rpc.sock\"]\n";
    let manager = Manager::new(0, config);
    let address = Address::Unix(manager.path("rpc.sock").into());
    go_through(manager, &address, Manager::reload);
}

/// Each reload goes on with the other engine.
#[test]
fn reloads_that_change_the_engine() {
    let mut manager = Manager::new(16, INHERITED);
    let address = manager.listen_tcp("rpc");
    let is_portable = Cell::new(false);
    go_through(manager, &address, |manager| {
        is_portable.set(!is_portable.get());
        manager.use_engine(if is_portable.get() {
            "portable"
        } else {
            "auto"
        });
        manager.configure(INHERITED);
        manager.reload();
    });
}

#[test]
fn restarts_with_the_portable_engine() {
    let mut manager = Manager::on("portable", 16, INHERITED);
    let address = manager.listen_unix("rpc");
    go_through(manager, &address, Manager::restart);
}

#[test]
fn no_descriptor_is_left_behind() {
    let config = "workers = 2\n[sockets.rpc]\nlisten = [\"127.0.0.1:0\", \"unix:DIR/rpc.sock\"]\n";
    let mut manager = Manager::new(16, config);
    manager.start();
    let address = Address::Unix(manager.path("rpc.sock").into());
    let mut clients: Vec<Wire> = (0..50).map(|_| Wire::connect(&address)).collect();
    clients.iter_mut().for_each(|client| client.echo(1, 1));
    let before = descriptors(manager.pid());
    for round in 0..TIMES {
        manager.reload();
        clients
            .iter_mut()
            .for_each(|client| client.echo(round as u32, 7));
        assert_eq!(descriptors(manager.pid()), before, "after reload {round}");
    }
    manager.stop();
}
