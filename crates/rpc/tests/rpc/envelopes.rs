//! What is not, or not quite, MessagePack-RPC.

use ringhold_rpc::Router;

use crate::client::{Wire, failure, read_all, reply, request, write};

/// What becomes of a malformed message.
#[derive(Clone, Copy)]
enum Becomes {
    /// An error reply with this id.
    Error(u32, &'static str),
    /// The end of the connection, for this reason.
    End(&'static str),
    /// Nothing at all.
    Ignored,
}

use Becomes::{End, Error, Ignored};

const TABLE: &[(&[u8], Becomes)] = &[
    // Requests whose id can be read.
    (
        b"\x92\x00\x05",
        Error(5, "a request has 4 elements, this one has 2"),
    ),
    (
        b"\x93\x00\x05\xa4ping",
        Error(5, "a request has 4 elements, this one has 3"),
    ),
    (
        b"\x95\x00\x05\xa4ping\x90\xc0",
        Error(5, "a request has 4 elements, this one has 5"),
    ),
    (
        b"\xdc\x00\x03\x00\xcd\x01\x00\xa4ping",
        Error(256, "a request has 4 elements, this one has 3"),
    ),
    (
        b"\x94\x00\x05\x01\x90",
        Error(5, "the method of a request must be a string"),
    ),
    (
        b"\x94\x00\x05\xc0\x90",
        Error(5, "the method of a request must be a string"),
    ),
    (
        b"\x94\x00\x05\x91\xa4ping\x90",
        Error(5, "the method of a request must be a string"),
    ),
    (
        b"\x94\x00\x05\xd4\x01x\x90",
        Error(5, "the method of a request must be a string"),
    ),
    (
        b"\x94\x00\x05\x80\x90",
        Error(5, "the method of a request must be a string"),
    ),
    (
        b"\x94\x00\x05\xa4ping\xc0",
        Error(5, "the parameters of a request must be an array"),
    ),
    (
        b"\x94\x00\x05\xa4ping\x80",
        Error(5, "the parameters of a request must be an array"),
    ),
    (
        b"\x94\x00\x05\xa4ping\x01",
        Error(5, "the parameters of a request must be an array"),
    ),
    (
        b"\x94\x00\x05\xa4ping\xa2ab",
        Error(5, "the parameters of a request must be an array"),
    ),
    (
        b"\x94\x00\xce\xff\xff\xff\xff\xa4ping\x81\x01\x02",
        Error(u32::MAX, "the parameters of a request must be an array"),
    ),
    // Responses to nothing.
    (b"\x94\x01\x05\xc0\xc0", Ignored),
    (b"\x94\x01\x05\xa5error\xc0", Ignored),
    (b"\x94\x01\xcf\0\0\0\0\0\0\0\x05\xc0\x92\x01\x02", Ignored),
    (
        b"\x93\x01\x05\xc0",
        End("a response has 4 elements, this one has 3"),
    ),
    (
        b"\x95\x01\x05\xc0\xc0\xc0",
        End("a response has 4 elements, this one has 5"),
    ),
    (
        b"\x94\x01\xa1x\xc0\xc0",
        End("the message id is not an unsigned integer"),
    ),
    // Notifications, which cannot be answered.
    (b"\x93\x02\xa4none\x90", Ignored),
    (
        b"\x91\x02",
        End("a notification has 3 elements, this one has 1"),
    ),
    (
        b"\x92\x02\xa4ping",
        End("a notification has 3 elements, this one has 2"),
    ),
    (
        b"\x94\x02\x05\xa4ping\x90",
        End("a notification has 3 elements, this one has 4"),
    ),
    (
        b"\x93\x02\x01\x90",
        End("the method of a notification is not a string"),
    ),
    (
        b"\x93\x02\xa4ping\xc0",
        End("the parameters of a notification are not an array"),
    ),
    (
        b"\x93\x02\xa4ping\x80",
        End("the parameters of a notification are not an array"),
    ),
    // Ids that are none.
    (
        b"\x91\x00",
        End("the message id is not an unsigned integer"),
    ),
    (
        b"\x94\x00\xff\xa4ping\x90",
        End("the message id is not an unsigned integer"),
    ),
    (
        b"\x94\x00\xd3\xff\xff\xff\xff\xff\xff\xff\xff\xa4ping\x90",
        End("the message id is not an unsigned integer"),
    ),
    (
        b"\x94\x00\xc0\xa4ping\x90",
        End("the message id is not an unsigned integer"),
    ),
    (
        b"\x94\x00\xa1x\xa4ping\x90",
        End("the message id is not an unsigned integer"),
    ),
    (
        b"\x94\x00\xcb\0\0\0\0\0\0\0\0\xa4ping\x90",
        End("the message id is not an unsigned integer"),
    ),
    (
        b"\x94\x00\x90\xa4ping\x90",
        End("the message id is not an unsigned integer"),
    ),
    (
        b"\x94\x00\xcf\0\0\0\x01\0\0\0\0\xa4ping\x90",
        End("the message id 4294967296 does not fit into 32 bits"),
    ),
    (
        b"\x94\x00\xcf\xff\xff\xff\xff\xff\xff\xff\xff\xa4ping\x90",
        End("the message id 18446744073709551615 does not fit into 32 bits"),
    ),
    // Types that are none.
    (b"\x90", End("the message is an empty array")),
    (b"\xdc\x00\x00", End("the message is an empty array")),
    (
        b"\x94\x03\x05\xa4ping\x90",
        End("there is no message type 3"),
    ),
    (
        b"\x94\xcd\x01\x00\x05\xa4ping\x90",
        End("there is no message type 256"),
    ),
    (
        b"\x94\xff\x05\xa4ping\x90",
        End("the message type is not an unsigned integer"),
    ),
    (
        b"\x94\xc2\x05\xa4ping\x90",
        End("the message type is not an unsigned integer"),
    ),
    (
        b"\x94\xa1\x00\x05\xa4ping\x90",
        End("the message type is not an unsigned integer"),
    ),
    (
        b"\x94\x94\x00\x05\xa4ping\x90\x05\xa4ping\x90",
        End("the message type is not an unsigned integer"),
    ),
    (
        b"\x91\xc0",
        End("the message type is not an unsigned integer"),
    ),
];

#[test]
fn every_malformed_message_has_its_outcome() {
    let before = write(&request(1, "ping", vec![]));
    let after = write(&request(2, "ping", vec![]));
    for (frame, becomes) in TABLE {
        for size in [1, 3, 1000] {
            let mut wire = Wire::new(Router::new());
            let stream = [&before[..], frame, &after[..]].concat();
            let mut sent = Vec::new();
            for piece in stream.chunks(size) {
                wire.exchange.receive(wire.client, piece);
                sent.extend(wire.exchange.take_sent(wire.client));
            }
            let replies = read_all(&sent);
            let what = format!("{} in pieces of {size}", frame.escape_ascii());
            match *becomes {
                Error(id, why) => {
                    let expected = [reply(1, "pong"), failure(id, why), reply(2, "pong")];
                    assert_eq!(replies, expected, "{what}");
                }
                Ignored => {
                    assert_eq!(replies, [reply(1, "pong"), reply(2, "pong")], "{what}");
                }
                End(why) => {
                    assert_eq!(replies, [reply(1, "pong")], "{what}");
                    let reason = format!(
                        "the service rejects the input: this is not MessagePack-RPC: {why}"
                    );
                    assert_eq!(wire.ends(), [reason], "{what}");
                    assert_eq!(wire.exchange.counters().bad_input, 1);
                    continue;
                }
            }
            assert!(wire.is_open(), "{what}");
            assert_eq!(wire.exchange.counters().bad_input, 0);
        }
    }
}

#[test]
fn other_protocols_end_at_their_first_byte() {
    for (bytes, byte) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "0x47"),
        (b"\x16\x03\x01\x02\x00\x01", "0x16"),
        (b"{\"jsonrpc\": \"2.0\"}\n", "0x7b"),
        (b"\x83\xa3ver\xa31.0\xa6method\xa4ping\xa2id\x01", "0x83"),
        (b"\xa4ping", "0xa4"),
        (b"\xc1", "0xc1"),
    ] {
        let mut wire = Wire::new(Router::new());
        assert_eq!(wire.raw(bytes), b"");
        assert_eq!(
            wire.ends(),
            [format!(
                "a frame began with byte {byte}, a type that this service does not take"
            )]
        );
    }
}

#[test]
fn one_bad_client_costs_the_others_nothing() {
    let mut wire = Wire::new(Router::new());
    let good = wire.exchange.connect();
    let half = write(&request(9, "ping", vec![]));
    assert!(wire.exchange.receive(good, &half[..4]));
    assert_eq!(wire.raw(b"\x94\x07\x05\xa4ping\x90"), b"");
    assert!(!wire.is_open());
    assert!(wire.exchange.receive(good, &half[4..]));
    assert_eq!(read_all(&wire.exchange.take_sent(good)), [reply(9, "pong")]);
}
