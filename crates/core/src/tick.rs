//! What a service may do when it is called from time to time.

use crate::desk::Desk;
use crate::panics::Caught;
use crate::warnings::Kind;

/// What a call of [`Service::tick`](crate::Service::tick) has at hand. No connection is concerned.
pub struct Tick<'a> {
    pub(crate) desk: &'a Desk,
    /// Which of the worker's services is called.
    pub(crate) service: usize,
}

impl Tick<'_> {
    /// Counts and logs a panic that the service itself caught. One that it does not catch is counted and logged by the worker.
    /// `what` has panicked, such as `the heartbeat`. Ten panics a second are logged, and how many were not.
    ///
    /// It is counted for the first socket name that the service answers. For one that answers none there is no counter.
    #[cold]
    pub fn report_panic(&self, what: &str, panic: &Caught) {
        let names = self.desk.names.iter();
        let mut services = names.map(|name| name.service.as_ref());
        let index = services.position(|known| known.is_some_and(|it| it.index == self.service));
        if let Some(index) = index {
            self.desk.name_counters(index as u16).panics.add(1);
        }
        if self.desk.warnings.lets_pass(Kind::Panic, self.desk.now) {
            let socket = index.map(|index| &*self.desk.names[index].name);
            let at = socket.unwrap_or("no socket");
            let worker = self.desk.worker;
            tracing::error!(socket, worker, "{what} of {at} panicked in tick: {panic}");
        }
    }
}
