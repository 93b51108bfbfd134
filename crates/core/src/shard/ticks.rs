//! Services that are called from time to time, without anything having happened.

use super::Shard;
use super::time::NEVER;
use crate::connection::milliseconds;
use crate::peer::Link;
use crate::warnings::Kind;

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
                    if self.desk.warnings.lets_pass(Kind::Panic, now) {
                        let names = self.desk.names.iter();
                        let mut services = names.filter_map(|name| name.service.as_ref());
                        let service = services.find(|service| service.index == index);
                        let service = service.map_or("without a socket", |service| &*service.name);
                        tracing::error!("the service {service} panicked in tick: {panic}");
                    }
                }
                None => tick.after = NEVER,
            }
            tick.due = now.saturating_add(tick.after);
        }
        let dues = self.ticks.each.iter().map(|tick| tick.due);
        self.ticks.next = dues.min().unwrap_or(NEVER);
    }

    /// When [`Shard::tick_services`] has something to do.
    pub(super) fn next_service_tick(&self) -> Option<u64> {
        (self.ticks.next != NEVER && self.dispatches()).then_some(self.ticks.next)
    }
}
