//! Making a ring: by attempt, never by kernel version.

use std::fmt;
use std::io;

use io_uring::IoUring;

use crate::config::RingConfig;
use crate::engine::COMPLETIONS_PER_SUBMISSION;
use crate::engine::choice::hint;
use crate::patience::Obstacle;
use crate::rlimit;

/// The ring engine cannot work here.
#[derive(Debug)]
pub(crate) struct Unavailable {
    /// The step that failed.
    pub(crate) step: &'static str,
    pub(crate) error: io::Error,
}

impl Unavailable {
    pub(super) fn at(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Unavailable { step, error }
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the ring engine is not available: {}: {}",
            self.step, self.error
        )?;
        match (self.step, self.error.raw_os_error()) {
            (SETUP, Some(libc::EINVAL)) => {
                f.write_str("; the kernel is older than Linux 6.1, which DEFER_TASKRUN needs")
            }
            // The entries of the buffers are a ring, too.
            (SETUP, _) | (BUFFERS, Some(libc::ENOMEM)) => f.write_str(hint(&self.error)),
            (THREAD, _) => f.write_str(rlimit::thread_advice(&self.error)),
            _ => f.write_str(rlimit::advice(&self.error)),
        }
    }
}

impl std::error::Error for Unavailable {}

impl Obstacle for Unavailable {
    fn may_pass(&self) -> bool {
        self.error.may_pass()
    }
}

/// The step before anything is tried.
pub(super) const THREAD: &str = "starting a thread to try it on";

/// The step that asks for the ring itself.
const SETUP: &str = "io_uring_setup with SINGLE_ISSUER and DEFER_TASKRUN";

/// The step that gives it the receive buffers.
pub(super) const BUFFERS: &str = "registering a ring of receive buffers";

/// Makes the ring of the calling thread, which alone may use it.
pub(super) fn ring(config: &RingConfig) -> Result<IoUring, Unavailable> {
    IoUring::builder()
        // With DEFER_TASKRUN nothing is received behind the worker's back between two enters.
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_clamp()
        .setup_cqsize(config.entries * COMPLETIONS_PER_SUBMISSION)
        .dontfork()
        .build(config.entries)
        .map_err(Unavailable::at(SETUP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_locks_memory_names_the_limit() {
        for (step, errno, expected) in [
            (SETUP, libc::ENOMEM, "LimitMEMLOCK="),
            (BUFFERS, libc::ENOMEM, "LimitMEMLOCK="),
            (BUFFERS, libc::EMFILE, "LimitNOFILE="),
        ] {
            let error = io::Error::from_raw_os_error(errno);
            let text = Unavailable { step, error }.to_string();
            assert!(text.contains(step) && text.contains(expected), "{text}");
        }
        let unavailable = Unavailable {
            step: BUFFERS,
            error: io::Error::other("there is no memory"),
        };
        let text = unavailable.to_string();
        assert!(text.ends_with("there is no memory"), "{text}");
    }
}
