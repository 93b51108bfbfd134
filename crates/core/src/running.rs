//! A server that runs: its workers' threads, from the start to the end.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, eventfd};

use crate::belongings::Belonging;
use crate::config::Config;
use crate::crew::{Crew, Name, NamedService};
use crate::engine::{Acceptor, EngineKind, Served};
use crate::handover::bequest::{Bequest, Legacy};
use crate::handover::parcel::Parcel;
use crate::handover::preflight::SPARE_FOR_CHILD;
use crate::handover::spare::Spare;
use crate::handover::vault;
use crate::heap;
use crate::limits::Limits;
use crate::listeners::Listener;
use crate::mailbox::{Mail, Post, mailbox};
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::placement::{Dealer, Placement};
use crate::server::{Server, ServerError};
use crate::worker::{self, Factory};

#[cfg(test)]
mod resets;
mod takeover;

/// A server that serves.
///
/// Dropping it stops it, without waiting.
pub struct Running {
    listeners: Vec<Arc<Listener>>,
    /// What the application has.
    pub(crate) belongings: Arc<[Belonging]>,
    engine: EngineKind,
    crew: Arc<Crew>,
    workers: Vec<JoinHandle<()>>,
    ends: Arc<Ends>,
    /// The predecessor handed over connections of clients behind proxies.
    took_clients: bool,
    /// By number, the names of the services, and whether they ask for what the predecessor left.
    services: Vec<(String, bool)>,
    /// Room for one descriptor, to refuse who waits when it stops.
    room: Mutex<Spare>,
}

/// What became of the workers' threads.
struct Ends {
    /// By worker; `None` while it runs and is waited for.
    results: Mutex<Vec<Option<Served>>>,
    /// Becomes readable when any worker ends.
    event: OwnedFd,
}

impl Ends {
    fn lock(&self) -> MutexGuard<'_, Vec<Option<Served>>> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reports the end of a worker's thread, a panic included.
struct EndGuard {
    ends: Arc<Ends>,
    crew: Arc<Crew>,
    index: usize,
    served: Served,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.crew.worker_ended(self.index);
        let served = std::mem::replace(&mut self.served, Served::nothing(Ok(())));
        self.ends.lock()[self.index] = Some(served);
        let _ = rustix::io::write(&self.ends.event, &1u64.to_ne_bytes());
    }
}

impl Running {
    pub(crate) fn launch(
        server: Server,
        engine: EngineKind,
        cpus: Vec<Option<usize>>,
        listeners: Vec<Arc<Listener>>,
        orphans: &[Arc<str>],
        legacies: &Arc<[Legacy]>,
        belongings: Arc<[Belonging]>,
    ) -> Result<Self, ServerError> {
        let config = Arc::new(server.config);
        let count = cpus.len();
        let names = names(&listeners, &server.services, orphans, &config);
        let (posts, mailboxes): (Vec<Post>, Vec<_>) = (0..count)
            .map(|_| mailbox())
            .collect::<io::Result<Vec<_>>>()?
            .into_iter()
            .unzip();
        let crew = crew(&config.limits, &names, &listeners, posts);
        let ends = Arc::new(Ends {
            results: Mutex::new((0..count).map(|_| None).collect()),
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                .map_err(io::Error::from)?,
        });
        let mut running = Running {
            listeners: listeners.clone(),
            belongings,
            engine,
            crew,
            workers: Vec::new(),
            ends,
            took_clients: false,
            services: Vec::new(),
            room: Mutex::new(Spare::keep(1)),
        };
        let (report, reports) = mpsc::channel();
        for (index, (cpu, mailbox)) in cpus.into_iter().zip(mailboxes).enumerate() {
            let acceptors = owned_by(index, &listeners).map(|listener| Acceptor {
                listener: listener.clone(),
                name: listener.group as u16,
            });
            let factories = server.services.iter().map(|(_, factory)| factory.clone());
            let assignment = worker::Assignment {
                index,
                cpu,
                config: config.clone(),
                engine,
                factories: factories.collect(),
                legacies: legacies.clone(),
                belongings: running.belongings.clone(),
                crew: running.crew.clone(),
                mailbox,
                acceptors: acceptors.collect(),
            };
            if let Err(error) = running.spawn(assignment, report.clone()) {
                for missing in index..count {
                    running.crew.worker_ended(missing);
                }
                running.end_workers();
                running.collect();
                return Err(error.into());
            }
        }
        drop(report);
        running.wait_until_set_up(&reports)?;
        Ok(running)
    }

