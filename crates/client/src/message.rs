//! What a client receives.

use std::borrow::Cow;

use serde::de::DeserializeOwned;

use crate::{CallError, Envelope, RemoteError};

/// A message from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The reply to a request of ours.
    Reply(Reply),
    /// A notification, which nothing answers.
    Notification(Notification),
    /// A request: either side may send them. Answer with [`Client::respond`](crate::Client::respond).
    Request(Request),
}

impl Message {
    /// About what it takes in memory, for the bound on what waits to be taken.
    pub(crate) fn size(&self) -> usize {
        let kept = match self {
            Self::Reply(Reply { result, .. }) => match result {
                Ok(value) => allocated(value),
                Err(error) => allocated(error.value()),
            },
            Self::Notification(Notification { method, params })
            | Self::Request(Request { method, params, .. }) => {
                allocated(method) + allocated(params)
            }
        };
        size_of::<Self>() + kept
    }
}

/// What bytes take in memory that are allocated by themselves: the allocator adds a header and rounds up.
fn allocated(bytes: &[u8]) -> usize {
    const ALLOCATION: usize = 16;
    bytes.len() + ALLOCATION
}

impl From<Envelope<'_>> for Message {
    fn from(envelope: Envelope<'_>) -> Self {
        match envelope {
            Envelope::Response { id, error, result } => {
                let result = match error {
                    [crate::envelope::NIL] => Ok(result.to_vec()),
                    value => Err(RemoteError::new(value)),
                };
                Self::Reply(Reply { id, result })
            }
            Envelope::Notification { method, params } => Self::Notification(Notification {
                method: method.to_vec(),
                params: params.to_vec(),
            }),
            Envelope::Request { id, method, params } => Self::Request(Request {
                id,
                method: method.to_vec(),
                params: params.to_vec(),
            }),
        }
    }
}

/// The reply to the request with the same id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// What [`Client::send`](crate::Client::send) returned for the request.
    pub id: u32,
    /// The encoded result, or the error that the server answered with.
    pub result: Result<Vec<u8>, RemoteError>,
}

impl Reply {
    /// Decodes the result.
    ///
    /// # Errors
    /// [`CallError::Remote`] with the error that the server answered with, [`CallError::Result`] when the result is of
    /// another type.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, CallError> {
        let result = self.result.as_ref().map_err(RemoteError::clone)?;
        rmp_serde::from_slice(result).map_err(|source| CallError::Result {
            source,
            result: result.clone(),
        })
    }
}

/// A notification from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// The name of the method, which need not be UTF-8.
    pub method: Vec<u8>,
    /// The encoded parameters.
    pub params: Vec<u8>,
}

impl Notification {
    /// The name of the method as text; what is not UTF-8 is replaced.
    #[must_use]
    pub fn method(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.method)
    }

    /// Decodes the parameters.
    ///
    /// # Errors
    /// They are of another type.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, rmp_serde::decode::Error> {
        rmp_serde::from_slice(&self.params)
    }
}

/// A request from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The number that the response has to carry.
    pub id: u32,
    /// The name of the method, which need not be UTF-8.
    pub method: Vec<u8>,
    /// The encoded parameters.
    pub params: Vec<u8>,
}

impl Request {
    /// The name of the method as text; what is not UTF-8 is replaced.
    #[must_use]
    pub fn method(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.method)
    }

    /// Decodes the parameters.
    ///
    /// # Errors
    /// They are of another type.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, rmp_serde::decode::Error> {
        rmp_serde::from_slice(&self.params)
    }
}
