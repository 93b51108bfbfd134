//! A server as a process of its own, pinned to one CPU or a few: ringhold, or one of its peers.
//!
//! Such a program is started as `PROGRAM --tcp 127.0.0.1:0 --unix PATH --cpu N`, with `--congestion NAME` if that is wanted. With
//! `--cpu N,M` it has a worker, or whatever it calls that, for each of these CPUs. It listens on both, and prints `listening IP:PORT` when it is ready.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::daemon;

/// Which program, and how it is called here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// What tables call it.
    pub name: String,
    /// The executable.
    pub path: PathBuf,
    /// Arguments beside those that every server gets.
    pub arguments: Vec<OsString>,
}

/// The peers that speak the protocol, and the one that only sends back what it gets.
pub const PEERS: [&str; 5] = ["tokio", "tokio-uring", "monoio", "compio", BARE];

/// The one that does not parse: a plain multishot loop.
pub const BARE: &str = "bare";

/// Ringhold, here.
pub const RINGHOLD: &str = "ringhold";

impl Program {
    /// Builds `examples/serve_ringhold.rs`, which is ringhold.
    ///
    /// # Errors
    ///
    /// That it cannot be built.
    pub fn ringhold() -> io::Result<Self> {
        let path = daemon::build_example("serve_ringhold")?;
        Ok(Program {
            name: RINGHOLD.into(),
            path,
            arguments: Vec::new(),
        })
    }

    /// Builds these peers, all in one go. If all are wanted, those that there are.
    ///
    /// # Errors
    ///
    /// That they cannot be built.
    pub fn peers(names: &[&str]) -> io::Result<Vec<Self>> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let binaries: Vec<String> = names.iter().map(|name| format!("peer-{name}")).collect();
        let mut arguments = vec!["--package", "ringhold-peers"];
        if names == PEERS {
            arguments.push("--bins");
        } else {
            arguments.extend(binaries.iter().flat_map(|binary| ["--bin", binary]));
        }
        let release = daemon::build_with(&arguments, "")?;
        let peers = names.iter().zip(&binaries).map(|(name, binary)| Program {
            name: (*name).into(),
            path: release.join(binary),
            arguments: Vec::new(),
        });
        Ok(peers.filter(|peer| peer.path.exists()).collect())
    }
}

/// A server that runs; killed when the value is dropped.
#[derive(Debug)]
pub struct Server {
    /// What tables call it.
    pub name: String,
    child: Child,
    /// Where it listens on loopback.
    pub tcp: SocketAddr,
    /// Where its unix socket is.
    pub unix: PathBuf,
    /// The congestion control of its TCP connections, if it is not the default.
    pub congestion: Option<String>,
}

impl Server {
    /// Starts `program` on these CPUs, with its unix socket in `dir` and this congestion control, or the default.
    ///
    /// # Errors
    ///
    /// That it cannot be started, or does not say where it listens.
    pub fn start(
        program: &Program,
        dir: &Path,
        cpus: &[usize],
        congestion: Option<&str>,
    ) -> io::Result<Self> {
        let unix = dir.join(format!("{}.sock", program.name));
        let cpus: Vec<String> = cpus.iter().map(usize::to_string).collect();
        let mut child = Command::new(&program.path)
            .args(["--tcp", "127.0.0.1:0", "--cpu", &cpus.join(","), "--unix"])
            .arg(&unix)
            .args(congestion.map(|name| format!("--congestion={name}")))
            .args(&program.arguments)
            .env_remove("NOTIFY_SOCKET")
            .env_remove("LISTEN_PID")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let said = child.stdout.take().map(BufReader::new);
        let line = said.and_then(|said| said.lines().next()).transpose();
        // From here on it is killed on whatever way out.
        let server = |tcp| Server {
            name: program.name.clone(),
            child,
            tcp,
            unix,
            congestion: congestion.map(str::to_owned),
        };
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let address = line?.and_then(|line| line.strip_prefix("listening ")?.trim().parse().ok());
        let server = server(address.unwrap_or(nowhere));
        if address.is_none() {
            let what = format!("{} does not say where it listens", program.name);
            return Err(io::Error::other(what));
        }
        Ok(server)
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in bytes, as [`Daemon::resident`](daemon::Daemon::resident) has it.
    ///
    /// # Errors
    ///
    /// That the kernel does not tell.
    pub fn resident(&self) -> io::Result<u64> {
        daemon::resident(self.pid())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
