//! What is sent, and what must become of it.

/// What must become of a connection that sends some bytes and waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The daemon ends it for what was sent, after answering this many requests.
    Ended(usize),
    /// The daemon waits for more. It is bad input if none comes.
    Waits,
    /// It is good: so many answers, and nothing is counted.
    Answered(usize),
}
use Fate::{Answered, Ended, Waits};

/// A request of `echo` with this one encoded parameter.
fn echo(parameter: &[u8]) -> Vec<u8> {
    [b"\x94\x00\x07\xa4echo\x91", parameter].concat()
}

fn times(bytes: &[u8], count: usize) -> Vec<u8> {
    bytes.repeat(count)
}

/// The rows of the table of bad input, and what is like them.
pub(crate) fn rows() -> Vec<(&'static str, Vec<u8>, Fate)> {
    let request = |tail: &[u8]| [b"\x94\x00\x07\xa4echo", tail].concat();
    let nested = |depth: usize| [times(b"\x91", depth - 1), vec![0x90]].concat();
    vec![
        ("the reserved byte", b"\xc1".to_vec(), Ended(0)),
        ("the reserved byte, nested", echo(b"\xc1"), Ended(0)),
        (
            "array32 without a body",
            b"\xdd\xff\xff\xff\xff".to_vec(),
            Ended(0),
        ),
        ("array32, nested", echo(b"\xdd\xff\xff\xff\xff"), Ended(0)),
        (
            "map32 at the top",
            b"\xdf\xff\xff\xff\xff".to_vec(),
            Ended(0),
        ),
        ("map32 of 2^31", echo(b"\xdf\x80\x00\x00\x00\xc0"), Ended(0)),
        (
            "bin32 of 4 GiB",
            echo(b"\xc6\xff\xff\xff\xff\x00"),
            Ended(0),
        ),
        (
            "str32 of 4 GiB",
            echo(b"\xdb\xff\xff\xff\xff\x00"),
            Ended(0),
        ),
        (
            "ext32 of 4 GiB",
            echo(b"\xc9\xff\xff\xff\xff\x05"),
            Ended(0),
        ),
        (
            "bin32 of 512 KiB, not there",
            echo(b"\xc6\x00\x08\x00\x00\x00"),
            Waits,
        ),
        ("ext8 of no byte", echo(b"\xc7\x00\x05"), Answered(1)),
        ("ext16 of no byte", echo(b"\xc8\x00\x00\x05"), Answered(1)),
        (
            "ext32 of no byte",
            echo(b"\xc9\x00\x00\x00\x00\x05"),
            Answered(1),
        ),
        ("fixext1 cut off", echo(b"\xd4"), Waits),
        ("fixext16 cut off", echo(b"\xd8\x05\x00\x00"), Waits),
        // The request and its parameters are two levels themselves.
        ("depth 33", echo(&nested(31)), Answered(1)),
        ("depth 128", echo(&nested(126)), Answered(1)),
        ("depth 129", echo(&nested(127)), Ended(0)),
        ("depth 100,000 of arrays", times(b"\x91", 100_000), Ended(0)),
        (
            "depth 10,000,000 of arrays",
            times(b"\x91", 10_000_000),
            Ended(0),
        ),
        (
            "depth 5,000,000 of maps",
            echo(&times(b"\x81\xc0", 5_000_000)),
            Ended(0),
        ),
        (
            "100 flat arrays",
            echo(&[b"\xdc\x00\x64".to_vec(), times(b"\x90", 100)].concat()),
            Answered(1),
        ),
        (
            "100 flat maps",
            echo(&[b"\xdc\x00\x64".to_vec(), times(b"\x80", 100)].concat()),
            Answered(1),
        ),
        (
            "20 array32 bombs",
            times(b"\xdd\x00\x01\x00\x00", 20),
            Ended(0),
        ),
        (
            "1000 array32 bombs",
            times(b"\xdd\x7f\xff\xff\xff", 1000),
            Ended(0),
        ),
        (
            "a str that is not UTF-8",
            echo(b"\xa2\xff\xfe"),
            Answered(1),
        ),
        (
            "an integer wider than needed",
            echo(b"\xcf\x00\x00\x00\x00\x00\x00\x00\x01"),
            Answered(1),
        ),
        (
            "repeated keys of a map",
            echo(b"\x82\x01\x02\x01\x03"),
            Answered(1),
        ),
        ("a map as a key", echo(b"\x81\x80\x01"), Answered(1)),
        (
            "a timestamp of 5 bytes",
            echo(b"\xc7\x05\xff\x01\x02\x03\x04\x05"),
            Answered(1),
        ),
        (
            "a timestamp with too many nanoseconds",
            echo(b"\xd7\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
            Answered(1),
        ),
        (
            "16-bit lengths with the highest bit",
            echo(&[b"\xdc\x80\x00".to_vec(), times(b"\xc0", 0x8000)].concat()),
            Answered(1),
        ),
        ("nothing", vec![], Answered(0)),
        ("the middle of a frame", b"\x94\x00".to_vec(), Waits),
        (
            "HTTP",
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
            Ended(0),
        ),
        ("TLS", client_hello(), Ended(0)),
        (
            "JSON",
            b"{\"jsonrpc\":\"2.0\",\"method\":\"echo\",\"id\":1}\n".to_vec(),
            Ended(0),
        ),
        ("a JSON array", b"[0,1,\"echo\",[]]\n".to_vec(), Ended(0)),
        ("64 KiB of zeros", vec![0; 64 << 10], Ended(0)),
        ("arrays that are no message", times(b"\x90", 1000), Ended(0)),
        (
            "a message of no known type",
            b"\x93\x03\xa4echo\x90".to_vec(),
            Ended(0),
        ),
        (
            "an id of 33 bits",
            b"\x94\x00\xcf\x00\x00\x00\x01\x00\x00\x00\x00\xa4echo\x90".to_vec(),
            Ended(0),
        ),
        (
            "parameters that are no array",
            request(b"\x05"),
            Answered(1),
        ),
        (
            "a response to nothing",
            b"\x94\x01\x07\xc0\xc0".to_vec(),
            Answered(0),
        ),
        (
            "a good request before a bad byte",
            [echo(b"\x01"), echo(b"\x02"), vec![0xc1], echo(b"\x03")].concat(),
            Ended(2),
        ),
    ]
}

/// What a TLS client begins with: a handshake record of 512 bytes.
fn client_hello() -> Vec<u8> {
    let mut hello = vec![
        0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03,
    ];
    hello.resize(5 + 512, 0xa5);
    hello
}
