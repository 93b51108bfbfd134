//! Restart and reload: what a client sees of them, which is nothing. Real processes under a small service manager.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on should end"
)]

#[path = "../common/mod.rs"]
mod common;

mod built;
mod load;
mod manager;
mod ports;

mod belongings;
mod bursts;
mod changes;
mod crash;
mod crowds;
mod datagrams;
mod deferred;
mod events;
mod left;
mod load_through;
mod locked;
mod options;
mod panics;
mod program;
mod proxied;
mod refused;
mod scarce;
mod sessions;
mod slow_manager;
mod storeless;
mod story;
mod stuck;
mod under_way;
mod used_up;
