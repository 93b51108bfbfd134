//! What ringhold is to reach beside its peers, and whether it does.

use ringhold_benches::server::{BARE, RINGHOLD};

use crate::grid::{Cell, Kind, Payload, Transport};
use crate::latency::{Figure, LatencyResult, Manner, SPINNING, Timed};
use crate::results::CellResult;
use crate::table::Table;
use ringhold_benches::statistics::{Spread, geometric_mean, median, spread};
use ringhold_benches::verdict::Verdict;

/// What stands below [`table`].
const NOTE: &str = "A target is met if the whole interval is on the right side of it, missed if the whole interval is on the wrong one, \
    and undecided otherwise. One about several cells or peers is met if each of their intervals is on the right side, and missed if one is on the wrong one: of many \
    that are just at the limit, some are by chance. An interval takes six values, which are eleven rounds where every second one chooses the best peer.";

/// What is to be reached, what was found, and whether that meets it.
struct Target {
    what: String,
    found: String,
    verdict: Verdict,
}

/// All targets that something was measured for.
pub(crate) fn table(cells: &[CellResult], latencies: &[LatencyResult]) -> Table {
    let mut table = Table::new(["target", "found", "verdict"]);
    let targets = echo(cells, Transport::Tcp, 0.95, 0.90)
        .into_iter()
        .chain(echo(cells, Transport::Unix, 0.85, 0.75))
        .chain(bare(cells))
        .chain(one_way(cells))
        .chain(latencies.iter().filter_map(latency));
    for target in targets {
        table.row([target.what, target.found, target.verdict.to_string()]);
    }
    table.with_note(NOTE)
}

/// What goes before such figures.
const NO_CODE: &str = "with the same system calls and no code of its own";

/// A cell's CPU a message, ringhold's divided by another's, beside its name.
type Ratio<'a> = (&'a Cell, Spread);

/// Which cells a target is about.
type Choice = fn(&Cell) -> bool;

fn echo(cells: &[CellResult], transport: Transport, limit: f64, stretch: f64) -> Vec<Target> {
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
    let groups = cells.iter().filter_map(|result| result.ratios_to_best());
    let mean = geometric_mean(&groups.collect::<Vec<_>>());
    let reached = if Verdict::at_most(mean, stretch) == Verdict::Met {
        ", the stretch too"
    } else {
        ""
    };
    vec![
        Target {
            what: format!("{what}: at most 1.00 in each cell"),
            found: sides(&ratios, 1.0) + &above_anyway(&cells),
            verdict: all_at_most(&ratios, 1.0),
        },
        Target {
            what: format!("{what}: geometric mean {limit:.2} (stretch {stretch:.2})"),
            found: format!("{mean}{reached}{}", without_own_code(&cells)),
            verdict: Verdict::at_most(mean, limit),
        },
    ]
}

