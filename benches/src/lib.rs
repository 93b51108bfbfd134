//! Shared by the benches.
#![forbid(unsafe_code)]

pub mod choice;
pub mod daemon;
pub mod http;
pub mod profile;
pub mod server;
pub mod statistics;
pub mod threads;
pub mod ticks;
pub mod times;
pub mod turns;
pub mod varied;
pub mod verdict;
