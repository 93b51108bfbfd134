//! What an operator reads of reloads and restarts: one story, from one process to the next.

use std::thread;
use std::time::Duration;

use ringhold_client::Address;

use crate::common::wire::Wire;
use crate::manager::Manager;

/// One socket comes from the manager, the other one is the daemon's own.
const CONFIG: &str = "\
[sockets.rpc]
[sockets.own]
service = \"rpc\"
listen = [\"unix:DIR/own.sock\"]
";

const INHERITED: &[&str] = &["listening on ", "(inherited ", "socket=rpc"];
const KEPT: &[&str] = &["listening on ", "own.sock (bound, kept)", "socket=own"];
const TOOK_OVER: &[&str] = &["took over 2 connections; nobody was served for ", " ms"];
const SERVED: &str = "2 connections and 2 frames";

/// The lines at info level behind a mark.
fn told(manager: &Manager, mark: usize) -> Vec<String> {
    let log = manager.log();
    let lines = log[mark..]
        .lines()
        .filter_map(|line| line.strip_prefix("<6>"));
    lines.map(str::to_owned).collect()
}

fn assert_tells(lines: &[String], story: &[&[&str]]) {
    assert_eq!(lines.len(), story.len(), "{lines:#?}");
    for (line, parts) in lines.iter().zip(story) {
        assert!(
            parts.iter().all(|part| line.contains(part)),
            "{parts:?}: {lines:#?}"
        );
    }
}

fn serve(wires: &mut [Wire]) {
    wires.iter_mut().for_each(|wire| wire.echo(1, 1));
}

#[test]
fn a_reload_and_a_restart_are_told_from_begin_to_end() {
    let mut manager = Manager::on("portable", 16, CONFIG);
    let rpc = manager.listen_tcp("rpc");
    manager.start();
    let own = Address::Unix(manager.path("own.sock").into());
    let mut wires = [rpc, own].map(|address| Wire::connect(&address));
    serve(&mut wires);

    let mark = manager.log().len();
    manager.reload();
    manager.logged(1, &["took over"]);
    let handed = [
        "handing 2 connections over to ",
        "; this process has served ",
        SERVED,
    ];
    let reload: &[&[&str]] = &[
        &["SIGHUP: reloading"],
        &handed,
        &["using the portable engine"],
        KEPT,
        INHERITED,
        TOOK_OVER,
    ];
    assert_tells(&told(&manager, mark), reload);

    serve(&mut wires);
    let mark = manager.log().len();
    manager.stop();
    // Somebody waits for that long.
    thread::sleep(Duration::from_millis(300));
    manager.start();
    let took_over = manager.logged(2, &["took over"]);
    let waited = took_over.split(' ').rev().nth(1).unwrap();
    assert!(waited.parse::<u32>().unwrap() >= 300, "{took_over}");
    let left =
        "left 2 connections with the service manager, which closes them unless a start follows";
    let stopped = format!("stopped; {SERVED} were served");
    let restart: &[&[&str]] = &[
        &["SIGTERM: stopping"],
        &[left],
        &[&stopped],
        &["using the portable engine"],
        KEPT,
        INHERITED,
        TOOK_OVER,
    ];
    assert_tells(&told(&manager, mark), restart);
    manager.stop_for_good();
}

/// Nobody waits, and it is over nevertheless.
#[test]
fn a_reload_without_connections_has_an_end() {
    let mut manager = Manager::new(0, "[sockets.rpc]\n");
    manager.listen_tcp("rpc");
    manager.start();
    manager.reload();
    let line = manager.logged(1, &["took over 0 connections; nobody was served for "]);
    let log = manager.log();
    assert!(log.trim_end().ends_with(&line), "{log}");
    manager.stop_for_good();
}
