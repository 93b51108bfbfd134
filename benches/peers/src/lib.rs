//! The service that the throughput bench asks for, without ringhold: what all peers share.
//!
//! A peer is one thread that serves MessagePack-RPC on a TCP and a unix socket with the runtime that it is named
//! after. Where frames end, what a message means and how it is answered is the same code for all of them, in here, so
//! what they differ in is the runtime and how it is used. Each peer is a binary of its own: `src/bin/`.
//!
//! | message | answer |
//! |---|---|
//! | `[0, id, "echo", [x]]` | `[1, id, nil, x]` |
//! | `[0, id, "ping", []]` | `[1, id, nil, "pong"]` |
//! | `[2, "subscribe", []]` | none, but from now on the events |
//! | `[2, "publish", [x]]` | `[2, "event", [x]]` to every subscriber |
//! | any other notification | none |
#![forbid(unsafe_code)]

mod envelope;
mod listen;
mod outbox;
mod replies;
mod service;
mod session;

pub use listen::{Arguments, Listeners};
pub use outbox::{Batch, Outbox};
pub use replies::Replies;
pub use service::Service;
pub use session::{Garbage, Session};
