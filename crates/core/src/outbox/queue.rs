//! The memory of an outbox that is not empty.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::pool::{BUFFER_BYTES_MAX, Pools};

/// A tail that has outgrown this gets all the capacity at once that it can be used again with.
pub(super) const TAIL_SMALL_BYTES_MAX: usize = 4 * 1024;

/// An outbox may have so much more memory in sealed buffers that nothing is in than there are bytes in it. Usually it is that of
/// a buffer or two; many small replies between shared bytes would each keep a buffer that was used for much before.
const SLACK_BYTES_MAX: usize = BUFFER_BYTES_MAX;

/// The memory behind a non-empty outbox; pooled.
#[derive(Default)]
pub(crate) struct Queue {
    /// What may be sent, in order, before the tail.
    pub(super) sealed: VecDeque<Segment>,
    /// Bytes of the first sealed segment that were sent already.
    pub(super) offset: usize,
    /// Replies that were written since the last seal.
    pub(super) tail: Vec<u8>,
    /// All bytes that are queued and not known to be sent.
    pub(super) len: usize,
    /// At most so many of them were pushed by others.
    pub(super) pushed: usize,
    /// What the buffers of the sealed segments have room for beyond what is in them.
    pub(super) slack: usize,
    /// Whether a send is under way, over the first `SEND_SEGMENTS_MAX` sealed segments.
    pub(super) flying: bool,
}

/// One piece of what is queued.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    /// Written for this connection.
    Owned(Vec<u8>),
    /// Others may have it, too.
    Shared(Bytes),
}

impl Segment {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Segment::Owned(bytes) => bytes,
            Segment::Shared(bytes) => bytes,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.as_slice().len()
    }

    pub(super) fn slack(&self) -> usize {
        match self {
            Segment::Owned(bytes) => bytes.capacity() - bytes.len(),
            Segment::Shared(_) => 0,
        }
    }
}

impl Default for Segment {
    fn default() -> Self {
        Segment::Owned(Vec::new())
    }
}

impl Queue {
    /// Gives it a tail to write to, unless it has one.
    pub(crate) fn with_tail(mut self: Box<Self>, tail: impl FnOnce() -> Vec<u8>) -> Box<Self> {
        if self.tail.capacity() == 0 {
            self.tail = tail();
        }
        self
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0 && !self.flying
    }

    /// How many segments it can queue without allocating.
    pub(crate) fn segment_capacity(&self) -> usize {
        self.sealed.capacity()
    }

    /// Makes the tail larger.
    #[cold]
    pub(super) fn make_room(&mut self, needed: usize) {
        let length = self.tail.len();
        if length > TAIL_SMALL_BYTES_MAX {
            let room = needed.max(BUFFER_BYTES_MAX - length);
            self.tail.reserve_exact(room);
        } else {
            self.tail.reserve(needed);
        }
    }

    pub(super) fn seal(&mut self, pools: &mut Pools) {
        if self.tail.is_empty() {
            return;
        }
        let tail = if self.slack > self.held() + SLACK_BYTES_MAX {
            let exact = self.tail.as_slice().to_vec();
            self.tail.clear();
            exact
        } else {
            std::mem::replace(&mut self.tail, pools.buffer())
        };
        let tail = Segment::Owned(tail);
        self.slack += tail.slack();
        self.sealed.push_back(tail);
    }

    pub(super) fn pop_sealed(&mut self) -> Option<Segment> {
        let segment = self.sealed.pop_front()?;
        self.slack -= segment.slack();
        Some(segment)
    }

    /// Bytes that are queued, and what was sent of a segment that is not sent as a whole.
    pub(super) fn held(&self) -> usize {
        self.len + self.offset
    }
}
