//! perf(1), attached to a process.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fs::{CWD, FileType, Mode, mknodat};

/// A perf that writes its result below a directory.
pub(super) struct Perf {
    child: Child,
    result: PathBuf,
}

impl Perf {
    /// Starts perf with these arguments, which name what it does. Returns when it has begun.
    pub(super) fn start(arguments: &[&str], pid: u32, dir: &Path) -> Self {
        let [control, answer] = ["control", "answer"].map(|name| dir.join(name));
        for pipe in [&control, &answer] {
            mknodat(CWD, pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
        }
        let pipes = format!("fifo:{},{}", control.display(), answer.display());
        let result = dir.join("result");
        let child = Command::new("perf")
            .args(arguments)
            .args(["--delay=-1", "--control", &pipes])
            .args(["--pid", &pid.to_string(), "--output"])
            .arg(&result)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Opening them waits for perf, and it answers when it has begun.
        let mut control = File::options().write(true).open(control).unwrap();
        control.write_all(b"enable\n").unwrap();
        let mut line = [0; 4];
        let mut answer = File::open(answer).unwrap();
        answer.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"ack\n");
        Perf { child, result }
    }

    /// Ends it. Returns where its result is.
    pub(super) fn finish(mut self) -> PathBuf {
        interrupt(&mut self.child);
        self.result
    }
}

/// Ends a tool as its user would, and waits until it has.
pub(super) fn interrupt(child: &mut Child) {
    let pid = Pid::from_raw(child.id().cast_signed());
    kill(pid, Signal::SIGINT).unwrap();
    child.wait().unwrap();
}

/// Whether a tool can do this to a process that ends at once.
pub(super) fn works(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(program)
        .args(arguments)
        .arg("true")
        .stdin(Stdio::null())
        .output();
    output.is_ok_and(|output| {
        output.status.success() && !output.stderr.windows(4).any(|part| part == b"<not")
    })
}
