//! A server that runs: its workers' threads, from the start to the end.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::belongings::Belonging;
use crate::calling::Whose;
use crate::crew::{Crew, Step};
use crate::engine::{EngineKind, Outfit, Served};
use crate::handover::bequest::Bequest;
use crate::handover::giving::Packing;
use crate::handover::parcel::Parcel;
use crate::handover::preflight::SPARE_FOR_CHILD;
use crate::handover::spare::Spare;
use crate::heap;
use crate::listeners::Listener;
use crate::mailbox::Mail;
use crate::metrics::Metrics;
use crate::plain;
use crate::rlimit;
use crate::server::ServerError;

pub(crate) use self::takeover::TakenOver;

mod deputies;
mod launch;
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
    /// What the workers have.
    pub(crate) outfit: Outfit,
    /// How many descriptors a start takes for all this, with what it is passed on and without those of connections.
    pub(crate) takes: usize,
    crew: Arc<Crew>,
    workers: Vec<JoinHandle<()>>,
    ends: Arc<Ends>,
    /// By number, the names of the services, and whether they ask for what the predecessor left.
    services: Vec<(String, bool)>,
    /// Room for one descriptor, to refuse who waits when it stops.
    room: Mutex<Spare>,
    /// `None` if there was no predecessor.
    pub(crate) taken_over: Option<TakenOver>,
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

impl Running {
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

    /// How many connections have a descriptor by now: a worker may not have come yet to those that others have accepted for it.
    pub(crate) fn connections(&self) -> usize {
        self.crew.dealer.all()
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

    /// Begins to pack for a successor, while everybody is served. It takes some descriptors.
    ///
    /// # Errors
    ///
    /// Why connections cannot be packed, and what helps.
    pub(crate) fn begin_packing(&self) -> Result<Packing, String> {
        let begun = Packing::begin(&self.listeners);
        begun.map_err(|error| format!("{error}{}", rlimit::advice(&error)))
    }

    /// Whether a worker sleeps, and was not woken: it is not in a call of a service.
    pub(crate) fn is_asleep(&self, worker: usize) -> bool {
        self.crew.posts[worker].is_asleep()
    }

    /// What holds a worker up that is found in the same turn again and again, as the log says it.
    pub(crate) fn holdup(&self, worker: usize) -> String {
        let Some((call, whose)) = self.crew.metrics.worker(worker).calling.last() else {
            return "it is in no call of a service".to_owned();
        };
        let (service, socket) = match whose {
            Whose::Socket(name) => {
                let name = self.crew.names.get(name);
                let service = name.and_then(|name| Some(&*name.service.as_ref()?.name));
                (service, name.map(|name| format!(", socket {}", name.name)))
            }
            Whose::Service(service) => {
                let service = self.services.get(service);
                (service.map(|(name, _)| name.as_str()), None)
            }
        };
        let (service, socket) = (service.unwrap_or_default(), socket.unwrap_or_default());
        format!("a call of service {service} ({call}{socket}) does not return")
    }

    /// Asks a worker to take a turn, which it counts in its `turns`.
    pub(crate) fn nudge(&self, worker: usize) {
        // One that has ended takes none.
        let _ = self.crew.posts[worker].send(Mail::Look);
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
        self.crew.has_reached(worker, Step::Finished)
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
        // Those that it has let go are still with it, and it has those that it has not come to.
        let let_go: u64 = names.iter().map(|(_, of)| of.handed_over).sum();
        let held = plain::connections(self.crew.dealer.all_of(worker) as u64 + let_go);
        self.crew.leave_behind(worker);
        tracing::error!(
            "worker {worker} is busy: {why}; the handover goes on without it and its {held}, and without what its services would leave"
        );
    }

    /// Makes the others end without a worker, if there are any, for this reason, in a stop that hands nothing over. The process still
    /// waits for it.
    pub(crate) fn end_without(&self, worker: usize, why: &str) {
        self.crew.leave_behind(worker);
        let ends = match self.crew.posts.len() {
            1 => "the process ends when it does",
            _ => "the others end without it, and the process when it does",
        };
        tracing::error!("worker {worker} is busy: {why}; {ends}");
    }

    /// Waits until every worker has ended. Then the sockets that the server bound are closed, and the paths of unix sockets removed, as
    /// [`Running::stop`] has done already.
    ///
    /// # Errors
    ///
    /// The first worker that failed.
    pub fn join(mut self) -> Result<(), ServerError> {
        // Those too that the others wait for no more.
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
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
            parted: self.crew.parted(),
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
    /// Since when nobody is served, if that is known.
    pub(crate) parted: Option<Instant>,
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

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use super::Released;
    use crate::config::Config;
    use crate::frame::Frame;
    use crate::inherit::Inherited;
    use crate::listeners::Address;
    use crate::peer::Peer;
    use crate::reply::Reply;
    use crate::server::Server;
    use crate::service::{Flow, Refusal, Saved, Service};

    /// Its connections go on in a successor.
    struct Kept;

    impl Service for Kept {
        type Session = ();

        fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
            Ok(())
        }

        fn frame(&mut self, _: &mut (), _: Frame<'_>, _: &mut Reply<'_>) -> Flow {
            Flow::Continue
        }

        fn save(&self, (): &()) -> Saved {
            Saved::Stateless
        }
    }

    /// Or whoever binds its address next, such as the service manager when a socket unit is restarted, would find it in use.
    #[test]
    fn nothing_keeps_a_listener_open_behind_a_handover() {
        for engine in ["ring", "portable"] {
            let config = format!(
                "engine = \"{engine}\"\nworkers = 2\n[sockets.kept]\nlisten = [\"127.0.0.1:0\"]\n"
            );
            let running = Server::new(Config::parse(&config, "test").unwrap())
                .inherited(Inherited::none())
                .service("kept", |_| Kept)
                .start()
                .unwrap();
            let Address::Tcp(address) = running.listeners().next().unwrap().address else {
                panic!("it is one of TCP");
            };
            let clients = [(); 4].map(|()| TcpStream::connect(address).unwrap());
            let start = Instant::now();
            while running.metrics().snapshot().total().open < 4 {
                assert!(start.elapsed() < Duration::from_secs(60), "{engine}");
                std::thread::yield_now();
            }
            running.stop_to_hand_over();
            let Released {
                listeners, parcels, ..
            } = running.release();
            assert_eq!(parcels.len(), clients.len(), "{engine}");
            drop(listeners);
            TcpListener::bind(address).unwrap();
        }
    }

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
                running.nudge(0);
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
