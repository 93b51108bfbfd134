//! `load`, against a daemon and without one.

use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::commands::RPC;
use crate::common::wire::counter;
use crate::common::{clean, until};
use crate::harness::{Daemon, Manager, await_open, parts, ringhold, run};
use crate::ports::free_address;

#[test]
fn a_load_reports_and_its_status_says_whether_it_was_clean() {
    let daemon = Daemon::start(RPC);
    let address = daemon.address("rpc");
    let text = address.to_string();
    let (status, stdout, stderr) = run(&[
        "load", &text, "-c", "3", "-d", "16", "-n", "3000", "-j", "2", "-s", "1KiB", "--json",
    ]);
    assert_eq!((status, stderr.as_str()), (0, ""), "{stdout}");
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    for (field, value) in [
        ("sent", 3000),
        ("answered", 3000),
        ("lost", 0),
        ("opened", 3),
    ] {
        assert_eq!(report[field], value, "{field}: {stdout}");
    }
    let (status, stdout, _) = run(&["load", &text, "--short-lived", "2", "-c", "0", "-n", "50"]);
    assert_eq!(status, 0, "{stdout}");
    assert!(stdout.contains("sent        50, answered 50"), "{stdout}");
    assert!(!stdout.contains("unconfirmed"), "{stdout}");

    // What became of notifications only the server can say.
    for method in ["echo", "no-such-method"] {
        let (status, stdout, _) = run(&[
            "load", &text, "--mode", "notify", "-n", "1000", "--method", method,
        ]);
        assert_eq!(status, 0, "{stdout}");
        assert!(stdout.contains("\nunconfirmed "), "{stdout}");
    }
    await_open(&address, "rpc", 1);

    // `ping` does not give the payload back.
    let (status, stdout, _) = run(&["load", &text, "--method", "ping", "-n", "10"]);
    assert_eq!(status, 1, "{stdout}");
    assert!(stdout.contains("wrong 10"), "{stdout}");
}

/// As `echo` is none of a service without built-in methods.
#[test]
fn a_load_on_a_method_that_is_not_for_it_says_what_to_do() {
    let daemon = Daemon::start(RPC);
    let address = daemon.address("rpc").to_string();
    let load = |more: [&str; 6]| run(&[&["load", &address][..], &more].concat());
    for (mode, method, limit, fault, advice) in [
        ("call", "nix", ["-n", "10"], "errors 10,", "Router::new"),
        ("call", "ping", ["-n", "10"], "wrong 10,", "Router::new"),
        ("subscribe", "nix", ["-n", "10"], "errors 1,", "--params"),
    ] {
        let [option, value] = limit;
        let (status, stdout, stderr) = load(["--mode", mode, "--method", method, option, value]);
        assert_eq!(status, 1, "{method}: {stdout}");
        assert!(stdout.contains(fault), "{method}: {stdout}");
        let said = format!("ringhold: no reply to {method:?} was right; ");
        assert!(
            stderr.starts_with(&said) && stderr.contains(advice),
            "{method}: {stderr}"
        );
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
    // Where some were right it is not the method.
    let (status, _, stderr) = load(["--mode", "subscribe", "--method", "echo", "-t", "200ms"]);
    assert_eq!((status, stderr.as_str()), (1, ""));
}

#[test]
fn a_load_on_a_server_that_does_nothing_fails_in_every_mode() {
    // Its connections stand, in the backlog, and nobody ever reads or writes them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    for (mode, fault) in [
        ("call", "lost 1,"),
        ("notify", "1 unfinished"),
        ("subscribe", "lost 1,"),
    ] {
        let (status, stdout, stderr) = run(&[
            "load", &address, "--mode", mode, "-n", "5", "-t", "200ms", "--drain", "200ms",
        ]);
        assert_eq!((status, stderr.as_str()), (1, ""), "{mode}: {stdout}");
        assert!(stdout.contains(fault), "{mode}: {stdout}");
        assert!(stdout.contains("problem  "), "{mode}: {stdout}");
    }
}

#[test]
fn a_load_that_cannot_be_made_says_why() {
    let nobody = free_address().to_string();
    let cases: [(&str, i32, &str); 20] = [
        ("", 3, "refused"),
        ("-d 0", 2, "--depth: "),
        ("-d 1048576 -c 17", 2, "--depth: "),
        ("-j 2", 2, "--threads: "),
        ("-t 10", 2, "unit"),
        ("-s 17MiB", 2, "--size: "),
        ("--drain 31d", 2, "--drain: "),
        (
            "-c 18446744073709551615 --short-lived 1",
            2,
            "--connections: ",
        ),
        (
            "-c 0 --short-lived 18446744073709551615",
            2,
            "--connections: ",
        ),
        ("--requests-per-connection 2", 2, "without --short-lived"),
        (
            "--params []",
            2,
            "--params means nothing with --mode call, only with subscribe",
        ),
        ("--sequence", 2, "--sequence means nothing"),
        ("--mode notify --echo all", 2, "--echo means nothing"),
        ("--mode notify -d 2", 2, "--depth means nothing"),
        (
            "--mode notify --requests-per-connection 2",
            2,
            "--requests-per-connection means nothing",
        ),
        (
            "--mode notify --short-lived 1",
            2,
            "--short-lived means nothing",
        ),
        (
            "--mode subscribe -r 10",
            2,
            "--rate means nothing with --mode subscribe, only with call and notify",
        ),
        ("--mode subscribe -d 2", 2, "--depth means nothing"),
        ("--mode subscribe -s 2", 2, "--size means nothing"),
        ("--mode subscribe --params 1", 2, "array"),
    ];
    for (arguments, expected, word) in cases {
        let words = ["load", &nobody].into_iter().chain(arguments.split(' '));
        let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
        let (status, _, stderr) = run(&words);
        assert_eq!(status, expected, "{arguments}: {stderr}");
        assert!(stderr.contains(word), "{arguments}: {stderr}");
    }
}

