//! What stands behind `--` on the command line.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use ringhold_benches::server::{PEERS, Program, RINGHOLD};
use ringhold_benches::ticks;

use crate::accounting::{Profile, Tool};
use crate::congestion;
use crate::grid::{self, Cell};
use crate::latency::{self, LatencyCell, Manner};
use crate::measure::Effort;

/// Why there is no count of system calls.
const UNCOUNTED: &str = "system calls are not counted: perf may not count them here (kernel.perf_event_paranoid), \
    and strace may not attach to the servers (kernel.yama.ptrace_scope), or is not there";

#[derive(Parser, Debug)]
#[command(name = "throughput", about = "Ringhold beside its peers")]
pub(crate) struct Options {
    /// Only the cells whose names contain this, such as echo/tcp or 64x16/200B
    pub(crate) filter: Option<String>,
    /// 14 cells beside those of latency, and less of each: three minutes
    #[arg(long)]
    pub(crate) quick: bool,
    /// These servers only: ringhold, tokio, tokio-uring, monoio, compio, bare; NAME=PROGRAM is one of your own, with arguments if need be
    #[arg(long, value_delimiter = ',')]
    pub(crate) servers: Vec<Wanted>,
    /// Windows of each server in a cell; verdicts take eleven
    #[arg(long)]
    pub(crate) rounds: Option<usize>,
    /// Length of a window in milliseconds, rounded to a multiple of 20
    #[arg(long)]
    pub(crate) window: Option<u64>,
    /// Write the report to docs/benchmarks, too
    #[arg(long)]
    pub(crate) save: bool,
    /// Keep criterion's baseline under this name
    #[arg(long)]
    pub(crate) save_baseline: Option<String>,
    /// Compare with the baseline of this name, and leave it as it is
    #[arg(long)]
    pub(crate) baseline: Option<String>,
    /// Keep load on the first of the servers in the first of the cells for so many seconds, and say its process number
    #[arg(long, value_name = "SECONDS")]
    pub(crate) hold: Option<u64>,
    /// Let what else runs on the machine have its part of the CPUs, which disturbs
    #[arg(long)]
    pub(crate) share: bool,
    /// The congestion control of TCP connections, which is cubic unless only reno is allowed
    #[arg(long, value_name = "NAME")]
    congestion: Option<String>,
    /// Do not count system calls, nor look how much of ringhold's time is the kernel's
    #[arg(long)]
    pub(crate) no_syscalls: bool,
    /// What cargo bench says, and cargo test does not
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
}

/// A server that is to be measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Known(String),
    Program(Program),
}

impl Wanted {
    pub(crate) fn name(&self) -> &str {
        match self {
            Wanted::Known(name) => name,
            Wanted::Program(program) => &program.name,
        }
    }
}

impl std::str::FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((name, command)) = text.split_once('=') {
            let mut words = command.split_whitespace();
            return Ok(Wanted::Program(Program {
                name: name.into(),
                path: found(Path::new(words.next().unwrap_or_default())),
                arguments: words.map(Into::into).collect(),
            }));
        }
        if text == RINGHOLD || PEERS.contains(&text) {
            return Ok(Wanted::Known(text.into()));
        }
        let known = PEERS.join(", ");
        Err(format!(
            "known servers are {RINGHOLD}, {known}; others are NAME=PROGRAM"
        ))
    }
}

/// Cargo starts benches in the directory of their package, which is not where their user is.
fn found(path: &Path) -> PathBuf {
    let from_workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    if path.exists() {
        path.into()
    } else {
        from_workspace
    }
}

impl Options {
    fn wants(&self, cell: &impl ToString) -> bool {
        let filter = self.filter.as_deref().unwrap_or("");
        cell.to_string().contains(filter)
    }

    pub(crate) fn cells(&self) -> Vec<Cell> {
        let mut cells = if self.quick {
            grid::quick()
        } else {
            grid::full()
        };
        cells.retain(|cell| self.wants(cell));
        cells
    }

    pub(crate) fn latency_cells(&self) -> Vec<LatencyCell> {
        let mut cells = latency::cells();
        cells.retain(|cell| self.wants(cell));
        cells
    }

    pub(crate) fn congestion(&self) -> &str {
        match &self.congestion {
            Some(name) => name,
            None => congestion::usual(),
        }
    }

    /// All of them, unless some are named.
    pub(crate) fn servers(&self) -> Vec<Wanted> {
        if !self.servers.is_empty() {
            return self.servers.clone();
        }
        let all = std::iter::once(RINGHOLD).chain(PEERS);
        all.map(|name| Wanted::Known(name.into())).collect()
    }

    pub(crate) fn effort(&self) -> Effort {
        let (window, rounds) = if self.quick { (60, 11) } else { (120, 15) };
        let window = Duration::from_millis(self.window.unwrap_or(window));
        let counter = if self.no_syscalls { None } else { Tool::find() };
        if counter.is_none() && !self.no_syscalls {
            println!("{UNCOUNTED}");
        }
        Effort {
            window: ticks::whole(window),
            rounds: self.rounds.unwrap_or(rounds).max(1),
            counter,
            profiles: !self.no_syscalls && Profile::is_possible(),
        }
    }

    /// High percentiles take many requests, but a window in which the machine stalls tells nothing about them. So there are
    /// many short ones.
    pub(crate) fn latency_effort(&self, effort: Effort, manner: Manner) -> Effort {
        let rounds = self
            .rounds
            .map_or(effort.rounds.min(10), |rounds| rounds.max(1));
        let (window, rounds) = match manner {
            Manner::Paced => (ticks::whole(effort.window / 3), rounds * 6),
            Manner::RoundTrips => (effort.window, rounds),
        };
        Effort {
            window,
            rounds,
            counter: None,
            profiles: false,
        }
    }
}
