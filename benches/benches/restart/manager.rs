//! A service manager with one service and one listening socket, that looks at the clock. What it does is that of
//! sd_notify(3) and systemd.service(5): sockets in `LISTEN_FDS`, notifications, and a store of descriptors.
//!
//! The service is not forked when it is to be started but before, and waits for its descriptors: so the time from exec
//! begins when they are sent, and has nothing of a service manager in it.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg, sockopt,
};
use rustix::process::{PidfdFlags, pidfd_open};
use tempfile::TempDir;

/// How long anything may take before the bench gives up on it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// `FileDescriptorStoreMax=`.
const STORE_MAX: usize = 16;

/// The first argument that makes this program the launcher.
pub(crate) const LAUNCH: &str = "launch";

/// The service manager.
pub(crate) struct Manager {
    dir: TempDir,
    shared: Arc<Shared>,
    receiver: Option<JoinHandle<()>>,
    listener: TcpListener,
    program: Vec<String>,
    service: Option<Child>,
}

/// A process that becomes the service when it gets its descriptors.
pub(crate) struct Launcher {
    child: Child,
    socket: UnixStream,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The notifications of the main process, and when they came.
    messages: Vec<(Instant, String)>,
    store: Vec<(String, OwnedFd)>,
    main_pid: Option<i32>,
    over: bool,
}

