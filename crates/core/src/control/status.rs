//! The status line, and what else the main thread does from time to time.

use std::time::{Duration, Instant};

use super::turns::{Found, Turns};
use crate::handover::killed;
use crate::metrics::{NameTotals, Snapshot};
use crate::notify;
use crate::plain;
use crate::running::Running;

/// How often `STATUS=` is brought up to date, memory given back, and a killed child looked for.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// A worker that is found in the same turn so often, when the status line is brought up to date, is said to be blocked.
const BLOCKED_LOOKS: u32 = 2;

/// The line that `systemctl status` shows, and what else is done as often.
pub(super) struct Status {
    pub(super) next: Instant,
    before: Option<(Instant, NameTotals)>,
    line: String,
    /// The last reload was refused: somebody waits for a change that has not come.
    refused: bool,
    /// Nothing if somebody else sees to workers that take no turns.
    pub(super) turns: Option<Turns>,
}

impl Status {
    pub(super) fn new() -> Self {
        Status {
            next: Instant::now(),
            before: None,
            line: String::new(),
            refused: false,
            turns: Some(Turns::of_awake()),
        }
    }

    pub(super) fn update(&mut self, running: &Running, now: Instant) {
        if now < self.next {
            return;
        }
        self.next = now + STATUS_INTERVAL;
        self.renew(running, now);
        running.give_memory_back();
        killed::reap();
        if let Some(turns) = &mut self.turns {
            let found = turns.look(running);
            found.iter().for_each(|found| say_blocked(found, running));
        }
    }

    /// The line says so at once. Who takes turns is looked at in its own time.
    pub(super) fn refuse(&mut self, running: &Running, now: Instant) {
        self.refused = true;
        self.renew(running, now);
    }

    fn renew(&mut self, running: &Running, now: Instant) {
        let snapshot: Snapshot = running.metrics().snapshot();
        let total = snapshot.total();
        let mut line = match &self.before {
            None => "serving".to_owned(),
            Some((at, before)) => line(&total, before, now.duration_since(*at)),
        };
        if self.refused {
            line.push_str("; the last reload was refused, the log says why");
        }
        if line != self.line {
            // Otherwise the same line is new the next time, too.
            if notify::status(&line) {
                self.line = line;
            }
        }
        self.before = Some((now, total));
    }
}

/// Says once that a worker is blocked, and once that it goes on. For which client comes out when the call returns, as of every slow one.
fn say_blocked(found: &Found, running: &Running) {
    let worker = found.worker;
    if found.looks == BLOCKED_LOOKS {
        tracing::error!(
            "worker {worker} has taken no turn for {:?}: {}, and nobody on this worker is served",
            STATUS_INTERVAL * BLOCKED_LOOKS,
            running.holdup(worker)
        );
    } else if found.looks == 0 && found.before >= BLOCKED_LOOKS {
        tracing::warn!("worker {worker} takes turns again");
    }
}

fn line(total: &NameTotals, before: &NameTotals, elapsed: Duration) -> String {
    let per_second =
        |now: u64, then: u64| now.wrapping_sub(then) as f64 / elapsed.as_secs_f64().max(0.001);
    format!(
        "{}, {:.0} frames/s, {:.1} kB/s in, {:.1} kB/s out",
        plain::connections(total.open),
        per_second(total.frames_in, before.frames_in),
        per_second(total.bytes_in, before.bytes_in) / 1e3,
        per_second(total.bytes_out, before.bytes_out) / 1e3,
    )
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier};

    use super::*;
    use crate::answering::answering;
    use crate::config::Config;
    use crate::frame::Frame;
    use crate::inherit::Inherited;
    use crate::peer::Peer;
    use crate::reply::Reply;
    use crate::server::Server;
    use crate::service::{Flow, Refusal, Service};
    use crate::tick::Tick;

    /// Does not return from its first call before somebody else comes to the barrier twice.
    struct Blocked(Arc<Barrier>);

    impl Service for Blocked {
        type Session = ();

        fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
            Ok(())
        }

        fn frame(&mut self, _: &mut (), _: Frame<'_>, _: &mut Reply<'_>) -> Flow {
            Flow::Continue
        }

        fn tick(&mut self, _: &Tick<'_>) -> Option<Duration> {
            self.0.wait();
            self.0.wait();
            None
        }
    }

    #[test]
    fn a_refused_reload_makes_nobody_blocked() {
        let barrier = Arc::new(Barrier::new(2));
        let blocked = barrier.clone();
        let running = Server::new(Config::parse("workers = 1", "test").unwrap())
            .inherited(Inherited::none())
            .service("blocked", move |_| Blocked(blocked.clone()))
            .start()
            .unwrap();
        barrier.wait();
        let mut status = Status::new();
        let start = Instant::now();
        status.update(&running, start);
        for _ in 0..BLOCKED_LOOKS {
            status.refuse(&running, start);
            status.update(&running, start);
        }
        status.update(&running, start + STATUS_INTERVAL);
        let found = status.turns.as_mut().unwrap().look(&running);
        barrier.wait();
        assert_eq!(found[0].before, 1, "it was looked at twice");
        running.stop();
        running.join().unwrap();
    }

    #[test]
    fn who_is_blocked_is_named() {
        let barrier = Arc::new(Barrier::new(2));
        let blocked = barrier.clone();
        let running = Server::new(Config::parse("workers = 1", "test").unwrap())
            .inherited(Inherited::none())
            .service("other", |_| answering(|_, _| Flow::Continue))
            .service("blocked", move |_| Blocked(blocked.clone()))
            .start()
            .unwrap();
        barrier.wait();
        let holdup = running.holdup(0);
        barrier.wait();
        assert_eq!(holdup, "a call of service blocked (tick) does not return");
        // Who sleeps is in no call.
        while !running.is_asleep(0) {
            std::thread::yield_now();
        }
        assert_eq!(running.holdup(0), "it is in no call of a service");
        running.stop();
        running.join().unwrap();
    }

    #[test]
    fn the_status_line_shows_rates() {
        let before = NameTotals {
            frames_in: 100,
            bytes_in: 0,
            ..NameTotals::default()
        };
        let total = NameTotals {
            open: 3,
            frames_in: 600,
            bytes_in: 10_000,
            bytes_out: 5000,
            ..before
        };
        assert_eq!(
            line(&total, &before, Duration::from_secs(5)),
            "3 connections, 100 frames/s, 2.0 kB/s in, 1.0 kB/s out"
        );
    }
}
