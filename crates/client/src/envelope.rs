//! The three messages of MessagePack-RPC, and how to read and write what surrounds their values.
//!
//! ```text
//! request       [0, id, method, params]
//! response      [1, id, error, result]
//! notification  [2, method, params]
//! ```
//! The values (`params`, `error`, `result`) are not decoded here: they are slices of the frame.

use std::fmt;

use ringhold_framer::{Framer, Limits, Progress};
use rmp::decode::{self, Bytes};
use rmp::encode;

/// The msgpack encoding of nil.
pub(crate) const NIL: u8 = 0xc0;

/// A MessagePack-RPC message whose values are borrowed from its frame, still encoded.
///
/// ```
/// use ringhold_client::Envelope;
/// let frame = b"\x94\x01\x07\xc0\xa2ok";
/// assert_eq!(Envelope::parse(frame), Ok(Envelope::Response { id: 7, error: b"\xc0", result: b"\xa2ok" }));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Envelope<'a> {
    /// `[0, id, method, params]`
    Request {
        /// The number that the response has to carry.
        id: u32,
        /// The name of the method; clients send it as str or as bin, and it need not be UTF-8.
        method: &'a [u8],
        /// The encoded parameters, an array by the specification.
        params: &'a [u8],
    },
    /// `[1, id, error, result]`
    Response {
        /// The number of the request.
        id: u32,
        /// The encoded error, nil on success.
        error: &'a [u8],
        /// The encoded result.
        result: &'a [u8],
    },
    /// `[2, method, params]`
    Notification {
        /// The name of the method.
        method: &'a [u8],
        /// The encoded parameters.
        params: &'a [u8],
    },
}

impl<'a> Envelope<'a> {
    /// Reads the envelope of `frame`, which must be one whole msgpack object, as a
    /// [`Framer`] delimits it.
    ///
    /// Integers may be wider than they need to be, as the specification of msgpack allows.
    ///
    /// # Errors
    /// The object is not a MessagePack-RPC message; the error says in what.
    pub fn parse(frame: &'a [u8]) -> Result<Self, EnvelopeError> {
        let mut bytes = Bytes::new(frame);
        let elements = decode::read_array_len(&mut bytes).map_err(|_| EnvelopeError::NotAnArray)?;
        let kind: u64 = decode::read_int(&mut bytes).map_err(|_| EnvelopeError::Type(None))?;
        match (kind, elements) {
            (0, 4) => {
                let id = read_id(&mut bytes)?;
                let method = read_method(&mut bytes)?;
                Ok(Self::Request {
                    id,
                    method,
                    params: bytes.remaining_slice(),
                })
            }
            (1, 4) => {
                let id = read_id(&mut bytes)?;
                let (error, result) = split_object(bytes.remaining_slice())?;
                Ok(Self::Response { id, error, result })
            }
            (2, 3) => {
                let method = read_method(&mut bytes)?;
                Ok(Self::Notification {
                    method,
                    params: bytes.remaining_slice(),
                })
            }
            (0..=2, _) => Err(EnvelopeError::Elements {
                kind: kind as u8,
                elements,
            }),
            _ => Err(EnvelopeError::Type(Some(kind))),
        }
    }
}

/// Reads `[1, id, nil,` at the start of `bytes`, which may be cut anywhere: the id, and where the
/// result begins. Nothing for any other beginning.
///
/// This is the quick path of a reader that knows the result it waits for.
pub(crate) fn success_head(bytes: &[u8]) -> Option<(u32, usize)> {
    let mut rest = Bytes::new(bytes);
    if decode::read_array_len(&mut rest).ok()? != 4
        || decode::read_int::<u64, _>(&mut rest).ok()? != 1
    {
        return None;
    }
    let id = decode::read_int(&mut rest).ok()?;
    decode::read_nil(&mut rest).ok()?;
    Some((id, rest.position() as usize))
}

/// Why a msgpack object is not a MessagePack-RPC message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// The object is not an array, or the array is cut off.
    NotAnArray,
    /// The message type is not 0, 1 or 2; `None` when it is not even an unsigned integer.
    Type(Option<u64>),
    /// The array has the wrong number of elements for its message type.
    Elements {
        /// The message type.
        kind: u8,
        /// The number of elements found: 4 are right for a request or response, 3 for a notification.
        elements: u32,
    },
    /// The id is not an unsigned integer of 32 bits.
    Id,
    /// The method is neither a str nor a bin, or it is cut off.
    Method,
    /// The error of a response is cut off or is not valid msgpack.
    Error,
}

