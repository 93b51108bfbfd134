//! A small service manager: it holds listening sockets and a descriptor store, reads notifications, and starts, stops
//! and kills one service. The semantics are those of sd_notify(3) and systemd.service(5) as of systemd 247.

mod state;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, IoSlice};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringhold_client::Address;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg, sockopt};
use tempfile::TempDir;

pub(crate) use self::state::Stored;
use self::state::{Shared, State, receive_all};
use crate::built::handover_daemon;
use crate::common::{PATIENCE, clean, until};

/// The daemon of this package.
pub(crate) const RINGHOLD: &str = env!("CARGO_BIN_EXE_ringhold");

/// The service manager with its one service.
pub(crate) struct Manager {
    pub(crate) dir: TempDir,
    shared: Arc<Shared>,
    receiver: Option<JoinHandle<()>>,
    listeners: Vec<(String, OwnedFd)>,
    program: Vec<String>,
    service: Option<Service>,
    environment: BTreeMap<String, String>,
    engine: &'static str,
}

struct Service {
    child: Child,
    reader: Option<JoinHandle<()>>,
}

impl Manager {
    /// With a store of this size. `DIR` in the configuration stands for the test's directory.
    pub(crate) fn new(store_max: usize, config: &str) -> Self {
        Self::on("auto", store_max, config)
    }

    /// As [`Manager::new`], with this engine.
    pub(crate) fn on(engine: &'static str, store_max: usize, config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        sockopt::set_socket_passcred(&socket, true).unwrap();
        let shared = Arc::new(Shared::default());
        shared.state.lock().unwrap().store_max = store_max;
        let receiver = {
            let shared = shared.clone();
            std::thread::spawn(move || receive_all(&socket, &shared))
        };
        let mut manager = Manager {
            dir,
            shared,
            receiver: Some(receiver),
            listeners: Vec::new(),
            program: Vec::new(),
            service: None,
            environment: BTreeMap::new(),
            engine,
        };
        let config = manager.configure(config);
        manager.program = vec![RINGHOLD.into(), "serve".into(), "--config".into(), config];
        manager
    }

    /// Writes the configuration anew and returns its path.
    pub(crate) fn configure(&self, config: &str) -> String {
        let path = self.path("ringhold.toml");
        let config = config.replace("DIR", self.dir.path().to_str().unwrap());
        let config = format!("engine = \"{}\"\n{config}", self.engine);
        // Not in place: a process that is just starting reads either the old one or the new one.
        std::fs::write(self.path("new.toml"), config).unwrap();
        std::fs::rename(self.path("new.toml"), &path).unwrap();
        path
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Runs the tests' own daemon instead of ringhold.
    pub(crate) fn with_test_daemon(mut self) -> Self {
        let daemon = handover_daemon().to_str().unwrap().to_owned();
        self.program = vec![daemon, self.path("ringhold.toml")];
        let flags = self.path("flags");
        std::fs::create_dir(&flags).unwrap();
        self.environment.insert("HANDOVER_FLAGS".into(), flags);
        self
    }

    /// From the next configuration on.
    pub(crate) fn use_engine(&mut self, engine: &'static str) {
        self.engine = engine;
    }

    /// Runs this file instead of the program that would be run otherwise.
    pub(crate) fn run_as(&mut self, program: &str) {
        program.clone_into(&mut self.program[0]);
    }

    pub(crate) fn set_environment(&mut self, name: &str, value: &str) {
        self.environment.insert(name.into(), value.into());
    }

    pub(crate) fn set_flag(&self, flag: &str, set: bool) {
        let path = self.dir.path().join("flags").join(flag);
        if set {
            std::fs::write(path, "").unwrap();
        } else {
            std::fs::remove_file(path).unwrap();
        }
    }

    /// Listens on a TCP port of loopback, for the descriptor name `name`.
    pub(crate) fn listen_tcp(&mut self, name: &str) -> Address {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // As large as ringhold's own.
        rustix::net::listen(&listener, 4096).unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        self.listeners.push((name.into(), listener.into()));
        Address::Tcp(address)
    }

    /// Listens on a unix socket in the test's directory.
    pub(crate) fn listen_unix(&mut self, name: &str) -> Address {
        let path = self.path(&format!("{name}.{}.sock", self.listeners.len()));
        let listener = UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 4096).unwrap();
        self.listeners.push((name.into(), listener.into()));
        Address::Unix(path.into())
    }

