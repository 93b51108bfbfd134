//! The blocking client against a server that behaves, and one that does not.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod calls;
mod limits;
#[path = "../reference/mod.rs"]
mod reference;

use std::time::Duration;

use reference::{Behaviour, Fault, Server};
use ringhold_client::{Client, Options};

/// No test waits longer than this for what should come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What should not come is waited for this long.
pub(crate) const SHORT: Duration = Duration::from_millis(50);

pub(crate) fn connect_with(server: &Server, call_timeout: Duration) -> Client {
    let options = Options {
        call_timeout: Some(call_timeout),
        ..Options::default()
    };
    Client::connect(&server.address, options).unwrap()
}

pub(crate) fn connect(server: &Server) -> Client {
    connect_with(server, PATIENCE)
}

pub(crate) fn serve(faults: impl IntoIterator<Item = (u64, Fault)>) -> Server {
    Server::start(Behaviour::faulty(faults))
}
