//! Services that are called from time to time, without anything having happened.

use super::Shard;
use super::time::NEVER;
use crate::connection::milliseconds;
use crate::crew::Name;
use crate::panics::Caught;
use crate::peer::Link;
use crate::warnings::Kind;

/// A service that panicked when it was called for the first time is called again after so long.
const AFTER_PANIC_MS: u64 = 1_000;

/// When the services of a worker are to be called next.
pub(super) struct Ticks {
    /// By service.
    each: Vec<Tick>,
    /// The earliest of them.
    next: u64,
}

#[derive(Clone, Copy)]
struct Tick {
    /// On the worker's clock.
    due: u64,
    /// What it asked for last, in milliseconds.
    after: u64,
}

impl Default for Ticks {
    fn default() -> Self {
        Ticks {
            each: Vec::new(),
            next: NEVER,
        }
    }
}

impl<L: Link> Shard<L> {
    /// The worker begins to serve: each service is asked for the first time.
    pub(super) fn begin_ticks(&mut self) {
        let now = Tick {
            due: self.desk.now,
            after: NEVER,
        };
        self.ticks = Ticks {
            each: vec![now; self.hosts.len()],
            next: now.due,
        };
        self.tick_services();
    }

    /// Calls the services whose time has come.
    #[inline]
    pub(super) fn tick_services(&mut self) {
        if self.ticks.next <= self.desk.now && self.dispatches() {
            self.tick_those_that_are_due();
        }
    }

    #[cold]
    fn tick_those_that_are_due(&mut self) {
        let now = self.desk.now;
        for index in 0..self.ticks.each.len() {
            if self.ticks.each[index].due > now {
                continue;
            }
            let ticked = self.hosts.get_mut(index).map(|host| host.tick());
            let tick = &mut self.ticks.each[index];
            match ticked {
                Some(Ok(after)) => {
                    tick.after = after.map_or(NEVER, |after| milliseconds(after).max(1));
                }
                Some(Err(panic)) => {
                    if tick.after == NEVER {
                        tick.after = AFTER_PANIC_MS;
                    }
                    self.tick_panicked(index, &panic);
                }
                None => tick.after = NEVER,
            }
            let tick = &mut self.ticks.each[index];
            tick.due = now.saturating_add(tick.after);
        }
        let dues = self.ticks.each.iter().map(|tick| tick.due);
        self.ticks.next = dues.min().unwrap_or(NEVER);
    }

    /// Counts and logs it for the first socket name that the service answers, since no connection is to blame.
    fn tick_panicked(&self, service: usize, panic: &Caught) {
        let answers = |name: &Name| {
            name.service
                .as_ref()
                .is_some_and(|known| known.index == service)
        };
        let Some(index) = self.desk.names.iter().position(answers) else {
            tracing::error!(
                worker = self.desk.worker,
                "a service without a socket panicked in tick: {panic}"
            );
            return;
        };
        self.desk.name_counters(index as u16).panics.add(1);
        if self.desk.warnings.lets_pass(Kind::Panic, self.desk.now) {
            let name = &self.desk.names[index].name;
            tracing::error!(socket = %name, worker = self.desk.worker, "the service of {name} panicked in tick: {panic}");
        }
    }

    /// When [`Shard::tick_services`] has something to do.
    pub(super) fn next_service_tick(&self) -> Option<u64> {
        (self.ticks.next != NEVER && self.dispatches()).then_some(self.ticks.next)
    }
}
