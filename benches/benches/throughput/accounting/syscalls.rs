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
        } else if works("strace", &["-c", "-f"]) {
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
    /// Returns when the tool counts.
    pub(crate) fn start(tool: Tool, pid: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let attached = match tool {
            Tool::Perf => {
                let arguments = ["stat", "-x", ",", "-e", EVENT];
                Attached::Perf(Perf::start(&arguments, pid, dir.path()))
            }
            Tool::Strace => Attached::Strace(start_strace(pid, &result(&dir))),
        };
        Counting { attached, dir }
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

fn start_strace(pid: u32, result: &Path) -> Child {
    let mut child = Command::new("strace")
        .args(["-c", "-f", "-p", &pid.to_string(), "-o"])
        .arg(result)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let says = BufReader::new(child.stderr.take().unwrap());
    let attached = says.lines().map_while(Result::ok).next();
    assert!(attached.is_some_and(|line| line.contains("attached")));
    child
}
