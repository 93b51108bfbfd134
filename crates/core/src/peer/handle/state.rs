//! What a connection and its handles know of each other, on different threads.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;

use super::PushError;
use crate::close::Close;
#[cfg(doc)]
use crate::mailbox::Mail;
use crate::memory::Memory;
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard};
use crate::tickets::Kind;
use crate::transit::{self, UnderWay};

#[cfg(test)]
#[cfg(ringhold_loom)]
mod models;

/// What a connection and its handles share.
pub(crate) struct HandleState {
    /// [`OPEN`], then [`GONE`] or [`OVERFLOWED`] for good, or [`PARTING`] and then [`GONE`]. It changes under the lock of `inbox`.
    state: AtomicU8,
    inbox: Mutex<Inbox>,
    /// There is something in `inbox`. It changes under its lock.
    waits: AtomicBool,
    /// A [`Mail::Inbox`] is on its way, or about to be, whether or not anything waits by now.
    is_posted: AtomicBool,
    /// The bytes that the worker's thread pushed, which alone writes it.
    pushed_here: AtomicUsize,
    /// The worker has to look into `inbox` when it looks for mail next. Its thread alone uses it.
    is_called: AtomicBool,
    /// The bytes in the connection's outbox when the worker looked last, whose thread alone writes it.
    unsent: AtomicUsize,
    /// The number of the last [`crate::fan::Fan`] that has a column for the connection. The worker's thread alone uses it.
    fan: AtomicU64,
    /// The tickets up to this serial number were given up, but for repeatable ones. It changes under the lock of `inbox`.
    given_up: AtomicU64,
    /// The same for the repeatable ones; [`ALL`] when none is answered any more, since the successor is asked.
    repeatable_given_up: AtomicU64,
    pushed_max: usize,
    memory: Arc<Memory>,
}

/// What waits for a connection until its worker takes it, in the order in which it came, from whichever thread. Other threads post
/// [`Mail::Inbox`], unless one is on its way: what comes before the worker looks is taken with it.
///
/// Nothing is dropped under the lock: bytes that a service has shared may push something when the last of them goes.
#[derive(Default)]
struct Inbox {
    /// At hand, since there is one item as a rule.
    first: Option<Item>,
    behind: VecDeque<Item>,
    /// What other threads than the worker's pushed: the bytes, and [`transit::ITEM_BYTES`] for each push.
    pushed: usize,
    /// A cut was taken, and no other one is.
    is_cut: bool,
    /// The connection is about to be handed over: no cut is taken.
    is_parting: bool,
    /// The connection is no more: nobody comes for what is left here.
    is_over: bool,
}

impl Inbox {
    /// The serial numbers of the tickets whose answers wait.
    fn answered(&self) -> impl Iterator<Item = u64> {
        let items = self.first.iter().chain(&self.behind);
        items.filter_map(|item| match item {
            Item::Answer { serial, .. } => Some(*serial),
            _ => None,
        })
    }
}

/// Something for one connection.
pub(crate) enum Item {
    /// Bytes that a handle pushed.
    Push {
        /// It goes before the bytes do.
        counted: Option<Arc<UnderWay>>,
        bytes: Bytes,
        /// On the worker's own thread.
        here: bool,
    },
    /// A handle ends the connection: it was pushed more than it may hold, or is not wanted any more. What is ending already ends for
    /// [`Close::Cut`] only.
    End(Close),
    /// A [`Responder`](crate::Responder) answered the ticket with this serial number.
    Answer { serial: u64, pieces: Pieces },
    /// A responder was dropped without an answer.
    Dropped { serial: u64 },
}

/// The bytes of an answer. As small as those in one piece, which most are.
pub(crate) enum Pieces {
    One(Bytes),
    Two(Box<[Bytes; 2]>),
}

impl Item {
    /// What it counts as something that another thread has pushed.
    fn pushed(&self) -> usize {
        match self {
            Item::Push {
                bytes, here: false, ..
            } => bytes.len() + transit::ITEM_BYTES,
            _ => 0,
        }
    }
}

/// What became of a push. The worker has to be told of what was left.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Pushed {
    /// The bytes were left.
    Left,
    /// More would wait than may: the end of the connection was left instead.
    Overflowed,
    /// Nothing was left.
    Refused(PushError),
}

