//! One call, lent to the handler of its method.

use bytes::Bytes;
use ringhold_core::Frame;
use serde::Deserialize;

use crate::fault::Fault;
use crate::params;

/// A request or a notification, as its handler sees it: the parameters are bytes of the frame, not decoded.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// By reference: to copy it costs a store that the processor cannot forward.
    pub(crate) frame: &'a Frame<'a>,
    pub(crate) id: Option<u32>,
    pub(crate) method: &'a [u8],
    pub(crate) params: &'a [u8],
}

impl<'a> Call<'a> {
    /// The message id of a request; `None` for a notification.
    pub fn id(&self) -> Option<u32> {
        self.id
    }

    /// The name of the method.
    pub fn method(&self) -> &'a [u8] {
        self.method
    }

    /// The parameters: one msgpack array. Strings in it are not checked for UTF-8.
    pub fn params(&self) -> &'a [u8] {
        self.params
    }

    /// Keeps the parameters, or a part of them, past the call: a counted reference to the receive buffer when it is 1024 bytes or
    /// longer and the engine can spare the buffer, else a copy. A small part of a large message is copied as well.
    ///
    /// # Panics
    ///
    /// If `part` is 1024 bytes or longer and not a slice of the parameters.
    pub fn keep(&self, part: &[u8]) -> Bytes {
        self.frame.keep(part)
    }

    /// Decodes the parameters, which can borrow from the frame: `let (name, value): (&str, u64) = call.decode()?`.
    /// How parameters become types is described at [`Router::method`](crate::Router::method).
    ///
    /// # Errors
    ///
    /// A fault that names the method and says what is wrong with which parameter.
    pub fn decode<T: Deserialize<'a>>(&self) -> Result<T, Fault> {
        params::decode(self.params).map_err(|why| params::wrong(self.method, &why))
    }
}

impl std::fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Call({}, id {:?})", self.method.escape_ascii(), self.id)
    }
}
