//! The operations in flight: handed to tokio-uring, and taken up when they have completed.
//!
//! **They wait, and neither take nor give anything.** All of them are polls, but for a NOP that has the runtime come back. So there is
//! never anything to cancel, which tokio-uring could not do. What a poll has announced is received, sent and accepted by system calls
//! that do not wait.
//!
//! tokio-uring has no poll of its own, hence the entries made here. Its constructor for them is a safe function, but asks for the care of
//! an unsafe one: what an entry points to must live, unmoved and untouched, until the completion. A poll points to nothing. Its
//! descriptor stays open until it is submitted, so that the number cannot mean another one: a socket is not closed before its polls
//! have completed or are forgotten. No other file of this engine makes entries.
//!
//! **Only [`Flights::park`] is inside the runtime.** Code that runs there may not block on another runtime, nor drop one,
//! so services must not. What is launched waits for it in a queue.

use std::future::{Future, poll_fn};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use io_uring_for_tokio::types::Fd;
use io_uring_for_tokio::{cqueue, opcode};
use slab::Slab;
use tokio::time::{Interval, MissedTickBehavior, Sleep};
use tokio_uring::{InFlightOneshot, OneshotOutputTransform, Runtime, UnsubmittedOneshot};

use super::uptake::{Check, Uptake};

/// As long as it is not known that the kernel has taken what was submitted, a park looks after that so often.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// So many checks in a row find something missing before the log says so: an operation may have completed and not be
/// announced yet when the process was stopped for a while.
const MISSED_TO_LOG: u32 = 3;

/// What a completion belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// Nothing: it makes the runtime submit what is queued and come back.
    Turn,
    /// The mailbox's eventfd is readable.
    Wake,
    /// A listener is readable.
    Acceptable,
    /// What services read from besides connections is readable.
    Sources,
    /// A connection is readable.
    Readable { slot: u32, generation: u32 },
    /// A connection is writable.
    Writable { slot: u32, generation: u32 },
}

/// Makes a result of a completion: negative numbers are errors.
struct Land;

impl OneshotOutputTransform for Land {
    type Output = i32;
    type StoredData = ();

    fn transform_oneshot_output(self, (): (), completion: cqueue::Entry) -> i32 {
        completion.result()
    }
}

struct Flight {
    operation: Operation,
    /// From the submission on.
    future: Option<InFlightOneshot<(), Land>>,
    /// Its number among all that were submitted; 0 until then.
    number: u64,
}

/// The operations of one engine.
#[derive(Default)]
pub(super) struct Flights {
    flights: Slab<Flight>,
    /// Polls that the next park submits, by key, first first.
    polls: Vec<(usize, UnsubmittedOneshot<(), Land>)>,
    /// And behind them a NOP, which completes while it is submitted, and so tells that the kernel has taken the polls.
    turns: bool,
    /// By key: what the runtime calls when that operation has completed.
    wakers: Vec<Waker>,
    landing: Arc<Landing>,
    /// Keys taken from `landing`, last first.
    landed: Vec<usize>,
    /// Completed when they were submitted.
    early: Vec<(Operation, i32)>,
    /// Ends a park at its deadline; made when the first one needs it.
    sleep: Option<Pin<Box<Sleep>>>,
    uptake: Uptake,
    /// So many entries the submission queue has room for.
    entries: u64,
    /// When to check it; made by the first park. It is left to run out when there is nothing to check, which is cheaper than
    /// to begin anew with each submission.
    checks: Option<Interval>,
}

/// Where completed operations are announced. Only the worker's own thread ever does, but wakers must not rely on it.
#[derive(Default)]
struct Landing(Mutex<Announced>);

#[derive(Default)]
struct Announced {
    keys: Vec<usize>,
    /// What to wake at the next announcement: the park.
    park: Option<Waker>,
}

impl Landing {
    fn lock(&self) -> MutexGuard<'_, Announced> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Announces the operation of one key.
struct Announcer {
    key: usize,
    landing: Arc<Landing>,
}

impl Wake for Announcer {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let park = {
            let mut announced = self.landing.lock();
            announced.keys.push(self.key);
            announced.park.take()
        };
        if let Some(park) = park {
            park.wake();
        }
    }
}

