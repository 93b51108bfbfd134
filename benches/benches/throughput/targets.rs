//! What ringhold is to reach beside its peers, and whether it does.

use ringhold_benches::server::{BARE, RINGHOLD};

use crate::grid::{Cell, Kind, Payload, Transport};
use crate::latency::{Figure, LatencyResult, Manner, SPINNING, Timed};
use crate::results::CellResult;
use crate::table::Table;
use ringhold_benches::statistics::{Spread, geometric_mean, median, spread};

/// Of a target: what it is, what was found, and whether that meets it.
struct Verdict {
    target: String,
    found: String,
    met: bool,
}

/// All targets that something was measured for.
pub(crate) fn table(cells: &[CellResult], latencies: &[LatencyResult]) -> Table {
    let mut table = Table::new(["target", "found", "verdict"]);
    let verdicts = echo(cells, Transport::Tcp, 0.95, 0.90)
        .into_iter()
        .chain(echo(cells, Transport::Unix, 0.85, 0.75))
        .chain(bare(cells))
        .chain(one_way(cells))
        .chain(latencies.iter().filter_map(latency));
    for verdict in verdicts {
        let met = if verdict.met { "met" } else { "**missed**" };
        table.row([verdict.target, verdict.found, met.into()]);
    }
    table
}

/// What goes before such figures.
const NO_CODE: &str = "with the same system calls and no code of its own";

/// A cell's CPU a message, ringhold's divided by another's, beside its name.
type Ratio<'a> = (&'a Cell, Spread);

/// Which cells a target is about.
type Choice = fn(&Cell) -> bool;

fn echo(cells: &[CellResult], transport: Transport, limit: f64, stretch: f64) -> Vec<Verdict> {
    let wanted = |cell: &Cell| {
        cell.kind == Kind::Echo && cell.transport == transport && cell.payload != Payload::Varied
    };
    let cells: Vec<&CellResult> = cells.iter().filter(|result| wanted(&result.cell)).collect();
    let ratios = cells
        .iter()
        .filter_map(|result| Some((&result.cell, result.ratio_to_best()?)));
    let ratios: Vec<Ratio<'_>> = ratios.collect();
    if ratios.is_empty() {
        return Vec::new();
    }
    let what = format!(
        "echo/{}, CPU a message beside the best peer",
        transport.name()
    );
    let above: Vec<Ratio<'_>> = ratios
        .iter()
        .filter(|(_, ratio)| ratio.low > 1.0)
        .copied()
        .collect();
    let groups = cells.iter().filter_map(|result| result.ratios_to_best());
    let mean = geometric_mean(&groups.collect::<Vec<_>>());
    let reached = if mean.median <= stretch {
        ", the stretch too"
    } else {
        ""
    };
    vec![
        Verdict {
            target: format!("{what}: no interval wholly above 1.00"),
            found: format!(
                "{} of {} are{}{}",
                above.len(),
                ratios.len(),
                names(&above),
                above_anyway(&cells)
            ),
            met: above.is_empty(),
        },
        Verdict {
            target: format!("{what}: geometric mean {limit:.2} (stretch {stretch:.2})"),
            found: format!("{mean}{reached}{}", without_own_code(&cells)),
            met: mean.median <= limit,
        },
    ]
}

/// How many would be above if ringhold's own code took no time.
fn above_anyway(cells: &[&CellResult]) -> String {
    let floors = cells.iter().filter_map(|result| result.floors());
    let lows: Vec<f64> = floors.map(|floors| spread(&floors).low).collect();
    if lows.is_empty() {
        return String::new();
    }
    let count = lows.iter().filter(|low| **low > 1.0).count();
    format!("; {NO_CODE} {count}")
}

/// What it would be if ringhold's own code took no time.
fn without_own_code(cells: &[&CellResult]) -> String {
    let floors = cells.iter().filter_map(|result| result.floors());
    let floors: Vec<Vec<f64>> = floors.collect();
    if floors.is_empty() {
        return String::new();
    }
    let mean = geometric_mean(&floors).median;
    format!("; {NO_CODE} {mean:.2}")
}

