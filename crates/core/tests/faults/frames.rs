//! Frames whose contents say where they belong.

use crate::common::random::filling;

/// A frame of exactly `size` bytes (at least one): `bin` with contents that follow from `seed`, or a small number.
pub(crate) fn frame(size: usize, seed: u64) -> Vec<u8> {
    let mut frame = Vec::with_capacity(size);
    push_frame(&mut frame, size, seed);
    frame
}

/// Appends what [`frame`] makes.
pub(crate) fn push_frame(out: &mut Vec<u8>, size: usize, seed: u64) {
    let payload = match size {
        0 => panic!("no frame is empty"),
        1 => {
            out.push(seed as u8 & 0x7f);
            0
        }
        2..=257 => {
            out.extend_from_slice(&[0xc4, (size - 2) as u8]);
            size - 2
        }
        258..=65_538 => {
            out.push(0xc5);
            out.extend_from_slice(&((size - 3) as u16).to_be_bytes());
            size - 3
        }
        _ => {
            out.push(0xc6);
            out.extend_from_slice(&u32::try_from(size - 5).unwrap().to_be_bytes());
            size - 5
        }
    };
    out.extend_from_slice(&filling(seed, payload));
}

/// What the digest service answers to the frame with this number on its connection: a frame of [`DIGEST_BYTES`].
pub(crate) fn digest(number: u32, frame: &[u8]) -> [u8; DIGEST_BYTES] {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let (words, rest) = frame.as_chunks::<8>();
    for word in words {
        hash = (hash ^ u64::from_le_bytes(*word)).wrapping_mul(0x0100_0000_01b3);
        hash ^= hash >> 29;
    }
    for byte in rest {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let mut digest = [0; DIGEST_BYTES];
    digest[..2].copy_from_slice(&[0xc4, DIGEST_BYTES as u8 - 2]);
    digest[2..6].copy_from_slice(&number.to_be_bytes());
    digest[6..10].copy_from_slice(&(frame.len() as u32).to_be_bytes());
    digest[10..].copy_from_slice(&hash.to_be_bytes());
    digest
}

pub(crate) const DIGEST_BYTES: usize = 18;

/// A sequence of frames to send, and what the digest service answers to it.
#[derive(Clone, Default)]
pub(crate) struct Script {
    pub(crate) sent: Vec<u8>,
    pub(crate) answers: Vec<u8>,
    pub(crate) frames: u32,
}

impl Script {
    /// Frames of these sizes.
    pub(crate) fn of(sizes: impl IntoIterator<Item = usize>, seed: u64) -> Self {
        let mut script = Script::default();
        for size in sizes {
            script.add(&frame(size, seed ^ (u64::from(script.frames) << 32)));
        }
        script
    }

    pub(crate) fn add(&mut self, frame: &[u8]) {
        self.sent.extend_from_slice(frame);
        self.answers.extend_from_slice(&digest(self.frames, frame));
        self.frames += 1;
    }
}
