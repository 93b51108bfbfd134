//! Whether there is room for the rings and the buffers of several workers.

use std::time::{Duration, Instant};

use io_uring::IoUring;

use super::buffers::{self, Buffers, GROUP};
use super::setup::{self, Unavailable};
use crate::config::RingConfig;

/// What a worker has, not in use.
struct Equipment {
    ring: IoUring,
    _buffers: Buffers,
}

impl Equipment {
    fn new(config: &RingConfig) -> Result<Self, Unavailable> {
        let ring = setup::ring(config)?;
        // SAFETY: `drop` unregisters the group before the buffers are freed.
        #[expect(unsafe_code, reason = "the kernel keeps the address of the buffers")]
        let buffers = unsafe { Buffers::register(&ring.submitter(), config) };
        Ok(Equipment {
            _buffers: buffers.map_err(Unavailable::at(setup::BUFFERS))?,
            ring,
        })
    }
}

impl Drop for Equipment {
    fn drop(&mut self) {
        // Nothing is in flight that could use a buffer, should this fail.
        let _ = self.ring.submitter().unregister_buf_ring(GROUP);
    }
}

/// How long it is tried. The kernel clears rings when it makes them, and whoever asks waits for ten seconds in all.
const TRIAL_MAX: Duration = Duration::from_secs(3);

/// Whether so many workers could have their rings and buffers at the same time. The buffers are not touched. What is not tried in
/// time is taken to be there.
pub(crate) fn rehearse(config: &RingConfig, workers: usize) -> Result<(), Unavailable> {
    let begin = Instant::now();
    let mut all = Vec::new();
    while all.len() < workers && begin.elapsed() < TRIAL_MAX {
        all.push(Equipment::new(config)?);
    }
    Ok(())
}

/// Whether this process may have so many bytes of addresses more. That takes no memory, and is not counted as promised.
pub(crate) fn reserve(bytes: usize) -> Result<(), Unavailable> {
    buffers::reserve(bytes).map_err(Unavailable::at(setup::BUFFERS))
}
