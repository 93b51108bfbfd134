//! Connections without sockets, driven by a coded sequence of events, against a direct reading of what was sent.
//!
//! Input: a byte that chooses the limits, then events. The low four bits of an event's first byte say which, see
//! [`World::act`]; the next three which client, and the highest bit a variant of it.
#![no_main]
#![forbid(unsafe_code)]

#[path = "connection/service.rs"]
mod service;
#[path = "connection/world.rs"]
mod world;

use libfuzzer_sys::fuzz_target;
use ringhold_fuzz::{Input, allow_panics_on_purpose};

use self::world::World;

fuzz_target!(init: allow_panics_on_purpose(), |data: &[u8]| {
    let mut input = Input(data);
    let Some(choice) = input.byte() else {
        return;
    };
    let mut world = World::new(choice);
    world.connect(false);
    while world.act(&mut input) {
        world.check();
    }
    world.finish();
});
