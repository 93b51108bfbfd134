//! What a handover needs of the kernel, and the kernel has not at the moment, or the service may not have.

use nix::sys::signal::Signal;
use ringhold_client::Address;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::built::handover_daemon;
use crate::bursts::limited;
use crate::changes::{free, sections};
use crate::common::until;
use crate::common::wire::{Wire, request};
use crate::manager::{Manager, RINGHOLD};
use crate::refused::Kept;

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
        manager.logged(1, &["waiting for deferred replies (1 open)"]);
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

/// How many descriptors a start says that it lacks.
fn lacking(manager: &mut Manager) -> usize {
    let mark = manager.mark();
    manager.launch();
    assert!(!manager.becomes_ready(mark), "{}", manager.log());
    assert_eq!(manager.ended().code(), Some(1));
    let log = manager.log();
    let number = |before: &str| -> usize {
        let (_, rest) = log.rsplit_once(before).unwrap();
        rest.split(' ').next().unwrap().parse().unwrap()
    };
    number("it takes ") - number("and only ")
}

/// Or every reload of what has started would be refused.
#[test]
fn who_has_the_descriptors_to_start_has_those_to_reload() {
    let bound = "workers = 2\n[sockets.rpc]\nreuse_port = true\n\
         listen = [\"unix:DIR/rpc.0.sock\", \"unix:DIR/b.sock\", \"127.0.0.1:0\", \"127.0.0.1:0\"]\n";
    let inherited = "workers = 2\n[sockets.rpc]\n";
    for engine in ["auto", "portable"] {
        for (config, count, claims) in [
            (bound, 0, false),
            (bound, 0, true),
            (inherited, 1, false),
            (inherited, 60, false),
            (inherited, 60, true),
        ] {
            let mut manager = Manager::on(engine, 0, config).with_test_daemon();
            let program = handover_daemon();
            let program = program.to_str().unwrap();
            if claims {
                manager.set_flag("claim-many", true);
            }
            (0..count).for_each(|_| drop(manager.listen_unix("rpc")));
            let few = 40 + count;
            limited(&mut manager, program, few);
            let enough = few + lacking(&mut manager);
            limited(&mut manager, program, enough - 1);
            assert_eq!(lacking(&mut manager), 1, "{engine} {count} {claims}");
            limited(&mut manager, program, enough);
            manager.start();
            let mut wire = Wire::connect(&Address::Unix(manager.path("rpc.0.sock").into()));
            for round in 1..=2 {
                wire.echo(round, 1);
                manager.reload();
                manager.logged(round as usize, &["took over 1 connection"]);
            }
            wire.echo(3, 3);
            manager.stop();
        }
    }
}

/// What a new process cannot have that may have so many MiB of addresses more than it has at first, with this configuration. The stack of
/// a worker has 16 of them.
struct Scarcity {
    what: &'static str,
    mib: u64,
    config: &'static str,
}

const WORKERS: &str = "workers = 4\n[ring]\nbuffers = 2\nbuffer_bytes = 4096\n[sockets.rpc]\n";

/// Its ring has four MiB.
const LARGE_RING: &str =
    "workers = 1\n[ring]\nentries = 32768\nbuffers = 2\nbuffer_bytes = 4096\n[sockets.rpc]\n";

const NO_THREAD: Scarcity = Scarcity {
    what: "starting a thread to try it on",
    mib: 1,
    config: WORKERS,
};
const NO_WORKER: Scarcity = Scarcity {
    what: "the thread of worker 3 cannot be started",
    mib: 62,
    config: WORKERS,
};
const NO_RING: Scarcity = Scarcity {
    what: "the ring engine is not available: io_uring_setup",
    mib: 20,
    config: LARGE_RING,
};

const WAITS: &str = "the predecessor's connections wait";

/// A service that a client is connected to.
fn started(engine: &'static str, store_max: usize, config: &str) -> (Manager, Wire) {
    let mut manager = Manager::on(engine, store_max, config).with_test_daemon();
    let address = manager.listen_tcp("rpc");
    manager.start();
    let mut wire = Wire::connect(&address);
    wire.echo(0, 0);
    (manager, wire)
}

