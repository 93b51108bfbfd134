//! Sockets that are passed on, by a shell as a stand-in and by systemd's own tool.

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use ringhold_client::Address;

use crate::common::wire::{connect, counter};
use crate::common::{PATIENCE, clean, until};
use crate::harness::{Daemon, Manager, await_open, parts, run};
use crate::ports::free_address;

/// Runs the command with two listeners as descriptors 3 and 4. The shell becomes the command, so the process number
/// that it announces is right.
pub(crate) fn passed_on(listeners: [TcpListener; 2], names: &str, arguments: &[&str]) -> Command {
    announced("$$", listeners, names, arguments)
}

fn announced(pid: &str, listeners: [TcpListener; 2], names: &str, arguments: &[&str]) -> Command {
    let script = format!("exec 3<&0 4<&1 </dev/null >&2; LISTEN_PID={pid} exec \"$0\" \"$@\"");
    let [first, second] = listeners.map(OwnedFd::from);
    let mut command = Command::new("sh");
    clean(&mut command);
    command
        .args(["-c", &script, env!("CARGO_BIN_EXE_ringhold")])
        .args(arguments)
        .env("LISTEN_FDS", "2")
        .env("LISTEN_FDNAMES", names)
        .stdin(Stdio::from(first))
        .stdout(Stdio::from(second));
    command
}

fn listeners() -> ([TcpListener; 2], [SocketAddr; 2]) {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let addresses = [0, 1].map(|index: usize| listeners[index].local_addr().unwrap());
    (listeners, addresses)
}

const TWO: &str =
    "[sockets.a]\nservice = \"rpc\"\n[sockets.off]\nservice = \"rpc\"\nenable = false\n";

#[test]
fn listeners_are_matched_by_name_and_a_disabled_one_turns_clients_away() {
    let (passed, [off, a]) = listeners();
    let manager = Manager::new();
    let config = manager.write("ringhold.toml", TWO);
    // In the order opposite to the configuration's.
    let command = passed_on(
        passed,
        "off:a",
        &["serve", "--inherited-only", "--config", &config],
    );
    let mut daemon = Daemon::launch(command, manager);
    daemon.wait_for("READY=1");
    let line = daemon.logged(&["listening on", "socket=a"]);
    assert!(line.contains(&format!("{a} (inherited (fd 4))")), "{line}");
    let line = daemon.logged(&["turning clients away", "socket=off"]);
    assert!(
        line.contains(&format!("{off} (inherited (fd 3))")),
        "{line}"
    );

    let address = Address::Tcp(a);
    let pong: String = connect(&address).call("ping", &()).unwrap();
    assert_eq!(pong, "pong");
    for _ in 0..20 {
        let mut turned_away = TcpStream::connect(off).unwrap();
        turned_away.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(turned_away.read(&mut [0]).unwrap(), 0);
    }
    assert_eq!(counter(&address, "off", "turned_away"), 20);
    assert_eq!(counter(&address, "off", "opened"), 0);
    daemon.stop();
}

#[test]
fn what_does_not_fit_together_is_refused_with_names() {
    let manager = Manager::new();
    let config = manager.write("ringhold.toml", TWO);
    let refused = |names: &str, command: &str| {
        let (passed, _) = listeners();
        let output = passed_on(passed, names, &[command, "--config", &config]).output();
        let (status, _, stderr) = parts(&output.unwrap());
        assert_eq!(status, 2, "{stderr}");
        stderr
    };
    for command in ["check", "serve"] {
        let stderr = refused("a:of", command);
        assert_eq!(
            stderr,
            "ringhold: the inherited listener \"of\" (descriptor 4) is claimed by no section, and its clients would \
             wait for ever; the sections are [sockets.a], [sockets.off]; if it belongs to [sockets.off], write \
             fd_name = \"of\" there, or else add a section for it, with enable = false if it is not to be served\n"
        );
        for names in ["a", "a:off:a"] {
            let stderr = refused(names, command);
            assert!(
                stderr.starts_with("ringhold: LISTEN_FDNAMES is ")
                    && stderr.contains(&format!("{names:?}"))
                    && stderr.contains("2 inherited descriptors"),
                "{stderr}"
            );
        }
    }
}

#[test]
fn check_shows_what_is_inherited() {
    let (passed, [first, second]) = listeners();
    let manager = Manager::new();
    let config = manager.write("ringhold.toml", TWO);
    let output = passed_on(passed, "a:a", &["check", "--config", &config])
        .output()
        .unwrap();
    // The shell has turned stdout to stderr.
    let (status, _, table) = parts(&output);
    assert_eq!(status, 0, "{table}");
    for (address, number) in [(first, 3), (second, 4)] {
        let row = format!("{address}  inherited (fd {number})  rpc");
        assert!(table.contains(&row), "{table}");
    }
    assert!(
        table
            .lines()
            .any(|line| line.split_whitespace().take(3).eq(["off", "-", "-"]))
    );
}

#[test]
fn descriptors_for_another_process_are_left_alone() {
    let (passed, _) = listeners();
    let manager = Manager::new();
    let config = manager.write(
        "ringhold.toml",
        "[sockets.a]\nservice = \"rpc\"\nlisten = [\"127.0.0.1:0\"]\n",
    );
    let command = announced("1", passed, "x:y", &["serve", "--config", &config]);
    let mut daemon = Daemon::launch(command, manager);
    daemon.wait_for("READY=1");
    daemon.logged(&["listening on", "(bound)", "socket=a"]);
    daemon.stop();
}

