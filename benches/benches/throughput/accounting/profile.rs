//! How much of a process's time is the kernel's: perf samples where it is.

use std::process::Command;

use ringhold_benches::profile::kernel_share;
use tempfile::TempDir;

use super::perf::{Perf, works};

/// Of its CPU time, in the kernel and outside. Without the letters, perf would leave the kernel out where it may not look there.
const EVENT: &str = "cpu-clock:uk";

/// So many samples a second, without a word about programs that are loaded into the kernel: to be ready for those takes perf a second.
const RECORD: [&str; 6] = ["record", "-e", EVENT, "-F", "5000", "--no-bpf-event"];

/// perf, attached to a process.
pub(crate) struct Profile {
    perf: Perf,
    dir: TempDir,
}

impl Profile {
    /// Whether perf may.
    pub(crate) fn is_possible() -> bool {
        let arguments = [&RECORD[..], &["-o", "/dev/null"]].concat();
        works("perf", &arguments)
    }

    /// Returns when perf samples.
    pub(crate) fn start(pid: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Profile {
            perf: Perf::start(&RECORD, pid, dir.path()),
            dir,
        }
    }

    /// The kernel's part, 1 being all of it. None if there was no sample.
    pub(crate) fn finish(self) -> Option<f64> {
        let result = self.perf.finish();
        let output = Command::new("perf")
            .args(["script", "-F", "ip", "-i"])
            .arg(result)
            .output()
            .unwrap();
        drop(self.dir);
        kernel_share(&String::from_utf8_lossy(&output.stdout))
    }
}
