//! Why a stream cannot be framed.

use core::fmt;

use crate::parked::Place;

/// A stream that cannot be framed any further: what is wrong, and where in the frame.
///
/// Every kind is final for the stream that it came from, since the start of the next frame is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    offset: u32,
    /// For a frame that is too large: how long it is at least.
    frame_bytes: u32,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, place: Place) -> Self {
        Self {
            kind,
            offset: place.consumed,
            frame_bytes: match kind {
                ErrorKind::TooLarge => place.due,
                _ => 0,
            },
        }
    }

    /// What is wrong.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Where it is, in bytes from the start of the frame: the first byte of the object whose header is refused, or for
    /// [`ErrorKind::Truncated`] the number of bytes that there were.
    pub fn offset(&self) -> u64 {
        u64::from(self.offset)
    }

    /// For [`ErrorKind::TooLarge`] how long the frame is bound to become at least, in bytes, by what its headers had announced when it was
    /// refused; at most 2^32-1, however much that is. What it really has may be more.
    pub fn frame_bytes(&self) -> Option<u32> {
        (self.kind == ErrorKind::TooLarge).then_some(self.frame_bytes)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let offset = self.offset;
        match self.kind {
            ErrorKind::Truncated => write!(
                f,
                "the stream ended inside a frame, {offset} bytes after its start"
            ),
            ErrorKind::TooLarge => write!(
                f,
                "{}: {} bytes at least (at byte {offset} of the frame)",
                self.kind, self.frame_bytes
            ),
            kind => write!(f, "{kind} (at byte {offset} of the frame)"),
        }
    }
}

impl core::error::Error for Error {}

/// What is wrong with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The byte 0xc1 where an object should begin. The msgpack specification reserves it: "never used".
    Reserved,
    /// An array or a map below more levels than [`Limits::depth`](crate::Limits::depth) allows.
    TooDeep,
    /// The frame is, or is bound to become, longer than [`Limits::frame_bytes`](crate::Limits::frame_bytes).
    TooLarge,
    /// The stream ended inside a frame.
    Truncated,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reserved => "not msgpack: the reserved byte 0xc1",
            Self::TooDeep => "arrays or maps are nested deeper than the limit allows",
            Self::TooLarge => "the frame is larger than the limit allows",
            Self::Truncated => "the stream ended inside a frame",
        })
    }
}
