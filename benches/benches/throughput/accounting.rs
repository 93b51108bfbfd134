//! What the kernel says that a server has used.

use std::time::Duration;

use nix::time::ClockId;
use nix::unistd::Pid;

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
