//! Without a store for descriptors: connections are finished and closed, and that is said at start.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::sys::signal::Signal;
use ringhold_client::Address;
use rmpv::Value;
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

use crate::common::wire::{Wire, request};
use crate::manager::{Manager, RINGHOLD, write_program};
use crate::ports::free_address;

const CONFIG: &str = "workers = 2\n[handover]\ndrain = \"20s\"\n[sockets.rpc]\n";

/// What was asked is answered, deferred replies too; then the connections end in order.
fn drains_and_closes(mut manager: Manager) {
    let address = manager.listen_tcp("rpc");
    manager.start();
    let mut wires: Vec<Wire> = (0..20).map(|_| Wire::connect(&address)).collect();
    for wire in &mut wires {
        wire.echo(0, 0);
        for id in 1..10 {
            wire.send(&request(id, "echo", &[id.into()]));
        }
    }
    let mut held = Wire::connect(&address);
    held.send(&request(1, "hold", &[]));
    held.send(&request(2, "echo", &[2.into()]));
    assert_eq!(held.reply(), (2, Ok(2.into())));
    let mut other = Wire::connect(&address);
    other.echo(1, 1);
    manager.signal(Signal::SIGTERM);
    let mark = 0;
    manager.wait_for(mark, "STOPPING=1");
    other.send(&request(2, "release", &[]));
    assert_eq!(other.reply(), (2, Ok(1.into())));
    assert_eq!(held.reply(), (1, Ok("released".into())));
    assert_eq!(held.rest(), b"");
    for wire in &mut wires {
        for id in 1..10 {
            assert_eq!(wire.reply(), (id, Ok(Value::from(id))));
        }
        assert_eq!(wire.rest(), b"");
    }
    assert!(manager.ended().success());
    manager.logged(
        1,
        &["closing 22 connections for want of a descriptor store (FileDescriptorStoreMax=)"],
    );
    assert!(
        !manager.log().contains("what services"),
        "{}",
        manager.log()
    );
    assert_eq!(manager.state().stored(), Vec::<&str>::new());
    // Who connects meanwhile is served by the next.
    let mut waiting = Wire::connect(&address);
    manager.start();
    waiting.echo(3, 3);
    manager.stop_for_good();
}

/// With a section that binds its sockets itself, with these keys. The other one is of one worker.
fn bound(tcp: &Address, more: &str) -> String {
    format!(
        "{CONFIG}workers = [1]\n[sockets.bound]\nservice = \"rpc\"\nlisten = [\"{tcp}\", \"unix:DIR/bound.sock\"]\n{more}"
    )
}

/// Stops while a deferred reply is owed, until which connects go nowhere.
fn stop_held(manager: &mut Manager) {
    manager.signal(Signal::SIGTERM);
    manager.logged(1, &["waiting for deferred replies ("]);
}

/// Nobody comes after this process who would accept them.
#[test]
fn who_connects_during_a_stop_is_refused() {
    for (engine, is_passed_on) in [("auto", false), ("auto", true), ("portable", false)] {
        let address = free_address();
        let config = bound(&address.into(), "reuse_port = true\n");
        let mut manager = Manager::on(engine, 0, &config).with_test_daemon();
        let inherited = manager.listen_unix("rpc");
        manager.start();
        if is_passed_on {
            manager.reload();
        }
        let mut held = Wire::connect(&address.into());
        held.send(&request(1, "hold", &[]));
        held.echo(2, 2);
        let mut witness = Wire::connect(&inherited);
        witness.send(&request(1, "hold", &[]));
        witness.echo(2, 2);
        let mut other = Wire::connect(&inherited);
        other.echo(1, 1);
        stop_held(&mut manager);

        let refused = TcpStream::connect(address).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        let path = manager.path("bound.sock");
        let refused = UnixStream::connect(&path).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NotFound);
        // The worker that accepted it knows of the stop.
        manager.logged(1, &["of rpc", "still waits for the answer"]);
        let mut waiting = Wire::connect(&inherited);
        // They are anybody's.
        let theirs = UnixListener::bind(&path).unwrap();
        drop(TcpListener::bind(address).unwrap());

        other.send(&request(2, "release", &[]));
        assert_eq!(other.reply(), (2, Ok(2.into())));
        for held in [&mut held, &mut witness] {
            assert_eq!(held.reply(), (1, Ok("released".into())));
            assert_eq!(held.rest(), b"");
        }
        assert!(manager.ended().success());
        let log = manager.log();
        let complaints = ["accepting rests", "cannot remove", "ERROR"];
        assert!(!complaints.iter().any(|it| log.contains(it)), "{log}");
        assert!(Path::new(&path).exists());
        drop(theirs);
        manager.start();
        waiting.echo(3, 3);
        manager.stop_for_good();
        assert!(!Path::new(&path).exists());
    }
}