    fn spawn(
        &mut self,
        assignment: worker::Assignment,
        report: mpsc::Sender<Result<(), ServerError>>,
    ) -> io::Result<()> {
        let guard = EndGuard {
            ends: self.ends.clone(),
            crew: self.crew.clone(),
            index: assignment.index,
            served: Served::nothing(Err(io::Error::other("the worker panicked"))),
        };
        let thread = std::thread::Builder::new()
            .name(format!("ringhold-{}", assignment.index))
            .stack_size(worker::STACK_BYTES)
            .spawn(move || {
                let mut guard = guard;
                guard.served = worker::run(assignment, move |made| {
                    // Nobody listens any more if another worker could not start; this one is told to stop.
                    let _ = report.send(made);
                });
            })?;
        self.workers.push(thread);
        Ok(())
    }

    /// Waits until every worker has reported. If one cannot serve, none is left when this returns.
    fn wait_until_set_up(
        &mut self,
        reports: &mpsc::Receiver<Result<(), ServerError>>,
    ) -> Result<(), ServerError> {
        let failed = (0..self.workers.len()).find_map(|_| match reports.recv() {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(Some(error)),
            // All others have reported, and one has ended without.
            Err(_) => Some(None),
        });
        let Some(said) = failed else {
            return Ok(());
        };
        self.end_workers();
        let Released { failed, .. } = self.collect();
        Err(said
            .or(failed)
            .unwrap_or_else(|| ServerError::Engine("a worker ended before it was ready".into())))
    }

    /// The listeners, as they are.
    pub fn listeners(&self) -> impl ExactSizeIterator<Item = &Listener> {
        self.listeners.iter().map(|listener| &**listener)
    }

    /// The engine that drives the sockets.
    pub fn engine(&self) -> EngineKind {
        self.engine
    }

