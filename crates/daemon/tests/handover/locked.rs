//! Rings that count against the limit of locked memory.

use nix::sys::signal::Signal;

use crate::common::wire::Wire;
use crate::manager::{Manager, RINGHOLD, write_program};

/// The usual limit.
const MOST: usize = 8 << 20;

/// Users of nobody's, whose processes count together.
const FIRST_USER: u32 = 1_846_000_000;

fn can_be_nobody_else() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("only root can be a user whom nobody else is");
    }
    is_root
}

/// A service that may lock so many bytes, as the only one of its user.
fn started(engine: &'static str, case: u32, most: usize, config: &str) -> (Manager, Wire) {
    let mut manager = Manager::on(engine, 0, config);
    let user = FIRST_USER + 100 * std::process::id() + case;
    let (own, kept) = (
        format!("--reuid {user} --clear-groups"),
        "-all,+dac_override",
    );
    let script = manager.path("with-little-to-lock");
    write_program(
        &script,
        &format!(
            "#!/bin/sh\nexec prlimit --memlock={most}:{most} setpriv {own} --inh-caps {kept} --ambient-caps {kept} \
             --bounding-set {kept} {RINGHOLD} \"$@\"\n"
        ),
    );
    manager.run_as(&script);
    let address = manager.listen_tcp("rpc");
    manager.start();
    let wire = Wire::connect(&address);
    (manager, wire)
}

/// The kernel takes down rings some time after they are closed or their process has ended.
#[test]
fn a_successor_has_rings_beside_those_of_its_predecessors() {
    if !can_be_nobody_else() {
        return;
    }
    const MANY: &str = "buffers = 8192\nbuffer_bytes = 1024\n";
    for (case, (engine, workers, ring)) in [
        ("auto", 14, ""),
        ("auto", 16, MANY),
        ("portable", 7, ""),
        ("portable", 14, ""),
    ]
    .into_iter()
    .enumerate()
    {
        let config = format!("workers = {workers}\n[ring]\n{ring}[sockets.rpc]\n");
        let (mut manager, mut wire) = started(engine, case as u32, MOST, &config);
        for reload in 1..=4 {
            manager.reload();
            manager.logged(reload, &["took over 1 connection"]);
            wire.echo(reload as u32, 1);
        }
        // It was another one for a moment.
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", manager.pid())).unwrap();
        let mut lines = limits.lines();
        let locked = lines.find(|line| line.starts_with("Max locked memory"));
        let locked: Vec<_> = locked.unwrap().split_whitespace().skip(3).collect();
        assert_eq!(locked, [&MOST.to_string(), &MOST.to_string(), "bytes"]);
        manager.stop_for_good();
    }
}

/// The asking process serves on. The program that it has executed could not go back.
#[test]
fn a_program_without_room_for_its_rings_refuses() {
    if !can_be_nobody_else() {
        return;
    }
    for (case, engine) in [(10, "auto"), (11, "portable")] {
        let config = |workers| format!("workers = {workers}\n[sockets.rpc]\n");
        let (mut manager, mut wire) = started(engine, case, 512 << 10, &config(4));
        if !manager.log().contains("rings have 256 entries") {
            eprintln!("rings do not count here");
            manager.stop_for_good();
            continue;
        }
        // The smallest that there are just fit.
        manager.configure(&config(8));
        manager.reload();
        manager.logged(1, &["took over 1 connection"]);
        manager.configure(&config(60));
        let refusals = manager.mark();
        manager.signal(Signal::SIGHUP);
        manager.wait_for(refusals, "READY=1");
        manager.logged(1, &["the reload is refused", "60 workers", "LimitMEMLOCK="]);
        wire.echo(1, 1);
        manager.stop_for_good();
    }
}

/// Those of the predecessor count for a moment, and so do the entries of the buffers: the successor waits for them as for its rings.
#[test]
fn a_successor_waits_for_the_entries_of_its_buffers() {
    if !can_be_nobody_else() {
        return;
    }
    let config = |workers| format!("workers = {workers}\n[sockets.rpc]\n");
    let (mut manager, mut wire) = started("auto", 20, 512 << 10, &config(4));
    // Once they have room, and not twice.
    manager.configure(&config(23));
    for id in 0..8 {
        let mark = manager.mark();
        manager.signal(Signal::SIGHUP);
        // Whether it is refused or not.
        manager.wait_for(mark, "READY=1");
        wire.echo(id, 1);
    }
    manager.stop_for_good();
}
