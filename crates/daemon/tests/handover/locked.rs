//! Rings that count against the limit of locked memory.

use crate::common::wire::Wire;
use crate::manager::{Manager, RINGHOLD, write_program};

/// The usual limit.
const MOST: usize = 8 << 20;

/// Users of nobody's, whose processes count together.
const FIRST_USER: u32 = 1_846_000_000;

/// A service that may lock [`MOST`] bytes, as the only one of its user.
fn started(engine: &'static str, case: u32, config: &str) -> (Manager, Wire) {
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
            "#!/bin/sh\nexec prlimit --memlock={MOST}:{MOST} setpriv {own} --inh-caps {kept} --ambient-caps {kept} \
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
    if !rustix::process::geteuid().is_root() {
        eprintln!("only root can be a user whom nobody else is");
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
        let (mut manager, mut wire) = started(engine, case as u32, &config);
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