    /// The counters.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.crew.metrics
    }

    /// How many turns each worker has taken.
    pub(crate) fn turns(&self) -> impl Iterator<Item = u64> {
        self.crew.metrics.turns()
    }

    /// Bytes that connections make the process hold at the moment: partial frames, unsent replies, and what is under way to
    /// them if it is much.
    pub fn memory_held(&self) -> u64 {
        self.crew.memory.total()
    }

    /// Becomes readable (poll(2)) when a worker has ended.
    pub fn ended(&self) -> BorrowedFd<'_> {
        self.ends.event.as_fd()
    }

    /// Makes [`Running::ended`] wait for the next end.
    pub(crate) fn reset_ended(&self) {
        // Nothing to read means that nobody has ended since.
        let _ = rustix::io::read(&self.ends.event, &mut [0; 8]);
    }

    /// Gives memory back to the system if a burst of connections is over.
    pub(crate) fn give_memory_back(&self) {
        if self.crew.has_surplus.swap(false, Ordering::Relaxed) {
            heap::give_back();
        }
    }

    /// Does what uses descriptors that are kept for it. If there are no others, nobody is accepted meanwhile: those who wait would
    /// take them first.
    pub(crate) fn with_kept<R>(&self, act: impl FnOnce() -> R) -> R {
        let are_others = Spare::keep(SPARE_FOR_CHILD).count() == SPARE_FOR_CHILD;
        let lends = &self.crew.lends_descriptors;
        lends.store(!are_others, Ordering::SeqCst);
        let done = act();
        lends.store(false, Ordering::SeqCst);
        done
    }

    /// Asks every worker to take a turn; each counts it in its `turns`.
    pub(crate) fn nudge(&self) {
        self.crew.wake_all();
    }

    /// Lets the workers accept, and bytes move.
    pub(crate) fn resume(&self) {
        self.post_all(|| Mail::Resume);
    }

    /// Tells the workers to stop: they accept no more, wait for deferred replies, answer what was received whole,
    /// write what is queued, and close. Who connects is refused from now on, unless the listener is inherited. Returns at once; see
    /// [`Running::join`].
    pub fn stop(&self) {
        self.end_workers();
        self.close_listeners();
    }

    /// Nobody comes after this process to go on with those that it bound.
    fn close_listeners(&self) {
        self.with_kept(|| {
            // One that waits is accepted to be refused.
            let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
            room.release(1);
            for listener in &self.listeners {
                if let Err(error) = listener.close() {
                    tracing::warn!(socket = %listener.name, "cannot remove the path of the socket: {error}");
                }
            }
        });
    }

    /// As [`Running::stop`], but listeners stay as they are: the predecessor's may be the next process's.
    fn end_workers(&self) {
        self.post_all(|| Mail::Stop { hand_over: false });
    }

    /// Tells the workers to stop in the same way, but to give the connections up instead of closing them. Returns at
    /// once; see [`Running::release`].
    pub(crate) fn stop_to_hand_over(&self) {
        self.post_all(|| Mail::Stop { hand_over: true });
    }

    fn post_all(&self, mut mail: impl FnMut() -> Mail) {
        for post in &self.crew.posts {
            // A worker that has failed gets none.
            let _ = post.send(mail());
        }
    }

    /// The version of the state that a successor would be handed: it depends on whether any service may leave something, and on whether
    /// there may be clients behind proxies.
    pub(crate) fn state_version(&self) -> u32 {
        let mut names = self.crew.names.iter();
        let has_clients = self.took_clients || names.any(|name| name.proxy_protocol);
        vault::version(self.may_leave() || has_clients)
    }

    /// Whether any service may leave something to a successor.
    pub(crate) fn may_leave(&self) -> bool {
        self.services.iter().any(|(_, asks)| *asks)
    }

    /// Deferred replies that are still owed.
    pub(crate) fn open_tickets(&self) -> usize {
        self.crew.open_tickets.count()
    }

    /// Deferred replies that the stop did not wait for any longer. All of them once every worker has ended, but for those of workers that were left
    /// behind.
    pub(crate) fn given_up(&self) -> usize {
        self.crew.given_up.load(Ordering::Relaxed)
    }

    /// Which workers have ended, or were left behind.
    pub(crate) fn have_ended(&self) -> Vec<bool> {
        self.ends.lock().iter().map(Option::is_some).collect()
    }

    /// Whether a worker has nothing left to do. It may still drop its services.
    pub(crate) fn has_finished(&self, worker: usize) -> bool {
        self.crew.has_finished(worker)
    }

    /// Makes a handover go on without a worker, for this reason. It counts as failed, and what it holds is lost with the
    /// process, unless it comes to its end before [`Running::release`].
    pub(crate) fn leave_behind(&self, worker: usize, why: &str) {
        let mut results = self.ends.lock();
        if results[worker].is_some() {
            return;
        }
        results[worker] = Some(Served::nothing(Err(io::Error::other(why))));
        drop(results);
        let snapshot = self.crew.metrics.snapshot();
        let names = snapshot.workers.get(worker).map_or(&[][..], |w| &w.names);
        // Those that it has let go are still with it.
        let held = names.iter();
        let held: u64 = held.map(|(_, of)| of.open + of.handed_over).sum();
        self.crew.leave_behind(worker);
        tracing::error!(
            "worker {worker} is busy: {why}; the handover goes on without it and its {held} connections, and without what its services would leave"
        );
    }

    /// Waits until every worker has ended. Then the sockets that the server bound are closed, and the paths of unix sockets removed, as
    /// [`Running::stop`] has done already.
    ///
    /// # Errors
    ///
    /// The first worker that failed.
    pub fn join(mut self) -> Result<(), ServerError> {
        let Released { failed, .. } = self.collect();
        self.close_listeners();
        failed.map_or(Ok(()), Err)
    }

    /// Waits until every worker that was not left behind has ended after [`Running::stop_to_hand_over`]: what is open, what is left of each
    /// connection, and the first worker that failed, if any. Its connections, and only those, are lost.
    pub(crate) fn release(mut self) -> Released {
        self.collect()
    }

    fn collect(&mut self) -> Released {
        for (index, worker) in self.workers.drain(..).enumerate() {
            // One that was left behind may never end. Its thread ends with the program.
            if !self.crew.is_left_behind(index) || worker.is_finished() {
                // A panic is reported as a result, by the guard on that thread.
                let _ = worker.join();
            }
        }
        let mut released = Released {
            listeners: self.listeners.clone(),
            belongings: self.belongings.clone(),
            parcels: Vec::new(),
            bequests: Vec::new(),
            failed: None,
        };
        let mut results = self.ends.lock();
        for (worker, result) in results.iter_mut().enumerate() {
            let Some(served) = result.take() else {
                continue;
            };
            released.parcels.extend(served.parcels);
            let left = self.services.iter().zip(served.left);
            let left =
                left.filter_map(|((service, asks), left)| Bequest::of(service, *asks, left?));
            released.bequests.extend(left);
            if let Err(error) = served.result {
                let failed = ServerError::Worker { worker, error };
                released.failed.get_or_insert(failed);
            }
        }
        released
    }
}