impl Manager {
    /// For this program; `DIR` in its arguments stands for a directory that has `config` in `ringhold.toml`.
    pub(crate) fn new(program: &[&str], config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        std::fs::write(dir.path().join("ringhold.toml"), config).unwrap();
        let program = program.iter().map(|part| part.replace("DIR", path));
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        sockopt::set_socket_passcred(&socket, true).unwrap();
        let shared = Arc::new(Shared::default());
        let receiver = {
            let shared = shared.clone();
            std::thread::spawn(move || receive_all(&socket, &shared))
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        rustix::net::listen(&listener, 4096).unwrap();
        // `NoDelay=yes`. Without it a second reply waits for the delayed acknowledgement of the first, up to 40 ms.
        sockopt::set_tcp_nodelay(&listener, true).unwrap();
        Manager {
            program: program.collect(),
            dir,
            shared,
            receiver: Some(receiver),
            listener,
            service: None,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// Forks the service that will be started next.
    pub(crate) fn prepare(&self) -> Launcher {
        let mut log = File::options();
        let log = log.create(true).append(true);
        let log = log.open(self.dir.path().join("log")).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        for variable in [
            "WATCHDOG_USEC",
            "INVOCATION_ID",
            "JOURNAL_STREAM",
            "RINGHOLD_LOG",
        ] {
            command.env_remove(variable);
        }
        let child = command
            .arg(LAUNCH)
            .args(&self.program)
            .env("NOTIFY_SOCKET", self.dir.path().join("notify"))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stderr(log)
            .spawn()
            .unwrap();
        // It says that it waits.
        let waiting = PollFlags::IN;
        self.await_event(&ours, waiting, "sign of the launcher");
        Launcher {
            child,
            socket: ours,
        }
    }

    /// Starts the service with its socket and whatever is stored: the time from exec to READY.
    pub(crate) fn start(&mut self, launcher: Launcher) -> Duration {
        assert!(self.service.is_none(), "it runs already");
        let mut state = self.state();
        let mark = state.messages.len();
        let mut names = "rpc".to_owned();
        let mut descriptors: Vec<BorrowedFd<'_>> = vec![self.listener.as_fd()];
        for (name, descriptor) in &state.store {
            names.push(':');
            names.push_str(name);
            descriptors.push(descriptor.as_fd());
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(STORE_MAX + 1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let parts = [IoSlice::new(names.as_bytes())];
        let begin = Instant::now();
        sendmsg(&launcher.socket, &parts, &mut ancillary, SendFlags::empty()).unwrap();
        state.main_pid = Some(launcher.child.id() as i32);
        drop(state);
        self.service = Some(launcher.child);
        self.wait_for(mark, "READY=1") - begin
    }

    /// Stops the service in order: the time from SIGTERM until it has exited.
    pub(crate) fn stop(&mut self) -> Duration {
        let pid = rustix::process::Pid::from_raw(self.pid()).unwrap();
        let handle = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let begin = Instant::now();
        self.signal(Signal::SIGTERM);
        self.await_event(&handle, PollFlags::IN, "the end of the service");
        let time = begin.elapsed();
        let status = self.service.take().unwrap().wait().unwrap();
        assert!(status.success(), "{status}:\n{}", self.log());
        time
    }

    /// Replaces the service by one that is ready before it is stopped. Both have the listening socket.
    pub(crate) fn succeed(&mut self, launcher: Launcher) {
        let predecessor = self.service.take();
        self.start(launcher);
        let successor = std::mem::replace(&mut self.service, predecessor);
        self.stop();
        self.service = successor;
    }

    /// Closes whatever is stored, so that the next start is a first one.
    pub(crate) fn forget(&self) {
        self.state().store.clear();
    }

    /// SIGHUP: the time until READY. Whether the process was replaced is for its caller to ask.
    pub(crate) fn reload(&mut self) -> Duration {
        let mark = self.state().messages.len();
        let begin = Instant::now();
        self.signal(Signal::SIGHUP);
        self.wait_for(mark, "RELOADING=1");
        self.wait_for(mark, "READY=1") - begin
    }

    /// What the service and its predecessors wrote.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn pid(&self) -> i32 {
        self.service.as_ref().unwrap().id() as i32
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }

    fn await_event(&self, descriptor: &impl AsFd, event: PollFlags, what: &str) {
        let limit = Timespec::try_from(PATIENCE).unwrap();
        let ready = poll(&mut [PollFd::new(descriptor, event)], Some(&limit)).unwrap();
        assert_eq!(ready, 1, "no {what}:\n{}", self.log());
    }

    /// Waits for a notification after `mark` with this line: when it came.
    fn wait_for(&self, mark: usize, line: &str) -> Instant {
        let found = |state: &State| {
            let later = &mut state.messages[mark..].iter();
            later
                .find(|(_, text)| text.lines().any(|other| other == line))
                .map(|(at, _)| *at)
        };
        let state = self.state();
        let changed = &self.shared.changed;
        let waited = changed.wait_timeout_while(state, PATIENCE, |state| found(state).is_none());
        let (state, _) = waited.unwrap();
        found(&state).unwrap_or_else(|| panic!("no {line}:\n{}", self.log()))
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if let Some(mut service) = self.service.take() {
            let _ = service.kill();
            let _ = service.wait();
        }
        if let Ok(mut state) = self.shared.state.lock() {
            state.over = true;
        }
        let knock = UnixDatagram::unbound()
            .and_then(|socket| socket.send_to(b"", self.dir.path().join("notify")));
        if knock.is_ok()
            && let Some(receiver) = self.receiver.take()
        {
            let _ = receiver.join();
        }
    }
}

/// Reads notifications until the manager is dropped.
fn receive_all(socket: &UnixDatagram, shared: &Shared) {
    loop {
        let mut buffer = [0; 4096];
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253), ScmCredentials(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let parts = &mut [IoSliceMut::new(&mut buffer)];
        let received = recvmsg(socket, parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
        let now = Instant::now();
        let mut descriptors: Vec<OwnedFd> = Vec::new();
        let mut sender = None;
        for message in ancillary.drain() {
            match message {
                RecvAncillaryMessage::ScmRights(more) => descriptors.extend(more),
                RecvAncillaryMessage::ScmCredentials(credentials) => {
                    sender = Some(credentials.pid.as_raw_nonzero().get());
                }
                _ => {}
            }
        }
        let text = String::from_utf8_lossy(&buffer[..received.bytes]).into_owned();
        let mut state = shared.state.lock().unwrap();
        if state.over {
            return;
        }
        // `NotifyAccess=main`.
        if sender == state.main_pid {
            state.handle(&text, descriptors);
            state.messages.push((now, text));
        }
        drop(state);
        shared.changed.notify_all();
    }
}

impl State {
    /// Stores and removes. That a barrier's descriptor is closed at the end is the answer to the barrier.
    fn handle(&mut self, text: &str, descriptors: Vec<OwnedFd>) {
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
        let name = value("FDNAME=").unwrap_or("stored");
        if value("FDSTOREREMOVE=") == Some("1") {
            self.store.retain(|(stored, _)| stored != name);
        } else if value("FDSTORE=") == Some("1") {
            for descriptor in descriptors {
                if self.store.len() < STORE_MAX {
                    // Newest first, as they are passed on.
                    self.store.insert(0, (name.to_owned(), descriptor));
                }
            }
        }
    }
}

/// Waits for descriptors on standard input and becomes the program that the arguments name. The descriptors have the
/// numbers from 3 on, because those are the lowest that are free, and are inherited.
pub(crate) fn launch(mut arguments: impl Iterator<Item = String>) -> ! {
    close_strangers();
    let mut program = Command::new(arguments.next().unwrap());
    program.args(arguments).stdin(Stdio::null());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(STORE_MAX + 1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut names = [0; 4096];
    let parts = &mut [IoSliceMut::new(&mut names)];
    rustix::io::write(std::io::stdin(), b"!").unwrap();
    let received = recvmsg(std::io::stdin(), parts, &mut ancillary, RecvFlags::empty()).unwrap();
    if received.bytes == 0 {
        // It is not needed any more.
        std::process::exit(0);
    }
    let mut next = 3;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            for descriptor in descriptors {
                assert_eq!(descriptor.into_raw_fd(), next);
                next += 1;
            }
        }
    }
    program
        .env("LISTEN_PID", std::process::id().to_string())
        .env("LISTEN_FDS", (next - 3).to_string())
        .env(
            "LISTEN_FDNAMES",
            str::from_utf8(&names[..received.bytes]).unwrap(),
        );
    panic!("cannot start: {}", program.exec());
}

/// Closes what whoever runs the bench left open for it, such as a profiler; it would take the numbers from 3 on.
fn close_strangers() {
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let numbers = open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let numbers: Vec<i32> = numbers.filter(|number| *number > 2).collect();
    for number in numbers {
        // That of the directory is closed already.
        let _ = nix::unistd::close(number);
    }
}
