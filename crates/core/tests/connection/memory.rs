//! The bound on what all connections hold together. The workers share it; here there is one.

use bytes::Bytes;
use ringhold_core::limits::Limits;
use ringhold_core::{Handle, PushError};

use crate::service::{Manner, Rig, ask, bin, pattern};

const CUT: &str = "limits.memory was exceeded and this connection held most";

fn rig(memory: usize) -> Rig {
    let limits = Limits {
        memory,
        outbox_bytes: 1 << 30,
        ..Limits::default()
    };
    let manner = Manner {
        makes_handles: true,
        ..Manner::default()
    };
    Rig::with(limits, manner)
}

#[test]
fn the_largest_partial_frame_is_cut_and_the_others_live() {
    let mut rig = rig(100_000);
    let clients: Vec<_> = (0..5).map(|_| rig.connect()).collect();
    let frames: Vec<Vec<u8>> = [20_000, 10_000, 45_000, 5000, 30_000]
        .into_iter()
        .map(|size| bin(size + 100, 1))
        .collect();
    for (client, frame) in clients.iter().zip(&frames) {
        rig.receive(*client, &frame[..frame.len() - 100]);
    }
    let cut: Vec<bool> = clients.iter().map(|client| !rig.is_open(*client)).collect();
    assert_eq!(cut, [false, false, true, false, false]);
    assert_eq!(rig.reasons(), [CUT]);
    assert_eq!(rig.counters().cut, 1);
    assert!(!rig.is_shut(clients[2]), "it is cut, not ended");
    for (i, client) in clients.iter().enumerate() {
        if i != 2 {
            rig.receive(*client, &frames[i][frames[i].len() - 100..]);
            assert!(rig.take_sent(*client) == frames[i]);
            rig.end(*client);
        }
    }
    rig.assert_empty(&clients);
}

#[test]
fn who_has_ended_and_holds_most_is_cut_as_others_are() {
    let mut rig = rig(100_000);
    let [ended, other] = [rig.connect(), rig.connect()];
    for (client, length) in [(ended, 70_000), (other, 40_000)] {
        rig.set_window(client, Some(0));
        rig.receive(client, &ask(length));
        if client == ended {
            rig.end(client);
        }
    }
    assert_eq!(rig.reasons(), [CUT]);
    assert_eq!(rig.counters().cut, 1);
    assert!(rig.is_open(other) && !rig.is_open(ended));
}

#[test]
fn just_the_limit_is_allowed() {
    let mut rig = rig(100_000);
    let client = rig.connect();
    rig.set_window(client, Some(0));
    rig.receive(client, &ask(100_000));
    assert_eq!(rig.memory_held(), 100_000);
    assert!(rig.is_open(client));
    rig.receive(client, &[1]);
    assert_eq!(rig.reasons(), [CUT]);
    rig.assert_empty(&[client]);
}

#[test]
fn a_frame_of_all_the_memory_can_be_received() {
    // What is allocated for it while it grows is no more than what it needs.
    for piece in [1000, 16_384, 1_000_000] {
        let mut rig = rig(5_000_005);
        let client = rig.connect();
        let frame = bin(5_000_000, 1);
        for piece in frame.chunks(piece) {
            rig.receive(client, piece);
        }
        assert_eq!(rig.reasons(), [""; 0], "in pieces of {piece}");
        assert!(rig.take_sent(client) == frame);
    }
}

#[test]
fn whoever_announces_much_and_sends_nothing_costs_nobody_else_a_connection() {
    // Small frames in memory of the allocator's, and large ones, which are received straight into their own.
    for announced in [60_000, 1_000_000] {
        let mut rig = rig(1_000_000);
        let frame = bin(700_000, 1);
        let honest = rig.connect();
        rig.receive(honest, &frame[..600_000]);
        let silent: Vec<_> = (0..50).map(|_| rig.connect()).collect();
        for client in &silent {
            rig.receive(*client, &bin(announced, 2)[..5]);
        }
        assert_eq!(rig.reasons(), [""; 0], "{announced} bytes announced");
        assert_eq!(rig.memory_held(), 600_000 + 50 * 5);
        rig.receive(honest, &frame[600_000..]);
        assert!(rig.take_sent(honest) == frame);
        assert_eq!(rig.counters().cut, 0);
    }
}

