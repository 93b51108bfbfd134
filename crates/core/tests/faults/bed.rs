//! Where a test happens: its own process, and what must be true when its server is gone.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ringhold_core::Server;
use ringhold_core::config::Config;
use ringhold_core::inherit::Inherited;
use ringhold_core::metrics::Snapshot;

pub(crate) use ringhold_core::EngineKind as Engine;

pub(crate) use crate::common::assert_no_kernel_workers;
pub(crate) use crate::common::bed::Bed;
use crate::common::bed::WATCHED;
use crate::common::{PATIENCE, thread_names};

const CHILD: &str = "RINGHOLD_FAULTS_CHILD";

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
    let text = format!("engine = \"{engine}\"\nworkers = 1\n");
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

/// Says the counters if it goes in a panic: what a peer did not get does not tell why.
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
        // Whatever waits has given up by then, and said what for.
        std::thread::sleep(2 * PATIENCE);
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
                start.elapsed() < PATIENCE / 2,
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

impl Bed {
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
        self.stop();
        self.until("the workers' end", |_| {
            !thread_names()
                .iter()
                .any(|name| name.starts_with("ringhold"))
        });
        assert_eq!(self.memory_held(), 0);
        self.end()
    }
}
