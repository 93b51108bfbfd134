//! A worker: one thread with its services, its connections and its engine.

use std::cell::Cell;
use std::error::Error;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};

use bytes::Bytes;

use crate::belongings::Belonging;
use crate::config::{Config, nearest};
use crate::crew::Crew;
use crate::desk::Desk;
use crate::engine::{Acceptor, EngineKind, Served, portable, ring};
use crate::handover::bequest::{Claims, Legacy};
use crate::host::{self, Host};
use crate::listeners;
use crate::mailbox::Mailbox;
#[cfg(doc)]
use crate::metrics::Snapshot;
use crate::metrics::{Key, Metrics};
use crate::panics::{self, Caught};
use crate::patience::Patience;
use crate::server::ServerError;
use crate::service::SourceId;
#[cfg(doc)]
use crate::service::{Service, Watch};
use crate::shard::{Shard, Watches};
use crate::slow::Stopwatch;
#[cfg(doc)]
use crate::tick::Tick;

/// The stack of a worker. What decodes nested frames by recursion stops at 1024 levels (rmp-serde, rmpv) and takes up to some KiB for each
/// of them, in a debug build; with the usual 2 MiB a frame could end the process. What is not used of it takes no memory, but counts
/// as promised where the kernel promises no more than it has (vm.overcommit_memory=2).
pub(crate) const STACK_BYTES: usize = 16 << 20;

/// Where a service value will live; what the function given to [`Server::service`](crate::Server::service) or
/// [`Server::try_service`](crate::Server::try_service) is called with, on the worker's own thread.
pub struct Worker {
    pub(crate) index: usize,
    pub(crate) count: usize,
    pub(crate) metrics: Arc<Metrics>,
    /// Which of its services is being made.
    pub(crate) service: Cell<usize>,
    pub(crate) watches: Watches,
    /// By service.
    pub(crate) legacies: Arc<[Legacy]>,
    pub(crate) belongings: Arc<[Belonging]>,
}

impl Worker {
    pub(crate) fn new(
        index: usize,
        count: usize,
        metrics: Arc<Metrics>,
        legacies: Arc<[Legacy]>,
        belongings: Arc<[Belonging]>,
    ) -> Self {
        Worker {
            index,
            count,
            metrics,
            service: Cell::new(0),
            watches: Watches::new(),
            legacies,
            belongings,
        }
    }

    /// Makes its services, up to the first that cannot be made.
    ///
    /// # Errors
    ///
    /// That it cannot be made, or that it panicked, for which the worker is to blame.
    fn make(
        &self,
        factories: &[Factory],
        hosts: &mut Vec<Box<dyn Host>>,
    ) -> Result<(), ServerError> {
        for (service, make) in factories.iter().enumerate() {
            self.service.set(service);
            // Unwind safety: whatever it may have changed goes with the worker.
            let made = panics::catch(|| make(self)).map_err(|panic| self.panicked(&panic))?;
            let host = made.map_err(|error| ServerError::Service {
                service: self.service_name().to_owned(),
                worker: self.index,
                error,
            })?;
            hosts.push(host);
        }
        Ok(())
    }

    /// What its services watch. The rest is let go of now; if this field were moved out of a variable, the others would stay in it.
    fn into_watches(self) -> Watches {
        self.watches
    }

    /// The service that is being made panicked.
    #[cold]
    fn panicked(&self, panic: &Caught) -> ServerError {
        let (worker, service) = (self.index, self.service_name());
        tracing::error!("service {service} panicked when worker {worker} made it: {panic}");
        let said = panic.text();
        let error = format!("service {service} panicked when it was made: {said}");
        ServerError::Worker {
            worker,
            error: io::Error::other(error),
        }
    }

    /// What the service that is being made is called.
    fn service_name(&self) -> &str {
        let legacy = self.legacies.get(self.service.get());
        legacy.map_or("", |legacy| &legacy.service)
    }

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

