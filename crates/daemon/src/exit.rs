//! How a command ends, and what it prints.

use std::io::{self, Write};
use std::process::ExitCode;

use ringhold_client::{CallError, Plain, RemoteError};

use crate::{NAME, json};

/// Why a command did not do what it was asked to. The exit statuses are part of the interface; `ringhold --help`
/// lists them.
#[derive(Debug)]
pub(crate) struct Failure {
    status: u8,
    /// For the person who reads it. Empty if everything has been said.
    message: String,
}

impl Failure {
    /// With a status that somebody else has chosen.
    pub(crate) fn new(status: u8, message: impl Into<String>) -> Self {
        Failure {
            status,
            message: message.into(),
        }
    }

    /// Something went wrong while it ran, or the server answered with an error: status 1.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Failure::new(1, message)
    }

    /// The arguments or the configuration are wrong: status 2.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Failure::new(2, message)
    }

    /// The server gave no answer, or none that can be understood: status 3.
    pub(crate) fn unreachable(message: impl Into<String>) -> Self {
        Failure::new(3, message)
    }

    /// The same, of this step.
    pub(crate) fn of(self, step: &str) -> Self {
        Failure::new(self.status, format!("{step}: {}", self.message))
    }

    /// Prints the message to stderr, each line for itself and with the name of the command.
    pub(crate) fn report(self) -> ExitCode {
        ringhold_log::report(NAME, self.message);
        ExitCode::from(self.status)
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let message = error.to_string();
        match error {
            CallError::Remote(error) => remote(&error),
            CallError::Params(_) => Failure::usage(message),
            _ => Failure::unreachable(message),
        }
    }
}

/// The error that the server answered with: a text as it is, anything else as JSON.
fn remote(error: &RemoteError) -> Failure {
    if error.as_str().is_some() {
        return Failure::failed(error.to_string());
    }
    let text = json::print_encoded(error.value())
        .unwrap_or_else(|_| "an error that is not valid msgpack".to_owned());
    Failure::failed(format!(
        "the server answered with an error: {}",
        Plain(&text)
    ))
}

/// Prints to stdout. A reader that has seen enough, as `head` has, is no failure.
///
/// # Errors
/// Stdout cannot be written.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    print_on(text).map(drop)
}

/// As [`print()`], for somebody who has more to say: whether the reader takes it.
///
/// # Errors
/// Stdout cannot be written.
pub(crate) fn print_on(text: &str) -> Result<bool, Failure> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::failed(format!("cannot write the output: {error}"))),
    }
}
