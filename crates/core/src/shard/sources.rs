//! What the services of a worker read from besides connections.
//!
//! All of it is in one epoll(7) instance, which the engine polls. A poll of each would keep its file open for as long as the
//! kernel has that: with the portable engine, which cannot cancel, until the successor of this process has begun. An instance keeps nothing open.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno;

use super::Shard;
use crate::calling::Call;
use crate::desk::Desk;
use crate::panics;
use crate::peer::Link;
use crate::service::{SourceId, Watch};
use crate::tick::Tick;

/// So many are read from in a turn. If there are more, the kernel names the others next.
const READ_PER_TURN_MAX: usize = 64;

/// One that fails again and again, and still has something to read, is read from after so long.
const REST_MS: u64 = 1_000;

/// The number of the next source, of whatever worker: none is used again.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// The sources of one worker, by number. Services add to them while they are made or called, and take out of them.
pub(crate) struct Watches {
    each: RefCell<BTreeMap<u64, Watched>>,
    /// Those that the kernel is not asked about yet.
    fresh: RefCell<Vec<u64>>,
    /// Made for the first of them.
    epoll: OnceCell<OwnedFd>,
}

struct Watched {
    /// For which of the worker's services.
    service: usize,
    descriptor: Box<dyn AsFd>,
    /// The kernel watches it. If it does not, it may watch the same descriptor as another source.
    is_polled: bool,
    /// The last attempt to read has failed, and has left something to read.
    has_failed: bool,
}

impl Watched {
    /// Does something with the descriptor. What the service has made of it is asked which it is, and may panic.
    fn with_descriptor<R>(
        &self,
        act: impl FnOnce(BorrowedFd<'_>) -> rustix::io::Result<R>,
    ) -> io::Result<R> {
        // Unwind safety: what its value looks like is up to the service.
        match panics::catch(|| act(self.descriptor.as_fd())) {
            Ok(done) => Ok(done?),
            Err(panic) => {
                let why = format!("it panicked when it was asked for its descriptor: {panic}");
                Err(io::Error::other(why))
            }
        }
    }

    /// Whether there is anything to read; yes, if that cannot be told.
    fn is_readable(&self) -> bool {
        let asked = self.with_descriptor(|descriptor| {
            let mut asked = [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)];
            poll(&mut asked, Some(&Timespec::default()))
        });
        !matches!(asked, Ok(0))
    }
}

impl Watches {
    pub(crate) fn new() -> Self {
        Watches {
            each: RefCell::default(),
            fresh: RefCell::default(),
            epoll: OnceCell::new(),
        }
    }

    pub(crate) fn add(&self, service: usize, descriptor: impl AsFd + 'static) -> SourceId {
        let watched = Watched {
            service,
            descriptor: Box::new(descriptor),
            is_polled: false,
            has_failed: false,
        };
        // What services watch from the start takes no descriptor later, when connections may have used them up. If it cannot be had,
        // that is said when the kernel is asked.
        let _ = self.epoll();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        self.each.borrow_mut().insert(number, watched);
        self.fresh.borrow_mut().push(number);
        SourceId(number)
    }

    /// Lets go of one, unless it has ended.
    pub(crate) fn end(&self, SourceId(number): SourceId) {
        let watched = self.each.borrow_mut().remove(&number);
        if let Some(mut watched) = watched {
            self.cease(&mut watched);
            let_go(watched);
        }
    }

    fn service(&self, number: u64) -> Option<usize> {
        Some(self.each.borrow().get(&number)?.service)
    }

    fn epoll(&self) -> io::Result<&OwnedFd> {
        if let Some(epoll) = self.epoll.get() {
            return Ok(epoll);
        }
        let made = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(self.epoll.get_or_init(|| made))
    }

    /// Has the kernel watch one.
    fn begin(&self, number: u64) -> io::Result<()> {
        let epoll = self.epoll()?;
        if let Some(watched) = self.each.borrow_mut().get_mut(&number) {
            let data = epoll::EventData::new_u64(number);
            watched.with_descriptor(|descriptor| {
                epoll::add(epoll, descriptor, data, epoll::EventFlags::IN)
            })?;
            watched.is_polled = true;
        }
        Ok(())
    }

    fn cease(&self, watched: &mut Watched) {
        if std::mem::take(&mut watched.is_polled)
            && let Some(epoll) = self.epoll.get()
        {
            // What has changed its descriptor meanwhile is not there any more.
            let _ = watched.with_descriptor(|descriptor| epoll::delete(epoll, descriptor));
        }
    }
}

/// The sources of one worker, and how they are watched.
pub(super) struct Sources {
    watches: Watches,
    /// Reused when the kernel is asked.
    ready: Vec<epoll::Event>,
    /// Until when, on the worker's clock, which number is left alone.
    resting: Vec<(u64, u64)>,
}

impl Sources {
    pub(super) fn new(watches: Watches) -> Self {
        Sources {
            watches,
            ready: Vec::new(),
            resting: Vec::new(),
        }
    }

    /// Whether services read from anything.
    pub(super) fn are_watched(&self) -> bool {
        !self.watches.each.borrow().is_empty()
    }

