//! The data path does not allocate: how many times a worker asks for memory does not depend on how many frames pass.

#![allow(clippy::unwrap_used)]

mod counting;
mod held;
#[path = "../common/service.rs"]
mod service;

use std::sync::atomic::AtomicUsize;

use bytes::Bytes;
use counting::{Load, allocations, count_this_thread};
use ringhold_core::{Flow, Ticket};
use service::answering;

/// What a pool may still grow by, when after the warm-up more happens at a time than before.
const STRAY_MAX: usize = 50;

/// A bin of so many bytes in all.
fn frame(bytes: usize) -> Vec<u8> {
    let mut frame = match bytes {
        1 => vec![0x2a],
        2..=257 => vec![0xc4, (bytes - 2) as u8],
        258.. => {
            let mut header = vec![0xc6];
            header.extend_from_slice(&(bytes as u32 - 5).to_be_bytes());
            header
        }
        0 => unreachable!("no frame is empty"),
    };
    frame.resize(bytes, b'.');
    frame
}

/// The allocations of the workers while `rounds` times `depth` frames come back on each of the connections.
fn of_echo(bytes: usize, depth: usize, connections: usize, rounds: usize, shared: bool) -> usize {
    let counter: &'static AtomicUsize = Box::leak(Box::default());
    let requests = frame(bytes).repeat(depth);
    let load = Load {
        connections,
        requests: &requests,
        replies: &requests,
        // After a tenth of the rounds the pools still grew now and then, by up to 56 buffers.
        warm_up: rounds,
        rounds,
    };
    let kept = shared.then(|| Bytes::from(frame(bytes)));
    let counted = allocations(
        counter,
        |server| {
            server.service("echo", move |_| {
                count_this_thread(counter);
                let shared = kept.clone();
                answering(move |frame, reply| {
                    match &shared {
                        None => reply.write(|out| out.extend_from_slice(&frame)),
                        Some(shared) => reply.share(shared.clone()),
                    }
                    Flow::Continue
                })
            })
        },
        &load,
    );
    let frames = depth * connections * rounds;
    eprintln!("{bytes} bytes, {depth} deep, shared: {shared}: {counted:?} for {frames} frames");
    counted.unwrap_or(0)
}

#[test]
fn nothing_is_allocated_for_one_frame_at_a_time() {
    assert!(of_echo(64, 1, 4, 5_000, false) <= STRAY_MAX);
}

#[test]
fn nothing_is_allocated_for_pipelined_frames() {
    assert!(of_echo(64, 16, 16, 400, false) <= STRAY_MAX);
}

#[test]
fn nothing_is_allocated_for_more_frames_than_one_turn_takes() {
    assert!(of_echo(1, 10_000, 4, 50, false) <= STRAY_MAX);
}

#[test]
fn nothing_is_allocated_for_frames_that_lie_across_buffers() {
    assert!(of_echo(5_000, 8, 8, 300, false) <= STRAY_MAX);
}

#[test]
fn nothing_is_allocated_for_shared_replies() {
    assert!(of_echo(4_096, 8, 8, 300, true) <= STRAY_MAX);
}

/// Buffers of this size are not kept: they come from the allocator and go back to it.
#[test]
fn a_large_frame_costs_a_few_allocations_whatever_its_size() {
    let rounds = 30;
    for bytes in [100_000, 1_000_000, 4_000_000] {
        assert!(of_echo(bytes, 1, 2, rounds, false) <= 2 * rounds * 12);
    }
}

#[test]
fn nothing_is_allocated_for_deferred_replies() {
    let counter: &'static AtomicUsize = Box::leak(Box::default());
    let requests = frame(64).repeat(16);
    let load = Load {
        connections: 16,
        requests: &requests,
        replies: &requests,
        warm_up: 40,
        rounds: 400,
    };
    let later = move |_: &ringhold_core::Worker| {
        count_this_thread(counter);
        let answer = Bytes::from(frame(64));
        answering(move |_, reply| {
            let responder = reply.defer(Ticket(0));
            if responder.is_wanted() {
                responder.answer(answer.clone());
            }
            Flow::Continue
        })
    };
    let counted = allocations(counter, |server| server.service("echo", later), &load);
    // The more connections wait at a time, the more tickets and outboxes are kept for them.
    let answers = 16 * load.connections * load.rounds;
    assert!(counted.unwrap_or(0) <= answers / 100, "{counted:?}");
}

/// Otherwise the tests above would prove nothing.
#[test]
fn a_service_that_allocates_is_noticed() {
    let counter: &'static AtomicUsize = Box::leak(Box::default());
    let requests = frame(64).repeat(16);
    let load = Load {
        connections: 4,
        requests: &requests,
        replies: &requests,
        warm_up: 10,
        rounds: 100,
    };
    let keeper = move |_: &ringhold_core::Worker| {
        count_this_thread(counter);
        answering(|frame, reply| {
            let copy = frame.to_vec();
            reply.write(|out| out.extend_from_slice(&copy));
            Flow::Continue
        })
    };
    let counted = allocations(counter, |server| server.service("echo", keeper), &load);
    if let Some(counted) = counted {
        let frames = 16 * 4 * 100;
        assert!(
            (frames..=frames + STRAY_MAX).contains(&counted),
            "{counted}"
        );
    }
}
