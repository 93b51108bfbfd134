//! The outermost array of a message: read from a frame, written into an outbox.
//!
//! The rules are those of the MessagePack-RPC specification
//! (<https://github.com/msgpack-rpc/msgpack-rpc/blob/master/spec.md>).

use std::borrow::Cow;

use rmp::Marker;
use rmp::decode::{self, Bytes};

use crate::fault::Fault;
use crate::strings::Strings;

/// What a frame turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    Call(Envelope<'a>),
    /// `[1, id, error, result]`
    Response,
}

/// A request, `[0, id, method, params]`, or without an id a notification, `[2, method, params]`. The slices are parts of
/// the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Envelope<'a> {
    pub(crate) id: Option<u32>,
    pub(crate) method: &'a [u8],
    pub(crate) params: &'a [u8],
}

/// Why a frame is none of the three messages.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// It has the id of a request, so that an error can be the answer.
    Request { id: u32, why: Cow<'static, str> },
    /// It cannot be answered.
    Message { why: Cow<'static, str> },
}

/// The envelope of a call that is written as nearly everybody does; `None` if it is not, or anything is wrong. Then
/// [`parse`] has to be asked. What lies inside the parameters is not looked at.
#[inline]
pub(crate) fn usual(frame: &[u8]) -> Option<Envelope<'_>> {
    // As markers: an array of four or three elements, the type and the id in their shortest form or the id as a u32, a
    // fixstr, a fixarray.
    let (id, rest) = match frame {
        [0x94, 0, 0xce, a, b, c, d, rest @ ..] => {
            (Some(u32::from_be_bytes([*a, *b, *c, *d])), rest)
        }
        [0x94, 0, id @ 0..=0x7f, rest @ ..] => (Some(u32::from(*id)), rest),
        [0x94, 0, 0xcd, a, b, rest @ ..] => (Some(u32::from_be_bytes([0, 0, *a, *b])), rest),
        [0x94, 0, 0xcc, id, rest @ ..] => (Some(u32::from(*id)), rest),
        [0x93, 2, rest @ ..] => (None, rest),
        _ => return None,
    };
    let (head @ 0xa0..=0xbf, rest) = rest.split_first()? else {
        return None;
    };
    let (method, params) = rest.split_at_checked(usize::from(head & 0x1f))?;
    let [0x90..=0x9f, ..] = params else {
        return None;
    };
    Some(Envelope { id, method, params })
}

/// Reads the envelope of a frame, which must be one whole msgpack object, however it is written.
pub(crate) fn parse(frame: &[u8]) -> Result<Message<'_>, Malformed> {
    let mut rest = Bytes::new(frame);
    let Ok(count) = decode::read_array_len(&mut rest) else {
        return malformed("the message is not an array");
    };
    if count == 0 {
        return malformed("the message is an empty array");
    }
    match decode::read_int::<u64, _>(&mut rest) {
        Ok(0) => request(count, rest),
        Ok(1) => response(count, rest),
        Ok(2) => notification(count, rest),
        Ok(kind) => malformed(format!("there is no message type {kind}")),
        Err(_) => malformed("the message type is not an unsigned integer"),
    }
}

