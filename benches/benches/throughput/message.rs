//! The protocol's bytes, made once and sent often.

use ringhold_benches::varied::{self, Call};
use rmp::encode;

use crate::grid::{Cell, Kind, Payload};

/// The first number of a connection's requests. From here on ids take five bytes in their shortest form, which is the one
/// that servers may give back, so that all replies of a cell have the same length.
pub(crate) const FIRST: u32 = 0x1_0000;

/// So many varied messages, and then the same again. A processor knew by heart how to branch for some part of a thousand.
const VARIED: usize = 16 * 1024;

/// A message, with a number in it that changes from one to the next, or without.
#[derive(Clone)]
pub(crate) struct Message {
    pub(crate) bytes: Vec<u8>,
    /// Where the number is: four bytes, the highest first.
    pub(crate) number_at: Option<usize>,
}

impl Message {
    /// `[0, number, "echo", [payload]]`
    pub(crate) fn echo(payload: usize) -> Self {
        Self::build(payload, |out| {
            let number_at = request_head(out, 0);
            let _ = encode::write_str(out, "echo");
            let _ = encode::write_array_len(out, 1);
            Some(number_at)
        })
    }

    /// `[0, number, "fetch", [payload's length]]`
    fn fetch(payload: usize) -> Self {
        let mut bytes = Vec::new();
        let number_at = Some(request_head(&mut bytes, 0));
        let _ = encode::write_str(&mut bytes, "fetch");
        let _ = encode::write_array_len(&mut bytes, 1);
        let _ = encode::write_uint(&mut bytes, payload as u64);
        Message { bytes, number_at }
    }

    /// `[1, number, nil, payload]`
    pub(crate) fn echoed(payload: usize) -> Self {
        Self::build(payload, |out| {
            let number_at = request_head(out, 1);
            let _ = encode::write_nil(out);
            Some(number_at)
        })
    }

    /// `[2, "ping", [payload]]`
    pub(crate) fn ping(payload: usize) -> Self {
        Self::build(payload, |out| {
            notification_head(out, "ping");
            let _ = encode::write_array_len(out, 1);
            None
        })
    }

    /// `[2, "publish", [payload]]`, the payload beginning with the number.
    pub(crate) fn publish(payload: usize) -> Self {
        Self::build(payload, |out| {
            notification_head(out, "publish");
            let _ = encode::write_array_len(out, 1);
            None
        })
        .numbered_in(payload)
    }

    /// `[2, "event", [payload]]`, the payload beginning with the number.
    pub(crate) fn event(payload: usize) -> Self {
        Self::build(payload, |out| {
            notification_head(out, "event");
            let _ = encode::write_array_len(out, 1);
            None
        })
        .numbered_in(payload)
    }

    /// The requests of a cell, one after the other, and then the same again.
    pub(crate) fn requests_of(cell: &Cell) -> Vec<Self> {
        match (cell.kind, cell.payload) {
            (Kind::Fetch, Payload::Of(bytes)) => vec![Self::fetch(bytes)],
            (_, payload) => Self::requests(payload),
        }
    }

    /// Those of an echo.
    pub(crate) fn requests(payload: Payload) -> Vec<Self> {
        match payload {
            Payload::Of(bytes) => vec![Self::echo(bytes)],
            Payload::Varied => Self::varied(|out, call| {
                let number_at = request_head(out, 0);
                let _ = encode::write_str(out, call.method);
                out.extend(&call.params);
                Some(number_at)
            }),
        }
    }

    /// The replies to them, and to the requests of a fetch.
    pub(crate) fn replies(payload: Payload) -> Vec<Self> {
        match payload {
            Payload::Of(bytes) => vec![Self::echoed(bytes)],
            Payload::Varied => Self::varied(|out, call| {
                let number_at = request_head(out, 1);
                let _ = encode::write_nil(out);
                out.extend(&call.result);
                Some(number_at)
            }),
        }
    }

    /// The notifications of an ingest, likewise.
    pub(crate) fn notifications(payload: Payload) -> Vec<Self> {
        match payload {
            Payload::Of(bytes) => vec![Self::ping(bytes)],
            Payload::Varied => Self::varied(|out, call| {
                notification_head(out, call.method);
                out.extend(&call.params);
                None
            }),
        }
    }

    fn varied(write: impl Fn(&mut Vec<u8>, &Call) -> Option<usize>) -> Vec<Self> {
        let calls = varied::calls(VARIED);
        let message = |call| {
            let mut bytes = Vec::new();
            let number_at = write(&mut bytes, call);
            Message { bytes, number_at }
        };
        calls.iter().map(message).collect()
    }

    /// `[2, "subscribe", []]`
    pub(crate) fn subscribe() -> Self {
        let mut bytes = Vec::new();
        notification_head(&mut bytes, "subscribe");
        let _ = encode::write_array_len(&mut bytes, 0);
        Message {
            bytes,
            number_at: None,
        }
    }

    /// What `head` writes, and then so many bytes of payload.
    fn build(payload: usize, head: impl FnOnce(&mut Vec<u8>) -> Option<usize>) -> Self {
        let mut bytes = Vec::with_capacity(payload + 32);
        let number_at = head(&mut bytes);
        let _ = encode::write_bin_len(&mut bytes, payload as u32);
        // Not all the same, so that a byte in the wrong place is seen.
        bytes.extend((0..payload).map(|at| (at % 251) as u8));
        Message { bytes, number_at }
    }

    fn numbered_in(mut self, payload: usize) -> Self {
        self.number_at = Some(self.bytes.len() - payload);
        self
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Writes the number into the message, if it has one.
    pub(crate) fn number(&mut self, number: u32) {
        if let Some(at) = self.number_at {
            self.bytes[at..at + 4].copy_from_slice(&number.to_be_bytes());
        }
    }
}

/// An array of four, its type and its number; returns where that is.
fn request_head(out: &mut Vec<u8>, kind: u8) -> usize {
    let _ = encode::write_array_len(out, 4);
    let _ = encode::write_pfix(out, kind);
    let _ = encode::write_u32(out, FIRST);
    out.len() - 4
}

/// An array of three, its type, and its method.
fn notification_head(out: &mut Vec<u8>, method: &str) {
    let _ = encode::write_array_len(out, 3);
    let _ = encode::write_pfix(out, 2);
    let _ = encode::write_str(out, method);
}
