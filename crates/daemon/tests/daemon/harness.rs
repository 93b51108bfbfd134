//! Starts the daemon as a service manager does, and talks to it.
//!
//! Every wait has one generous limit, [`PATIENCE`]; nothing asserts how long anything takes.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringhold_client::{Address, Client};
use tempfile::TempDir;

use crate::common::wire::{self, connect, counter};
use crate::common::{PATIENCE, clean, until};

/// Makes each of these functions, which take the name of an engine, two tests.
macro_rules! with_both_engines {
    ($($test:ident,)*) => {
        /// With the engine that suits this kernel best.
        mod auto {
            $(#[test] fn $test() { super::$test("auto"); })*
        }
        mod portable {
            $(#[test] fn $test() { super::$test("portable"); })*
        }
    };
}
pub(crate) use with_both_engines;

/// The command, in an environment that says nothing about service managers.
pub(crate) fn ringhold() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringhold"));
    clean(&mut command);
    command
}

/// Runs the command to its end: status, stdout and stderr.
pub(crate) fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = ringhold()
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    parts(&output)
}

pub(crate) fn parts(output: &Output) -> (i32, String, String) {
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8(output.stdout.clone()).unwrap(),
        String::from_utf8(output.stderr.clone()).unwrap(),
    )
}

/// A process that serves.
pub(crate) struct Daemon {
    child: Kept,
    log: Arc<Log>,
    reader: Option<JoinHandle<()>>,
    pub(crate) manager: Manager,
}

/// What a daemon left behind.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) log: String,
    /// Every notification, in order.
    pub(crate) notifications: Vec<String>,
    /// With the directory of its files.
    pub(crate) manager: Manager,
}

#[derive(Default)]
struct Log {
    text: Mutex<String>,
    more: Condvar,
}

impl Log {
    fn collect(&self, stderr: impl Read) {
        for line in BufReader::new(stderr).lines() {
            let line = line.unwrap_or_else(|error| format!("<unreadable: {error}>"));
            let mut text = self.text.lock().unwrap();
            text.push_str(&line);
            text.push('\n');
            self.more.notify_all();
        }
    }
}

/// The service manager's end of `NOTIFY_SOCKET`, and a directory for the files of the test.
///
/// It takes notifications all the time, as a service manager does, since the daemon waits for that (`BARRIER=1`). It has
/// no store: descriptors that come with them are closed.
pub(crate) struct Manager {
    pub(crate) dir: TempDir,
    mail: Arc<Mail>,
    reader: Option<JoinHandle<()>>,
}

struct Mail {
    socket: UnixDatagram,
    received: Mutex<Vec<String>>,
    over: AtomicBool,
}

impl Mail {
    /// Every notification that has arrived by now.
    fn take(&self) -> Vec<String> {
        let mut received = self.received.lock().unwrap();
        let mut buffer = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            received.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        received.clone()
    }
}

