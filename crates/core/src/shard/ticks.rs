//! Services that are called from time to time, without anything having happened.

use super::Shard;
use super::time::NEVER;
use crate::calling::Call;
use crate::connection::milliseconds;
use crate::peer::Link;

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
            let at_hand = self.sources.tick(&self.desk, index, Call::Tick);
            let ticked = self.hosts.get_mut(index).map(|host| host.tick(&at_hand));
            if let Some(Err(panic)) = &ticked {
                at_hand.report_panic("a call", panic);
            }
            if let Some(took) = self.desk.stopwatch.slow() {
                at_hand.report_slow(took);
            }
            let tick = &mut self.ticks.each[index];
            match ticked {
                Some(Ok(after)) => {
                    tick.after = after.map_or(NEVER, |after| milliseconds(after).max(1));
                }
                Some(Err(_)) if tick.after == NEVER => tick.after = AFTER_PANIC_MS,
                Some(Err(_)) => {}
                None => tick.after = NEVER,
            }
            tick.due = now.saturating_add(tick.after);
        }
        let dues = self.ticks.each.iter().map(|tick| tick.due);
        self.ticks.next = dues.min().unwrap_or(NEVER);
    }

    /// Whether any service has something due at a time.
    pub(super) fn has_ticks(&self) -> bool {
        self.ticks.next != NEVER
    }

    /// When [`Shard::tick_services`] has something to do.
    pub(super) fn next_service_tick(&self) -> Option<u64> {
        (self.has_ticks() && self.dispatches()).then_some(self.ticks.next)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::frame::Frame;
    use crate::limits::Limits;
    use crate::peer::Peer;
    use crate::reply::Reply;
    use crate::service::{Flow, Refusal, Service};
    use crate::testing::Setup;
    use crate::tick::Tick;

    /// Panics from the second time on.
    struct Broken(bool);

    impl Service for Broken {
        type Session = ();

        fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
            Ok(())
        }

        fn frame(&mut self, _: &mut (), _: Frame<'_>, _: &mut Reply<'_>) -> Flow {
            Flow::Continue
        }

        fn tick(&mut self, _: &Tick<'_>) -> Option<Duration> {
            assert!(!std::mem::replace(&mut self.0, true), "on purpose");
            Some(Duration::from_millis(1))
        }
    }

    #[test]
    fn what_is_logged_of_panics_is_bounded_with_and_without_a_socket() {
        for (names, counted) in [(&["test"][..], 11), (&[], 0)] {
            let mut exchange = Setup::new(Limits::default())
                .service("broken", names, |_| Broken(false))
                .start();
            for _ in 0..11 {
                exchange.advance(Duration::from_millis(1));
            }
            assert_eq!(exchange.held_back(), Some(1000), "{names:?}");
            assert_eq!(exchange.counters().panics, counted);
        }
    }
}
