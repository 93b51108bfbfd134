//! How long are clients kept waiting by a restart and by a reload? The bench is the service manager itself, without root
//! and without systemd, and has a steady client that checks every reply.
//!
//! `cargo bench -p ringhold-benches --bench restart`; a part of it with a filter behind `--`, such as `ringhold/reload`,
//! and a quick one with `--quick`. The times are criterion's; the table at the end has the medians of all runs, what the
//! clients saw meanwhile, and the targets.
//!
//! * `cold`: exec to READY of a first start, with no client.
//! * `exec-to-ready`, `term-to-ready`: of a restart, with so many connections handed on. The latter has no fork in it: the
//!   successor is forked before SIGTERM, and waits for its descriptors.
//! * `reload`: SIGHUP to READY. Most of it is the test run of the new binary, while the old one serves.
//! * `restart-gap`, `reload-gap`: the longest time that any connection of the steady client was without a reply.
//! * `undisturbed-gap`: the same if nothing is done, which is what this machine can tell.
//!
//! Beside ringhold there is `examples/plain_tokio.rs`, with its socket from the service manager: it can be restarted, at the
//! cost of its connections.
//!
//! Then, unless there is a filter, comes a table of what clients see when the program of ringhold is replaced, and those of others:
//! tokio, and nginx and haproxy if they are installed (`beside.rs`). `--servers A,B`, or `--servers all`, is that table alone, with
//! `--connections N` and `--rounds N`.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    reason = "a bench that cannot go on should say where"
)]

mod beside;
mod clients;
mod manager;
mod summary;

use std::path::{Path, PathBuf};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode};
use ringhold_benches::daemon;
use ringhold_client::{Address, Client, Options};

use clients::{Open, STEADY, Steady};
use manager::Manager;
use summary::{Operation, Run, Runs};

fn main() {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments
        .next_if(|first| first == manager::LAUNCH)
        .is_some()
    {
        manager::launch(arguments);
    }
    let arguments: Vec<String> = arguments.collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        return beside::smoke();
    }
    ringhold_core::rlimit::raise().unwrap();
    let option = |name: &str| {
        let place = arguments.iter().position(|argument| argument == name)?;
        Some(arguments[place + 1].as_str())
    };
    let number = |name, default| option(name).map_or(default, |text| text.parse().unwrap());
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let plan = beside::Plan {
        connections: number("--connections", 100),
        rounds: number("--rounds", if quick { 3 } else { 15 }),
        window: beside::WINDOW,
    };
    if let Some(names) = option("--servers") {
        return beside::compare(names, &plan);
    }
    // Both are needed in the end, and nothing else runs while they are built.
    let servers = [
        Server::Ringhold(daemon::build().unwrap()),
        Server::PlainTokio(daemon::build_example("plain_tokio").unwrap()),
    ];
    let sizes: &[usize] = if quick {
        &[0, 1000]
    } else {
        &[0, 100, 1000, 5000]
    };
    let mut criterion = Criterion::default()
        .sample_size(10)
        .nresamples(10_000)
        // One run is enough to warm up, and one makes a sample.
        .warm_up_time(Duration::from_millis(1))
        .measurement_time(Duration::from_secs(1))
        .without_plots()
        .configure_from_args();
    let mut runs = Runs::begin();
    for server in &servers {
        bench(&mut criterion, server, sizes, &mut runs);
    }
    criterion.final_summary();
    println!("{runs}");
    if arguments.iter().all(|argument| argument.starts_with('-')) {
        beside::compare("all", &plan);
    }
}

/// A program that is restarted.
enum Server {
    Ringhold(PathBuf),
    PlainTokio(PathBuf),
}

impl Server {
    fn name(&self) -> &'static str {
        match self {
            Server::Ringhold(_) => "ringhold",
            Server::PlainTokio(_) => "plain-tokio",
        }
    }

    fn manager(&self) -> Manager {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        match self {
            Server::Ringhold(path) => {
                let program = text(path);
                let program = [&program, "serve", "--config", "DIR/ringhold.toml"];
                Manager::new(&program, "[sockets.rpc]\n")
            }
            Server::PlainTokio(path) => Manager::new(&[&text(path)], ""),
        }
    }
}