impl Manager {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mail = Arc::new(Mail {
            socket,
            received: Mutex::default(),
            over: AtomicBool::new(false),
        });
        let ours = mail.clone();
        let reader = std::thread::spawn(move || {
            while !ours.over.load(Ordering::Relaxed) {
                ours.take();
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Manager {
            dir,
            mail,
            reader: Some(reader),
        }
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The notifications that have arrived by now.
    pub(crate) fn received(&self) -> Vec<String> {
        self.mail.take()
    }

    pub(crate) fn has_received(&self, state: &str) -> bool {
        let received = self.received();
        let mut lines = received.iter().flat_map(|text| text.lines());
        lines.any(|line| line == state)
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.mail.over.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Daemon {
    /// Serves this configuration, in which `DIR` stands for the test's directory, and is ready.
    pub(crate) fn start(config: &str) -> Self {
        Self::start_with(config, |_| {})
    }

    /// As [`start`](Self::start), with this engine.
    pub(crate) fn start_on(engine: &str, config: &str) -> Self {
        Self::start(&format!("engine = \"{engine}\"\n{config}"))
    }

    pub(crate) fn start_with(config: &str, prepare: impl FnOnce(&mut Command)) -> Self {
        let manager = Manager::new();
        let dir = manager.dir.path().to_str().unwrap();
        let config = manager.write("ringhold.toml", &config.replace("DIR", dir));
        let mut command = ringhold();
        command.args(["serve", "--config", &config]);
        prepare(&mut command);
        let mut daemon = Self::launch(command, manager);
        daemon.wait_for("READY=1");
        daemon
    }

    /// Starts a command that is, or becomes, the daemon.
    pub(crate) fn launch(command: Command, manager: Manager) -> Self {
        Self::launch_with_stderr(command, manager, Stdio::piped())
    }

    /// There is a [`log`](Self::log) only if stderr is a pipe.
    pub(crate) fn launch_with_stderr(
        mut command: Command,
        manager: Manager,
        stderr: Stdio,
    ) -> Self {
        let mut child = command
            .env("NOTIFY_SOCKET", manager.path("notify"))
            .stderr(stderr)
            .spawn()
            .unwrap();
        let log = Arc::new(Log::default());
        let reader = child.stderr.take().map(|stderr| {
            let sink = log.clone();
            std::thread::spawn(move || sink.collect(stderr))
        });
        Daemon {
            child: Kept(child),
            log,
            reader,
            manager,
        }
    }

    /// Waits until the daemon has told this to the service manager.
    pub(crate) fn wait_for(&mut self, state: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.manager.has_received(state) {
            if let Some(status) = self.child.0.try_wait().unwrap() {
                panic!("it ended with {status} instead of {state}:\n{}", self.log());
            }
            assert!(
                Instant::now() < deadline,
                "no {state}, but {:?}:\n{}",
                self.manager.received(),
                self.log()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until the daemon is ready. Whether it is, and has not ended instead.
    pub(crate) fn gets_ready(&mut self) -> bool {
        until("READY=1 or the end", || {
            let ended = self.child.0.try_wait().unwrap().is_some();
            let ready = self.manager.has_received("READY=1");
            (ready || ended).then_some(ready)
        })
    }

    pub(crate) fn log(&self) -> String {
        self.log.text.lock().unwrap().clone()
    }

    /// Waits until the log has a line that contains all of these, and returns the line.
    pub(crate) fn logged(&self, parts: &[&str]) -> String {
        let mut text = self.log.text.lock().unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut lines = text.lines();
            if let Some(line) = lines.find(|line| parts.iter().all(|part| line.contains(part))) {
                return line.to_owned();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no line with {parts:?}:\n{text}");
            text = self.log.more.wait_timeout(text, left).unwrap().0;
        }
    }

    /// Where the socket of this name listens, as the log says.
    pub(crate) fn address(&self, socket: &str) -> Address {
        let line = self.logged(&["listening on ", &format!("socket={socket}")]);
        let (_, rest) = line.split_once("listening on ").unwrap();
        let (address, _) = rest.split_once(" (").unwrap();
        address.parse().unwrap()
    }

    pub(crate) fn tcp(&self, socket: &str) -> SocketAddr {
        match self.address(socket) {
            Address::Tcp(address) => address,
            other => panic!("{other} is not TCP"),
        }
    }

    pub(crate) fn client(&self, socket: &str) -> Client {
        connect(&self.address(socket))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.0.id().try_into().unwrap());
        kill(pid, signal).unwrap();
    }

    /// Waits until it has ended by itself.
    pub(crate) fn ended(mut self) -> Ended {
        let status = until("the end of the daemon", || self.child.0.try_wait().unwrap());
        // The pipe ends with the process, so the log is whole then.
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        Ended {
            status,
            log: self.log(),
            notifications: self.manager.received(),
            manager: self.manager,
        }
    }

    /// Tells it to stop and waits until it has, which must go well.
    pub(crate) fn stop(self) -> Ended {
        self.signal(Signal::SIGTERM);
        let ended = self.ended();
        assert!(ended.status.success(), "{}:\n{}", ended.status, ended.log);
        ended
    }
}

/// A process that does not outlive the test.
struct Kept(Child);

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Ended {
    /// Connections and frames, from the last line of the log.
    pub(crate) fn served(&self) -> (u64, u64) {
        let line = self.log.lines().rfind(|line| line.contains("stopped; "));
        let line = line.unwrap_or_else(|| panic!("it did not say what it served:\n{}", self.log));
        let numbers: Vec<u64> = line
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        (numbers[0], numbers[1])
    }
}

/// Waits until a counter has this value; it must never be above it.
pub(crate) fn await_counter(address: &Address, socket: &str, name: &str, value: u64) {
    until(&format!("{name} = {value}"), || {
        let now = counter(address, socket, name);
        assert!(now <= value, "{name} is {now}, more than {value}");
        (now == value).then_some(())
    });
}

/// Waits until so many connections are open, the one that asks included.
pub(crate) fn await_open(address: &Address, socket: &str, value: u64) {
    until(&format!("{value} open connections"), || {
        (counter(address, socket, "open") == value).then_some(())
    });
}

/// A request with one parameter, a number.
pub(crate) fn request(id: u32, method: &str, param: u64) -> Vec<u8> {
    wire::request(id, method, &[param.into()])
}

/// The permission bits of a file.
pub(crate) fn mode(path: impl AsRef<Path>) -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
}
