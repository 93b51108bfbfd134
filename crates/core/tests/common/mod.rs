//! What tests with real servers and sockets have in common.
#![allow(dead_code, reason = "each test uses a part of it")]

pub(crate) mod bed;
pub(crate) mod client;
pub(crate) mod random;
pub(crate) mod service;

use std::time::Duration;

/// Nothing in these tests takes so long unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

pub(crate) fn thread_names() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    // A thread that has ended meanwhile has none.
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.map(|name| name.trim_end().to_owned()).collect()
}

/// The kernel makes a thread of this name when an operation cannot be done without blocking: none of ours may.
pub(crate) fn assert_no_kernel_workers() {
    let threads = thread_names();
    assert!(
        !threads.iter().any(|name| name.starts_with("iou-")),
        "{threads:?}"
    );
}
