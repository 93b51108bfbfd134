//! What an operator finds in the log of connections.

use std::io::Read;
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;

use crate::common::PATIENCE;
use crate::common::wire::Wire;
use crate::harness::{Daemon, request, with_both_engines};

with_both_engines! {
    the_log_says_who_the_peer_was,
    what_was_held_back_is_said_at_the_end,
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
        let (start, end) =
            line.split_once(" connections that closed were not logged one by one ")?;
        assert!(
            end.starts_with("(a frame began with a byte whose type"),
            "{line}"
        );
        Some(start.strip_prefix("<4>")?.parse::<usize>().unwrap())
    });
    assert_eq!(logged + held.sum::<usize>(), COUNT, "{}", ended.log);
}
