//! How large rings may be where they count against the limit of locked memory (RLIMIT_MEMLOCK).

use std::sync::{Mutex, PoisonError};

use io_uring::IoUring;
use rustix::param::page_size;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{COMPLETIONS_PER_SUBMISSION, ENTRIES_MIN, EngineKind};
use crate::config::RingConfig;

/// Bytes of an entry of each queue (io_uring_setup(2)), of the index of the first, and of what is before them, which was 320 once.
const SUBMISSION: u64 = 64;
const COMPLETION: u64 = 16;
const INDEX: u64 = 4;
const HEAD: u64 = 64;

/// A completion queue is not made larger than this (IORING_MAX_CQ_ENTRIES in the kernel).
const COMPLETIONS_MAX: u32 = 65_536;

/// Bytes of the entry of a receive buffer (io_uring_register_buf_ring(3)).
const BUFFER: u64 = 16;

/// Held by who changes the limit for a moment.
static ALONE: Mutex<()> = Mutex::new(());

/// Makes the rings of so many workers smaller if they count and would exceed the limit. Those of the predecessor count, too: the kernel
/// takes down rings some time after they are closed or their process has ended. Both come to the same. Returns what is to be said
/// about it.
pub(crate) fn fit_rings(
    engine: EngineKind,
    config: &mut RingConfig,
    workers: usize,
) -> Option<String> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let limit = getrlimit(Resource::Memlock);
    let most = limit.current?;
    let entries = fitting(
        engine,
        config,
        workers,
        most,
        engine == EngineKind::Portable && is_old(),
    );
    if entries == config.entries || !do_count(limit) {
        return None;
    }
    let asked = std::mem::replace(&mut config.entries, entries);
    let times = times(engine);
    Some(format!(
        "rings have {entries} entries, and not the {asked} of ring.entries: this user may lock {} KiB of memory, and the rings of {workers} \
         workers count {times} times for a moment of a restart; raise LimitMEMLOCK= (ulimit -l without systemd)",
        most >> 10
    ))
}

/// How many rings of each worker there are at the same time: its own, that of its predecessor, and with the portable engine the one that
/// is tried before.
fn times(engine: EngineKind) -> u64 {
    match engine {
        EngineKind::Ring => 2,
        EngineKind::Portable => 3,
    }
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

/// Whether the kernel is older than Linux 5.12.
fn is_old() -> bool {
    IoUring::new(ENTRIES_MIN).is_ok_and(|ring| !ring.params().is_feature_native_workers())
}

fn fitting(
    engine: EngineKind,
    config: &RingConfig,
    workers: usize,
    most: u64,
    is_old: bool,
) -> u32 {
    let buffers = match engine {
        EngineKind::Ring => config.buffers,
        // It names them one by one.
        EngineKind::Portable => 0,
    };
    let rings = times(engine) * workers as u64;
    let mut entries = config.entries;
    while entries > ENTRIES_MIN && rings * locked(entries, buffers, is_old) > most {
        entries /= 2;
    }
    entries
}

/// What a ring with so many entries takes, with the one in which it finds so many receive buffers: each of the three in pages of its own,
/// of which an old kernel takes, and counts, a power of two.
fn locked(entries: u32, buffers: u32, is_old: bool) -> u64 {
    let page = page_size() as u64;
    let completions = (entries * COMPLETIONS_PER_SUBMISSION).min(COMPLETIONS_MAX);
    let [entries, completions, buffers] = [entries, completions, buffers].map(u64::from);
    let queues = HEAD + completions * COMPLETION + entries * INDEX;
    let pages = [entries * SUBMISSION, queues, buffers * BUFFER].map(|bytes| bytes.div_ceil(page));
    let counted = pages.map(|pages| match is_old && pages > 0 {
        true => pages.next_power_of_two(),
        false => pages,
    });
    page * counted.iter().sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// The second numbers are what Linux 6.18 counts, tried page by page; the last ones are what 5.10 does (ring_pages).
    #[test]
    fn a_ring_takes_what_the_kernel_counts() {
        if page_size() != 4096 {
            return;
        }
        for (entries, pages, old) in [
            (8, 2, 2),
            (64, 3, 3),
            (128, 5, 6),
            (256, 9, 12),
            (512, 17, 24),
            (1024, 34, 48),
            (4096, 133, 192),
            (8192, 265, 384),
            (16_384, 529, 768),
            (32_768, 801, 1024),
        ] {
            assert_eq!(locked(entries, 0, false), 4096 * pages, "{entries}");
            assert_eq!(locked(entries, 0, true), 4096 * old, "{entries}");
            // The entries of the buffers have pages of their own.
            assert_eq!(locked(entries, 64, false), 4096 * (pages + 1));
            assert_eq!(locked(entries, 8192, false), 4096 * (pages + 32));
        }
    }

    #[test]
    fn rings_of_two_processes_have_room() {
        use EngineKind::{Portable, Ring};
        for (engine, entries, buffers, workers, most, fits) in [
            (Ring, 4096, 64, 7, 8 * MIB, 4096),
            (Ring, 4096, 64, 8, 8 * MIB, 2048),
            (Ring, 4096, 64, 14, 8 * MIB, 2048),
            (Ring, 4096, 64, 16, 8 * MIB, 1024),
            (Ring, 32_768, 64, 16, 8 * MIB, 1024),
            (Ring, 32_768, 64, 1, 8 * MIB, 32_768),
            (Ring, 1024, 64, 16, 8 * MIB, 1024),
            (Ring, 4096, 64, 128, 8 * MIB, 128),
            (Ring, 4096, 64, 128, 256 * MIB, 4096),
            // The entries of the buffers take as much as the queues.
            (Ring, 4096, 8192, 16, 8 * MIB, 512),
            (Ring, 4096, 32_768, 7, 8 * MIB, 512),
            // One is tried before.
            (Portable, 4096, 64, 5, 8 * MIB, 4096),
            (Portable, 4096, 64, 7, 8 * MIB, 2048),
            (Portable, 4096, 64, 14, 8 * MIB, 1024),
            (Portable, 4096, 32_768, 14, 8 * MIB, 1024),
            // Less would be of no use.
            (Ring, 4096, 64, 128, MIB, 64),
            (Ring, 4096, 64, 1, 0, 64),
            (Ring, 8, 64, 1, 0, 8),
        ] {
            let config = RingConfig {
                entries,
                buffers,
                ..RingConfig::default()
            };
            assert_eq!(
                fitting(engine, &config, workers, most, false),
                fits,
                "{workers} in {most} with {config:?}, {engine}"
            );
        }
    }
}
