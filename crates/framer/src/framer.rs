//! The state machine.
//!
//! One counter finds the end of a frame: `due`, the objects that are still to begin. It starts at one; every object takes
//! one off, and an array or a map adds what it contains. The frame ends when nothing is due and the payload of the last
//! object is over.
//!
//! Depth needs a stack. Its entry for an open level is that level's *floor*: the value of `due` at which the level is
//! complete, that is, what is due outside of it; that of an empty array is complete at once. A level is popped only when
//! the next array or map begins, since nothing but the depth of that one depends on it.
//!
//! An object that is due has at least one byte. So, once a header is read, the frame is at least `bytes so far + payload
//! announced + due` bytes long: the *bound*. It never falls, and refusing a frame when it passes the limit stops every
//! lying length at once. It also keeps the counters within 32 bits between headers; while a header is judged they are
//! wider, since a single one can announce 2^33 objects.

use alloc::boxed::Box;
use alloc::vec;

use rmp::Marker;

use crate::parked::{Inside, Parked, Place};
use crate::shape::Shape;
use crate::table::{CLASS, HEADER_MAX, OBJECTS, SIZED, sized};
use crate::{Error, ErrorKind};

/// What a frame may cost. Both limits are exact: a frame that just reaches them is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest frame, in bytes. 16 MiB unless told otherwise; zero refuses every frame.
    pub frame_bytes: u32,
    /// The deepest nesting, in levels of arrays and maps: `[]` is one level, `[[]]` two, a number none. 128 unless told
    /// otherwise, since those who read the values usually recurse.
    pub depth: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes: 16 << 20,
            depth: 128,
        }
    }
}

/// What [`Framer::feed`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The frame ends inside the bytes that were fed.
    Complete {
        /// How many of the bytes that were fed belong to it. What follows is the next frame, not looked at yet.
        used: usize,
    },
    /// All the bytes belong to the frame, and it goes on.
    More {
        /// A lower bound of what is missing, in bytes; never zero. It is computed from lengths that the peer claims: use
        /// it to choose how to receive, not as the size of an allocation.
        at_least: usize,
    },
}

/// Finds the end of one frame (one whole msgpack object) after the other.
///
/// Between two frames it is [idle](Framer::is_idle) and holds nothing but its limits, so one framer serves any number of
/// streams as long as a partial frame is [parked](Framer::park) before another stream is fed.
#[derive(Debug)]
pub struct Framer {
    limits: Limits,
    place: Place,
    /// The innermost open level; zero when none is open.
    depth: usize,
    /// The floor of each open level, from index one up to `depth`. Index zero is the ground, on which nothing is due.
    floors: Box<[u32]>,
    /// What a frame of late was like. No part of the state: what is answered does not depend on it.
    shape: Shape,
}

impl Framer {
    /// A framer at the start of a stream. Allocates what it will ever need: four bytes for each level of depth.
    pub fn new(limits: Limits) -> Self {
        let floors = vec![0; usize::from(limits.depth) + 1].into_boxed_slice();
        Self {
            limits,
            place: Place::START,
            depth: 0,
            floors,
            shape: Shape::UNKNOWN,
        }
    }

    /// The limits that hold now.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Takes another length for the longest frame, in bytes, so that one framer serves streams with different limits.
    ///
    /// A frame that has begun is held to it as one that was [parked](Framer::park) is by another framer.
    #[inline]
    pub fn set_frame_bytes(&mut self, frame_bytes: u32) {
        self.limits.frame_bytes = frame_bytes;
        self.shape.forget_longer(frame_bytes as usize);
        if !self.is_idle() {
            self.hold_to_limit();
        }
    }

    /// Reads on, up to the end of the frame.
    ///
    /// The bytes continue those fed before, or begin a frame if there were none or the last ones completed one. Feeding
    /// no bytes changes nothing.
    ///
    /// # Errors
    /// The frame is refused: see [`ErrorKind`]. The error stays, whatever is fed, until [`reset`](Framer::reset).
    #[inline]
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Progress, Error> {
        if self.is_idle()
            && let Some(used) = self.shape.end(bytes)
        {
            return Ok(Progress::Complete { used });
        }
        self.read(bytes)
    }

    /// Reads on, or a frame that is not like the ones before.
    fn read(&mut self, bytes: &[u8]) -> Result<Progress, Error> {
        if !self.is_idle() {
            return self.read_on(bytes);
        }
        let progress = match self.small(bytes) {
            Some(used) => Progress::Complete { used },
            None => self.read_on(bytes)?,
        };
        if let Progress::Complete { used } = progress {
            self.shape.missed(&bytes[..used]);
        }
        Ok(progress)
    }

