//! How much memory the control group of this process may take, above which the kernel kills it.

use std::fs;
use std::path::Path;

use crate::config::Config;

/// Where control groups are, as for [`available_parallelism`](std::thread::available_parallelism).
const ROOT: &str = "/sys/fs/cgroup";

/// A handover takes so many times `limits.memory` for a moment.
const HANDOVER: u64 = 2;

/// Says so if `limits.memory` is more than the control group has room for.
pub(crate) fn say_if_too_small(config: &Config) {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    // Where both versions are in use, version 2 is below "unified".
    let roots = ["", "unified"].map(|root| Path::new(ROOT).join(root));
    let read = |file: &Path| {
        let mut texts = roots.iter().map(|root| fs::read_to_string(root.join(file)));
        texts.find_map(Result::ok)
    };
    if let Some(why) = limit(&groups, read).and_then(|limit| too_small(limit, config)) {
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

fn too_small(limit: u64, config: &Config) -> Option<String> {
    const MIB: u64 = 1 << 20;
    let memory = config.limits.memory as u64;
    let most = limit / HANDOVER / MIB;
    let is_above = |frame: usize| frame as u64 > most * MIB;
    // No value is named that the configuration refuses.
    let own = config.limits.frame_bytes;
    let own = is_above(own).then(|| ("limits".to_owned(), own));
    let sockets = config.sockets.iter().filter_map(|(name, socket)| {
        let frame = socket.frame_bytes.filter(|frame| is_above(*frame))?;
        Some((format!("sockets.{name}"), frame))
    });
    let above = own.into_iter().chain(sockets).map(|(section, frame)| {
        format!(", and {section}.frame_bytes, which is {frame} bytes, no higher than that")
    });
    let most = match above.collect::<String>() {
        above if above.is_empty() => format!(" (\"{most}MiB\")"),
        above => above,
    };
    (memory > limit / HANDOVER).then(|| {
        format!(
            "the control group of this process may take {} MiB (MemoryMax=), too little for limits.memory, which is {} MiB: the \
             kernel may kill the process before a connection is cut. Set limits.memory to half of the group's limit at most{most}: \
             a restart takes twice as much for a moment, and what the kernel keeps for connections counts, too",
            limit / MIB,
            memory / MIB,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SocketConfig;

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
        let config = Config::default();
        assert_eq!(too_small(2 << 30, &config), None);
        assert_eq!(too_small(u64::MAX, &config), None);
        let said = too_small(80 << 20, &config).unwrap_or_default();
        assert!(said.contains("may take 80 MiB"), "{said}");
        assert!(said.contains("which is 1024 MiB"), "{said}");
        assert!(said.contains("(\"40MiB\")"), "{said}");
        assert!(!said.contains("frame_bytes"), "{said}");
    }

    /// `limits.memory` has to be a frame at least.
    #[test]
    fn half_of_the_limit_is_named_only_if_it_may_be_written() {
        let with = |frame_bytes| {
            let mut config = Config::default();
            config.limits.frame_bytes = frame_bytes;
            config
        };
        let said = |limit, frame_bytes| too_small(limit, &with(frame_bytes)).unwrap_or_default();
        let lower =
            "at most, and limits.frame_bytes, which is 16777216 bytes, no higher than that: ";
        let too_low = said(24 << 20, 16 << 20);
        assert!(too_low.contains(lower), "{too_low}");
        assert!(!too_low.contains("12MiB"), "{too_low}");
        assert!(said(32 << 20, 16 << 20).contains("at most (\"16MiB\")"));
        assert!(said((2 << 20) - 1, 1).contains("limits.frame_bytes, which is 1 bytes"));
        // Of a socket, too.
        let mut config = with(1);
        for (name, frame_bytes) in [("a", None), ("b", Some(60 << 20)), ("c", Some(1))] {
            let mut socket = SocketConfig::new(name);
            socket.frame_bytes = frame_bytes;
            config.sockets.insert(name.to_owned(), socket);
        }
        let lower =
            "at most, and sockets.b.frame_bytes, which is 62914560 bytes, no higher than that: ";
        let too_low = too_small(80 << 20, &config).unwrap_or_default();
        assert!(too_low.contains(lower), "{too_low}");
    }
}
