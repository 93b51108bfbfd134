//! A successor that fails while it restores: the next one finds the same, three times at most.

use std::fs::File;
use std::io::{self, Read, Write, pipe};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{SocketAddr, UnixStream};

use ringhold_client::Address;

use crate::built::handover_daemon;
use crate::changes::free;
use crate::common::until;
use crate::common::wire::{Wire, counter, request};
use crate::load::Load;
use crate::manager::{Manager, Stored, write_program};

const CONFIG: &str = "workers = 2
[sockets.fragile]
[sockets.rpc]
listen = [\"unix:DIR/rpc.sock\"]
";

pub(crate) const PARTS: [&str; 3] = ["ringhold.inlet", "ringhold.outlet", "ringhold.state"];

/// A service that was stopped for a restart, with connections whose counts are 1, 2, ..., in the store.
pub(crate) fn stopped() -> (Manager, Vec<Wire>) {
    let mut manager = Manager::new(16, CONFIG).with_test_daemon();
    let address = manager.listen_unix("fragile");
    manager.start();
    let mut wires: Vec<Wire> = (0..10).map(|_| Wire::connect(&address)).collect();
    for (index, wire) in wires.iter_mut().enumerate() {
        assert_eq!(wire.value(), "hello".into());
        for _ in 0..=index {
            count(wire);
        }
    }
    manager.stop();
    assert_eq!(manager.state().stored(), PARTS);
    (manager, wires)
}

fn count(wire: &mut Wire) -> u64 {
    wire.send(b"\xc0");
    wire.value().as_u64().unwrap()
}

/// Everybody is served where they were.
pub(crate) fn all_go_on(manager: &mut Manager, wires: &mut [Wire]) {
    for (index, wire) in wires.iter_mut().enumerate() {
        assert_eq!(count(wire), index as u64 + 2);
    }
    manager.wait_until_nothing_is_stored();
    manager.stop_for_good();
}

/// Everybody is told, and the service goes on for others.
fn all_are_closed(manager: &mut Manager, wires: &mut [Wire]) {
    for wire in wires {
        assert_eq!(wire.rest(), b"");
    }
    manager.wait_until_nothing_is_stored();
    let rpc = Address::Unix(manager.path("rpc.sock").into());
    assert_eq!(counter(&rpc, "fragile", "restored"), 0);
    manager.stop_for_good();
}

fn crash(manager: &mut Manager, times: usize) {
    for _ in 0..times {
        manager.launch();
        let status = manager.ended();
        assert!(status.code().is_none(), "{status}: {}", manager.log());
        assert_eq!(manager.state().stored(), PARTS);
    }
}

#[test]
fn what_crashes_before_the_commit_is_restored_by_the_next() {
    for flag in ["abort-at-start", "abort-in-restore"] {
        let (mut manager, mut wires) = stopped();
        manager.set_flag(flag, true);
        crash(&mut manager, 2);
        manager.set_flag(flag, false);
        manager.start();
        all_go_on(&mut manager, &mut wires);
    }
}

/// Under load: until it answers for the connections, a successor accepts none, so that none is lost with it.
#[test]
fn clients_do_not_notice_a_successor_that_crashes() {
    let (mut manager, mut wires) = stopped();
    manager.start();
    let load = Load::start(&Address::Unix(manager.path("rpc.sock").into()), 20, 16);
    for _ in 0..4 {
        manager.stop();
        manager.set_flag("abort-in-restore", true);
        crash(&mut manager, 2);
        manager.set_flag("abort-in-restore", false);
        manager.start();
    }
    load.end();
    all_go_on(&mut manager, &mut wires);
}

#[test]
fn after_three_crashes_the_successor_starts_empty() {
    for flag in ["abort-at-start", "abort-in-restore"] {
        let (mut manager, mut wires) = stopped();
        manager.set_flag(flag, true);
        crash(&mut manager, 3);
        if flag == "abort-at-start" {
            manager.set_flag(flag, false);
        }
        manager.start();
        manager.logged(
            1,
            &["tried 3 times without success: 11 descriptors are closed"],
        );
        all_are_closed(&mut manager, &mut wires);
    }
}

/// A successor that says what is wrong and ends has not crashed, and however often it does, nothing is given up.
#[test]
fn refusing_to_start_is_no_attempt() {
    let (mut manager, mut wires) = stopped();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap();
    let busy = CONFIG.replace("\"unix:", &format!("\"{taken}\", \"unix:"));
    for config in ["nonsense", "[sockets.other]\n", &busy] {
        manager.configure(config);
        for _ in 0..4 {
            manager.launch();
            let status = manager.ended();
            assert!(status.code().is_some_and(|code| code != 0), "{status}");
            assert_eq!(manager.state().stored(), PARTS);
        }
    }
    manager.configure(CONFIG);
    manager.start();
    all_go_on(&mut manager, &mut wires);
}

/// There is room for the receive buffers of one worker only, which is found out when the state was looked at already and the
/// other one runs. Whatever it is, it is no fault of the state.
#[test]
fn a_worker_that_cannot_start_is_no_attempt() {
    if let Some(why) = ringhold_core::probe::probe().unavailable {
        eprintln!("SKIPPED: the portable engine takes no memory in advance, and {why}");
        return;
    }
    let (mut manager, mut wires) = stopped();
    let daemon = handover_daemon().to_str().unwrap().to_owned();
    let script = manager.path("little-memory");
    let run = format!("ulimit -v 900000\nexec {daemon} \"$@\"");
    write_program(&script, &format!("#!/bin/sh\n{run}\n"));
    manager.run_as(&script);
    let large = "[ring]\nbuffers = 1024\nbuffer_bytes = \"512KiB\"\n";
    manager.configure(&format!("{CONFIG}{large}"));
    for times in 1..=4 {
        manager.launch();
        let status = manager.ended();
        assert_eq!(status.code(), Some(1), "{}", manager.log());
        let told = "the ring engine is not available: registering a ring of receive buffers: there is no memory for";
        assert_eq!(manager.log().matches(told).count(), times);
        assert_eq!(manager.state().stored(), PARTS);
    }
    manager.configure(CONFIG);
    manager.run_as(&daemon);
    manager.start();
    all_go_on(&mut manager, &mut wires);
}

/// A reload is in the store, too, until the successor has it.
#[test]
fn a_crash_in_a_reload_is_restored_by_the_next() {
    let (mut manager, mut wires) = stopped();
    manager.start();
    manager.set_flag("abort-in-restore", true);
    manager.signal(nix::sys::signal::Signal::SIGHUP);
    assert!(manager.ended().code().is_none());
    assert_eq!(manager.state().stored(), PARTS);
    manager.set_flag("abort-in-restore", false);
    manager.start();
    all_go_on(&mut manager, &mut wires);
}

/// Overwrites a byte of the stored state with what `change` makes of it.
fn damage(manager: &Manager, at: u64, change: impl FnOnce(u8) -> u8) {
    let state = manager.state();
    let file = File::from(state.find("ringhold.state").try_clone().unwrap());
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[change(byte[0])], at).unwrap();
}

