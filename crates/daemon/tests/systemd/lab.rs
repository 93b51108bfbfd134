//! One user manager with the units of one test.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use ringhold_client::Address;
use tempfile::TempDir;

use crate::common::PATIENCE;
use crate::ports::free_address;

/// The units that are shipped.
pub(crate) fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../systemd")
}

fn is_required() -> bool {
    std::env::var_os("RINGHOLD_REQUIRE_SYSTEMD").is_some_and(|value| value == "1")
}

/// Whether `systemd-analyze` is there, which is an error if it must be and is not.
pub(crate) fn has_analyze() -> bool {
    let found = Command::new("systemd-analyze").arg("--version").output();
    let found = found.is_ok_and(|output| output.status.success());
    if !found {
        assert!(
            !is_required(),
            "systemd-analyze (Debian: package systemd) is not installed"
        );
        eprintln!("SKIPPED: systemd-analyze (Debian: package systemd) is not installed");
    }
    found
}

/// A user manager, and where its sockets listen.
pub(crate) struct Lab {
    dir: TempDir,
    pub(crate) tcp: Address,
    pub(crate) unix: Address,
}

impl Lab {
    /// With the units as they are shipped, at addresses of their own, and without what only a system manager can do.
    /// `prepare` may change them. `None` if this machine lacks what it takes.
    pub(crate) fn up(prepare: impl FnOnce(&Lab)) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let lab = Lab {
            tcp: Address::Tcp(free_address()),
            unix: Address::Unix(dir.path().join("rpc.sock")),
            dir,
        };
        fs::create_dir(lab.path("units")).unwrap();
        lab.configure("workers = 2\n[sockets.rpc]\n");
        lab.install(Path::new(env!("CARGO_BIN_EXE_ringhold")));
        for unit in ["ringhold.socket", "ringhold.service"] {
            lab.unit(unit, &lab.shipped(unit));
        }
        prepare(&lab);
        let output = lab.manager("up");
        if output.status.success() {
            return Some(lab);
        }
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.code() == Some(77) && !is_required(),
            "there is no service manager to test with: {why}"
        );
        eprintln!("SKIPPED: {why}");
        None
    }

    fn manager(&self, command: &str) -> Output {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/systemd/user-manager");
        let output = Command::new("bash")
            .args([script, command])
            .arg(self.dir.path())
            .output();
        output.unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn tcp_address(&self) -> SocketAddr {
        match &self.tcp {
            Address::Tcp(address) => *address,
            other => panic!("{other} is not TCP"),
        }
    }

    pub(crate) fn configure(&self, config: &str) {
        fs::write(self.path("new.toml"), config).unwrap();
        fs::rename(self.path("new.toml"), self.path("ringhold.toml")).unwrap();
    }

    /// Puts a program where the manager can see it.
    pub(crate) fn install(&self, program: &Path) -> String {
        let path = self.path(program.file_name().unwrap().to_str().unwrap());
        if fs::hard_link(program, &path).is_err() {
            fs::copy(program, &path).unwrap();
        }
        path
    }

    /// A unit of the project, changed for this place.
    pub(crate) fn shipped(&self, name: &str) -> String {
        let text = fs::read_to_string(units().join(name)).unwrap();
        let mut text = text
            .replace("127.0.0.1:4660", &self.tcp.to_string())
            .replace("/run/ringhold/", &self.path(""));
        for command in ["serve --inherited-only", "check --assume-inherited"] {
            let shipped = format!("/usr/local/bin/ringhold {command}");
            let here = format!(
                "{} {command} --config {}",
                self.path("ringhold"),
                self.path("ringhold.toml")
            );
            text = text.replace(&shipped, &here);
        }
        // A user manager can confine nothing.
        let confinement = text.find("# The daemon needs no privilege");
        let install = text.find("[Install]").unwrap();
        text.replace_range(confinement.unwrap_or(install)..install, "");
        text
    }

    /// Writes a unit. Before the manager is up.
    pub(crate) fn unit(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join("units").join(name), text).unwrap();
    }

    /// Runs `systemctl`.
    pub(crate) fn try_ctl(&self, arguments: &[&str]) -> Output {
        Command::new(self.path("ctl"))
            .args(arguments)
            .output()
            .unwrap()
    }

    /// Runs `systemctl`, which must succeed.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> String {
        let output = self.try_ctl(arguments);
        assert!(
            output.status.success(),
            "systemctl {arguments:?}: {}\n{}",
            String::from_utf8_lossy(&output.stderr),
            self.log()
        );
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn is_active(&self, unit: &str) -> bool {
        self.property(unit, "ActiveState") == "active"
    }

    pub(crate) fn property(&self, unit: &str, name: &str) -> String {
        self.ctl(&["show", "--value", "--property", name, unit])
            .trim()
            .to_owned()
    }

    pub(crate) fn main_pid(&self) -> String {
        self.property("ringhold.service", "MainPID")
    }

    /// What the manager and its services have written.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("output.log")).unwrap_or_default()
    }

    /// Waits until so many lines of the log contain all of these.
    pub(crate) fn logged(&self, times: usize, parts: &[&str]) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = self.log();
            let lines = log.lines();
            if lines
                .filter(|line| parts.iter().all(|part| line.contains(part)))
                .count()
                >= times
            {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "not {times} lines with {parts:?}:\n{log}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let output = self.manager("down");
        if !output.status.success() && !std::thread::panicking() {
            panic!("{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
