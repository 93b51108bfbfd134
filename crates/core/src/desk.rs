//! What every connection of a worker works with.

use std::sync::Arc;
use std::time::Duration;

use ringhold_framer::Framer;

use crate::limits::Limits;
use crate::memory::Meter;
use crate::metrics::{Metrics, NameCounters, WorkerMetrics};
use crate::peer::Handles;
use crate::pool::Pools;
use crate::tickets::Tally;
use crate::warnings::Warnings;

/// The tools of one worker, shared by all its connections one after the other.
pub(crate) struct Desk {
    pub(crate) worker: u16,
    pub(crate) limits: Arc<Limits>,
    pub(crate) names: Arc<[Name]>,
    /// Fresh between calls: the state of a partial frame is parked with its connection.
    pub(crate) framer: Framer,
    pub(crate) pools: Pools,
    pub(crate) meter: Meter,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) handles: Handles,
    pub(crate) open_tickets: Tally,
    /// Bounds the warnings about connections.
    pub(crate) warnings: Warnings,
    /// How many tickets this worker has opened, modulo 2^32.
    pub(crate) rounds: u32,
    /// Milliseconds on the worker's clock at the beginning of this turn.
    pub(crate) now: u64,
}

/// One socket name, as the workers know it; its number is its index.
#[derive(Clone)]
pub(crate) struct Name {
    pub(crate) name: Arc<str>,
    /// Who answers it; `None` for a disabled name.
    pub(crate) service: Option<NamedService>,
    /// How long its connections may say nothing; zero is for ever.
    pub(crate) idle_timeout: Duration,
}

/// One of the services that each worker has.
#[derive(Clone)]
pub(crate) struct NamedService {
    pub(crate) name: Arc<str>,
    /// Which of the worker's it is.
    pub(crate) index: usize,
}

impl Name {
    /// Whether a connection of this name goes on that `service` answered in the predecessor, which says `None` if it is of a version
    /// that did not note it.
    pub(crate) fn goes_on_with(&self, service: Option<&str>) -> bool {
        let now = self.service.as_ref();
        now.is_some_and(|now| service.is_none_or(|service| *service == *now.name))
    }
}

impl Desk {
    /// A number for a new ticket that none of this worker's had in a long time.
    pub(crate) fn next_round(&mut self) -> u32 {
        self.rounds = self.rounds.wrapping_add(1);
        self.rounds
    }

    pub(crate) fn counters(&self) -> &WorkerMetrics {
        self.metrics.worker(self.worker as usize)
    }

    pub(crate) fn name_counters(&self, name: u16) -> &NameCounters {
        &self.counters().names[name as usize]
    }
}
