//! What an operator finds in the log of connections.

use std::io::Read;
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;
use std::process::Command;

use crate::common::wire::Wire;
use crate::common::{PATIENCE, clean};
use crate::harness::{Daemon, Manager, request, with_both_engines};

with_both_engines! {
    the_log_says_who_the_peer_was,
    what_was_held_back_is_said_at_the_end,
    connections_that_there_are_no_descriptors_for_are_said_at_the_start,
}

const CONFIG: &str = "\
workers = 2
[sockets.rpc]
listen = [\"127.0.0.1:0\", \"unix:DIR/rpc.sock\"]
";

fn the_log_says_who_the_peer_was(engine: &str) {
    let daemon = Daemon::start_with(&format!("engine = \"{engine}\"\n{CONFIG}"), |command| {
        command.env("RINGHOLD_LOG", "debug");
    });
    let tcp = daemon.tcp("rpc");
    let mut wire = Wire::connect(&tcp.into());
    let peer = wire.socket.local_addr().unwrap().as_socket().unwrap();
    wire.send(b"\xc1");
    assert_eq!(wire.rest(), b"");
    let opens = daemon.logged(&[&format!(" of rpc from {peer} opens socket=rpc ")]);
    let closes = daemon.logged(&[&format!(" of rpc from {peer} closes: a frame began with ")]);
    let connection = |line: &str| line[line.find("socket=rpc connection=").unwrap()..].to_owned();
    assert_eq!(connection(&opens), connection(&closes));
    assert!(closes.ends_with(&format!(" peer={peer}")), "{closes}");
    assert!(opens.starts_with("<7>") && closes.starts_with("<4>"));

    let mut unix = UnixStream::connect(daemon.manager.path("rpc.sock")).unwrap();
    unix.set_read_timeout(Some(PATIENCE)).unwrap();
    std::io::Write::write_all(&mut unix, b"\xc1").unwrap();
    assert_eq!(unix.read(&mut [0]).unwrap(), 0);
    let closes = daemon.logged(&[" of rpc over a unix socket closes: a frame began with "]);
    assert!(closes.ends_with(" peer=unix"), "{closes}");

    // One that leaves without having read its reply resets the connection, and has no address any more.
    let mut wire = Wire::connect(&tcp.into());
    let peer = wire.socket.local_addr().unwrap().as_socket().unwrap();
    wire.send(&request(1, "echo", 1));
    wire.socket.peek(&mut [MaybeUninit::uninit()]).unwrap();
    drop(wire);
    let closes = daemon.logged(&[" of rpc closes: the socket failed: "]);
    let opens = daemon.logged(&[&format!(" of rpc from {peer} opens ")]);
    assert_eq!(
        format!("{} peer={peer}", connection(&closes)),
        connection(&opens)
    );
    daemon.stop();
}

/// Each of those who misbehaved is in the log, if only as one of many.
fn what_was_held_back_is_said_at_the_end(engine: &str) {
    const COUNT: usize = 300;
    let daemon = Daemon::start_on(engine, CONFIG);
    let tcp = daemon.tcp("rpc");
    for _ in 0..COUNT {
        let mut wire = Wire::connect(&tcp.into());
        wire.send(b"\xc1");
        assert_eq!(wire.rest(), b"");
    }
    let ended = daemon.stop();
    let lines = || ended.log.lines();
    let logged = lines()
        .filter(|line| line.contains(" closes: a frame began with byte 0xc1"))
        .count();
    let held = lines().filter_map(|line| {
        let (count, rest) = line.strip_prefix("<4>")?.split_once(" connection")?;
        let said = match count {
            "1" => " that closed was not logged ",
            _ => "s that closed were not logged one by one ",
        };
        let why = rest.strip_prefix(said)?;
        assert!(
            why.starts_with("(a frame began with a byte whose type"),
            "{line}"
        );
        Some(count.parse::<usize>().unwrap())
    });
    assert_eq!(logged + held.sum::<usize>(), COUNT, "{}", ended.log);
}

/// There is room for as many as the log says, and nothing is said where that is enough.
fn connections_that_there_are_no_descriptors_for_are_said_at_the_start(engine: &str) {
    let start = |connections: usize| {
        let manager = Manager::new();
        let config = format!(
            "engine = \"{engine}\"\nworkers = 2\n[limits]\nconnections = {connections}\n\
             [sockets.rpc]\nlisten = [\"unix:{}\"]\n",
            manager.path("rpc.sock")
        );
        let config = manager.write("ringhold.toml", &config);
        let shell = format!("ulimit -n 100; exec \"$0\" serve --config {config}");
        let mut command = Command::new("sh");
        clean(&mut command);
        command.args(["-c", &shell, env!("CARGO_BIN_EXE_ringhold")]);
        let mut daemon = Daemon::launch(command, manager);
        daemon.wait_for("READY=1");
        daemon
    };
    let is_said = "files, which leaves room for ";
    let daemon = start(1000);
    let said = daemon.logged(&["<4>the process may open 100 ", is_said, "allows 2000 on 2 "]);
    let (_, rest) = said.split_once(is_said).unwrap();
    let room: usize = rest.split(' ').next().unwrap().parse().unwrap();
    let each = room / 2;
    assert!((10..50).contains(&each), "{said}");
    let helps = format!(
        "raise LimitNOFILE= (ulimit -n without systemd) to {}",
        2100 - room
    );
    assert!(said.contains(&helps), "{said}");
    assert!(
        said.ends_with(&format!(", or lower limits.connections to {each}")),
        "{said}"
    );
    let address = daemon.address("rpc");
    let mut wires: Vec<Wire> = (0..room).map(|_| Wire::connect(&address)).collect();
    wires.iter_mut().for_each(|wire| wire.echo(1, 1));
    let ended = daemon.stop();
    assert_eq!(ended.log.matches(is_said).count(), 1, "{}", ended.log);
    assert!(!ended.log.contains("accepting rests"), "{}", ended.log);

    // As is advised.
    let log = start(each).stop().log;
    assert!(!log.contains(is_said), "{log}");
}
