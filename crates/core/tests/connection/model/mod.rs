//! A model of connections, for random events: it reads directly what clients have sent. The fuzz target `connection` uses it
//! too.
//!
//! The model knows which frames a client has sent and how it ended, not when the core does what. So it asks for what
//! must hold in any order of events: replies are those of the stream's frames, in order, none twice, and all of them
//! unless there is a reason why not; pushes and deferred answers likewise, where they were made; and nothing is left at
//! the end.

pub(crate) mod service;
mod world;

pub(crate) use self::world::World;

/// Something that happens. A client is meant by its number, the last one by any that is too large.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Connect {
        keeps_open: bool,
    },
    /// Adds items to a client's stream and sends on, in pieces of these sizes.
    Send {
        client: usize,
        items: Vec<Item>,
        pieces: Vec<usize>,
        unasked: bool,
    },
    Window {
        client: usize,
        bytes: Option<usize>,
    },
    End {
        client: usize,
    },
    Reset {
        client: usize,
    },
    Push {
        client: usize,
        count: usize,
        length: usize,
        /// And closes the connection.
        closes: bool,
    },
    /// Answers a ticket with so many bytes, or drops it.
    Answer {
        number: usize,
        length: Option<usize>,
    },
    Advance {
        milliseconds: u64,
    },
    Stop {
        drain: u64,
    },
    /// The service drops the frames that it keeps.
    LetGo,
    Deliver,
}

/// Something that a client sends: a few bytes, and many that need not be printed.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    head: Vec<u8>,
    filler: usize,
}

impl Item {
    pub(crate) fn bytes(bytes: &[u8]) -> Self {
        Item {
            head: bytes.to_vec(),
            filler: 0,
        }
    }

    /// A bin of this length behind a few bytes.
    pub(crate) fn bin(before: &[u8], length: usize) -> Self {
        let header = [&[0xc6][..], &(length as u32).to_be_bytes()].concat();
        Item {
            head: [before, &header].concat(),
            filler: length,
        }
    }

    fn write(&self, stream: &mut Vec<u8>) {
        stream.extend_from_slice(&self.head);
        stream.extend((0..self.filler).map(filler));
    }
}

/// The byte at this place of a payload. They tell their place; and read as frames they are not too many, as each of them begins
/// one of 198 bytes or more.
fn filler(place: usize) -> u8 {
    [0xc4, 0xc7, 0xd9][(place as u32).wrapping_mul(0x9e37_79b9) as usize % 3]
}
