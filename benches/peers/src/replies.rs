//! What is to be sent after one read.

use bytes::{Buf, Bytes};

use crate::envelope;
use crate::outbox::Batch;

/// The replies to the messages of one read: small ones in one buffer, large ones as shared bytes in between.
#[derive(Debug, Default)]
pub struct Replies {
    bytes: Vec<u8>,
    /// What is to be inserted before which byte.
    shared: Vec<(usize, Bytes)>,
}

impl Replies {
    /// None, in a buffer that holds `capacity` bytes of them.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(capacity),
            shared: Vec::new(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.shared.is_empty()
    }

    /// Forgets them, and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.shared.clear();
    }

    /// All of them in one buffer, unless one is shared. To be emptied by whoever has sent them.
    pub fn plain(&mut self) -> Option<&mut Vec<u8>> {
        self.shared.is_empty().then_some(&mut self.bytes)
    }

    /// Moves all of them, in order, to the end of `batch`.
    pub fn take(&mut self, batch: &mut Batch) {
        if self.is_empty() {
            return;
        }
        let mut bytes = Bytes::from(std::mem::take(&mut self.bytes));
        let mut start = 0;
        for (position, shared) in self.shared.drain(..) {
            batch.push(bytes.split_to(position - start));
            batch.push(shared);
            start = position;
        }
        batch.push(bytes);
    }

    pub(crate) fn result(&mut self, id: u32, result: &[u8]) {
        self.bytes.reserve(8 + result.len());
        envelope::write_result_header(&mut self.bytes, id);
        self.bytes.extend_from_slice(result);
    }

    pub(crate) fn binary(&mut self, id: u32, bytes: &[u8]) {
        self.bytes.reserve(16 + bytes.len());
        envelope::write_result_header(&mut self.bytes, id);
        // Writing to a vector cannot fail, and no frame is longer.
        let _ = rmp::encode::write_bin(&mut self.bytes, bytes);
    }

    pub(crate) fn shared_result(&mut self, id: u32, result: Bytes) {
        debug_assert!(result.has_remaining());
        envelope::write_result_header(&mut self.bytes, id);
        self.shared.push((self.bytes.len(), result));
    }

    pub(crate) fn error(&mut self, id: u32, error: &str) {
        envelope::write_error(&mut self.bytes, id, error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_results_keep_their_places() {
        let mut replies = Replies::default();
        replies.result(1, b"\x01");
        replies.shared_result(2, Bytes::from_static(b"\x02"));
        replies.shared_result(3, Bytes::from_static(b"\x03"));
        replies.result(4, b"\x04");
        assert_eq!(replies.plain(), None);
        let mut batch = Batch::default();
        replies.take(&mut batch);
        let all = batch.copy_to_bytes(batch.remaining());
        assert_eq!(
            all,
            &b"\x94\x01\x01\xc0\x01\x94\x01\x02\xc0\x02\x94\x01\x03\xc0\x03\x94\x01\x04\xc0\x04"[..]
        );
        assert!(replies.is_empty());
    }
}