impl fmt::Display for EnvelopeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnArray => f.write_str("a message that is not an array"),
            Self::Type(Some(kind)) => write!(f, "a message of the unknown type {kind}"),
            Self::Type(None) => f.write_str("a message whose type is not a number"),
            Self::Elements { kind, elements } => {
                write!(f, "a message of type {kind} with {elements} elements")
            }
            Self::Id => f.write_str("a message whose id is not an unsigned integer of 32 bits"),
            Self::Method => f.write_str("a message whose method is neither str nor bin"),
            Self::Error => f.write_str("a response whose error is not valid msgpack"),
        }
    }
}

impl std::error::Error for EnvelopeError {}

/// Appends `[0, id, method,`; the encoded parameters must follow.
pub(crate) fn begin_request(out: &mut Vec<u8>, id: u32, method: &[u8]) {
    write(encode::write_array_len(out, 4).is_ok());
    write(encode::write_uint(out, 0).is_ok());
    write(encode::write_uint(out, u64::from(id)).is_ok());
    write_method(out, method);
}

/// Appends `[2, method,`; the encoded parameters must follow.
pub(crate) fn begin_notification(out: &mut Vec<u8>, method: &[u8]) {
    write(encode::write_array_len(out, 3).is_ok());
    write(encode::write_uint(out, 2).is_ok());
    write_method(out, method);
}

/// Appends `[1, id,`; the encoded error and result must follow.
pub(crate) fn begin_response(out: &mut Vec<u8>, id: u32) {
    write(encode::write_array_len(out, 4).is_ok());
    write(encode::write_uint(out, 1).is_ok());
    write(encode::write_uint(out, u64::from(id)).is_ok());
}

fn write_method(out: &mut Vec<u8>, method: &[u8]) {
    write(encode::write_str_len(out, method.len() as u32).is_ok());
    out.extend_from_slice(method);
}

/// Writing to a `Vec` does not fail; this keeps the result from being dropped unseen.
fn write(done: bool) {
    debug_assert!(done, "a Vec takes every byte");
}

fn read_id(bytes: &mut Bytes<'_>) -> Result<u32, EnvelopeError> {
    decode::read_int(bytes).map_err(|_| EnvelopeError::Id)
}

fn read_method<'a>(bytes: &mut Bytes<'a>) -> Result<&'a [u8], EnvelopeError> {
    let length = match bytes.remaining_slice().first() {
        Some(0xc4..=0xc6) => decode::read_bin_len(bytes),
        _ => decode::read_str_len(bytes),
    };
    let length = length.map_err(|_| EnvelopeError::Method)? as usize;
    let (method, rest) = bytes
        .remaining_slice()
        .split_at_checked(length)
        .ok_or(EnvelopeError::Method)?;
    *bytes = Bytes::new(rest);
    Ok(method)
}

