//! Where a test happens: its own process, its server, and what must be true when both are gone.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ringhold_core::config::Config;
use ringhold_core::inherit::Inherited;
use ringhold_core::listeners::Address;
use ringhold_core::metrics::{EngineTotals, Metrics, NameTotals, Snapshot};
use ringhold_core::{Running, Server};

/// Nothing in these tests takes so long unless it hangs.
pub(crate) const SAFETY_NET: Duration = Duration::from_secs(180);

const CHILD: &str = "RINGHOLD_FAULTS_CHILD";

/// The engine that a test runs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Ring,
    Portable,
}

impl Engine {
    /// As the configuration calls it.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Engine::Ring => "ring",
            Engine::Portable => "portable",
        }
    }
}

/// Runs `test` in a process of its own, which is this program with `name` as the only test.
pub(crate) fn isolated(name: &str, engine: Engine, test: fn(Engine)) {
    if std::env::var_os(CHILD).is_some() {
        watch();
        warm_up(engine);
        let before = Surroundings::now();
        let _last_words = LastWords;
        test(engine);
        if !LEAKS.load(Ordering::Relaxed) {
            before.come_back();
        }
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let passed = output.status.success() && out.contains("1 passed");
    println!("{out}\n{err}");
    assert!(passed, "{}", output.status);
}

/// The test leaves descriptors behind, as documented.
pub(crate) static LEAKS: AtomicBool = AtomicBool::new(false);

/// Starts and stops a server, so that what a process makes once and keeps is there before the test: tokio's signal
/// handling, for one, if anything in the workspace asks for that feature. A probe tries the other engine, too.
fn warm_up(engine: Engine) {
    let threads = thread_names().len();
    ringhold_core::probe::probe();
    let text = format!("engine = \"{}\"\nworkers = 1\n", engine.key());
    let running = Server::new(Config::parse(&text, "warm-up").unwrap())
        .inherited(Inherited::none())
        .start()
        .unwrap();
    running.stop();
    running.join().unwrap();
    // A thread that was joined is still listed for a moment.
    while thread_names().len() > threads {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The counters of the server that runs, for the last words of a test that fails or hangs.
static WATCHED: Mutex<Option<Arc<Metrics>>> = Mutex::new(None);

/// Says them if it goes in a panic: what a peer did not get does not tell why.
struct LastWords;

impl LastWords {
    fn say() {
        if let Some(metrics) = &*WATCHED.lock().unwrap() {
            eprintln!("{:#?}", metrics.snapshot());
        }
    }
}

impl Drop for LastWords {
    fn drop(&mut self) {
        if std::thread::panicking() {
            Self::say();
        }
    }
}

/// Ends the process if it hangs.
fn watch() {
    std::thread::spawn(|| {
        std::thread::sleep(SAFETY_NET);
        eprintln!("this test hangs");
        LastWords::say();
        std::process::abort();
    });
}

/// What a process has that it could leak.
#[derive(Debug, PartialEq, Eq)]
struct Surroundings {
    descriptors: BTreeSet<String>,
    threads: usize,
}

impl Surroundings {
    fn now() -> Self {
        Surroundings {
            descriptors: descriptors(),
            threads: thread_names().len(),
        }
    }

    /// Waits until nothing is left of the test. A thread that was joined is still listed for a moment.
    fn come_back(&self) {
        let start = Instant::now();
        while Surroundings::now() != *self {
            assert!(
                start.elapsed() < SAFETY_NET / 4,
                "left behind: {:?}, before: {self:?}, threads: {:?}",
                Surroundings::now(),
                thread_names(),
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The numbers of the open descriptors and what they are.
fn descriptors() -> BTreeSet<String> {
    std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| {
            let entry = entry.unwrap();
            // The descriptor of this very directory is gone when it is looked at.
            let target = std::fs::read_link(entry.path()).ok()?;
            let (number, target) = (entry.file_name(), target.to_string_lossy().into_owned());
            (!target.starts_with("/proc/"))
                .then(|| format!("{} {target}", number.to_string_lossy()))
        })
        .collect()
}

fn thread_names() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
    names.map(|name| name.trim_end().to_owned()).collect()
}

/// The kernel makes a thread of this name when an operation cannot be done without blocking: none of ours may.
pub(crate) fn assert_no_kernel_workers() {
    let threads = thread_names();
    assert!(
        !threads.iter().any(|name| name.starts_with("iou-")),
        "{threads:?}"
    );
}

/// A server that runs, and what it was configured with.
pub(crate) struct Bed {
    pub(crate) engine: Engine,
    running: Running,
    metrics: Arc<Metrics>,
    /// Holds the paths of unix sockets.
    directory: Option<tempfile::TempDir>,
}

impl Bed {
    /// Starts a server with this engine and this configuration, in which `@` stands for a directory of its own.
    /// `services` adds what its sockets name.
    pub(crate) fn start(
        engine: Engine,
        config: &str,
        services: impl FnOnce(Server) -> Server,
    ) -> Bed {
        Self::start_inheriting(engine, config, Inherited::none(), services)
    }

    /// As [`Bed::start`], with these sockets inherited.
    pub(crate) fn start_inheriting(
        engine: Engine,
        config: &str,
        inherited: Inherited,
        services: impl FnOnce(Server) -> Server,
    ) -> Bed {
        let directory = config.contains('@').then(|| tempfile::tempdir().unwrap());
        let path = directory
            .as_ref()
            .map_or(String::new(), |dir| dir.path().display().to_string());
        let text = format!(
            "engine = \"{}\"\n{}",
            engine.key(),
            config.replace('@', &path)
        );
        let config = Config::parse(&text, "test").unwrap_or_else(|error| panic!("{error}"));
        let running = services(Server::new(config).inherited(inherited))
            .start()
            .unwrap();
        let metrics = running.metrics().clone();
        *WATCHED.lock().unwrap() = Some(metrics.clone());
        Bed {
            engine,
            running,
            metrics,
            directory,
        }
    }

    /// The addresses of the TCP listeners of a name.
    pub(crate) fn addresses(&self, name: &str) -> Vec<SocketAddr> {
        let listeners = self.running.listeners();
        let named = listeners.filter(|listener| &*listener.name == name);
        named
            .filter_map(|listener| match listener.address {
                Address::Tcp(address) => Some(address),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn address(&self, name: &str) -> SocketAddr {
        self.addresses(name)[0]
    }

    /// A connection to the first TCP listener of a name, which sends without waiting and does not wait for ever.
    pub(crate) fn connect(&self, name: &str) -> TcpStream {
        crate::client::connect(self.address(name))
    }

    /// The path of the unix socket `file` in the directory of this server.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.directory.as_ref().unwrap().path().join(file)
    }

    pub(crate) fn connect_unix(&self, file: &str) -> UnixStream {
        crate::client::connect_unix(&self.path(file))
    }

    /// The listener of a name, once more.
    pub(crate) fn duplicate_listener(&self, name: &str) -> std::os::fd::OwnedFd {
        let mut listeners = self.running.listeners();
        let listener = listeners.find(|listener| &*listener.name == name).unwrap();
        listener.socket.try_clone().unwrap()
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.metrics.snapshot()
    }

    /// The counters of all names.
    pub(crate) fn total(&self) -> NameTotals {
        self.snapshot().total()
    }

    /// The counters of one name.
    pub(crate) fn name(&self, name: &str) -> NameTotals {
        self.snapshot().name(name).unwrap()
    }

    /// The counters of all engines.
    pub(crate) fn counters(&self) -> EngineTotals {
        let mut total = EngineTotals::default();
        for worker in &self.snapshot().workers {
            total.add(&worker.engine);
        }
        total
    }

    pub(crate) fn memory_held(&self) -> u64 {
        self.running.memory_held()
    }

    /// Waits until `condition` holds. `what` says what was waited for if it never does.
    pub(crate) fn until(&self, what: &str, mut condition: impl FnMut(&Bed) -> bool) {
        let start = Instant::now();
        while !condition(self) {
            assert!(start.elapsed() < SAFETY_NET / 2, "never: {what}");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Waits until the server has received so many bytes in all.
    pub(crate) fn until_received(&self, bytes: u64) {
        self.until("bytes received", |bed| bed.total().bytes_in >= bytes);
    }

    /// Waits until so many connections are open.
    pub(crate) fn until_open(&self, count: u64) {
        self.until("connections open", |bed| bed.total().open == count);
    }

    /// Waits until so many connections of a name are open.
    pub(crate) fn until_open_on(&self, name: &str, count: u64) {
        self.until("connections open", |bed| bed.name(name).open == count);
    }

    /// Tells the server to stop.
    pub(crate) fn stop(&self) {
        self.running.stop();
    }

    /// Stops the server, waits for its end, and checks that it left nothing behind. Returns the last counters.
    pub(crate) fn finish(self) -> Snapshot {
        let snapshot = self.finish_with_leases();
        for worker in &snapshot.workers {
            assert_eq!(worker.engine.leased, 0, "{snapshot:#?}");
        }
        snapshot
    }

    /// As [`Bed::finish`], for services that keep frames beyond the end of their worker.
    pub(crate) fn finish_with_leases(self) -> Snapshot {
        assert_no_kernel_workers();
        self.running.stop();
        self.until("the workers' end", |_| {
            !thread_names()
                .iter()
                .any(|name| name.starts_with("ringhold"))
        });
        assert_eq!(self.running.memory_held(), 0);
        self.running.join().unwrap();
        let snapshot = self.metrics.snapshot();
        assert_eq!(snapshot.total().open, 0, "{snapshot:#?}");
        snapshot
    }
}
