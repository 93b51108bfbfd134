//! What a stream asks for, read with another decoder than the crate's, and whether it came.

use ringhold_framer::Limits;
use rmpv::Value;

use super::router::{CLOSE, DEFERRED};
use crate::reference::{Verdict, judge, split};

/// What is due to a client.
#[derive(Default)]
pub(crate) struct Expected {
    /// Replies in the order of their requests.
    in_order: Vec<Due>,
    /// Ids of deferred calls.
    deferred: Vec<u64>,
    /// The server ends the connection.
    pub(crate) ends: bool,
    /// It does so since the service asks for it.
    pub(crate) is_asked: bool,
}

impl Expected {
    /// Whether a reply may come later than those to what was asked behind it.
    pub(crate) fn has_deferred(&self) -> bool {
        !self.deferred.is_empty()
    }
}

struct Due {
    id: u64,
    /// The method of a request in which nothing is wrong, and its parameters as they were sent.
    call: Option<(Vec<u8>, Vec<u8>)>,
}

/// What becomes of a frame.
enum Message {
    Request(Due),
    Silence { closes: bool },
    End,
}

pub(crate) fn expect(stream: &[u8]) -> Expected {
    let mut expected = Expected::default();
    let limits = Limits::default();
    let mut rest = stream;
    while let Some(first) = rest.first() {
        // Arrays only, which is told by the first byte.
        if !matches!(first, 0x90..=0x9f | 0xdc | 0xdd) {
            expected.ends = true;
            return expected;
        }
        let length = match judge(rest, limits) {
            Verdict::End(length) => length,
            Verdict::More(_) => return expected,
            Verdict::Refused(..) => {
                expected.ends = true;
                return expected;
            }
        };
        let (frame, after) = rest.split_at(length);
        rest = after;
        match read(frame) {
            Message::Request(due) => {
                let method = due.call.as_ref().map(|(method, _)| &method[..]);
                expected.is_asked = method == Some(CLOSE);
                expected.ends = expected.is_asked;
                if method.is_some_and(|method| DEFERRED.contains(&method)) {
                    expected.deferred.push(due.id);
                } else {
                    expected.in_order.push(due);
                }
            }
            Message::Silence { closes } => {
                expected.is_asked = closes;
                expected.ends = closes;
            }
            Message::End => expected.ends = true,
        }
        if expected.ends {
            break;
        }
    }
    expected
}

fn read(frame: &[u8]) -> Message {
    let value = rmpv::decode::read_value(&mut &frame[..]);
    let Ok(Value::Array(elements)) = value else {
        return Message::End;
    };
    let number = |index: usize| elements.get(index).and_then(Value::as_u64);
    let id = number(1).filter(|id| *id <= u64::from(u32::MAX));
    let call = |index: usize| {
        let method = match elements.get(index)? {
            Value::String(text) => text.as_bytes(),
            Value::Binary(bytes) => bytes,
            _ => return None,
        };
        let is_last = elements.len() == index + 2;
        (is_last && elements[index + 1].is_array()).then(|| method.to_vec())
    };
    match (number(0), id) {
        (Some(0), Some(id)) => {
            let params = || parts(frame)[3].to_vec();
            let call = call(2).map(|method| (method, params()));
            Message::Request(Due { id, call })
        }
        (Some(1), Some(_)) if elements.len() == 4 => Message::Silence { closes: false },
        (Some(2), _) => match call(1) {
            Some(method) => Message::Silence {
                closes: method == CLOSE,
            },
            None => Message::End,
        },
        _ => Message::End,
    }
}

/// The encoded elements of an array.
fn parts(array: &[u8]) -> Vec<&[u8]> {
    let header = match array[0] {
        0xdc => 3,
        0xdd => 5,
        _ => 1,
    };
    let wide = Limits {
        frame_bytes: 1 << 30,
        depth: 1000,
    };
    let (parts, rest) = split(&array[header..], wide);
    assert!(rest.is_empty(), "an array is its elements");
    parts
}

/// Checks what a client was sent.
pub(crate) fn check_replies(sent: &[u8], expected: &Expected, old: bool) {
    let wide = Limits {
        frame_bytes: 1 << 30,
        depth: 1000,
    };
    let (frames, rest) = split(sent, wide);
    assert!(rest.is_empty(), "replies are whole");
    let mut in_order = expected.in_order.iter().peekable();
    let mut deferred = expected.deferred.clone();
    for frame in frames {
        let value = rmpv::decode::read_value(&mut &frame[..]).expect("it is whole");
        assert!(!old || is_old(&value), "an old client cannot read {value}");
        let message = value.as_array().expect("messages are arrays");
        if message.len() == 3 {
            assert_eq!(message[0], Value::from(2));
            assert_eq!(message[1], Value::from("tick"));
            assert!(message[2].is_array());
            continue;
        }
        let id = check_reply(frame, message);
        let due = in_order.next_if(|due| due.id == id);
        if let Some(due) = due {
            // The id of a deferred call may be the same.
            if !deferred.contains(&id) && !old {
                check_result(due, &parts(frame), message);
            }
            continue;
        }
        let known = deferred.iter().position(|deferred| *deferred == id);
        deferred.swap_remove(known.expect("a reply that is due"));
    }
    assert_eq!(in_order.count(), 0, "replies are missing");
    // A service that ends a connection does not wait for what it has deferred.
    assert!(deferred.is_empty() || expected.is_asked, "no late reply");
}

/// What holds for every reply; answers its id.
fn check_reply(frame: &[u8], message: &[Value]) -> u64 {
    assert_eq!(message.len(), 4);
    let parts = parts(frame);
    assert_eq!(parts[0], [1]);
    let id = message[1].as_u64().expect("an id");
    let mut shortest = Vec::new();
    rmpv::encode::write_value(&mut shortest, &Value::from(id)).expect("memory is enough");
    assert_eq!(parts[1], shortest);
    assert!(message[2].is_nil() || message[3].is_nil());
    assert!(message[2].is_nil() || frame.len() < 4096, "a long error");
    id
}

/// What is known about the results of some methods.
fn check_result(due: &Due, reply: &[&[u8]], message: &[Value]) {
    let Some((method, params)) = &due.call else {
        assert!(message[2].is_str(), "nothing is wrong with {}", due.id);
        return;
    };
    let elements = parts(params);
    match &method[..] {
        b"ping" => assert_eq!(reply[3], b"\xa4pong"),
        b"echo" => match &elements[..] {
            [only] => assert_eq!(reply[3], *only),
            _ => assert_eq!(reply[3], *params),
        },
        b"keep" => assert_eq!(reply[3], *params),
        b"nothing" => assert_eq!(reply[2..], [b"\xc0", b"\xc0"]),
        b"add" if elements.len() != 2 => assert!(message[2].is_str()),
        b"panic" | b"half" | b"fail" => assert!(!message[2].is_nil()),
        b"methods" | b"status" | b"time" => assert_eq!(message[2].is_nil(), elements.is_empty()),
        b"sum" => assert!(message[3].is_u64()),
        _ => {}
    }
}

/// Without bin and extension types.
fn is_old(value: &Value) -> bool {
    match value {
        Value::Binary(_) | Value::Ext(..) => false,
        Value::Array(elements) => elements.iter().all(is_old),
        Value::Map(pairs) => pairs
            .iter()
            .all(|(key, value)| is_old(key) && is_old(value)),
        _ => true,
    }
}
