//! What a completion belongs to: operation, generation and slot in the 64 bits that the kernel hands back.
//!
//! Never the descriptor: its number can mean another connection while an old completion is still under way.

use crate::shard::GENERATION_MASK;

/// The kinds of operation the engine has in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// A read of the mailbox's eventfd.
    Wake = 1,
    /// A poll for somebody who connects; the slot is the acceptor's index.
    Acceptable = 2,
    /// A receive into shared buffers, multishot or not.
    Receive = 3,
    /// A send.
    Send = 5,
    /// A cancel request; what counts is the completion of its target.
    Cancel = 6,
    /// A poll for the end of the peer.
    Watch = 7,
    /// A multishot poll for room to send.
    Room = 8,
    /// A send that completes only if not everything was sent.
    Flight = 9,
    /// The timeout.
    Alarm = 10,
    /// A poll for something to receive.
    Readable = 11,
    /// A receive into a buffer that was set aside, which does not wait.
    Look = 12,
    /// A poll of what services read from besides connections.
    Sources = 13,
}

/// One operation in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Operation {
    pub(super) kind: Kind,
    pub(super) generation: u32,
    pub(super) slot: u32,
}

impl Operation {
    pub(super) fn new(kind: Kind, generation: u32, slot: u32) -> Self {
        debug_assert!(generation <= GENERATION_MASK);
        Operation {
            kind,
            generation,
            slot,
        }
    }

    pub(super) fn pack(self) -> u64 {
        (self.kind as u64) << 56 | u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    /// `None` for bits that [`Operation::pack`] never made.
    pub(super) fn unpack(bits: u64) -> Option<Self> {
        let kind = match bits >> 56 {
            1 => Kind::Wake,
            2 => Kind::Acceptable,
            3 => Kind::Receive,
            5 => Kind::Send,
            6 => Kind::Cancel,
            7 => Kind::Watch,
            8 => Kind::Room,
            9 => Kind::Flight,
            10 => Kind::Alarm,
            11 => Kind::Readable,
            12 => Kind::Look,
            13 => Kind::Sources,
            _ => return None,
        };
        Some(Operation {
            kind,
            generation: (bits >> 32) as u32 & GENERATION_MASK,
            slot: bits as u32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked() {
        for kind in [
            Kind::Wake,
            Kind::Acceptable,
            Kind::Receive,
            Kind::Send,
            Kind::Cancel,
            Kind::Watch,
            Kind::Room,
            Kind::Flight,
            Kind::Alarm,
            Kind::Readable,
            Kind::Look,
            Kind::Sources,
        ] {
            for (generation, slot) in [(0, 0), (1, u32::MAX), (GENERATION_MASK, 7)] {
                let operation = Operation::new(kind, generation, slot);
                assert_eq!(Operation::unpack(operation.pack()), Some(operation));
            }
        }
        assert_eq!(Operation::unpack(0), None);
        assert_eq!(Operation::unpack(u64::MAX), None);
    }
}