#[test]
fn state_of_another_version_is_refused_politely() {
    let (mut manager, mut wires) = stopped();
    damage(&manager, 11, |_| 99);
    manager.start();
    manager.logged(
        1,
        &["the stored state has format version 99, this program reads version 1: 11 descriptors are closed"],
    );
    all_are_closed(&mut manager, &mut wires);
}

#[test]
fn damaged_state_is_refused() {
    let (mut manager, mut wires) = stopped();
    // It may be any byte, a part of the kernel's name of a socket for one.
    damage(&manager, 40, |byte| !byte);
    manager.start();
    manager.logged(1, &["the stored state is damaged: the checksum is wrong"]);
    all_are_closed(&mut manager, &mut wires);
}

/// Connects to a name in the abstract namespace.
fn connect_abstractly(manager: &Manager) -> io::Result<UnixStream> {
    UnixStream::connect_addr(&SocketAddr::from_abstract_name(manager.path("x"))?)
}

/// Calls `ping` there, which is answered by socket `name`.
fn is_served_abstractly(manager: &Manager, name: &str) {
    let status = Address::Unix(manager.path("rpc.sock").into());
    let before = counter(&status, name, "frames_in");
    let mut stream = connect_abstractly(manager).unwrap();
    stream.write_all(&request(1, "ping", &[])).unwrap();
    let mut answer = [0; 9];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"\x94\x01\x01\xc0\xa4pong");
    assert_eq!(counter(&status, name, "frames_in"), before + 1);
}

