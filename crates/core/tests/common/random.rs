//! Numbers that look random and follow from a seed.

use std::sync::OnceLock;

/// xorshift64*.
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
        (self.next() >> 33) as usize % bound
    }

    /// True once in `times`.
    pub(crate) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// At most `reach` away from `middle`, and at least 1.
    pub(crate) fn around(&mut self, middle: usize, reach: usize) -> usize {
        (middle + self.below(2 * reach + 1))
            .saturating_sub(reach)
            .max(1)
    }
}

/// Bytes that differ from seed to seed, so that a piece that is missing, doubled or somebody else's is noticed.
pub(crate) fn filling(seed: u64, length: usize) -> Vec<u8> {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    let bytes = BYTES.get_or_init(|| {
        let mut random = Random::new(0);
        (0..1 << 17)
            .flat_map(|_| random.next().to_be_bytes())
            .collect()
    });
    let mut from = Random::new(seed).below(bytes.len());
    let mut filling = Vec::with_capacity(length);
    while filling.len() < length {
        let to = bytes.len().min(from + length - filling.len());
        filling.extend_from_slice(&bytes[from..to]);
        from = 0;
    }
    filling
}
