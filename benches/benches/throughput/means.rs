//! Ringhold beside each peer alone, over all cells of a group.

use ringhold_benches::server::{PEERS, RINGHOLD};
use ringhold_benches::statistics::geometric_mean;

use crate::grid::{Cell, Kind, Payload, Transport};
use crate::results::CellResult;
use crate::table::{Table, or_dash};

/// What stands below [`table`].
const NOTE: &str = "Geometric means of ringhold's CPU a message divided by the peer's. The best peer is another \
    one from cell to cell: nobody is as good as that everywhere. The cells in which no two messages in a row are written alike \
    (varied) are a group of their own, and in no other, nor in the targets.";

/// A group of cells, and which they are.
pub(crate) type Group = (&'static str, fn(&Cell) -> bool);

pub(crate) const GROUPS: [Group; 6] = [
    ("echo/tcp", |cell| is_echo(cell, Transport::Tcp)),
    ("echo/unix", |cell| is_echo(cell, Transport::Unix)),
    ("fetch", |cell| cell.kind == Kind::Fetch),
    ("ingest", |cell| is_alike(cell, Kind::Ingest)),
    ("fanout", |cell| is_alike(cell, Kind::Fanout)),
    ("varied", |cell| cell.payload == Payload::Varied),
];

fn is_echo(cell: &Cell, transport: Transport) -> bool {
    is_alike(cell, Kind::Echo) && cell.transport == transport
}

fn is_alike(cell: &Cell, kind: Kind) -> bool {
    cell.kind == kind && cell.payload != Payload::Varied
}

pub(crate) fn table(cells: &[CellResult]) -> Table {
    beside_each(cells, &GROUPS, NOTE)
}

/// Ringhold beside the best peer and beside each, in such groups of cells.
pub(crate) fn beside_each(cells: &[CellResult], groups: &[Group], note: &'static str) -> Table {
    let with_ringhold = || cells.iter().filter(|result| result.of(RINGHOLD).is_some());
    let measured = |peer: &&str| with_ringhold().any(|result| result.of(peer).is_some());
    let peers: Vec<&str> = PEERS.into_iter().filter(|peer| measured(peer)).collect();
    let head = ["group", "cells", "the best in each cell"];
    let mut table = Table::new(head.into_iter().chain(peers.iter().copied()));
    for (name, wanted) in groups {
        let group: Vec<&CellResult> = with_ringhold()
            .filter(|result| wanted(&result.cell))
            .collect();
        if group.is_empty() || peers.is_empty() {
            continue;
        }
        let best = mean(&group, CellResult::ratios_to_best);
        let alone = peers
            .iter()
            .map(|peer| mean(&group, |result| result.ratios(result.of(peer)?)));
        let figures = std::iter::once(best).chain(alone);
        let row = [(*name).into(), group.len().to_string()];
        table.row(row.into_iter().chain(figures));
    }
    table.with_note(note)
}

/// Over the cells that have such ratios.
pub(crate) fn mean(
    group: &[&CellResult],
    ratios: impl Fn(&CellResult) -> Option<Vec<f64>>,
) -> String {
    let ratios: Vec<Vec<f64>> = group.iter().filter_map(|result| ratios(result)).collect();
    or_dash((!ratios.is_empty()).then(|| geometric_mean(&ratios)))
}
