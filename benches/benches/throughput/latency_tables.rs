//! How long requests took: every server, and ringhold beside the best of the others.

use ringhold_benches::server::RINGHOLD;

use crate::latency::{Figure, LatencyResult, Manner, SPINNING};
use crate::table::{Table, or_dash};

/// What stands below [`beside`].
const BESIDE_NOTE: &str = "Only ringhold spins in the columns \"with spin\": it looks for work for up to 50 µs \
    before it sleeps, and takes the CPU for that, as its busy share says. Every peer sleeps as soon as there is nothing to do. \
    The best peer is the one with the lowest figure in all windows, and in the same windows ringhold is compared with it: that it was lucky there \
    counts against ringhold.";

/// What stands below [`everybody`].
const EVERYBODY_NOTE: &str = "p50, p99 and p99.9 are medians over the windows: what a window is usually like, \
    without the stalls that fewer than half of the windows have. \"p99.9 of all\" and \"max\" are of all requests of all windows: \
    every stall is in them, those of the machine, too. \"sent late\" is the load generator's own part of that.";

/// Ringhold as it is, and with spin, beside the best peer.
pub(crate) fn beside(latencies: &[LatencyResult]) -> Table {
    let mut table = Table::new([
        "cell",
        "in µs",
        "ringhold",
        "busy",
        "best peer",
        "busy",
        "which",
        "ringhold / best",
        "with spin",
        "busy",
        "with spin / best",
    ]);
    for result in latencies {
        for (what, figure) in figures(result.cell.manner) {
            let (Some(own), Some(best)) = (result.of(RINGHOLD), result.best_peer(*figure)) else {
                continue;
            };
            let spinning = result.of(SPINNING);
            let micros = |of| format!("{:.1}", figure.micros(of));
            let busy = |of: f64| format!("{:.0} %", 100.0 * of);
            table.row([
                result.cell.to_string(),
                (*what).into(),
                micros(own),
                busy(own.busy()),
                micros(best),
                busy(best.busy()),
                best.server.clone(),
                or_dash(result.ratio_to_best(RINGHOLD, *figure)),
                or_dash(spinning.map(micros)),
                or_dash(spinning.map(|one| busy(one.busy()))),
                or_dash(result.ratio_to_best(SPINNING, *figure)),
            ]);
        }
    }
    table.with_note(BESIDE_NOTE)
}

/// What a cell is compared by.
fn figures(manner: Manner) -> &'static [(&'static str, Figure)] {
    match manner {
        Manner::Paced => &[
            ("p50", Figure::Usual(0.5)),
            ("p99.9", Figure::Usual(0.999)),
            ("p99.9 of all", Figure::Pooled(0.999)),
        ],
        Manner::RoundTrips => &[
            ("p50", Figure::Usual(0.5)),
            ("p99.9 of all", Figure::Pooled(0.999)),
        ],
    }
}

pub(crate) fn everybody(latencies: &[LatencyResult]) -> Table {
    let mut table = Table::new([
        "cell",
        "requests/s",
        "server",
        "p50",
        "p99",
        "p99.9",
        "p99.9 of all",
        "max",
        "requests",
        "CPU busy",
        "sent late p99.9 of all",
        "sent late max",
    ]);
    for result in latencies {
        for one in &result.timed {
            let micros = |nanos: u64| format!("{:.1}", nanos as f64 / 1e3);
            let all = one.pooled();
            let late = result.rate.map(|_| one.pooled_late());
            table.row([
                result.cell.to_string(),
                or_dash(result.rate.map(|rate| format!("{rate:.0}"))),
                one.server.clone(),
                format!("{:.1}", one.micros(0.5)),
                format!("{:.1}", one.micros(0.99)),
                format!("{:.1}", one.micros(0.999)),
                micros(all.value_at_quantile(0.999)),
                micros(all.max()),
                all.len().to_string(),
                format!("{:.0} %", 100.0 * one.busy()),
                or_dash(
                    late.as_ref()
                        .map(|late| micros(late.value_at_quantile(0.999))),
                ),
                or_dash(late.as_ref().map(|late| micros(late.max()))),
            ]);
        }
    }
    table.with_note(EVERYBODY_NOTE)
}
