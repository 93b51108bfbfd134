//! One message, lent to the service that handles it.

use std::ops::Deref;

use bytes::Bytes;

/// Kept bytes up to this length are copied: below it a copy costs less than a counted reference
/// (docs/decisions/0002-frames-are-borrowed.md).
const LEND_BYTES_MIN: usize = 1024;

/// One whole msgpack object, borrowed from the buffer that it was received in.
///
/// It dereferences to its bytes, which are one complete msgpack encoding: the framer has checked the structure, the
/// size and the depth. Strings are not checked for UTF-8.
#[derive(Clone, Copy)]
pub struct Frame<'a> {
    bytes: &'a [u8],
    lender: Option<&'a dyn Lend>,
}

/// Memory that can be kept alive beyond the call that lent it.
pub(crate) trait Lend {
    /// A counted reference to `part`, which lies within the lent memory; `None` if that is not possible at the
    /// moment, so that the caller copies instead.
    fn lend(&self, part: &[u8]) -> Option<Bytes>;
}

/// A part of a frame that is a smaller share of it than this is copied: a reference would keep all of it alive.
const LEND_SHARE_MIN: usize = 8;

impl Lend for Bytes {
    fn lend(&self, part: &[u8]) -> Option<Bytes> {
        (part.len() >= self.len() / LEND_SHARE_MIN).then(|| self.slice_ref(part))
    }
}

impl<'a> Frame<'a> {
    pub(crate) fn new(bytes: &'a [u8], lender: Option<&'a dyn Lend>) -> Self {
        Frame { bytes, lender }
    }

    /// The bytes of the object.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Keeps the frame past the call: a copy when it is small, a counted lease on the receive buffer when it is
    /// large and the engine can spare the buffer. Of a connection with much to say it cannot.
    pub fn to_bytes(&self) -> Bytes {
        self.keep(self.bytes)
    }

    /// Keeps a part of the frame past the call, in the same way as [`Frame::to_bytes`]. A small part of a large frame is
    /// copied, so that it does not hold the memory of all of it.
    ///
    /// # Panics
    ///
    /// If `part` is large and not a slice of this frame.
    pub fn keep(&self, part: &[u8]) -> Bytes {
        if part.len() >= LEND_BYTES_MIN
            && let Some(bytes) = self.lender.and_then(|lender| lender.lend(part))
        {
            return bytes;
        }
        Bytes::copy_from_slice(part)
    }
}

impl Deref for Frame<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes
    }
}

impl std::fmt::Debug for Frame<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frame({} bytes)", self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_part_of_a_large_frame_does_not_keep_the_frame() {
        let large = Bytes::from(vec![7; 100_000]);
        let frame = Frame::new(&large, Some(&large));
        let whole = frame.to_bytes();
        assert_eq!(whole.as_ptr(), large.as_ptr(), "a reference");
        let half = frame.keep(&frame[50_000..]);
        assert_eq!(half.as_ptr(), large[50_000..].as_ptr());
        let small = frame.keep(&frame[100..2100]);
        assert_eq!(small, large[100..2100]);
        drop((whole, half));
        assert!(large.is_unique(), "the small part is a copy");
    }
}
