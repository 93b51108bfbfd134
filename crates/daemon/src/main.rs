//! `ringhold`: the daemon, and the tools to try it.
#![forbid(unsafe_code)]

mod call;
mod cli;
mod defaults;
#[cfg(test)]
mod documented;
mod exit;
mod json;
mod load;
mod serve;
mod status;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

/// What the program is called, in its log and before its errors.
const NAME: &str = "ringhold";

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        None => serve::serve(cli.serve),
        Some(Command::Serve(arguments)) => serve::serve(*arguments),
        Some(Command::Check(arguments)) => serve::check(&arguments),
        Some(Command::Probe(_)) => serve::probe(),
        Some(Command::Call(arguments)) => call::call(&arguments),
        Some(Command::Load(arguments)) => load::load(&arguments),
        Some(Command::Status(arguments)) => status::status(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
