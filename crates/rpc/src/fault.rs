//! Why a call failed, as its caller is told.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use ringhold_core::with_sources;
use rmp::Marker;
use serde::Serialize;

use crate::names::shortened;

/// The error of a call: what stands in the error field of its reply.
///
/// Usually that is a message, sent as a str. Protocols that agree on codes or details send any value instead
/// ([`Fault::value`]).
///
/// A type that implements [`Error`] becomes a fault with `?`, by way of [`Fault::from_error`]. For that reason `Fault` does not
/// implement [`Error`] itself.
///
/// `Box<dyn Error>` and `anyhow::Error` do not implement it either, but lend an error that does:
///
/// ```
/// # use ringhold_rpc::Fault;
/// fn load() -> Result<u64, Box<dyn std::error::Error + Send + Sync>> {
///     Err("the file is empty".into())
/// }
///
/// fn handler() -> Result<u64, Fault> {
///     Ok(load().map_err(|error| Fault::from_error(&*error))? + 1)
/// }
/// assert_eq!(handler(), Err(Fault::new("the file is empty")));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Fault(Content);

#[derive(Clone, PartialEq, Eq)]
enum Content {
    Message(Cow<'static, str>),
    /// One msgpack object that is not nil.
    Value(Vec<u8>),
}

impl Fault {
    /// With a message for the person who called.
    pub fn new(message: impl Into<Cow<'static, str>>) -> Self {
        Fault(Content::Message(message.into()))
    }

    /// With any value but nil, which in a reply means that there is no error. Structs become maps.
    ///
    /// A value that is nil, or that cannot be serialized, is replaced by a message that says so.
    pub fn value<T: Serialize + ?Sized>(value: &T) -> Self {
        match rmp_serde::to_vec_named(value) {
            Ok(bytes) if bytes.first() == Some(&Marker::Null.to_u8()) => {
                Fault::new("the call failed without saying why")
            }
            Ok(bytes) => Fault(Content::Value(bytes)),
            Err(error) => {
                let why = shortened(&error.to_string());
                Fault::new(format!(
                    "the call failed, and the error cannot be serialized: {why}"
                ))
            }
        }
    }

    /// With the message of an error, followed by those of its sources.
    pub fn from_error(error: &dyn Error) -> Self {
        Fault::new(with_sources(error))
    }

    /// The message; `None` if the fault is another value.
    pub fn message(&self) -> Option<&str> {
        match &self.0 {
            Content::Message(message) => Some(message),
            Content::Value(_) => None,
        }
    }

    /// The value of [`Fault::value`], as msgpack; `None` if the fault is a message.
    pub fn value_bytes(&self) -> Option<&[u8]> {
        match &self.0 {
            Content::Message(_) => None,
            Content::Value(bytes) => Some(bytes),
        }
    }

    /// Appends the error as one msgpack object.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match &self.0 {
            Content::Message(message) => {
                // Writing to a vector cannot fail.
                let _ = rmp::encode::write_str(out, message);
            }
            Content::Value(bytes) => out.extend_from_slice(bytes),
        }
    }
}

impl<E: Error> From<E> for Fault {
    fn from(error: E) -> Self {
        Fault::from_error(&error)
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Content::Message(message) => write!(f, "Fault({message:?})"),
            Content::Value(bytes) => write!(f, "Fault({} bytes of msgpack)", bytes.len()),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Content::Message(message) => f.write_str(message),
            Content::Value(bytes) => write!(f, "a value of {} bytes", bytes.len()),
        }
    }
}