/// Splits the first msgpack object off. Nil, which nearly every response carries, costs one comparison,
/// and a str, which nearly every error is, costs no framer.
fn split_object(bytes: &[u8]) -> Result<(&[u8], &[u8]), EnvelopeError> {
    if bytes.first() == Some(&NIL) {
        return Ok(bytes.split_at(1));
    }
    let mut rest = Bytes::new(bytes);
    if let Ok(length) = decode::read_str_len(&mut rest) {
        let end = rest.position() as usize + length as usize;
        return bytes.split_at_checked(end).ok_or(EnvelopeError::Error);
    }
    // The frame was within the limits of its reader, so these only have to be no tighter.
    let limits = Limits {
        frame_bytes: u32::MAX,
        depth: u16::MAX,
    };
    match Framer::new(limits).feed(bytes) {
        Ok(Progress::Complete { used }) => Ok(bytes.split_at(used)),
        _ => Err(EnvelopeError::Error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_three_kinds() {
        let request = Envelope::Request {
            id: 5,
            method: b"echo",
            params: b"\x91\x01",
        };
        assert_eq!(
            Envelope::parse(b"\x94\x00\x05\xa4echo\x91\x01"),
            Ok(request)
        );
        let response = Envelope::Response {
            id: 5,
            error: b"\x92\x01\xa1x",
            result: b"\xc0",
        };
        assert_eq!(
            Envelope::parse(b"\x94\x01\x05\x92\x01\xa1x\xc0"),
            Ok(response)
        );
        let notification = Envelope::Notification {
            method: b"tick",
            params: b"\x90",
        };
        assert_eq!(Envelope::parse(b"\x93\x02\xa4tick\x90"), Ok(notification));
    }

    #[test]
    fn takes_every_width() {
        let wide = b"\xdd\0\0\0\x04\xcf\0\0\0\0\0\0\0\0\xd3\0\0\0\0\xff\xff\xff\xff\xc6\0\0\0\x01m\xdc\0\0";
        let request = Envelope::Request {
            id: u32::MAX,
            method: b"m",
            params: b"\xdc\0\0",
        };
        assert_eq!(Envelope::parse(wide), Ok(request));
        for id in [
            &b"\x07"[..],
            b"\xcc\x07",
            b"\xcd\0\x07",
            b"\xce\0\0\0\x07",
            b"\xd0\x07",
            b"\xd2\0\0\0\x07",
        ] {
            let frame = [b"\x94\x01", id, b"\xc0\x2a"].concat();
            let response = Envelope::Response {
                id: 7,
                error: b"\xc0",
                result: b"\x2a",
            };
            assert_eq!(Envelope::parse(&frame), Ok(response));
            assert_eq!(success_head(&frame), Some((7, frame.len() - 1)));
        }
    }

    #[test]
    fn refuses_everything_else_and_says_why() {
        let cases: [(&[u8], EnvelopeError); 12] = [
            (b"", EnvelopeError::NotAnArray),
            (b"\x07", EnvelopeError::NotAnArray),
            (b"\x90", EnvelopeError::Type(None)),
            (b"\x94\xa1x\x01\xc0\xc0", EnvelopeError::Type(None)),
            (b"\x94\xff\x01\xc0\xc0", EnvelopeError::Type(None)),
            (b"\x94\x03\x01\xc0\xc0", EnvelopeError::Type(Some(3))),
            (
                b"\x93\x00\x01\xa1m",
                EnvelopeError::Elements {
                    kind: 0,
                    elements: 3,
                },
            ),
            (
                b"\x94\x02\xa1m\x90\x90",
                EnvelopeError::Elements {
                    kind: 2,
                    elements: 4,
                },
            ),
            (b"\x94\x01\xcf\0\0\0\x01\0\0\0\0\xc0\xc0", EnvelopeError::Id),
            (b"\x94\x01\xff\xc0\xc0", EnvelopeError::Id),
            (b"\x94\x00\x01\xc0\x90", EnvelopeError::Method),
            (b"\x94\x01\x01\xc1\xc0", EnvelopeError::Error),
        ];
        for (frame, error) in cases {
            assert_eq!(Envelope::parse(frame), Err(error), "{frame:x?}");
        }
    }

    #[test]
    fn the_quick_path_wants_the_whole_head() {
        let frame = b"\x94\x01\xcd\x01\x00\xc0\xa1x";
        for end in 0..6 {
            assert_eq!(success_head(&frame[..end]), None);
        }
        assert_eq!(success_head(&frame[..6]), Some((256, 6)));
        assert_eq!(success_head(b"\x94\x01\x07\xa1e\xc0"), None);
        assert_eq!(success_head(b"\x94\x00\x07\xa1e\x90"), None);
        assert_eq!(success_head(b"\x93\x02\xa1e\x90"), None);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut out = Vec::new();
        begin_request(&mut out, 70_000, b"sum");
        out.push(0x90);
        let request = Envelope::Request {
            id: 70_000,
            method: b"sum",
            params: b"\x90",
        };
        assert_eq!(Envelope::parse(&out), Ok(request));
        out.clear();
        begin_notification(&mut out, b"tick");
        out.push(0x90);
        assert_eq!(
            Envelope::parse(&out),
            Ok(Envelope::Notification {
                method: b"tick",
                params: b"\x90"
            })
        );
        out.clear();
        begin_response(&mut out, 3);
        out.extend([NIL, 0x01]);
        assert_eq!(
            Envelope::parse(&out),
            Ok(Envelope::Response {
                id: 3,
                error: b"\xc0",
                result: b"\x01"
            })
        );
    }
}