/// It would hear nothing until the end of the stop, and could not tell whether what it has sent has taken effect.
#[test]
fn who_is_not_accepted_by_a_stop_is_refused() {
    for engine in ["auto", "portable"] {
        let address = free_address().into();
        let config = bound(&address, "connections = 1\nworkers = [1]\n");
        let mut manager = Manager::on(engine, 0, &config).with_test_daemon();
        let inherited = manager.listen_unix("rpc");
        manager.start();
        let mut held = Wire::connect(&address);
        held.send(&request(1, "hold", &[]));
        held.echo(2, 2);
        let path = Address::Unix(manager.path("bound.sock").into());
        let mut waiting = [&address, &path].map(Wire::connect);
        for wire in &mut waiting {
            wire.send(&request(1, "echo", &[1.into()]));
        }
        manager.logged(1, &["accepting paused"]);
        let mut other = Wire::connect(&inherited);
        other.echo(1, 1);
        stop_held(&mut manager);
        for wire in &mut waiting {
            let end = wire.socket.read(&mut [0]).unwrap_err();
            assert_eq!(end.kind(), ErrorKind::ConnectionReset);
        }
        other.send(&request(2, "release", &[]));
        assert_eq!(other.reply(), (2, Ok(1.into())));
        assert_eq!(held.reply(), (1, Ok("released".into())));
        assert!(manager.ended().success());
    }
}

#[test]
fn no_store() {
    let mut manager = Manager::new(0, CONFIG).with_test_daemon();
    manager.listen_unix("rpc");
    manager.start();
    manager.logged(
        1,
        &[
            "stores no descriptors",
            "a restart will close open connections",
        ],
    );
    assert_eq!(manager.state().refused, ["ringhold.probe"; 3]);
    manager.stop();
    drains_and_closes(Manager::new(0, CONFIG).with_test_daemon());
}

#[test]
fn a_store_that_is_too_small() {
    for size in [1, 2] {
        let mut manager = Manager::new(size, CONFIG).with_test_daemon();
        manager.listen_unix("rpc");
        manager.start();
        manager.logged(
            1,
            &[
                &format!("room for {size} descriptors"),
                "a restart will close open connections",
            ],
        );
        manager.wait_until_nothing_is_stored();
        manager.stop();
    }
    drains_and_closes(Manager::new(2, CONFIG).with_test_daemon());
}

/// `FileDescriptorStoreMax=` was raised, and `systemctl daemon-reload` came before the restart.
#[test]
fn a_store_that_comes_later() {
    for size in [0, 2] {
        let mut manager = Manager::new(size, CONFIG);
        let address = manager.listen_tcp("rpc");
        manager.start();
        manager.logged(1, &["a restart will close open connections"]);
        let mut wire = Wire::connect(&address);
        wire.echo(1, 1);
        manager.state().store_max = 3;
        manager.restart();
        manager.logged(1, &["took over 1 connection"]);
        wire.echo(2, 2);
        manager.stop_for_good();
    }
}

/// It was lowered, or something else is in the store by now: connections are ended in order, and nothing else is said.
#[test]
fn a_store_that_is_there_no_more() {
    for size in [0, 2] {
        let mut manager = Manager::new(3, CONFIG);
        let address = manager.listen_tcp("rpc");
        manager.start();
        manager.wait_until_nothing_is_stored();
        let mut wire = Wire::connect(&address);
        wire.echo(1, 1);
        manager.state().store_max = size;
        manager.stop();
        manager.logged(1, &["a restart closes open connections"]);
        assert!(!manager.log().contains("left 1"), "{}", manager.log());
        assert_eq!(wire.rest(), b"");
        manager.wait_until_nothing_is_stored();
    }
}

