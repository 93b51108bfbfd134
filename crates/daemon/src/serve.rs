//! The commands that concern the daemon itself: `serve`, `check` and `probe`.

use std::io::{self, Write};

use ringhold_core::config::Config;
use ringhold_core::inherit::Inherited;
use ringhold_core::{Server, ServerError, panics};
use ringhold_log::Filter;
use ringhold_rpc::{Router, ServeRpc};

use crate::cli::{Check, Configuration, Serve};
use crate::exit::{Failure, print};
use crate::{NAME, defaults};

/// Serves until it is told to stop.
pub(crate) fn serve(arguments: Serve) -> Result<(), Failure> {
    // First of all: a signal that arrives while this process replaces its predecessor waits for `run`.
    if let Err(error) = ringhold_core::block_signals() {
        return Err(Failure::failed(format!("cannot block signals: {error}")));
    }
    // Before anything is opened that could get the number of an announced descriptor: even the log.
    let inherited = Inherited::take();
    let filter = match arguments.log {
        Some(filter) => filter,
        None => Filter::from_env("RINGHOLD_LOG")
            .map_err(|error| Failure::usage(error.to_string()))?
            .unwrap_or_default(),
    };
    ringhold_log::start(NAME, filter);
    panics::leave_caught_to_log();
    let server = server(&arguments.configuration)?;
    let result = match inherited {
        Ok(inherited) => server.inherited(inherited).run(),
        Err(error) => Err(error.into()),
    };
    result.map_err(failure)
}

/// Prints what would be listened on, unless only problems are wanted. Those that may have gone until it starts are on stderr.
pub(crate) fn check(arguments: &Check) -> Result<(), Failure> {
    let server = server(&arguments.configuration)?;
    let table = if arguments.assume_inherited {
        server.check_assuming_inherited()
    } else {
        server.check()
    };
    let table = table.map_err(failure)?;
    for warning in table.warnings() {
        // Nobody reads it if stderr is closed.
        let _ = writeln!(io::stderr(), "{NAME}: warning: {warning}");
    }
    match arguments.quiet {
        true => Ok(()),
        false => print(table.to_string().trim_end()),
    }
}

/// Prints what the kernel offers.
pub(crate) fn probe() -> Result<(), Failure> {
    let report = ringhold_core::probe::probe();
    print(&report.to_string())?;
    match report.engine() {
        Some(_) => Ok(()),
        // The report ends with the reasons.
        None => Err(Failure::failed("")),
    }
}

/// The server with everything that a configuration can name.
fn server(configuration: &Configuration) -> Result<Server, Failure> {
    let config: Config = defaults::configuration(configuration.config.as_deref())
        .map_err(|error| Failure::usage(error.to_string()))?;
    Ok(Server::new(config)
        .inherited_only(configuration.inherited_only)
        .rpc("rpc", Router::new))
}

fn failure(error: ServerError) -> Failure {
    Failure::new(error.exit_status(), error.to_string())
}