/// The next process that serves may have so many MiB of addresses besides what it has at first.
fn limit_next(manager: &Manager, mib: u64) {
    std::fs::write(manager.path("flags/little-memory"), mib.to_string()).unwrap();
}

/// Where there is no store, nobody else could go on with them.
#[test]
fn a_successor_waits_for_what_it_cannot_have_at_first() {
    let mut cases = vec![
        ("auto", NO_THREAD),
        ("auto", NO_WORKER),
        ("portable", NO_THREAD),
        ("portable", NO_WORKER),
    ];
    // The portable engine makes its rings as small as it must.
    if ringhold_core::probe::probe().unavailable.is_none() {
        cases.push(("auto", NO_RING));
    }
    for (engine, Scarcity { what, mib, config }) in cases {
        let (mut manager, mut wire) = started(engine, 0, config);
        limit_next(&manager, mib);
        let mark = manager.mark();
        manager.signal(Signal::SIGHUP);
        manager.logged(1, &[WAITS, what]);
        assert_eq!(manager.count(mark, "READY=1"), 0);
        wire.send(&request(1, "echo", &[1.into()]));
        may_have(&manager, Resource::As, None);
        manager.wait_for(mark, "READY=1");
        assert_eq!(wire.reply(), (1, Ok(1.into())));
        manager.logged(1, &["took over 1 connection"]);
        manager.stop_for_good();
    }
}

/// It ends as any start that fails does, and leaves everything to the next one. Without anything to take over it does not wait.
#[test]
fn what_never_comes_is_not_waited_for_without_end() {
    let Scarcity { what, mib, config } = NO_WORKER;
    let (mut manager, mut wire) = started("auto", 16, config);
    manager.wait_until_nothing_is_stored();
    manager.stop();
    limit_next(&manager, mib);
    manager.launch();
    manager.logged(1, &[WAITS, what]);
    assert_eq!(manager.ended().code(), Some(1));
    assert_eq!(manager.log().matches(what).count(), 2);
    manager.set_flag("little-memory", false);
    manager.start();
    wire.echo(1, 1);
    manager.wait_until_nothing_is_stored();
    manager.stop_for_good();

    limit_next(&manager, mib);
    manager.launch();
    assert_eq!(manager.ended().code(), Some(1));
    manager.logged(1, &[WAITS]);
}

/// Nor is it once the service is stopped, on whichever thread that was.
#[test]
fn who_is_told_to_stop_does_not_wait() {
    let mut cases = vec![
        ("auto", NO_THREAD),
        ("auto", NO_WORKER),
        ("portable", NO_WORKER),
    ];
    if ringhold_core::probe::probe().unavailable.is_none() {
        cases.push(("auto", NO_RING));
    }
    for (engine, Scarcity { what, mib, config }) in cases {
        let (mut manager, mut wire) = started(engine, 16, config);
        manager.wait_until_nothing_is_stored();
        manager.stop();
        limit_next(&manager, mib);
        manager.launch();
        manager.logged(1, &[WAITS, what]);
        manager.signal(Signal::SIGTERM);
        assert_eq!(manager.ended().code(), Some(1));
        manager.logged(
            1,
            &["told to stop, and so not waiting for it any longer", what],
        );
        // Everything is left to the next one.
        manager.set_flag("little-memory", false);
        manager.start();
        wire.echo(1, 1);
        manager.wait_until_nothing_is_stored();
        manager.stop_for_good();
    }
}

/// How often the main thread, which starts the others, has slept, as it does between two attempts. `None` once it has ended.
fn sleeps(manager: &Manager) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", manager.pid())).ok()?;
    let mut lines = status.lines();
    let count = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
    count.trim().parse().ok()
}

/// Nobody else has them after a reload without a store: what was asked is answered first.
#[test]
fn who_is_told_to_stop_after_a_reload_waits_all_the_same() {
    let Scarcity { what, mib, config } = NO_WORKER;
    for engine in ["auto", "portable"] {
        let (mut manager, mut wire) = started(engine, 0, config);
        limit_next(&manager, mib);
        manager.signal(Signal::SIGHUP);
        manager.logged(1, &[WAITS, what]);
        wire.send(&request(1, "echo", &[1.into()]));
        manager.signal(Signal::SIGTERM);
        let before = sleeps(&manager);
        until("some attempts more", || {
            (sleeps(&manager)? > before? + 5).then_some(())
        });
        may_have(&manager, Resource::As, None);
        assert_eq!(wire.reply(), (1, Ok(1.into())));
        assert!(manager.ended().success());
    }
}

