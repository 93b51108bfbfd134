//! Sockets that the daemon binds itself, and its dealings with the service manager.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Mutex;

use nix::sys::signal::Signal;

use crate::common::wire::{Wire, connect, counter};
use crate::common::{PATIENCE, until};
use crate::harness::{
    Daemon, Manager, await_open, mode, parts, request, ringhold, run, with_both_engines,
};
use crate::ports::free_address;

with_both_engines! {
    ready_means_that_every_listener_answers_and_stopping_comes_before_the_end,
    at_the_limit_of_connections_the_next_one_waits_for_room,
    a_full_socket_leaves_the_others_on_its_workers_reachable,
    ten_thousand_connections_without_a_byte,
}

fn ready_means_that_every_listener_answers_and_stopping_comes_before_the_end(engine: &str) {
    // Both engines are tested at the same time.
    let name = format!("unix:@ringhold-test-{engine}-{}", std::process::id());
    let daemon = Daemon::start_on(
        engine,
        "[sockets.rpc]\nlisten = [\"127.0.0.1:0\", \"unix:DIR/rpc.sock\"]\n\
         [sockets.more]\nservice = \"rpc\"\nlisten = [\"[::1]:0\", \"ABSTRACT\"]\n"
            .replace("ABSTRACT", &name)
            .as_str(),
    );
    let path = daemon.manager.path("rpc.sock");
    for address in [
        daemon.address("rpc"),
        daemon.address("more"),
        format!("unix:{path}").parse().unwrap(),
        name.parse().unwrap(),
    ] {
        let pong: String = connect(&address).call("ping", &()).unwrap();
        assert_eq!(pong, "pong", "{address}");
    }

    let mut idle = Wire::connect(&daemon.address("rpc"));
    let mut idle_unix = UnixStream::connect(&path).unwrap();
    idle_unix.set_read_timeout(Some(PATIENCE)).unwrap();
    // Besides the one that asks. Before they are accepted, a stop resets them.
    await_open(&daemon.address("rpc"), "rpc", 3);
    assert!(!daemon.manager.has_received("STOPPING=1"));
    daemon.signal(Signal::SIGTERM);
    assert_eq!(idle.rest(), b"");
    // It was sent before the connection was touched, so it has arrived by now.
    assert!(daemon.manager.has_received("STOPPING=1"));
    assert_eq!(idle_unix.read(&mut [0]).unwrap(), 0);
    let ended = daemon.ended();
    assert!(ended.status.success());
    let lines = || ended.notifications.iter().flat_map(|text| text.lines());
    for state in ["READY=1", "STOPPING=1"] {
        assert_eq!(
            lines().filter(|line| *line == state).count(),
            1,
            "{:?}",
            ended.notifications
        );
    }
    let place = |state: &str| lines().position(|line| line == state);
    assert!(place("READY=1") < place("STOPPING=1"));
    assert!(lines().any(|line| line.starts_with("STATUS=")));
}

#[test]
fn the_log_says_where_each_listener_is_with_priorities_for_the_manager() {
    let daemon =
        Daemon::start("[sockets.rpc]\nlisten = [\"127.0.0.1:0\", \"unix:DIR/rpc.sock\"]\n");
    let path = daemon.manager.path("rpc.sock");
    let line = daemon.logged(&["listening", "127.0.0.1:"]);
    assert!(
        line.starts_with("<6>") && line.contains("(bound), service rpc"),
        "{line}"
    );
    let line = daemon.logged(&["listening", &path]);
    assert!(line.starts_with("<6>"), "{line}");
    // Bad input is worth a warning that names the socket.
    Wire::connect(&daemon.address("rpc")).send(b"\xc1");
    let line = daemon.logged(&[" closes: "]);
    assert!(
        line.starts_with("<4>") && line.contains("socket=rpc"),
        "{line}"
    );
}

/// The journal reads stderr, too, so nothing is lost if its own socket cannot be reached.
#[test]
fn the_journal_is_used_if_stderr_leads_there() {
    let manager = Manager::new();
    let config = manager.write(
        "ringhold.toml",
        "[sockets.rpc]\nlisten = [\"127.0.0.1:0\"]\n",
    );
    let stderr = std::fs::File::create(manager.path("stderr")).unwrap();
    let metadata = stderr.metadata().unwrap();
    let mut command = ringhold();
    command.args(["serve", "--config", &config]).env(
        "JOURNAL_STREAM",
        format!("{}:{}", metadata.dev(), metadata.ino()),
    );
    let mut daemon = Daemon::launch_with_stderr(command, manager, stderr.into());
    daemon.wait_for("READY=1");
    let manager = daemon.stop().manager;
    let text = std::fs::read_to_string(manager.path("stderr")).unwrap();
    if Path::new("/run/systemd/journal/socket").exists() {
        assert_eq!(text, "");
    } else {
        assert!(text.starts_with("<4>cannot reach the journal"), "{text}");
        assert!(text.contains("\n<6>listening on 127.0.0.1:"), "{text}");
    }
}