fn request(count: u32, mut rest: Bytes<'_>) -> Result<Message<'_>, Malformed> {
    let id = read_id(&mut rest)?;
    let wrong = |why: Cow<'static, str>| Err(Malformed::Request { id, why });
    if count != 4 {
        return wrong(format!("a request has 4 elements, this one has {count}").into());
    }
    let Some((method, params)) = read_name(rest) else {
        return wrong("the method of a request must be a string".into());
    };
    if !is_array(params) {
        return wrong("the parameters of a request must be an array".into());
    }
    Ok(Message::Call(Envelope {
        id: Some(id),
        method,
        params,
    }))
}

fn response(count: u32, mut rest: Bytes<'_>) -> Result<Message<'_>, Malformed> {
    read_id(&mut rest)?;
    if count != 4 {
        return malformed(format!("a response has 4 elements, this one has {count}"));
    }
    Ok(Message::Response)
}

fn notification(count: u32, rest: Bytes<'_>) -> Result<Message<'_>, Malformed> {
    if count != 3 {
        return malformed(format!(
            "a notification has 3 elements, this one has {count}"
        ));
    }
    let Some((method, params)) = read_name(rest) else {
        return malformed("the method of a notification is not a string");
    };
    if !is_array(params) {
        return malformed("the parameters of a notification are not an array");
    }
    Ok(Message::Call(Envelope {
        id: None,
        method,
        params,
    }))
}

fn malformed<T>(why: impl Into<Cow<'static, str>>) -> Result<T, Malformed> {
    Err(Malformed::Message { why: why.into() })
}

/// A message id, in whichever width and signedness it was written.
fn read_id(rest: &mut Bytes<'_>) -> Result<u32, Malformed> {
    let Ok(id) = decode::read_int::<u64, _>(rest) else {
        return malformed("the message id is not an unsigned integer");
    };
    match u32::try_from(id) {
        Ok(id) => Ok(id),
        Err(_) => malformed(format!("the message id {id} does not fit into 32 bits")),
    }
}

/// The bytes of a str or a bin, and what follows it. Senders that know only the raw family of old write names as what
/// is a str today.
fn read_name(rest: Bytes<'_>) -> Option<(&[u8], &[u8])> {
    let mut text = rest;
    let (length, rest) = match decode::read_str_len(&mut text) {
        Ok(length) => (length, text),
        Err(_) => {
            let mut binary = rest;
            (decode::read_bin_len(&mut binary).ok()?, binary)
        }
    };
    rest.remaining_slice().split_at_checked(length as usize)
}

fn is_array(object: &[u8]) -> bool {
    object.first().is_some_and(|byte| {
        matches!(
            Marker::from_u8(*byte),
            Marker::FixArray(_) | Marker::Array16 | Marker::Array32
        )
    })
}

/// Appends `[1, id, nil, result]`. `write` appends the result, one msgpack object; if it appends nothing, the result
/// is nil. If it fails, what is appended instead is `[1, id, fault, nil]`, and this is false.
pub(crate) fn write_response(
    out: &mut Vec<u8>,
    strings: Strings,
    id: u32,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), Fault>,
) -> bool {
    let start = out.len();
    write_result_header(out, id);
    let body = out.len();
    let written = write(out).and_then(|()| {
        if out.len() <= body {
            out.push(Marker::Null.to_u8());
        }
        strings.convert_tail(out, body)
    });
    if let Err(fault) = &written {
        out.truncate(start);
        write_fault(out, strings, id, fault);
    }
    written.is_ok()
}

/// Appends `[1, id, nil,`.
pub(crate) fn write_result_header(out: &mut Vec<u8>, id: u32) {
    append(out, header(id, Marker::Null.to_u8()), 1);
}

/// `[1, id, nil,`: so many of the bytes.
#[inline]
pub(crate) fn result_header(id: u32) -> ([u8; 8], usize) {
    let (bytes, length) = header(id, Marker::Null.to_u8());
    (bytes, length + 1)
}

/// Appends `[1, id, fault, nil]`.
pub(crate) fn write_fault(out: &mut Vec<u8>, strings: Strings, id: u32, fault: &Fault) {
    write_header(out, id);
    let body = out.len();
    fault.write(out);
    if strings.convert_tail(out, body).is_err() {
        out.truncate(body);
        strings.write_str(out, "the error cannot be expressed in old msgpack");
    }
    out.push(Marker::Null.to_u8());
}

/// Appends `[1, id,`.
fn write_header(out: &mut Vec<u8>, id: u32) {
    append(out, header(id, 0), 0);
}

/// `[1, id,` and one more byte, with the id in the shortest form that holds it, as rmp writes it; a test compares. The
/// number says how many bytes come before the additional one.
#[inline]
fn header(id: u32, more: u8) -> ([u8; 8], usize) {
    let [a, b, c, d] = id.to_be_bytes();
    let array = Marker::FixArray(4).to_u8();
    match id {
        0..=0x7f => ([array, 1, d, more, 0, 0, 0, 0], 3),
        0x80..=0xff => ([array, 1, Marker::U8.to_u8(), d, more, 0, 0, 0], 4),
        0x100..=0xffff => ([array, 1, Marker::U16.to_u8(), c, d, more, 0, 0], 5),
        _ => ([array, 1, Marker::U32.to_u8(), a, b, c, d, more], 7),
    }
}

/// Appends the header and `more` bytes behind it. All eight bytes are written, which is one store, and the rest taken
/// back.
#[inline]
fn append(out: &mut Vec<u8>, (header, length): ([u8; 8], usize), more: usize) {
    let end = out.len() + length + more;
    out.extend_from_slice(&header);
    out.truncate(end);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_method_may_be_written_in_any_family_and_width() {
        for head in [
            &b"\xa3"[..],
            b"\xd9\x03",
            b"\xda\x00\x03",
            b"\xdb\x00\x00\x00\x03",
            b"\xc4\x03",
            b"\xc5\x00\x03",
            b"\xc6\x00\x00\x00\x03",
        ] {
            let frame = [b"\x94\x00\x07", head, b"add\x92\x01\x02"].concat();
            assert_eq!(
                parse(&frame),
                Ok(Message::Call(Envelope {
                    id: Some(7),
                    method: b"add",
                    params: b"\x92\x01\x02"
                }))
            );
        }
    }

    #[test]
    fn ids_are_written_in_their_shortest_form() {
        let edges = [0, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x1_0000, u32::MAX];
        for id in edges {
            let mut ours = vec![9];
            write_header(&mut ours, id);
            let mut theirs = vec![9, 0x94, 1];
            rmp::encode::write_uint(&mut theirs, u64::from(id)).unwrap();
            assert_eq!(ours, theirs, "{id}");
        }
    }

    #[test]
    fn the_usual_ways_to_write_a_call() {
        let call = |id| Envelope {
            id,
            method: b"add",
            params: b"\x92\x01\x02",
        };
        for (head, id) in [
            (&b"\x94\x00\x07"[..], Some(7)),
            (b"\x94\x00\xcc\x80", Some(0x80)),
            (b"\x94\x00\xcd\x01\x02", Some(0x102)),
            (b"\x94\x00\xce\x01\x02\x03\x04", Some(0x102_0304)),
            (b"\x93\x02", None),
        ] {
            let frame = [head, b"\xa3add\x92\x01\x02"].concat();
            assert_eq!(usual(&frame), Some(call(id)));
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn near_a_message_what_is_usual_is_what_is_read(
            kind in 0u8..4,
            id in prop_oneof![Just(vec![]), Just(vec![1]), proptest::collection::vec(0xcau8..0xd0, 1..6)],
            name in prop_oneof![Just(vec![0xa1, b'x']), proptest::collection::vec(any::<u8>(), 0..3)],
            bytes in proptest::collection::vec(any::<u8>(), 0..20),
            count in 0x90u8..0x97,
        ) {
            let frame = [vec![count, kind], id, name, bytes].concat();
            let read = parse(&frame);
            if let Some(envelope) = usual(&frame) {
                prop_assert_eq!(read, Ok(Message::Call(envelope)));
            }
        }
    }
}