impl Flights {
    /// Of a runtime whose ring has so many entries.
    pub(super) fn new(entries: u32) -> Self {
        Flights {
            entries: entries.into(),
            ..Flights::default()
        }
    }

    /// Has the next park come back when it has submitted what was launched.
    pub(super) fn turn(&mut self) {
        self.turns = true;
    }

    /// Completes when `fd` is readable, its end and errors included.
    pub(super) fn readable(&mut self, operation: Operation, fd: BorrowedFd<'_>) -> usize {
        self.poll(operation, fd, libc::POLLIN)
    }

    /// Completes when `fd` is writable, errors included.
    pub(super) fn writable(&mut self, operation: Operation, fd: BorrowedFd<'_>) -> usize {
        self.poll(operation, fd, libc::POLLOUT)
    }

    /// Forgets a poll: it may go on in the kernel until the runtime ends, but is announced no more.
    pub(super) fn forget(&mut self, key: usize) {
        let flight = self.flights.try_remove(key);
        if flight.is_some_and(|flight| flight.future.is_none()) {
            // It is among the last, if it is there at all.
            let at = self.polls.iter().rposition(|(queued, _)| *queued == key);
            at.map(|at| self.polls.remove(at));
        }
    }

    fn poll(&mut self, operation: Operation, fd: BorrowedFd<'_>, events: i16) -> usize {
        let entry = opcode::PollAdd::new(Fd(fd.as_raw_fd()), events as u32).build();
        let key = self.launch(operation);
        let unsubmitted = UnsubmittedOneshot::new((), Land, entry);
        self.polls.push((key, unsubmitted));
        key
    }

    /// Takes an operation in, under a key.
    fn launch(&mut self, operation: Operation) -> usize {
        self.flights.insert(Flight {
            operation,
            future: None,
            number: 0,
        })
    }

    /// Submits what was launched and sleeps until something completes, or until `deadline`.
    pub(super) fn park(&mut self, runtime: &Runtime, deadline: Option<Instant>) {
        let mut has_parked = false;
        runtime.block_on(poll_fn(|context| {
            self.wake_at_next(context.waker());
            let is_over = deadline.is_some_and(|deadline| self.poll_sleep(deadline, context));
            // What has come already is taken up only after the submission.
            if has_parked && (is_over || self.has_landed()) {
                return Poll::Ready(());
            }
            if is_over {
                self.turn();
            }
            self.check_uptake(context);
            self.submit();
            if !self.early.is_empty() {
                context.waker().wake_by_ref();
            }
            has_parked = true;
            Poll::Pending
        }));
    }

    /// Whether it is past the deadline; if not, the task of `context` is woken when it is. Inside the runtime.
    fn poll_sleep(&mut self, deadline: Instant, context: &mut Context<'_>) -> bool {
        let make = || Box::pin(tokio::time::sleep(Duration::ZERO));
        let sleep = self.sleep.get_or_insert_with(make);
        let deadline = tokio::time::Instant::from_std(deadline);
        if sleep.deadline() != deadline {
            sleep.as_mut().reset(deadline);
        }
        sleep.as_mut().poll(context).is_ready()
    }

    /// Checks, if it is time, whether the kernel takes what is submitted. What it did not take is submitted again when the
    /// runtime parks. Inside the runtime.
    fn check_uptake(&mut self, context: &mut Context<'_>) {
        if self.are_all_taken() {
            return;
        }
        let make = || {
            let first = tokio::time::Instant::now() + CHECK_INTERVAL;
            let mut checks = tokio::time::interval_at(first, CHECK_INTERVAL);
            checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            checks
        };
        let checks = self.checks.get_or_insert_with(make);
        let mut is_due = false;
        // Only one that is pending wakes the task of `context`.
        while checks.poll_tick(context).is_ready() {
            is_due = true;
        }
        if !is_due || self.has_landed() {
            return;
        }
        match self.uptake.check() {
            Check::Ask => self.turn(),
            Check::Missing(MISSED_TO_LOG) => tracing::warn!(
                "the kernel does not take what this worker submits to its ring, and does not say why (has it no memory?); \
                 it is tried again 10 times a second"
            ),
            Check::Fine | Check::Missing(_) => {}
        }
    }

