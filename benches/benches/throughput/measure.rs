//! Windows, the servers' in turn.

use std::time::{Duration, Instant};

use ringhold_benches::server::Server;

use crate::accounting::CpuClock;
use crate::grid::Cell;
use crate::load::{self, Load};

/// How long a server may do nothing that is seen.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    pub(crate) window: Duration,
    pub(crate) rounds: usize,
}

/// What was done in one window, and what it took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) messages: u64,
    pub(crate) cpu: Duration,
    pub(crate) wall: Duration,
}

impl Window {
    /// Nanoseconds.
    pub(crate) fn cpu_per_message(&self) -> f64 {
        self.cpu.as_nanos() as f64 / self.messages as f64
    }

    /// Messages a second.
    pub(crate) fn rate(&self) -> f64 {
        self.messages as f64 / self.wall.as_secs_f64()
    }

    /// How much of its CPU the server used, 1 being all of it.
    pub(crate) fn busy(&self) -> f64 {
        self.cpu.as_secs_f64() / self.wall.as_secs_f64()
    }
}

/// A server's windows in a cell.
pub(crate) struct Measured {
    pub(crate) server: String,
    /// One a round.
    pub(crate) windows: Vec<Window>,
}

/// Measures a cell: in each round one window of each server, in an order that changes from round to round.
pub(crate) fn cell(cell: &Cell, servers: &[&Server], effort: Effort) -> Vec<Measured> {
    let mut loads: Vec<_> = servers
        .iter()
        .map(|server| (load::of(cell, server), CpuClock::of(server.pid())))
        .collect();
    let mut measured: Vec<_> = servers
        .iter()
        .map(|server| Measured {
            server: server.name.clone(),
            windows: Vec::with_capacity(effort.rounds),
        })
        .collect();
    for (load, clock) in &mut loads {
        window(load.as_mut(), *clock, effort.window / 2);
    }
    for round in 0..effort.rounds {
        for place in 0..servers.len() {
            let server = (round + place) % servers.len();
            let (load, clock) = &mut loads[server];
            let window = window(load.as_mut(), *clock, effort.window);
            measured[server].windows.push(window);
        }
    }
    measured
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
