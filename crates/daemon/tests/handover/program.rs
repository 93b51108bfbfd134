//! Which program takes over at a reload, and what happens if none can.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use ringhold_client::Address;

use crate::built::handover_daemon;
use crate::common::until;
use crate::common::wire::{Wire, request};
use crate::manager::{Manager, RINGHOLD, write_program};

const CONFIG: &str = "[sockets.rpc]\n";

/// A copy of the program under this name, made as a package manager does it: a new file, moved into place. And not by
/// this process, see [`write_program`].
pub(crate) fn install(manager: &Manager, name: &str) -> String {
    install_copy(manager, RINGHOLD, name)
}

fn install_copy(manager: &Manager, program: &str, name: &str) -> String {
    let path = manager.path(name);
    let copy = "cp \"$1\" \"$2.new\" && mv \"$2.new\" \"$2\"";
    let status = Command::new("sh")
        .args(["-c", copy, "-", program, &path])
        .status();
    assert!(status.unwrap().success());
    path
}

fn link(manager: &Manager, target: &str) -> String {
    let path = manager.path("current");
    symlink(target, manager.path("incoming")).unwrap();
    fs::rename(manager.path("incoming"), &path).unwrap();
    path
}

/// The file that the process runs.
fn running(manager: &Manager) -> String {
    let path = fs::read_link(format!("/proc/{}/exe", manager.pid())).unwrap();
    path.to_str().unwrap().to_owned()
}

fn script(manager: &Manager, name: &str, text: &str) {
    write_program(&manager.path(name), &format!("#!/bin/sh\n{text}\n"));
}

fn started(program: impl FnOnce(&Manager) -> String) -> (Manager, Address, Wire) {
    let mut manager = Manager::new(16, CONFIG);
    let address = manager.listen_unix("rpc");
    let program = program(&manager);
    manager.run_as(&program);
    manager.start();
    let mut wire = Wire::connect(&address);
    wire.echo(0, 0);
    (manager, address, wire)
}

/// `Server::run` returns in the child that is asked, and `main` goes on.
#[test]
fn what_a_program_prints_behind_its_answer_does_not_count() {
    let mut manager = Manager::new(0, CONFIG).with_test_daemon();
    let address = manager.listen_unix("rpc");
    manager.start();
    manager.set_flag("say-goodbye", true);
    let mut wire = Wire::connect(&address);
    for id in 0..2 {
        manager.reload();
        manager.logged(id as usize + 1, &["took over"]);
        wire.echo(id, 1);
    }
    assert!(!manager.log().contains("the reload is refused"));
    manager.stop();
}

/// What it has started has its standard output, and is not waited for.
#[test]
fn a_program_that_leaves_a_child_behind_takes_over() {
    let (mut manager, _, mut wire) = started(|manager| install(manager, "ringhold"));
    let leave = format!(
        "if [ -n \"$RINGHOLD_PREFLIGHT\" ]; then sleep 1000 2>&- & echo $! >{}; fi\nexec {RINGHOLD} \"$@\"",
        manager.path("child")
    );
    script(&manager, "ringhold", &leave);
    manager.reload();
    let child = fs::read_to_string(manager.path("child")).unwrap();
    let child = Pid::from_raw(child.trim().parse().unwrap());
    kill(child, Signal::SIGKILL).expect("it outlives the answer");
    manager.logged(1, &["took over 1 connection"]);
    wire.echo(1, 1);
    assert!(!manager.log().contains("the reload is refused"));
    manager.stop_for_good();
}

#[test]
fn a_new_version_behind_a_link_is_found() {
    let (mut manager, _, mut wire) = started(|manager| {
        let old = install(manager, "ringhold-1");
        link(manager, &old)
    });
    assert_eq!(running(&manager), manager.path("ringhold-1"));
    for version in 2..5 {
        let new = install(&manager, &format!("ringhold-{version}"));
        link(&manager, &new);
        manager.reload();
        assert_eq!(running(&manager), new);
        wire.echo(version, 5);
    }
    // A relative link, and the old version is gone.
    link(&manager, "ringhold-2");
    fs::remove_file(manager.path("ringhold-4")).unwrap();
    manager.reload();
    assert_eq!(running(&manager), manager.path("ringhold-2"));
    wire.echo(9, 9);
    manager.stop_for_good();
}

