//! Descriptors that a worker watches for its services.
//!
//! The engine takes each that is [wanted](Shard::next_source), polls it once, and tells what came of that
//! ([`Shard::source_readable`]). A poll looks at the state, so nothing is missed between two of them, and one takes nothing, so it
//! does not matter when it is left behind.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::Shard;
use super::time::NEVER;
use crate::peer::Link;
use crate::service::{Source, Watch};
use crate::tick::{Call, Tick};

/// One that could not be read is looked at again after so long.
const REST_MS: u64 = 1_000;

/// A descriptor to be watched for one of a worker's services.
pub(crate) struct Watched {
    /// Which of them.
    pub(crate) service: usize,
    /// `None` once it is watched no more.
    pub(crate) descriptor: Option<Box<dyn AsFd>>,
}

/// What a worker watches.
pub(super) struct Sources {
    each: Vec<Watched>,
    /// To be polled.
    wanted: Vec<u32>,
    /// Polled by the engine.
    polled: Vec<u32>,
    /// Left alone until then, on the worker's clock.
    resting: Vec<(u64, u32)>,
}

impl Sources {
    pub(super) fn new(each: Vec<Watched>) -> Self {
        Sources {
            wanted: (0..each.len() as u32).collect(),
            polled: Vec::new(),
            resting: Vec::new(),
            each,
        }
    }

    /// Looks again at those that have rested.
    #[inline]
    pub(super) fn end_rests(&mut self, now: u64) {
        if !self.resting.is_empty() {
            let rested = self.resting.extract_if(.., |(until, _)| *until <= now);
            self.wanted.extend(rested.map(|(_, index)| index));
        }
    }

    /// When [`Sources::end_rests`] has something to do.
    pub(super) fn rest_ends(&self) -> Option<u64> {
        self.resting.iter().map(|(until, _)| *until).min()
    }
}

impl<L: Link> Shard<L> {
    /// A descriptor that is to be polled for something to read.
    #[inline]
    pub(crate) fn next_source(&mut self) -> Option<u32> {
        if self.sources.wanted.is_empty() || !self.dispatches() {
            return None;
        }
        let index = self.sources.wanted.pop()?;
        self.sources.polled.push(index);
        Some(index)
    }

    /// The descriptor of this index, which stays open while it is polled.
    pub(crate) fn source(&self, index: u32) -> Option<BorrowedFd<'_>> {
        let watched = self.sources.each.get(index as usize)?;
        watched.descriptor.as_ref().map(|watched| watched.as_fd())
    }

    /// What is polled at the moment.
    pub(crate) fn polled_sources(&self) -> &[u32] {
        &self.sources.polled
    }

    /// A poll is over, and nobody is to know what it said.
    pub(crate) fn forget_source(&mut self, index: u32) {
        self.sources.polled.retain(|polled| *polled != index);
    }

    /// A poll is over: there is something to read, or it could not be found out.
    #[cold]
    pub(crate) fn source_readable(&mut self, index: u32, polled: io::Result<()>) {
        self.forget_source(index);
        if !self.dispatches() {
            return;
        }
        let Some(watched) = self.sources.each.get_mut(index as usize) else {
            return;
        };
        let service = watched.service;
        let at_hand = Tick {
            desk: &self.desk,
            service,
            call: Call::Readable,
        };
        let host = self.hosts.get_mut(service);
        let read = match (polled, host) {
            (Ok(()), Some(host)) => host.readable(Source(index), &at_hand),
            (Err(error), _) => Ok(Err(error)),
            (Ok(()), None) => Ok(Ok(Watch::End)),
        };
        if let Some(took) = self.desk.stopwatch.slow() {
            at_hand.report_slow(took);
        }
        match read {
            Ok(Ok(Watch::Continue)) => return self.sources.wanted.push(index),
            Ok(Ok(Watch::End)) => return watched.descriptor = None,
            Ok(Err(error)) => at_hand.report_error(&error),
            Err(panic) => at_hand.report_panic("the service", &panic),
        }
        let until = self.desk.now.saturating_add(REST_MS);
        self.sources.resting.push((until, index));
    }

    /// When [`Shard::tick`] has a descriptor to look at again.
    pub(super) fn next_source_due(&self) -> Option<u64> {
        let due = self.sources.rest_ends().unwrap_or(NEVER);
        (due != NEVER && self.dispatches()).then_some(due)
    }
}