    /// Where a frame of few objects ends that is whole and within the limits; `None` if it is anything else, or if more
    /// would have to be known to tell.
    ///
    /// Nearly every message is such a frame, and most of what the state machine keeps is not needed for one: no levels,
    /// since it is not deeper than it has objects, and no bound, since it has all its bytes. Those few objects of any
    /// other frame are looked at once more.
    #[inline]
    fn small(&self, bytes: &[u8]) -> Option<usize> {
        let bytes = &bytes[..bytes.len().min(self.limits.frame_bytes as usize)];
        let mut next = 0;
        let mut due = 1_u64;
        for _ in 0..self.limits.depth.min(SMALL_OBJECTS_MAX) {
            let byte = *bytes.get(next)?;
            due -= 1;
            // What the processor can foresee need not wait for a table to know where the next object begins.
            if byte < FIXSTR {
                // Small numbers, arrays and maps, which most frames begin with.
                next += 1;
                due += u64::from(OBJECTS[usize::from(byte)]);
            } else if byte < NIL {
                // Short texts, such as the keys of a map.
                next = next + 1 + usize::from(byte) - usize::from(FIXSTR);
            } else if byte == STR8 || byte == BIN8 {
                // Nearly all that have a length of their own. It need not wait for two tables.
                next += 2 + usize::from(*bytes.get(next + 1)?);
            } else if let length @ 1.. = CLASS[usize::from(byte)] {
                next += usize::from(length.unsigned_abs());
            } else {
                let sized = sized(byte);
                if sized.is_reserved() {
                    return None;
                }
                let length = sized.length(bytes.get(next..)?.first_chunk()?) as usize;
                if length > bytes.len() {
                    // As a position it might not be one where they have 32 bits.
                    return None;
                }
                next += usize::from(sized.header);
                if sized.objects == 0 {
                    next += usize::from(sized.extra) + length;
                } else {
                    due += length as u64 * u64::from(sized.objects);
                }
            }
            if due == 0 {
                return (next <= bytes.len()).then_some(next);
            }
        }
        None
    }

    /// Reads on, whatever the frame is like.
    fn read_on(&mut self, bytes: &[u8]) -> Result<Progress, Error> {
        let mut used = 0;
        loop {
            let rest = &bytes[used..];
            let step = match self.place.inside {
                Inside::Nothing => self.objects(rest)?,
                Inside::Payload { left } => self.payload(rest, left),
                Inside::Header { bytes: held, len } => self.header(rest, held, len)?,
                Inside::Failed(kind) => return Err(self.error(kind)),
            };
            match step {
                Step::End(more) => return Ok(Progress::Complete { used: used + more }),
                Step::Suspended => {
                    return Ok(Progress::More {
                        at_least: self.place.missing() as usize,
                    });
                }
                Step::Continue(more) => used += more,
            }
        }
    }

    /// Tells whether the stream may end here.
    ///
    /// # Errors
    /// [`ErrorKind::Truncated`] inside a frame, with the number of bytes that there were of it. The error that
    /// [`feed`](Framer::feed) answered, if it did.
    pub fn finish(&self) -> Result<(), Error> {
        match self.place.inside {
            Inside::Failed(kind) => Err(self.error(kind)),
            _ if self.is_idle() => Ok(()),
            _ => Err(self.error(ErrorKind::Truncated)),
        }
    }

    /// Whether it is between two frames: nothing of the next one was fed, and nothing failed.
    pub fn is_idle(&self) -> bool {
        self.place.consumed == 0 && !matches!(self.place.inside, Inside::Failed(_))
    }

    /// Takes the state of a partial frame out and leaves the framer [idle](Framer::is_idle). `None` if it was idle.
    ///
    /// An error is taken out as well: the stream that it belongs to stays refused, the framer is free for others.
    pub fn park(&mut self) -> Option<Parked> {
        if self.is_idle() {
            return None;
        }
        self.close_levels();
        let parked = Parked::new(self.place, &self.floors[1..=self.depth]);
        self.reset();
        Some(parked)
    }

    /// Goes on with a frame that was parked. Whatever the framer was in the middle of is forgotten.
    ///
    /// A frame that was parked by a framer with wider limits may exceed those of this one: the bytes that it has and needs,
    /// or the levels that are open. It is then refused, at the offset that it had reached.
    pub fn resume(&mut self, parked: Parked) {
        self.place = parked.place;
        self.depth = 0;
        if matches!(self.place.inside, Inside::Failed(_)) {
            return;
        }
        let floors = parked.floors();
        let Some(open) = self.floors.get_mut(1..=floors.len()) else {
            self.place.inside = Inside::Failed(ErrorKind::TooDeep);
            return;
        };
        open.copy_from_slice(floors);
        self.depth = floors.len();
        self.hold_to_limit();
    }

