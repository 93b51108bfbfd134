//! Servers with several workers.

use ringhold_benches::server::{PEERS, RINGHOLD};
use ringhold_benches::statistics::spread;

use crate::means::{GROUPS, mean};
use crate::report::syscalls;
use crate::results::{CellResult, Measured};
use crate::table::{Table, or_dash};

/// Ringhold with workers that are not pinned, as tokio's threads are not.
pub(crate) const UNPINNED: &str = "ringhold-unpinned";

/// What stands below [`means`].
const MEANS_NOTE: &str = "Geometric means of the CPU a message of ringhold, pinned by default and with `pin = false`, divided by the peer's. All servers have \
    two workers (2w). The threads of monoio, compio and tokio-uring are pinned, those of tokio are not. These cells are in no other table, nor in the targets.";

/// What stands below [`everybody`].
const EVERYBODY_NOTE: &str = "The servers have the last two CPUs of the machine. Where there are no others, the load generator shares one of them: \
    workers that are not pinned avoid it, and messages a second would mean nothing. Busiest thread: its part in the CPU time of the server, half being an even \
    division; the median of the windows.";

/// Ringhold beside each peer, over the cells of a group.
pub(crate) fn means(cells: &[CellResult]) -> Table {
    let measured = |name: &&str| cells.iter().any(|result| result.of(name).is_some());
    let peers: Vec<&str> = PEERS.into_iter().filter(measured).collect();
    let own: Vec<&str> = [RINGHOLD, UNPINNED].into_iter().filter(measured).collect();
    let head = ["group", "cells", "server"];
    let mut table = Table::new(head.into_iter().chain(peers.iter().copied()));
    for (name, wanted) in GROUPS {
        let group = cells.iter().filter(|result| wanted(&result.cell));
        let group: Vec<&CellResult> = group.collect();
        if group.is_empty() || peers.is_empty() {
            continue;
        }
        for own in &own {
            let figures = peers
                .iter()
                .map(|peer| mean(&group, |result| result.ratios_of(own, peer)));
            let row = [name.into(), group.len().to_string(), (*own).into()];
            table.row(row.into_iter().chain(figures));
        }
    }
    table.with_note(MEANS_NOTE)
}

/// Every server in every cell.
pub(crate) fn everybody(cells: &[CellResult]) -> Table {
    let mut table = Table::new([
        "cell",
        "server",
        "ns a message",
        "ringhold / it",
        "unpinned / it",
        "busiest thread",
        "CPUs busy",
        "syscalls",
    ]);
    for result in cells {
        let ratio = |own: &str, one: &Measured| {
            let others = (own != one.server).then(|| result.ratios_of(own, &one.server));
            or_dash(others.flatten().map(|ratios| spread(&ratios)))
        };
        for one in &result.measured {
            let busiest = one.busiest().map(|part| format!("{:.0} %", 100.0 * part));
            table.row([
                result.cell.to_string(),
                one.server.clone(),
                format!("{:.1}", one.cpu_per_message()),
                ratio(RINGHOLD, one),
                ratio(UNPINNED, one),
                or_dash(busiest),
                format!("{:.2}", one.busy()),
                syscalls(one),
            ]);
        }
    }
    table.with_note(EVERYBODY_NOTE)
}