#[test]
fn a_load_whose_threads_cannot_be_started_fails() {
    let daemon = Daemon::start(RPC);
    let address = daemon.address("rpc").to_string();
    // There is room for the stacks of some of the threads.
    let shell = format!("ulimit -v 4000000; exec \"$0\" load {address} -c 8 -j 8 -t 1h --drain 1s");
    let mut command = Command::new("sh");
    clean(&mut command);
    command
        .args(["-c", &shell, env!("CARGO_BIN_EXE_ringhold")])
        .env("RUST_MIN_STACK", (1 << 30).to_string())
        .stdin(Stdio::null());
    let (status, _, stderr) = parts(&command.output().unwrap());
    assert_eq!(status, 1, "{stderr}");
    assert!(
        stderr
            .starts_with("ringhold: this machine cannot make the load: a thread cannot be started"),
        "{stderr}"
    );
    daemon.stop();
}

#[test]
fn a_load_without_descriptors_does_not_blame_the_server() {
    let daemon = Daemon::start(RPC);
    let address = daemon.address("rpc").to_string();
    let load = |limit: &str| {
        let shell = format!("ulimit {limit} 64; exec \"$0\" load {address} -c 100 -n 1000");
        let mut command = Command::new("sh");
        clean(&mut command);
        command
            .args(["-c", &shell, env!("CARGO_BIN_EXE_ringhold")])
            .stdin(Stdio::null());
        parts(&command.output().unwrap())
    };
    // The soft limit is raised.
    let (status, stdout, stderr) = load("-Sn");
    assert_eq!((status, stderr.as_str()), (0, ""), "{stdout}");
    assert!(stdout.contains("100 opened"), "{stdout}");
    let (status, _, stderr) = load("-n");
    assert_eq!(status, 1, "{stderr}");
    assert!(stderr.contains("Too many open files"), "{stderr}");
    assert!(!stderr.contains("cannot connect"), "{stderr}");
}

#[test]
fn a_load_that_still_connects_can_be_interrupted() {
    // Shells start what they put into the background so, and it would be inherited.
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = u64::from_str_radix(ignored.unwrap().trim(), 16).unwrap();
    if ignored & 1 << (Signal::SIGINT as u64 - 1) != 0 {
        eprintln!("not tested: that SIGINT ends a load, since SIGINT is ignored here");
        return;
    }
    let manager = Manager::new();
    let path = manager.path("full.sock");
    // A backlog for one connection, which is there.
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket
        .bind(&socket2::SockAddr::unix(&path).unwrap())
        .unwrap();
    socket.listen(0).unwrap();
    let _first = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let mut child = ringhold()
        .args(["load", &format!("unix:{path}"), "-t", "1min"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Its socket is made just before it connects.
    let descriptors = format!("/proc/{}/fd", child.id());
    until("a socket", || {
        let descriptors = std::fs::read_dir(&descriptors).ok()?;
        descriptors
            .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
            .any(|target| target.to_string_lossy().starts_with("socket:"))
            .then_some(())
    });
    kill(
        Pid::from_raw(child.id().try_into().unwrap()),
        Signal::SIGINT,
    )
    .unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(2));
}

#[test]
fn an_interrupted_load_still_reports() {
    let daemon = Daemon::start(RPC);
    let address = daemon.address("rpc");
    let child = ringhold()
        .args(["load", &address.to_string(), "-t", "1min", "-r", "100"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It has begun, and so it has taken over the signal. Each look is a frame as well.
    let mut looks = 0;
    until("frames", || {
        looks += 1;
        (counter(&address, "rpc", "frames_in") > 20 + looks).then_some(())
    });
    kill(
        Pid::from_raw(child.id().try_into().unwrap()),
        Signal::SIGINT,
    )
    .unwrap();
    let (status, stdout, stderr) = parts(&child.wait_with_output().unwrap());
    assert_eq!((status, stderr.as_str()), (0, ""), "{stdout}");
    assert!(stdout.contains("lost 0, repeated 0, wrong 0"), "{stdout}");
}
