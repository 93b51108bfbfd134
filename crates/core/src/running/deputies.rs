//! Who accepts in place of workers that are stuck.

use std::sync::Arc;

use super::Running;
use crate::listeners::Listener;
use crate::placement::deputy;

impl Running {
    /// Whether any worker could accept in place of another one.
    pub(crate) fn has_deputies(&self) -> bool {
        self.listeners.iter().any(|it| it.partition.len() > 1)
    }

    /// As of now this worker is stuck, or is not: others are dealt what it would be. Also behind the stop, when nobody is named any more
    /// who accepts in its place.
    pub(crate) fn deal_to_others(&self, worker: usize, is_stuck: bool) {
        self.crew.dealer.set_stuck(worker, is_stuck);
    }

    /// As of now these workers are stuck, and no others: somebody else accepts in their place and is dealt what they would be. To be
    /// called before the workers are told to stop, by the thread that does.
    pub(crate) fn set_stuck(&self, are_stuck: &[bool]) {
        for (worker, is_stuck) in are_stuck.iter().enumerate() {
            self.deal_to_others(worker, *is_stuck);
        }
        for listener in &self.listeners {
            let is_stuck = |worker: usize| are_stuck[worker];
            let deputy = deputy(&listener.partition, listener.owner, is_stuck);
            // If all are, it is as before.
            let deputy = deputy.unwrap_or(listener.owner);
            if listener.set_deputy(deputy) && deputy != listener.owner {
                let others = of_others(deputy, &self.listeners);
                self.crew.call(deputy, others.count());
            }
        }
    }
}

/// The listeners of others from which a worker could accept in their place.
pub(super) fn of_others(
    worker: usize,
    listeners: &[Arc<Listener>],
) -> impl Iterator<Item = &Arc<Listener>> {
    let may_be = move |it: &&Arc<Listener>| it.owner != worker && it.partition.contains(&worker);
    listeners.iter().filter(may_be)
}
