//! Making a runtime: by attempt, never by kernel version.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use io_uring_for_tokio::{Builder, IoUring};
use rustix::event::{EventfdFlags, eventfd};
use tokio_uring::Runtime;

use crate::engine::choice::hint;
use crate::engine::{COMPLETIONS_PER_SUBMISSION, ENTRIES_MIN};
use crate::patience::Obstacle;
use crate::rlimit;

/// What a runtime opens besides its ring: epoll instances and an eventfd, and a socket if anything in the program asks for
/// tokio's signal handling.
const OTHER_DESCRIPTORS: usize = 4;

/// How often a runtime is tried again for which there is no memory, and how soon. Each attempt leaks descriptors, and the kernel takes
/// some 40 ms to take down a ring.
const AGAIN_MAX: u32 = 5;
const AGAIN_AFTER: Duration = Duration::from_millis(30);

/// Held by who makes a runtime.
static ALONE: Mutex<()> = Mutex::new(());

/// The steps that fail for other reasons than those of io_uring.
pub(in crate::engine) const THREAD: &str = "starting a thread to try it on";
pub(in crate::engine) const EVENT: &str = "making an eventfd";
pub(in crate::engine) const RUNTIME: &str = "making the runtime behind its ring";
pub(super) const BUFFERS: &str = "making receive buffers";
pub(super) const EPOLL: &str = "making an epoll instance";
pub(super) const NONBLOCK: &str = "setting O_NONBLOCK on a listener";

/// The portable engine cannot work here.
#[derive(Debug)]
pub(crate) struct Unavailable {
    /// What failed.
    step: &'static str,
    error: io::Error,
}

impl Unavailable {
    pub(in crate::engine) fn at(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Unavailable { step, error }
    }

    /// Both engines fail: says so after `why` the other one does, and what can be done about it only once.
    pub(in crate::engine) fn behind(&self, why: &str) -> String {
        format!("{}; {self}", why.strip_suffix(self.hint()).unwrap_or(why))
    }

    /// What can be done about it.
    fn hint(&self) -> &'static str {
        match self.step {
            THREAD => rlimit::thread_advice(&self.error),
            // It has a ring, too.
            RUNTIME if is_lack_of_memory(&self.error) => hint(&self.error),
            EVENT | RUNTIME | BUFFERS | EPOLL | NONBLOCK => rlimit::advice(&self.error),
            _ => hint(&self.error),
        }
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Unavailable { step, error } = self;
        write!(
            f,
            "the portable engine is not available: {step}: {error}{}",
            self.hint()
        )
    }
}

impl Obstacle for Unavailable {
    /// A runtime that fails behind its ring leaks descriptors, and is tried once.
    fn may_pass(&self) -> bool {
        self.step != RUNTIME && self.error.may_pass()
    }
}

/// Makes the runtime of the calling thread, with a ring of so many entries, or fewer if there is no memory for them:
/// before Linux 5.12, and from 6.14 on, rings count against RLIMIT_MEMLOCK, which may be as little as 64 KiB.
pub(super) fn runtime(entries: u32) -> Result<(Runtime, u32), Unavailable> {
    let mut entries = entries;
    loop {
        match with_known_flags(entries) {
            Err(failed) if is_lack_of_memory(&failed.error) && entries > ENTRIES_MIN => {
                entries /= 2;
            }
            Err(failed) => return Err(failed),
            Ok(runtime) => {
                tracing::debug!("the ring of this worker has {entries} entries");
                return Ok((runtime, entries));
            }
        }
    }
}

/// What a ring may be made as small as.
pub(in crate::engine) fn smallest(entries: u32) -> u32 {
    entries.min(ENTRIES_MIN)
}

/// Whether so many rings could be had at the same time.
pub(in crate::engine) fn rehearse(entries: u32, rings: usize) -> Result<(), Unavailable> {
    let all: Result<Vec<IoUring>, _> = (0..rings)
        .map(|_| build(&plain(entries), entries))
        .collect();
    all.map(drop)
}

/// Leaves the flags out that the kernel does not know.
fn with_known_flags(entries: u32) -> Result<Runtime, Unavailable> {
    let single = |ring: &mut Builder| {
        // Linux 6.0.
        ring.setup_single_issuer();
    };
    let cooperative = |ring: &mut Builder| {
        // Linux 5.19: no interrupts of the running worker for the sake of completions. DEFER_TASKRUN (6.1), which the
        // ring engine has, makes tokio-uring hang: its descriptor does not become readable then.
        ring.setup_coop_taskrun();
    };
    attempt(entries, &[&single, &cooperative])
        .or_else(|failed| if_unknown(failed, || attempt(entries, &[&cooperative])))
        .or_else(|failed| if_unknown(failed, || attempt(entries, &[])))
}

fn if_unknown(
    failed: Unavailable,
    next: impl FnOnce() -> Result<Runtime, Unavailable>,
) -> Result<Runtime, Unavailable> {
    if failed.error.raw_os_error() == Some(libc::EINVAL) {
        next()
    } else {
        Err(failed)
    }
}

fn attempt(entries: u32, flags: &[&dyn Fn(&mut Builder)]) -> Result<Runtime, Unavailable> {
    let mut ring = plain(entries);
    for set in flags {
        set(&mut ring);
    }
    // A runtime that fails to make its ring leaks the descriptors that it has by then, so what it takes is tried alone, by one
    // worker at a time.
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let tried = build(&ring, entries)?;
    let others: Vec<OwnedFd> = (0..OTHER_DESCRIPTORS)
        .map(|_| eventfd(0, EventfdFlags::CLOEXEC))
        .collect::<Result<_, _>>()
        .map_err(|error| Unavailable::at(EVENT)(error.into()))?;
    drop((tried, others));
    make(tokio_uring::builder().entries(entries).uring_builder(&ring))
        .map_err(Unavailable::at(RUNTIME))
}

fn plain(entries: u32) -> Builder {
    let mut ring = tokio_uring::uring_builder();
    // All of these are older than Linux 5.10.
    ring.setup_clamp()
        .setup_cqsize(entries * COMPLETIONS_PER_SUBMISSION)
        .dontfork();
    ring
}

fn build(ring: &Builder, entries: u32) -> Result<IoUring, Unavailable> {
    ring.build(entries)
        .map_err(Unavailable::at("io_uring_setup"))
}

/// Where rings count against RLIMIT_MEMLOCK, the one that was tried may do so for some time after it is closed, as those of a predecessor
/// do, and leave no room for another one.
fn make(builder: &tokio_uring::Builder) -> io::Result<Runtime> {
    let mut attempts = 0..AGAIN_MAX;
    loop {
        match Runtime::new(builder) {
            Err(error) if is_lack_of_memory(&error) && attempts.next().is_some() => {
                thread::sleep(AGAIN_AFTER);
            }
            made => return made,
        }
    }
}

fn is_lack_of_memory(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOMEM)
}
