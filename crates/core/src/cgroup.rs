//! How much memory the control group of this process may take, above which the kernel kills it.

use std::fs;
use std::path::Path;

/// Where control groups are, as for [`available_parallelism`](std::thread::available_parallelism).
const ROOT: &str = "/sys/fs/cgroup";

/// A handover takes so many times `limits.memory` for a moment.
const HANDOVER: u64 = 2;

/// Says so if `limits.memory`, in bytes, is more than the control group has room for.
pub(crate) fn say_if_too_small(memory: u64) {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let read = |file: &Path| fs::read_to_string(Path::new(ROOT).join(file)).ok();
    if let Some(why) = limit(&groups, read).and_then(|limit| too_small(limit, memory)) {
        tracing::warn!("{why}");
    }
}

/// The least limit of these groups (proc_pid_cgroup(5)) and of those that they are in, in bytes: memory.max in the kernel's
/// documentation of version 2, memory.limit_in_bytes in that of version 1. A container may see no more than a part of the
/// way up, so a file that is not there says nothing.
fn limit(groups: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let files = groups.lines().filter_map(|line| {
        let (controllers, group) = line.split_once(':')?.1.split_once(':')?;
        let (mount, file) = match controllers {
            "" => ("", "memory.max"),
            _ if controllers.split(',').any(|it| it == "memory") => {
                ("memory", "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let ways_up = Path::new(group.trim_start_matches('/')).ancestors();
        Some(ways_up.map(move |group| Path::new(mount).join(group).join(file)))
    });
    // "max" is no number, and no limit.
    let limits = files
        .flatten()
        .filter_map(|file| read(&file)?.trim().parse().ok());
    limits.min()
}

fn too_small(limit: u64, memory: u64) -> Option<String> {
    const MIB: u64 = 1 << 20;
    (memory > limit / HANDOVER).then(|| {
        format!(
            "the control group of this process may take {} MiB (MemoryMax=), too little for limits.memory, which is {} MiB: the \
             kernel may kill the process before a connection is cut. Set limits.memory to half of the group's limit at most \
             (\"{}MiB\"): a restart takes twice as much for a moment, and what the kernel keeps for connections counts, too",
            limit / MIB,
            memory / MIB,
            limit / HANDOVER / MIB
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found with these files.
    fn limit_of(groups: &str, files: &[(&str, &str)]) -> Option<u64> {
        limit(groups, |wanted| {
            let found = files.iter().find(|(file, _)| Path::new(file) == wanted);
            found.map(|(_, text)| format!("{text}\n"))
        })
    }

    #[test]
    fn the_least_limit_on_the_way_up_counts() {
        let groups = "0::/system.slice/ringhold.service\n";
        let own = "system.slice/ringhold.service/memory.max";
        let slice = "system.slice/memory.max";
        let found = |service, above| limit_of(groups, &[(own, service), (slice, above)]);
        assert_eq!(found("83886080", "max"), Some(83_886_080));
        assert_eq!(found("max", "4096"), Some(4096));
        assert_eq!(found("8192", "4096"), Some(4096));
        assert_eq!(found("max", "max"), None);
        assert_eq!(limit_of(groups, &[]), None);
        assert_eq!(limit_of("", &[(own, "1")]), None);
    }

    #[test]
    fn a_container_sees_its_own_limit_at_the_root() {
        let files = [("memory.max", "4096")];
        assert_eq!(limit_of("0::/", &files), Some(4096));
        assert_eq!(limit_of("0::/docker/abc", &files), Some(4096));
    }

    #[test]
    fn version_1_has_a_hierarchy_for_memory() {
        let groups = "5:cpu,cpuacct:/a\n4:hugetlb,memory:/b/c\n1:name=systemd:/d\n0::/e";
        let files = [
            ("memory/b/c/memory.limit_in_bytes", "9223372036854771712"),
            ("memory/b/memory.limit_in_bytes", "8192"),
            ("memory/a/memory.limit_in_bytes", "1"),
            ("a/memory.max", "1"),
        ];
        assert_eq!(limit_of(groups, &files), Some(8192));
    }

    #[test]
    fn half_of_the_limit_is_room_enough() {
        assert_eq!(too_small(2 << 30, 1 << 30), None);
        assert_eq!(too_small(u64::MAX, 1 << 30), None);
        let said = too_small(80 << 20, 1 << 30).unwrap_or_default();
        assert!(said.contains("may take 80 MiB"), "{said}");
        assert!(said.contains("which is 1024 MiB"), "{said}");
        assert!(said.contains("(\"40MiB\")"), "{said}");
    }
}
