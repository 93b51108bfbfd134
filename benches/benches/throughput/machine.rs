//! Where and how it was measured.

use std::fmt;
use std::process::Command;

use crate::accounting::Tool;
use crate::measure::Effort;

pub(crate) struct Machine {
    command: String,
    effort: Effort,
    /// The CPU of the load generator, and that of the servers.
    cpus: [usize; 2],
    congestion: String,
    /// Before the report itself changes it.
    source: String,
    load_at_begin: String,
}

impl Machine {
    /// At the beginning.
    pub(crate) fn look(effort: Effort, cpus: [usize; 2], congestion: &str) -> Self {
        let arguments = std::env::args().skip(1);
        let arguments = arguments.filter(|argument| argument != "--bench");
        let arguments: Vec<String> = arguments.map(quoted).collect();
        let mut command = "cargo bench -p ringhold-benches --bench throughput".to_owned();
        if !arguments.is_empty() {
            command = format!("{command} -- {}", arguments.join(" "));
        }
        Machine {
            command,
            effort,
            cpus,
            congestion: congestion.into(),
            source: said("git", &["describe", "--always", "--dirty"]),
            load_at_begin: load(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let value = |key: &str| {
            let line = info.lines().find(|line| line.starts_with(key));
            line.and_then(|line| line.split_once(": "))
                .map_or("unknown", |(_, value)| value)
        };
        let guest = value("flags").split(' ').any(|flag| flag == "hypervisor");
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let count = info
            .lines()
            .filter(|line| line.starts_with("processor"))
            .count();
        let [own, servers] = self.cpus;
        writeln!(f, "- command: `{}`", self.command)?;
        writeln!(f, "- source: {}", self.source)?;
        writeln!(
            f,
            "- machine: {}, {count} CPUs{}; the servers on CPU {servers}, the load generator on CPU {own}",
            value("model name"),
            if guest { " of a virtual machine" } else { "" }
        )?;
        writeln!(
            f,
            "- kernel: Linux {}, TCP with {}",
            kernel.trim(),
            self.congestion
        )?;
        writeln!(f, "- compiler: {}", said("rustc", &["--version"]))?;
        writeln!(
            f,
            "- windows: {} rounds of {} ms for each server; system calls counted by {}; the kernel's part sampled by {}",
            self.effort.rounds,
            self.effort.window.as_millis(),
            self.effort.counter.map_or("nothing", Tool::name),
            if self.effort.profiles {
                "perf"
            } else {
                "nothing"
            }
        )?;
        write!(
            f,
            "- load average: {} at the beginning, {} at the end; the bench itself makes 1 to 2",
            self.load_at_begin,
            load()
        )
    }
}

fn quoted(argument: String) -> String {
    if argument.contains(' ') {
        format!("'{argument}'")
    } else {
        argument
    }
}

/// What a command prints.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.ok().filter(|output| output.status.success());
    let text = text.and_then(|output| String::from_utf8(output.stdout).ok());
    text.map_or("unknown".into(), |text| text.trim().to_owned())
}

/// Of the last minute.
fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or("unknown").to_owned()
}
