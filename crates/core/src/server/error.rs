//! Why a server could not start, or ended.

use std::error::Error;
use std::fmt;
use std::io;

use crate::inherit::InheritError;
use crate::listeners::{StartError, StartProblem};
use crate::patience::Obstacle;
use crate::rlimit::{self, RAISE_LIMIT};

/// Why a server could not start, or ended. `Debug` shows it as `Display` does, since it is what a `main` that returns it
/// prints.
#[non_exhaustive]
pub enum ServerError {
    /// The descriptors that the environment announces could not be taken.
    Inherit(InheritError),
    /// A thread was started before SIGTERM, SIGINT and SIGHUP were blocked, so that they would end the process: see
    /// [`block_signals`](crate::block_signals).
    Signals {
        /// Its name.
        thread: String,
    },
    /// The listeners cannot be had.
    Listeners(StartError),
    /// A [`Config`](crate::config::Config) that the program has written itself cannot be: a file that said so would not have been read.
    Config(String),
    /// No engine works here.
    Engine(String),
    /// The process may open too few files (RLIMIT_NOFILE). What a predecessor left is untouched.
    Descriptors {
        /// How many descriptors it takes to serve, and to reload and hand over, besides those that are open and those of
        /// connections.
        needed: usize,
        /// How many of them there are.
        free: usize,
    },
    /// A descriptor of the application cannot be had: see [`Server::descriptor`](crate::Server::descriptor).
    Descriptor {
        /// Its name.
        name: String,
        /// What its function says, or that its address cannot be had.
        error: io::Error,
    },
    /// A descriptor of the application cannot be had as the program, its configuration and the socket units are: its name is used
    /// otherwise, or what a unit passes on is not claimed, is no datagram socket where one is wanted, or is missing.
    Claim {
        /// Its name.
        name: String,
        /// What is in the way, and what to change.
        reason: String,
    },
    /// The program itself does not want to serve as things are: see [`Server::preflight`](crate::Server::preflight).
    Preflight(Box<dyn Error + Send + Sync>),
    /// A service could not be made: see [`Server::try_service`](crate::Server::try_service). What a predecessor left in the
    /// service manager's store stays there.
    Service {
        /// Its name.
        service: String,
        /// On which worker. Others may have failed, too.
        worker: usize,
        /// What its function says.
        error: Box<dyn Error + Send + Sync>,
    },
    /// The thread of a worker cannot be started.
    Thread {
        /// Of which.
        worker: usize,
        /// What the operating system says.
        error: io::Error,
    },
    /// A worker failed while it served, or a service panicked when it was made.
    Worker {
        /// Which.
        worker: usize,
        /// How.
        error: io::Error,
    },
    /// Connections could not be given to a successor, or what a predecessor left could not be taken over: why, what becomes
    /// of them, and what to do.
    Handover(String),
    /// The operating system refused something else.
    System(io::Error),
    /// Several of these, each on a line of its own.
    Several(Vec<ServerError>),
}

impl ServerError {
    /// All of these, of which there is at least one.
    pub(crate) fn all(mut errors: Vec<ServerError>) -> Self {
        match errors.pop() {
            Some(only) if errors.is_empty() => only,
            last => {
                errors.extend(last);
                ServerError::Several(errors)
            }
        }
    }

    /// The operating system refused this step.
    pub(crate) fn at(step: &str) -> impl FnOnce(io::Error) -> Self {
        move |error| {
            let advice = rlimit::advice(&error);
            ServerError::System(io::Error::new(
                error.kind(),
                format!("{step}: {error}{advice}"),
            ))
        }
    }

    /// The status that a daemon exits with because of this: 2 if something has to be changed in its configuration, in the unit that starts
    /// it or in itself; 1 if it is a failure of the moment, such as an address in use. A configuration that cannot be
    /// read at all is a matter for 2 as well:
    ///
    /// ```no_run
    /// # use std::path::Path;
    /// use std::process::ExitCode;
    ///
    /// use ringhold_core::config::Config;
    /// use ringhold_core::{Server, ServerError};
    ///
    /// fn main() -> ExitCode {
    ///     let Err(error) = serve() else {
    ///         return ExitCode::SUCCESS;
    ///     };
    ///     eprintln!("{error}");
    ///     let failed = error.downcast_ref::<ServerError>();
    ///     failed.map_or(2, ServerError::exit_status).into()
    /// }
    ///
    /// fn serve() -> Result<(), Box<dyn std::error::Error>> {
    ///     let config = Config::from_file(Path::new("/etc/station.toml"))?;
    ///     Server::new(config).run()?;
    ///     Ok(())
    /// }
    /// ```
    pub fn exit_status(&self) -> u8 {
        let passing = |problem: &StartProblem| matches!(problem, StartProblem::Bind { .. });
        match self {
            ServerError::Inherit(_)
            | ServerError::Config(_)
            | ServerError::Preflight(_)
            | ServerError::Claim { .. } => 2,
            ServerError::Listeners(error) if !error.problems().iter().all(passing) => 2,
            // Whoever has changed that sees the others again.
            ServerError::Several(errors) => errors.iter().map(Self::exit_status).max().unwrap_or(1),
            _ => 1,
        }
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerError::Inherit(error) => error.fmt(f),
            ServerError::Signals { thread } => write!(
                f,
                "the thread {thread:?} does not block SIGTERM, SIGINT and SIGHUP, each of which would end the process there \
                 instead of stopping or reloading it; call block_signals first in main, before any thread starts"
            ),
            ServerError::Listeners(error) => error.fmt(f),
            ServerError::Preflight(error) => error.fmt(f),
            ServerError::Config(reason)
            | ServerError::Engine(reason)
            | ServerError::Handover(reason) => f.write_str(reason),
            ServerError::Descriptors { needed, free } => write!(
                f,
                "it takes {needed} descriptors to serve and to reload, before there is any connection, and only \
                 {free} are left{RAISE_LIMIT}"
            ),
            ServerError::Descriptor { name, error } => write!(
                f,
                "descriptor {name:?} of the application cannot be had: {error}{}",
                rlimit::advice(error)
            ),
            ServerError::Claim { name, reason } => write!(
                f,
                "descriptor {name:?} of the application cannot be had: {reason}"
            ),
            ServerError::Service {
                service,
                worker,
                error,
            } => write!(
                f,
                "service {service} cannot be made on worker {worker}: {error}"
            ),
            ServerError::Thread { worker, error } => write!(
                f,
                "the thread of worker {worker} cannot be started: {error}{}, or ask for fewer with workers",
                rlimit::thread_advice(error)
            ),
            ServerError::Worker { worker, error } => write!(f, "worker {worker} failed: {error}"),
            ServerError::System(error) => write!(f, "{error}{}", rlimit::advice(error)),
            ServerError::Several(errors) => {
                let lines: Vec<String> = errors.iter().map(Self::to_string).collect();
                f.write_str(&lines.join("\n"))
            }
        }
    }
}

impl fmt::Debug for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error for ServerError {}

impl Obstacle for ServerError {
    fn may_pass(&self) -> bool {
        matches!(self, ServerError::Thread { error, .. } if error.may_pass())
    }
}

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