/// `systemd-socket-activate` with these listeners and names; the daemon starts at the first connection.
fn activate(manager: &Manager, listen: &[&str], names: Option<&str>, daemon: &[&str]) -> Command {
    let mut command = Command::new("systemd-socket-activate");
    clean(&mut command);
    for address in listen {
        command.args(["-l", address]);
    }
    if let Some(names) = names {
        command.arg(format!("--fdname={names}"));
    }
    command.arg(format!("--setenv=NOTIFY_SOCKET={}", manager.path("notify")));
    command.args(daemon);
    command
}

/// Whether systemd's tool is there. Where it must be (`RINGHOLD_REQUIRE_SYSTEMD=1`), it is an error if it is not.
fn has_systemd() -> bool {
    let found = Command::new("systemd-socket-activate")
        .arg("--version")
        .output();
    let found = found.is_ok_and(|output| output.status.success());
    if !found {
        assert!(
            std::env::var_os("RINGHOLD_REQUIRE_SYSTEMD").is_none_or(|value| value != "1"),
            "RINGHOLD_REQUIRE_SYSTEMD is 1, but systemd-socket-activate (Debian: package systemd) is not installed"
        );
        eprintln!("SKIPPED: systemd-socket-activate (Debian: package systemd) is not installed");
    }
    found
}

#[test]
fn systemd_passes_three_sockets_of_two_names() {
    if !has_systemd() {
        return;
    }
    let manager = Manager::new();
    let config = manager.write(
        "ringhold.toml",
        "workers = 2\n[sockets.a]\nservice = \"rpc\"\n[sockets.b]\nservice = \"rpc\"\nenable = false\n",
    );
    let (first, off) = (free_address(), free_address());
    let unix = manager.path("a.sock");
    let command = activate(
        &manager,
        &[&first.to_string(), &unix, &off.to_string()],
        Some("a:a:b"),
        &[
            env!("CARGO_BIN_EXE_ringhold"),
            "serve",
            "--inherited-only",
            "--config",
            &config,
        ],
    );
    let mut daemon = Daemon::launch(command, manager);
    // The first connection starts the daemon, which then answers it.
    let address = Address::Unix(unix.into());
    let mut client = until("the listener", || {
        ringhold_client::Client::connect(&address, ringhold_client::Options::default()).ok()
    });
    let pong: String = client.call("ping", &()).unwrap();
    assert_eq!(pong, "pong");
    daemon.wait_for("READY=1");
    let tcp: String = connect(&Address::Tcp(first)).call("ping", &()).unwrap();
    assert_eq!(tcp, "pong");
    let mut turned_away = TcpStream::connect(off).unwrap();
    turned_away.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(turned_away.read(&mut [0]).unwrap(), 0);

    for (number, place) in [(3, first.to_string()), (4, address.to_string())] {
        daemon.logged(&["listening on", &place, &format!("fd {number}"), "socket=a"]);
    }
    daemon.logged(&["turning clients away", &off.to_string(), "fd 5", "socket=b"]);
    assert_eq!(counter(&address, "b", "turned_away"), 1);
    // The one that pinged first, and the one that asks.
    await_open(&address, "a", 2);

    drop(client);
    let ended = daemon.stop();
    // The path is the service manager's, who may still listen on it.
    assert!(std::path::Path::new(&ended.manager.path("a.sock")).exists());
}

#[test]
fn systemd_passes_names_that_the_configuration_does_not_have() {
    if !has_systemd() {
        return;
    }
    let daemon = [env!("CARGO_BIN_EXE_ringhold"), "serve", "--config"];
    let refused = |names: Option<&str>, count: usize, wrapper: &[&str]| {
        let manager = Manager::new();
        let config = manager.write("ringhold.toml", TWO);
        let listen: Vec<String> = (0..count).map(|i| manager.path(&format!("{i}"))).collect();
        let listen: Vec<&str> = listen.iter().map(String::as_str).collect();
        let command = [wrapper, &daemon, &[config.as_str()]].concat();
        let command = activate(&manager, &listen, names, &command);
        let daemon = Daemon::launch(command, manager);
        let path = daemon.manager.path("0");
        let _client = until("the listener", || UnixStream::connect(&path).ok());
        let ended = daemon.ended();
        assert_eq!(ended.status.code(), Some(2), "{}", ended.log);
        assert!(ended.notifications.is_empty(), "{:?}", ended.notifications);
        ended.log
    };
    let log = refused(Some("a:other"), 2, &[]);
    assert!(
        log.contains("the inherited listener \"other\" (descriptor 4) is claimed by no section")
            && log.contains("the sections are [sockets.a], [sockets.off]"),
        "{log}"
    );
    // Without --fdname there are no names at all.
    let log = refused(None, 1, &[]);
    assert!(
        log.contains("\"unknown\" (descriptor 3) is claimed by no section"),
        "{log}"
    );
    let log = refused(Some("a:a"), 2, &["env", "LISTEN_FDNAMES=a"]);
    assert!(
        log.contains("<3>ringhold: LISTEN_FDNAMES is \"a\""),
        "{log}"
    );
}

/// `ringhold` without any argument takes a socket called `rpc`.
#[test]
fn the_built_in_configuration_takes_the_socket_of_the_unit() {
    if !has_systemd() || std::path::Path::new("/etc/ringhold/ringhold.toml").exists() {
        return;
    }
    let manager = Manager::new();
    let path = manager.path("rpc.sock");
    let command = activate(
        &manager,
        &[&path],
        Some("rpc"),
        &[env!("CARGO_BIN_EXE_ringhold")],
    );
    let mut daemon = Daemon::launch(command, manager);
    until("the listener", || UnixStream::connect(&path).ok());
    daemon.wait_for("READY=1");
    let answer = run(&["call", &format!("unix:{path}"), "echo", "{\"a\":1}"]);
    assert_eq!(answer, (0, "{\"a\":1}\n".to_owned(), String::new()));
    daemon.stop();
}