    /// A number that the service counts up, such as what it has stored, of this name and these labels. It is shown with the server's own
    /// ones, for each service and worker: by `ringhold status`, to Prometheus (as `NAME_total`) and in [`Snapshot::own`]. It may be
    /// added to on any thread. As all counters it begins anew with the process.
    ///
    /// ```
    /// # use std::sync::{Arc, atomic::{AtomicU64, Ordering}};
    /// # use ringhold_core::{Flow, Frame, Peer, Refusal, Reply, Service, Worker};
    /// struct Store {
    ///     stored: Arc<AtomicU64>,
    /// }
    ///
    /// impl Store {
    ///     fn new(worker: &Worker) -> Self {
    ///         Store { stored: worker.counter("readings_stored", "Readings on disk.", &[("disk", "a")]) }
    ///     }
    /// }
    ///
    /// impl Service for Store {
    /// #   type Session = ();
    /// #   fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> { Ok(()) }
    ///     fn frame(&mut self, _: &mut (), _: Frame<'_>, _: &mut Reply<'_>) -> Flow {
    ///         self.stored.fetch_add(1, Ordering::Relaxed);
    ///         Flow::Continue
    ///     }
    /// }
    /// # let mut exchange = ringhold_core::testing::Exchange::with_worker(Store::new, Default::default());
    /// # let client = exchange.connect();
    /// # exchange.receive(client, b"\x01\x02");
    /// # assert_eq!(exchange.snapshot().own[0].values[0].value, 2);
    /// ```
    ///
    /// Whoever asks for the same name and labels again, on the same worker, gets the same number. Names are letters, digits and
    /// underscores, as in Prometheus, and one name is one kind of number with the same labels everywhere; those that begin with
    /// `ringhold_` are the server's. A name that cannot be shown, or is the server's, is an error in
    /// the log, and so is the 65,537th number of a worker: labels are for what there are few of, not for the names of clients.
    pub fn counter(&self, name: &str, help: &str, labels: &[(&str, &str)]) -> Arc<AtomicU64> {
        self.metrics.own.counter(name, help, self.key(labels))
    }

    /// As [`Worker::counter`], a number that goes up and down, such as the length of a queue or a temperature in millikelvins. It is 0
    /// until it is set, after each restart or reload too. One that is always 1, and has the version of the program as a label, tells which version
    /// answers.
    pub fn gauge(&self, name: &str, help: &str, labels: &[(&str, &str)]) -> Arc<AtomicI64> {
        self.metrics.own.gauge(name, help, self.key(labels))
    }

    /// As [`Worker::counter`], of a name that services may not give: for what ringhold-rpc counts. Not for others.
    #[doc(hidden)]
    pub fn server_counter(
        &self,
        name: &str,
        help: &str,
        labels: &[(&str, &str)],
    ) -> Arc<AtomicU64> {
        self.metrics
            .own
            .server_counter(name, help, self.key(labels))
    }

    fn key(&self, labels: &[(&str, &str)]) -> Key {
        Key::new(self.service_name(), self.index, labels)
    }

    /// A duplicate of the descriptor that [`Server::descriptor`](crate::Server::descriptor) holds under this name: another number for the
    /// same file or socket, which the service may read from, [watch](Worker::watch) and close. Each call makes one. In a test
    /// it is one of those given to [`Setup::descriptor`](crate::testing::Setup::descriptor).
    ///
    /// # Panics
    ///
    /// If the server claims no descriptor of this name, or the process may open no more.
    pub fn descriptor(&self, name: &str) -> OwnedFd {
        let Some(belonging) = self.belongings.iter().find(|own| own.name() == name) else {
            let known: Vec<String> = self
                .belongings
                .iter()
                .map(|own| own.name().to_owned())
                .collect();
            let near = nearest(name, known.iter().map(String::as_str));
            let hint = near.map_or_else(String::new, |near| format!(" did you mean {near:?}?"));
            let known = listeners::quoted(&known);
            panic!("the server claims no descriptor {name:?};{hint} it claims {known}");
        };
        let duplicate = belonging.duplicate();
        duplicate.unwrap_or_else(|error| panic!("descriptor {name:?}: {error}"))
    }

