//! How many descriptors the process may open, and what helps against this limit and others.

use std::{fs, io};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;
use crate::limits::Limits;

/// The soft limit of open descriptors before and after [`raise`], and the hard one. `u64::MAX` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raised {
    /// The soft limit as it was.
    pub before: u64,
    /// The soft limit as it is.
    pub after: u64,
}

/// Raises the soft limit of open descriptors (RLIMIT_NOFILE, getrlimit(2)) to the hard one. The soft default of 1024
/// exists for select(2), which nothing here uses.
///
/// # Errors
/// That the kernel refuses.
pub fn raise() -> io::Result<Raised> {
    let limit = getrlimit(Resource::Nofile);
    let before = limit.current.unwrap_or(u64::MAX);
    let after = limit.maximum.unwrap_or(u64::MAX);
    if before < after {
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: limit.maximum,
                maximum: limit.maximum,
            },
        )?;
    }
    Ok(Raised { before, after })
}

/// What can be done if the process may open too few, to be put behind what that prevents.
pub(crate) const RAISE_LIMIT: &str = "; raise LimitNOFILE= (ulimit -n without systemd)";

/// Whether a call failed because no descriptor is left, of those of the process or of the machine.
pub(crate) fn is_used_up(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// What can be done if a limit is why a call failed, to be put behind its error; nothing for other errors.
pub(crate) fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE) => RAISE_LIMIT,
        Some(libc::ENFILE) => "; the whole machine may open no more: raise sysctl fs.file-max",
        Some(libc::ETOOMANYREFS) => {
            "; this user has too many descriptors in flight (unix(7)): raise LimitNOFILE="
        }
        Some(libc::EFBIG) => "; raise LimitFSIZE= (ulimit -f without systemd)",
        _ => "",
    }
}

/// What can be done if a thread cannot be started, to be put behind the error.
pub(crate) fn thread_advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        // For want of memory for its stack, too (pthread_create(3)).
        Some(libc::EAGAIN) => {
            "; raise TasksMax= and LimitNPROC= (ulimit -u without systemd), or LimitAS= if it is set"
        }
        _ => advice(error),
    }
}

/// Says so if the process may not open as many descriptors as there may be connections, besides what is open, of which there is none
/// yet, and what the server takes for itself.
pub(crate) fn say_if_too_few(config: &Config, workers: usize, own: usize) {
    let Some(limit) = getrlimit(Resource::Nofile).current else {
        return;
    };
    // Without /proc nobody knows. What reads the directory is in it.
    let Ok(open) = fs::read_dir("/proc/self/fd") else {
        return;
    };
    let taken = (open.count().saturating_sub(1) + own) as u64;
    if let Some(why) = too_few(limit, taken, config, workers) {
        tracing::warn!("{why}");
    }
}

fn too_few(limit: u64, taken: u64, config: &Config, workers: usize) -> Option<String> {
    let allowed = most_connections(config, workers);
    let room = limit.saturating_sub(taken);
    // That each worker can hold as many as it may by default is nothing that anybody has asked for. On many CPUs it is more than what a
    // process usually may open.
    let own = u64::from(config.limits.connections);
    let wanted = match config.limits.connections == Limits::default().connections {
        true => allowed.min(own),
        false => allowed,
    };
    let lower = match room / workers as u64 {
        0 => String::new(),
        each => format!(", or lower limits.connections to {each}"),
    };
    (room < wanted).then(|| {
        format!(
            "the process may open {limit} files, which leaves room for {room} connections, and the configuration allows {allowed} on \
             {workers} workers: beyond that room nobody is accepted on any socket{RAISE_LIMIT} to {} and as many as your services \
             open{lower}",
            allowed + taken
        )
    })
}

/// How many connections all workers may hold.
fn most_connections(config: &Config, workers: usize) -> u64 {
    let mut each = vec![0; workers];
    for socket in config.sockets.values().filter(|socket| socket.enable) {
        // A partition of workers that do not exist was refused.
        for worker in socket.workers.resolve(workers).unwrap_or_default() {
            each[worker] += u64::from(socket.limits(&config.limits).connections);
        }
    }
    let most = u64::from(config.limits.connections);
    each.into_iter().map(|sum: u64| sum.min(most)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(text, "test").unwrap()
    }

    #[test]
    fn as_many_connections_are_allowed_as_names_and_workers_may_hold() {
        let names = "[limits]
            connections = 100
            [sockets.all]
            connections = 70
            [sockets.some]
            workers = [1, 2]
            connections = 20
            [sockets.one]
            workers = [2]
            [sockets.none]
            enable = false";
        assert_eq!(most_connections(&config(names), 3), 70 + 90 + 100);
        assert_eq!(most_connections(&config("[sockets.rpc]"), 4), 40_000);
        assert_eq!(most_connections(&config(""), 4), 0);
    }

    #[test]
    fn too_few_descriptors_are_named_with_what_helps() {
        let asked = config("[limits]\nconnections = 100\n[sockets.rpc]");
        assert_eq!(too_few(240, 40, &asked, 2), None);
        let said = too_few(239, 40, &asked, 2).unwrap();
        for part in [
            "may open 239 files",
            "room for 199 connections",
            "allows 200 on 2 workers",
            "raise LimitNOFILE= (ulimit -n without systemd) to 240 and as many as your services open, or lower limits.connections to 99",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        // No value is named that the configuration refuses.
        let none = too_few(41, 40, &asked, 2).unwrap();
        assert!(
            none.ends_with(" to 240 and as many as your services open"),
            "{none}"
        );
        assert!(too_few(39, 40, &asked, 2).unwrap().contains("room for 0 "));
    }

    #[test]
    fn by_default_there_is_to_be_room_for_what_one_worker_may_hold() {
        let default = config("[sockets.rpc]");
        assert_eq!(too_few(10_040, 40, &default, 64), None);
        let said = too_few(10_039, 40, &default, 64).unwrap();
        assert!(said.contains("allows 640000 on 64 workers"), "{said}");
        let few = config("[sockets.rpc]\nconnections = 10");
        assert_eq!(too_few(60, 40, &few, 2), None);
        assert!(too_few(59, 40, &few, 2).is_some());
    }

    #[test]
    fn soft_limit_reaches_the_hard_one_and_stays() {
        let first = raise().unwrap();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        assert_eq!(first.after, limit.maximum.unwrap_or(u64::MAX));
        assert_eq!(
            raise().unwrap(),
            Raised {
                before: first.after,
                after: first.after
            }
        );
    }
}