/// A pipe with a name that has no room left, and its end to read from: who writes to it waits.
fn full_pipe(path: &str) -> File {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let nonblocking = OFlags::NONBLOCK.bits() as i32;
    let open = |options: &mut OpenOptions| options.custom_flags(nonblocking).open(path).unwrap();
    let reader = open(OpenOptions::new().read(true));
    let mut writer = open(OpenOptions::new().write(true));
    for size in [4096, 1] {
        let error = loop {
            if let Err(error) = writer.write_all(&vec![b'\n'; size]) {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
    reader
}

/// systemd lets a reload of a service that is still starting end well without doing anything. So the service manager
/// knows that the service is ready before any client can. The main thread is held up where it says what it listens on.
#[test]
fn who_has_an_answer_can_reload() {
    let mut manager = Manager::new(3, "[sockets.rpc]\n");
    let address = manager.listen_unix("rpc");
    let pipe = full_pipe(&manager.path("log"));
    let script = manager.path("silent");
    let to_the_pipe = format!("exec {RINGHOLD} \"$@\" 2>{}", manager.path("log"));
    write_program(&script, &format!("#!/bin/sh\n{to_the_pipe}\n"));
    manager.run_as(&script);
    manager.set_environment("RINGHOLD_LOG", "off,ringhold_core::run=info");
    manager.launch();
    Wire::connect(&address).echo(1, 1);
    manager.wait_for(0, "READY=1");
    drop(pipe);
    manager.stop_for_good();
}

/// A stop that waits for deferred replies may take longer than `TimeoutStopSec=` says, and asks for that.
#[test]
fn time_is_asked_for() {
    let config = "[handover]\ndrain = \"20s\"\n[sockets.rpc]\n";
    for size in [0, 3] {
        let mut manager = Manager::new(size, config);
        manager.listen_unix("rpc");
        manager.start();
        let mark = manager.mark();
        manager.reload();
        manager.stop();
        for (line, least) in [("RELOADING=1", 51), ("STOPPING=1", 41)] {
            let state = manager.state();
            let mut messages = state.messages[mark..].iter();
            let message = messages.find(|text| text.lines().any(|other| other == line));
            let mut lines = message.unwrap().lines();
            let asked = lines.find_map(|line| line.strip_prefix("EXTEND_TIMEOUT_USEC="));
            assert!(asked.unwrap().parse::<u64>().unwrap() >= least * 1_000_000);
        }
    }
}

/// What the service manager is told, and in which order.
#[test]
fn the_notifications_are_in_order() {
    let mut manager = Manager::new(3, "[sockets.rpc]\n");
    manager.listen_unix("rpc");
    manager.start();
    manager.stop();
    manager.start();
    manager.stop();
    let state = manager.state();
    let words: Vec<String> = state
        .messages
        .iter()
        .filter(|message| !message.starts_with("STATUS="))
        .map(|message| message.replace('\n', " "))
        .collect();
    let probe = [
        // What may be left of an earlier handover makes room.
        &[
            "FDSTOREREMOVE=1 FDNAME=ringhold.state",
            "FDSTOREREMOVE=1 FDNAME=ringhold.outlet",
            "FDSTOREREMOVE=1 FDNAME=ringhold.inlet",
        ][..],
        &["FDSTORE=1 FDNAME=ringhold.probe FDPOLL=0"; 3],
        &["BARRIER=1", "FDSTOREREMOVE=1 FDNAME=ringhold.probe"],
    ]
    .concat();
    let give = [
        "EXTEND_TIMEOUT_USEC=40000000",
        "FDSTORE=1 FDNAME=ringhold.state FDPOLL=0",
        "FDSTORE=1 FDNAME=ringhold.outlet FDPOLL=0",
        "FDSTORE=1 FDNAME=ringhold.inlet FDPOLL=0",
        "BARRIER=1",
    ];
    let take = [
        "EXTEND_TIMEOUT_USEC=40000000",
        "BARRIER=1",
        "FDSTOREREMOVE=1 FDNAME=ringhold.inlet",
        "FDSTOREREMOVE=1 FDNAME=ringhold.outlet",
        "FDSTOREREMOVE=1 FDNAME=ringhold.state",
        "BARRIER=1",
    ];
    let stopping = "STOPPING=1 EXTEND_TIMEOUT_USEC=47000000";
    let expected = [
        &probe[..],
        &["READY=1", stopping],
        &probe,
        &give,
        &take,
        &probe,
        &["READY=1", stopping],
        &probe,
        &give,
    ]
    .concat();
    assert_eq!(words, expected);
}
