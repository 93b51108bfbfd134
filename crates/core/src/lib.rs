//! Named sockets, workers and engines.

pub mod config;
pub mod cpus;
pub mod inherit;
pub mod limits;
pub mod listeners;
pub mod placement;
pub mod rlimit;
