//! What stands behind `--` on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use ringhold_benches::server::{PEERS, RINGHOLD};

use crate::grid::{self, Cell};
use crate::measure::Effort;

#[derive(Parser, Debug)]
#[command(name = "throughput", about = "Ringhold beside its peers")]
pub(crate) struct Options {
    /// Only the cells whose names contain this, such as echo/tcp or 64x16/200B
    pub(crate) filter: Option<String>,
    /// A dozen cells, and less of each: three minutes
    #[arg(long)]
    pub(crate) quick: bool,
    /// These servers only: ringhold, tokio, tokio-uring, monoio, compio, bare; NAME=PATH is a program of one's own
    #[arg(long, value_delimiter = ',')]
    pub(crate) servers: Vec<Wanted>,
    /// Windows of each server in a cell
    #[arg(long)]
    pub(crate) rounds: Option<usize>,
    /// Length of a window in milliseconds
    #[arg(long)]
    pub(crate) window: Option<u64>,
    /// What cargo bench says, and cargo test does not
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
}

/// A server that is to be measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Known(String),
    Program(String, PathBuf),
}

impl std::str::FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((name, path)) = text.split_once('=') {
            return Ok(Wanted::Program(name.into(), path.into()));
        }
        if text == RINGHOLD || PEERS.contains(&text) {
            return Ok(Wanted::Known(text.into()));
        }
        let known = PEERS.join(", ");
        Err(format!(
            "known servers are {RINGHOLD}, {known}; others are NAME=PATH"
        ))
    }
}

impl Options {
    pub(crate) fn cells(&self) -> Vec<Cell> {
        let all = if self.quick {
            grid::quick()
        } else {
            grid::full()
        };
        let filter = self.filter.as_deref().unwrap_or("");
        let wanted = all
            .into_iter()
            .filter(|cell| cell.to_string().contains(filter));
        wanted.collect()
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
        let (window, rounds) = if self.quick { (60, 10) } else { (120, 15) };
        Effort {
            window: Duration::from_millis(self.window.unwrap_or(window)),
            rounds: self.rounds.unwrap_or(rounds).max(1),
        }
    }
}
