//! What else runs on the machine has to wait while something is measured.
//!
//! Otherwise a server waits for its CPU now and then, finds more to do when it gets it, and does that for less than it would
//! have, or for more because its caches are cold: and not every server likewise. The kernel divides CPUs between sessions
//! (sched(7), autogroups) before it does between their processes, so the bench becomes a session, and that takes
//! precedence.

use std::process::{Command, exit};

use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::Pid;
use rustix::process::{set_parent_process_death_signal, setsid};

/// Set in the environment of the process that measures.
const MARK: &str = "RINGHOLD_THROUGHPUT_SESSION";

/// Goes on in a session of its own, with all processes that are started from here on. This process stays where it is, ends
/// the session if it is told to stop, and ends with it.
pub(crate) fn new_session() {
    let mut stops = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        stops.add(signal);
    }
    if std::env::var_os(MARK).is_some() {
        stops.thread_unblock().unwrap();
        setsid().unwrap();
        set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).unwrap();
        return;
    }
    stops.thread_block().unwrap();
    let mut session = Command::new(std::env::current_exe().unwrap())
        .args(std::env::args_os().skip(1))
        .env(MARK, "1")
        .spawn()
        .unwrap();
    let group = Pid::from_raw(session.id().cast_signed());
    std::thread::spawn(move || {
        stops.wait().unwrap();
        // It may have ended.
        let _ = killpg(group, Signal::SIGKILL);
    });
    let status = session.wait().unwrap();
    exit(status.code().unwrap_or(1));
}

/// Takes precedence, if the kernel lets us.
pub(crate) fn take() {
    if std::fs::write("/proc/self/autogroup", "-20").is_err() {
        println!("the kernel gives no precedence (sched(7), autogroup): what else runs disturbs");
    }
}
