//! Whether this machine has what the workers of a successor need, found out by having it for a moment.

use std::sync::Mutex;
use std::thread::{self, Builder};

use super::{EngineKind, portable, ring};
use crate::config::RingConfig;
use crate::server::ServerError;
use crate::worker::STACK_BYTES;

/// What the workers of one process have. It is there again when that has made room for its successor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outfit {
    pub(crate) workers: usize,
    /// Entries of each one's ring.
    pub(crate) entries: u32,
    /// Bytes of each one's receive buffers that are there from the beginning.
    pub(crate) buffer_bytes: usize,
}

impl Outfit {
    pub(crate) fn new(engine: EngineKind, config: &RingConfig, workers: usize) -> Self {
        let buffer_bytes = match engine {
            EngineKind::Ring => config.buffers as usize * config.buffer_bytes,
            // It has a single small one.
            EngineKind::Portable => 0,
        };
        Outfit {
            workers,
            entries: config.entries,
            buffer_bytes,
        }
    }

    /// How many of these workers find no ring, or no buffers, in what `had` gives back.
    fn lacking(&self, had: &Outfit) -> usize {
        let buffers = had.workers * had.buffer_bytes / self.buffer_bytes.max(1);
        let without_buffers = self.workers.saturating_sub(buffers);
        without_buffers.max(self.lacking_rings(had))
    }

    fn lacking_rings(&self, had: &Outfit) -> usize {
        let entries = had.workers * had.entries as usize / (self.entries as usize).max(1);
        self.workers.saturating_sub(entries)
    }
}

/// Whether all workers could have their threads, their rings and, with the ring engine, their buffers, when a process that has `had` has
/// made room for them. The portable engine makes rings as small as it must, so the smallest are tried.
///
/// What that one gives back is not tried, since it has it still and some limits count both (TasksMax=, LimitNPROC=, MemoryMax=,
/// LimitMEMLOCK=, vm.overcommit_memory=2).
///
/// # Errors
///
/// What they cannot have, and which keys of the configuration ask for it.
pub(crate) fn rehearse(
    engine: EngineKind,
    config: &RingConfig,
    workers: usize,
    had: &Outfit,
) -> Result<(), ServerError> {
    threads(had.workers..workers)?;
    let mut outfit = Outfit::new(engine, config, workers);
    if engine == EngineKind::Portable {
        outfit.entries = portable::smallest(config.entries);
        return portable::rehearse(outfit.entries, outfit.lacking_rings(had)).map_err(|error| {
            ServerError::Engine(format!(
                "{workers} workers cannot have rings at the same time, however small: {error}; ask for less with workers"
            ))
        });
    }
    let each = outfit.buffer_bytes.saturating_add(STACK_BYTES);
    ring::reserve(workers.saturating_mul(each))
        .and_then(|()| ring::rehearse(config, outfit.lacking(had)))
        .map_err(|error| {
            ServerError::Engine(format!(
                "{workers} workers cannot have rings and receive buffers of this size at the same time: {error}; ask for less with ring.buffers, \
                 ring.buffer_bytes, ring.entries or workers, or raise MemoryMax= and LimitAS= if they are set"
            ))
        })
}

/// Whether these workers could have their threads, all at once.
fn threads(mut workers: std::ops::Range<usize>) -> Result<(), ServerError> {
    let gate = Mutex::new(());
    thread::scope(|scope| {
        // Opened when this closure returns, before the threads are waited for.
        let _closed = gate.lock();
        workers.try_for_each(|worker| {
            Builder::new()
                .name(format!("ringhold-{worker}"))
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, || drop(gate.lock()))
                .map(drop)
                .map_err(|error| ServerError::Thread { worker, error })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1 << 10;

    fn outfit(workers: usize, entries: u32, buffer_bytes: usize) -> Outfit {
        Outfit {
            workers,
            entries,
            buffer_bytes,
        }
    }

    #[test]
    fn what_the_asking_process_has_is_not_tried() {
        let had = outfit(4, 4096, 64 * KIB);
        for (workers, entries, buffer_bytes, lacking) in [
            (4, 4096, 64 * KIB, 0),
            (2, 4096, 64 * KIB, 0),
            (7, 4096, 64 * KIB, 3),
            (2, 8192, 64 * KIB, 0),
            (4, 8192, 64 * KIB, 2),
            (4, 4096, 256 * KIB, 3),
            (4, 4096, 512 * KIB, 4),
            (8, 2048, 32 * KIB, 0),
        ] {
            let wanted = outfit(workers, entries, buffer_bytes);
            assert_eq!(wanted.lacking(&had), lacking, "{wanted:?}");
        }
        // What the portable engine receives into does not count.
        assert_eq!(had.lacking(&outfit(4, 4096, 0)), 4);
        assert_eq!(outfit(60, 64, 0).lacking_rings(&outfit(4, 256, 0)), 44);
    }

    #[test]
    fn many_workers_can_be_had_at_once() {
        if ring::probe().unavailable.is_some() {
            return;
        }
        let config = RingConfig::default();
        let had = outfit(1, config.entries, 0);
        rehearse(EngineKind::Ring, &config, 64, &had).unwrap();
        rehearse(EngineKind::Portable, &config, 64, &had).unwrap();
    }
}
