//! The tables at the end, on the terminal and in a file.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

use ringhold_benches::server::RINGHOLD;

use crate::floor;
use crate::latency::LatencyResult;
use crate::latency_tables;
use crate::machine::Machine;
use crate::means;
use crate::plots;
use crate::results::{CellResult, Measured};
use crate::several;
use crate::short;
use crate::table::{Table, or_dash};
use crate::targets;

/// What stands below the summary.
const SUMMARY_NOTE: &str = "The best peer is one of tokio, tokio-uring, monoio and compio. It is chosen by every second round, and the \
    ratio to it is that of the other rounds: in those that chose it, it was lucky, too. Where peers differ by less than their rounds do, \
    another one may be better. In the kernel: the median of a few samples of ringhold's time, each on new connections, and the least and most of them.";

/// All that was measured, and how.
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// Of servers with one worker.
    pub(crate) cells: Vec<CellResult>,
    /// Of servers with several, which are in tables of their own only.
    pub(crate) several: Vec<CellResult>,
    /// Of short connections, likewise.
    pub(crate) short: Vec<CellResult>,
    pub(crate) latencies: Vec<LatencyResult>,
}

impl Report {
    /// For the terminal.
    pub(crate) fn print(&self) {
        println!("\n{}", self.machine);
        for table in [
            self.summary(),
            means::table(&self.cells),
            floor::table(&self.cells),
            several::means(&self.several),
            several::everybody(&self.several),
            short::means(&self.short),
            short::everybody(&self.short),
            latency_tables::everybody(&self.latencies),
            latency_tables::beside(&self.latencies),
            targets::table(&self.cells, &self.latencies),
        ] {
            if !table.is_empty() {
                print!("\n{table}");
            }
        }
    }

    /// Writes it and its charts.
    pub(crate) fn write(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        let charts = plots::all(&self.cells, &self.latencies);
        for (name, chart) in &charts {
            fs::write(dir.join(name), chart.to_string())?;
        }
        fs::write(dir.join("report.md"), self.markdown(&charts))
    }

    fn markdown(&self, charts: &[plots::Named]) -> String {
        let mut out = String::from(
            "# Throughput\n\nWritten by the bench; [benchmarks.md](../benchmarks.md) says what it means.\n\n",
        );
        let _ = writeln!(out, "{}", self.machine);
        let mut section = |title: &str, table: Table, shown: &[&str]| {
            if table.is_empty() {
                return;
            }
            let _ = write!(out, "\n## {title}\n\n{table}");
            for (name, chart) in charts.iter().filter(|(name, _)| shown.contains(name)) {
                let _ = writeln!(out, "\n![{}]({name})", chart.title);
            }
        };
        section("Targets", targets::table(&self.cells, &self.latencies), &[]);
        let latency = latency_tables::beside(&self.latencies);
        section("Latency beside the best peer", latency, &[]);
        let means = means::table(&self.cells);
        section("CPU per message beside each peer", means, &[]);
        section("What the kernel leaves", floor::table(&self.cells), &[]);
        let ratios = [
            "echo-tcp-ratio.svg",
            "echo-unix-ratio.svg",
            "one-way-ratio.svg",
        ];
        section(
            "CPU per message beside the best peer",
            self.summary(),
            &ratios,
        );
        let costs = ["echo-tcp-cpu.svg", "echo-unix-cpu.svg", "one-way-cpu.svg"];
        let cost = |one: &Measured| format!("{:.1}", one.cpu_per_message());
        section("CPU per message in ns", self.everybody(cost), &costs);
        let rate = |one: &Measured| format!("{:.0}", one.rate());
        section("Messages per second", self.everybody(rate), &[]);
        let busy = |one: &Measured| format!("{:.0}", one.busy() * 100.0);
        section(
            "How busy the server's CPU was, in %",
            self.everybody(busy),
            &[],
        );
        let idle = |one: &Measured| format!("{:.1}", one.busy_at_rest * 100.0);
        section(
            "How busy it was while others were measured, in %",
            self.everybody(idle),
            &[],
        );
        section("System calls per message", self.everybody(syscalls), &[]);
        let means = several::means(&self.several);
        section(
            "Several workers, CPU per message beside each peer",
            means,
            &[],
        );
        let everybody = several::everybody(&self.several);
        section("Several workers, cell by cell", everybody, &[]);
        section(
            "Short connections, CPU per connection beside each peer",
            short::means(&self.short),
            &[],
        );
        let everybody = short::everybody(&self.short);
        section("Short connections, cell by cell", everybody, &[]);
        let latency = latency_tables::everybody(&self.latencies);
        section("Latency in µs", latency, &["latency.svg"]);
        out
    }

    /// Ringhold beside the best of the others.
    fn summary(&self) -> Table {
        let mut table = Table::new([
            "cell",
            "ringhold ns",
            "best peer ns",
            "which",
            "ringhold / best",
            "ringhold / bare",
            "in the kernel",
            "syscalls",
            "its syscalls",
        ]);
        for result in &self.cells {
            let Some(own) = result.of(RINGHOLD) else {
                continue;
            };
            let best = result.best_peer();
            let from_best = |figure: &dyn Fn(&Measured) -> String| best.map_or("-".into(), figure);
            table.row([
                result.cell.to_string(),
                format!("{:.1}", own.cpu_per_message()),
                from_best(&|best| format!("{:.1}", best.cpu_per_message())),
                from_best(&|best| best.server.clone()),
                or_dash(result.ratio_to_best()),
                or_dash(result.ratio_to_bare()),
                or_dash(in_the_kernel(own)),
                syscalls(own),
                from_best(&syscalls),
            ]);
        }
        table.with_note(SUMMARY_NOTE)
    }

    /// A figure of every server.
    fn everybody(&self, figure: impl Fn(&Measured) -> String) -> Table {
        let mut servers: Vec<&str> = Vec::new();
        for one in self.cells.iter().flat_map(|result| &result.measured) {
            if !servers.contains(&one.server.as_str()) {
                servers.push(&one.server);
            }
        }
        let mut table = Table::new(std::iter::once("cell").chain(servers.iter().copied()));
        for result in &self.cells {
            let figures = servers
                .iter()
                .map(|server| or_dash(result.of(server).map(&figure)));
            table.row(std::iter::once(result.cell.to_string()).chain(figures));
        }
        table
    }
}

/// With the least and most of the samples.
fn in_the_kernel(one: &Measured) -> Option<String> {
    let (least, most) = floor::range(one.kernel.iter().copied())?;
    let [share, least, most] = [one.kernel_share()?, least, most].map(|part| 100.0 * part);
    Some(format!("{share:.0} % ({least:.0} to {most:.0})"))
}

/// With a star where the kernel had threads that work for the ring.
pub(crate) fn syscalls(one: &Measured) -> String {
    let star = if one.ring_workers { "*" } else { "" };
    or_dash(one.syscalls.map(|calls| format!("{calls:.3}{star}")))
}
