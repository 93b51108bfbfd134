//! Frames whose contents say where they belong, and numbers that look random.

use std::sync::OnceLock;

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
    let end = out.len() + payload;
    // Where it begins in the random bytes differs from seed to seed, so that a piece that is missing, doubled or
    // somebody else's is noticed.
    let bytes = random_bytes();
    let mut from = Random::new(seed).below(bytes.len());
    while out.len() < end {
        let to = bytes.len().min(from + end - out.len());
        out.extend_from_slice(&bytes[from..to]);
        from = 0;
    }
}

fn random_bytes() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let mut random = Random::new(0);
        (0..1 << 17)
            .flat_map(|_| random.next().to_be_bytes())
            .collect()
    })
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

/// Numbers that look random and are the same in every run (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        random.next();
        random
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Less than `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((self.next() >> 33) as usize) % bound
    }
}
