//! Which charts there are.

use crate::grid::{Kind, Transport};
use crate::latency::{LatencyResult, Manner};
use crate::plot::{Chart, Mark, Row};
use crate::results::{CellResult, Measured};
use ringhold_benches::statistics::{Spread, spread};

/// A chart and the name of its file.
pub(crate) type Named = (&'static str, Chart);

/// Those that something was measured for.
pub(crate) fn all(cells: &[CellResult], latencies: &[LatencyResult]) -> Vec<Named> {
    let echo = |transport| {
        let cells = cells.iter();
        let cells = cells.filter(move |result| {
            result.cell.kind == Kind::Echo && result.cell.transport == transport
        });
        cells.collect::<Vec<_>>()
    };
    let others: Vec<&CellResult> = cells
        .iter()
        .filter(|result| result.cell.kind != Kind::Echo)
        .collect();
    let (tcp, unix) = (echo(Transport::Tcp), echo(Transport::Unix));
    let charts = [
        ("echo-tcp-ratio.svg", ratios("Echo over TCP", &tcp)),
        (
            "echo-unix-ratio.svg",
            ratios("Echo over unix sockets", &unix),
        ),
        (
            "one-way-ratio.svg",
            ratios("Fetch, ingest and fan-out", &others),
        ),
        ("echo-tcp-cpu.svg", costs("Echo over TCP", &tcp)),
        ("echo-unix-cpu.svg", costs("Echo over unix sockets", &unix)),
        (
            "one-way-cpu.svg",
            costs("Fetch, ingest and fan-out", &others),
        ),
        ("latency.svg", times(latencies)),
    ];
    charts
        .into_iter()
        .filter(|(_, chart)| !chart.rows.is_empty())
        .collect()
}

/// Ringhold's CPU a message beside the best peer's and beside what does not parse.
fn ratios(title: &str, cells: &[&CellResult]) -> Chart {
    let row = |result: &&CellResult| {
        let ratios = [result.ratio_to_best(), result.ratio_to_bare()];
        let marks = ratios
            .into_iter()
            .enumerate()
            .filter_map(|(series, ratio)| ratio.map(|ratio| mark_of(series, ratio)));
        let marks: Vec<Mark> = marks.collect();
        (!marks.is_empty()).then(|| Row {
            label: result.cell.to_string(),
            marks,
        })
    };
    Chart {
        title: format!("{title}: ringhold's CPU per message, the others' being 1"),
        caption: "median of the rounds' ratios, with its 95 % interval; less is better".into(),
        series: ["best peer", "bare io_uring"].map(String::from).into(),
        rows: cells.iter().filter_map(row).collect(),
        guides: vec![1.0],
    }
}

fn mark_of(series: usize, figure: Spread) -> Mark {
    let [low, high] = figure.interval.unwrap_or([figure.median; 2]);
    Mark {
        series,
        value: figure.median,
        low,
        high,
    }
}

/// CPU a message of every server.
fn costs(title: &str, cells: &[&CellResult]) -> Chart {
    let mut series: Vec<String> = Vec::new();
    for one in cells.iter().flat_map(|result| &result.measured) {
        if !series.contains(&one.server) {
            series.push(one.server.clone());
        }
    }
    let mark = |one: &Measured| {
        let costs: Vec<f64> = one
            .windows
            .iter()
            .map(|window| window.cpu_per_message())
            .collect();
        let place = series.iter().position(|name| *name == one.server);
        mark_of(place.unwrap_or(0), spread(&costs))
    };
    let rows = cells.iter().map(|result| Row {
        label: result.cell.to_string(),
        marks: result.measured.iter().map(mark).collect(),
    });
    Chart {
        title: format!("{title}: CPU per message"),
        caption: "nanoseconds, median of the rounds; less is better".into(),
        rows: rows.collect(),
        guides: Vec::new(),
        series,
    }
}

/// The percentiles of every server.
fn times(latencies: &[LatencyResult]) -> Chart {
    const QUANTILES: [f64; 3] = [0.5, 0.99, 0.999];
    let mut rows = Vec::new();
    for result in latencies {
        let what = match result.cell.manner {
            Manner::Paced => "paced",
            Manner::RoundTrips => "one by one",
        };
        for one in &result.timed {
            let marks = QUANTILES.iter().enumerate().map(|(series, quantile)| {
                let value = one.micros(*quantile);
                Mark {
                    series,
                    value,
                    low: value,
                    high: value,
                }
            });
            rows.push(Row {
                label: format!("{what}, {} {}", result.cell.transport.name(), one.server),
                marks: marks.collect(),
            });
        }
    }
    Chart {
        title: "Time from when a request should be sent to its reply".into(),
        caption: "microseconds, medians over the rounds; less is better; ringhold-spin alone spins, all others sleep".into(),
        series: ["p50", "p99", "p99.9"].map(String::from).into(),
        rows,
        guides: Vec::new(),
    }
}
