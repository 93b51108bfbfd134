//! Restart, reload and activation under the machine's real systemd, with the project's own units.
//!
//! Each test has a user manager of its own (tests/systemd/user-manager), which neither sees nor changes the rest of the
//! machine. Where that is not possible, the tests skip and say why; with `RINGHOLD_REQUIRE_SYSTEMD=1` they fail.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on should end"
)]

#[path = "handover/built.rs"]
mod built;
#[path = "common/mod.rs"]
mod common;
#[path = "systemd/lab.rs"]
mod lab;
#[path = "handover/load.rs"]
mod load;
#[path = "handover/ports.rs"]
mod ports;

use std::io::Read;
use std::net::TcpStream;
use std::process::Command;

use ringhold_client::{Address, Client};

use crate::common::wire::connect;
use crate::common::{PATIENCE, until};
use crate::lab::{Lab, has_analyze};
use crate::load::Load;
use crate::ports::free_address;

fn ping(address: &Address) {
    let answer: String = connect(address).call("ping", &()).unwrap();
    assert_eq!(answer, "pong");
}

/// A client that stays.
struct Witness(Client);

impl Witness {
    fn connect(address: &Address) -> Self {
        let mut witness = Witness(connect(address));
        witness.check();
        witness
    }

    fn check(&mut self) {
        let answer: u64 = self.0.call("echo", &(77,)).unwrap();
        assert_eq!(answer, 77);
    }
}

/// The units as they are shipped, and the first connection starts the service.
#[test]
fn the_first_connection_starts_the_service() {
    let Some(lab) = Lab::up(|_| {}) else { return };
    lab.ctl(&["start", "ringhold.socket"]);
    assert!(!lab.is_active("ringhold.service"));
    for address in [&lab.tcp, &lab.unix] {
        ping(address);
    }
    assert!(lab.is_active("ringhold.service"));
    lab.logged(1, &["listening on", "inherited", "socket=rpc"]);
    assert!(
        !lab.log().contains("would close open connections"),
        "{}",
        lab.log()
    );
    // A stop of the service and its socket closes everything.
    let mut witness = TcpStream::connect(lab.tcp_address()).unwrap();
    ping(&lab.unix);
    lab.ctl(&["stop", "ringhold.socket", "ringhold.service"]);
    assert_eq!(witness.read(&mut [0]).unwrap(), 0);
    assert!(TcpStream::connect(lab.tcp_address()).is_err());
    assert!(!std::path::Path::new(&lab.path("rpc.sock")).exists());
}

/// A second name in a unit of its own, and a third one that the configuration disables.
#[test]
fn several_names_one_of_them_disabled() {
    let off = free_address();
    let Some(lab) = Lab::up(|lab| {
        lab.configure(
            "workers = 2\n[sockets.rpc]\n[sockets.admin]\nservice = \"rpc\"\nworkers = [0]\n[sockets.off]\nservice = \"rpc\"\nenable = false\n",
        );
        let admin = lab.shipped("examples/ringhold-admin.socket");
        lab.unit("ringhold-admin.socket", &admin);
        let admin = admin.replace("FileDescriptorName=admin", "FileDescriptorName=off");
        let path = lab.path("admin.sock");
        lab.unit(
            "ringhold-off.socket",
            &admin.replace(&path, &off.to_string()),
        );
    }) else {
        return;
    };
    lab.ctl(&[
        "start",
        "ringhold.socket",
        "ringhold-admin.socket",
        "ringhold-off.socket",
    ]);
    ping(&Address::Unix(lab.path("admin.sock").into()));
    ping(&lab.tcp);
    assert_eq!(TcpStream::connect(off).unwrap().read(&mut [0]).unwrap(), 0);
    lab.logged(1, &["turning clients away", "socket=off"]);
}

#[test]
fn a_listener_for_each_worker() {
    let Some(lab) = Lab::up(|lab| {
        lab.configure("workers = 4\n[sockets.rpc]\n");
        let unit = lab.shipped("examples/ringhold-per-worker.socket");
        lab.unit("ringhold-per-worker.socket", &unit);
        let service = lab.shipped("ringhold.service");
        let service = service.replace("ringhold.socket", "ringhold-per-worker.socket");
        let service = service.replace("[Service]", "[Service]\nSockets=ringhold-per-worker.socket");
        lab.unit("ringhold.service", &service);
    }) else {
        return;
    };
    lab.ctl(&["start", "ringhold-per-worker.socket"]);
    let load = Load::start(&lab.tcp, 20, 16);
    lab.logged(4, &["listening on", "inherited", "socket=rpc"]);
    for round in 1..=4 {
        lab.ctl(&["restart", "ringhold.service"]);
        lab.logged(round, &["took over"]);
    }
    load.end();
}

