//! Calls no two of which in a row are written alike: what is learned from one is of no use with the next.

use std::ops::RangeInclusive;

use fastrand::Rng;
use rmp::encode;

/// Methods that all servers of the bench know. They take turns: with a random one of two, every second call would name the
/// same one as the call before.
const METHODS: [&str; 2] = ["echo", "ping"];

/// Parameters that a call has at most; so many still have the shortest header.
const PARAMETERS_MAX: usize = 6;

/// A call, to be sent as a request or as a notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its name.
    pub method: &'static str,
    /// The encoded array of its parameters.
    pub params: Vec<u8>,
    /// The encoded result, if it is a request.
    pub result: Vec<u8>,
}

/// So many calls, the same ones in every run.
pub fn calls(count: usize) -> Vec<Call> {
    let mut random = Rng::with_seed(11);
    let methods = METHODS.into_iter().cycle();
    methods
        .take(count)
        .map(|method| Call::new(method, &mut random))
        .collect()
}

impl Call {
    fn new(method: &'static str, random: &mut Rng) -> Self {
        let count = random.usize(..=PARAMETERS_MAX);
        let mut values = Vec::new();
        for _ in 0..count {
            write_parameter(&mut values, random);
        }
        let mut params = Vec::new();
        written(encode::write_array_len(&mut params, count as u32));
        params.extend(&values);
        let result = match method {
            "ping" => b"\xa4pong".to_vec(),
            // The one parameter; or the array that they are.
            _ if count == 1 => values,
            _ => params.clone(),
        };
        Call {
            method,
            params,
            result,
        }
    }
}

/// A scalar, or a small map or array of them.
fn write_parameter(out: &mut Vec<u8>, random: &mut Rng) {
    match random.u8(..4) {
        0 => {
            let entries = random.u32(1..=5);
            written(encode::write_map_len(out, entries));
            for _ in 0..entries {
                write_str(out, 1..=12, random);
                write_scalar(out, random);
            }
        }
        1 => {
            let items = random.u32(0..=5);
            written(encode::write_array_len(out, items));
            (0..items).for_each(|_| write_scalar(out, random));
        }
        _ => write_scalar(out, random),
    }
}

fn write_scalar(out: &mut Vec<u8>, random: &mut Rng) {
    match random.u8(..8) {
        0 => written(encode::write_uint(out, random.u64(..) >> random.u32(..64))),
        1 => written(encode::write_sint(out, random.i64(..) >> random.u32(..64))),
        2 => written(encode::write_f64(out, random.f64())),
        3 => written(encode::write_f32(out, random.f32())),
        4 => written(encode::write_bool(out, random.bool())),
        5 => written(encode::write_nil(out)),
        6 => {
            let bytes = random.usize(..=80);
            written(encode::write_bin_len(out, bytes as u32));
            out.extend((0..bytes).map(|_| random.u8(..)));
        }
        _ => write_str(out, 0..=40, random),
    }
}

fn write_str(out: &mut Vec<u8>, length: RangeInclusive<usize>, random: &mut Rng) {
    let letters = 0..random.usize(length);
    let text: String = letters.map(|_| random.lowercase()).collect();
    written(encode::write_str(out, &text));
}

/// Writing to a vector cannot fail.
fn written<T, E>(_: Result<T, E>) {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ringhold_core::limits::Limits;
    use ringhold_core::testing::Exchange;
    use ringhold_rpc::{Router, Rpc};
    use rmpv::Value;

    use super::*;

    fn decoded(bytes: &[u8]) -> Value {
        let mut rest = bytes;
        let value = rmpv::decode::read_value(&mut rest).unwrap();
        assert!(rest.is_empty(), "more than one object: {bytes:x?}");
        value
    }

    #[test]
    fn neighbours_are_not_alike() {
        let calls = calls(1000);
        assert!(
            calls
                .windows(2)
                .all(|pair| pair[0].method != pair[1].method)
        );
        let counts: BTreeSet<usize> = calls
            .iter()
            .map(|call| decoded(&call.params).as_array().unwrap().len())
            .collect();
        assert_eq!(counts, (0..=PARAMETERS_MAX).collect());
        let lengths: BTreeSet<usize> = calls.iter().map(|call| call.params.len()).collect();
        assert!(lengths.len() > 200, "{} lengths", lengths.len());
        let all: Vec<Value> = calls.iter().map(|call| decoded(&call.params)).collect();
        let all = Value::from(all).to_string();
        for part in ["nil", "true", "false", "{", "-", "."] {
            assert!(all.contains(part), "nothing has {part}");
        }
    }

    #[test]
    fn they_are_the_same_in_every_run() {
        assert_eq!(calls(100), calls(100));
        assert_eq!(calls(100), calls(200)[..100]);
    }

    #[test]
    fn the_results_are_those_that_ringhold_gives() {
        let make = |worker: &_| Rpc::new(worker, Router::new());
        let mut exchange = Exchange::with_worker(make, Limits::default());
        let client = exchange.connect();
        for call in calls(500) {
            let method = Value::from(call.method);
            let mut request = b"\x94\x00\x07".to_vec();
            rmpv::encode::write_value(&mut request, &method).unwrap();
            request.extend(&call.params);
            assert!(exchange.receive(client, &request));
            let expected = [&b"\x94\x01\x07\xc0"[..], &call.result].concat();
            assert_eq!(exchange.take_sent(client), expected, "{call:?}");
        }
    }
}