/// A configuration that is `changed` like this needs more than the 100 descriptors that there may be.
fn takes_too_many_descriptors(changed: impl Fn(&str) -> String) {
    let a = free();
    let config = sections(&[("a", &a)]);
    let mut manager = Manager::new(0, &config);
    limited(&mut manager, RINGHOLD, 100);
    manager.start();
    let mut kept = Kept::new(manager, &a);
    kept.refuses(&changed(&config), "are left; raise LimitNOFILE=");
    kept.accepts(&config);
    kept.manager.stop();
}

/// Each worker takes some.
#[test]
fn more_workers_than_there_are_descriptors_for_are_refused() {
    takes_too_many_descriptors(|config| config.replace("workers = 2", "workers = 60"));
}

/// The new program binds them when nobody can go back any more.
#[test]
fn more_addresses_than_there_are_descriptors_for_are_refused() {
    let paths = (0..60).map(|index| format!("\"unix:DIR/{index}.sock\""));
    let listen = paths.collect::<Vec<_>>().join(", ");
    takes_too_many_descriptors(|config| {
        format!("{config}[sockets.more]\nservice = \"rpc\"\nlisten = [{listen}]\n")
    });
}

/// The limit of a service that runs is lowered.
fn lower_limit(manager: &Manager, limit: u64) {
    let limit = Rlimit {
        current: Some(limit),
        maximum: Some(limit),
    };
    prlimit(Pid::from_raw(manager.pid()), Resource::Nofile, limit).unwrap();
}

/// What executes the new program has open what it passes on, and lays it out beside that.
#[test]
fn listeners_that_a_reload_has_no_descriptors_for_are_kept_as_they_are() {
    // This process has them, too.
    ringhold_core::rlimit::raise().unwrap();
    let inherited = |count: usize, limit: usize| {
        let mut manager = Manager::new(0, "workers = 1\n[sockets.rpc]\n");
        let addresses: Vec<Address> = (0..count).map(|_| manager.listen_unix("rpc")).collect();
        limited(&mut manager, RINGHOLD, limit);
        manager.start();
        (Kept::new(manager, &addresses[count - 1]), addresses)
    };
    let (mut many, addresses) = inherited(160, 400);
    for _ in 0..3 {
        many.accepts("workers = 1\n[sockets.rpc]\n");
        for address in &addresses {
            Wire::connect(address).echo(3, 3);
        }
    }
    many.manager.stop();

    let (mut too_many, _) = inherited(200, 500);
    lower_limit(&too_many.manager, 400);
    too_many.refuses(
        "workers = 1\n[sockets.rpc]\n",
        "are left; raise LimitNOFILE=",
    );
    too_many.manager.stop();
}

/// What a program claims it has open only once if its predecessor had it, and what it does not claim it has open all the same.
#[test]
fn what_the_application_has_is_counted_as_it_is() {
    ringhold_core::rlimit::raise().unwrap();
    let with_many = |listeners: usize, limit: usize| {
        let mut manager = Manager::new(0, "workers = 1\n[sockets.rpc]\n").with_test_daemon();
        manager.set_flag("claim-many", true);
        let addresses: Vec<Address> = (0..listeners).map(|_| manager.listen_unix("rpc")).collect();
        limited(&mut manager, handover_daemon().to_str().unwrap(), limit);
        manager.start();
        Kept::new(manager, &addresses[0])
    };
    let mut same = with_many(1, 190);
    for _ in 0..2 {
        same.accepts("workers = 1\n[sockets.rpc]\n");
    }
    same.manager.stop();

    let mut fewer = with_many(100, 400);
    lower_limit(&fewer.manager, 290);
    fewer.manager.set_flag("claim-many", false);
    fewer.refuses(
        "workers = 1\n[sockets.rpc]\n",
        "are left; raise LimitNOFILE=",
    );
    fewer.manager.stop();
}