/// What `systemctl` does, twenty times, under a load that checks every reply.
fn go_through(verb: &str, address: impl Fn(&Lab) -> &Address) {
    let Some(lab) = Lab::up(|_| {}) else { return };
    lab.ctl(&["start", "ringhold.socket"]);
    let mut witness = Witness::connect(address(&lab));
    let load = Load::start(address(&lab), 200, 16);
    let pid = lab.main_pid();
    for round in 1..=20 {
        lab.ctl(&[verb, "ringhold.service"]);
        // A reload is over when the successor says so, which `kill` does not wait for.
        lab.logged(round, &["took over"]);
        witness.check();
    }
    assert_eq!(lab.main_pid() == pid, verb == "reload");
    let report = load.end();
    eprintln!("{report}");
    until("the end of the reload", || {
        lab.is_active("ringhold.service").then_some(())
    });
}

#[test]
fn twenty_restarts_over_tcp() {
    go_through("restart", |lab| &lab.tcp);
}

#[test]
fn twenty_restarts_over_unix_sockets() {
    go_through("restart", |lab| &lab.unix);
}

#[test]
fn twenty_reloads_over_tcp() {
    go_through("reload", |lab| &lab.tcp);
}

#[test]
fn twenty_reloads_over_unix_sockets() {
    go_through("reload", |lab| &lab.unix);
}

#[test]
fn a_broken_configuration_fails_the_reload_and_changes_nothing() {
    let Some(lab) = Lab::up(|lab| lab.configure("[sockets.rpc]\n")) else {
        return;
    };
    lab.ctl(&["start", "ringhold.socket"]);
    let mut witness = Witness::connect(&lab.tcp);
    let pid = lab.main_pid();
    for broken in ["[sockets.rpc", "[sockets.rpc]\nservice = \"nothing\"\n"] {
        lab.configure(broken);
        assert!(
            !lab.try_ctl(&["reload", "ringhold.service"])
                .status
                .success()
        );
        witness.check();
        ping(&lab.tcp);
    }
    // What only the daemon can find out: nobody claims the listener any more.
    lab.configure("[sockets.other]\nservice = \"rpc\"\n");
    lab.ctl(&["reload", "ringhold.service"]);
    lab.logged(1, &["the reload is refused, nothing has changed"]);
    until("the status", || {
        let status = lab.property("ringhold.service", "StatusText");
        status.contains("the last reload was refused").then_some(())
    });
    witness.check();
    assert_eq!(lab.main_pid(), pid);
    lab.configure("[sockets.rpc]\n");
    lab.ctl(&["reload", "ringhold.service"]);
    lab.logged(1, &["took over"]);
    witness.check();
    assert_eq!(lab.main_pid(), pid);
    until("the status", || {
        let status = lab.property("ringhold.service", "StatusText");
        (!status.contains("refused")).then_some(())
    });
}

/// `FileDescriptorStoreMax=` is 0 by default.
#[test]
fn without_a_store_a_restart_closes_and_says_so() {
    let Some(lab) = Lab::up(|lab| {
        let service = lab.shipped("ringhold.service");
        lab.unit(
            "ringhold.service",
            &service.replace("FileDescriptorStoreMax=16", ""),
        );
    }) else {
        return;
    };
    lab.ctl(&["start", "ringhold.socket"]);
    let mut witness = Witness::connect(&lab.tcp);
    lab.logged(
        1,
        &[
            "stores no descriptors for this unit",
            "a restart will close open connections",
        ],
    );
    lab.ctl(&["reload", "ringhold.service"]);
    lab.logged(1, &["took over"]);
    witness.check();
    lab.ctl(&["restart", "ringhold.service"]);
    assert!(witness.0.call::<_, u64>("echo", &(1,)).is_err());
    ping(&lab.tcp);
}

