//! A blocking MessagePack-RPC client, and a load generator that checks every reply.
//!
//! ```no_run
//! use ringhold_client::{Address, Client, Options};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let address: Address = "unix:/run/ringhold/rpc.sock".parse()?;
//! let mut client = Client::connect(&address, Options::default())?;
//! let text: String = client.call("echo", &("hello",))?;
//! assert_eq!(text, "hello");
//! # Ok(())
//! # }
//! ```
//!
//! [`Client`] is for tools and tests: one connection, one thread, calls that wait. Calls can be
//! pipelined ([`Client::send`], [`Client::receive`]), replies may come in any order, and what the
//! server sends of its own accord is kept for [`Client::next_message`].
//!
//! [`load`] drives a server from one core with as many connections and as deep a pipeline as wanted,
//! and counts what was lost, repeated or altered.
#![forbid(unsafe_code)]

mod address;
mod client;
mod envelope;
mod error;
mod link;
pub mod load;
mod mail;
mod message;
mod params;
mod render;
mod stream;

pub use address::{Address, AddressError};
pub use client::{Client, Options};
pub use envelope::{Envelope, EnvelopeError};
pub use error::{CallError, Exceeded, RemoteError};
pub use message::{Message, Notification, Reply, Request};
pub use render::Plain;
pub use ringhold_framer::Limits;
