//! What the connections of one load thread have in common.

use std::time::Instant;

use mio::Registry;
use ringhold_framer::Framer;
use socket2::SockAddr;

use super::histogram::Latency;
use super::payload::Template;
use super::plan::LoadPlan;
use super::report::Counts;

/// The bytes read at once.
const SCRATCH: usize = 256 << 10;

/// How many problems a thread puts into words.
const PROBLEMS: usize = 8;

/// What the connections of one thread share. Times are nanoseconds since `start`.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) plan: &'a LoadPlan,
    pub(crate) template: &'a Template,
    pub(crate) endpoint: &'a SockAddr,
    pub(crate) registry: Registry,
    start: Instant,
    /// The time of the last [`tick`](Self::tick).
    pub(crate) now: u64,
    /// Every connection reads into this one, so a connection between two frames has no buffer.
    pub(crate) scratch: Vec<u8>,
    pub(crate) framer: Framer,
    /// How many messages may still be sent (or received, for a subscriber).
    pub(crate) allowance: u64,
    /// Requests sent from here on have their latency recorded.
    pub(crate) measure_from: u64,
    /// The connections that are not closed for good.
    pub(crate) alive: usize,
    /// Nothing more is sent.
    pub(crate) ending: bool,
    /// What the sockets had by then has been read. Time limits are judged by this time, not by the present: a load that
    /// was frozen must not find everything late before it has looked.
    pub(crate) seen: u64,
    /// When a byte was last read or written.
    pub(crate) last_moved: u64,
    /// When a message last came to its end: a reply or notification was read, or a message without reply was written.
    pub(crate) last_settled: u64,
    /// The connections that have more to do at once.
    pub(crate) ready: Vec<usize>,
    /// The connections that have something to do at some time.
    pub(crate) attention: Vec<usize>,
    pub(crate) counts: Counts,
    pub(crate) latency: Latency,
    pub(crate) longest_gap: u64,
    pub(crate) problems: Vec<String>,
}

impl<'a> Context<'a> {
    pub(crate) fn new(
        plan: &'a LoadPlan,
        template: &'a Template,
        endpoint: &'a SockAddr,
        registry: Registry,
        start: Instant,
        allowance: u64,
    ) -> Self {
        Self {
            plan,
            template,
            endpoint,
            registry,
            start,
            now: 0,
            scratch: vec![0; SCRATCH],
            framer: Framer::new(plan.limits),
            allowance,
            measure_from: u64::try_from(plan.warmup.as_nanos()).unwrap_or(u64::MAX),
            alive: 0,
            ending: false,
            seen: 0,
            last_moved: 0,
            last_settled: 0,
            ready: Vec::new(),
            attention: Vec::new(),
            counts: Counts::default(),
            latency: Latency::new(),
            longest_gap: 0,
            problems: Vec::new(),
        }
    }

    /// Looks at the clock.
    pub(crate) fn tick(&mut self) -> u64 {
        self.now = self.start.elapsed().as_nanos() as u64;
        self.now
    }

    /// Notes that bytes were read or written.
    pub(crate) fn moved(&mut self) {
        self.last_moved = self.now;
    }

    /// Notes that a message came to its end.
    pub(crate) fn settled(&mut self) {
        self.last_settled = self.now;
    }

    /// How long ago that was when the sockets were last looked at, in nanoseconds.
    pub(crate) fn seen_for(&self, since: u64) -> u64 {
        self.seen.saturating_sub(since)
    }

    /// Lets so much time pass in which nothing is done, as if the process were frozen.
    #[cfg(test)]
    pub(crate) fn freeze(&mut self, time: std::time::Duration) {
        self.start -= time;
    }

    /// Keeps the words for one of the first problems.
    pub(crate) fn problem(&mut self, words: impl FnOnce() -> String) {
        if self.problems.len() < PROBLEMS {
            self.problems.push(words());
        }
    }
}
