//! What a handover needs of the kernel, and the kernel has not at the moment.

use nix::sys::signal::Signal;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::common::wire::{Wire, request};
use crate::manager::Manager;

/// Sets the soft limit of the service.
fn may_have(manager: &Manager, resource: Resource, current: Option<u64>) {
    let maximum = getrlimit(resource).maximum;
    let limit = Rlimit { current, maximum };
    prlimit(Pid::from_raw(manager.pid()), resource, limit).unwrap();
}

/// Between the stop and the moment when the last connection is let go others may take every descriptor, also of the machine.
#[test]
fn a_stop_needs_no_descriptor_that_it_had_not_before() {
    for engine in ["auto", "portable"] {
        let config = "workers = 2\n[handover]\ndrain = \"10min\"\n[sockets.rpc]\n";
        let mut manager = Manager::on(engine, 16, config).with_test_daemon();
        let address = manager.listen_tcp("rpc");
        manager.start();
        let [mut held, mut other] = [(); 2].map(|()| Wire::connect(&address));
        held.send(&request(1, "hold", &[]));
        held.echo(0, 0);
        other.echo(0, 0);
        manager.signal(Signal::SIGTERM);
        manager.logged(1, &["waiting for deferred replies (1 are open)"]);
        // The listener that it inherits, with number 3, is open for as long as it lives.
        may_have(&manager, Resource::Nofile, Some(4));
        other.send(&request(1, "release", &[]));
        assert_eq!(other.reply(), (1, Ok(1.into())));
        assert_eq!(held.reply(), (1, Ok("released".into())));
        let status = manager.ended();
        assert!(status.success(), "{status}:\n{}", manager.log());
        manager.start();
        for wire in [&mut held, &mut other] {
            wire.echo(2, 2);
        }
        manager.stop_for_good();
    }
}
