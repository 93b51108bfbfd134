//! Where does one msgpack object end?
//!
//! A stream of msgpack objects carries no lengths: the end of an object is known only once every header inside it has
//! been read. A [`Framer`] reads those headers, and nothing else, as the bytes arrive. It passes over the payload of
//! strings, binaries and extensions without looking at it, can be interrupted after any byte, and never begins anew, so a
//! message that trickles in costs as much work as one that arrives whole. (At most the first 64 objects that are fed of a
//! frame are looked at twice: a shorter loop tries whether they are all of it. Of a frame with the same headers as one before
//! nothing is read but those.)
//!
//! ```
//! use ringhold_framer::{Framer, Limits, Progress};
//!
//! let mut framer = Framer::new(Limits::default());
//! // [1, "two"] and the beginning of the next frame, cut inside the string.
//! assert_eq!(framer.feed(b"\x92\x01\xa3t"), Ok(Progress::More { at_least: 2 }));
//! assert_eq!(framer.feed(b"wo\x92\x03"), Ok(Progress::Complete { used: 2 }));
//! assert!(framer.is_idle());
//! ```
//!
//! # What is refused
//! The byte 0xc1, which the specification reserves; nesting deeper than [`Limits::depth`]; and a frame that must become
//! longer than [`Limits::frame_bytes`]. Each is refused as soon as a header announces it, before the bytes that it
//! announces are waited for: an array of 2^32-1 elements has at least as many bytes, so five bytes are enough to know.
//! The verdict is a function of the bytes alone. However the stream is cut, the same frame ends at the same place, or
//! fails with the same [`ErrorKind`] at the same offset.
//!
//! Nothing else is checked. Strings need not be UTF-8, integers need not be in their shortest form, keys may repeat:
//! those are for whoever reads the values.
//!
//! # Many connections, one framer
//! A `Framer` owns the stack that tracks nesting, allocated once. A worker keeps one for all its connections: a
//! connection between two frames has no state, and one in the middle of a frame has it [parked](Framer::park).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod error;
mod framer;
mod parked;
mod shape;
mod table;
mod top_level;

pub use error::{Error, ErrorKind};
pub use framer::{Framer, Limits, Progress};
pub use parked::Parked;
pub use top_level::TopLevel;
