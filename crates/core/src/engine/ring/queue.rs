//! The two queues of one ring, and the one system call.

use std::collections::VecDeque;
use std::io;

use io_uring::squeue::Entry;
use io_uring::types::{CancelBuilder, SubmitArgs, Timespec};
use io_uring::{CompletionQueue, IoUring, SubmissionQueue, Submitter, cqueue, opcode};

use super::files::File;
use crate::metrics::EngineCounters;

// From <linux/io_uring.h>; io-uring keeps them to itself.
const ENTER_GETEVENTS: u32 = 1 << 0;
const ENTER_EXT_ARG: u32 = 1 << 3;
const ENTER_NO_IOWAIT: u32 = 1 << 7;

/// One completion, copied out of the ring.
#[derive(Clone, Copy, Default)]
pub(super) struct Completion {
    pub(super) user_data: u64,
    pub(super) result: i32,
    flags: u32,
}

impl Completion {
    /// Whether the operation goes on and will complete again.
    pub(super) fn more(&self) -> bool {
        cqueue::more(self.flags)
    }

    /// The receive buffer that was used up.
    pub(super) fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }
}

/// How long an enter may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// Not at all, and deferred work is not run either: nothing completes but what is over as soon as it has begun.
    Submit,
    /// Not at all.
    No,
    /// Until something completes, at most so many milliseconds.
    AtMost(u64),
    /// Until something completes.
    Forever,
}

/// A ring, split once: a registered ring descriptor is remembered in the submitter value, so it must be kept.
pub(super) struct Queue<'r> {
    submitter: Submitter<'r>,
    submission: SubmissionQueue<'r>,
    completion: CompletionQueue<'r>,
    flags: u32,
    /// Operations for which the submission queue had no room, while the kernel took none because the completion queue
    /// had none either.
    overflow: VecDeque<Entry>,
    /// Calls into the kernel since the last enter, to make room in the submission queue.
    submits: u64,
    /// Operations that were queued so far.
    pushed: u64,
}

impl<'r> Queue<'r> {
    pub(super) fn new(ring: &'r mut IoUring) -> Self {
        let no_iowait = ring.params().is_feature_no_iowait();
        let (mut submitter, submission, completion) = ring.split();
        // Saves the kernel a look-up per call; where it is not possible, the descriptor itself does.
        let _ = submitter.register_ring_fd();
        // Without NO_IOWAIT a sleeping worker is accounted as waiting for a disk.
        let flags = ENTER_GETEVENTS | if no_iowait { ENTER_NO_IOWAIT } else { 0 };
        Queue {
            submitter,
            submission,
            completion,
            flags,
            overflow: VecDeque::new(),
            submits: 0,
            pushed: 0,
        }
    }

