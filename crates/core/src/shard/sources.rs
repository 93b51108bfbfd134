//! What the services of a worker read from besides connections.
//!
//! All of it is in one epoll(7) instance, which the engine polls. A poll of each would keep its file open for as long as the
//! kernel has that: with the portable engine, which cannot cancel, until the successor of this process has begun. An instance keeps nothing open.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};

use super::Shard;
use crate::desk::Desk;
use crate::panics;
use crate::peer::Link;
use crate::service::{SourceId, Watch};
use crate::slots::Slots;
use crate::tick::{Call, Tick};

/// So many are read from in a turn. If there are more, the kernel names the others next.
const READ_PER_TURN_MAX: usize = 64;

/// One that fails again and again, and still has something to read, is read from after so long.
const REST_MS: u64 = 1_000;

/// The sources of one worker, by number. Services add to them while they are made or called.
pub(crate) struct Watches {
    each: RefCell<Slots<Watched>>,
    /// Those that the kernel is not asked about yet.
    fresh: RefCell<Vec<u32>>,
}

struct Watched {
    /// For which of the worker's services.
    service: usize,
    descriptor: Box<dyn AsFd>,
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
            each: RefCell::new(Slots::new()),
            fresh: RefCell::default(),
        }
    }

    pub(crate) fn add(&self, service: usize, descriptor: impl AsFd + 'static) -> SourceId {
        let watched = Watched {
            service,
            descriptor: Box::new(descriptor),
            has_failed: false,
        };
        let index = self.each.borrow_mut().insert(watched) as u32;
        self.fresh.borrow_mut().push(index);
        SourceId(index)
    }
}

/// The sources of one worker, and how they are watched.
pub(super) struct Sources {
    watches: Watches,
    /// Made for the first of them.
    epoll: Option<OwnedFd>,
    /// Reused when the kernel is asked.
    ready: Vec<epoll::Event>,
    /// Those that are left alone until then, on the worker's clock.
    resting: Vec<(u64, u32)>,
}

impl Sources {
    pub(super) fn new(watches: Watches) -> Self {
        Sources {
            watches,
            epoll: None,
            ready: Vec::new(),
            resting: Vec::new(),
        }
    }

    /// What a service has at hand in a call. It may add to the sources.
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
            fresh.extend(rested.map(|(_, index)| index));
        }
    }

    /// When [`Sources::end_rests`] has something to do.
    pub(super) fn rest_ends(&self) -> Option<u64> {
        self.resting.iter().map(|(until, _)| *until).min()
    }

    fn service(&self, index: u32) -> Option<usize> {
        let each = self.watches.each.borrow();
        Some(each.get(index as usize)?.service)
    }

    /// Has the kernel watch one.
    fn begin(&mut self, index: u32) -> io::Result<()> {
        let epoll = match &self.epoll {
            Some(epoll) => epoll,
            None => {
                self.ready.reserve_exact(READ_PER_TURN_MAX);
                let made = epoll::create(epoll::CreateFlags::CLOEXEC)?;
                self.epoll.insert(made)
            }
        };
        let each = self.watches.each.borrow();
        if let Some(watched) = each.get(index as usize) {
            let data = epoll::EventData::new_u64(u64::from(index));
            watched.with_descriptor(|descriptor| {
                epoll::add(epoll, descriptor, data, epoll::EventFlags::IN)
            })?;
        }
        Ok(())
    }

    fn cease(&self, watched: &Watched) {
        if let Some(epoll) = &self.epoll {
            // What has changed its descriptor meanwhile is not there any more.
            let _ = watched.with_descriptor(|descriptor| epoll::delete(epoll, descriptor));
        }
    }

    /// It could be read from.
    fn went_well(&self, index: u32) {
        if let Some(watched) = self.watches.each.borrow_mut().get_mut(index as usize) {
            watched.has_failed = false;
        }
    }

    /// It could not be read from, as of now. A socket tells each error once: what is there besides can be read in the next call,
    /// and if there is nothing, the next error is another one, whenever it comes.
    fn failed(&mut self, index: u32, now: u64) {
        let mut each = self.watches.each.borrow_mut();
        let Some(watched) = each.get_mut(index as usize) else {
            return;
        };
        let had_failed = watched.has_failed;
        watched.has_failed = watched.is_readable();
        if had_failed && watched.has_failed {
            self.cease(watched);
            self.resting.push((now.saturating_add(REST_MS), index));
        }
    }

    /// Lets go of one.
    fn end(&mut self, index: u32) {
        let watched = self.watches.each.borrow_mut().remove(index as usize);
        if let Some(watched) = watched {
            self.cease(&watched);
            let_go(watched);
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
        self.sources.epoll.as_ref().map(AsFd::as_fd)
    }

    #[cold]
    fn begin_sources(&mut self) {
        for index in self.sources.watches.fresh.take() {
            let Some(service) = self.sources.service(index) else {
                continue;
            };
            if let Err(error) = self.sources.begin(index) {
                self.sources
                    .tick(&self.desk, service, Call::Readable)
                    .report_unreadable(index, &error);
                let until = self.desk.now.saturating_add(REST_MS);
                self.sources.resting.push((until, index));
            }
        }
    }

    /// Has the services read from what can be read from.
    #[cold]
    pub(crate) fn read_sources(&mut self) {
        let (true, Some(epoll)) = (self.dispatches(), &self.sources.epoll) else {
            return;
        };
        let mut ready = std::mem::take(&mut self.sources.ready);
        // If it fails, it is as if there were nothing.
        let _ = epoll::wait(
            epoll,
            spare_capacity(&mut ready),
            Some(&Timespec::default()),
        );
        for event in ready.drain(..) {
            self.read_source(event.data.u64() as u32);
        }
        self.sources.ready = ready;
    }

    fn read_source(&mut self, index: u32) {
        let Some(service) = self.sources.service(index) else {
            return;
        };
        let tick = self.sources.tick(&self.desk, service, Call::Readable);
        let host = self.hosts.get_mut(service);
        let read = host.map(|host| host.readable(SourceId(index), &tick));
        let took = self.desk.stopwatch.slow();
        if let Some(took) = took {
            tick.report_slow(took);
        }
        match read {
            Some(Ok(Ok(Watch::Continue))) => return self.sources.went_well(index),
            Some(Ok(Ok(Watch::End))) => {
                tick.report_end(index);
                return self.sources.end(index);
            }
            None => return,
            Some(Ok(Err(error))) => tick.report_unreadable(index, &error),
            Some(Err(panic)) => tick.report_panic("the service", &panic),
        }
        let now = self.desk.now.saturating_add(took.unwrap_or(0));
        self.sources.failed(index, now);
    }

    /// When [`Shard::tick`] has a source to go on with.
    pub(super) fn next_source_due(&self) -> Option<u64> {
        let due = self.sources.rest_ends()?;
        self.dispatches().then_some(due)
    }

    /// Lets go of all sources, when the services are called no more.
    pub(crate) fn let_go_of_sources(&mut self) {
        let indexes: Vec<usize> = {
            let each = self.sources.watches.each.borrow();
            each.iter().map(|(index, _)| index).collect()
        };
        for index in indexes {
            self.sources.end(index as u32);
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
