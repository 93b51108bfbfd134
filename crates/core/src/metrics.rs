//! Counters per worker and per socket name, and what services count themselves.
//!
//! Each counter of the server has one writer, its worker, and is read by anybody: writing costs a load and a store, no atomic
//! read-modify-write.

mod own;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Instant;

use serde::Serialize;

pub(crate) use self::own::Key;
pub use self::own::{OwnKind, OwnMetric, OwnValue};

use self::own::Own;
use crate::calling::Calling;
use crate::memory::Memory;
use crate::tickets::Tally;

/// A number that one thread changes and any thread reads.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(n),
            Ordering::Relaxed,
        );
    }

    pub(crate) fn subtract(&self, n: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_sub(n),
            Ordering::Relaxed,
        );
    }

    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($(#[$doc:meta])* $live:ident, $plain:ident { $($(#[doc = $field_doc:literal])* $field:ident,)* }) => {
        #[derive(Default)]
        #[repr(align(64))]
        pub(crate) struct $live { $(pub(crate) $field: Counter,)* }

        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        #[non_exhaustive]
        pub struct $plain { $($(#[doc = $field_doc])* pub $field: u64,)* }

        impl $live {
            fn snapshot(&self) -> $plain {
                $plain { $($field: self.$field.value(),)* }
            }
        }

        impl $plain {
            /// The name of each counter, and what it counts.
            pub const DESCRIPTIONS: &'static [(&'static str, &'static str)] =
                &[$((stringify!($field), concat!($($field_doc),*).trim_ascii()),)*];

            /// Adds every counter of `other`.
            pub fn add(&mut self, other: &Self) {
                $(self.$field = self.$field.wrapping_add(other.$field);)*
            }
        }
    };
}

counters! {
    /// What one worker has done for one socket name.
    NameCounters, NameTotals {
        /// Connections accepted by this worker, whoever serves them.
        accepted,
        /// Connections accepted and closed at once because the name is disabled.
        turned_away,
        /// Connections closed at once because their client had as many as `connections_per_client` allows.
        crowded,
        /// Times that accepting paused because somebody had connected and every worker that could serve the connection held as many
        /// as it may. It waits in the backlog until there is room.
        accept_pauses,
        /// Connections that this worker has begun to serve.
        opened,
        /// Connections that this worker serves now.
        open,
        /// Frames given to the service.
        frames_in,
        /// Bytes received.
        bytes_in,
        /// Bytes that the kernel has taken for peers.
        bytes_out,
        /// Connections ended because of what the peer sent.
        bad_input,
        /// Connections that the service refused when they were made, or when they were taken over from a predecessor.
        refused,
        /// Connections that the service ended, or gave up a promised reply of.
        ended_by_service,
        /// Connections ended by a time limit.
        timed_out,
        /// Connections cut because they held too much or were pushed too much.
        cut,
        /// Connections ended by an error of the socket, such as a reset.
        failed,
        /// Panics of the service.
        panics,
        /// Calls of the service that took 100 ms or longer; all frames of a received buffer are one.
        slow,
        /// Deferred replies that were abandoned.
        abandoned,
        /// Connections given to a successor.
        handed_over,
        /// Connections that were not, because the service did not save their session.
        unsaved,
        /// Connections taken over from a predecessor.
        restored,
        /// Those of them that the service could not go on with.
        unrestored,
        /// Times that dispatch was paused because the peer did not read its replies, or too many were owed.
        pauses,
    }
}

counters! {
    /// What one worker's engine has done.
    EngineCounters, EngineTotals {
        /// Turns of the worker's loop.
        turns,
        /// Calls into the kernel to submit or wait.
        enters,
        /// Completions handled.
        completions,
        /// Calls after which the completion queue had overflowed: nothing is lost, but `ring.entries` is too small.
        overflows,
        /// Receives that found no buffer and waited for one; none with the portable engine.
        starved,
        /// Times that accepting stopped because descriptors or memory ran out.
        accept_backoffs,
        /// Receive buffers that are lent to services now.
        leased,
        /// Receives of connections with much to say, one piece after the other through one warm buffer.
        pieces,
        /// Receives that did not wait, of connections on a busy worker.
        looks,
        /// Those of `looks` that found nothing.
        looks_in_vain,
    }
}

/// The counters of a whole server.
pub struct Metrics {
    pub(crate) started: Instant,
    memory: Arc<Memory>,
    /// Deferred replies that are owed, and that a stop waits for.
    pub(crate) open_tickets: Tally,
    /// Those that it does not wait for.
    pub(crate) repeatable: Tally,
    names: Vec<Arc<str>>,
    workers: Vec<Arc<WorkerMetrics>>,
    /// What services count.
    pub(crate) own: Own,
}

pub(crate) struct WorkerMetrics {
    pub(crate) names: Vec<NameCounters>,
    pub(crate) engine: EngineCounters,
    pub(crate) calling: Calling,
}

impl Metrics {
    pub(crate) fn new(names: Vec<Arc<str>>, workers: usize, memory: Arc<Memory>) -> Self {
        let [open_tickets, repeatable] = [(); 2].map(|()| Tally::new(workers));
        let workers = (0..workers)
            .map(|_| WorkerMetrics {
                names: names.iter().map(|_| NameCounters::default()).collect(),
                engine: EngineCounters::default(),
                calling: Calling::default(),
            })
            .map(Arc::new)
            .collect();
        Metrics {
            started: Instant::now(),
            memory,
            open_tickets,
            repeatable,
            names,
            workers,
            own: Own::default(),
        }
    }

    pub(crate) fn worker(&self, index: usize) -> Arc<WorkerMetrics> {
        self.workers[index].clone()
    }

    /// How many turns each worker has taken.
    pub(crate) fn turns(&self) -> impl Iterator<Item = u64> {
        let workers = self.workers.iter();
        workers.map(|worker| worker.engine.turns.value())
    }

    /// All counters as they are now. Counters of different workers are not read at the same instant.
    pub fn snapshot(&self) -> Snapshot {
        let workers = self
            .workers
            .iter()
            .map(|worker| WorkerSnapshot {
                engine: worker.engine.snapshot(),
                names: self
                    .names
                    .iter()
                    .zip(&worker.names)
                    .map(|(name, counters)| (name.to_string(), counters.snapshot()))
                    .collect(),
            })
            .collect();
        // What services have made of the connections that were counted is seen by whoever looks from here on.
        fence(Ordering::Acquire);
        Snapshot {
            uptime_seconds: self.started.elapsed().as_secs_f64(),
            memory_bytes: self.memory.total(),
            owed: (self.open_tickets.count() + self.repeatable.count()) as u64,
            workers,
            own: self.own.snapshot(),
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (names, workers) = (&self.names, self.workers.len());
        write!(f, "Metrics({names:?}, {workers} workers)")
    }
}

/// All counters at one time.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Snapshot {
    /// Seconds since the server started. A reload starts it anew, and with it all counters.
    pub uptime_seconds: f64,
    /// Bytes that connections make the process hold at the moment, of those that `limits.memory` bounds.
    pub memory_bytes: u64,
    /// Deferred replies that are owed at the moment.
    pub owed: u64,
    /// By worker.
    pub workers: Vec<WorkerSnapshot>,
    /// What services count themselves, by name.
    pub own: Vec<OwnMetric>,
}

/// One worker's counters at one time.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct WorkerSnapshot {
    /// The engine's.
    pub engine: EngineTotals,
    /// By socket name, in the order of the configuration.
    pub names: Vec<(String, NameTotals)>,
}

impl Snapshot {
    /// The counters of all names and workers added up.
    pub fn total(&self) -> NameTotals {
        let mut total = NameTotals::default();
        for worker in &self.workers {
            for (_, counters) in &worker.names {
                total.add(counters);
            }
        }
        total
    }

    /// The counters of one socket name over all workers; `None` if there is no such name.
    pub fn name(&self, name: &str) -> Option<NameTotals> {
        let mut found = None;
        for worker in &self.workers {
            for (_, counters) in worker.names.iter().filter(|(n, _)| n == name) {
                found.get_or_insert_with(NameTotals::default).add(counters);
            }
        }
        found
    }
}
