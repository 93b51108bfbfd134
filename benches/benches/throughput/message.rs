//! The protocol's bytes, made once and sent often.

use rmp::encode;

/// The first number of a connection's requests. From here on ids take five bytes in their shortest form, which is the one
/// that servers may give back, so that all replies of a cell have the same length.
pub(crate) const FIRST: u32 = 0x1_0000;

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

    /// `[1, number, nil, payload]`
    pub(crate) fn echoed(payload: usize) -> Self {
        Self::build(payload, |out| {
            let number_at = request_head(out, 1);
            let _ = encode::write_nil(out);
            Some(number_at)
        })
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
