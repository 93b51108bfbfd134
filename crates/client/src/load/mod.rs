//! A load generator that checks every reply.
//!
//! It keeps a number of connections busy from one thread (or a few), by readiness and without
//! allocating for a message, and accounts for every request: each has an id and, from 8 bytes on, a payload of its own,
//! and must be answered exactly once with exactly that payload.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use ringhold_client::load::{self, LoadPlan};
//!
//! # fn main() -> Result<(), load::LoadError> {
//! let address = "127.0.0.1:4660".parse().unwrap();
//! let plan = LoadPlan { connections: 8, depth: 64, count: Some(1_000_000), ..LoadPlan::new(address) };
//! let report = load::run(&plan, |progress| {
//!     eprintln!("{} answered", progress.counts.answered);
//!     ControlFlow::Continue(())
//! })?;
//! println!("{report}");
//! assert!(report.is_clean());
//! # Ok(())
//! # }
//! ```

mod alarm;
mod check;
mod connection;
mod context;
mod ending;
mod histogram;
mod pace;
mod payload;
mod plan;
mod report;
mod transfer;
mod window;
mod worker;

use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockAddr;

pub use histogram::Latency;
pub use plan::{Echo, LoadPlan, Mode, PlanError};
pub use report::{Counts, LoadReport, Progress};

use crate::Address;
use crate::stream::{Stream, is_exhausted};
use payload::{Template, mix};
use worker::{Outcome, Share, Worker};

/// How often the caller hears of the progress.
const REPORT: Duration = Duration::from_millis(250);

/// Puts a load on a server and reports what came of it: [`connect`], and then [`Connected::run`].
///
/// # Errors
/// Those of the two.
pub fn run(
    plan: &LoadPlan,
    progress: impl FnMut(&Progress) -> ControlFlow<()>,
) -> Result<LoadReport, LoadError> {
    connect(plan)?.run(progress)
}

/// Opens the connections that stay, one after the other.
///
/// # Errors
/// The plan cannot be carried out, or a connection cannot be opened.
pub fn connect(plan: &LoadPlan) -> Result<Connected<'_>, LoadError> {
    plan.check().map_err(LoadError::Plan)?;
    let failed = |source| match is_exhausted(&source) {
        true => LoadError::System(source),
        false => LoadError::Connect {
            address: plan.address.clone(),
            source,
        },
    };
    let endpoint = choose_endpoint(plan).map_err(failed)?;
    let shares = deal(plan, &endpoint).map_err(failed)?;
    Ok(Connected {
        plan,
        endpoint,
        shares,
    })
}

/// A load whose connections stand, and that has not begun. Dropping it closes them.
#[derive(Debug)]
pub struct Connected<'a> {
    plan: &'a LoadPlan,
    endpoint: SockAddr,
    shares: Vec<Share>,
}

impl Connected<'_> {
    /// Puts the load on, from now on, and reports what came of it.
    ///
    /// About four times a second `progress` is called on the calling thread; when it breaks, the sending
    /// ends as if the duration were over, and the report is made as usual.
    ///
    /// # Errors
    /// [`LoadError::System`]. What goes wrong with the server is in the report.
    pub fn run(
        self,
        mut progress: impl FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<LoadReport, LoadError> {
        let Self {
            plan,
            endpoint,
            shares,
        } = self;
        let template = Template::new(plan);
        let start = Instant::now();
        let workers = shares
            .into_iter()
            .map(|share| Worker::new(plan, &template, &endpoint, share, start));
        let workers: Vec<Worker<'_>> = workers
            .collect::<io::Result<_>>()
            .map_err(LoadError::System)?;

        let stop = AtomicBool::new(false);
        let live: Vec<Mutex<Counts>> = workers.iter().map(|_| Mutex::default()).collect();
        let outcomes = thread::scope(|scope| {
            // Every thread holds a sender; all are gone when all threads are done.
            let (done, alive) = mpsc::channel();
            let threads = workers.into_iter().zip(&live).map(|(worker, live)| {
                let (stop, done) = (&stop, Sender::clone(&done));
                thread::Builder::new().spawn_scoped(scope, move || {
                    let _done = done;
                    worker.run(stop, live)
                })
            });
            // If one cannot be started, those that were end, too.
            let threads = threads
                .collect::<io::Result<Vec<_>>>()
                .inspect_err(|_| stop.store(true, Ordering::Relaxed))
                .map_err(no_thread)?;
            drop(done);
            supervise(&alive, start, &live, |now| {
                if progress(now).is_break() {
                    stop.store(true, Ordering::Relaxed);
                }
            });
            let join = |thread: thread::ScopedJoinHandle<'_, _>| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads
                .into_iter()
                .map(join)
                .collect::<io::Result<Vec<Outcome>>>()
        });
        Ok(sum_up(plan, outcomes.map_err(LoadError::System)?))
    }
}

/// That a thread could not be started, in words; what the system says is only that it lacks something.
fn no_thread(error: io::Error) -> io::Error {
    let why = format!("a thread cannot be started, fewer may help: {error}");
    io::Error::new(error.kind(), why)
}

