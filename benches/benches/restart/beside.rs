//! What clients see when a server's program is replaced: ringhold, and others as whoever knows them well would run them.
//!
//! Each replacement is one of a server of its own, with kept connections under steady requests for as long as all the others have.
//! Every server has one thread, or process, that answers.

mod crowd;
mod proxies;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ringhold_benches::daemon;
use ringhold_benches::statistics::median;
use ringhold_benches::turns::Turns;

use crate::manager::Manager;
use crate::summary::load;
use crowd::{Crowd, PERIOD, Protocol, SLOW, Seen};
use proxies::{Kind, Proxy};

/// All servers.
const ALL: [&str; 4] = ["ringhold", "tokio", "nginx", "haproxy"];

/// For how long clients go on: twice as long as the servers that close connections take for it.
pub(crate) const WINDOW: Duration = Duration::from_secs(2);

/// How long the connections of tokio's predecessor may wait for one more request.
const GRACE_MS: &str = "1000";

pub(crate) struct Plan {
    pub(crate) connections: usize,
    pub(crate) rounds: usize,
    /// For how long the clients go on, unless a replacement takes longer.
    pub(crate) window: Duration,
}

enum Program {
    Ringhold(PathBuf),
    Tokio(PathBuf),
    Proxy(proxies::Program),
}

/// What is done to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Replacement {
    Nothing,
    Reload,
    /// Stopped and started, with the listening socket and a store of descriptors kept.
    Restart,
    /// The successor is ready before the predecessor is stopped.
    SuccessorFirst,
    /// That of nginx's program by a second master.
    Upgrade,
}

enum Running {
    Managed(Manager),
    Proxied(Proxy),
}

impl Program {
    /// Builds or finds these.
    fn all(names: &[&str]) -> Vec<Self> {
        let found = names.iter().filter_map(|name| match *name {
            "ringhold" => Some(Program::Ringhold(daemon::build().unwrap())),
            "tokio" => Some(Program::Tokio(
                daemon::build_example("plain_tokio").unwrap(),
            )),
            "nginx" => Kind::Nginx.find().map(Program::Proxy),
            "haproxy" => Kind::Haproxy.find().map(Program::Proxy),
            other => panic!("there is no server {other}"),
        });
        found.collect()
    }

    fn name(&self) -> &'static str {
        match self {
            Program::Ringhold(_) => "ringhold",
            Program::Tokio(_) => "tokio",
            Program::Proxy(program) => program.kind.name(),
        }
    }

    fn protocol(&self) -> Protocol {
        match self {
            Program::Ringhold(_) | Program::Tokio(_) => Protocol::MessagePack,
            Program::Proxy(_) => Protocol::Http,
        }
    }

    fn replacements(&self) -> &'static [Replacement] {
        use Replacement::{Nothing, Reload, Restart, SuccessorFirst, Upgrade};
        match self {
            Program::Ringhold(_) => &[Nothing, Reload, Restart],
            Program::Tokio(_) => &[Nothing, SuccessorFirst],
            Program::Proxy(program) if program.kind == Kind::Nginx => &[Nothing, Reload, Upgrade],
            Program::Proxy(_) => &[Nothing, Reload],
        }
    }

    fn start(&self) -> Running {
        let mut manager = match self {
            Program::Proxy(program) => return Running::Proxied(Proxy::start(program)),
            Program::Ringhold(path) => {
                let program = [
                    path.to_str().unwrap(),
                    "serve",
                    "--config",
                    "DIR/ringhold.toml",
                ];
                Manager::new(&program, "workers = 1\n[sockets.rpc]\n")
            }
            Program::Tokio(path) => {
                let path = path.to_str().unwrap();
                let program = [
                    "env",
                    "TOKIO_WORKER_THREADS=1",
                    path,
                    "--grace-ms",
                    GRACE_MS,
                ];
                Manager::new(&program, "")
            }
        };
        let launcher = manager.prepare();
        manager.start(launcher);
        Running::Managed(manager)
    }

    /// One replacement, with clients.
    fn run(&self, what: Replacement, plan: &Plan) -> Seen {
        let mut running = self.start();
        let crowd = Crowd::start(running.address(), self.protocol(), plan.connections);
        let begin = Instant::now();
        // A moment as always first. haproxy loses a signal that comes while it has just begun to serve, too.
        std::thread::sleep(plan.window / 4);
        running.replace(what);
        std::thread::sleep(plan.window.saturating_sub(begin.elapsed()));
        if let (Program::Ringhold(_), Running::Managed(manager)) = (self, &running)
            && what != Replacement::Nothing
        {
            let restored = crate::restored(manager);
            // One that asks for so many has come and gone.
            assert!(restored >= plan.connections as u64, "{}", manager.log());
        }
        crowd.end()
    }
}

impl Running {
    fn address(&self) -> SocketAddr {
        match self {
            Running::Managed(manager) => manager.address(),
            Running::Proxied(proxy) => proxy.address,
        }
    }