/// A name in the abstract namespace is in use for as long as the stored socket has any duplicate.
#[test]
fn state_that_is_refused_does_not_keep_abstract_names() {
    // A version of the format, and a number of attempts.
    for (at, byte) in [(11, 99), (27, 3)] {
        let config = "[sockets.other]\nservice = \"rpc\"\nlisten = [\"unix:@DIR/x\"]\n\
                      [sockets.rpc]\nlisten = [\"unix:DIR/rpc.sock\"]\n";
        let mut manager = Manager::new(16, config);
        manager.start();
        is_served_abstractly(&manager, "other");
        manager.stop();
        assert_eq!(manager.state().stored(), PARTS);
        damage(&manager, at, |_| byte);
        manager.start();
        // The listeners, and the client's end if it had not been seen by then.
        manager.logged(1, &["the stored state", " descriptors are closed"]);
        manager.wait_until_nothing_is_stored();
        is_served_abstractly(&manager, "other");
        manager.stop_for_good();
    }
}

#[test]
fn an_abstract_name_moves_to_another_section() {
    let config = |name: &str| {
        format!(
            "[sockets.{name}]\nservice = \"rpc\"\nlisten = [\"unix:@DIR/x\"]\n\
             [sockets.rpc]\nlisten = [\"unix:DIR/rpc.sock\"]\n"
        )
    };
    let mut manager = Manager::new(16, &config("a"));
    manager.start();
    is_served_abstractly(&manager, "a");
    for (name, step) in [
        ("b", Manager::restart as fn(&mut Manager)),
        ("s", Manager::reload),
        ("a", Manager::restart),
    ] {
        manager.configure(&config(name));
        step(&mut manager);
        is_served_abstractly(&manager, name);
    }
    for step in [Manager::reload, Manager::restart] {
        manager.configure("[sockets.rpc]\nlisten = [\"unix:DIR/rpc.sock\"]\n");
        step(&mut manager);
        // A child that another test is just starting may have what was stored for a moment.
        let error = until("the listener's end", || connect_abstractly(&manager).err());
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        manager.configure(&config("a"));
        step(&mut manager);
        is_served_abstractly(&manager, "a");
    }
    manager.stop_for_good();
}

/// What the configuration of a start that failed did not ask for is still there for the next, which does.
#[test]
fn a_start_that_fails_leaves_listeners_to_the_next() {
    let rest = "[sockets.rpc]\nlisten = [\"unix:DIR/rpc.sock\"]\n";
    let Address::Tcp(port) = free() else {
        unreachable!()
    };
    let config = format!(
        "[sockets.other]\nservice = \"rpc\"\nlisten = [\"unix:@DIR/x\", \"unix:DIR/other.sock\", \"{port}\"]\n{rest}"
    );
    let mut manager = Manager::new(16, &config);
    manager.start();
    is_served_abstractly(&manager, "other");
    manager.stop();
    manager.configure(&format!(
        "[sockets.other]\nservice = \"rpc\"\nlisten = [\"unix:@DIR/y\", \"unix:DIR/missing/x\"]\n{rest}"
    ));
    manager.launch();
    assert!(manager.ended().code().is_some_and(|code| code != 0));
    manager.configure(&config);
    manager.start();
    is_served_abstractly(&manager, "other");
    Wire::connect(&Address::Unix(manager.path("other.sock").into())).echo(1, 1);
    Wire::connect(&Address::Tcp(port)).echo(1, 1);
    manager.stop_for_good();
}

