//! What the kernel says that a server has used.

use std::time::Duration;

use nix::time::ClockId;
use nix::unistd::Pid;

mod perf;
mod profile;
mod syscalls;

pub(crate) use profile::Profile;
pub(crate) use syscalls::{Counting, Tool};

/// The CPU time of a process, all its threads together, those that the kernel runs for its ring among them.
#[derive(Clone, Copy)]
pub(crate) struct CpuClock(ClockId);

impl CpuClock {
    pub(crate) fn of(pid: u32) -> Self {
        let pid = Pid::from_raw(pid.cast_signed());
        CpuClock(ClockId::pid_cpu_clock_id(pid).unwrap())
    }

    pub(crate) fn now(self) -> Duration {
        self.0.now().unwrap().into()
    }
}

/// Whether the kernel has threads in this process that do what its ring could not do at once.
pub(crate) fn has_ring_workers(pid: u32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    let mut names = tasks
        .into_iter()
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.any(|name| name.starts_with("iou-wrk"))
}