/// The connection takes bytes.
const OPEN: u8 = 0;
/// It takes no more bytes.
const GONE: u8 = 1;
/// It takes no more bytes, because of those that were pushed.
const OVERFLOWED: u8 = 2;
/// It takes no more bytes, since it is about to be handed over, but answers that are owed.
const PARTING: u8 = 3;

/// Above all serial numbers.
const ALL: u64 = u64::MAX;

/// Room for so many items is kept when they have been taken.
const KEPT_ITEMS_MAX: usize = 16;

impl HandleState {
    pub(crate) fn new(pushed_max: usize, memory: Arc<Memory>) -> Self {
        HandleState {
            state: AtomicU8::new(OPEN),
            inbox: Mutex::default(),
            waits: AtomicBool::new(false),
            is_posted: AtomicBool::new(false),
            pushed_here: AtomicUsize::new(0),
            is_called: AtomicBool::new(false),
            unsent: AtomicUsize::new(0),
            fan: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            repeatable_given_up: AtomicU64::new(0),
            pushed_max,
            memory,
        }
    }

    // --- what handles ask -----------------------------------------------------------------------------------------

    pub(super) fn check(&self) -> Result<(), PushError> {
        match self.state.load(Ordering::Acquire) {
            OPEN => Ok(()),
            state => Err(PushError::of(state)),
        }
    }

    /// Whether an answer would be written to the ticket with this serial number.
    pub(super) fn wants_answer(&self, serial: u64, is_repeatable: bool) -> bool {
        let given_up = match is_repeatable {
            true => &self.repeatable_given_up,
            false => &self.given_up,
        };
        self.takes_answers() && serial > given_up.load(Ordering::Acquire)
    }

    fn takes_answers(&self) -> bool {
        matches!(self.state.load(Ordering::Acquire), OPEN | PARTING)
    }

    fn ends_repeatable(&self) -> bool {
        self.repeatable_given_up.load(Ordering::Acquire) == ALL
    }

    /// Whether anything waits to be taken. Who knows of what another thread has left sees that it waits, until it is taken.
    pub(crate) fn waits(&self) -> bool {
        self.waits.load(Ordering::Acquire)
    }

    /// What has been pushed and not sent, and what was queued before it.
    pub(super) fn unsent(&self) -> usize {
        let here = self.pushed_here.load(Ordering::Relaxed);
        let waiting = if self.waits() { self.lock().pushed } else { 0 };
        self.unsent.load(Ordering::Relaxed) + here + waiting
    }