/// The child of a daemon that reloads, which gives no answer.
fn asked_in_vain(manager: &Manager) -> Pid {
    let asked = manager.path("asked");
    script(
        manager,
        "ringhold",
        &format!("echo $$ >{asked}\nexec sleep 1000"),
    );
    manager.signal(Signal::SIGHUP);
    let child = until("the child", || {
        fs::read_to_string(&asked).ok()?.trim().parse().ok()
    });
    Pid::from_raw(child)
}

/// A killed child may take its time to end, as one does that waits for a disk. Nobody waits for it. Here it is held by
/// somebody who traces it: it stays in the table of processes until that one has seen its end.
#[test]
fn a_child_that_does_not_end_does_not_keep_it_from_stopping() {
    let (mut manager, _, mut wire) = started(|manager| install(manager, "ringhold"));
    let child = asked_in_vain(&manager);
    let seized = ptrace::seize(child, ptrace::Options::empty());
    manager.stop();
    if seized == Err(Errno::EPERM) {
        eprintln!("nobody may trace a process here");
        return;
    }
    seized.unwrap();
    let end = waitpid(child, Some(WaitPidFlag::__WALL)).unwrap();
    assert!(matches!(end, WaitStatus::Signaled(_, Signal::SIGKILL, _)));
    install(&manager, "ringhold");
    manager.start();
    wire.echo(1, 1);
    manager.stop_for_good();
}

/// It may end when another program has replaced the one that killed it.
#[test]
fn a_child_that_ends_late_is_waited_for_by_the_successor() {
    let (mut manager, _, mut wire) = started(|manager| install(manager, "ringhold"));
    let child = asked_in_vain(&manager);
    if ptrace::seize(child, ptrace::Options::empty()) == Err(Errno::EPERM) {
        eprintln!("nobody may trace a process here");
        return;
    }
    manager.logged(1, &["the reload is refused", "gave no answer within 10s"]);
    install(&manager, "ringhold");
    // The second time it is passed on by one that was told of it itself.
    for id in 1..=2 {
        manager.reload();
        wire.echo(id, 1);
    }
    let entry = format!("/proc/{child}");
    assert!(Path::new(&entry).exists());
    let end = waitpid(child, Some(WaitPidFlag::__WALL)).unwrap();
    assert!(matches!(end, WaitStatus::Signaled(_, Signal::SIGKILL, _)));
    until("its end", || (!Path::new(&entry).exists()).then_some(()));
    manager.stop_for_good();
}

#[test]
fn a_replaced_file_is_the_new_version() {
    let (mut manager, _, mut wire) = started(|manager| install(manager, "ringhold"));
    let before = fs::metadata(format!("/proc/{}/exe", manager.pid())).unwrap();
    install(&manager, "ringhold");
    manager.reload();
    let after = fs::metadata(format!("/proc/{}/exe", manager.pid())).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_ne!(before.ino(), after.ino());
    wire.echo(1, 1);
    manager.stop_for_good();
}

/// The file is gone just when it is to be executed: the running program is executed again, and the next reload looks for
/// the file where it was.
#[test]
fn a_program_that_was_missing_for_a_moment_is_found_again() {
    let mut manager =
        Manager::new(16, "[handover]\ndrain = \"60s\"\n[sockets.rpc]\n").with_test_daemon();
    let daemon = handover_daemon().to_str().unwrap().to_owned();
    let address = manager.listen_unix("rpc");
    let path = install_copy(&manager, &daemon, "daemon");
    manager.run_as(&path);
    manager.start();
    let [mut held, mut other] = [(); 2].map(|()| Wire::connect(&address));
    for round in 1..=2 {
        held.send(&request(1, "hold", &[]));
        held.echo(2, 2);
        let mark = manager.mark();
        manager.signal(Signal::SIGHUP);
        manager.logged(round, &["waiting for deferred replies (1 open)"]);
        fs::remove_file(&path).unwrap();
        other.send(&request(3, "release", &[]));
        assert_eq!(other.reply(), (3, Ok(1.into())));
        assert_eq!(held.reply(), (1, Ok("released".into())));
        manager.wait_for(mark, "READY=1");
        manager.logged(round, &["cannot execute", &path]);
        assert_eq!(running(&manager), format!("{path} (deleted)"));
        held.echo(4, 4);

        manager.reload();
        manager.logged(
            round,
            &["the reload is refused", &path, "cannot be started"],
        );
        install_copy(&manager, &daemon, "daemon");
        manager.reload();
        assert_eq!(running(&manager), path);
        held.echo(5, 5);
    }
    manager.stop_for_good();
}

