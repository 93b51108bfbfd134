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
mod connection;
mod grid;
mod load;
mod measure;
mod message;
mod options;

use clap::Parser;
use ringhold_benches::server::{BARE, PEERS, Program, RINGHOLD, Server};
use ringhold_core::cpus;

use grid::{Cell, Kind};
use options::{Options, Wanted};

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("nothing to test here; run it with cargo bench");
        return;
    }
    let options = Options::parse();
    ringhold_core::rlimit::raise().unwrap();
    let programs = programs(&options.servers());
    let all = cpus::available().unwrap();
    let (own, servers_cpu) = (all[0], *all.last().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let servers: Vec<Server> = programs
        .iter()
        .map(|program| Server::start(program, dir.path(), servers_cpu).unwrap())
        .collect();
    cpus::pin(own).unwrap();
    for cell in options.cells() {
        let servers: Vec<&Server> = servers
            .iter()
            .filter(|server| takes_part(server, &cell))
            .collect();
        println!("{cell}");
        for measured in measure::cell(&cell, &servers, options.effort()) {
            let mut windows = measured.windows;
            windows.sort_by(|a, b| a.cpu_per_message().total_cmp(&b.cpu_per_message()));
            let middle = windows[windows.len() / 2];
            println!(
                "  {:<12} {:>9.1} ns/message {:>10.0} messages/s {:>4.0} % busy",
                measured.server,
                middle.cpu_per_message(),
                middle.rate(),
                middle.busy() * 100.0
            );
        }
    }
}

/// The programs, those that are known freshly built.
fn programs(wanted: &[Wanted]) -> Vec<Program> {
    let known = |name: &str| wanted.contains(&Wanted::Known(name.into()));
    let mut programs = Vec::new();
    if known(RINGHOLD) {
        programs.push(Program::ringhold().unwrap());
    }
    let peers: Vec<&str> = PEERS.into_iter().filter(|name| known(name)).collect();
    programs.extend(Program::peers(&peers).unwrap());
    programs.extend(wanted.iter().filter_map(|wanted| match wanted {
        Wanted::Known(_) => None,
        Wanted::Program(name, path) => Some(Program {
            name: name.clone(),
            path: path.clone(),
            arguments: Vec::new(),
        }),
    }));
    programs
}

/// What does not parse can only echo.
fn takes_part(server: &Server, cell: &Cell) -> bool {
    server.name != BARE || cell.kind == Kind::Echo
}
