//! The two queues of the ring, and the one system call.

use std::io;

use io_uring::squeue::Entry;
use io_uring::{CompletionQueue, IoUring, SubmissionQueue, Submitter, cqueue};

// From <linux/io_uring.h>; io-uring keeps them to itself.
const ENTER_GETEVENTS: u32 = 1 << 0;
const ENTER_NO_IOWAIT: u32 = 1 << 7;

const SUBMISSIONS: u32 = 4096;

/// More than one enter can complete, so that it never overflows: a backlog of accepts, and 32 receives each for as
/// many connections as the kernel looks after at once.
const COMPLETIONS: u32 = 32 * 1024;

/// With DEFER_TASKRUN the kernel runs so many pieces of deferred work in an enter, unless it is asked for more
/// completions. After a batch of this size there may be more.
const DEFERRED_BATCH: usize = 20;

/// The ring of this thread.
pub(crate) fn ring() -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(COMPLETIONS)
        .dontfork()
        .build(SUBMISSIONS)
}

/// One completion, copied out of the ring.
pub(crate) struct Completion {
    pub(crate) user_data: u64,
    pub(crate) result: i32,
    flags: u32,
}

impl Completion {
    /// Whether the operation goes on and will complete again.
    pub(crate) fn more(&self) -> bool {
        cqueue::more(self.flags)
    }

    /// The receive buffer that was used up.
    pub(crate) fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }
}

/// A ring, split once: a registered ring descriptor is remembered in the submitter value, so it must be kept.
pub(crate) struct Queue<'r> {
    submitter: Submitter<'r>,
    submission: SubmissionQueue<'r>,
    completion: CompletionQueue<'r>,
    flags: u32,
    /// How many completions the last turn had.
    batch: usize,
}

impl<'r> Queue<'r> {
    pub(crate) fn new(ring: &'r mut IoUring) -> io::Result<Self> {
        // Without NO_IOWAIT a sleeping server looks as if it waited for a disk.
        let flags = if ring.params().is_feature_no_iowait() {
            ENTER_GETEVENTS | ENTER_NO_IOWAIT
        } else {
            ENTER_GETEVENTS
        };
        let (mut submitter, submission, completion) = ring.split();
        submitter.register_ring_fd()?;
        Ok(Self {
            submitter,
            submission,
            completion,
            flags,
            batch: 0,
        })
    }

    pub(crate) fn submitter(&self) -> &Submitter<'r> {
        &self.submitter
    }

    /// Queues an operation.
    ///
    /// # Safety
    ///
    /// What the entry points to must be valid, and not be touched in a way that the operation forbids, until its last
    /// completion was taken; if it has none, until the next [`Queue::turn`] has returned.
    #[expect(unsafe_code, reason = "handing memory to the kernel")]
    pub(crate) unsafe fn push(&mut self, entry: &Entry) -> io::Result<()> {
        // SAFETY: the caller vouches for the entry.
        while unsafe { self.submission.push(entry) }.is_err() {
            self.submission.sync();
            self.submitter.submit()?;
            self.submission.sync();
        }
        Ok(())
    }

    /// Submits what is queued and collects what has completed. Sleeps until something has, unless the caller is in
    /// a hurry, or there may be deferred work that one call has left over.
    ///
    /// An enter that does not sleep asks for nothing and is repeated. One that asks for many, with a timeout of zero,
    /// would arm a timer whenever there are fewer, which costs more than all the calls that it saves.
    pub(crate) fn turn(
        &mut self,
        hurry: bool,
        completions: &mut Vec<Completion>,
    ) -> io::Result<()> {
        // The flag can be left behind by work that was run already, so it is believed only while something completes.
        // An enter that waits runs what there is, too.
        let flagged = self.batch > 0 && self.submission.taskrun();
        let more = hurry || self.batch >= DEFERRED_BATCH || flagged;
        self.submission.sync();
        let to_submit = self.submission.len() as u32;
        // SAFETY: there is no argument that the kernel would read.
        #[expect(unsafe_code, reason = "the safe calls do not always run deferred work")]
        let entered = unsafe {
            let submitter = &self.submitter;
            submitter.enter::<()>(to_submit, u32::from(!more), self.flags, None)
        };
        match entered {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        self.submission.sync();
        assert!(!self.submission.cq_overflow(), "completions have room");
        self.completion.sync();
        completions.clear();
        completions.extend((&mut self.completion).map(|entry| Completion {
            user_data: entry.user_data(),
            result: entry.result(),
            flags: entry.flags(),
        }));
        self.completion.sync();
        self.batch = completions.len();
        Ok(())
    }
}
