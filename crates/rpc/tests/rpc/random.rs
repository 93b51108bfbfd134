//! Random valid messages, cut at random.

use std::collections::HashMap;

use proptest::prelude::*;
use ringhold_rpc::{Fault, Router};
use rmpv::Value;

use crate::client::{Wire, failure, notification, read_all, reply, request, write};

/// What is sent, and the reply to it if one is due.
#[derive(Clone, Debug)]
struct Sent {
    message: Value,
    due: Option<Value>,
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Nil),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1e9..1e9f64).prop_map(Value::from),
        "\\PC{0,40}".prop_map(Value::from),
        proptest::collection::vec(any::<u8>(), 0..300).prop_map(Value::Binary),
        (any::<i8>(), proptest::collection::vec(any::<u8>(), 0..20))
            .prop_map(|(kind, data)| Value::Ext(kind, data)),
    ];
    leaf.prop_recursive(4, 24, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..20).prop_map(Value::Array),
            proptest::collection::vec((inner.clone(), inner), 0..6).prop_map(Value::Map),
        ]
    })
}

fn sent(id: u32) -> impl Strategy<Value = Sent> {
    let call = move |method: &str, params: Vec<Value>, due: Value| Sent {
        message: request(id, method, params),
        due: Some(due),
    };
    prop_oneof![
        Just(call("ping", vec![], reply(id, "pong"))),
        value().prop_map(move |value| call("echo", vec![value.clone()], reply(id, value))),
        (any::<i32>(), any::<i32>()).prop_map(move |(a, b)| {
            let sum = i64::from(a) + i64::from(b);
            call("add", vec![a.into(), b.into()], reply(id, sum))
        }),
        value().prop_map(move |value| call("fail", vec![value], failure(id, "no"))),
        value().prop_map(move |value| call("later", vec![value.clone()], reply(id, value))),
        "[a-z]{9,12}".prop_map(move |name| {
            let error = format!("there is no method {name:?}; call \"methods\" for a list");
            call(&name, vec![], failure(id, error))
        }),
        ("[a-z]{1,12}", value()).prop_map(|(name, value)| Sent {
            message: notification(&name, vec![value]),
            due: None,
        }),
        Just(Sent {
            message: reply(id, 1),
            due: None,
        }),
    ]
}

fn messages() -> impl Strategy<Value = Vec<Sent>> {
    proptest::collection::hash_set(any::<u32>(), 1..40)
        .prop_flat_map(|ids| ids.into_iter().map(sent).collect::<Vec<_>>())
}

fn router() -> Router {
    Router::new()
        .method("add", |(a, b): (i64, i64)| Ok(a + b))
        .method("fail", |_: Value| -> Result<(), _> {
            Err(Fault::new("no"))
        })
        .deferred("later", |params: Vec<Value>, responder| {
            responder.ok(&params[0]);
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn each_request_gets_its_one_reply_however_the_stream_is_cut(
        messages in messages(),
        cuts in proptest::collection::vec(1usize..200, 1..50),
    ) {
        let mut wire = Wire::new(router());
        let stream: Vec<u8> = messages.iter().flat_map(|sent| write(&sent.message)).collect();
        let mut received = Vec::new();
        let mut rest = &stream[..];
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
            received.extend(wire.raw(piece));
            rest = after;
        }
        let mut due: HashMap<u64, Value> = messages
            .iter()
            .filter_map(|sent| sent.due.clone())
            .map(|reply| (reply[1].as_u64().unwrap(), reply))
            .collect();
        for message in read_all(&received) {
            let expected = due.remove(&message[1].as_u64().unwrap());
            prop_assert_eq!(expected, Some(message));
        }
        prop_assert!(due.is_empty(), "no reply to {:?}", due);
        prop_assert!(wire.is_open());
    }

    #[test]
    fn random_bytes_never_reach_beyond_their_connection(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut wire = Wire::new(router());
        let good = wire.exchange.connect();
        wire.exchange.receive(wire.client, &bytes);
        read_all(&wire.exchange.take_sent(wire.client));
        prop_assert!(wire.exchange.receive(good, b"\x94\x00\x01\xa4ping\x90"));
        prop_assert_eq!(wire.exchange.take_sent(good), b"\x94\x01\x01\xc0\xa4pong");
        prop_assert_eq!(wire.exchange.counters().panics, 0);
    }
}