/// A log like the journal's: a socket with a number at which something for the successor is laid.
struct SocketLog {
    lines: Arc<Mutex<String>>,
}

impl SocketLog {
    fn bind(manager: &Manager) -> Self {
        let socket = UnixDatagram::bind(manager.path("flags/log-socket")).unwrap();
        let lines = Arc::new(Mutex::new(String::new()));
        let shared = lines.clone();
        // Who logs waits while too much is unread. It ends with the test's process.
        std::thread::spawn(move || {
            let mut line = [0; 4096];
            while let Ok(length) = socket.recv(&mut line) {
                let line = String::from_utf8_lossy(&line[..length]);
                shared.lock().unwrap().push_str(&line);
            }
        });
        SocketLog { lines }
    }

    fn contains(&self, part: &str) -> bool {
        self.lines.lock().unwrap().contains(part)
    }

    fn logged(&self, part: &str) {
        until(part, || self.contains(part).then_some(()));
    }
}

/// A daemon with two inherited sockets, so that its log is in the place of the first descriptor of the handover, when it has been told
/// to reload and waits for a last reply.
fn about_to_execute() -> (Manager, SocketLog, String, [Wire; 2]) {
    let config = "[handover]\ndrain = \"60s\"\n[sockets.rpc]\n[sockets.topics]\n";
    let mut manager = Manager::new(16, config).with_test_daemon();
    let address = manager.listen_unix("rpc");
    manager.listen_unix("topics");
    let log = SocketLog::bind(&manager);
    let daemon = handover_daemon().to_str().unwrap().to_owned();
    let path = install_copy(&manager, &daemon, "daemon");
    manager.run_as(&path);
    manager.start();
    let [mut held, other] = [(); 2].map(|()| Wire::connect(&address));
    held.send(&request(1, "hold", &[]));
    held.echo(2, 2);
    let at_5 = fs::read_link(format!("/proc/{}/fd/5", manager.pid())).unwrap();
    assert!(at_5.to_str().unwrap().starts_with("socket:"), "{at_5:?}");
    manager.signal(Signal::SIGHUP);
    log.logged("waiting for deferred replies (1 open)");
    (manager, log, path, [held, other])
}

#[test]
fn a_log_in_the_place_of_a_descriptor_that_is_passed_on_is_not_written_into_that() {
    let (mut manager, log, path, [mut held, mut other]) = about_to_execute();
    let mark = manager.mark();
    fs::remove_file(&path).unwrap();
    other.send(&request(3, "release", &[]));
    assert_eq!(other.reply(), (3, Ok(1.into())));
    assert_eq!(held.reply(), (1, Ok("released".into())));
    manager.wait_for(mark, "READY=1");
    log.logged(&format!("cannot execute {path}: No such file"));
    log.logged("took over 2 connections");
    assert!(!log.contains("could not be received"));
    // It is said once.
    let daemon = handover_daemon().to_str().unwrap().to_owned();
    install_copy(&manager, &daemon, "daemon");
    manager.reload();
    manager.restart();
    assert_eq!(
        log.lines.lock().unwrap().matches("cannot execute").count(),
        1
    );
    held.echo(4, 4);
    other.echo(5, 5);
    manager.stop_for_good();
}

/// Neither the path nor what runs: the process ends with all of its descriptors, and the next one goes on with what is stored.
#[test]
fn a_program_that_cannot_be_executed_at_all_ends_in_order() {
    let (mut manager, log, path, [mut held, mut other]) = about_to_execute();
    let executable = |is: bool| {
        let mode = if is { 0o755 } else { 0o644 };
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    };
    executable(false);
    other.send(&request(3, "release", &[]));
    assert_eq!(other.reply(), (3, Ok(1.into())));
    assert_eq!(manager.ended().code(), Some(1));
    log.logged(&format!("cannot execute {path}: Permission denied"));
    log.logged("cannot execute /proc/self/exe: Permission denied");
    assert!(
        manager.log().contains("Permission denied"),
        "{}",
        manager.log()
    );
    executable(true);
    manager.start();
    log.logged("took over 2 connections");
    assert_eq!(held.reply(), (1, Ok("released".into())));
    held.echo(4, 4);
    other.echo(5, 5);
    manager.stop_for_good();
}

