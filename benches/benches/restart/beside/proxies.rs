//! nginx and haproxy, as they are installed: each with one process that answers, as is plenty for the crowd, and everything set so that
//! it has no other reason to close a connection than that it is replaced.

use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, pidfd_open};
use tempfile::TempDir;

use crate::manager::PATIENCE;

/// How often is looked whether a process has come.
const LOOK: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Nginx,
    Haproxy,
}

/// One that is installed.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) kind: Kind,
    path: PathBuf,
    /// As it says itself.
    pub(crate) version: String,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Nginx => "nginx",
            Kind::Haproxy => "haproxy",
        }
    }

    /// Looks for it where it may be installed.
    pub(crate) fn find(self) -> Option<Program> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        // What is for administrators is not in everybody's path.
        let more = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
        let mut places = std::env::split_paths(&path).chain(more);
        let path = places.find_map(|place| {
            let path = place.join(self.name());
            path.is_file().then(|| std::path::absolute(path).unwrap())
        })?;
        let said = Command::new(&path).arg("-v").output().ok()?;
        // nginx says it on standard error.
        let said = [said.stdout, said.stderr].concat();
        let version = String::from_utf8_lossy(&said).lines().next()?.to_owned();
        Some(Program {
            kind: self,
            path,
            version,
        })
    }

    /// Replies with the path that was asked for.
    fn configuration(self, dir: &Path, address: SocketAddr) -> String {
        let dir = dir.display();
        match self {
            // As a daemon, since one that still has the parent that started it takes no USR2.
            Kind::Nginx => format!(
                "worker_processes 1;
worker_shutdown_timeout 5s;
pid {dir}/pid;
error_log {dir}/log warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    default_type text/plain;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    server {{
        listen {address} backlog=4096;
        location / {{ return 200 $uri; }}
    }}
}}
"
            ),
            // Without a time to spread it over, it would close all idle connections at once. The listeners go to the next
            // worker over the socket of the master, too.
            Kind::Haproxy => format!(
                "global
    maxconn 4096
    nbthread 1
    hard-stop-after 5s
    close-spread-time 1s
    stats socket {dir}/stats mode 600 level admin expose-fd listeners
defaults
    mode http
    timeout client 1h
    timeout server 1h
    timeout connect 5s
    timeout http-keep-alive 1h
frontend bench
    bind {address} backlog 4096
    http-request return status 200 content-type text/plain lf-string \"%[path]\"
"
            ),
        }
    }
}

/// One that runs: a master, and the process that answers.
pub(crate) struct Proxy {
    kind: Kind,
    dir: TempDir,
    pub(crate) address: SocketAddr,
    /// The master, but of nginx the process that has started it.
    child: Child,
}

impl Proxy {
    pub(crate) fn start(program: &Program) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // One that was free a moment ago.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
        let address = address.unwrap();
        let kind = program.kind;
        let configuration = dir.path().join("configuration");
        std::fs::write(&configuration, kind.configuration(dir.path(), address)).unwrap();
        let log = dir.path().join("log");
        let mut command = Command::new(&program.path);
        match kind {
            Kind::Nginx => command.arg("-e").arg(&log).arg("-c"),
            Kind::Haproxy => command.args(["-W", "-f"]),
        };
        let log = File::options().create(true).append(true).open(log).unwrap();
        let child = command
            .arg(configuration)
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let proxy = Proxy {
            kind,
            dir,
            address,
            child,
        };
        proxy.until("service", || TcpStream::connect(address).ok());
        proxy
    }

    /// Reads the configuration anew: the next worker has the listening socket, and the one before goes when its
    /// connections have ended.
    pub(crate) fn reload(&mut self) {
        let master = self.master().unwrap();
        let before = children(master);
        let ends: Vec<End> = before
            .iter()
            .filter_map(|worker| End::of(*worker))
            .collect();
        signal(
            master,
            match self.kind {
                Kind::Nginx => Signal::SIGHUP,
                // The master executes its program anew.
                Kind::Haproxy => Signal::SIGUSR2,
            },
        );
        let is_new = |worker: &i32| !before.contains(worker);
        self.until("worker", || children(master).into_iter().find(is_new));
        let gone = ends.iter().all(End::has_come);
        assert!(gone, "the worker before stays:\n{}", self.log());
    }

    /// Replaces nginx's program, too: a new master beside the old one, which is then told to go.
    pub(crate) fn upgrade(&mut self) {
        assert_eq!(self.kind, Kind::Nginx);
        let before = self.master().unwrap();
        let end = End::of(before).unwrap();
        signal(before, Signal::SIGUSR2);
        self.until("successor", || {
            let master = self.master().filter(|master| *master != before)?;
            (!children(master).is_empty()).then_some(())
        });
        signal(before, Signal::SIGQUIT);
        assert!(end.has_come(), "the master before stays:\n{}", self.log());
    }

    fn master(&self) -> Option<i32> {
        match self.kind {
            Kind::Haproxy => Some(self.child.id() as i32),
            Kind::Nginx => {
                let written = std::fs::read_to_string(self.dir.path().join("pid"));
                written.ok()?.trim().parse().ok()
            }
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn until<T>(&self, what: &str, found: impl Fn() -> Option<T>) -> T {
        let begin = Instant::now();
        loop {
            if let Some(found) = found() {
                return found;
            }
            assert!(begin.elapsed() < PATIENCE, "no {what}:\n{}", self.log());
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(master) = self.master()
            && let Some(end) = End::of(master)
        {
            signal(master, Signal::SIGTERM);
            end.has_come();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// That of a process, of whoever is its parent.
struct End(OwnedFd);

impl End {
    /// None if it has come.
    fn of(process: i32) -> Option<Self> {
        let process = rustix::process::Pid::from_raw(process)?;
        pidfd_open(process, PidfdFlags::empty()).ok().map(End)
    }

    /// Waits for it, but not for ever.
    fn has_come(&self) -> bool {
        let limit = Timespec::try_from(PATIENCE).unwrap();
        poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&limit)) == Ok(1)
    }
}

fn children(process: i32) -> Vec<i32> {
    let path = format!("/proc/{process}/task/{process}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace()
        .filter_map(|number| number.parse().ok())
        .collect()
}

fn signal(process: i32, signal: Signal) {
    // It may be gone already, which whoever waits for its end sees.
    let _ = kill(Pid::from_raw(process), signal);
}
