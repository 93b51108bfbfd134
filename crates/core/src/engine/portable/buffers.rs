//! Buffers that operations take with them. An idle connection has none.

/// So many bytes go into one send at most. What is queued is copied into the buffer, and copied again where the peer
/// does not take all of it at once.
pub(super) const SEND_BYTES_MAX: usize = 64 * 1024;

/// The size of the buffers that large frames are received through.
const LARGE_BYTES: usize = 256 * 1024;

/// How many unused buffers of each kind are kept, in bytes.
const KEPT_BYTES_MAX: usize = 1024 * 1024;

/// The unused buffers of one worker.
pub(super) struct Buffers {
    small: Pool,
    large: Pool,
    /// Empty vectors.
    sends: Vec<Vec<u8>>,
}

/// Buffers of one size, initialised over their whole length.
struct Pool {
    buffer_bytes: usize,
    unused: Vec<Vec<u8>>,
}

impl Pool {
    fn new(buffer_bytes: usize) -> Self {
        Pool {
            buffer_bytes,
            unused: Vec::new(),
        }
    }

    fn take(&mut self) -> Vec<u8> {
        self.unused
            .pop()
            .unwrap_or_else(|| vec![0; self.buffer_bytes])
    }

    fn give(&mut self, buffer: Vec<u8>) {
        if (self.unused.len() + 1) * self.buffer_bytes <= KEPT_BYTES_MAX {
            self.unused.push(buffer);
        }
    }
}

impl Buffers {
    /// `buffer_bytes` is the size of the buffers that small frames are received into.
    pub(super) fn new(buffer_bytes: usize) -> Self {
        Buffers {
            small: Pool::new(buffer_bytes),
            large: Pool::new(LARGE_BYTES.max(buffer_bytes)),
            sends: Vec::new(),
        }
    }

    /// A buffer to receive into.
    pub(super) fn small(&mut self) -> Vec<u8> {
        self.small.take()
    }

    /// A buffer to receive a part of a large frame into.
    pub(super) fn large(&mut self) -> Vec<u8> {
        self.large.take()
    }

    /// Takes back what was received into.
    pub(super) fn give_received(&mut self, buffer: Vec<u8>) {
        if buffer.len() == self.small.buffer_bytes {
            self.small.give(buffer);
        } else {
            self.large.give(buffer);
        }
    }

    /// An empty buffer to send from.
    pub(super) fn send(&mut self) -> Vec<u8> {
        self.sends.pop().unwrap_or_default()
    }

    /// Takes back what was sent from.
    pub(super) fn give_sent(&mut self, mut buffer: Vec<u8>) {
        if self.sends.len() < KEPT_BYTES_MAX / SEND_BYTES_MAX {
            buffer.clear();
            self.sends.push(buffer);
        }
    }
}
