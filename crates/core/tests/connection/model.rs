//! Random events against a model that reads the streams directly.
//!
//! The model knows which frames a client has sent and how it ended, not when the core does what. So it asks for what
//! must hold in any order of events: replies are those of the stream's frames, in order, none twice, and all of them
//! unless there is a reason why not; pushes and deferred answers likewise; and nothing is left at the end.

use proptest::prelude::*;

use crate::service::{BEFORE_PANIC, array, bin, defer, verb};
use crate::world::World;

/// Something that a client sends.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    Bin(usize),
    Nested(usize),
    Shared(usize),
    Defer(u8),
    // The last of its stream:
    Close,
    Panic,
    Reserved,
    TooDeep,
    TooLarge,
}

impl Item {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        match self {
            Item::Bin(length) => bin(*length, *length as u8),
            Item::Nested(levels) => [vec![0x91; *levels], vec![0xc0]].concat(),
            Item::Shared(length) => array(&[&[verb::SHARE], &bin(*length, 1)]),
            Item::Defer(n) => defer(*n).to_vec(),
            Item::Close => vec![0x91, verb::CLOSE],
            Item::Panic => vec![0x91, verb::PANIC],
            Item::Reserved => vec![0x92, 0x01, 0xc1],
            Item::TooDeep => [vec![0x91; 21], vec![0xc0]].concat(),
            Item::TooLarge => vec![0xc6, 0, 2, 0x49, 0xec],
        }
    }

    /// Whether the service is given it.
    pub(crate) fn is_frame(&self) -> bool {
        !matches!(self, Item::Reserved | Item::TooDeep | Item::TooLarge)
    }

    pub(crate) fn is_last(&self) -> bool {
        !self.is_frame() || matches!(self, Item::Close | Item::Panic)
    }

    /// What is sent back at once.
    pub(crate) fn reply(&self) -> Vec<u8> {
        match self {
            Item::Panic => vec![BEFORE_PANIC],
            Item::Defer(_) => Vec::new(),
            _ if self.is_frame() => self.bytes(),
            _ => Vec::new(),
        }
    }
}

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
    /// Sends all the rest.
    SendAll {
        client: usize,
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
    Answer {
        number: usize,
        length: usize,
    },
    Drop {
        number: usize,
    },
    Advance {
        milliseconds: u64,
    },
    Stop {
        drain: u64,
    },
}

fn item() -> impl Strategy<Value = Item> {
    prop_oneof![
        20 => (0..300usize).prop_map(Item::Bin),
        6 => (300..6000usize).prop_map(Item::Bin),
        2 => (60_000..90_000usize).prop_map(Item::Bin),
        4 => (1..=20usize).prop_map(Item::Nested),
        4 => (0..2000usize).prop_map(Item::Shared),
        6 => (0..100u8).prop_map(Item::Defer),
        1 => prop_oneof![
            Just(Item::Close),
            Just(Item::Panic),
            Just(Item::Reserved),
            Just(Item::TooDeep),
            Just(Item::TooLarge)
        ],
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let client = || 0..8usize;
    let piece = prop_oneof![1..20usize, 20..3000usize, 3000..80_000usize];
    let pieces = prop::collection::vec(piece, 1..6);
    let items = prop::collection::vec(item(), 0..12);
    prop_oneof![
        6 => any::<bool>().prop_map(|keeps_open| Event::Connect { keeps_open }),
        30 => (client(), items, pieces, any::<bool>())
            .prop_map(|(client, items, pieces, unasked)| Event::Send { client, items, pieces, unasked }),
        6 => client().prop_map(|client| Event::SendAll { client }),
        10 => (client(), prop_oneof![Just(None), Just(Some(0)), (1..20_000usize).prop_map(Some)])
            .prop_map(|(client, bytes)| Event::Window { client, bytes }),
        2 => client().prop_map(|client| Event::End { client }),
        1 => client().prop_map(|client| Event::Reset { client }),
        8 => (client(), 1..5usize, 0..3000usize, prop::bool::weighted(0.1))
            .prop_map(|(client, count, length, closes)| Event::Push { client, count, length, closes }),
        8 => (0..20usize, 0..3000usize).prop_map(|(number, length)| Event::Answer { number, length }),
        2 => (0..20usize).prop_map(|number| Event::Drop { number }),
        6 => (0..4000u64).prop_map(|milliseconds| Event::Advance { milliseconds }),
    ]
}

proptest! {
    #[test]
    fn whatever_happens(
        mut events in prop::collection::vec(event(), 1..150),
        stop in prop::option::of((0..150usize, 0..3000u64)),
    ) {
        if let Some((at, drain)) = stop {
            events.insert(at.min(events.len()), Event::Stop { drain });
        }
        let mut world = World::new();
        world.act(&Event::Connect { keeps_open: false });
        for event in &events {
            world.act(event);
            world.check();
        }
        world.finish();
    }
}