    /// Refuses the frame that has begun if the bytes that it has and needs are more than it may have.
    fn hold_to_limit(&mut self) {
        let bound = u64::from(self.place.consumed) + self.place.missing();
        let is_failed = matches!(self.place.inside, Inside::Failed(_));
        if !is_failed && bound > u64::from(self.limits.frame_bytes) {
            self.too_large(u64::from(self.place.consumed), bound, 0);
        }
    }

    /// Forgets the frame, and the error if there was one.
    pub fn reset(&mut self) {
        self.place = Place::START;
        self.depth = 0;
    }

    /// Reads objects up to the end of the frame or of the bytes.
    ///
    /// Everything is kept in registers until one of those is reached. Positions, and the limit with them, count from the
    /// start of `bytes`.
    fn objects(&mut self, bytes: &[u8]) -> Result<Step, Error> {
        let limit = u64::from(self.limits.frame_bytes - self.place.consumed);
        let floors = &mut *self.floors;
        let mut depth = self.depth;
        let mut due = u64::from(self.place.due);
        let mut window = within(bytes, limit, due);
        // The object that was read last, and where the next one begins: outside the window if a payload goes on there.
        let mut last = 0;
        let mut next = 0;
        loop {
            while due > 0
                && let Some(&byte) = window.get(next)
            {
                last = next;
                let class = CLASS[usize::from(byte)];
                if class > 0 {
                    due -= 1;
                    next += class as usize;
                    continue;
                }
                let (header, objects) = if class != SIZED {
                    (1, u64::from(class.unsigned_abs()))
                } else {
                    let sized = sized(byte);
                    let Some(header) = bytes[next..].first_chunk() else {
                        self.suspend(next, due, depth, Inside::NO_HEADER);
                        return Ok(Step::Continue(next));
                    };
                    if sized.is_reserved() {
                        return Err(self.refuse(ErrorKind::Reserved, last));
                    }
                    let length = sized.length(header);
                    if sized.objects == 0 {
                        due -= 1;
                        let end = next as u64 + u64::from(sized.header + sized.extra) + length;
                        if end + due > limit {
                            return Err(self.refuse_length(last, end + due, length));
                        }
                        next = end as usize;
                        continue;
                    }
                    (usize::from(sized.header), length * u64::from(sized.objects))
                };
                while due <= u64::from(floors[depth]) {
                    depth -= 1;
                }
                due -= 1;
                let Some(floor) = floors.get_mut(depth + 1) else {
                    return Err(self.refuse(ErrorKind::TooDeep, last));
                };
                *floor = due as u32;
                depth += 1;
                due += objects;
                next += header;
                if next as u64 + due > limit {
                    return Err(self.refuse_length(last, next as u64 + due, objects));
                }
                window = within(bytes, limit, due);
            }
            if due == 0 && next <= window.len() {
                self.reset();
                return Ok(Step::End(next));
            }
            if next as u64 + due > limit && !bytes.is_empty() {
                return Err(self.refuse_length(last, next as u64 + due, 0));
            }
            if next > bytes.len() {
                let left = (next - bytes.len()) as u32;
                self.suspend(bytes.len(), due, depth, Inside::Payload { left });
                return Ok(Step::Suspended);
            }
            if next == bytes.len() && due > 0 {
                self.suspend(next, due, depth, Inside::Nothing);
                return Ok(Step::Suspended);
            }
            // The window was narrower than the bytes. Fewer objects are due by now, so it can be widened.
            window = within(bytes, limit, due);
        }
    }

    /// Passes over the rest of a payload.
    fn payload(&mut self, bytes: &[u8], left: u32) -> Step {
        let taken = bytes.len().min(left as usize);
        self.place.consumed += taken as u32;
        if taken < left as usize {
            self.place.inside = Inside::Payload {
                left: left - taken as u32,
            };
            return Step::Suspended;
        }
        self.place.inside = Inside::Nothing;
        if self.place.due > 0 {
            return Step::Continue(taken);
        }
        self.reset();
        Step::End(taken)
    }

