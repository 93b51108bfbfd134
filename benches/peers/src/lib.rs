//! The service that the throughput bench asks for, without ringhold: what all peers share.
//!
//! A peer is one thread, or one for each of several CPUs, that serves MessagePack-RPC on a TCP and a unix socket with the
//! runtime that it is named after. Events reach the subscribers of one thread only. Where frames end, what a message
//! means and how it is answered is the same code for all of them, in here, so what they differ in is the runtime and how
//! it is used. Each peer is a binary of its own: `src/bin/`.
//!
//! | message | answer |
//! |---|---|
//! | `[0, id, "echo", [x]]` | `[1, id, nil, x]` |
//! | `[0, id, "fetch", [n]]` | `[1, id, nil, n bytes]` |
//! | `[0, id, "ping", []]` | `[1, id, nil, "pong"]` |
//! | `[2, "subscribe", []]` | none, but from now on the events |
//! | `[2, "publish", [x]]` | `[2, "event", [x]]` to every subscriber |
//! | any other notification | none |
#![forbid(unsafe_code)]

mod envelope;
mod frames;
mod listen;
mod outbox;
mod replies;
mod service;
mod session;

pub use listen::{Arguments, Listeners, serve_on_each_cpu};
pub use outbox::{Batch, Outbox};
pub use replies::Replies;
pub use service::Service;
pub use session::{Garbage, MovingSession, Session};