    /// What a service has at hand in a call. It may add to the sources, and take out of them.
    pub(super) fn tick<'a>(&'a self, desk: &'a Desk, service: usize, call: Call) -> Tick<'a> {
        Tick {
            desk,
            service,
            call,
            watches: &self.watches,
        }
    }

    /// Goes on with those that have rested.
    #[inline]
    pub(super) fn end_rests(&mut self, now: u64) {
        if !self.resting.is_empty() {
            let rested = self.resting.extract_if(.., |(until, _)| *until <= now);
            let mut fresh = self.watches.fresh.borrow_mut();
            fresh.extend(rested.map(|(_, number)| number));
        }
    }

    /// When [`Sources::end_rests`] has something to do.
    pub(super) fn rest_ends(&self) -> Option<u64> {
        self.resting.iter().map(|(until, _)| *until).min()
    }

    /// It could be read from.
    fn went_well(&self, number: u64) {
        if let Some(watched) = self.watches.each.borrow_mut().get_mut(&number) {
            watched.has_failed = false;
        }
    }

    /// It could not be read from, as of now. A socket tells each error once: what is there besides can be read in the next call,
    /// and if there is nothing, the next error is another one, whenever it comes.
    fn failed(&mut self, number: u64, now: u64) {
        let mut each = self.watches.each.borrow_mut();
        let Some(watched) = each.get_mut(&number) else {
            return;
        };
        let had_failed = watched.has_failed;
        watched.has_failed = watched.is_readable();
        if had_failed && watched.has_failed {
            self.watches.cease(watched);
            self.resting.push((now.saturating_add(REST_MS), number));
        }
    }
}

impl<L: Link> Shard<L> {
    /// Readable when anything is that is watched, for the engine to poll; `None` if nothing is, or nobody may read.
    #[inline]
    pub(crate) fn sources(&mut self) -> Option<BorrowedFd<'_>> {
        if !self.dispatches() {
            return None;
        }
        if !self.sources.watches.fresh.borrow().is_empty() {
            self.begin_sources();
        }
        self.sources.watches.epoll.get().map(AsFd::as_fd)
    }

    #[cold]
    fn begin_sources(&mut self) {
        for number in self.sources.watches.fresh.take() {
            let Some(service) = self.sources.watches.service(number) else {
                continue;
            };
            if let Err(error) = self.sources.watches.begin(number) {
                let tick = self.sources.tick(&self.desk, service, Call::Readable);
                tick.report_unreadable(number, &error);
                // epoll_ctl(2): the file does not support to be waited for, and never will.
                if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) {
                    self.sources.watches.end(SourceId(number));
                    continue;
                }
                let until = self.desk.now.saturating_add(REST_MS);
                self.sources.resting.push((until, number));
            }
        }
    }

    /// Has the services read from what can be read from.
    #[cold]
    pub(crate) fn read_sources(&mut self) {
        let (true, Some(epoll)) = (self.dispatches(), self.sources.watches.epoll.get()) else {
            return;
        };
        let mut ready = std::mem::take(&mut self.sources.ready);
        ready.reserve_exact(READ_PER_TURN_MAX);
        // If it fails, it is as if there were nothing.
        let _ = epoll::wait(
            epoll,
            spare_capacity(&mut ready),
            Some(&Timespec::default()),
        );
        for event in ready.drain(..) {
            self.read_source(event.data.u64());
        }
        self.sources.ready = ready;
    }

    fn read_source(&mut self, number: u64) {
        // Another call of this turn may have ended it.
        let Some(service) = self.sources.watches.service(number) else {
            return;
        };
        let tick = self.sources.tick(&self.desk, service, Call::Readable);
        let host = self.hosts.get_mut(service);
        let read = host.map(|host| host.readable(SourceId(number), &tick));
        let took = self.desk.stopwatch.slow();
        if let Some(took) = took {
            tick.report_slow(took);
        }
        match read {
            Some(Ok(Ok(Watch::Continue))) => return self.sources.went_well(number),
            Some(Ok(Ok(Watch::End))) => {
                tick.report_end(number);
                return self.sources.watches.end(SourceId(number));
            }
            None => return,
            Some(Ok(Err(error))) => tick.report_unreadable(number, &error),
            Some(Err(panic)) => tick.report_panic("a call", &panic),
        }
        let now = self.desk.now.saturating_add(took.unwrap_or(0));
        self.sources.failed(number, now);
    }

    /// When [`Shard::tick`] has a source to go on with.
    pub(super) fn next_source_due(&self) -> Option<u64> {
        let due = self.sources.rest_ends()?;
        self.dispatches().then_some(due)
    }

    /// Lets go of all sources, when the services are called no more.
    pub(crate) fn let_go_of_sources(&mut self) {
        let numbers: Vec<u64> = self.sources.watches.each.borrow().keys().copied().collect();
        for number in numbers {
            self.sources.watches.end(SourceId(number));
        }
    }
}

/// What the service has made of it may panic as it goes.
fn let_go(watched: Watched) {
    // Unwind safety: nothing is left of it.
    if let Err(panic) = panics::catch(|| drop(watched)) {
        tracing::error!("what a service had watched panicked when it was dropped: {panic}");
    }
}
