//! What a router does without being called by a client: from time to time, and when there is something to read.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::{Rc, Weak};
use std::time::Duration;

use ringhold_core::{SourceId, Tick, Watch, Worker};

/// What the closures of [`Router::every`](crate::Router::every) and [`Router::watch`](crate::Router::watch) have at hand: the worker's turn in which
/// they are called. No connection is concerned.
pub struct Turn<'a> {
    tick: &'a Tick<'a>,
    sources: &'a mut Sources,
}

impl<'a> Turn<'a> {
    pub(crate) fn new(tick: &'a Tick<'a>, sources: &'a mut Sources) -> Self {
        Turn { tick, sources }
    }

    /// How long the worker has been running, in whole milliseconds, as of the beginning of the turn: the time of another worker or process
    /// cannot be compared with it. In an
    /// [`Exchange`](ringhold_core::testing::Exchange) time passes as it is told.
    pub fn now(&self) -> Duration {
        self.tick.now()
    }

    /// Has `read` called from now on whenever there is something to read from this descriptor, as
    /// [`Router::watch`](crate::Router::watch) does: for what is opened later, or again after [`Watch::End`], such as a device that may be
    /// unplugged. `docs/services.md` has an example.
    ///
    /// When it has ended the worker drops the descriptor and `read`, and so it does at the end of the process: what is opened here is
    /// not handed over, unlike what [`Server::descriptor`](ringhold_core::Server::descriptor) claims.
    pub fn watch(
        &mut self,
        descriptor: impl AsFd + 'static,
        read: impl FnMut(&mut Turn<'_>) -> io::Result<Watch> + 'static,
    ) -> SourceId {
        let tick = self.tick;
        let source = Source::new(descriptor, read);
        self.sources.add(source, |source| tick.watch(source))
    }

    /// Ends what this router [watches](Turn::watch), as [`Watch::End`] ends what is being read, and drops the descriptor and `read` before this
    /// returns: for what is silent and is to be opened again, such as a serial line. `read` itself is dropped when it has returned. Does nothing if it
    /// has ended.
    pub fn unwatch(&mut self, source: SourceId) {
        // What has another service's number is not this router's to end.
        if self.sources.forget(source) {
            self.tick.unwatch(source);
        }
    }
}

impl fmt::Debug for Turn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Turn({:?})", self.tick)
    }
}

/// Reads from a descriptor that is watched.
type Read = dyn FnMut(&mut Turn<'_>) -> io::Result<Watch>;

/// A descriptor with its reader. The worker owns it, so that both go when that lets go of it, for whatever reason.
pub(crate) struct Source {
    descriptor: Box<dyn AsFd>,
    read: Rc<RefCell<Read>>,
}

impl Source {
    pub(crate) fn new(
        descriptor: impl AsFd + 'static,
        read: impl FnMut(&mut Turn<'_>) -> io::Result<Watch> + 'static,
    ) -> Self {
        Source {
            descriptor: Box::new(descriptor),
            read: Rc::new(RefCell::new(read)),
        }
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// The readers of what the worker watches for a router.
#[derive(Default)]
pub(crate) struct Sources(HashMap<SourceId, Weak<RefCell<Read>>>);

impl Sources {
    /// With what the router watches from the start.
    pub(crate) fn new(worker: &Worker, first: Vec<Source>) -> Self {
        let mut sources = Sources::default();
        for source in first {
            sources.add(source, |source| worker.watch(source));
        }
        sources
    }

    fn add(&mut self, source: Source, watch: impl FnOnce(Source) -> SourceId) -> SourceId {
        // The worker does not say what it has let go of because it cannot be waited for. To look at all each time would take long where they
        // are many.
        if self.0.len() == self.0.capacity() {
            self.0.retain(|_, read| read.strong_count() > 0);
        }
        let read = Rc::downgrade(&source.read);
        let id = watch(source);
        self.0.insert(id, read);
        id
    }

    /// Returns whether it was there.
    fn forget(&mut self, id: SourceId) -> bool {
        self.0.remove(&id).is_some()
    }

    /// Calls the reader of one.
    pub(crate) fn read(&mut self, id: SourceId, tick: &Tick<'_>) -> io::Result<Watch> {
        let Some(read) = self.0.get(&id).and_then(Weak::upgrade) else {
            return Ok(Watch::End);
        };
        // It is borrowed nowhere else: nobody reads while another reads.
        let watch = (read.borrow_mut())(&mut Turn::new(tick, self))?;
        if watch == Watch::End {
            self.forget(id);
        }
        Ok(watch)
    }
}
