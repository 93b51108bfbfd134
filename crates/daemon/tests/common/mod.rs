//! What tests with real processes have in common.
#![allow(dead_code, reason = "each test uses a part of it")]

pub(crate) mod wire;

use std::process::Command;
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up on it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Begins the configuration of a test that expects no warning, in a small container too: `limits.memory` is 1 GiB otherwise.
pub(crate) const SMALL_MEMORY: &str = "limits.memory = \"64MiB\"\n";

/// Waits until `done` says something.
pub(crate) fn until<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Removes what the environment of the tests may say to the daemon.
pub(crate) fn clean(command: &mut Command) {
    for variable in [
        "LISTEN_PID",
        "LISTEN_PIDFDID",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "INVOCATION_ID",
        "SYSTEMD_EXEC_PID",
        "JOURNAL_STREAM",
        "RINGHOLD_LOG",
    ] {
        command.env_remove(variable);
    }
}