#[test]
fn the_watchdog_is_fed() {
    let mut daemon = Daemon::start_with("[sockets.rpc]\nlisten = [\"127.0.0.1:0\"]\n", |command| {
        command.env("WATCHDOG_USEC", "200000");
    });
    daemon.wait_for("WATCHDOG=1");
    until("the second feeding", || {
        let received = daemon.manager.received();
        (received
            .iter()
            .filter(|text| text.contains("WATCHDOG=1"))
            .count()
            > 1)
        .then_some(())
    });
}

#[test]
fn a_unix_socket_has_its_mode_and_is_removed_at_the_end() {
    let daemon = Daemon::start(
        "[sockets.rpc]\nlisten = [\"unix:DIR/usual.sock\"]\n\
         [sockets.private]\nservice = \"rpc\"\nlisten = [\"unix:DIR/private.sock\"]\nmode = \"0600\"\n\
         [sockets.off]\nservice = \"rpc\"\nlisten = [\"unix:DIR/off.sock\"]\nenable = false\n",
    );
    let path = |name: &str| daemon.manager.dir.path().join(name);
    assert_eq!(mode(path("usual.sock")), 0o660);
    assert_eq!(mode(path("private.sock")), 0o600);
    assert!(!path("off.sock").exists(), "a disabled socket is not bound");
    let (usual, private) = (path("usual.sock"), path("private.sock"));
    // Someone puts another file there meanwhile: it is not ours to remove.
    std::fs::remove_file(&private).unwrap();
    std::fs::write(&private, "precious").unwrap();
    let manager = daemon.stop().manager;
    assert!(manager.dir.path().exists());
    assert!(!usual.exists());
    assert_eq!(std::fs::read_to_string(&private).unwrap(), "precious");
}

/// The kernel takes the rings of a killed process down in the background, with the listeners in them.
#[test]
fn addresses_left_by_a_crash_are_taken_over_at_once() {
    let config = format!(
        "[sockets.rpc]\nlisten = [\"unix:DIR/rpc.sock\", \"{}\"]\n",
        free_address()
    );
    let mut daemon = Daemon::start(&config);
    let path = daemon.manager.path("rpc.sock");
    let config = daemon.manager.path("ringhold.toml");
    let mut old = Vec::new();
    for _ in 0..5 {
        let mut client = daemon.client("rpc");
        let pong: String = client.call("ping", &()).unwrap();
        assert_eq!(pong, "pong");
        daemon.signal(Signal::SIGKILL);
        let ended = daemon.ended();
        assert!(!ended.status.success());
        // The directory has to stay.
        old.push(ended.manager);
        assert!(Path::new(&path).exists());
        daemon = started_again(&config);
    }
    assert!(daemon.stop().status.success());
    assert!(!Path::new(&path).exists());
}

/// Starts as a service manager does that starts a service again: on one busy CPU the kernel can take longer for the rings than
/// the daemon waits for the addresses.
fn started_again(config: &str) -> Daemon {
    for _ in 0..10 {
        let mut command = ringhold();
        command.args(["serve", "--config", config]);
        let mut daemon = Daemon::launch(command, Manager::new());
        if daemon.gets_ready() {
            return daemon;
        }
        let log = daemon.ended().log;
        let is_taken = log.contains("in use") || log.contains("another process listens there");
        assert!(is_taken, "{log}");
    }
    panic!("the addresses stay taken");
}

#[test]
fn a_second_instance_says_that_the_address_is_in_use() {
    let name = format!("unix:@ringhold-second-{}", std::process::id());
    for listen in [free_address().to_string(), "unix:DIR/rpc.sock".into(), name] {
        let daemon = Daemon::start(&format!("[sockets.rpc]\nlisten = [\"{listen}\"]\n"));
        let output = ringhold()
            .args(["serve", "--config", &daemon.manager.path("ringhold.toml")])
            .output()
            .unwrap();
        let (status, _, stderr) = parts(&output);
        assert_eq!(status, 1, "{stderr}");
        let place = daemon.address("rpc");
        let start = format!("ringhold: socket \"rpc\" cannot listen on {place}: ");
        assert!(stderr.starts_with(&start), "{stderr}");
        assert!(
            stderr.contains("in use") || stderr.contains("another process"),
            "{stderr}"
        );
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        // The first instance has lost nothing by it.
        let pong: String = daemon.client("rpc").call("ping", &()).unwrap();
        assert_eq!(pong, "pong");
    }
}

