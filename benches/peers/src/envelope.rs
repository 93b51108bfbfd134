//! The outermost array of a message.

use rmp::Marker;
use rmp::decode::{self, Bytes};

/// A message; its slices are parts of the frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    /// `[0, id, method, params]`
    Request {
        id: u32,
        method: &'a [u8],
        params: &'a [u8],
    },
    /// `[1, id, error, result]`
    Response,
    /// `[2, method, params]`
    Notification { method: &'a [u8], params: &'a [u8] },
}

/// Reads the envelope of a frame, one whole msgpack object. `None` if it is no message.
pub(crate) fn parse(frame: &[u8]) -> Option<Message<'_>> {
    // Nearly every message begins like this: an array of four, and type 0, both in their shortest form.
    if let [0x94, 0, rest @ ..] = frame {
        return request(Bytes::new(rest));
    }
    let mut rest = Bytes::new(frame);
    let count = decode::read_array_len(&mut rest).ok()?;
    match (decode::read_int::<u32, _>(&mut rest).ok()?, count) {
        (0, 4) => request(rest),
        (1, 4) => Some(Message::Response),
        (2, 3) => {
            let (method, params) = split_name(rest)?;
            is_array(params).then_some(Message::Notification { method, params })
        }
        _ => None,
    }
}

fn request(mut rest: Bytes<'_>) -> Option<Message<'_>> {
    let id = decode::read_int(&mut rest).ok()?;
    let (method, params) = split_name(rest)?;
    is_array(params).then_some(Message::Request { id, method, params })
}

/// A str or a bin, and what follows it.
fn split_name(rest: Bytes<'_>) -> Option<(&[u8], &[u8])> {
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

/// The one parameter; all of them, as the array that they are, if there are several or none.
pub(crate) fn only(params: &[u8]) -> &[u8] {
    let mut rest = Bytes::new(params);
    match decode::read_array_len(&mut rest) {
        Ok(1) => rest.remaining_slice(),
        _ => params,
    }
}

/// The one parameter, a number of at most so much.
pub(crate) fn only_number(params: &[u8], max: usize) -> Option<usize> {
    let number = decode::read_int(&mut Bytes::new(only(params))).ok()?;
    (number <= max).then_some(number)
}

/// Appends `[1, id, nil,`.
pub(crate) fn write_result_header(out: &mut Vec<u8>, id: u32) {
    write_header(out, id);
    out.push(Marker::Null.to_u8());
}

/// Appends `[1, id, error, nil]`.
pub(crate) fn write_error(out: &mut Vec<u8>, id: u32, error: &str) {
    write_header(out, id);
    // Writing to a vector cannot fail.
    let _ = rmp::encode::write_str(out, error);
    out.push(Marker::Null.to_u8());
}

/// Appends `[1, id,`.
fn write_header(out: &mut Vec<u8>, id: u32) {
    // With room for nil behind the longest id.
    out.reserve(8);
    out.extend_from_slice(&[Marker::FixArray(4).to_u8(), 1]);
    let _ = rmp::encode::write_uint(out, u64::from(id));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_messages_are_told_apart() {
        let request = Message::Request {
            id: 7,
            method: b"add",
            params: b"\x92\x01\x02",
        };
        assert_eq!(parse(b"\x94\x00\x07\xa3add\x92\x01\x02"), Some(request));
        let notification = Message::Notification {
            method: b"add",
            params: b"\x90",
        };
        assert_eq!(parse(b"\x93\x02\xc4\x03add\x90"), Some(notification));
        assert_eq!(parse(b"\x94\x01\x07\xc0\xc0"), Some(Message::Response));
        for garbage in [&b"\x01"[..], b"\x90", b"\x91\x00", b"\x93\x00\x01\xa0"] {
            assert_eq!(parse(garbage), None);
        }
        assert_eq!(parse(b"\x94\x00\x07\xa3add\x01"), None);
    }

    #[test]
    fn one_parameter_is_taken_out_of_its_array() {
        assert_eq!(only(b"\x91\xa1x"), b"\xa1x");
        assert_eq!(only(b"\x92\x01\x02"), b"\x92\x01\x02");
        assert_eq!(only(b"\x90"), b"\x90");
    }
}