    pub(super) fn submitter(&self) -> &Submitter<'r> {
        &self.submitter
    }

    /// Queues an operation. If the queue is full, what is in it is submitted first.
    ///
    /// # Errors
    ///
    /// Those of io_uring_enter(2) if the queue was full and could not be emptied.
    ///
    /// # Safety
    ///
    /// What the entry points to must be valid, and not be touched in a way that the operation forbids, until its last
    /// completion was taken.
    #[expect(unsafe_code, reason = "handing memory to the kernel")]
    pub(super) unsafe fn push(&mut self, entry: &Entry) -> io::Result<()> {
        self.pushed += 1;
        // SAFETY: the caller vouches for the entry.
        if !self.overflow.is_empty() || unsafe { self.submission.push(entry) }.is_err() {
            self.overflow.push_back(entry.clone());
            self.submission.sync();
            self.submits += 1;
            match self.submitter.submit() {
                Ok(_) => {}
                // Nothing more is taken until completions were reaped, which comes after the next enter.
                Err(error) if is_transient(&error) => {}
                Err(error) => return Err(error),
            }
            self.submission.sync();
            self.refill();
        }
        Ok(())
    }

    /// Waits for `events` on a socket: once, or, if it `goes_on`, whenever they change.
    pub(super) fn poll(
        &mut self,
        file: File,
        events: i16,
        goes_on: bool,
        user_data: u64,
    ) -> io::Result<()> {
        let poll = opcode::PollAdd::new(file.fd, events as u32)
            .multi(goes_on)
            .build()
            .flags(file.flags)
            .user_data(user_data);
        // SAFETY: the entry points to nothing.
        #[expect(unsafe_code, reason = "submitting an operation")]
        unsafe {
            self.push(&poll)
        }
    }

    /// Asks the kernel to end the operation `target`.
    pub(super) fn cancel(&mut self, target: u64, user_data: u64) -> io::Result<()> {
        let cancel = opcode::AsyncCancel2::new(CancelBuilder::user_data(target))
            .build()
            .user_data(user_data);
        // SAFETY: the entry points to nothing.
        #[expect(unsafe_code, reason = "submitting an operation")]
        unsafe {
            self.push(&cancel)
        }
    }

    /// Moves operations that waited for room into the submission queue.
    fn refill(&mut self) {
        while let Some(entry) = self.overflow.front() {
            // SAFETY: whoever pushed the entry vouched for it until its last completion.
            #[expect(unsafe_code, reason = "handing memory to the kernel")]
            let pushed = unsafe { self.submission.push(entry) };
            if pushed.is_err() {
                return;
            }
            self.overflow.pop_front();
        }
    }

    /// Submits what is queued, runs deferred work and waits.
    pub(super) fn enter(&mut self, wait: Wait, counters: &EngineCounters) -> io::Result<()> {
        self.refill();
        // What has no room yet can be submitted only after this, so it must not sleep.
        let wait = if self.overflow.is_empty() {
            wait
        } else {
            Wait::No
        };
        self.submission.sync();
        let to_submit = self.submission.len() as u32;
        let timespec = match wait {
            // To ask for more with a timeout of zero would run more of the deferred work in one call, but the kernel arms
            // a timer for that, which costs as much as a message.
            Wait::Submit | Wait::No | Wait::Forever => None,
            Wait::AtMost(ms) => Some(
                Timespec::new()
                    .sec(ms / 1000)
                    .nsec((ms % 1000) as u32 * 1_000_000),
            ),
        };
        let args = timespec
            .as_ref()
            .map(|timespec| SubmitArgs::new().timespec(timespec));
        // Without a timeout there is nothing for the kernel to read.
        let flags = match args {
            Some(_) => self.flags | ENTER_EXT_ARG,
            None => self.flags,
        };
        let flags = match wait {
            Wait::Submit => flags & !ENTER_GETEVENTS,
            _ => flags,
        };
        let want = u32::from(matches!(wait, Wait::AtMost(_) | Wait::Forever));
        counters.enters.add(1 + std::mem::take(&mut self.submits));
        #[expect(
            unsafe_code,
            reason = "the safe calls know neither GETEVENTS without a wait nor NO_IOWAIT"
        )]
        // SAFETY: the arguments are those of io_uring_enter(2): with IORING_ENTER_EXT_ARG `args` is the kernel's struct
        // io_uring_getevents_arg and lives, as does the timespec it points to, until the call returns. Otherwise there is
        // no set of signals.
        let entered = unsafe { self.submitter.enter(to_submit, want, flags, args.as_ref()) };
        self.submission.sync();
        if self.submission.cq_overflow() {
            counters.overflows.add(1);
        }
        match entered {
            Ok(_) => Ok(()),
            Err(error) if is_transient(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Takes all completions out of the ring, in their order. Returns how many there were.
    pub(super) fn reap(&mut self, mut take: impl FnMut(Completion)) -> u64 {
        self.completion.sync();
        let mut count = 0;
        for entry in &mut self.completion {
            take(Completion {
                user_data: entry.user_data(),
                result: entry.result(),
                flags: entry.flags(),
            });
            count += 1;
        }
        // Publishes that they were taken, before anything is done about them.
        self.completion.sync();
        count
    }

    /// Whether there is anything to reap.
    pub(super) fn has_completions(&mut self) -> bool {
        self.completion.sync();
        !self.completion.is_empty()
    }

    /// How many operations were queued so far, which is the number of the last one.
    pub(super) fn pushed(&self) -> u64 {
        self.pushed
    }

    /// The number of the last operation that the kernel has begun. What can be known of it at once is among the
    /// completions, unless they have overflowed.
    pub(super) fn begun(&self) -> u64 {
        self.pushed - self.submission.len() as u64 - self.overflow.len() as u64
    }

    /// Whether completions wait in the kernel for room.
    pub(super) fn has_overflowed(&self) -> bool {
        self.submission.cq_overflow()
    }

    /// Whether the kernel has completions to make in the next enter, as far as the ring's flag tells. It can stay behind
    /// after they were made, so that nobody may go on for ever because of it.
    pub(super) fn may_have_deferred_work(&self) -> bool {
        self.submission.taskrun() || self.submission.cq_overflow()
    }
}

/// Answers of io_uring_enter(2) that mean: look at the completions and go on.
fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN)
    )
}