fn all_at_most(ratios: &[Ratio<'_>], limit: f64) -> Verdict {
    Verdict::all_at_most(ratios.iter().map(|(_, ratio)| *ratio), limit)
}

/// How many are certainly above a limit, the worst of them by name, and how many are certainly not.
fn sides(ratios: &[Ratio<'_>], limit: f64) -> String {
    let above = ratios.iter().filter(|(_, ratio)| ratio.is_above(limit));
    let above: Vec<Ratio<'_>> = above.copied().collect();
    let verdict = |ratio: &Ratio<'_>| Verdict::at_most(ratio.1, limit);
    let met = ratios
        .iter()
        .map(verdict)
        .filter(|one| *one == Verdict::Met);
    format!(
        "{} of {} are certainly above{}; {} certainly not",
        above.len(),
        ratios.len(),
        names(&above),
        met.count()
    )
}

/// How many would be above if ringhold's own code took no time, and its system calls were the same.
fn above_anyway(cells: &[&CellResult]) -> String {
    let floors = cells.iter().filter_map(|result| result.floors());
    let floors: Vec<Spread> = floors.map(|floors| spread(&floors)).collect();
    if floors.is_empty() {
        return String::new();
    }
    let count = floors.iter().filter(|floor| floor.is_above(1.0)).count();
    format!("; {NO_CODE} {count} above")
}

/// What it would be if ringhold's own code took no time, and its system calls were the same.
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
fn bare(cells: &[CellResult]) -> Vec<Target> {
    const SMALL: Choice = |cell| cell.depth > 1 && cell.payload <= Payload::Of(200);
    const OTHER: Choice = |cell| !SMALL(cell) && cell.payload != Payload::Varied;
    let kinds: [(&str, f64, Choice); 2] = [
        ("pipelined small messages", 1.15, SMALL),
        ("the other messages", 1.05, OTHER),
    ];
    let target = |(what, limit, wanted): (&str, f64, Choice)| {
        let wanted = cells.iter().filter(|result| wanted(&result.cell));
        let ratios: Vec<Ratio<'_>> = wanted
            .filter_map(|result| Some((&result.cell, result.ratio_to_bare()?)))
            .collect();
        (!ratios.is_empty()).then(|| Target {
            what: format!("{what}, CPU beside bare io_uring: at most {limit:.2} in each cell"),
            found: sides(&ratios, limit),
            verdict: all_at_most(&ratios, limit),
        })
    };
    kinds.into_iter().filter_map(target).collect()
}

/// Frames in, and one frame to many.
fn one_way(cells: &[CellResult]) -> Vec<Target> {
    const TIMES: f64 = 1.5;
    const INGEST: Choice = |cell| cell.kind == Kind::Ingest && cell.payload == Payload::Of(200);
    const FANOUT: Choice = |cell| cell.kind == Kind::Fanout && cell.connections == 1000;
    let kinds: [(&str, Choice); 2] = [
        ("ingest of 200 B frames", INGEST),
        ("fan-out to 1000 readers", FANOUT),
    ];
    let target = |(what, wanted): (&str, Choice)| {
        let wanted: Vec<&CellResult> = cells.iter().filter(|result| wanted(&result.cell)).collect();
        let ratios = wanted.iter();
        let ratios: Vec<Ratio<'_>> = ratios
            .filter_map(|result| Some((&result.cell, result.ratio_to_best()?)))
            .collect();
        let medians = |a: &&Ratio<'_>, b: &&Ratio<'_>| a.1.median.total_cmp(&b.1.median);
        let (worst, least) = ratios.iter().max_by(medians)?;
        Some(Target {
            what: format!(
                "{what}, frames a CPU second: {TIMES} times the best peer's in each cell"
            ),
            found: format!(
                "least of {} cells: {} times in {worst}{}",
                ratios.len(),
                least.inverse(),
                at_most(&wanted)
            ),
            verdict: all_at_most(&ratios, 1.0 / TIMES),
        })
    };
    kinds.into_iter().filter_map(target).collect()
}

/// The most that it would be in any cell if ringhold's own code took no time, and its system calls were the same.
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

fn latency(result: &LatencyResult) -> Option<Target> {
    match result.cell.manner {
        Manner::Paced => paced(result),
        Manner::RoundTrips => round_trips(result),
    }
}

fn paced(result: &LatencyResult) -> Option<Target> {
    const USUAL: Figure = Figure::Usual(0.999);
    let best = result.best_peer(USUAL)?;
    let names = result.peers().map(|peer| peer.server.as_str());
    let ratios: Vec<(&str, Spread)> = names
        .filter_map(|peer| Some((peer, result.ratio(RINGHOLD, peer, USUAL)?)))
        .collect();
    let all = result.ratio_to_best(RINGHOLD, Figure::Pooled(0.999))?;
    let each: Vec<String> = ratios
        .iter()
        .map(|(peer, ratio)| format!("{ratio} times that of {peer}"))
        .collect();
    let mut found = format!(
        "{}; of all requests {all} times the best peer's",
        each.join(", ")
    );
    if let Some(bare) = result.ratio_to_best(BARE, USUAL) {
        found += &format!("; the bare loop's is {bare} times that of {}", best.server);
    }
    let spinning = result.ratio_to_best(SPINNING, USUAL);
    if let Some((spinning, one)) = spinning.zip(result.of(SPINNING)) {
        let who = who_spins(one, best);
        found += &format!("; with spin {spinning} times{who}");
    }
    let transport = result.cell.transport.name();
    Some(Target {
        what: format!(
            "{transport}, p99.9 at half the rate, median of the windows: lower than each peer's"
        ),
        found,
        verdict: Verdict::all_at_most(ratios.iter().map(|(_, ratio)| *ratio), 1.0),
    })
}

fn round_trips(result: &LatencyResult) -> Option<Target> {
    const MEDIAN: Figure = Figure::Usual(0.5);
    let ratio = result.ratio(SPINNING, "tokio", MEDIAN)?;
    let spins = who_spins(result.of(SPINNING)?, result.of("tokio")?);
    let without = result.ratio(RINGHOLD, "tokio", MEDIAN)?;
    let transport = result.cell.transport.name();
    Some(Target {
        what: format!("{transport}, with spin, median of a round trip: half of tokio's"),
        found: format!("{ratio} times that of tokio{spins}; without spin {without} times"),
        verdict: Verdict::at_most(ratio, 0.5),
    })
}