fn at_the_limit_of_connections_the_next_one_waits_for_room(engine: &str) {
    let daemon = Daemon::start_on(
        engine,
        "workers = 1\n[limits]\nconnections = 2\n[sockets.rpc]\nlisten = [\"127.0.0.1:0\"]\n",
    );
    let address = daemon.tcp("rpc");
    let mut first = Wire::connect(&address.into());
    let mut second = Wire::connect(&address.into());
    for wire in [&mut first, &mut second] {
        wire.echo(0, 7);
    }
    // The kernel completes it; the daemon does not take it.
    let mut third = TcpStream::connect(address).unwrap();
    third.write_all(&request(3, "echo", 9)).unwrap();
    let line = daemon.logged(&["accepting paused (1 so far)", "socket=rpc"]);
    let limit = "its worker holds limits.connections = 2.";
    assert!(line.starts_with("<4>") && line.contains(limit), "{line}");
    assert!(!daemon.log().contains("accepting goes on"));
    for id in 1..200 {
        first.echo(id, u64::from(id));
    }
    third.set_nonblocking(true).unwrap();
    let nothing = third.read(&mut [0]).unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
    drop(second);
    daemon.logged(&["there is room again: accepting goes on", "socket=rpc"]);
    third.set_nonblocking(false).unwrap();
    third.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reply = [0; 5];
    third.read_exact(&mut reply).unwrap();
    assert_eq!(reply, *b"\x94\x01\x03\xc0\x09");
    // And so on, one after the other.
    drop((first, third));
    let mut last = None;
    for id in 0..20 {
        let mut wire = Wire::connect(&address.into());
        wire.echo(id, 1);
        last = Some(wire);
    }
    drop(last);
    let counted = counter(&daemon.address("rpc"), "rpc", "accept_pauses");
    assert!(counted >= 1);
    let ended = daemon.stop();
    assert_eq!(ended.served(), (24, 223));
    // Each connection may have found the one before it still there; the log has the first, the second, the fourth, ...
    let pauses = ended.log.matches("accepting paused").count();
    assert_eq!(pauses, counted.ilog2() as usize + 1, "{}", ended.log);
    assert_eq!(ended.log.matches("accepting goes on").count(), pauses);
}

fn a_full_socket_leaves_the_others_on_its_workers_reachable(engine: &str) {
    let daemon = Daemon::start_on(
        engine,
        "workers = 2\n[limits]\nconnections = 5\n\
         [sockets.rpc]\nlisten = [\"127.0.0.1:0\"]\nconnections = 3\n\
         [sockets.admin]\nservice = \"rpc\"\nlisten = [\"unix:DIR/admin.sock\"]\nworkers = [0]\n",
    );
    let address = daemon.tcp("rpc");
    let mut served: Vec<Wire> = (0..6).map(|_| Wire::connect(&address.into())).collect();
    for wire in &mut served {
        wire.echo(0, 7);
    }
    let mut next = Wire::connect(&address.into());
    next.send(&request(1, "echo", 8));
    daemon.logged(&[
        "accepting paused (1 so far): every worker of its partition holds sockets.rpc.connections = 3.",
        "socket=rpc",
    ]);
    let admin = format!("unix:{}", daemon.manager.path("admin.sock"));
    let (status, stdout, stderr) = run(&["status", &admin]);
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert!(stdout.contains("\nrpc: accept pauses 1\n"), "{stdout}");
    drop(served.pop());
    assert_eq!(next.reply(), (1, Ok(8.into())));
    daemon.logged(&["there is room again: accepting goes on", "socket=rpc"]);
    drop((served, next));
    daemon.stop();
}

/// The configuration in the comment of the unit file.
#[test]
fn the_example_of_an_admin_socket_leaves_it_room() {
    let unit = include_str!("../../../../systemd/examples/ringhold-admin.socket");
    let (comment, _) = unit.split_once("#   [Unit]").unwrap();
    let indented = comment.lines().filter_map(|line| line.strip_prefix("#   "));
    let config = indented.collect::<Vec<_>>().join("\n");
    let manager = Manager::new();
    let path = manager.write("ringhold.toml", &format!("workers = 2\n{config}"));
    let (status, stdout, stderr) = run(&["check", "--assume-inherited", "--config", &path]);
    assert_eq!((status, stderr.as_str()), (0, ""));
    let rows: Vec<Vec<&str>> = stdout
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        rows[1..],
        [
            [
                "admin", "-", "assumed", "rpc", "0", "yes", "10000", "any", "never", "no"
            ],
            [
                "rpc", "-", "assumed", "rpc", "0-1", "yes", "9900", "any", "never", "no"
            ],
        ]
    );
}

fn ten_thousand_connections_without_a_byte(engine: &str) {
    const WANTED: u64 = 10_000;
    // The test's own process seldom may have as many for both engines at once.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock();
    // The test's own descriptors; the daemon raises its limit itself.
    let limit = ringhold_core::rlimit::raise().map_or(1024, |raised| raised.after);
    let count = WANTED.min(limit.saturating_sub(1000));
    if count < WANTED {
        eprintln!("only {count} connections: the limit of descriptors is {limit}");
    }
    // One worker takes ten thousand and no more.
    let daemon = Daemon::start_on(
        engine,
        "workers = 2\n[sockets.rpc]\nlisten = [\"127.0.0.1:0\"]\n",
    );
    let address = daemon.tcp("rpc");
    let held: Vec<TcpStream> = (0..count)
        .map(|_| TcpStream::connect_timeout(&address, PATIENCE).unwrap())
        .collect();
    let address = daemon.address("rpc");
    // Besides the one that asks.
    await_open(&address, "rpc", count + 1);
    let pong: String = daemon.client("rpc").call("ping", &()).unwrap();
    assert_eq!(pong, "pong");
    drop(held);
    await_open(&address, "rpc", 1);
    assert_eq!(counter(&address, "rpc", "bad_input"), 0);
    daemon.stop();
}