#[test]
fn truncated_or_foreign_state_is_refused() {
    for length in [0, 20, 200] {
        let (mut manager, mut wires) = stopped();
        let file = tempfile::tempfile().unwrap();
        {
            let mut state = manager.state();
            let place = state
                .store
                .iter()
                .position(|stored| stored.name == "ringhold.state");
            let stored = &mut state.store[place.unwrap()];
            let whole = File::from(stored.fd.try_clone().unwrap());
            let mut begin = vec![0; length];
            whole.read_exact_at(&mut begin, 0).unwrap();
            file.write_all_at(&begin, 0).unwrap();
            stored.fd = OwnedFd::from(file);
        }
        manager.start();
        manager.logged(1, &["the stored state is", "11 descriptors are closed"]);
        all_are_closed(&mut manager, &mut wires);
    }
}

#[test]
fn half_a_handover_is_closed() {
    for (lost, said) in [
        (
            "ringhold.state",
            "there is no stored state: 11 descriptors are closed",
        ),
        (
            "ringhold.outlet",
            "missing 10 connections that the predecessor has described",
        ),
    ] {
        let (mut manager, mut wires) = stopped();
        manager.state().store.retain(|stored| stored.name != lost);
        manager.start();
        manager.logged(1, &[said]);
        all_are_closed(&mut manager, &mut wires);
    }
}

/// Whatever the kernel has against it.
#[test]
fn what_cannot_be_received_is_closed_and_counted() {
    let (mut manager, mut wires) = stopped();
    {
        let mut state = manager.state();
        let mut store = state.store.iter_mut();
        let outlet = store.find(|stored| stored.name == "ringhold.outlet");
        outlet.unwrap().fd = tempfile::tempfile().unwrap().into();
    }
    manager.start();
    manager.logged(
        1,
        &[
            "missing 10 connections that the predecessor has described: they cannot be received: Socket operation on non-socket",
        ],
    );
    all_are_closed(&mut manager, &mut wires);
}

/// Another version stored them, or one that was killed while it looked for the store.
#[test]
fn what_nobody_knows_is_removed_from_the_store() {
    let (mut manager, mut wires) = stopped();
    let (one, other) = pipe().unwrap();
    let (third, _) = pipe().unwrap();
    let strays = [
        ("left-behind", OwnedFd::from(one)),
        ("stored", other.into()),
        ("ringhold.probe", third.into()),
    ];
    for (name, fd) in strays {
        let name = name.to_owned();
        manager.state().store.push(Stored { name, fd });
    }
    manager.start();
    for name in ["left-behind", "stored"] {
        manager.logged(1, &["closing a descriptor that nothing here uses", name]);
    }
    assert!(!manager.log().contains("ERROR"), "{}", manager.log());
    all_go_on(&mut manager, &mut wires);
}

/// Such a program starts a server itself, and talks with the service manager as it likes.
#[test]
fn who_embeds_a_server_goes_on_with_what_is_stored_and_leaves_nothing() {
    let (mut manager, mut wires) = stopped();
    let (stray, _) = pipe().unwrap();
    let stray = Stored {
        name: "left-behind".into(),
        fd: stray.into(),
    };
    manager.state().store.push(stray);
    manager.set_flag("embed", true);
    let mark = manager.mark();
    manager.launch();
    for (index, wire) in wires.iter_mut().enumerate() {
        assert_eq!(count(wire), index as u64 + 2);
    }
    manager.wait_until_nothing_is_stored();
    manager.set_flag("end", true);
    assert!(manager.ended().success());
    assert!(wires.iter_mut().all(Wire::is_over));
    assert_eq!(manager.state().stored(), Vec::<&str>::new());
    for line in ["READY=1", "STOPPING=1", "FDSTORE=1"] {
        assert_eq!(manager.count(mark, line), 0, "{line}");
    }
}

#[test]
fn a_crash_while_serving_loses_what_was_served_and_nothing_else() {
    let mut manager = Manager::new(16, "[sockets.rpc]\n");
    let address = manager.listen_tcp("rpc");
    manager.start();
    let mut lost = Wire::connect(&address);
    lost.echo(1, 1);
    manager.kill();
    let mut waiting = Wire::connect(&address);
    manager.start();
    waiting.echo(1, 1);
    assert!(lost.is_over());
    assert_eq!(manager.state().foreign, Vec::<String>::new());
    manager.stop_for_good();
}