/// What criterion calls it, what is done, and which of its times is taken.
type Measure = (&'static str, Operation, fn(&Run) -> Duration);

const MEASURES: [Measure; 6] = [
    ("undisturbed-gap", Operation::Nothing, |run| run.gap),
    ("exec-to-ready", Operation::Restart, |run| run.start),
    ("term-to-ready", Operation::Restart, |run| run.whole),
    ("restart-gap", Operation::Restart, |run| run.gap),
    ("reload", Operation::Reload, |run| run.whole),
    ("reload-gap", Operation::Reload, |run| run.gap),
];

fn bench(criterion: &mut Criterion, server: &Server, sizes: &[usize], runs: &mut Runs) {
    let mut group = criterion.benchmark_group(server.name());
    group.sampling_mode(SamplingMode::Flat);
    let mut scene = None;
    group.bench_function("cold", |bencher| {
        let scene = scene.get_or_insert_with(|| Scene::new(server, 0));
        bencher.iter_custom(|times| {
            let run = |_| {
                runs.add(server.name(), 0, Operation::Cold, scene.cold())
                    .start
            };
            (0..times).map(run).sum()
        });
    });
    for &size in sizes {
        // Only made if the filter lets something through.
        let mut scene = None;
        for (name, operation, time) in MEASURES {
            if operation == Operation::Reload && matches!(server, Server::PlainTokio(_)) {
                continue;
            }
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                let scene = scene.get_or_insert_with(|| Scene::new(server, size));
                bencher.iter_custom(|times| {
                    let run = |_| {
                        let run = scene.run(operation);
                        time(runs.add(server.name(), size, operation, run))
                    };
                    (0..times).map(run).sum()
                });
            });
        }
    }
    group.finish();
}

/// How long nothing is done, where that is measured: about as long as a restart.
const UNDISTURBED: Duration = Duration::from_millis(20);

/// A server that runs, and its open connections.
struct Scene {
    manager: Manager,
    open: Open,
    hands_over: bool,
}

impl Scene {
    fn new(server: &Server, connections: usize) -> Self {
        let mut manager = server.manager();
        let launcher = manager.prepare();
        manager.start(launcher);
        let open = Open::new(manager.address(), connections);
        Scene {
            manager,
            open,
            hands_over: matches!(server, Server::Ringhold(_)),
        }
    }

    /// Stops for good and starts anew, with no client.
    fn cold(&mut self) -> Run {
        let launcher = self.manager.prepare();
        let stop = self.manager.stop();
        self.manager.forget();
        let start = self.manager.start(launcher);
        Run {
            stop,
            start,
            whole: stop + start,
            ..Run::default()
        }
    }

    /// Restarts, reloads or waits, with the steady client beside.
    fn run(&mut self, operation: Operation) -> Run {
        let steady = Steady::start(self.manager.address());
        let mut run = Run::default();
        match operation {
            Operation::Nothing => std::thread::sleep(UNDISTURBED),
            Operation::Reload => run.whole = self.manager.reload(),
            Operation::Cold | Operation::Restart => {
                let launcher = self.manager.prepare();
                run.stop = self.manager.stop();
                run.start = self.manager.start(launcher);
                run.whole = run.stop + run.start;
            }
        }
        let asked = self.hands_over && operation != Operation::Nothing;
        let restored = asked.then(|| restored(&self.manager));
        let report = steady.end();
        let cut = self.open.check();
        if let Some(restored) = restored {
            let expected = (self.open.len() + STEADY) as u64;
            let clean = report.counts.is_clean() && cut == 0 && restored >= expected;
            assert!(
                clean,
                "{restored} of {expected} handed on, {cut} cut\n{report}\n{}",
                self.manager.log()
            );
        }
        run.gap = Duration::from_nanos(report.longest_gap_ns);
        run.checked = report.counts.answered + self.open.len() as u64;
        run.measured = report.measured;
        run.time = report.duration;
        run.lost = report.counts.lost;
        run.disconnected = report.counts.disconnects + cut;
        run
    }
}

/// How many connections the running process took over from its predecessor.
fn restored(manager: &Manager) -> u64 {
    let address = Address::Tcp(manager.address());
    let mut client = Client::connect(&address, Options::default()).unwrap();
    let encoded = client.call_raw("status", &[0x90]).unwrap();
    let status = rmpv::decode::read_value(&mut &encoded[..]).unwrap();
    status["names"]["rpc"]["restored"].as_u64().unwrap()
}