    /// Whether so many bytes may be there besides those that the worker's thread has pushed.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        let here = self.pushed_here.load(Ordering::Relaxed);
        here.saturating_add(bytes) <= self.pushed_max
    }

    /// The worker's thread has pushed so many bytes.
    pub(super) fn pushed_here(&self, bytes: usize) {
        let here = self.pushed_here.load(Ordering::Relaxed);
        self.pushed_here.store(here + bytes, Ordering::Relaxed);
    }

    /// Leaves bytes for the connection, from the worker's thread if `here`.
    pub(super) fn push(&self, bytes: &Bytes, here: bool) -> Pushed {
        let mut inbox = self.lock();
        if let Err(error) = self.check() {
            return Pushed::Refused(error);
        }
        let waiting = inbox.pushed + bytes.len();
        if !self.has_room(waiting) {
            return self.overflow(&mut inbox, "outbox_bytes");
        }
        let mut counted = None;
        if here {
            self.pushed_here(bytes.len());
        } else if waiting + transit::ITEM_BYTES > transit::UNCOUNTED_BYTES_MAX {
            counted = transit::count(&self.memory, bytes);
            if counted.is_none() {
                return self.overflow(&mut inbox, "limits.memory");
            }
        }
        let item = Item::Push {
            counted,
            bytes: bytes.clone(),
            here,
        };
        // One push of all that may wait was allowed, whatever its item takes.
        inbox.pushed += item.pushed();
        self.leave_in(&mut inbox, item);
        Pushed::Left
    }

    /// More is pushed than `limit` allows.
    #[cold]
    pub(super) fn overflow_of(&self, limit: &'static str) -> Pushed {
        self.overflow(&mut self.lock(), limit)
    }

    fn overflow(&self, inbox: &mut Inbox, limit: &'static str) -> Pushed {
        match self.close_in(inbox, PushError::Overflow, Close::Overflow(limit)) {
            Ok(()) => Pushed::Overflowed,
            // It may have ended, or begun to part, meanwhile.
            Err(error) => Pushed::Refused(error),
        }
    }

    /// Ends the connection, unless it has ended: then this is why pushes are refused, which they are with `error` from now on.
    pub(super) fn close(&self, error: PushError, why: Close) -> Result<(), PushError> {
        self.close_in(&mut self.lock(), error, why)
    }

    /// Ends the connection at once, even if it is ending, unless it has ended, or was cut, or is about to be handed over: then this
    /// is why pushes are refused.
    pub(super) fn cut(&self, why: Close) -> Result<(), PushError> {
        let mut inbox = self.lock();
        if inbox.is_over || inbox.is_cut || inbox.is_parting {
            return self.check();
        }
        inbox.is_cut = true;
        if self.check().is_ok() {
            self.state.store(GONE, Ordering::Release);
        }
        self.leave_in(&mut inbox, Item::End(why));
        Ok(())
    }

    fn close_in(&self, inbox: &mut Inbox, error: PushError, why: Close) -> Result<(), PushError> {
        self.check()?;
        self.state.store(error.state(), Ordering::Release);
        self.leave_in(inbox, Item::End(why));
        Ok(())
    }

    /// Leaves an answer, or the word that none will come. It is given back if the connection is no more, or if the request
    /// `is_repeatable` and answered elsewhere.
    pub(super) fn leave(&self, item: Item, is_repeatable: bool) -> Result<(), Item> {
        let mut inbox = self.lock();
        if inbox.is_over || is_repeatable && self.ends_repeatable() {
            return Err(item);
        }
        self.leave_in(&mut inbox, item);
        Ok(())
    }

    /// Leaves an answer if it will be written, unless the connection ends before.
    pub(super) fn leave_wanted(
        &self,
        serial: u64,
        pieces: Pieces,
        is_repeatable: bool,
    ) -> Result<(), PushError> {
        let mut inbox = self.lock();
        if inbox.is_over || !self.wants_answer(serial, is_repeatable) {
            return self.check().and(Err(PushError::Gone));
        }
        self.leave_in(&mut inbox, Item::Answer { serial, pieces });
        Ok(())
    }

    /// Whether the answer to the ticket with this serial number has not been taken.
    pub(super) fn has_answer(&self, serial: u64) -> bool {
        self.lock().answered().any(|answered| answered == serial)
    }

    fn leave_in(&self, inbox: &mut Inbox, item: Item) {
        if self.waits() {
            inbox.behind.push_back(item);
        } else {
            inbox.first = Some(item);
            self.waits.store(true, Ordering::Release);
        }
    }

    /// Something waits for which a [`Mail::Inbox`] has to come. Returns whether none is on its way by now, so that it has to be posted.
    ///
    /// If one is, its [`HandleState::posted`] is still to come and reads what is written here, so that the [`HandleState::take`] behind
    /// it finds what was left before.
    pub(crate) fn post(&self) -> bool {
        !self.is_posted.swap(true, Ordering::AcqRel)
    }

    // --- what the worker asks -------------------------------------------------------------------------------------

    /// A [`Mail::Inbox`] has come, and what waits is taken now. What is left behind that needs another one.
    pub(crate) fn posted(&self) {
        self.is_posted.swap(false, Ordering::AcqRel);
    }

    /// Moves what waits to `items`, which is empty, but no more than `most`. Returns whether more waits.
    pub(crate) fn take(&self, items: &mut Vec<Item>, most: usize) -> bool {
        self.is_called.store(false, Ordering::Relaxed);
        let mut inbox = self.lock();
        items.extend(inbox.first.take());
        let count = inbox.behind.len().min(most - items.len());
        items.extend(inbox.behind.drain(..count));
        if !inbox.behind.is_empty() {
            inbox.pushed -= items.iter().map(Item::pushed).sum::<usize>();
            return true;
        }
        if inbox.behind.capacity() > KEPT_ITEMS_MAX {
            inbox.behind = VecDeque::new();
        }
        inbox.pushed = 0;
        self.waits.store(false, Ordering::Release);
        false
    }

    /// The worker's thread has left something. Returns whether it has to note that.
    pub(super) fn call(&self) -> bool {
        let is_called = self.is_called.load(Ordering::Relaxed);
        self.is_called.store(true, Ordering::Relaxed);
        !is_called
    }

    /// From now on pushes are answered with this error, and no answer is wanted. What was said first stays.
    pub(crate) fn end(&self, error: PushError) {
        let _inbox = self.lock();
        if self.takes_answers() {
            // Whoever was told that it is parting is told the same as before.
            let state = self.check().map_or(GONE, |()| error.state());
            self.state.store(state, Ordering::Release);
        }
    }

    /// From now on handles are told that the connection is gone, but answers that are owed are still wanted, if they are this process's.
    pub(crate) fn part(&self) {
        let mut inbox = self.lock();
        inbox.is_parting = true;
        self.repeatable_given_up.store(ALL, Ordering::Release);
        if self.check().is_ok() {
            self.state.store(PARTING, Ordering::Release);
        }
    }

    /// The connection ends here after all, and can be cut until it has.
    pub(crate) fn stay(&self) {
        self.lock().is_parting = false;
    }

    /// The connection is no more.
    pub(crate) fn forget(&self) {
        self.end(PushError::Gone);
        let mut inbox = self.lock();
        inbox.is_over = true;
        inbox.pushed = 0;
        let left = (inbox.first.take(), std::mem::take(&mut inbox.behind));
        drop(inbox);
        self.unsent.store(0, Ordering::Relaxed);
        self.pushed_here.store(0, Ordering::Relaxed);
        drop(left);
    }

    /// So many bytes are in the connection's outbox.
    pub(crate) fn note_unsent(&self, bytes: usize) {
        // Other threads read it more often than it changes.
        if self.unsent.load(Ordering::Relaxed) != bytes {
            self.unsent.store(bytes, Ordering::Relaxed);
        }
    }

    /// Bytes that the worker's thread pushed have reached the connection.
    pub(crate) fn arrived(&self, bytes: usize) {
        let pushed = self.pushed_here.load(Ordering::Relaxed);
        self.pushed_here.store(pushed - bytes, Ordering::Relaxed);
    }

    /// Whether everything that was pushed has reached the connection, and the end if a handle asked for that. After
    /// [`HandleState::part`] that stays so, but for answers.
    pub(crate) fn is_delivered(&self) -> bool {
        self.pushed_here.load(Ordering::Relaxed) == 0 && !self.waits()
    }

    /// The connection's tickets up to this serial number are answered in vain from now on. Returns the serial numbers of those that
    /// have been answered before, of which the worker has not heard yet, in order.
    pub(crate) fn give_up(&self, last: u64, of: Kind) -> Vec<u64> {
        let inbox = self.lock();
        let (awaited, repeatable) = match of {
            Kind::Any => (last, last),
            Kind::Awaited => (last, 0),
            Kind::Repeatable => (0, last),
        };
        // Those that were promised later may have been given up before, as late ones are before a stop gives up the others.
        self.given_up.fetch_max(awaited, Ordering::Release);
        self.repeatable_given_up
            .fetch_max(repeatable, Ordering::Release);
        let mut answered: Vec<u64> = inbox.answered().collect();
        drop(inbox);
        answered.sort_unstable();
        answered
    }

    /// Notes that the fan of this number has a column for the connection. Returns whether that is news.
    pub(crate) fn enter_fan(&self, number: u64) -> bool {
        let is_new = self.fan.load(Ordering::Relaxed) != number;
        self.fan.store(number, Ordering::Relaxed);
        is_new
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        // Nothing that could panic is done under the lock but to make room.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PushError {
    /// The state of a connection whose handles say so.
    fn state(self) -> u8 {
        match self {
            PushError::Gone => GONE,
            PushError::Overflow => OVERFLOWED,
        }
    }

    /// What the handles of a connection say that is not open any more.
    fn of(state: u8) -> Self {
        match state {
            OVERFLOWED => PushError::Overflow,
            _ => PushError::Gone,
        }
    }
}