    /// Reads a header of several bytes that lies at the end of the bytes, and perhaps goes on in the next ones. The first
    /// `len` bytes of it are in `held`.
    #[cold]
    fn header(&mut self, bytes: &[u8], held: [u8; HEADER_MAX - 1], len: u8) -> Result<Step, Error> {
        let len = usize::from(len);
        let mut header = [0; HEADER_MAX];
        header[..len].copy_from_slice(&held[..len]);
        let free = &mut header[len..];
        let available = bytes.len().min(free.len());
        free[..available].copy_from_slice(&bytes[..available]);

        let sized = sized(header[0]);
        let start = u64::from(self.place.consumed) - len as u64;
        if sized.is_reserved() {
            return Err(self.refuse_at(ErrorKind::Reserved, start));
        }
        let taken = available.min(usize::from(sized.header) - len);
        let whole = len + taken == usize::from(sized.header);
        // As long as the length is unknown, the least that it can be is judged. The verdict cannot be another one later:
        // depth does not depend on the length, and the bound only grows with it.
        let length = if whole { sized.length(&header) } else { 0 };
        let objects = length * u64::from(sized.objects);
        let payload = u64::from(sized.extra) + if sized.objects == 0 { length } else { 0 };

        if sized.objects > 0 {
            self.close_levels();
            if self.depth + 1 >= self.floors.len() {
                return Err(self.refuse_at(ErrorKind::TooDeep, start));
            }
        }
        let due = u64::from(self.place.due) - 1 + objects;
        let bound = start + u64::from(sized.header) + payload + due;
        if bound > u64::from(self.limits.frame_bytes) {
            let announced = if sized.objects > 0 { objects } else { length };
            return Err(self.too_large(start, bound, announced));
        }

        self.place.consumed += taken as u32;
        if !whole {
            let [bytes @ .., _] = header;
            self.place.inside = Inside::Header {
                bytes,
                len: (len + taken) as u8,
            };
            return Ok(Step::Suspended);
        }
        if sized.objects > 0 {
            self.depth += 1;
            self.floors[self.depth] = self.place.due - 1;
        }
        self.place.due = due as u32;
        self.place.inside = Inside::Payload {
            left: payload as u32,
        };
        Ok(Step::Continue(taken))
    }

    /// Writes the registers back. `read` bytes of the present ones are done with.
    fn suspend(&mut self, read: usize, due: u64, depth: usize, inside: Inside) {
        // Both are within the bound, hence within `frame_bytes`.
        self.place = Place {
            consumed: self.place.consumed + read as u32,
            due: due as u32,
            inside,
        };
        self.depth = depth;
    }

    /// Pops the levels that are complete.
    fn close_levels(&mut self) {
        while self.depth > 0 && self.place.due <= self.floors[self.depth] {
            self.depth -= 1;
        }
    }

    /// Fails at the object that begins at `position` in the present bytes.
    #[cold]
    fn refuse(&mut self, kind: ErrorKind, position: usize) -> Error {
        self.refuse_at(kind, u64::from(self.place.consumed) + position as u64)
    }

    /// Fails at the object that begins at `offset` in the frame, which is within `frame_bytes`.
    fn refuse_at(&mut self, kind: ErrorKind, offset: u64) -> Error {
        self.place.consumed = offset as u32;
        self.place.inside = Inside::Failed(kind);
        self.error(kind)
    }

    /// Fails at the object that begins at `position`, since the frame has `bound` bytes at least. Both count from the start of the
    /// present bytes.
    #[cold]
    fn refuse_length(&mut self, position: usize, bound: u64, announced: u64) -> Error {
        let before = u64::from(self.place.consumed);
        self.too_large(before + position as u64, before + bound, announced)
    }

    /// Fails since the frame has `bound` bytes at least, of which the header at `offset` has `announced` so many. Where that would
    /// be too long without them, they are not counted: cut inside that header, the frame is refused before they are known.
    fn too_large(&mut self, offset: u64, bound: u64, announced: u64) -> Error {
        let known = if bound - announced > u64::from(self.limits.frame_bytes) {
            bound - announced
        } else {
            bound
        };
        self.place.due = u32::try_from(known).unwrap_or(u32::MAX);
        self.refuse_at(ErrorKind::TooLarge, offset)
    }

    /// What is wrong, where the framer stands.
    fn error(&self, kind: ErrorKind) -> Error {
        Error::new(kind, self.place)
    }
}

/// A frame of more objects than this is none of the small ones.
const SMALL_OBJECTS_MAX: u16 = 64;

/// Below it are the types that have one byte: positive fixint, fixmap and fixarray.
const FIXSTR: u8 = Marker::FixStr(0).to_u8();

/// Below it are the texts of up to 31 bytes.
const NIL: u8 = Marker::Null.to_u8();

/// The type of texts of 32 to 255 bytes.
const STR8: u8 = Marker::Str8.to_u8();

/// The type of binaries of up to 255 bytes.
const BIN8: u8 = Marker::Bin8.to_u8();

/// Lengths within `frame_bytes` must be positions too.
const _: () = assert!(usize::BITS >= u32::BITS);

/// What one step of a framer led to. Counted are the bytes that it took.
enum Step {
    /// The frame is complete; the framer is idle again.
    End(usize),
    /// No bytes are left.
    Suspended,
    /// Another step must look at the bytes that follow, of which there may be none.
    Continue(usize),
}

/// The bytes in which objects can be read without asking for the limit again.
///
/// An object that ends at `end` leaves at most `due - 1` others, so the bound holds if `end + due - 1` is within the limit.
#[inline(always)]
fn within(bytes: &[u8], limit: u64, due: u64) -> &[u8] {
    let end = (limit + 1).saturating_sub(due);
    &bytes[..end.min(bytes.len() as u64) as usize]
}
