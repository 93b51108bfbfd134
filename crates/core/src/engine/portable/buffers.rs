//! Buffers that operations take with them. An idle connection has none, and however many are ready at the same time, no
//! more are under way than the configuration says: who finds none waits for the next turn, when all of them are back.

use std::io;

use crate::config::RingConfig;
use crate::connection::Receive;

/// So many bytes go into one send at most. What is queued is copied into the buffer, and copied again where the peer
/// does not take all of it at once.
pub(super) const SEND_BYTES_MAX: usize = 64 * 1024;

/// The size of the buffers that large frames are received through.
const LARGE_BYTES: usize = 256 * 1024;

/// How many unused buffers of each kind are kept, in bytes.
const KEPT_BYTES_MAX: usize = 1024 * 1024;

/// The buffers of one worker.
pub(super) struct Buffers {
    small: Pool,
    large: Pool,
    /// Bytes of the buffers that are being received into, and how many they may be.
    receiving: usize,
    receiving_max: usize,
    /// Unused ones, empty vectors.
    sends: Vec<Vec<u8>>,
    /// How many are being sent from, and may be.
    sending: usize,
    sending_max: usize,
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
    /// As many bytes are received into at the same time as `buffers` buffers have, large ones included, and as many buffers
    /// are sent from.
    ///
    /// # Errors
    ///
    /// That there cannot be such buffers.
    pub(super) fn new(config: &RingConfig) -> io::Result<Self> {
        let (buffers, buffer_bytes) = config.buffer_sizes()?;
        let buffers = usize::from(buffers);
        Ok(Buffers {
            small: Pool::new(buffer_bytes),
            large: Pool::new(LARGE_BYTES.max(buffer_bytes)),
            receiving: 0,
            receiving_max: buffers * buffer_bytes,
            sends: Vec::new(),
            sending: 0,
            sending_max: buffers,
        })
    }

    /// A buffer to receive into, a larger one for a part of a large frame; `None` if too much is under way. One is always
    /// allowed.
    pub(super) fn receive(&mut self, desired: Receive) -> Option<Vec<u8>> {
        let pool = if desired == Receive::Large {
            &mut self.large
        } else {
            &mut self.small
        };
        let receiving = self.receiving + pool.buffer_bytes;
        if self.receiving > 0 && receiving > self.receiving_max {
            return None;
        }
        self.receiving = receiving;
        Some(pool.take())
    }

    /// Takes back what was received into.
    pub(super) fn give_received(&mut self, buffer: Vec<u8>) {
        self.receiving -= buffer.len();
        if buffer.len() == self.small.buffer_bytes {
            self.small.give(buffer);
        } else {
            self.large.give(buffer);
        }
    }

    /// An empty buffer to send from; `None` if too many are under way.
    pub(super) fn send(&mut self) -> Option<Vec<u8>> {
        if self.sending == self.sending_max {
            return None;
        }
        self.sending += 1;
        Some(self.sends.pop().unwrap_or_default())
    }

    /// Takes back what was sent from.
    pub(super) fn give_sent(&mut self, mut buffer: Vec<u8>) {
        self.sending -= 1;
        if self.sends.len() < KEPT_BYTES_MAX / SEND_BYTES_MAX {
            buffer.clear();
            self.sends.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffers() -> Buffers {
        Buffers::new(&RingConfig {
            buffers: 16,
            buffer_bytes: 32 * 1024,
            ..RingConfig::default()
        })
        .unwrap()
    }

    #[test]
    fn no_more_is_received_into_than_the_buffers_hold() {
        let mut buffers = buffers();
        for _ in 0..3 {
            let small: Vec<_> = std::iter::from_fn(|| buffers.receive(Receive::Stream)).collect();
            assert_eq!(small.len(), 16);
            assert!(buffers.receive(Receive::Large).is_none());
            small
                .into_iter()
                .for_each(|buffer| buffers.give_received(buffer));
            let large: Vec<_> = std::iter::from_fn(|| buffers.receive(Receive::Large)).collect();
            assert_eq!(large.len(), 2, "each as large as eight");
            assert!(buffers.receive(Receive::Stream).is_none());
            large
                .into_iter()
                .for_each(|buffer| buffers.give_received(buffer));
        }
        assert_eq!(buffers.receiving, 0);
    }

    #[test]
    fn a_buffer_that_is_larger_than_all_is_received_into_alone() {
        let mut buffers = Buffers::new(&RingConfig {
            buffers: 2,
            buffer_bytes: 1024,
            ..RingConfig::default()
        })
        .unwrap();
        let large = buffers.receive(Receive::Large).unwrap();
        assert!(buffers.receive(Receive::Stream).is_none());
        buffers.give_received(large);
        let small = buffers.receive(Receive::Stream).unwrap();
        assert!(buffers.receive(Receive::Large).is_none());
        buffers.give_received(small);
    }

    /// With no buffers nobody would be answered, with empty ones everybody would seem to have ended.
    #[test]
    fn sizes_that_no_file_could_ask_for_are_refused() {
        for (buffers, buffer_bytes) in [(0, 4096), (3, 4096), (2, 0), (2, 1 << 62)] {
            let made = Buffers::new(&RingConfig {
                buffers,
                buffer_bytes,
                ..RingConfig::default()
            });
            assert!(made.is_err(), "{buffers} of {buffer_bytes}");
        }
    }

    #[test]
    fn no_more_are_sent_from_than_there_are_buffers() {
        let mut buffers = buffers();
        for _ in 0..3 {
            let sends: Vec<_> = std::iter::from_fn(|| buffers.send()).collect();
            assert_eq!(sends.len(), 16);
            sends
                .into_iter()
                .for_each(|buffer| buffers.give_sent(buffer));
        }
        assert_eq!(buffers.sending, 0);
    }
}
