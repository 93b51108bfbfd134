//! What both engines must do in the same way, with real sockets. Each test runs with one engine after the other.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod accepting;
mod alike;
mod bed;
mod bulk;
mod crowds;
mod descriptors;
mod eager;
mod leftovers;
mod one_way;
mod paused;
mod proxied;
#[path = "../faults/sources.rs"]
mod sources;
mod stopping;
mod streams;
mod successors;
mod watched;
