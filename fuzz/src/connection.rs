//! Connections without sockets, driven by a coded sequence of events, against a direct reading of what was sent.
//!
//! Input: a byte that chooses the limits, then events. The low four bits of an event's first byte say which, see
//! [`event`]; the next three which client, and the highest bit a variant of it.

#[path = "../../crates/core/tests/connection/model/mod.rs"]
mod model;

use self::model::{Event, Item, World};
use super::Input;

/// All bytes that clients send, so that an input is quickly over.
const BYTES_MAX: usize = 400_000;

/// Repeated bytes count so many times: they are usually frames of a few bytes.
const REPEATED_WEIGHT: usize = 8;

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let Some(choice) = input.byte() else {
        return;
    };
    let mut world = World::new(choice);
    let mut bytes = 0;
    while bytes <= BYTES_MAX
        && let Some(event) = event(&mut input, &mut bytes)
    {
        world.act(&event);
        world.check();
    }
    world.finish();
}

/// Reads an event, and counts the bytes that it sends.
fn event(input: &mut Input<'_>, bytes: &mut usize) -> Option<Event> {
    let first = input.byte()?;
    let variant = first & 0x80 != 0;
    let client = usize::from(first >> 4 & 7);
    let send = |items, pieces| Event::Send {
        client,
        items,
        pieces,
        unasked: variant,
    };
    Some(match first & 15 {
        0 => Event::Connect {
            keeps_open: variant,
        },
        1..=4 => {
            let length = input.number();
            *bytes += length;
            send(vec![Item::bytes(input.bytes(length))], vec![usize::MAX])
        }
        5 => {
            let (length, piece) = (input.number() * 600, input.number() * 300 + 100);
            *bytes += length;
            send(
                vec![Item::bin(&[], length)],
                vec![piece; length / piece + 1],
            )
        }
        6 => {
            let (count, length) = (input.number(), input.number() & 15);
            *bytes += count * length * REPEATED_WEIGHT;
            let item = Item::bytes(input.bytes(length));
            send(vec![item; count], vec![usize::MAX])
        }
        7 => Event::Window {
            client,
            bytes: Some(input.number() * 100),
        },
        8 if variant => Event::Reset { client },
        8 => Event::End { client },
        // The low three bits are how many, the others how long each is.
        9 => {
            let how = input.number();
            Event::Push {
                client,
                count: how & 7,
                length: (how >> 3) * 64,
                closes: variant,
            }
        }
        10 => Event::Answer {
            number: input.number(),
            length: Some(input.number() * 16),
        },
        11 => Event::Answer {
            number: input.number(),
            length: None,
        },
        12 => Event::Advance {
            milliseconds: input.number() as u64 * 50,
        },
        13 if variant => Event::Stop {
            drain: input.number() as u64 * 20,
        },
        13 => Event::Window {
            client,
            bytes: None,
        },
        14 => Event::LetGo,
        _ => Event::Deliver,
    })
}
