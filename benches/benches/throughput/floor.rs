//! What is left of ringhold's cost if its own code took no time: the kernel's part of it.

use ringhold_benches::server::RINGHOLD;
use ringhold_benches::statistics::{geometric_mean, median};

use crate::grid::{Cell, Kind, Payload, Transport};
use crate::results::CellResult;
use crate::table::{Table, or_dash};

/// What stands below [`table`].
const NOTE: &str = "In the kernel: the part of ringhold's CPU time, from cell to cell. Without code of its own: ringhold's CPU a message if that part \
    were all of it, and the system calls were the same, divided by the best peer's; fewer or other calls might cost less, or more. \
    The bare loop makes others, and neither parses nor counts. Geometric means, and the least and most of a cell's medians.";

/// Cells that have a target of their own, and which they are.
type Group = (&'static str, fn(&Cell) -> bool);

const GROUPS: [Group; 6] = [
    ("echo/tcp, a request a connection", |cell| {
        is_echo(cell, Transport::Tcp) && cell.depth == 1
    }),
    ("echo/tcp, all", |cell| is_echo(cell, Transport::Tcp)),
    ("echo/unix, a request a connection", |cell| {
        is_echo(cell, Transport::Unix) && cell.depth == 1
    }),
    ("echo/unix, all", |cell| is_echo(cell, Transport::Unix)),
    ("ingest, 200 B", |cell| {
        cell.kind == Kind::Ingest && cell.payload == Payload::Of(200)
    }),
    ("fanout, 1000 readers", |cell| {
        cell.kind == Kind::Fanout && cell.connections == 1000
    }),
];

fn is_echo(cell: &Cell, transport: Transport) -> bool {
    cell.kind == Kind::Echo && cell.transport == transport && cell.payload != Payload::Varied
}

/// Of the groups in which the kernel's part was sampled.
pub(crate) fn table(cells: &[CellResult]) -> Table {
    let mut table = Table::new([
        "cells",
        "in the kernel",
        "ringhold / best",
        "without code of its own / best",
        "bare / best",
    ]);
    for (name, wanted) in GROUPS {
        let group: Vec<&CellResult> = cells
            .iter()
            .filter(|result| wanted(&result.cell) && result.floors().is_some())
            .collect();
        let shares = group
            .iter()
            .filter_map(|result| result.of(RINGHOLD)?.kernel_share());
        let Some((least, most)) = range(shares) else {
            continue;
        };
        table.row([
            name.into(),
            format!("{:.0} to {:.0} %", 100.0 * least, 100.0 * most),
            mean(&group, CellResult::ratios_to_best),
            mean(&group, CellResult::floors),
            mean(&group, CellResult::bare_to_best),
        ]);
    }
    table.with_note(NOTE)
}

/// The geometric mean, and the range of the cells' own.
fn mean(group: &[&CellResult], ratios: fn(&CellResult) -> Option<Vec<f64>>) -> String {
    let ratios: Vec<Vec<f64>> = group.iter().filter_map(|result| ratios(result)).collect();
    let medians = ratios.iter().map(|cell| median(cell));
    let shown = range(medians).map(|(least, most)| {
        let mean = geometric_mean(&ratios).median;
        format!("{mean:.2} ({least:.2} to {most:.2})")
    });
    or_dash(shown)
}

pub(crate) fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |range, value| {
        let (least, most) = range.unwrap_or((value, value));
        Some((least.min(value), most.max(value)))
    })
}