/// Has the service run the tests' own daemon, with the files of the lab as flags.
fn run_test_daemon(lab: &Lab) {
    let daemon = lab.install(&built::handover_daemon());
    let service = lab.shipped("ringhold.service");
    let service = service.replace(
        &format!("{} serve --inherited-only --config", lab.path("ringhold")),
        &format!("/usr/bin/env HANDOVER_FLAGS={} {daemon}", lab.path("")),
    );
    lab.unit("ringhold.service", &service);
}

/// A datagram socket, of a socket unit or opened by the application itself.
#[test]
fn a_descriptor_of_the_application_is_kept() {
    for is_units in [true, false] {
        let Some(lab) = Lab::up(|lab| {
            run_test_daemon(lab);
            std::fs::write(lab.path("claim-metrics"), "").unwrap();
            let metrics = format!(
                "[Socket]\nListenDatagram={}\nFileDescriptorName=metrics\nService=ringhold.service\n",
                free_address()
            );
            lab.unit("ringhold-metrics.socket", &metrics);
        }) else {
            return;
        };
        if is_units {
            lab.ctl(&["start", "ringhold-metrics.socket"]);
        }
        lab.ctl(&["start", "ringhold.socket"]);
        let port = || -> u16 { connect(&lab.tcp).call("metrics_port", &()).unwrap() };
        let first = port();
        for (round, verb) in ["restart", "reload", "kill", "restart"].iter().enumerate() {
            match *verb {
                "kill" => lab.ctl(&["kill", "--signal=SIGKILL", "ringhold.service"]),
                verb => lab.ctl(&[verb, "ringhold.service"]),
            };
            let origin = match is_units {
                true => "(inherited, ",
                false => "(the predecessor's, ",
            };
            let times = round + 1 + usize::from(is_units);
            lab.logged(
                times,
                &["descriptor \"metrics\" of the application", origin],
            );
            assert_eq!(port(), first);
        }
    }
}

/// The successor crashes while it restores; systemd starts another, which finds the same.
#[test]
fn a_crash_of_the_successor_is_restored_by_the_next() {
    let Some(lab) = Lab::up(|lab| {
        lab.configure("[sockets.rpc]\nservice = \"fragile\"\n");
        run_test_daemon(lab);
    }) else {
        return;
    };
    lab.ctl(&["start", "ringhold.socket"]);
    let mut stream = TcpStream::connect(lab.tcp_address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let expect = |stream: &mut TcpStream, bytes: &[u8]| {
        let mut received = vec![0; bytes.len()];
        stream.read_exact(&mut received).unwrap();
        assert_eq!(received, bytes);
    };
    expect(&mut stream, b"\xa5hello");
    let ask = |stream: &mut TcpStream, count: u8| {
        std::io::Write::write_all(stream, b"\xc0").unwrap();
        expect(stream, &[0xcf, 0, 0, 0, 0, 0, 0, 0, count]);
    };
    ask(&mut stream, 1);
    std::fs::write(lab.path("abort-once-in-restore"), "").unwrap();
    lab.try_ctl(&["restart", "ringhold.service"]);
    until("a crash", || {
        (lab.property("ringhold.service", "NRestarts") != "0").then_some(())
    });
    ask(&mut stream, 2);
    assert!(lab.is_active("ringhold.service"));
}

/// What is shipped, as `systemd-analyze` sees it.
#[test]
fn the_units_are_valid_and_confined() {
    if !has_analyze() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut units = Vec::new();
    for name in [
        "ringhold.service",
        "ringhold.socket",
        "examples/ringhold-admin.socket",
        "examples/ringhold-per-worker.socket",
    ] {
        let text = std::fs::read_to_string(lab::units().join(name)).unwrap();
        let text = text.replace("/usr/local/bin/ringhold", env!("CARGO_BIN_EXE_ringhold"));
        let path = dir.path().join(name.rsplit('/').next().unwrap());
        std::fs::write(&path, text).unwrap();
        units.push(path);
    }
    let verify = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(&units)
        .output()
        .unwrap();
    let complaints = String::from_utf8_lossy(&verify.stderr).into_owned();
    let ours = complaints.lines().find(|line| line.contains("ringhold"));
    assert!(verify.status.success() && ours.is_none(), "{complaints}");

    let security = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager", "--threshold=30"])
        .arg(&units[0])
        .output()
        .unwrap();
    assert!(
        security.status.success(),
        "{}",
        String::from_utf8_lossy(&security.stdout)
    );
}
