//! The service without sockets: bytes in, bytes out.

#![allow(clippy::unwrap_used)]

mod client;
mod requests;
