//! Input that could not be handed to the service yet.

use bytes::{Buf, BytesMut};
use ringhold_framer::Parked;

/// The received bytes of one connection that no service call has consumed: the beginning of a frame whose end has
/// not arrived, or whole frames that wait because dispatch is paused.
///
/// `bytes` begins at a frame boundary. Its first `scanned` bytes were seen by the framer, whose state behind them is
/// `parked`; they hold no end of a frame. `scanned` is 0 exactly when `parked` is `None`.
#[derive(Default)]
pub(crate) struct Partial {
    pub(crate) bytes: BytesMut,
    pub(crate) scanned: usize,
    pub(crate) parked: Option<Parked>,
    /// At least so many bytes are still missing from the frame, as far as is known; only where all was scanned.
    pub(crate) missing: usize,
    /// How many bytes `bytes` held when the engine took it to receive into it; 0 = it is here.
    pub(crate) lent: usize,
}

impl Partial {
    /// Whether there are bytes that the framer has not seen.
    pub(crate) fn is_backlog(&self) -> bool {
        self.scanned < self.bytes.len()
    }

    /// Bytes of memory that the peer makes the process hold here.
    pub(crate) fn held(&self) -> usize {
        self.bytes.len() + self.lent
    }

    /// Notes what [`crate::host::Rest`] says of the bytes, after the first `used` of them were dispatched.
    pub(crate) fn consume(
        &mut self,
        used: usize,
        scanned: usize,
        parked: Option<Parked>,
        missing: usize,
    ) {
        debug_assert_eq!(scanned == 0, parked.is_none());
        self.bytes.advance(used);
        self.scanned = scanned;
        self.parked = parked;
        self.missing = missing;
    }

    /// Empties it for the next connection, keeping its memory if that is at most `capacity_max` bytes.
    pub(crate) fn reset(&mut self, capacity_max: usize) {
        self.scanned = 0;
        self.parked = None;
        self.missing = 0;
        self.lent = 0;
        self.bytes.clear();
        // An advanced buffer gets its whole memory back only by asking for it.
        let _ = self.bytes.try_reclaim(capacity_max);
        if self.bytes.capacity() > capacity_max {
            self.bytes = BytesMut::new();
        }
    }
}
