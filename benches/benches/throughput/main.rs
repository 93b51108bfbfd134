//! How much does a message cost? Ringhold beside servers that do the same on other runtimes, each in a process of its own
//! on one CPU, with the load generator on another.
//!
//! `cargo bench -p ringhold-benches --bench throughput`
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    reason = "a bench that cannot go on should say where"
)]

mod accounting;
mod baseline;
mod congestion;
mod connection;
mod floor;
mod grid;
mod latency;
mod latency_tables;
mod load;
mod machine;
mod means;
mod measure;
mod message;
mod options;
mod plot;
mod plots;
mod precedence;
mod report;
mod results;
mod several;
mod short;
mod stage;
mod summary;
mod table;
mod targets;

use std::path::Path;
use std::time::Duration;

use clap::Parser;

use grid::{Cell, Kind};
use machine::Machine;
use measure::Effort;
use options::Options;
use report::Report;
use stage::Stage;

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("nothing to test here; run it with cargo bench");
        return;
    }
    let options = Options::parse();
    precedence::new_session();
    let (cells, latency_cells) = (options.cells(), options.latency_cells());
    if cells.is_empty() && latency_cells.is_empty() {
        return println!("there is no cell with such a name");
    }
    ringhold_core::rlimit::raise().unwrap();
    let congestion = options.congestion();
    let several = cells.iter().any(|cell| cell.workers > 1);
    let spinning = !latency_cells.is_empty();
    let stage = Stage::set(&options.servers(), spinning, several, congestion);
    if !options.share {
        precedence::take();
    }
    if let Some(seconds) = options.hold {
        return hold(&stage, &cells, Duration::from_secs(seconds));
    }
    let effort = options.effort();
    let mut report = Report {
        machine: Machine::look(effort, stage.cpus, congestion),
        cells: Vec::new(),
        several: Vec::new(),
        short: Vec::new(),
        latencies: Vec::new(),
    };
    // What TCP remembers of short connections is forgotten in large portions, which would be stalls in the cells of latency.
    let (last, first): (Vec<Cell>, Vec<Cell>) =
        cells.iter().partition(|cell| cell.kind == Kind::Connect);
    for cell in &first {
        measure_cell(cell, &stage, effort, &mut report);
    }
    for cell in &latency_cells {
        let servers = stage.servers_for_latency();
        let result = latency::measure(cell, &servers, options.latency_effort(effort, cell.manner));
        latency::print(&result);
        report.latencies.push(result);
    }
    for cell in &last {
        measure_cell(cell, &stage, effort, &mut report);
    }
    let (save, compare) = (&options.save_baseline, &options.baseline);
    let all = report.cells.iter().chain(&report.several);
    let all = all.chain(&report.short);
    baseline::record(all, save.as_deref(), compare.as_deref());
    report.print();
    write(&report, options.save);
}

fn measure_cell(cell: &Cell, stage: &Stage, effort: Effort, report: &mut Report) {
    let result = measure::cell(cell, &stage.servers_for(cell), effort);
    summary::print_cell(&result);
    let results = match (cell.kind, cell.workers) {
        (Kind::Connect, _) => &mut report.short,
        (_, 1) => &mut report.cells,
        _ => &mut report.several,
    };
    results.push(result);
}

/// Writes the report below the build directory, and to the documentation if that is asked for.
fn write(report: &Report, save: bool) {
    let own = std::env::current_exe().unwrap();
    // This program is target/release/deps/NAME.
    let mut dirs = vec![own.ancestors().nth(3).unwrap().join("bench-report")];
    if save {
        dirs.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks"));
    }
    for dir in dirs {
        report.write(&dir).unwrap();
        let dir = dir.canonicalize().unwrap();
        println!("\nthe report is {}", dir.join("report.md").display());
    }
}

/// Keeps load on the first server in the first cell, for a profiler beside.
fn hold(stage: &Stage, cells: &[Cell], length: Duration) {
    let Some(cell) = cells.first() else {
        return println!("there is no such cell");
    };
    let server = stage.servers_for(cell)[0];
    println!(
        "{cell}: {} has the process number {}",
        server.name,
        server.pid()
    );
    measure::hold(cell, server, length);
}
