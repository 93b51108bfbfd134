//! MessagePack-RPC as a service of ringhold-core.
//!
//! ```
//! use ringhold_rpc::{Fault, Router};
//!
//! fn router() -> Router {
//!     Router::new()
//!         .method("add", |(a, b): (i64, i64)| Ok(a + b))
//!         .method("root", |x: f64| {
//!             if x < 0.0 {
//!                 return Err(Fault::new("a negative number has no root"));
//!             }
//!             Ok(x.sqrt())
//!         })
//! }
//! # let _ = router();
//! ```
//!
//! A [`Router`] has the methods and makes adding one a line; [`ServeRpc::rpc`] serves it. `examples/calculator.rs` is a whole daemon,
//! `examples/tokio_answers.rs` answers from an asynchronous runtime, `examples/samples.rs` passes on what an instrument sends.
//!
//! # On the wire
//!
//! The messages are those of the [specification](https://github.com/msgpack-rpc/msgpack-rpc/blob/master/spec.md):
//!
//! | message | form | here |
//! |---|---|---|
//! | request | `[0, id, method, params]` | gets exactly one reply |
//! | response | `[1, id, error, result]` | from a client: ignored, since the server asks nothing |
//! | notification | `[2, method, params]` | in both directions; never answered, whatever becomes of it |
//!
//! - Requests may be sent without waiting for replies. Replies come in the order of the requests, except that deferred
//!   ones come when they are ready.
//! - The id is an unsigned integer of 32 bits, in whichever width it is written; replies have it in the shortest.
//! - The method may be a str or a bin. It is compared as bytes.
//! - In a reply, either the error or the result is nil. The error is a str for people ([`Fault::new`]), or any other
//!   value that the methods agree on with their callers ([`Fault::value`]). All errors that this crate makes are str.
//! - A reply is queued as a whole and written at once, together with the others of the same turn. Errors that this crate
//!   makes, and the answers of `ping` and `time`, are shorter than 4096 bytes. Those of handlers are as long as they make
//!   them.
//!
//! What is wrong with a message is answered wherever there is an id to answer to:
//!
//! | what | becomes |
//! |---|---|
//! | unknown method, wrong parameters, a call that a [guard](Router::guard) refuses, a handler that fails, panics or gives no answer | an error reply |
//! | a request whose method is not a string, whose params are not an array, or that has not 4 elements | an error reply |
//! | the same of a notification: no reply is due, but what followed could not be trusted | the end of the connection |
//! | a message that is larger or nested deeper than the [limits](ringhold_core::limits::Limits) allow: it is refused before it is whole | the end of the connection |
//! | anything that is not an array, has no or another message type, or has an id that is no 32-bit number | the end of the connection |
//!
//! The end of a connection is logged with its reason: as a warning if it is one of these, and at debug level or below if nothing is
//! wrong, as when a handler [closes](Context::close) it. A panic is logged, too; errors of callers are not.
//!
//! # Old clients
//!
//! Clients from before 2013 know one family of strings for text and binary. What they send is understood; give them a
//! service whose [`Rpc::strings`] is [`Strings::OldRaw`] so that they understand what they get.
//!
//! # Restarts
//!
//! A connection is stateless as long as no handler keeps a [`Notifier`] or [data](Context::data) for it, and again when the
//! last notifier is dropped and the data is [taken](Context::take_data). Stateless connections survive a restart or reload:
//! the successor serves them without knowing anything about them. So do those with data of types that the router
//! [resumes](Router::resume), and with notifiers for what such data [subscribes to](Context::subscription). What
//! [`Router::connected`] keeps and takes is no reason either way: the successor's does it again. The others are
//! closed; a warning in the log names each type that is the reason, once. What handlers hold themselves, such as a counter, begins anew,
//! unless the router [hands it over](Router::hand_over).
//!
//! # Tests
//!
//! A router is tested without sockets: `Exchange::with_worker(|worker| Rpc::new(worker, router), Limits::default())` of
//! [`ringhold_core::testing`] takes the bytes of requests and gives those of replies. Answers that other threads give are
//! waited for with its `deliver_within`.
#![forbid(unsafe_code)]
#![warn(missing_debug_implementations)]

mod answer;
mod builtin;
mod call;
mod clock;
mod context;
mod drops;
mod envelope;
mod fault;
mod guard;
mod hooks;
mod left;
mod methods;
mod names;
mod notify;
mod params;
mod pending;
mod recent;
mod responder;
mod resume;
mod router;
mod serve;
mod service;
mod session;
mod strings;
mod token;
mod turn;

pub use answer::{Answer, Answered};
pub use call::Call;
pub use context::Context;
pub use fault::Fault;
pub use hooks::{Arrival, Gone};
pub use left::TakeOverError;
pub use notify::{Notification, Notifier, NotifyError};
pub use responder::Responder;
pub use resume::Resumed;
pub use router::Router;
pub use serve::ServeRpc;
pub use service::Rpc;
pub use session::Session;
pub use strings::Strings;
pub use turn::Turn;

/// The page about services shows what is compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/services.md")]
struct Services;
