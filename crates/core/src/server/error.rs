//! Why a server could not start, or ended.

use std::fmt;
use std::io;

use crate::inherit::InheritError;
use crate::listeners::StartError;
use crate::rlimit;

/// Why a server could not start, or ended. `Debug` shows it as `Display` does, since it is what a `main` that returns it
/// prints.
#[non_exhaustive]
pub enum ServerError {
    /// The descriptors that the environment announces could not be taken.
    Inherit(InheritError),
    /// The listeners cannot be had.
    Listeners(StartError),
    /// No engine works here.
    Engine(String),
    /// A worker failed while it served.
    Worker {
        /// Which.
        worker: usize,
        /// How.
        error: io::Error,
    },
    /// The operating system refused something else.
    System(io::Error),
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerError::Inherit(error) => error.fmt(f),
            ServerError::Listeners(error) => error.fmt(f),
            ServerError::Engine(reason) => f.write_str(reason),
            ServerError::Worker { worker, error } => write!(f, "worker {worker} failed: {error}"),
            ServerError::System(error) => write!(f, "{error}{}", rlimit::advice(error)),
        }
    }
}

impl fmt::Debug for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for ServerError {}

impl From<InheritError> for ServerError {
    fn from(error: InheritError) -> Self {
        ServerError::Inherit(error)
    }
}

impl From<StartError> for ServerError {
    fn from(error: StartError) -> Self {
        ServerError::Listeners(error)
    }
}

impl From<io::Error> for ServerError {
    fn from(error: io::Error) -> Self {
        ServerError::System(error)
    }
}
