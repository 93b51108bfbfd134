//! What a connection and its handles know of each other, on different threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

use super::PushError;
#[cfg(doc)]
use crate::mailbox::Mail;
use crate::memory::Memory;
use crate::tickets::is_later_round;
use crate::transit;

/// What a connection and its handles share.
pub(crate) struct HandleState {
    /// [`OPEN`], then [`GONE`] or [`OVERFLOWED`] for good, or [`PARTING`] and then [`GONE`]. With [`END_UNDER_WAY`] if a handle has
    /// changed it, until the worker knows.
    pub(super) state: AtomicU8,
    /// What other threads than the worker's pushed and was not yet put into the outbox: the bytes, and
    /// [`transit::MAIL_BYTES`] for each push.
    pub(super) pushed: AtomicUsize,
    /// The bytes that the worker's thread pushed, which alone writes it.
    pub(super) pushed_here: AtomicUsize,
    /// The number of the last [`crate::fan::Fan`] that has a column for the connection. The worker's thread alone uses it.
    fan: AtomicU64,
    /// 0, or 2^32 and a round: the tickets that were opened in this round or before were given up.
    given_up: AtomicU64,
    pub(super) pushed_max: usize,
    pub(super) memory: Arc<Memory>,
}

/// The connection takes bytes.
pub(super) const OPEN: u8 = 0;
/// It takes no more bytes.
const GONE: u8 = 1;
/// It takes no more bytes, because of those that were pushed.
const OVERFLOWED: u8 = 2;
/// It takes no more bytes, since it is about to be handed over, but answers that are owed.
pub(super) const PARTING: u8 = 3;
/// [`Mail::End`], which says so, has not reached the connection yet.
pub(super) const END_UNDER_WAY: u8 = 4;

/// For so many rounds it is known which tickets were given up. Half of all rounds later [`is_later_round`] turns round, which leaves
/// as many to those that are opened meanwhile.
const GIVEN_UP_ROUNDS_MAX: u32 = 1 << 30;

impl HandleState {
    pub(crate) fn new(pushed_max: usize, memory: Arc<Memory>) -> Self {
        HandleState {
            state: AtomicU8::new(OPEN),
            pushed: AtomicUsize::new(0),
            pushed_here: AtomicUsize::new(0),
            fan: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            pushed_max,
            memory,
        }
    }

    /// From now on pushes are answered with this error, and no answer is wanted. What was said first stays.
    pub(crate) fn end(&self, error: PushError) {
        if self.begin_end(error.state()).is_err() {
            let order = Ordering::SeqCst;
            let _ = self.state.compare_exchange(PARTING, GONE, order, order);
        }
    }

    /// From now on handles are told that the connection is gone, but answers that are owed are still wanted.
    pub(crate) fn part(&self) {
        let _ = self.begin_end(PARTING);
    }

    /// Changes the state if it is open; otherwise this is why pushes are refused.
    pub(super) fn begin_end(&self, state: u8) -> Result<(), PushError> {
        self.state
            .compare_exchange(OPEN, state, Ordering::SeqCst, Ordering::SeqCst)
            .map(|_| ())
            .map_err(PushError::of)
    }

    /// The mail of a handle that has ended the connection has reached it.
    pub(crate) fn end_arrived(&self) {
        self.state.fetch_and(!END_UNDER_WAY, Ordering::SeqCst);
    }

    /// The bytes of a push have reached the connection.
    pub(crate) fn arrived(&self, bytes: usize, here: bool) {
        if here {
            let pushed = self.pushed_here.load(Ordering::Relaxed);
            self.pushed_here.store(pushed - bytes, Ordering::Relaxed);
        } else {
            let taken = bytes + transit::MAIL_BYTES;
            self.pushed.fetch_sub(taken, Ordering::AcqRel);
        }
    }

    /// Whether everything that was pushed has reached the connection, and the end if a handle asked for that. After
    /// [`HandleState::part`] or [`HandleState::end`] that stays so: of a push from another thread, which notes what it takes and
    /// then looks whether the end has come, one of both has seen the other; and of two ends only the first is one.
    pub(crate) fn is_delivered(&self) -> bool {
        self.pushed_here.load(Ordering::Relaxed) == 0
            && self.pushed.load(Ordering::SeqCst) == 0
            && self.state.load(Ordering::SeqCst) & END_UNDER_WAY == 0
    }

    /// The connection's tickets that were opened in this round of the worker's or before are answered in vain from now on.
    pub(crate) fn give_up_until(&self, round: u32) {
        // Those that were promised later may have been given up before, as late ones are before a stop gives up the others.
        if !self.has_given_up(round) {
            let given_up = 1 << 32 | u64::from(round);
            self.given_up.store(given_up, Ordering::Release);
        }
    }

    /// A ticket is opened in this round. What was given up long before is forgotten, or this one would seem to be given up, too.
    pub(crate) fn promise(&self, round: u32) {
        let given_up = self.given_up.load(Ordering::Relaxed);
        if given_up > 0 && round.wrapping_sub(given_up as u32) > GIVEN_UP_ROUNDS_MAX {
            self.given_up.store(0, Ordering::Release);
        }
    }

    pub(super) fn has_given_up(&self, round: u32) -> bool {
        let given_up = self.given_up.load(Ordering::Acquire);
        given_up > 0 && !is_later_round(round, given_up as u32)
    }

    /// Notes that the fan of this number has a column for the connection. Returns whether that is news.
    pub(crate) fn enter_fan(&self, number: u64) -> bool {
        let is_new = self.fan.load(Ordering::Relaxed) != number;
        self.fan.store(number, Ordering::Relaxed);
        is_new
    }

    pub(super) fn check(&self) -> Result<(), PushError> {
        match self.state.load(Ordering::SeqCst) {
            OPEN => Ok(()),
            state => Err(PushError::of(state)),
        }
    }
}

impl PushError {
    /// The state of a connection whose handles say so.
    pub(super) fn state(self) -> u8 {
        match self {
            PushError::Gone => GONE,
            PushError::Overflow => OVERFLOWED,
        }
    }

    /// What the handles of a connection say that is not open any more.
    fn of(state: u8) -> Self {
        match state & !END_UNDER_WAY {
            OVERFLOWED => PushError::Overflow,
            _ => PushError::Gone,
        }
    }
}