#[test]
fn memory_that_was_in_use_before_is_held_whatever_has_arrived() {
    let mut rig = rig(1 << 30);
    let first = rig.connect();
    let frame = bin(1_000_000, 1);
    rig.receive(first, &frame[..500_000]);
    assert_eq!(
        rig.memory_held(),
        500_000,
        "the rest of it was never touched"
    );
    rig.receive(first, &frame[500_000..]);
    assert!(rig.take_sent(first) == frame);
    assert_eq!(rig.memory_held(), 0);
    // It is used again, and nobody is counted for more of it than the frame needs.
    for size in [900_000, 90_000] {
        let client = rig.connect();
        let frame = bin(size, 2);
        rig.receive(client, &frame[..60_000]);
        assert_eq!(rig.memory_held(), frame.len() as u64);
        rig.receive(client, &frame[60_000..]);
        assert!(rig.take_sent(client) == frame);
        assert_eq!(rig.memory_held(), 0);
    }
}

#[test]
fn the_connection_whose_peer_does_not_read_is_cut() {
    let mut rig = rig(100_000);
    let [slow, quick, partial] = [rig.connect(), rig.connect(), rig.connect()];
    rig.set_window(slow, Some(10));
    rig.receive(partial, &bin(40_000, 1)[..20_000]);
    for _ in 0..9 {
        rig.receive(slow, &ask(10_000));
    }
    assert_eq!(rig.reasons(), [CUT]);
    assert_eq!(rig.take_sent(slow), pattern(10));
    rig.receive(quick, &ask(50_000));
    assert_eq!(rig.take_sent(quick), pattern(50_000));
    rig.receive(partial, &bin(40_000, 1)[20_000..]);
    assert_eq!(rig.take_sent(partial), bin(40_000, 1));
    rig.end(quick);
    rig.end(partial);
    rig.assert_empty(&[slow, quick, partial]);
}

#[test]
fn as_many_are_cut_as_it_takes() {
    let mut rig = rig(100_000);
    let clients: Vec<_> = (0..10).map(|_| rig.connect()).collect();
    for (i, client) in clients.iter().enumerate() {
        rig.set_window(*client, Some(0));
        rig.receive(*client, &ask(9000 + i * 100));
    }
    assert_eq!(rig.counters().open, 10, "94500 bytes");
    // One large answer makes it too much; that one goes first, and nobody else.
    let client = rig.connect();
    rig.set_window(client, Some(0));
    rig.receive(client, &ask(80_000));
    assert_eq!(rig.counters().open, 10);
    // Pushed bytes arrive together: then several have to go, the largest of them.
    for handle in rig.seen().handles.iter() {
        let _ = handle.push(vec![0; 5000]);
    }
    rig.deliver();
    let mut cut: Vec<usize> = rig.seen().ends.iter().map(|(number, _)| *number).collect();
    assert_eq!(cut[0], 10);
    cut.sort_unstable();
    assert_eq!(cut, [6, 7, 8, 9, 10]);
    assert!(rig.memory_held() <= 100_000);
    assert_eq!(rig.counters().cut, 5);
    for client in &clients {
        rig.set_window(*client, None);
        rig.end(*client);
    }
    rig.assert_empty(&clients);
}

#[test]
fn a_reply_of_which_all_but_a_byte_was_taken_is_still_held() {
    let mut rig = rig(1 << 30);
    let client = rig.connect();
    rig.set_window(client, Some(999_999));
    rig.receive(client, &ask(1_000_000));
    assert!(rig.memory_held() >= 1_000_000, "{}", rig.memory_held());
    rig.set_window(client, None);
    assert_eq!(rig.memory_held(), 0);
}

#[test]
fn a_connection_that_ends_while_its_peer_does_not_read_can_be_cut() {
    let mut rig = rig(100_000);
    let [ending, other] = [rig.connect(), rig.connect()];
    rig.set_window(ending, Some(0));
    rig.receive(ending, &[ask(70_000), vec![0xc1]].concat());
    assert!(rig.is_open(ending), "it has a reply to write");
    rig.receive(other, &bin(60_000, 1)[..40_000]);
    assert!(!rig.is_open(ending));
    assert!(rig.is_open(other));
    assert!(
        rig.reasons()[0].contains("not msgpack"),
        "the first reason stays"
    );
    rig.end(other);
    rig.assert_empty(&[ending, other]);
}

