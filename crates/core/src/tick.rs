//! What a service may do when it is called for no connection.

use std::fmt;
use std::io;

use crate::desk::Desk;
use crate::metrics::NameCounters;
use crate::panics::Caught;
use crate::warnings::Kind;

/// What a call of [`Service::tick`](crate::Service::tick) or [`Service::readable`](crate::Service::readable) has at hand. No
/// connection is concerned.
pub struct Tick<'a> {
    pub(crate) desk: &'a Desk,
    /// Which of the worker's services is called.
    pub(crate) service: usize,
    pub(crate) call: Call,
}

/// Which call it is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Call {
    Tick,
    Readable,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Call::Tick => "tick",
            Call::Readable => "readable",
        })
    }
}

impl Tick<'_> {
    /// Counts and logs a panic that the service itself caught. One that it does not catch is counted and logged by the worker.
    /// `what` has panicked, such as `the heartbeat`. Ten panics a second are logged, and how many were not.
    ///
    /// It is counted for the first socket name that the service answers. For one that answers none there is no counter.
    #[cold]
    pub fn report_panic(&self, what: &str, panic: &Caught) {
        let first = self.first_name();
        if let Some((counters, _)) = first {
            counters.panics.add(1);
        }
        if self.desk.warnings.lets_pass(Kind::Panic, self.desk.now) {
            let socket = first.map(|(_, name)| name);
            let at = socket.unwrap_or("no socket");
            let worker = self.desk.worker;
            tracing::error!(
                socket,
                worker,
                "{what} of {at} panicked in {}: {panic}",
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
        if self.desk.warnings.lets_pass(Kind::Slow, self.desk.now) {
            let socket = first.map(|(_, name)| name);
            let at = socket.unwrap_or("no socket");
            let worker = self.desk.worker;
            tracing::warn!(
                socket,
                worker,
                "a call of the service of {at} ({}) lasted {took} ms, and nobody on this worker was served; unless the machine is \
                 overloaded, slow work is for another thread",
                self.call
            );
        }
    }

    /// Logs that what the worker watches for the service cannot be read.
    #[cold]
    pub(crate) fn report_error(&self, error: &io::Error) {
        let socket = self.first_name().map(|(_, name)| name);
        let at = socket.unwrap_or("no socket");
        let worker = self.desk.worker;
        tracing::warn!(
            socket,
            worker,
            "what the service of {at} watches cannot be read, and is looked at again in a second: {error}"
        );
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
