//! The blocking client against a server that behaves, and one that does not.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod calls;
mod limits;
mod received;
#[path = "../reference/mod.rs"]
mod reference;

use std::net::TcpStream;
use std::time::Duration;

use reference::{Behaviour, Fault, Server};
use ringhold_client::{Address, Client, Options};

/// No test waits longer than this for what should come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What should not come is waited for this long.
pub(crate) const SHORT: Duration = Duration::from_millis(50);

pub(crate) fn connect_to(address: &Address, call_timeout: Duration) -> Client {
    let options = Options {
        call_timeout: Some(call_timeout),
        ..Options::default()
    };
    Client::connect(address, options).unwrap()
}

pub(crate) fn connect_with(server: &Server, call_timeout: Duration) -> Client {
    connect_to(&server.address, call_timeout)
}

pub(crate) fn connect(server: &Server) -> Client {
    connect_with(server, PATIENCE)
}

pub(crate) fn patient(address: &Address) -> Client {
    connect_to(address, PATIENCE)
}

pub(crate) fn serve(faults: impl IntoIterator<Item = (u64, Fault)>) -> Server {
    Server::start(Behaviour::faulty(faults))
}

/// Closing the stream then resets the connection.
pub(crate) fn reset_at_close(stream: &TcpStream) {
    socket2::SockRef::from(stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}