    /// Has [`Service::readable`] of the service that is being made called whenever there is something to read from this
    /// descriptor: a datagram socket, a FIFO, a serial line, a timer (timerfd_create(2)), or several in one (epoll(7)). A FIFO is
    /// opened for reading and writing, or it has ended whenever nobody writes. What
    /// cannot be waited for, such as a regular file, is a warning in the log and let go of; so is, each second, what is watched twice on a
    /// worker, until the other one has ended.
    ///
    /// The worker keeps it until it ends, or until the service ends that ([`Watch::End`], [`Tick::unwatch`]); the two share it in an
    /// `Rc` or `Arc`. Each worker makes its own value of the service: who watches the same descriptor on several is called on any of
    /// them, and may find nothing.
    /// What is opened later is watched by [`Tick::watch`]. A read that can block would hold up the worker: set O_NONBLOCK.
    ///
    /// ```
    /// # use std::{io, net::UdpSocket, sync::Arc};
    /// # use ringhold_core::{Flow, Frame, Peer, Refusal, Reply, Service, SourceId, Tick, Watch, Worker};
    /// struct Samples {
    ///     /// It does not block.
    ///     socket: Arc<UdpSocket>,
    ///     latest: Vec<u8>,
    /// }
    ///
    /// impl Samples {
    ///     fn new(worker: &Worker, socket: Arc<UdpSocket>) -> Self {
    ///         worker.watch(socket.clone());
    ///         Samples { socket, latest: Vec::new() }
    ///     }
    /// }
    ///
    /// impl Service for Samples {
    /// #   type Session = ();
    /// #   fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> { Ok(()) }
    ///     fn frame(&mut self, _: &mut (), _: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
    ///         reply.write(|out| out.extend_from_slice(&self.latest));
    ///         Flow::Continue
    ///     }
    ///
    ///     fn readable(&mut self, _: SourceId, _: &Tick<'_>) -> io::Result<Watch> {
    ///         let mut datagram = [0; 1500];
    ///         // As many as others can wait for; if there are more, the next call comes soon.
    ///         for _ in 0..64 {
    ///             match self.socket.recv(&mut datagram) {
    ///                 Ok(length) => self.latest = datagram[..length].to_vec(),
    ///                 Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
    ///                 Err(error) => return Err(error),
    ///             }
    ///         }
    ///         Ok(Watch::Continue)
    ///     }
    /// }
    /// ```
    pub fn watch(&self, descriptor: impl AsFd + 'static) -> SourceId {
        self.watches.add(self.service.get(), descriptor)
    }

    /// What the values of the service that is being made left in the predecessor ([`Service::hand_over`]), in the order of its workers.
    /// Empty at a first start, and after a crash.
    ///
    /// Each worker of this process is given the same, and there may be more or fewer of them than there were, so they have to share it
    /// out: what has keys goes to worker `hash(key) % count`, say, and what is summed up, to worker 0. It may come from another version of
    /// the program, an older one too.
    ///
    /// A service that never asks is taken for one that leaves nothing either. Services are told apart by the names that
    /// [`Server::service`](crate::Server::service) gives them.
    ///
    /// If the start fails, for whatever reason, the next one finds the same. If a service panics here, that is tried three times in all;
    /// then the program starts without what was left, connections included. What need not be because of what was left is
    /// an error of [`Server::try_service`](crate::Server::try_service).
    pub fn taken_over(&self) -> &[Bytes] {
        let legacy = self.legacies.get(self.service.get());
        legacy.map_or(&[], Legacy::look)
    }

    /// Which of the names under which the service that is being made leaves something are asked for, on all workers: for one that
    /// leaves several things in its one value, as MessagePack-RPC does. Such a service leaves nothing under a name that no worker
    /// has asked for, as one that never asks for [`Worker::taken_over`] leaves nothing at all.
    pub fn claims(&self) -> Claims {
        let legacy = self.legacies.get(self.service.get());
        legacy.map_or_else(Claims::default, |legacy| legacy.claims.clone())
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Worker({} of {})", self.index, self.count)
    }
}

