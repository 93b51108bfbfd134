//! A worker: one thread with its services, its connections and its engine.

use std::sync::Arc;

use crate::config::Config;
use crate::crew::Crew;
use crate::desk::Desk;
use crate::engine::{Acceptor, EngineKind, Served, portable, ring};
use crate::host::Host;
use crate::mailbox::Mailbox;
use crate::metrics::Metrics;
use crate::shard::Shard;

/// Where a service value will live; what the function given to [`Server::service`](crate::Server::service) is called
/// with, on the worker's own thread.
pub struct Worker {
    pub(crate) index: usize,
    pub(crate) count: usize,
    pub(crate) metrics: Arc<Metrics>,
}

impl Worker {
    /// Which worker it is, counted from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// How many workers there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The counters of the whole server.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }
}

/// Makes one worker's value of a service.
pub(crate) type Factory = Arc<dyn Fn(&Worker) -> Box<dyn Host> + Send + Sync>;

/// Everything that a worker's thread takes over.
pub(crate) struct Assignment {
    pub(crate) index: usize,
    pub(crate) cpu: Option<usize>,
    pub(crate) config: Arc<Config>,
    pub(crate) engine: EngineKind,
    pub(crate) factories: Vec<Factory>,
    pub(crate) crew: Arc<Crew>,
    pub(crate) mailbox: Mailbox,
    pub(crate) acceptors: Vec<Acceptor>,
}

/// Serves until the worker has been told to stop and has nothing left to do. `ready` is called when its engine is set
/// up, or with the reason why it cannot be. Nobody is accepted before [`Mail::Resume`](crate::mailbox::Mail::Resume).
pub(crate) fn run(assignment: Assignment, ready: impl FnOnce(Result<(), String>)) -> Served {
    if let Some(cpu) = assignment.cpu
        && let Err(error) = crate::cpus::pin(cpu)
    {
        tracing::warn!(
            worker = assignment.index,
            "cannot pin the worker to CPU {cpu}: {error}"
        );
    }
    assignment.mailbox.adopt();
    let worker = Worker {
        index: assignment.index,
        count: assignment.crew.posts.len(),
        metrics: assignment.crew.metrics.clone(),
    };
    let hosts = assignment
        .factories
        .iter()
        .map(|make| make(&worker))
        .collect();
    let desk = Desk::new(
        assignment.crew,
        assignment.index,
        assignment.config.limits.clone(),
    );
    let drain = assignment.config.handover.drain;
    match assignment.engine {
        EngineKind::Ring => ring::run(
            &assignment.config.ring,
            assignment.config.spin,
            Shard::new(desk, hosts, drain),
            assignment.acceptors,
            assignment.mailbox,
            |made| ready(made.map_err(|unavailable| unavailable.to_string())),
        ),
        EngineKind::Portable => portable::run(
            &assignment.config.ring,
            assignment.config.spin,
            Shard::new(desk, hosts, drain),
            assignment.acceptors,
            assignment.mailbox,
            |made| ready(made.map_err(|unavailable| unavailable.to_string())),
        ),
    }
}