/// A worker that does nothing while another thread pushes.
#[test]
fn what_waits_for_a_stuck_worker_is_bounded() {
    const PUSH: usize = 50_000;
    // Twenty of them, and what it takes to keep and to count them.
    let mut rig = rig(20 * (PUSH + 200));
    let clients: Vec<_> = (0..41).map(|_| rig.connect()).collect();
    let handles = rig.seen().handles.clone();
    let (quiet, busy) = handles.split_first().unwrap();
    let push_elsewhere = |handles: &[Handle]| -> usize {
        let push = || handles.iter().map(|handle| handle.push(vec![1; PUSH]));
        let count = || push().filter(|result| *result == Ok(())).count();
        std::thread::scope(|scope| scope.spawn(count).join().unwrap())
    };
    let accepted: Vec<usize> = (0..3).map(|_| push_elsewhere(busy)).collect();
    // The first push to each does not count, and 20 others are what the process may hold.
    assert_eq!(accepted, [40, 20, 0]);
    assert_eq!(push_elsewhere(std::slice::from_ref(quiet)), 1);
    for handle in busy {
        assert_eq!(handle.push(vec![1]), Err(PushError::Overflow));
    }
    rig.deliver();
    assert!(rig.is_open(clients[0]));
    assert_eq!(rig.take_sent(clients[0]).len(), PUSH);
    assert_eq!(rig.counters().cut, 40);
    let reasons = rig.reasons();
    let expected = "more was pushed to the connection than limits.memory allows";
    assert!(reasons.iter().all(|why| why == expected), "{reasons:?}");
    // What has arrived is under way no more.
    let often = [(); 20].map(|()| quiet.clone());
    assert_eq!(push_elsewhere(&often), 20);
    rig.deliver();
    assert_eq!(rig.take_sent(clients[0]).len(), 20 * PUSH);
    rig.end(clients[0]);
    rig.assert_empty(&clients);
}

/// At least so much does a push from another thread take until its worker has looked at it, whatever its bytes take.
const ITEM: usize = 96;

/// Another thread pushes event after event to all of these, until none of them takes any more. Returns how many it accepted.
fn push_until_refused(handles: &[Handle], event: impl Fn() -> Bytes + Sync) -> usize {
    let push_all = || {
        let mut accepted = 0;
        loop {
            let event = event();
            let pushes = handles.iter().map(|handle| handle.push_shared(&event));
            match pushes.filter(|result| *result == Ok(())).count() {
                0 => return accepted,
                count => accepted += count,
            }
            assert!(accepted < 1_000_000, "nothing bounds it");
        }
    };
    std::thread::scope(|scope| scope.spawn(push_all).join().unwrap())
}

#[test]
fn pushes_to_a_stuck_worker_are_bounded_however_small_they_are() {
    const MEMORY: usize = 1_000_000;
    const CLIENTS: usize = 20;
    for size in [0, 1, 16, 1000] {
        let same = Bytes::from(vec![1; size]);
        let others = || Bytes::from(vec![1; size]);
        for is_same in [true, false] {
            let mut rig = rig(MEMORY);
            let clients: Vec<_> = (0..CLIENTS).map(|_| rig.connect()).collect();
            let handles = rig.seen().handles.clone();
            let event = || if is_same { same.clone() } else { others() };
            let accepted = push_until_refused(&handles, event);
            // The first of them to each connection do not count.
            let most = (MEMORY + CLIENTS * 64 * 1024) / ITEM;
            let least = CLIENTS * 64 * 1024 / (size + 2 * ITEM);
            assert!(
                (least..=most).contains(&accepted),
                "{accepted} of {size} bytes"
            );
            rig.deliver();
            rig.assert_empty(&clients);
            assert_eq!(rig.counters().cut, CLIENTS as u64);
        }
    }
}

#[test]
fn small_pushes_that_wait_for_one_connection_are_bounded_by_what_may_wait_for_it() {
    for size in [0, 1, 16] {
        let limits = Limits {
            outbox_bytes: 50_000,
            ..Limits::default()
        };
        let manner = Manner {
            makes_handles: true,
            ..Manner::default()
        };
        let mut rig = Rig::with(limits, manner);
        let client = rig.connect();
        let handles = rig.seen().handles.clone();
        let accepted = push_until_refused(&handles, || Bytes::from(vec![1; size]));
        let [least, most] = [size + 2 * ITEM, ITEM].map(|each| 50_000 / each + 1);
        assert!(
            (least..=most).contains(&accepted),
            "{accepted} of {size} bytes"
        );
        rig.deliver();
        rig.assert_empty(&[client]);
    }
}

#[test]
fn a_thousand_connections_leave_nothing_behind() {
    let mut rig = rig(50_000);
    let clients: Vec<_> = (0..1000).map(|_| rig.connect()).collect();
    for (i, client) in clients.iter().enumerate() {
        rig.receive(*client, &bin(1000, 1)[..i % 900 + 1]);
        if i % 3 == 0 {
            rig.set_window(*client, Some(i));
            rig.receive(*client, &bin(1000, 1)[i % 900 + 1..]);
        }
        assert!(rig.memory_held() <= 50_000);
    }
    assert!(rig.counters().cut > 0);
    for client in &clients {
        rig.set_window(*client, None);
        rig.end(*client);
    }
    rig.assert_empty(&clients);
    assert_eq!(rig.seen().ends.len(), 1000);
}