/// Makes one worker's value of a service, or says why that cannot be had.
pub(crate) type Factory =
    Arc<dyn Fn(&Worker) -> Result<Box<dyn Host>, Box<dyn Error + Send + Sync>> + Send + Sync>;

/// Everything that a worker's thread takes over.
pub(crate) struct Assignment {
    pub(crate) index: usize,
    pub(crate) cpu: Option<usize>,
    pub(crate) config: Arc<Config>,
    pub(crate) engine: EngineKind,
    pub(crate) factories: Vec<Factory>,
    pub(crate) legacies: Arc<[Legacy]>,
    pub(crate) belongings: Arc<[Belonging]>,
    pub(crate) crew: Arc<Crew>,
    pub(crate) mailbox: Mailbox,
    /// First its own, then those of others in whose place it may be called to accept.
    pub(crate) acceptors: Vec<Acceptor>,
    /// How long it tries to get its ring.
    pub(crate) patience: Patience,
}

/// Serves until the worker has been told to stop and has nothing left to do. `ready` is called when its services are made and its
/// engine is set up, or with the reason why they cannot be. Nobody is accepted before
/// [`Mail::Resume`](crate::mailbox::Mail::Resume).
pub(crate) fn run(assignment: Assignment, ready: impl FnOnce(Result<(), ServerError>)) -> Served {
    if let Some(cpu) = assignment.cpu
        && let Err(error) = crate::cpus::pin(cpu)
    {
        tracing::warn!(
            worker = assignment.index,
            "cannot pin the worker to CPU {cpu}: {error}"
        );
    }
    assignment.mailbox.adopt();
    let worker = Worker::new(
        assignment.index,
        assignment.crew.posts.len(),
        assignment.crew.metrics.clone(),
        assignment.legacies,
        assignment.belongings,
    );
    let mut hosts = Vec::new();
    if let Err(failed) = worker.make(&assignment.factories, &mut hosts) {
        ready(Err(failed));
        host::drop_all(hosts);
        return Served::nothing(Ok(()));
    }
    // What the predecessor left goes with the last worker that has made its services.
    let watches = worker.into_watches();
    let mut desk = Desk::new(
        assignment.crew,
        assignment.index,
        assignment.config.limits.clone(),
    );
    desk.stopwatch = Stopwatch::bounding();
    let drain = assignment.config.handover.drain;
    match assignment.engine {
        EngineKind::Ring => ring::run(
            &assignment.config.ring,
            assignment.config.spin,
            Shard::new(desk, hosts, watches, drain),
            assignment.acceptors,
            assignment.mailbox,
            &assignment.patience,
            |made| ready(made.map_err(|why| ServerError::Engine(why.to_string()))),
        ),
        EngineKind::Portable => portable::run(
            &assignment.config.ring,
            assignment.config.spin,
            Shard::new(desk, hosts, watches, drain),
            assignment.acceptors,
            assignment.mailbox,
            &assignment.patience,
            |made| ready(made.map_err(|why| ServerError::Engine(why.to_string()))),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handover::bequest;
    use crate::memory::Memory;

    #[test]
    fn one_worker_claims_for_all_but_not_for_another_service() {
        let legacies = bequest::by_service(["one", "other"].into_iter(), Vec::new());
        let metrics = Arc::new(Metrics::new(Vec::new(), 2, Memory::new(u64::MAX, 2)));
        let workers =
            [0, 1].map(|it| Worker::new(it, 2, metrics.clone(), legacies.clone(), [].into()));
        let claims = workers[0].claims();
        for name in ["early", "late"] {
            claims.note_left(name);
            claims.claim(name);
        }
        workers[1].claims().note_left("late");
        claims.note_left("never");
        let claimed = |worker: &Worker, service| {
            worker.service.set(service);
            let claims = worker.claims();
            ["early", "late", "never"].map(|name| claims.is_claimed(name))
        };
        for worker in &workers {
            assert_eq!(claimed(worker, 0), [true, true, false]);
            assert_eq!(claimed(worker, 1), [false; 3]);
        }
    }
}