    /// Has a datagram socket on loopback, for the descriptor name `name`, and returns its port.
    pub(crate) fn listen_udp(&mut self, name: &str) -> u16 {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        self.listeners.push((name.into(), socket.into()));
        port
    }

    /// Has a unix datagram socket, for the descriptor name `name`.
    pub(crate) fn listen_unix_datagram(&mut self, name: &str) {
        let socket = UnixDatagram::bind(self.path(name)).unwrap();
        self.listeners.push((name.into(), socket.into()));
    }

    /// Starts the service with the listeners and whatever is stored, and does not wait.
    pub(crate) fn launch(&mut self) {
        assert!(self.service.is_none(), "it runs already");
        let mut state = self.state();
        let mut names: Vec<&str> = Vec::new();
        let mut descriptors: Vec<BorrowedFd<'_>> = Vec::new();
        for (name, listener) in &self.listeners {
            names.push(name);
            descriptors.push(listener.as_fd());
        }
        for stored in &state.store {
            names.push(&stored.name);
            descriptors.push(stored.fd.as_fd());
        }
        let mut command = Command::new(handover_daemon());
        clean(&mut command);
        if !names.is_empty() {
            command
                .env("LISTEN_FDS", names.len().to_string())
                .env("LISTEN_FDNAMES", names.join(":"));
        }
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut child = command
            .arg("launch")
            .args(&self.program)
            .env("NOTIFY_SOCKET", self.path("notify"))
            .envs(&self.environment)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        if !descriptors.is_empty() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(250))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
            sendmsg(
                &ours,
                &[IoSlice::new(b"!")],
                &mut ancillary,
                SendFlags::empty(),
            )
            .unwrap();
        }
        state.main_pid = Some(child.id() as i32);
        drop(state);
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let shared = self.shared.clone();
        let reader = std::thread::spawn(move || {
            for line in stderr.lines() {
                let line = line.unwrap_or_else(|error| format!("<unreadable: {error}>"));
                let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
                state.log.push_str(&line);
                state.log.push('\n');
                drop(state);
                shared.changed.notify_all();
            }
        });
        self.service = Some(Service {
            child,
            reader: Some(reader),
        });
    }

    /// Starts the service and waits until it is ready.
    pub(crate) fn start(&mut self) {
        let mark = self.mark();
        self.launch();
        self.wait_for(mark, "READY=1");
    }

    /// Waits until the service that was launched says after `mark` that it is ready, or has ended. Returns whether it is.
    pub(crate) fn becomes_ready(&self, mark: usize) -> bool {
        until("ready or ended", || {
            let is_ready = self.count(mark, "READY=1") > 0;
            (is_ready || self.has_ended()).then_some(is_ready)
        })
    }

    /// Whether the service has ended by itself. It is still to be waited for.
    fn has_ended(&self) -> bool {
        use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
        let pid = Pid::from_raw(self.pid()).unwrap();
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        waitid(WaitId::Pid(pid), options).unwrap().is_some()
    }

    /// Stops the service in order, and waits until it has ended.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.ended();
        assert!(status.success(), "{status}:\n{}", self.log());
    }

    /// Stops for good: what is stored is closed.
    pub(crate) fn stop_for_good(&mut self) {
        self.stop();
        self.state().store.clear();
    }

    /// What `systemctl restart` does.
    pub(crate) fn restart(&mut self) {
        self.stop();
        self.start();
    }

    /// SIGHUP, and waits until the service is ready again, whatever became of it.
    pub(crate) fn reload(&mut self) {
        let pid = self.pid();
        let mark = self.mark();
        self.signal(Signal::SIGHUP);
        self.wait_for(mark, "RELOADING=1");
        self.wait_for(mark, "READY=1");
        assert_eq!(self.pid(), pid);
        let state = self.state();
        let reloading = state.messages[mark..]
            .iter()
            .find(|message| message.lines().any(|line| line == "RELOADING=1"))
            .unwrap();
        assert!(reloading.contains("MONOTONIC_USEC="), "{reloading:?}");
    }

    pub(crate) fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.ended();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    pub(crate) fn pid(&self) -> i32 {
        self.service.as_ref().unwrap().child.id() as i32
    }

    /// Waits until the service has ended by itself.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        self.ended_while(|| {})
    }

    /// As [`Manager::ended`]; calls `before_reaping` before the number of the process can be used again.
    pub(crate) fn ended_while(&mut self, before_reaping: impl FnOnce()) -> ExitStatus {
        until("the end of the service", || self.has_ended().then_some(()));
        before_reaping();
        let mut service = self.service.take().unwrap();
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = service.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                let _ = service.child.kill();
                panic!("it does not end:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        service.reader.take().unwrap().join().unwrap();
        status
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }

    /// The manager is to stand still as soon as it comes to a notification with this line.
    pub(crate) fn stand_still_at(&self, line: &'static str) {
        self.state().stands_still_at = Some(line);
        self.shared.changed.notify_all();
    }

    /// The manager is to read on, but to do nothing of what it is told, from a notification with this line on.
    pub(crate) fn put_aside_from(&self, line: &'static str) {
        self.state().puts_aside_from = Some(line);
    }

    pub(crate) fn go_on(&self) {
        let mut state = self.state();
        state.stands_still_at = None;
        state.take_all();
        drop(state);
        self.shared.changed.notify_all();
    }

    /// How many notifications there are by now.
    pub(crate) fn mark(&self) -> usize {
        self.state().messages.len()
    }

    /// Waits until a notification after `mark` has this line.
    pub(crate) fn wait_for(&mut self, mark: usize, line: &str) {
        self.wait_until(line, |state| {
            let mut lines = state.messages[mark..].iter().flat_map(|text| text.lines());
            lines.any(|other| other == line)
        });
    }

    /// Waits until the store is empty: what was handed over is taken out before the service is ready, and what it finds
    /// out about the store with, soon after.
    pub(crate) fn wait_until_nothing_is_stored(&mut self) {
        self.wait_until("empty store", |state| state.store.is_empty());
    }

    /// How many notifications after `mark` have this line.
    pub(crate) fn count(&self, mark: usize, line: &str) -> usize {
        let state = self.state();
        let lines = state.messages[mark..].iter().flat_map(|text| text.lines());
        lines.filter(|other| *other == line).count()
    }

    /// Waits until the log has a line that contains all of these, `times` times, and returns the last such line.
    pub(crate) fn logged(&mut self, times: usize, parts: &[&str]) -> String {
        let matching = |state: &State| -> Vec<String> {
            let lines = state.log.lines();
            let lines = lines.filter(|line| parts.iter().all(|part| line.contains(part)));
            lines.map(str::to_owned).collect()
        };
        self.wait_until(&format!("{parts:?}"), |state| {
            matching(state).len() >= times
        });
        matching(&self.state()).pop().unwrap()
    }

    pub(crate) fn log(&self) -> String {
        let state = self.shared.state.lock();
        state.unwrap_or_else(PoisonError::into_inner).log.clone()
    }

    fn wait_until(&mut self, what: &str, done: impl Fn(&State) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ended = match &mut self.service {
                Some(service) => service.child.try_wait().unwrap(),
                None => None,
            };
            let state = self
                .shared
                .state
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if done(&state) {
                return;
            }
            if let Some(status) = ended {
                panic!("it ended with {status} instead of {what}:\n{}", state.log);
            }
            assert!(
                Instant::now() < deadline,
                "no {what}, but {:?}:\n{}",
                state.messages,
                state.log
            );
            let moment = Duration::from_millis(20);
            drop(self.shared.changed.wait_timeout(state, moment).unwrap());
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        if let Some(mut service) = self.service.take() {
            let _ = service.child.kill();
            let _ = service.child.wait();
        }
        self.shared
            .state
            .lock()
            .unwrap_or_else(|error| error.into_inner())
            .over = true;
        self.shared.changed.notify_all();
        let knock = UnixDatagram::unbound()
            .and_then(|socket| socket.send_to(b"", self.dir.path().join("notify")));
        if knock.is_ok()
            && let Some(receiver) = self.receiver.take()
        {
            let _ = receiver.join();
        }
    }
}

/// Makes an executable file. Not by this process: another thread might be starting a process, which would have the file
/// open for writing for a moment, and nobody could execute it meanwhile.
pub(crate) fn write_program(path: &str, text: &str) {
    let status = Command::new("sh")
        .args([
            "-c",
            "printf %s \"$2\" >\"$1.new\" && chmod 755 \"$1.new\" && mv \"$1.new\" \"$1\"",
            "-",
        ])
        .args([path, text])
        .status();
    assert!(status.unwrap().success());
}

/// How many descriptors a process has open.
pub(crate) fn descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count()
}
