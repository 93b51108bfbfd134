//! What a client sends: encoded, and found to be whole.

use ringhold_framer::{Framer, Limits, Progress};
use serde::Serialize;

use crate::CallError;
use crate::envelope::NIL;

/// Encodes parameters. `()` and `None` are nil to serde, and an array without elements to the protocol.
pub(crate) fn encode<P: Serialize + ?Sized>(params: &P) -> Result<Vec<u8>, CallError> {
    let encoded =
        rmp_serde::to_vec_named(params).map_err(|error| CallError::Params(error.to_string()))?;
    Ok(if encoded == [NIL] {
        vec![0x90]
    } else {
        encoded
    })
}

/// Finds out whether what was encoded elsewhere can be sent.
#[derive(Debug)]
pub(crate) struct Checker(Framer);

impl Checker {
    /// With the depth of these limits, of which the message takes one level; the length of what is sent is the server's
    /// concern.
    pub(crate) fn new(limits: Limits) -> Self {
        Self(Framer::new(Limits {
            frame_bytes: u32::MAX,
            depth: limits.depth.saturating_sub(1),
        }))
    }

    /// Parameters that are not one whole array would shift everything that follows on the stream.
    ///
    /// # Errors
    /// What is wrong, for [`CallError::Params`].
    pub(crate) fn params(&mut self, params: &[u8]) -> Result<(), String> {
        match params.first() {
            Some(0x90..=0x9f | 0xdc | 0xdd) => self.object(params),
            _ => Err(
                "they must be one msgpack array; a single parameter is the tuple (value,)"
                    .to_owned(),
            ),
        }
    }

    /// Whether it is one whole object.
    ///
    /// # Errors
    /// What is wrong, for [`CallError::Params`].
    pub(crate) fn object(&mut self, value: &[u8]) -> Result<(), String> {
        let verdict = self.0.feed(value);
        self.0.reset();
        match verdict {
            Ok(Progress::Complete { used }) if used == value.len() => Ok(()),
            Ok(Progress::Complete { .. }) => Err("bytes follow the msgpack object".to_owned()),
            Ok(Progress::More { .. }) => Err("the msgpack object is cut off".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}
