//! Random events against the [model](crate::model).

use proptest::prelude::*;

use crate::model::service::verb;
use crate::model::{Event, Item, World};
use crate::service::{internal_panics, watch_panics};

/// An item, the last of its stream once in a while: asked for, reserved, too deep, or too large.
fn item() -> impl Strategy<Value = Item> {
    const LAST: &[&[u8]] = &[
        &[0x91, verb::CLOSE],
        &[0x91, verb::PANIC],
        &[0x92, 0x01, 0xc1],
        &[0x91; 21],
        &[0xc6, 0, 2, 0x49, 0xec],
    ];
    let nested = |levels| [vec![0x91; levels], vec![0xc0]].concat();
    prop_oneof![
        20 => (0..300usize).prop_map(|length| Item::bin(&[], length)),
        6 => (300..6000usize).prop_map(|length| Item::bin(&[], length)),
        2 => (60_000..90_000usize).prop_map(|length| Item::bin(&[], length)),
        4 => (1..=20usize).prop_map(move |levels| Item::bytes(&nested(levels))),
        4 => (0..2000usize).prop_map(|length| Item::bin(&[0x92, verb::SHARE], length)),
        1 => (0..2000usize).prop_map(|length| Item::bin(&[0x92, verb::KEEP], length)),
        6 => (0..100u8).prop_map(|n| Item::bytes(&[0x92, verb::DEFER, n])),
        1 => (0..100u8).prop_map(|n| Item::bytes(&[0x92, verb::FILL, n])),
        1 => Just(Item::bytes(&[0x91, verb::PUSH])),
        1 => prop::sample::select(LAST).prop_map(Item::bytes),
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
        6 => client().prop_map(|client| Event::Send {
            client, items: Vec::new(), pieces: vec![usize::MAX], unasked: false,
        }),
        10 => (client(), prop_oneof![Just(None), Just(Some(0)), (1..20_000usize).prop_map(Some)])
            .prop_map(|(client, bytes)| Event::Window { client, bytes }),
        2 => client().prop_map(|client| Event::End { client }),
        1 => client().prop_map(|client| Event::Reset { client }),
        8 => (client(), 1..5usize, 0..3000usize, prop::bool::weighted(0.1))
            .prop_map(|(client, count, length, closes)| Event::Push { client, count, length, closes }),
        10 => (0..20usize, prop::option::weighted(0.8, 0..3000usize))
            .prop_map(|(number, length)| Event::Answer { number, length }),
        6 => (0..4000u64).prop_map(|milliseconds| Event::Advance { milliseconds }),
        1 => prop_oneof![Just(Event::LetGo), Just(Event::Deliver)],
    ]
}

proptest! {
    #[test]
    fn whatever_happens(
        choice in prop_oneof![3 => Just(0), 1 => 0..16u8],
        mut events in prop::collection::vec(event(), 1..150),
        stop in prop::option::of((0..150usize, 0..3000u64)),
    ) {
        if let Some((at, drain)) = stop {
            events.insert(at.min(events.len()), Event::Stop { drain });
        }
        watch_panics();
        let mut world = World::new(choice);
        for event in &events {
            world.act(event);
            world.check();
            assert_eq!(internal_panics(), 0, "the core panicked");
        }
        world.finish();
        assert_eq!(internal_panics(), 0, "the core panicked");
    }
}