    /// Returns when the program before, or its process, is gone.
    fn replace(&mut self, what: Replacement) {
        match (self, what) {
            (_, Replacement::Nothing) => {}
            (Running::Managed(manager), Replacement::Reload) => {
                manager.reload();
            }
            (Running::Managed(manager), Replacement::Restart) => {
                let launcher = manager.prepare();
                manager.stop();
                manager.start(launcher);
            }
            (Running::Managed(manager), Replacement::SuccessorFirst) => {
                manager.succeed(manager.prepare());
            }
            (Running::Proxied(proxy), Replacement::Reload) => proxy.reload(),
            (Running::Proxied(proxy), Replacement::Upgrade) => proxy.upgrade(),
            (_, other) => panic!("it has no {other:?}"),
        }
    }
}

/// A line of the table.
struct Row<'a> {
    program: &'a Program,
    what: Replacement,
    seen: Vec<Seen>,
}

/// Replaces each of the programs in each of its ways, in rounds of random order.
fn rows<'a>(programs: &'a [Program], plan: &Plan) -> Vec<Row<'a>> {
    let each = programs.iter().flat_map(|program| {
        let row = |what: &Replacement| Row {
            program,
            what: *what,
            seen: Vec::new(),
        };
        program.replacements().iter().map(row)
    });
    let mut rows: Vec<Row<'_>> = each.collect();
    let mut turns = Turns::new("replacements", rows.len());
    for _ in 0..plan.rounds {
        for index in turns.next_round() {
            let row = &mut rows[*index];
            row.seen.push(row.program.run(row.what, plan));
        }
    }
    rows
}

/// Prints what the clients of these servers see, or of `all`, those being left out that are not installed.
pub(crate) fn compare(servers: &str, plan: &Plan) {
    let names: Vec<&str> = match servers {
        "all" => ALL.to_vec(),
        some => some.split(',').collect(),
    };
    let programs = Program::all(&names);
    println!(
        "\nWhat clients see when the program is replaced: {} connections, a request on each every {} ms, for {} ms; {} rounds.",
        plan.connections,
        PERIOD.as_millis(),
        plan.window.as_millis(),
        plan.rounds
    );
    for name in &names {
        if !programs.iter().any(|program| program.name() == *name) {
            println!("{name} is left out, since it is not installed.");
        }
    }
    for program in &programs {
        if let Program::Proxy(program) = program {
            println!("{}", program.version);
        }
    }
    let before = load();
    let rows = rows(&programs, plan);
    println!(
        "Load average {before} at the beginning, {} at the end.",
        load()
    );
    println!("Medians of a replacement, and in parentheses the worst.\n");
    println!(
        "| server | what | closed | unanswered | refused | longest gap, ms | slower than {} ms | replies checked |",
        SLOW.as_millis()
    );
    println!("|---|---|--:|--:|--:|--:|--:|--:|");
    for row in &rows {
        println!("{row}");
    }
}

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figure = |digits: usize, of: fn(&Seen) -> f64| {
            let all: Vec<f64> = self.seen.iter().map(of).collect();
            let worst = all.iter().copied().fold(0.0, f64::max);
            format!("{:.digits$} ({worst:.digits$})", median(&all))
        };
        let replies: u64 = self.seen.iter().map(|seen| seen.replies).sum();
        write!(
            f,
            "| {} | {} | {} | {} | {} | {} | {} | {replies} |",
            self.program.name(),
            match self.what {
                Replacement::Nothing => "nothing",
                Replacement::Reload => "reload",
                Replacement::Restart => "restart, with a store",
                Replacement::SuccessorFirst => "restart, the successor first",
                Replacement::Upgrade => "upgrade by USR2 and QUIT",
            },
            figure(0, |seen| seen.closed as f64),
            figure(0, |seen| seen.unanswered as f64),
            figure(0, |seen| seen.refused as f64),
            figure(1, |seen| seen.gap.as_secs_f64() * 1e3),
            figure(0, |seen| seen.slow as f64),
        )
    }
}

/// The comparison in its smallest form, with what needs no other program, as a test: what the clients must see, and not how fast.
pub(crate) fn smoke() {
    let plan = Plan {
        connections: 4,
        rounds: 1,
        window: Duration::from_millis(100),
    };
    let programs = Program::all(&["ringhold", "tokio"]);
    for row in rows(&programs, &plan) {
        println!("{row}");
        // The kept connections of a server that cannot hand them over, each of them once.
        let closed = match row.what {
            Replacement::SuccessorFirst => plan.connections as u64,
            _ => 0,
        };
        let seen = &row.seen[0];
        assert_eq!((seen.closed, seen.refused), (closed, 0), "{row}");
        assert!(seen.unanswered <= closed, "{row}");
        assert!(seen.replies >= plan.connections as u64, "{row}");
    }
}
