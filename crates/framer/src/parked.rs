//! The state of a frame that is not complete yet.

use alloc::boxed::Box;

use crate::ErrorKind;
use crate::table::{HEADER_MAX, sized};

/// The state of a partial frame, [taken out](crate::Framer::park) of a framer that is needed for another stream.
///
/// It is as large as a cache line, and allocates only below the tenth level of nesting. Dropping it forgets the frame.
#[derive(Clone, Debug)]
pub struct Parked {
    pub(crate) place: Place,
    levels: Levels,
}

impl Parked {
    pub(crate) fn new(place: Place, floors: &[u32]) -> Self {
        Self {
            place,
            levels: Levels::new(floors),
        }
    }

    /// The floors of the open levels, outermost first.
    pub(crate) fn floors(&self) -> &[u32] {
        match &self.levels {
            Levels::Few { len, floors } => &floors[..usize::from(*len)],
            Levels::Many(floors) => floors,
        }
    }
}

/// How many levels are kept without allocating.
const FEW: usize = 10;

#[derive(Clone, Debug)]
enum Levels {
    Few { len: u8, floors: [u32; FEW] },
    Many(Box<[u32]>),
}

impl Levels {
    fn new(open: &[u32]) -> Self {
        let mut floors = [0; FEW];
        match floors.get_mut(..open.len()) {
            Some(few) => {
                few.copy_from_slice(open);
                Self::Few {
                    len: open.len() as u8,
                    floors,
                }
            }
            None => Self::Many(open.into()),
        }
    }
}

/// Where a framer stands between two buffers, apart from its open levels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// The bytes of the frame so far. Within `Limits::frame_bytes`, hence 32 bits. Once failed: the error's offset.
    pub(crate) consumed: u32,
    /// The objects that are still to begin. Each has at least one byte, so 32 bits are enough here too. An object whose
    /// header is not whole yet is counted. Once failed because the frame is too large: the bytes that it has at least.
    pub(crate) due: u32,
    pub(crate) inside: Inside,
}

/// What the buffer ended in the middle of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Inside {
    /// Between two objects.
    Nothing,
    /// A payload, of which this many bytes are to come.
    Payload { left: u32 },
    /// A header, of which these bytes are there: the type byte and a part of the length.
    Header {
        bytes: [u8; HEADER_MAX - 1],
        len: u8,
    },
    /// The frame was refused.
    Failed(ErrorKind),
}

impl Place {
    /// The start of a frame: one object is due.
    pub(crate) const START: Self = Self {
        consumed: 0,
        due: 1,
        inside: Inside::Nothing,
    };

    /// The least number of bytes that the frame still needs. Zero once failed.
    pub(crate) fn missing(&self) -> u64 {
        let due = u64::from(self.due);
        match self.inside {
            Inside::Nothing => due,
            Inside::Payload { left } => u64::from(left) + due,
            Inside::Header {
                bytes: [byte, ..],
                len,
            } => {
                let sized = sized(byte);
                u64::from(sized.header + sized.extra - len) + due - 1
            }
            Inside::Failed(_) => 0,
        }
    }
}

impl Inside {
    /// A header of several bytes begins with the next one.
    pub(crate) const NO_HEADER: Self = Self::Header {
        bytes: [0; HEADER_MAX - 1],
        len: 0,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fits_a_cache_line() {
        assert_eq!(size_of::<Parked>(), 64);
        assert_eq!(size_of::<Option<Parked>>(), 64);
    }

    #[test]
    fn keeps_every_number_of_levels() {
        let open: [u32; FEW + 5] = core::array::from_fn(|level| level as u32 + 7);
        for len in 0..=open.len() {
            let parked = Parked::new(Place::START, &open[..len]);
            assert_eq!(parked.floors(), &open[..len]);
            assert_eq!(matches!(parked.levels, Levels::Few { .. }), len <= FEW);
        }
    }
}
