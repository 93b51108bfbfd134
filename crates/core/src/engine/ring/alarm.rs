//! One timeout in the ring for whatever a sleeping worker is to be woken for.
//!
//! A timeout of its own for each wait would make the kernel start and stop a timer around every sleep. Time limits move
//! rarely, because the timer wheel is lazy, so one operation stays in the ring and is moved only when something is due
//! earlier. That it goes off too early does no harm.

use std::io;

use io_uring::types::Timespec;
use io_uring::{opcode, squeue};

use super::Engine;
use super::operation::{Kind, Operation};

/// The timeout of one worker.
pub(super) struct Alarm {
    /// When it goes off at the latest, on the worker's clock; `None` if it is not in flight.
    at: Option<u64>,
    /// How long that is from now. The kernel reads it when the operation is submitted.
    time: Box<Timespec>,
}

impl Alarm {
    pub(super) fn new() -> Self {
        Alarm {
            at: None,
            time: Box::new(Timespec::new()),
        }
    }

    pub(super) fn is_armed(&self) -> bool {
        self.at.is_some()
    }

    pub(super) fn went_off(&mut self) {
        self.at = None;
    }

    fn identity() -> u64 {
        Operation::new(Kind::Alarm, 0, 0).pack()
    }
}

impl Engine<'_> {
    /// Sees to it that the worker wakes up at `due`, on its clock, if nothing wakes it before. Once in a turn, since what
    /// was asked for before must have been submitted.
    pub(super) fn wake_at(&mut self, due: u64) -> io::Result<()> {
        if self.alarm.at.is_some_and(|at| at <= due) {
            return Ok(());
        }
        let ms = due.saturating_sub(self.shard.desk.now).max(1);
        *self.alarm.time = Timespec::new()
            .sec(ms / 1000)
            .nsec((ms % 1000) as u32 * 1_000_000);
        let time = &raw const *self.alarm.time;
        let entry = if self.alarm.is_armed() {
            opcode::TimeoutUpdate::new(Alarm::identity(), time)
                .build()
                // If it has gone off meanwhile, that wakes the worker.
                .flags(squeue::Flags::SKIP_SUCCESS)
                .user_data(Operation::new(Kind::Cancel, 0, 0).pack())
        } else {
            opcode::Timeout::new(time)
                .build()
                .user_data(Alarm::identity())
        };
        self.alarm.at = Some(due);
        // SAFETY: the box outlives the operation (see `Engine`), and is written only here, once in a turn.
        #[expect(unsafe_code, reason = "submitting an operation")]
        unsafe {
            self.queue.push(&entry)
        }
    }
}
