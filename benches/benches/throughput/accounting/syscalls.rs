//! How many system calls a process makes: perf counts them, or strace, which is slow and changes what it counts.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::perf::{Perf, interrupt, works};

const EVENT: &str = "raw_syscalls:sys_enter";

/// What can count here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    Perf,
    Strace,
}

impl Tool {
    /// The best that works.
    pub(crate) fn find() -> Option<Self> {
        if works("perf", &["stat", "-e", EVENT]) {
            Some(Tool::Perf)
        } else if strace_may_attach() {
            Some(Tool::Strace)
        } else {
            None
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Tool::Perf => "perf",
            Tool::Strace => "strace",
        }
    }
}

/// The tool, attached to a process.
pub(crate) struct Counting {
    attached: Attached,
    dir: TempDir,
}

enum Attached {
    Perf(Perf),
    Strace(Child),
}

impl Counting {
    /// Returns when the tool counts. None if it may not.
    pub(crate) fn start(tool: Tool, pid: u32) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let attached = match tool {
            Tool::Perf => {
                let arguments = ["stat", "-x", ",", "-e", EVENT];
                Attached::Perf(Perf::start(&arguments, pid, dir.path()))
            }
            Tool::Strace => Attached::Strace(start_strace(pid, &result(&dir))?),
        };
        Some(Counting { attached, dir })
    }

    /// How many system calls there were. The process must be at rest.
    pub(crate) fn finish(self) -> Option<u64> {
        match self.attached {
            // 123,,raw_syscalls:sys_enter,...
            Attached::Perf(perf) => {
                let text = std::fs::read_to_string(perf.finish()).ok()?;
                let line = text.lines().find(|line| line.contains(EVENT))?;
                line.split(',').next()?.parse().ok()
            }
            // 100.00    0.000123           1       123           total
            Attached::Strace(mut child) => {
                interrupt(&mut child);
                let text = std::fs::read_to_string(result(&self.dir)).ok()?;
                let line = text.lines().find(|line| line.ends_with("total"))?;
                line.split_whitespace().nth(3)?.parse().ok()
            }
        }
    }
}

/// Where strace writes.
fn result(dir: &TempDir) -> PathBuf {
    dir.path().join("result")
}

/// Whether strace may attach to a process that another one has started, which is what the servers are to it. To one of its
/// own it nearly always may.
fn strace_may_attach() -> bool {
    let dir = tempfile::tempdir().unwrap();
    // It ends when its input does.
    let mut other = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let strace = start_strace(other.id(), &result(&dir));
    let may = strace.is_some();
    if let Some(mut strace) = strace {
        interrupt(&mut strace);
    }
    drop(other.stdin.take());
    other.wait().unwrap();
    may
}

/// Returns when it has attached. None if there is none, or it may not.
fn start_strace(pid: u32, result: &Path) -> Option<Child> {
    let mut child = Command::new("strace")
        .args(["-c", "-f", "-p", &pid.to_string(), "-o"])
        .arg(result)
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    let says = BufReader::new(child.stderr.take().unwrap());
    let first = says.lines().map_while(Result::ok).next();
    if first.is_some_and(|line| line.contains("attached")) {
        return Some(child);
    }
    // It ends by itself when it could not attach.
    child.wait().unwrap();
    None
}
