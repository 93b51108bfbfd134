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
pub(crate) struct Post {
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
pub(crate) fn run(post: Post, ready: impl FnOnce(Result<(), String>)) -> Served {
    if let Some(cpu) = post.cpu
        && let Err(error) = crate::cpus::pin(cpu)
    {
        tracing::warn!(
            worker = post.index,
            "cannot pin the worker to CPU {cpu}: {error}"
        );
    }
    post.mailbox.adopt();
    let worker = Worker {
        index: post.index,
        count: post.crew.posts.len(),
        metrics: post.crew.metrics.clone(),
    };
    let hosts = post.factories.iter().map(|make| make(&worker)).collect();
    let desk = Desk::new(post.crew, post.index, post.config.limits.clone());
    let drain = post.config.handover.drain;
    match post.engine {
        EngineKind::Ring => ring::run(
            &post.config.ring,
            post.config.spin,
            Shard::new(desk, hosts, drain),
            post.acceptors,
            post.mailbox,
            |made| ready(made.map_err(|unavailable| unavailable.to_string())),
        ),
        EngineKind::Portable => portable::run(
            &post.config.ring,
            post.config.spin,
            Shard::new(desk, hosts, drain),
            post.acceptors,
            post.mailbox,
            |made| ready(made.map_err(|unavailable| unavailable.to_string())),
        ),
    }
}
