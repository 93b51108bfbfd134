//! How many system calls a process makes: perf counts them, or strace, which is slow and changes what it counts.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;

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
        let works = |program: &str, arguments: &[&str]| {
            let output = Command::new(program)
                .args(arguments)
                .arg("true")
                .stdin(Stdio::null())
                .output();
            output.is_ok_and(|output| {
                output.status.success() && !output.stderr.windows(4).any(|part| part == b"<not")
            })
        };
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
    tool: Tool,
    child: Child,
    dir: TempDir,
}

impl Counting {
    /// Returns when the tool counts.
    pub(crate) fn start(tool: Tool, pid: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        match tool {
            Tool::Perf => Self::start_perf(pid, dir),
            Tool::Strace => Self::start_strace(pid, dir),
        }
    }

    fn start_perf(pid: u32, dir: TempDir) -> Self {
        let [control, answer] = ["control", "answer"].map(|name| dir.path().join(name));
        for pipe in [&control, &answer] {
            mknodat(CWD, pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
        }
        let pipes = format!("fifo:{},{}", control.display(), answer.display());
        let child = Command::new("perf")
            .args(["stat", "-x", ",", "-e", EVENT, "--delay=-1"])
            .args(["--control", &pipes, "--pid", &pid.to_string(), "--output"])
            .arg(dir.path().join("result"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Opening them waits for perf, and it answers when it counts.
        let mut control = File::options().write(true).open(control).unwrap();
        control.write_all(b"enable\n").unwrap();
        let mut line = [0; 4];
        let mut answer = File::open(answer).unwrap();
        answer.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"ack\n");
        Counting {
            tool: Tool::Perf,
            child,
            dir,
        }
    }

    fn start_strace(pid: u32, dir: TempDir) -> Self {
        let mut child = Command::new("strace")
            .args(["-c", "-f", "-p", &pid.to_string(), "-o"])
            .arg(dir.path().join("result"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let says = BufReader::new(child.stderr.take().unwrap());
        let attached = says.lines().map_while(Result::ok).next();
        assert!(attached.is_some_and(|line| line.contains("attached")));
        Counting {
            tool: Tool::Strace,
            child,
            dir,
        }
    }

    /// How many system calls there were. The process must be at rest.
    pub(crate) fn finish(mut self) -> Option<u64> {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, Signal::SIGINT).unwrap();
        self.child.wait().unwrap();
        let result: PathBuf = self.dir.path().join("result");
        let text = std::fs::read_to_string(result).ok()?;
        match self.tool {
            // 123,,raw_syscalls:sys_enter,...
            Tool::Perf => {
                let line = text.lines().find(|line| line.contains(EVENT))?;
                line.split(',').next()?.parse().ok()
            }
            // 100.00    0.000123           1       123           total
            Tool::Strace => {
                let line = text.lines().find(|line| line.ends_with("total"))?;
                line.split_whitespace().nth(3)?.parse().ok()
            }
        }
    }
}
