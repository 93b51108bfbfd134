//! What was found in a cell, and how ringhold stands beside the others.

use std::time::Duration;

use ringhold_benches::choice;
use ringhold_benches::server::{BARE, PEERS, RINGHOLD};

use crate::grid::Cell;
use ringhold_benches::statistics::{Spread, median, spread};

/// What was done in one window, and what it took. Of short connections, a message is the whole of one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) messages: u64,
    pub(crate) cpu: Duration,
    pub(crate) wall: Duration,
    /// The busiest thread's part in what the server used, 1 being all of it, where it has several workers.
    pub(crate) busiest: Option<f64>,
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

/// A server in a cell.
pub(crate) struct Measured {
    pub(crate) server: String,
    /// One a round.
    pub(crate) windows: Vec<Window>,
    /// System calls a message, if they could be counted.
    pub(crate) syscalls: Option<f64>,
    /// How much of its time is the kernel's, 1 being all of it, each time that it was sampled.
    pub(crate) kernel: Vec<f64>,
    /// Whether the kernel has threads that work for its ring.
    pub(crate) ring_workers: bool,
    /// How much of its CPU it used while the others were measured, 1 being all of it.
    pub(crate) busy_at_rest: f64,
}

impl Measured {
    fn costs(&self) -> Vec<f64> {
        self.windows.iter().map(Window::cpu_per_message).collect()
    }

    fn median(&self, figure: fn(&Window) -> f64) -> f64 {
        let figures: Vec<f64> = self.windows.iter().map(figure).collect();
        median(&figures)
    }

    /// Nanoseconds.
    pub(crate) fn cpu_per_message(&self) -> f64 {
        self.median(Window::cpu_per_message)
    }

    /// Messages a second.
    pub(crate) fn rate(&self) -> f64 {
        self.median(Window::rate)
    }

    pub(crate) fn busy(&self) -> f64 {
        self.median(Window::busy)
    }

    pub(crate) fn busiest(&self) -> Option<f64> {
        let parts = self.windows.iter().filter_map(|window| window.busiest);
        let parts: Vec<f64> = parts.collect();
        (!parts.is_empty()).then(|| median(&parts))
    }

    /// The kernel's part in the median, if it was sampled.
    pub(crate) fn kernel_share(&self) -> Option<f64> {
        (!self.kernel.is_empty()).then(|| median(&self.kernel))
    }
}

/// All servers in a cell.
pub(crate) struct CellResult {
    pub(crate) cell: Cell,
    pub(crate) measured: Vec<Measured>,
}

impl CellResult {
    pub(crate) fn of(&self, server: &str) -> Option<&Measured> {
        self.measured.iter().find(|one| one.server == server)
    }

    /// The peer that does it for the least CPU, by the rounds that choose.
    pub(crate) fn best_peer(&self) -> Option<&Measured> {
        let peers = self.measured.iter().filter(|one| is_peer(&one.server));
        let peers: Vec<&Measured> = peers.collect();
        let costs: Vec<Vec<f64>> = peers.iter().map(|one| one.costs()).collect();
        Some(peers[choice::least(&costs)?])
    }

    /// Ringhold's CPU a message in each round, divided by that of this server.
    pub(crate) fn ratios(&self, server: &Measured) -> Option<Vec<f64>> {
        Some(ratios(self.of(RINGHOLD)?, server))
    }

    /// One server's CPU a message in each round, divided by another's.
    pub(crate) fn ratios_of(&self, own: &str, other: &str) -> Option<Vec<f64>> {
        Some(ratios(self.of(own)?, self.of(other)?))
    }

    pub(crate) fn ratio(&self, server: &Measured) -> Option<Spread> {
        self.ratios(server).map(|ratios| spread(&ratios))
    }

    /// As [`CellResult::ratios`], beside the best peer, in the rounds that did not choose it.
    pub(crate) fn ratios_to_best(&self) -> Option<Vec<f64>> {
        let ratios = self.ratios(self.best_peer()?)?;
        Some(choice::judging(&ratios).copied().collect())
    }

    pub(crate) fn ratio_to_best(&self) -> Option<Spread> {
        self.ratios_to_best().map(|ratios| spread(&ratios))
    }

    /// What [`CellResult::ratios_to_best`] would be if ringhold's own code took no time, and its system calls were the same.
    pub(crate) fn floors(&self) -> Option<Vec<f64>> {
        let kernel = self.of(RINGHOLD)?.kernel_share()?;
        let ratios = self.ratios_to_best()?;
        Some(ratios.into_iter().map(|ratio| ratio * kernel).collect())
    }

    /// The same of the bare loop, code and all.
    pub(crate) fn bare_to_best(&self) -> Option<Vec<f64>> {
        let ratios = ratios(self.of(BARE)?, self.best_peer()?);
        Some(choice::judging(&ratios).copied().collect())
    }

    pub(crate) fn ratio_to_bare(&self) -> Option<Spread> {
        self.ratio(self.of(BARE)?)
    }
}

/// One server's CPU a message in each round, divided by the other's.
fn ratios(one: &Measured, other: &Measured) -> Vec<f64> {
    let pairs = one.windows.iter().zip(&other.windows);
    pairs
        .map(|(one, other)| one.cpu_per_message() / other.cpu_per_message())
        .collect()
}

/// Whether it does what ringhold does: what only sends back, and programs of one's own, are no peers.
pub(crate) fn is_peer(server: &str) -> bool {
    server != BARE && PEERS.contains(&server)
}
