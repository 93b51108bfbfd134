//! What a service may do when it is called for no connection.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use crate::desk::Desk;
use crate::metrics::NameCounters;
use crate::panics::Caught;
use crate::plain::Plain;
use crate::service::SourceId;
use crate::shard::Watches;
use crate::warnings::Kind;

/// Stands for the name of a service that answers on no socket.
const NO_SOCKET: &str = "no socket";

/// What a call of [`Service::tick`](crate::Service::tick), [`Service::readable`](crate::Service::readable) or
/// [`Service::hand_over`](crate::Service::hand_over) has at hand. No connection is concerned.
pub struct Tick<'a> {
    pub(crate) desk: &'a Desk,
    /// Which of the worker's services is called.
    pub(crate) service: usize,
    pub(crate) call: Call,
    pub(crate) watches: &'a Watches,
}

/// Which call it is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Call {
    Tick,
    Readable,
    HandOver,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Call::Tick => "tick",
            Call::Readable => "readable",
            Call::HandOver => "hand_over",
        })
    }
}

impl Tick<'_> {
    /// How long the worker has been running, in whole milliseconds, as of the beginning of its turn: the time of another worker or process
    /// cannot be compared with it. In an
    /// [`Exchange`](crate::testing::Exchange) time passes as it is told.
    pub fn now(&self) -> Duration {
        Duration::from_millis(self.desk.now)
    }

    /// Has [`Service::readable`](crate::Service::readable) of this service called whenever there is something to read from this descriptor,
    /// as [`Worker::watch`](crate::Worker::watch) does: for what is opened later, or again.
    pub fn watch(&self, descriptor: impl AsFd + 'static) -> SourceId {
        self.watches.add(self.service, descriptor)
    }

    /// Lets go of what the worker watches, before this returns: for what is silent and is to be opened again, such as a serial line.
    /// Does nothing if it has ended. [`Watch::End`](crate::Watch::End) is the same for what is being read.
    pub fn unwatch(&self, source: SourceId) {
        self.watches.end(source);
    }

    /// Counts and logs a panic that the service itself caught. One that it does not catch is counted and logged by the worker.
    /// `what` has panicked, such as `the heartbeat`. Ten panics a second are logged, and how many were not; in
    /// [`Service::hand_over`](crate::Service::hand_over) all, since each is a loss, and none comes again.
    ///
    /// It is counted for the first socket name that the service answers. For one that answers none there is no counter.
    #[cold]
    pub fn report_panic(&self, what: &str, panic: &Caught) {
        let (counters, name) = self.first_name().unzip();
        if let Some(counters) = counters {
            counters.panics.add(1);
        }
        if self.is_logged(Kind::Panic) {
            tracing::error!(
                socket = name.map(display),
                worker = self.desk.worker,
                "{} of {} panicked in {}: {panic}",
                Plain(what),
                name.unwrap_or(NO_SOCKET),
                self.call
            );
        }
    }

    /// Counts and logs that the call took so many milliseconds.
    #[cold]
    pub(crate) fn report_slow(&self, took: u64) {
        let (counters, name) = self.first_name().unzip();
        if let Some(counters) = counters {
            counters.slow.add(1);
        }
        if self.is_logged(Kind::Slow) {
            tracing::warn!(
                socket = name.map(display),
                worker = self.desk.worker,
                "a call of the service of {} ({}) lasted {took} ms, and nobody on this worker was served; unless the machine is \
                 overloaded, slow work is for another thread",
                name.unwrap_or(NO_SOCKET),
                self.call
            );
        }
    }

    /// Logs that a source cannot be read from.
    #[cold]
    pub(crate) fn report_unreadable(&self, source: u64, error: &io::Error) {
        let now = self.desk.now;
        if self.desk.warnings.lets_pass(Kind::Unreadable, now) {
            let name = self.name();
            tracing::warn!(
                socket = name.map(display),
                worker = self.desk.worker,
                source,
                "what the service of {} watches cannot be read: {}",
                name.unwrap_or(NO_SOCKET),
                Plain(error)
            );
        }
    }

    /// Logs that the service has ended a source.
    #[cold]
    pub(crate) fn report_end(&self, source: u64) {
        let name = self.name();
        tracing::debug!(
            socket = name.map(display),
            worker = self.desk.worker,
            source,
            "the service of {} has ended what it watched",
            name.unwrap_or(NO_SOCKET)
        );
    }

    /// Whether there is room in the log for a warning of this kind. The last call, which nobody can cause again and again, always
    /// has some.
    fn is_logged(&self, kind: Kind) -> bool {
        matches!(self.call, Call::HandOver) || self.desk.warnings.lets_pass(kind, self.desk.now)
    }

    fn name(&self) -> Option<&str> {
        self.first_name().map(|(_, name)| name)
    }

    /// The first socket name that the service answers, with its counters.
    fn first_name(&self) -> Option<(&NameCounters, &str)> {
        let mut names = self.desk.names.iter().enumerate();
        let (index, name) = names.find(|(_, name)| {
            let service = name.service.as_ref();
            service.is_some_and(|it| it.index == self.service)
        })?;
        Some((self.desk.name_counters(index as u16), &name.name))
    }
}

impl fmt::Debug for Tick<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name().unwrap_or(NO_SOCKET);
        write!(f, "Tick({} of {name}, at {:?})", self.call, self.now())
    }
}
