//! What a service may do when it is called for no connection.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use crate::calling::Call;
use crate::crew::Name;
use crate::desk::Desk;
use crate::metrics::NameCounters;
use crate::panics::Caught;
use crate::plain::Plain;
use crate::service::SourceId;
use crate::shard::Watches;
use crate::warnings::Kind;

/// What a call of [`Service::tick`](crate::Service::tick), [`Service::readable`](crate::Service::readable) or
/// [`Service::hand_over`](crate::Service::hand_over) has at hand. No connection is concerned.
pub struct Tick<'a> {
    pub(crate) desk: &'a Desk,
    /// Which of the worker's services is called.
    pub(crate) service: usize,
    pub(crate) call: Call,
    pub(crate) watches: &'a Watches,
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

    /// The service is about to be called.
    pub(crate) fn note_call(&self) {
        let calling = &self.desk.counters().calling;
        calling.begin(self.service, self.call);
    }

    /// Counts and logs a panic that the service itself caught. One that it does not catch is counted and logged by the worker.
    /// `what` has panicked, such as `the heartbeat`. Ten panics a second are logged, and how many were not; in
    /// [`Service::hand_over`](crate::Service::hand_over) all, since each is a loss, and none comes again.
    ///
    /// It is counted for the first socket name that the service answers. For one that answers none there is no counter.
    #[cold]
    pub fn report_panic(&self, what: &str, panic: &Caught) {
        let first = self.first_name();
        if let Some((counters, _)) = first {
            counters.panics.add(1);
        }
        if self.is_logged(Kind::Panic) {
            tracing::error!(
                socket = first.map(|(_, name)| display(&name.name)),
                worker = self.desk.worker,
                "{} of {} panicked in {}: {panic}",
                Plain(what),
                self.service(),
                self.call
            );
        }
    }

    /// Counts and logs that the call took so many milliseconds.
    #[cold]
    pub(crate) fn report_slow(&self, took: u64) {
        let first = self.first_name();
        if let Some((counters, _)) = first {
            counters.slow.add(1);
        }
        if self.is_logged(Kind::Slow) {
            let advice = match self.call {
                // Connections have been let go, and no thread could help.
                Call::HandOver => {
                    "and nobody is served until it has returned; unless the machine is overloaded, it leaves much to the \
                     successor, or waits for something"
                }
                _ => {
                    "and nobody on this worker was served; unless the machine is overloaded, slow work is for another thread"
                }
            };
            tracing::warn!(
                socket = first.map(|(_, name)| display(&name.name)),
                worker = self.desk.worker,
                "a call of {} ({}) lasted {took} ms, {advice}",
                self.service(),
                self.call
            );
        }
    }

    /// Logs that a source cannot be read from.
    #[cold]
    pub(crate) fn report_unreadable(&self, source: u64, error: &io::Error) {
        let now = self.desk.now;
        if self.desk.warnings.lets_pass(Kind::Unreadable, now) {
            tracing::warn!(
                socket = self.first_name().map(|(_, name)| display(&name.name)),
                worker = self.desk.worker,
                source,
                "what {} watches cannot be read: {}",
                self.service(),
                Plain(error)
            );
        }
    }

    /// Logs that the service has ended a source.
    #[cold]
    pub(crate) fn report_end(&self, source: u64) {
        tracing::debug!(
            socket = self.first_name().map(|(_, name)| display(&name.name)),
            worker = self.desk.worker,
            source,
            "{} has ended what it watched",
            self.service()
        );
    }

    /// Whether there is room in the log for a warning of this kind. The last call, which nobody can cause again and again, always
    /// has some.
    fn is_logged(&self, kind: Kind) -> bool {
        matches!(self.call, Call::HandOver) || self.desk.warnings.lets_pass(kind, self.desk.now)
    }

    /// The service that is called, as the log says it.
    fn service(&self) -> Cow<'static, str> {
        let service = self
            .first_name()
            .and_then(|(_, name)| name.service.as_ref());
        match service {
            Some(service) => format!("service {}", service.name).into(),
            None => "a service of no socket".into(),
        }
    }

    /// The first socket name that the service answers, with its counters.
    fn first_name(&self) -> Option<(&NameCounters, &Name)> {
        let mut names = self.desk.names.iter().enumerate();
        let (index, name) = names.find(|(_, name)| {
            let service = name.service.as_ref();
            service.is_some_and(|it| it.index == self.service)
        })?;
        Some((self.desk.name_counters(index as u16), name))
    }
}

impl fmt::Debug for Tick<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (call, service) = (self.call, self.service());
        write!(f, "Tick({call} of {service}, at {:?})", self.now())
    }
}
