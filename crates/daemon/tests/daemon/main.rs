//! The command as people and service managers use it: real processes, real sockets.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod harness;
#[path = "../handover/ports.rs"]
mod ports;

mod activation;
mod commands;
mod configuration;
mod hostile;
mod loads;
mod logs;
mod sockets;
mod stop;