/// Calls `progress` at intervals until every thread is done.
fn supervise(
    alive: &Receiver<()>,
    start: Instant,
    live: &[Mutex<Counts>],
    mut progress: impl FnMut(&Progress),
) {
    let mut last = (Duration::ZERO, Counts::default());
    while alive.recv_timeout(REPORT) == Err(RecvTimeoutError::Timeout) {
        let mut counts = Counts::default();
        for part in live {
            counts += *part.lock().unwrap_or_else(PoisonError::into_inner);
        }
        let elapsed = start.elapsed();
        progress(&Progress {
            elapsed,
            counts,
            recent: counts - last.1,
            recent_time: elapsed - last.0,
        });
        last = (elapsed, counts);
    }
}

/// The first endpoint of the address that answers; if there is only one, without asking it.
fn choose_endpoint(plan: &LoadPlan) -> io::Result<SockAddr> {
    let mut endpoints = plan.address.endpoints()?;
    if endpoints.len() == 1 {
        return Ok(endpoints.remove(0));
    }
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for endpoint in endpoints {
        match Stream::connect_endpoint(&endpoint, Some(plan.connect_timeout)) {
            Ok(_) => return Ok(endpoint),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Opens the connections that stay and deals everything to the threads.
fn deal(plan: &LoadPlan, endpoint: &SockAddr) -> io::Result<Vec<Share>> {
    let threads = plan.threads;
    let part = |all: usize, thread: usize| all / threads + usize::from(thread < all % threads);
    let mut shares = Vec::with_capacity(threads);
    for thread in 0..threads {
        // Both remainders must not fall to the same threads: one could then be left with nothing.
        let short_lived = part(plan.short_lived, threads - 1 - thread);
        let streams = (0..part(plan.connections, thread))
            .map(|_| Stream::connect_endpoint(endpoint, Some(plan.connect_timeout)));
        shares.push(Share {
            streams: streams.collect::<io::Result<_>>()?,
            short_lived,
            count: plan.count.map(|count| {
                let (threads, thread) = (threads as u64, thread as u64);
                count / threads + u64::from(thread < count % threads)
            }),
            rate: plan.rate.map(|rate| rate / threads as f64),
            salt: mix(thread as u64),
        });
    }
    Ok(shares)
}

fn sum_up(plan: &LoadPlan, outcomes: Vec<Outcome>) -> LoadReport {
    let mut counts = Counts::default();
    let mut measured = Counts::default();
    let mut latency = Latency::new();
    let (mut time, mut unsent, mut overdue, mut longest_gap_ns) = (0, 0, 0, 0);
    let mut problems = Vec::new();
    let mut stalled = false;
    for outcome in outcomes {
        counts += outcome.counts;
        measured += outcome.measured;
        latency.merge(&outcome.latency);
        time = outcome.time.max(time);
        unsent += outcome.unsent;
        overdue += outcome.overdue;
        stalled |= outcome.stalled;
        longest_gap_ns = outcome.longest_gap.max(longest_gap_ns);
        problems.extend(outcome.problems);
    }
    let per_second = |count: u64| {
        if time == 0 {
            0.0
        } else {
            count as f64 * 1e9 / time as f64
        }
    };
    let messages = match plan.mode {
        Mode::Call => measured.answered,
        Mode::Notify => measured.sent,
        Mode::Subscribe { .. } => measured.notifications,
    };
    let mut report = LoadReport {
        address: plan.address.clone(),
        counts,
        unsent,
        overdue,
        stalled,
        duration: Duration::from_nanos(time),
        measured: messages,
        messages_per_second: per_second(messages),
        bytes_sent_per_second: per_second(measured.bytes_sent),
        bytes_received_per_second: per_second(measured.bytes_received),
        latency,
        longest_gap_ns,
        problems,
    };
    let receives = matches!(plan.mode, Mode::Subscribe { .. });
    let nothing = match report.is_measured() {
        _ if counts.sent == 0 => Some("sent"),
        _ if counts.notifications == 0 && receives => Some("received"),
        false => Some("measured"),
        true => None,
    };
    let nothing = nothing.map(|what| format!("nothing was {what}"));
    report.problems.extend(nothing);
    report
}

/// Why a load was not put on a server at all.
#[derive(Debug)]
#[non_exhaustive]
pub enum LoadError {
    /// The plan cannot be carried out.
    Plan(PlanError),
    /// A connection that should stay cannot be opened.
    Connect {
        /// The server.
        address: Address,
        /// What the system said.
        source: io::Error,
    },
    /// This machine has no descriptor or timer left, cannot start another thread, or waiting for readiness failed.
    System(io::Error),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plan(error) => write!(f, "this load is not possible: {error}"),
            Self::Connect { address, source } => write!(f, "cannot connect to {address}: {source}"),
            Self::System(error) => {
                write!(f, "this machine cannot make the load: {error}")?;
                match is_exhausted(error) {
                    true => f.write_str("; fewer connections, or a higher `ulimit -n`, may help"),
                    false => Ok(()),
                }
            }
        }
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Plan(error) => Some(error),
            Self::Connect { source, .. } | Self::System(source) => Some(source),
        }
    }
}