    /// Gives what was launched to the runtime, which submits it when it parks: as much as there certainly is room for, or
    /// tokio-uring would submit in between, and panic if that fails. What is behind something that the kernel did not take
    /// waits. Inside the runtime.
    fn submit(&mut self) {
        if self.uptake.lags() {
            return;
        }
        // One is kept for what asks.
        let room = (self.entries - 1).saturating_sub(self.uptake.open()) as usize;
        let count = self.polls.len().min(room);
        // If there is no room for all, it tells that these were taken, and so brings the park back for the rest.
        let turns = std::mem::take(&mut self.turns) || count < self.polls.len();
        let mut polls = std::mem::take(&mut self.polls);
        for (key, unsubmitted) in polls.drain(..count) {
            self.begin(key, unsubmitted);
        }
        self.polls = polls;
        if turns {
            let key = self.launch(Operation::Turn);
            let entry = opcode::Nop::new().build();
            self.begin(key, UnsubmittedOneshot::new((), Land, entry));
        }
    }

    /// Gives an operation to the runtime. Inside of that.
    fn begin(&mut self, key: usize, unsubmitted: UnsubmittedOneshot<(), Land>) {
        while self.wakers.len() <= key {
            let announcer = Announcer {
                key: self.wakers.len(),
                landing: self.landing.clone(),
            };
            self.wakers.push(Waker::from(Arc::new(announcer)));
        }
        let mut future = unsubmitted.submit();
        let flight = &mut self.flights[key];
        let is_prompt = flight.operation == Operation::Turn;
        flight.number = self.uptake.submitted(is_prompt);
        // It was queued, not submitted, so this only leaves the waker with the runtime.
        match Pin::new(&mut future).poll(&mut Context::from_waker(&self.wakers[key])) {
            Poll::Pending => flight.future = Some(future),
            Poll::Ready(result) => {
                let flight = self.flights.remove(key);
                self.uptake.completed(flight.number);
                self.early.push((flight.operation, result));
            }
        }
    }

    /// Whether the kernel has certainly taken everything that was launched.
    pub(super) fn are_all_taken(&self) -> bool {
        self.polls.is_empty() && !self.turns && self.uptake.is_known()
    }

    /// Whether anything has been announced that [`Flights::next`] was not asked for yet.
    pub(super) fn has_landed(&self) -> bool {
        !self.early.is_empty() || !self.landed.is_empty() || !self.landing.lock().keys.is_empty()
    }

    /// Wakes `park` when the next operation completes.
    fn wake_at_next(&self, park: &Waker) {
        let mut announced = self.landing.lock();
        match &mut announced.park {
            Some(waker) => waker.clone_from(park),
            none => *none = Some(park.clone()),
        }
    }

    /// Takes up what was announced until now, for [`Flights::next`].
    pub(super) fn collect(&mut self) {
        debug_assert!(self.landed.is_empty());
        std::mem::swap(&mut self.landed, &mut self.landing.lock().keys);
        self.landed.reverse();
    }

    /// An operation that has completed, in the order in which they did; `None` when all that were collected are taken.
    pub(super) fn next(&mut self) -> Option<(Operation, i32)> {
        if let Some(early) = self.early.pop() {
            return Some(early);
        }
        while let Some(key) = self.landed.pop() {
            // A key may be that of a forgotten poll, and by now of another operation.
            let flight = self.flights.get_mut(key);
            let Some(future) = flight.and_then(|flight| flight.future.as_mut()) else {
                continue;
            };
            let waker = self.wakers.get(key).unwrap_or(Waker::noop());
            let polled = Pin::new(future).poll(&mut Context::from_waker(waker));
            if let Poll::Ready(result) = polled {
                let flight = self.flights.remove(key);
                self.uptake.completed(flight.number);
                return Some((flight.operation, result));
            }
        }
        None
    }
}
