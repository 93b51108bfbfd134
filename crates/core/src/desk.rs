//! What every connection of a worker works with.

use std::collections::HashMap;
use std::sync::Arc;

use ringhold_framer::Framer;

use crate::connection::UNREAD_BYTES_MAX;
use crate::crew::{Crew, Name};
use crate::crowd::Place;
use crate::limits::Limits;
use crate::memory::Meter;
use crate::metrics::{NameCounters, WorkerMetrics};
use crate::peer::Handles;
use crate::pool::Pools;
use crate::slow::Stopwatch;
use crate::tickets::Promise;
use crate::warnings::Warnings;

/// The tools of one worker, shared by all its connections one after the other.
pub(crate) struct Desk {
    pub(crate) worker: usize,
    pub(crate) crew: Arc<Crew>,
    /// Those of the worker; each connection has those [of its name](Desk::limits_of).
    pub(crate) limits: Limits,
    /// With no more bytes than that in its outbox no connection is paused because of them, whatever its name.
    pub(crate) unread_at_ease: usize,
    /// Those of the crew: one step nearer, since there is a look at them for each received buffer.
    pub(crate) names: Arc<[Name]>,
    /// Fresh between calls: the state of a partial frame is parked with its connection, and it is told [whose](Desk::frames_of) the next
    /// one is.
    pub(crate) framer: Framer,
    pub(crate) pools: Pools,
    pub(crate) meter: Meter,
    /// By slot, the places of those connections whose clients are counted.
    pub(crate) places: HashMap<u32, Place>,
    counters: Arc<WorkerMetrics>,
    pub(crate) handles: Handles,
    /// Bounds the warnings about connections. Elsewhere, since it is 4 KiB that are rarely looked at: between the others, 40 bytes more of it
    /// cost an ingest of small frames 7 to 15 %.
    pub(crate) warnings: Box<Warnings>,
    /// Tells which calls of services take long, and when others come first.
    pub(crate) stopwatch: Stopwatch,
    /// The serial number of the last ticket that this worker has opened; 0 if there was none.
    pub(crate) last_ticket: u64,
    /// Milliseconds on the worker's clock at the beginning of this turn.
    pub(crate) now: u64,
}

impl Desk {
    /// The desk of one worker of a crew.
    pub(crate) fn new(crew: Arc<Crew>, worker: usize, limits: Limits) -> Self {
        let pauses = crew.names.iter().map(|name| name.limits.outbox_bytes / 2);
        Desk {
            worker,
            unread_at_ease: pauses.fold(UNREAD_BYTES_MAX, usize::min),
            names: crew.names.clone(),
            framer: Framer::new(ringhold_framer::Limits {
                frame_bytes: 0,
                // It was checked against this type's range when the configuration was made.
                depth: u16::try_from(limits.depth).unwrap_or(u16::MAX),
            }),
            pools: Pools::default(),
            meter: Meter::new(crew.memory.clone(), worker),
            places: HashMap::new(),
            counters: crew.metrics.worker(worker),
            handles: Handles {
                post: crew.posts[worker].clone(),
                memory: crew.memory.clone(),
            },
            warnings: Box::default(),
            stopwatch: Stopwatch::patient(),
            last_ticket: 0,
            now: 1,
            limits,
            crew,
        }
    }

    /// Those that the connections of this name have.
    pub(crate) fn limits_of(&self, name: u16) -> &Limits {
        &self.names[name as usize].limits
    }

    /// The framer is about to be fed what has come on a connection of this name.
    #[inline]
    pub(crate) fn frames_of(&mut self, name: u16) {
        let frame_bytes = self.limits_of(name).frame_bytes;
        // It was checked against this type's range when the configuration was made.
        let frame_bytes = u32::try_from(frame_bytes).unwrap_or(u32::MAX);
        self.framer.set_frame_bytes(frame_bytes);
    }

    /// This deferred reply was given, or will not be.
    pub(crate) fn ticket_closed(&self, promise: &Promise) {
        let is_repeatable = promise.is_repeatable();
        self.crew.ticket_closed(self.worker, is_repeatable);
    }

    pub(crate) fn counters(&self) -> &WorkerMetrics {
        &self.counters
    }

    pub(crate) fn name_counters(&self, name: u16) -> &NameCounters {
        &self.counters.names[name as usize]
    }
}
