//! What the log says of connections that cannot be handed over. It is the only test of its process: each thing is said once
//! there. For another reason see `panics.rs`.

#![allow(clippy::unwrap_used)]

mod common;

use std::cell::RefCell;

use ringhold_core::limits::Limits;
use ringhold_core::testing::{Client, Exchange};
use ringhold_rpc::{Notifier, Router, Rpc};
use serde::{Deserialize, Serialize};

use crate::common::{lines, logged};

#[derive(Default, Serialize, Deserialize)]
struct PassedOn;

#[derive(Default)]
struct Forgotten;

#[derive(Default)]
struct AlsoForgotten;

thread_local! {
    static HELD: RefCell<Vec<Notifier>> = const { RefCell::new(Vec::new()) };
}

fn router() -> Router {
    Router::bare()
        .method_with("a", |context, ()| {
            context.data::<PassedOn>();
            Ok(())
        })
        .method_with("b", |context, ()| {
            context.data::<Forgotten>();
            Ok(())
        })
        .method_with("c", |context, ()| {
            context.data::<AlsoForgotten>();
            Ok(())
        })
        .method_with("d", |context, ()| {
            HELD.with_borrow_mut(|held| held.push(context.notifier()));
            Ok(())
        })
        .resume("passed on", |_, _: &mut PassedOn| Ok(()))
}

/// Connections that have called one method each.
fn connect(exchange: &mut Exchange, methods: &[u8]) -> Vec<Client> {
    let call = |method: &u8| {
        let client = exchange.connect();
        assert!(exchange.receive(client, &[0x94, 0, 1, 0xa1, *method, 0x90]));
        assert_eq!(exchange.take_sent(client), b"\x94\x01\x01\xc0\xc0");
        client
    };
    methods.iter().map(call).collect()
}

#[test]
fn what_keeps_connections_from_being_handed_over_is_said_once() {
    let text = logged(|| {
        let mut exchange =
            Exchange::with_worker(|worker| Rpc::new(worker, router()), Limits::default());
        for methods in [&b"abbdd"[..], b"abcd"] {
            let clients = connect(&mut exchange, methods);
            exchange = exchange.hand_over(|worker| Rpc::new(worker, router()));
            let open: Vec<bool> = clients.iter().map(|c| exchange.is_open(*c)).collect();
            let expected: Vec<bool> = methods.iter().map(|method| *method == b'a').collect();
            assert_eq!(open, expected);
        }
    });
    let lines = lines(&text);
    let beginning = " WARN ringhold_rpc::resume: connections are closed instead of handed over: ";
    let expected = [
        "handlers keep data of the type unsaved::Forgotten, which no Router::resume passes on",
        "notifiers of Context::notifier are held; with those of Context::subscription, and Router::resume, they go on",
        "handlers keep data of the type unsaved::AlsoForgotten, which no Router::resume passes on",
    ];
    assert_eq!(lines.len(), expected.len(), "{text}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.ends_with(&format!("{beginning}{expected}")), "{line}");
    }
}
