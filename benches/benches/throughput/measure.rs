//! Windows, the servers' in turn.

use std::time::{Duration, Instant};

use ringhold_benches::server::Server;

use crate::accounting::{Counting, CpuClock, Tool, has_ring_workers};
use crate::grid::Cell;
use crate::load::{self, Load};
use crate::results::{CellResult, Measured, Window};

/// How long a server may do nothing that is seen.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    pub(crate) window: Duration,
    pub(crate) rounds: usize,
    /// What counts system calls, in a window of its own.
    pub(crate) counter: Option<Tool>,
}

/// Measures a cell: in each round one window of each server, in an order that changes from round to round.
pub(crate) fn cell(cell: &Cell, servers: &[&Server], effort: Effort) -> CellResult {
    let mut loads: Vec<_> = servers
        .iter()
        .map(|server| (load::of(cell, server), CpuClock::of(server.pid())))
        .collect();
    for (load, clock) in &mut loads {
        window(load.as_mut(), *clock, effort.window / 2);
    }
    let mut windows = vec![Vec::with_capacity(effort.rounds); servers.len()];
    for round in 0..effort.rounds {
        for place in 0..servers.len() {
            let server = (round + place) % servers.len();
            let (load, clock) = &mut loads[server];
            windows[server].push(window(load.as_mut(), *clock, effort.window));
        }
    }
    let measured = servers.iter().zip(loads).zip(windows);
    let measured = measured.map(|((server, (mut load, _)), windows)| Measured {
        server: server.name.clone(),
        windows,
        syscalls: effort
            .counter
            .and_then(|tool| syscalls(load.as_mut(), server, tool, effort.window / 2)),
        ring_workers: has_ring_workers(server.pid()),
    });
    CellResult {
        cell: *cell,
        measured: measured.collect(),
    }
}

/// System calls a message, from rest to rest.
fn syscalls(load: &mut dyn Load, server: &Server, tool: Tool, length: Duration) -> Option<f64> {
    let counting = Counting::start(tool, server.pid());
    load.start();
    let messages = run(load, length) + come_to_rest(load);
    let calls = counting.finish()?;
    Some(calls as f64 / messages as f64)
}

/// Keeps load on a server, and says how fast it is.
pub(crate) fn hold(cell: &Cell, server: &Server, length: Duration) {
    let mut load = load::of(cell, server);
    let begin = Instant::now();
    while begin.elapsed() < length {
        let window = window(
            load.as_mut(),
            CpuClock::of(server.pid()),
            Duration::from_secs(1),
        );
        println!(
            "{:.1} ns CPU/message, {:.0} messages/s",
            window.cpu_per_message(),
            window.rate()
        );
    }
}

/// Runs a load, and measures when it has run for a moment.
fn window(load: &mut dyn Load, clock: CpuClock, length: Duration) -> Window {
    load.start();
    run(load, length / 10);
    if load.counts_sent() {
        come_to_rest(load);
        load.start();
    }
    let (begin, cpu) = (Instant::now(), clock.now());
    let mut messages = run(load, length);
    if load.counts_sent() {
        messages += come_to_rest(load);
    }
    let window = Window {
        messages,
        cpu: clock.now() - cpu,
        wall: begin.elapsed(),
    };
    if !load.counts_sent() {
        come_to_rest(load);
    }
    window
}

/// Runs a load for so long: how many messages were done.
fn run(load: &mut dyn Load, length: Duration) -> u64 {
    let begin = Instant::now();
    let mut messages = 0;
    // A message that takes longer than the window is waited for.
    while begin.elapsed() < length || messages == 0 {
        messages += load.turn();
        assert!(begin.elapsed() < length + PATIENCE, "the server hangs");
    }
    messages
}

/// Stops a load and lets the server do what it has: how many messages were done.
fn come_to_rest(load: &mut dyn Load) -> u64 {
    let begin = Instant::now();
    load.stop();
    let mut messages = 0;
    while !load.is_at_rest() {
        messages += load.turn();
        assert!(begin.elapsed() < PATIENCE, "the server hangs");
    }
    messages
}
