//! How large rings may be where they count against the limit of locked memory (RLIMIT_MEMLOCK).

use std::sync::{Mutex, PoisonError};

use io_uring::IoUring;
use rustix::param::page_size;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::COMPLETIONS_PER_SUBMISSION;
use crate::config::RingConfig;

/// A ring is not made smaller than this.
const ENTRIES_MIN: u32 = 64;

/// Bytes of an entry of each queue (io_uring_setup(2)), and of the index of the first.
const SUBMISSION: u64 = 64;
const COMPLETION: u64 = 16;
const INDEX: u64 = 4;

/// Held by who changes the limit for a moment.
static ALONE: Mutex<()> = Mutex::new(());

/// Makes the rings of so many workers smaller if they count and those of two processes would exceed the limit: the kernel takes down the
/// rings of a process some time after it has ended, and its successor has its own by then. Both come to the same. Returns what is to
/// be said about it.
pub(crate) fn fit_rings(config: &mut RingConfig, workers: usize) -> Option<String> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let limit = getrlimit(Resource::Memlock);
    let most = limit.current?;
    let entries = fitting(config.entries, workers, most);
    if entries == config.entries || !do_count(limit) {
        return None;
    }
    let asked = std::mem::replace(&mut config.entries, entries);
    Some(format!(
        "rings have {entries} entries, and not the {asked} of ring.entries: this user may lock {} KiB of memory, and the rings of {workers} \
         workers count twice for a moment of a restart; raise LimitMEMLOCK= (ulimit -l without systemd)",
        most >> 10
    ))
}

/// Whether rings count: before Linux 5.12 and from 6.14 on, unless the process has CAP_IPC_LOCK. It is tried with no memory to lock.
fn do_count(limit: Rlimit) -> bool {
    let nothing = Rlimit {
        current: Some(0),
        ..limit
    };
    if setrlimit(Resource::Memlock, nothing).is_err() {
        return false;
    }
    let tried = IoUring::new(ENTRIES_MIN);
    // It was so before, which every process may ask for.
    let _ = setrlimit(Resource::Memlock, limit);
    tried.is_err_and(|error| error.raw_os_error() == Some(libc::ENOMEM))
}

fn fitting(mut entries: u32, workers: usize, most: u64) -> u32 {
    while entries > ENTRIES_MIN && 2 * workers as u64 * locked(entries) > most {
        entries /= 2;
    }
    entries
}

/// What a ring with so many entries takes, with the page in which it finds its receive buffers.
fn locked(entries: u32) -> u64 {
    let page = page_size() as u64;
    let entries = u64::from(entries);
    let completions = entries * u64::from(COMPLETIONS_PER_SUBMISSION);
    let queues = completions * COMPLETION + entries * INDEX;
    // What the kernel keeps beside the completions takes less than a page.
    (entries * SUBMISSION).next_multiple_of(page) + queues.next_multiple_of(page) + 2 * page
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn rings_of_two_processes_have_room() {
        for (entries, workers, most, fits) in [
            (4096, 7, 8 * MIB, 4096),
            (4096, 8, 8 * MIB, 2048),
            (4096, 16, 8 * MIB, 1024),
            (32_768, 16, 8 * MIB, 1024),
            (1024, 16, 8 * MIB, 1024),
            (4096, 128, 8 * MIB, 128),
            (4096, 128, 256 * MIB, 4096),
            // Less would be of no use.
            (4096, 128, MIB, 64),
            (4096, 1, 0, 64),
            (8, 1, 0, 8),
        ] {
            assert_eq!(fitting(entries, workers, most), fits, "{workers} in {most}");
        }
    }

    /// More than any limit that is one.
    #[test]
    fn the_limit_stays_as_it_was() {
        let before = getrlimit(Resource::Memlock);
        let config = RingConfig::default();
        let mut fitted = config.clone();
        let said = fit_rings(&mut fitted, 1 << 30);
        assert_eq!(getrlimit(Resource::Memlock), before);
        let expected = said.map_or(config.entries, |_| ENTRIES_MIN);
        assert_eq!(fitted.entries, expected);
        assert_eq!(fit_rings(&mut fitted, 1), None);
    }
}