/// What is left when the workers have ended.
pub(crate) struct Released {
    pub(crate) listeners: Vec<Arc<Listener>>,
    pub(crate) belongings: Arc<[Belonging]>,
    pub(crate) parcels: Vec<Parcel>,
    pub(crate) bequests: Vec<Bequest>,
    /// Why the first of the workers that failed did.
    pub(crate) failed: Option<ServerError>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end_workers();
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running")
            .field("engine", &self.engine)
            .field("workers", &self.crew.posts.len())
            .field("listeners", &self.listeners)
            .finish_non_exhaustive()
    }
}

/// What the workers share, one for each of `posts`.
fn crew(
    limits: &Limits,
    names: &Arc<[Name]>,
    listeners: &[Arc<Listener>],
    posts: Vec<Post>,
) -> Arc<Crew> {
    let count = posts.len();
    let placements = names.iter().enumerate().map(|(number, name)| {
        let mut listeners = listeners.iter();
        let listener = listeners.find(|listener| listener.group == number);
        Placement {
            // Orphans, which have no listener, are on all workers.
            partition: listener.map_or_else(|| (0..count).collect(), |it| it.partition.clone()),
            connections: name.connections,
        }
    });
    let known = names.iter().map(|name| name.name.clone()).collect();
    let memory = Memory::new(limits.memory as u64, count);
    Crew::new(
        posts,
        names.clone(),
        Dealer::new(count, limits.connections, placements),
        memory.clone(),
        Arc::new(Metrics::new(known, count, memory)),
        (0..count)
            .map(|worker| owned_by(worker, listeners).count())
            .collect(),
    )
}

/// The listeners that a worker accepts from.
fn owned_by(worker: usize, listeners: &[Arc<Listener>]) -> impl Iterator<Item = &Arc<Listener>> {
    let owns = move |listener: &&Arc<Listener>| listener.owner == worker;
    listeners.iter().filter(owns)
}

/// The socket names by number, with the services that answer them and what their sections say. Orphans come last and have neither.
fn names(
    listeners: &[Arc<Listener>],
    services: &[(String, Factory)],
    orphans: &[Arc<str>],
    config: &Config,
) -> Arc<[Name]> {
    let mut names: Vec<Name> = Vec::new();
    for listener in listeners {
        if listener.group == names.len() {
            let mut services = services.iter();
            let answers =
                |(name, _): &(String, Factory)| listener.enabled && *name == listener.service;
            let index = services.position(answers);
            // The listeners are those of this configuration.
            let section = &config.sockets[&*listener.name];
            names.push(Name {
                name: listener.name.clone(),
                service: index.map(|index| NamedService {
                    name: listener.service.as_str().into(),
                    index,
                }),
                connections: section.connections(&config.limits),
                connections_per_client: section.connections_per_client,
                idle_timeout: section.idle_timeout(&config.limits),
                proxy_protocol: section.proxy_protocol,
            });
        }
    }
    names.extend(orphans.iter().map(|name| Name {
        name: name.clone(),
        service: None,
        connections: u32::MAX,
        connections_per_client: 0,
        idle_timeout: config.limits.idle_timeout,
        proxy_protocol: false,
    }));
    names.into()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::inherit::Inherited;

    /// Or the watchdog would take a worker for stuck that has looked at its mail and gone to sleep.
    #[test]
    fn whoever_is_asked_for_a_turn_counts_another_one() {
        for engine in ["ring", "portable"] {
            let config = format!("engine = \"{engine}\"\nworkers = 1\n");
            let running = Server::new(Config::parse(&config, "test").unwrap())
                .inherited(Inherited::none())
                .start()
                .unwrap();
            let worker = running.metrics().worker(0);
            for _ in 0..20_000 {
                let before = worker.engine.turns.value();
                running.nudge();
                let start = Instant::now();
                while worker.engine.turns.value() == before {
                    assert!(start.elapsed() < Duration::from_secs(60), "{engine}");
                    std::thread::yield_now();
                }
            }
            running.stop();
            running.join().unwrap();
        }
    }
}
