//! The daemon as a process of its own, to be measured from outside.

use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use ringhold_client::{Address, Client, Options};

/// Builds the command as this program was built, which is `--release` in a bench, and says where it is.
///
/// # Errors
///
/// That it cannot be built.
pub fn build() -> io::Result<PathBuf> {
    build_with(&["--package", "ringhold"], "ringhold")
}

/// As [`build`], for an example of this package.
///
/// # Errors
///
/// That it cannot be built.
pub fn build_example(name: &str) -> io::Result<PathBuf> {
    let arguments = ["--package", "ringhold-benches", "--example", name];
    build_with(&arguments, &format!("examples/{name}"))
}

/// Builds what the arguments of `cargo build` name: where `result` of it is, a path below the build directory.
pub(crate) fn build_with(arguments: &[&str], result: &str) -> io::Result<PathBuf> {
    // This program is TARGET/release/deps/NAME, or TARGET/debug/deps/NAME in a test, wherever it was started.
    let own = std::env::current_exe()?;
    let directory = own.ancestors().nth(2).unwrap_or(Path::new("."));
    let target = directory.parent().unwrap_or(directory);
    let release = directory.ends_with("release").then_some("--release");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--quiet", "--target-dir"])
        .arg(target)
        .args(release)
        .args(arguments)
        .status()?;
    if !status.success() {
        let what = arguments.join(" ");
        return Err(io::Error::other(format!("{what} cannot be built")));
    }
    Ok(directory.join(result))
}

/// A daemon that serves `rpc` on one TCP and one unix socket; killed when the value is dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    /// Where it listens on loopback.
    pub tcp: SocketAddr,
    /// Where its unix socket is.
    pub unix: PathBuf,
}

impl Daemon {
    /// Starts `program` with its files in `dir` and `settings` before the sections of its configuration.
    ///
    /// # Errors
    ///
    /// That it cannot be started, or ends at once; why is on stderr then.
    pub fn start(program: &Path, dir: &Path, settings: &str) -> io::Result<Self> {
        let unix = dir.join("rpc.sock");
        let config = dir.join("ringhold.toml");
        let listen = ["127.0.0.1:0".into(), format!("unix:{}", unix.display())];
        std::fs::write(
            &config,
            format!("{settings}\n[sockets.rpc]\nlisten = {listen:?}\n"),
        )?;
        let mut child = Command::new(program)
            .arg("serve")
            .arg("--config")
            .arg(&config)
            .env_remove("NOTIFY_SOCKET")
            .env_remove("LISTEN_PID")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let log = child.stderr.take().map(BufReader::new);
        let mut lines = log.into_iter().flat_map(BufRead::lines);
        let tcp = loop {
            let line = lines
                .next()
                .ok_or_else(|| io::Error::other("the daemon ended at once"))??;
            if let Some(address) = listening(&line) {
                break address;
            }
            eprintln!("{line}");
        };
        // What it says later is for whoever watches, and must not fill the pipe.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if line.contains("WARN") || line.contains("ERROR") {
                    eprintln!("{line}");
                }
            }
        });
        Ok(Daemon { child, tcp, unix })
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A client on its unix socket.
    ///
    /// # Errors
    ///
    /// That it does not answer.
    pub fn client(&self) -> io::Result<Client> {
        Client::connect(&Address::Unix(self.unix.clone()), Options::default())
            .map_err(io::Error::other)
    }

    /// Resident memory in bytes (`Rss` of /proc/PID/smaps_rollup; VmRSS lags behind by up to 64 pages a thread).
    ///
    /// # Errors
    ///
    /// That the file cannot be read.
    pub fn resident(&self) -> io::Result<u64> {
        resident(self.pid())
    }
}

/// Resident memory of a process in bytes; see [`Daemon::resident`].
pub(crate) fn resident(pid: u32) -> io::Result<u64> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let kib = rollup.lines().find_map(|line| {
        let kib = line.strip_prefix("Rss:")?.trim().strip_suffix(" kB")?;
        kib.trim().parse::<u64>().ok()
    });
    kib.map(|kib| kib * 1024)
        .ok_or_else(|| io::Error::other("smaps_rollup without Rss"))
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address in a line like `listening on 127.0.0.1:4660 (bound), service rpc`.
fn listening(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("listening on ")?;
    rest.split_whitespace().next()?.parse().ok()
}
