//! Calls and replies do not allocate, from the socket to the handler and back.

#![allow(clippy::unwrap_used)]

#[allow(
    dead_code,
    reason = "this test counts, and does not look at what is held"
)]
#[path = "../../core/tests/allocations/counting.rs"]
mod counting;

use std::sync::atomic::AtomicUsize;

use counting::{Load, allocations, count_this_thread};
use ringhold_rpc::{Fault, Router, Rpc};

/// What a pool may still grow by, when after the warm-up more happens at a time than before: a buffer for each connection
/// or two. A single allocation a message would be a hundred thousand.
const STRAY_MAX: usize = 50;

/// The allocations of the workers while `requests` are answered with `replies` on 16 connections, 400 times, on servers
/// whose router is `router`.
fn counted(requests: &[u8], replies: &[u8], router: fn() -> Router) -> Option<usize> {
    let counter: &'static AtomicUsize = Box::leak(Box::default());
    let load = Load {
        connections: 16,
        requests,
        replies,
        warm_up: 40,
        rounds: 400,
    };
    let services = |server: ringhold_core::Server| {
        server.service("echo", move |worker| {
            count_this_thread(counter);
            Rpc::new(worker, router())
        })
    };
    let counted = allocations(counter, services, &load);
    eprintln!("{counted:?} allocations in 6400 times these requests");
    counted
}

/// `[0, ID, METHOD, PARAMS]` for 16 ids, and `[1, ID, nil, RESULT]` for each.
fn calls(method: &str, params: &[u8], result: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut requests, mut replies) = (Vec::new(), Vec::new());
    for id in 0..16 {
        requests.extend([0x94, 0, id, 0xa0 | method.len() as u8]);
        requests.extend(method.as_bytes());
        requests.extend(params);
        replies.extend([0x94, 1, id, 0xc0]);
        replies.extend(result);
    }
    (requests, replies)
}

#[test]
fn a_built_in_method_does_not_allocate() {
    let payload = [&[0xc4, 40][..], &[7; 40]].concat();
    for (method, params, result) in [
        ("ping", vec![0x90], b"\xa4pong".to_vec()),
        ("echo", [&[0x91], &payload[..]].concat(), payload.clone()),
    ] {
        let (requests, replies) = calls(method, &params, &result);
        if let Some(counted) = counted(&requests, &replies, Router::new) {
            assert!(counted <= STRAY_MAX, "{method}: {counted}");
        }
    }
}

#[test]
fn a_typed_method_does_not_allocate_by_itself() {
    let router = || Router::new().method("add", |(a, b): (i64, i64)| Ok(a + b));
    let (requests, replies) = calls("add", &[0x92, 1, 0x29], &[0x2a]);
    if let Some(counted) = counted(&requests, &replies, router) {
        assert!(counted <= STRAY_MAX, "{counted}");
    }
}

#[test]
fn a_guard_that_lets_a_call_through_does_not_allocate() {
    let router = || {
        Router::new().guard(|context, _| match context.get::<u8>() {
            Some(_) => Err(Fault::new("no")),
            None => Ok(()),
        })
    };
    let (requests, replies) = calls("ping", &[0x90], b"\xa4pong");
    if let Some(counted) = counted(&requests, &replies, router) {
        assert!(counted <= STRAY_MAX, "{counted}");
    }
}

#[test]
fn a_notification_of_a_client_does_not_allocate() {
    let (mut requests, replies) = calls("ping", &[0x90], b"\xa4pong");
    let notification = b"\x93\x02\xa4ping\x90";
    requests.splice(..0, notification.repeat(16));
    if let Some(counted) = counted(&requests, &replies, Router::new) {
        assert!(counted <= STRAY_MAX, "{counted}");
    }
}
