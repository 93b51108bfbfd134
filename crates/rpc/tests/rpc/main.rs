//! The service without sockets: bytes in, bytes out.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod client;
mod counts;
mod deferred;
mod ends;
mod envelopes;
mod errors;
mod gapless;
mod guard;
mod hooks;
mod left;
mod lengths;
mod notifications;
mod old_raw;
mod random;
mod repeatable;
mod requests;
mod resume;
mod typed;
mod watches;
