//! Short connections: what one costs, request, reply and all.

use ringhold_benches::server::RINGHOLD;

use crate::grid::Transport;
use crate::means::{Group, beside_each};
use crate::report::syscalls;
use crate::results::CellResult;
use crate::table::{Table, or_dash};

/// What stands below [`means`].
const MEANS_NOTE: &str = "Geometric means of ringhold's CPU a connection divided by the peer's: accepted, one request, its reply, and closed when the client has \
    ended its side. These cells are in no other table, nor in the targets.";

/// What stands below [`everybody`].
const EVERYBODY_NOTE: &str = "The kernel makes a TCP connection in the time of who connects, which is the load generator: it is no part of the server's CPU, and what bounds \
    the connections a second where the server is not fully busy.";

const GROUPS: [Group; 2] = [
    ("connect/tcp", |cell| cell.transport == Transport::Tcp),
    ("connect/unix", |cell| cell.transport == Transport::Unix),
];

/// Ringhold beside each peer.
pub(crate) fn means(cells: &[CellResult]) -> Table {
    beside_each(cells, &GROUPS, MEANS_NOTE)
}

/// Every server in every cell.
pub(crate) fn everybody(cells: &[CellResult]) -> Table {
    let mut table = Table::new([
        "cell",
        "server",
        "ns a connection",
        "ringhold / it",
        "connections a second",
        "busy",
        "syscalls",
    ]);
    for result in cells {
        for one in &result.measured {
            let ratio = (one.server != RINGHOLD).then(|| result.ratio(one));
            table.row([
                result.cell.to_string(),
                one.server.clone(),
                format!("{:.0}", one.cpu_per_message()),
                or_dash(ratio.flatten()),
                format!("{:.0}", one.rate()),
                format!("{:.0} %", 100.0 * one.busy()),
                syscalls(one),
            ]);
        }
    }
    table.with_note(EVERYBODY_NOTE)
}
