//! Connections without sockets: what a service is given and what its peer is sent, whatever arrives in whatever pieces.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../common/service.rs"]
mod answering;
mod closing;
mod counters;
mod cutting;
mod ending;
mod fanout;
mod frames;
mod handed_over;
mod handles;
mod large;
mod last_words;
mod limits;
mod memory;
mod model;
mod own_limits;
mod panics;
mod peers;
mod pressure;
mod promises;
mod proxied;
mod random;
#[path = "../../../framer/tests/common/reference.rs"]
#[allow(unreachable_pub, reason = "tests of the framer use it, too")]
mod reference;
mod refused;
mod reply_timeout;
mod resets;
mod service;
mod setup;
mod sources;
mod stop;
mod tickets;
mod ticks;
mod time;
