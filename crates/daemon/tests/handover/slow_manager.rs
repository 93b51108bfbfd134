//! A service manager that has other things to do.

use std::os::unix::fs::FileExt;

use crate::crash::{PARTS, all_go_on, stopped};
use crate::manager::Manager;
use crate::wire::Wire;

/// A successor that cannot get hold of it leaves everything as it was, and this is no attempt.
#[test]
fn a_start_that_is_not_answered_leaves_everything_to_the_next() {
    let (mut manager, mut wires) = stopped();
    manager.stand_still_at("BARRIER=1");
    let mark = manager.mark();
    manager.launch();
    assert_eq!(manager.ended().code(), Some(1));
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
    manager.logged(1, &["has not confirmed for another 20s"]);
    manager.go_on();
    manager.wait_for(mark, "READY=1");
    all_go_on(&mut manager, &mut wires);
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