/// Whatever is wrong with the new program, the old one goes on.
#[test]
fn a_program_that_cannot_take_over_is_refused() {
    let (mut manager, address, mut wire) = started(|manager| install(manager, "ringhold"));
    let path = manager.path("ringhold");
    let mut refused = |manager: &mut Manager, times: usize, why: &str| {
        manager.reload();
        manager.logged(times, &["the reload is refused, nothing has changed", why]);
        wire.echo(times as u32, 1);
        Wire::connect(&address).echo(0, 2);
    };
    fs::remove_file(&path).unwrap();
    refused(
        &mut manager,
        1,
        "cannot be started: No such file or directory",
    );
    fs::write(&path, "").unwrap();
    refused(&mut manager, 1, "cannot be started: Permission denied");
    script(&manager, "ringhold", "exit 0");
    refused(&mut manager, 1, "the new program ended without an answer");
    for (times, script_text) in ["exit 3", "kill -9 $$"].iter().enumerate() {
        script(&manager, "ringhold", script_text);
        refused(&mut manager, times + 1, "the new program refuses");
    }
    script(&manager, "ringhold", "echo of another kind");
    refused(&mut manager, 1, "of another kind");
    script(&manager, "ringhold", "printf 'two\\nlines\\r\\033[31m'");
    refused(&mut manager, 1, "two\\nlines\\r\\u{1b}[31m");
    script(&manager, "ringhold", "exec yes");
    refused(&mut manager, 1, "more than 16 MiB");
    // The same question, but about state of a version that it does not read.
    script(
        &manager,
        "ringhold",
        &format!(
            "RINGHOLD_PREFLIGHT=\"state=77${{RINGHOLD_PREFLIGHT#state=1}}\" exec {RINGHOLD} \"$@\""
        ),
    );
    refused(
        &mut manager,
        1,
        "the new program refuses (exit status: 1): the running version hands over state that this one cannot read",
    );
    // It writes as the one that serves does.
    let log = manager.log();
    let said = log.lines().find(|line| line.contains("cannot read"));
    assert!(
        said.is_some_and(|line| line.starts_with("<3>ringhold: ")),
        "{said:?}"
    );

    until("the end of the others", || {
        (wire.counter("rpc", "open") == 1).then_some(())
    });
    fs::remove_file(&path).unwrap();
    install(&manager, "ringhold");
    manager.reload();
    manager.logged(1, &["took over 1 connection"]);
    wire.echo(77, 77);
    manager.stop_for_good();
}

/// While a child takes its time, the service serves and can be stopped, and the child does not stay behind.
#[test]
fn a_program_that_gives_no_answer_does_not_hold_up_a_stop() {
    does_not_hold_up_a_stop("exec sleep 1000");
}

/// Nor if it has said all that it will ever say.
#[test]
fn a_program_that_does_not_end_does_not_hold_up_a_stop() {
    does_not_hold_up_a_stop("exec sleep 1000 >&-");
    does_not_hold_up_a_stop("echo 'ringhold: ready to take over'; exec sleep 1000 >&-");
}

fn does_not_hold_up_a_stop(what_it_does: &str) {
    let (mut manager, address, mut wire) = started(|manager| install(manager, "ringhold"));
    let told = format!("echo $$ >{}; {what_it_does}", manager.path("child"));
    script(&manager, "ringhold", &told);
    manager.signal(Signal::SIGHUP);
    let child = until("the child", || {
        let text = fs::read_to_string(manager.path("child")).ok()?;
        text.trim().parse::<i32>().ok()
    });
    wire.echo(1, 1);
    Wire::connect(&address).echo(0, 2);
    manager.stop();
    assert!(!Path::new(&format!("/proc/{child}")).exists());
    install(&manager, "ringhold");
    manager.start();
    wire.echo(2, 2);
    manager.stop_for_good();
}
