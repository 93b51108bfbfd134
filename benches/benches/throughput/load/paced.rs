//! Requests at a fixed rate, whatever the replies do, and how long each was on its way since it should have been sent.

use std::time::{Duration, Instant};

use ringhold_benches::server::Server;
use ringhold_benches::times::{Times, times};

use super::echo::replies;
use crate::connection::{Crowd, Incoming, Outgoing, Ready};
use crate::grid::{Payload, Transport};
use crate::message::{FIRST, Message};

/// How long replies are waited for.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Paced {
    crowd: Crowd,
    outgoing: Outgoing,
    incoming: Incoming,
    ready: Vec<Ready>,
    schedule: Schedule,
}

/// Which request is due when: they go over the connections in turn.
struct Schedule {
    begin: Instant,
    /// Seconds from one to the next.
    step: f64,
    connections: usize,
    /// So many requests come first that are not timed: the connections are new, and the server's memory has left the caches
    /// while others were measured.
    warm: usize,
    /// How many requests there are in all, and how many were sent and answered.
    total: usize,
    sent: usize,
    answered: usize,
}

impl Schedule {
    fn new(rate: f64, length: Duration, connections: usize) -> Self {
        let timed = (rate * length.as_secs_f64()) as usize;
        let warm = timed / 2;
        Schedule {
            begin: Instant::now(),
            step: 1.0 / rate,
            connections,
            warm,
            total: warm + timed,
            sent: 0,
            answered: 0,
        }
    }

    /// How long ago a request should have been sent, in nanoseconds.
    fn since(&self, request: usize, now: Instant) -> u64 {
        let intended = Duration::from_secs_f64(request as f64 * self.step);
        let since = now - self.begin;
        since.saturating_sub(intended).as_nanos() as u64
    }

    /// How many requests should have been sent by now.
    fn due(&self, now: Instant) -> usize {
        let steps = (now - self.begin).as_secs_f64() / self.step;
        (steps as usize + 1).min(self.total)
    }
}

impl Paced {
    pub(crate) fn new(
        server: &Server,
        transport: Transport,
        connections: usize,
        payload: usize,
    ) -> Self {
        let payload = Payload::Of(payload);
        Paced {
            crowd: Crowd::connect(server, transport, connections),
            outgoing: Outgoing::new(&Message::requests(payload), 64),
            incoming: replies(server, payload),
            ready: Vec::new(),
            schedule: Schedule::new(1.0, Duration::ZERO, connections),
        }
    }

    /// Sends so many requests a second for so long, and for a moment before. The times to their replies, and how late they
    /// were sent.
    pub(crate) fn run(&mut self, rate: f64, length: Duration) -> (Times, Times) {
        let (mut latency, mut late) = (times(), times());
        self.crowd.number_from_first();
        self.schedule = Schedule::new(rate, length, self.crowd.connections.len());
        while self.schedule.answered < self.schedule.total {
            self.send_due(Instant::now(), &mut late);
            let mut ready = std::mem::take(&mut self.ready);
            self.crowd.look(&mut ready);
            for found in &ready {
                if found.writable {
                    self.crowd.send(found.index, &mut self.outgoing);
                }
                if found.readable {
                    let now = self.receive(found.index, &mut latency);
                    self.send_due(now, &mut late);
                }
            }
            self.ready = ready;
            let elapsed = self.schedule.begin.elapsed();
            assert!(elapsed < length + PATIENCE, "the server hangs");
        }
        (latency, late)
    }

    fn send_due(&mut self, now: Instant, late: &mut Times) {
        let schedule = &mut self.schedule;
        let from = schedule.sent;
        let to = schedule.due(now);
        for request in from..to {
            self.crowd.connections[request % schedule.connections].due += 1;
            if request >= schedule.warm {
                late.saturating_record(schedule.since(request, now).max(1));
            }
        }
        schedule.sent = to;
        // If there are more, they are on the same connections.
        let touched = (to - from).min(schedule.connections);
        for request in from..from + touched {
            let index = request % self.schedule.connections;
            self.crowd.send(index, &mut self.outgoing);
        }
    }

    fn receive(&mut self, index: usize, latency: &mut Times) -> Instant {
        let first = self.crowd.connections[index].expected - FIRST;
        let count = self.crowd.receive(index, &mut self.incoming);
        let now = Instant::now();
        for number in (first as usize..).take(count) {
            let request = number * self.schedule.connections + index;
            if request >= self.schedule.warm {
                latency.saturating_record(self.schedule.since(request, now).max(1));
            }
        }
        self.schedule.answered += count;
        now
    }

    /// One request after the other, each when the last is answered, on the first connection, for so long and for a moment before.
    pub(crate) fn round_trips(&mut self, length: Duration) -> Times {
        let mut latency = times();
        self.crowd.number_from_first();
        let warm = length / 2;
        let begin = Instant::now();
        let mut now = begin;
        while now - begin < warm + length {
            self.crowd.connections[0].due = 1;
            self.crowd.send(0, &mut self.outgoing);
            let mut answered = 0;
            while answered == 0 {
                self.crowd.look(&mut self.ready);
                if !self.ready.is_empty() {
                    answered = self.crowd.receive(0, &mut self.incoming);
                }
                assert!(begin.elapsed() < length + PATIENCE, "the server hangs");
            }
            let before = std::mem::replace(&mut now, Instant::now());
            if before - begin >= warm {
                latency.saturating_record((now - before).as_nanos() as u64);
            }
        }
        latency
    }
}
