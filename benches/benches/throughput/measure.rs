//! Windows, the servers' in turn.

use std::time::{Duration, Instant};

use ringhold_benches::server::{RINGHOLD, Server};
use ringhold_benches::threads::{self, Threads};
use ringhold_benches::turns::Turns;

use crate::accounting::{Counting, CpuClock, Profile, Tool, has_ring_workers};
use crate::grid::{Cell, Kind};
use crate::load::{self, Load};
use crate::results::{CellResult, Measured, Window};

/// How long a server may do nothing that is seen.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long ringhold's time is sampled, each time on new connections: the kernel's part differs more from some to others than
/// the samples of one time leave open.
const PROFILED: Duration = Duration::from_millis(100);

/// How often.
const PROFILES: usize = 5;

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    pub(crate) window: Duration,
    pub(crate) rounds: usize,
    /// What counts system calls, in a window of its own.
    pub(crate) counter: Option<Tool>,
    /// Whether to sample how much of ringhold's time is the kernel's, in windows of their own.
    pub(crate) profiles: bool,
}

/// Measures a cell: in each round one window of each server, in a random order.
pub(crate) fn cell(cell: &Cell, servers: &[&Server], effort: Effort) -> CellResult {
    let subjects = servers.iter().map(|server| Subject::new(cell, server));
    let mut subjects: Vec<Subject<'_>> = subjects.collect();
    let mut windows = vec![Vec::with_capacity(effort.rounds); servers.len()];
    let mut turns = Turns::new(&cell.to_string(), servers.len());
    for round in 0..effort.rounds {
        for &server in turns.next_round() {
            let subject = &mut subjects[server];
            if round > 0 {
                subject.connect_anew();
            }
            windows[server].push(subject.window(effort.window));
        }
    }
    let measured = subjects
        .iter_mut()
        .zip(windows)
        .map(|(subject, windows)| Measured {
            server: subject.server.name.clone(),
            windows,
            syscalls: effort
                .counter
                .and_then(|tool| subject.syscalls(tool, effort.window / 2)),
            kernel: if effort.profiles && is_profiled(cell) && subject.server.name == RINGHOLD {
                subject.kernel_shares()
            } else {
                Vec::new()
            },
            ring_workers: has_ring_workers(subject.server.pid()),
            busy_at_rest: subject.rest.busy(),
        });
    CellResult {
        cell: *cell,
        measured: measured.collect(),
    }
}

/// Whether it is in a table that says how much the kernel has.
fn is_profiled(cell: &Cell) -> bool {
    cell.workers == 1 && cell.kind != Kind::Connect
}

/// Keeps load on a server, and says how fast it is.
pub(crate) fn hold(cell: &Cell, server: &Server, length: Duration) {
    let mut subject = Subject::new(cell, server);
    let unit = cell.kind.unit();
    let begin = Instant::now();
    while begin.elapsed() < length {
        let window = subject.window(Duration::from_secs(1));
        println!(
            "{:.1} ns CPU/{unit}, {:.0} {unit}s/s",
            window.cpu_per_message(),
            window.rate()
        );
    }
}

/// What a server uses while others are measured, which should be nothing.
#[derive(Default)]
struct Rest {
    /// When its last window was over, and what it had used by then.
    since: Option<(Instant, Duration)>,
    wall: Duration,
    cpu: Duration,
}

impl Rest {
    fn begin(&mut self, clock: CpuClock) {
        self.since = Some((Instant::now(), clock.now()));
    }

    fn end(&mut self, clock: CpuClock) {
        if let Some((since, cpu)) = self.since.take() {
            self.wall += since.elapsed();
            self.cpu += clock.now() - cpu;
        }
    }

    /// How much of its CPU it used, 1 being all of it.
    fn busy(&self) -> f64 {
        self.cpu.as_secs_f64() / self.wall.as_secs_f64().max(1e-9)
    }
}

/// A server with the load of a cell.
struct Subject<'a> {
    cell: &'a Cell,
    server: &'a Server,
    load: Box<dyn Load + 'a>,
    clock: CpuClock,
    rest: Rest,
}

impl<'a> Subject<'a> {
    fn new(cell: &'a Cell, server: &'a Server) -> Self {
        Subject {
            cell,
            server,
            load: load::of(cell, server),
            clock: CpuClock::of(server.pid()),
            rest: Rest::default(),
        }
    }

    /// What TCP and the memory of the sockets settle into can be twice as fast or slow, and stays so for as long as the
    /// connections live. So each round has its own: the median is then not one throw of a coin.
    fn connect_anew(&mut self) {
        self.rest.end(self.clock);
        self.load = load::of(self.cell, self.server);
        self.rest.begin(self.clock);
    }

    /// Runs the load, and measures when it has run for a moment.
    fn window(&mut self, length: Duration) -> Window {
        let counts_sent = self.load.counts_sent();
        self.rest.end(self.clock);
        self.load.start();
        self.run(length / 2);
        if counts_sent {
            self.come_to_rest();
            self.load.start();
        }
        let threads = self.threads();
        let (begin, cpu) = (Instant::now(), self.clock.now());
        let mut messages = self.run(length);
        if counts_sent {
            messages += self.come_to_rest();
        }
        let window = Window {
            messages,
            cpu: self.clock.now() - cpu,
            wall: begin.elapsed(),
            busiest: threads::busiest(&threads, &self.threads()),
        };
        if !counts_sent {
            self.come_to_rest();
        }
        self.rest.begin(self.clock);
        window
    }

    /// None where there is but one that works.
    fn threads(&self) -> Threads {
        if self.cell.workers == 1 {
            return Threads::new();
        }
        threads::look(self.server.pid())
    }

    /// System calls a message, from rest to rest.
    fn syscalls(&mut self, tool: Tool, length: Duration) -> Option<f64> {
        let counting = Counting::start(tool, self.server.pid())?;
        self.load.start();
        let messages = self.run(length) + self.come_to_rest();
        let calls = counting.finish()?;
        Some(calls as f64 / messages as f64)
    }

    /// How much of its time the server spends in the kernel, 1 being all of it, each time on new connections.
    fn kernel_shares(&mut self) -> Vec<f64> {
        let share = |_| {
            self.load = load::of(self.cell, self.server);
            self.load.start();
            self.run(PROFILED / 2);
            let profile = Profile::start(self.server.pid());
            self.run(PROFILED);
            self.come_to_rest();
            profile.finish()
        };
        (0..PROFILES).filter_map(share).collect()
    }

    /// Runs the load for so long: how many messages were done. They are at least as many as are under way at once, however
    /// long that takes: fewer could be those that the server had done before.
    fn run(&mut self, length: Duration) -> u64 {
        let least = (self.cell.connections * self.cell.depth) as u64;
        let begin = Instant::now();
        let mut messages = 0;
        while begin.elapsed() < length || messages < least {
            messages += self.load.turn();
            self.check(begin, length);
        }
        messages
    }

    /// Stops the load and lets the server do what it has: how many messages were done.
    fn come_to_rest(&mut self) -> u64 {
        let begin = Instant::now();
        self.load.stop();
        let mut messages = 0;
        while !self.load.is_at_rest() {
            messages += self.load.turn();
            self.check(begin, Duration::ZERO);
        }
        messages
    }

    fn check(&self, begin: Instant, length: Duration) {
        let (server, cell) = (&self.server.name, self.cell);
        assert!(
            begin.elapsed() < length + PATIENCE,
            "{server} hangs in {cell}"
        );
    }
}