/// The worst of them by name.
fn names(ratios: &[Ratio<'_>]) -> String {
    let mut worst: Vec<&Ratio<'_>> = ratios.iter().collect();
    worst.sort_by(|a, b| b.1.median.total_cmp(&a.1.median));
    let named: Vec<String> = worst
        .iter()
        .take(3)
        .map(|(cell, ratio)| format!("{cell} {ratio}"))
        .collect();
    match named.len() {
        0 => String::new(),
        count if count < ratios.len() => format!(": {}, ...", named.join(", ")),
        _ => format!(": {}", named.join(", ")),
    }
}

/// Ringhold beside what does not parse.
fn bare(cells: &[CellResult]) -> Vec<Verdict> {
    const SMALL: Choice = |cell| cell.depth > 1 && cell.payload <= Payload::Of(200);
    const OTHER: Choice = |cell| !SMALL(cell) && cell.payload != Payload::Varied;
    let kinds: [(&str, f64, Choice); 2] = [
        ("pipelined small messages", 1.15, SMALL),
        ("the other messages", 1.05, OTHER),
    ];
    let verdict = |(what, limit, wanted): (&str, f64, Choice)| {
        let wanted = cells.iter().filter(|result| wanted(&result.cell));
        let ratios: Vec<Ratio<'_>> = wanted
            .filter_map(|result| Some((&result.cell, result.ratio_to_bare()?)))
            .collect();
        let above = ratios.iter().filter(|(_, ratio)| ratio.median > limit);
        let above: Vec<Ratio<'_>> = above.copied().collect();
        (!ratios.is_empty()).then(|| Verdict {
            target: format!("{what}, CPU beside bare io_uring: at most {limit:.2}"),
            found: format!(
                "{} of {} are above{}",
                above.len(),
                ratios.len(),
                names(&above)
            ),
            met: above.is_empty(),
        })
    };
    kinds.into_iter().filter_map(verdict).collect()
}

/// Frames in, and one frame to many.
fn one_way(cells: &[CellResult]) -> Vec<Verdict> {
    const TIMES: f64 = 1.5;
    const INGEST: Choice = |cell| cell.kind == Kind::Ingest && cell.payload == Payload::Of(200);
    const FANOUT: Choice = |cell| cell.kind == Kind::Fanout && cell.connections == 1000;
    let kinds: [(&str, Choice); 2] = [
        ("ingest of 200 B frames", INGEST),
        ("fan-out to 1000 readers", FANOUT),
    ];
    let verdict = |(what, wanted): (&str, Choice)| {
        let wanted: Vec<&CellResult> = cells.iter().filter(|result| wanted(&result.cell)).collect();
        let times: Vec<(&Cell, f64)> = wanted
            .iter()
            .filter_map(|result| Some((&result.cell, 1.0 / result.ratio_to_best()?.median)))
            .collect();
        let (worst, least) = times.iter().min_by(|a, b| a.1.total_cmp(&b.1))?;
        Some(Verdict {
            target: format!("{what}, frames a CPU second: {TIMES} times the best peer's"),
            found: format!(
                "{least:.2} times or more, in {} cells; least: {worst}{}",
                times.len(),
                at_most(&wanted)
            ),
            met: *least >= TIMES,
        })
    };
    kinds.into_iter().filter_map(verdict).collect()
}

/// The most that it would be in any cell if ringhold's own code took no time.
fn at_most(cells: &[&CellResult]) -> String {
    let floors = cells.iter().filter_map(|result| result.floors());
    let least = floors.map(|floors| median(&floors)).min_by(f64::total_cmp);
    least.map_or(String::new(), |least| {
        let most = 1.0 / least;
        format!("; {NO_CODE} {most:.2} times in the best of them")
    })
}

/// Peers do not spin: what ringhold takes for it.
fn who_spins(spinning: &Timed, peer: &Timed) -> String {
    let [own, others] = [spinning, peer].map(|one| 100.0 * one.busy());
    let name = &peer.server;
    format!(" (ringhold alone spins: it is {own:.0} % busy, {name} {others:.0} %)")
}

fn latency(result: &LatencyResult) -> Option<Verdict> {
    const USUAL: Figure = Figure::Usual(0.999);
    let transport = result.cell.transport.name();
    Some(match result.cell.manner {
        Manner::Paced => {
            let best = result.best_peer(USUAL)?;
            let ratio = result.ratio_to_best(RINGHOLD, USUAL)?;
            let all = result.ratio_to_best(RINGHOLD, Figure::Pooled(0.999))?;
            let mut found = format!(
                "{ratio} times that of {}, of all requests {all} times the best peer's",
                best.server
            );
            if let Some(bare) = result.ratio_to_best(BARE, USUAL) {
                found += &format!("; the bare loop's is {bare} times");
            }
            let spinning = result.ratio_to_best(SPINNING, USUAL);
            if let Some((spinning, one)) = spinning.zip(result.of(SPINNING)) {
                let who = who_spins(one, best);
                found += &format!("; with spin {spinning} times{who}");
            }
            Verdict {
                target: format!(
                    "{transport}, p99.9 at half the rate, median of the windows: lower than the best peer's"
                ),
                found,
                met: ratio.median < 1.0,
            }
        }
        Manner::RoundTrips => {
            let ratio = result.ratio(SPINNING, "tokio", 0.5)?;
            let spins = who_spins(result.of(SPINNING)?, result.of("tokio")?);
            let without = result.ratio(RINGHOLD, "tokio", 0.5)?;
            Verdict {
                target: format!("{transport}, with spin, median of a round trip: half of tokio's"),
                found: format!("{ratio} times that of tokio{spins}; without spin {without} times"),
                met: ratio.median <= 0.5,
            }
        }
    })
}
