//! A whole daemon as it is deployed: settings of its own in the configuration file, a command that checks them, exit statuses, a log.
//! Try it with a file `/tmp/notes.toml`
//!
//! ```toml
//! [sockets.notes]
//! listen = ["127.0.0.1:4674"]
//! [app]
//! file = "/tmp/notes"
//! ```
//!
//! and `cargo run -p ringhold-rpc --example daemon -- --config /tmp/notes.toml`, from another terminal with
//! `ringhold call 127.0.0.1:4674 note '"it rains"'`. The lines of its unit are
//!
//! ```ini
//! ExecStart=/usr/local/bin/notes --inherited-only
//! ExecReload=/usr/local/bin/notes check --assume-inherited
//! ExecReload=/bin/sh -c 'kill -HUP $MAINPID'
//! ```

use std::error::Error;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ringhold_core::config::Config;
use ringhold_core::inherit::Inherited;
use ringhold_core::{Server, ServerError, Worker, block_signals, panics};
use ringhold_log::Filter;
use ringhold_rpc::{Fault, Router, Rpc};
use serde::Deserialize;

const NAME: &str = "notes";
const USAGE: &str = "usage: notes [check [--assume-inherited]] [--inherited-only] [--config FILE]";

/// The section `[app]`.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct App {
    file: Absolute,
}

/// What a type refuses is an error with the file, line and key, as those of the other sections are.
#[derive(Clone, Deserialize)]
#[serde(try_from = "PathBuf")]
struct Absolute(PathBuf);

impl TryFrom<PathBuf> for Absolute {
    type Error = String;

    fn try_from(path: PathBuf) -> Result<Self, String> {
        match path.is_absolute() {
            true => Ok(Absolute(path)),
            false => Err(format!("{} is no absolute path", path.display())),
        }
    }
}

/// Whether it can be written to, which the directory alone does not tell. Nothing is left behind: whoever checks may be another user.
fn look_at(file: &Path) -> io::Result<()> {
    match File::options().append(true).open(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // The service makes it.
            let other = file.with_extension(format!("tried-{}", std::process::id()));
            File::create_new(&other)?;
            std::fs::remove_file(other)
        }
        opened => opened.map(drop),
    }
}

/// Without a file in the program that a reload asks.
fn router(mut file: Option<File>) -> Router {
    Router::new()
        .method("note", move |line: String| {
            let file = file.as_mut().ok_or_else(|| Fault::new("no file"))?;
            Ok(file.write_all(format!("{line}\n").as_bytes())?)
        })
        .describe("note", "adds a line to the file")
}

#[derive(Default)]
pub(crate) struct Arguments {
    is_check: bool,
    assumes_inherited: bool,
    inherited_only: bool,
    config: Option<PathBuf>,
}

pub(crate) fn arguments(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments::default();
    while let Some(word) = words.next() {
        match word.as_str() {
            "check" => arguments.is_check = true,
            "--assume-inherited" => arguments.assumes_inherited = true,
            "--inherited-only" => arguments.inherited_only = true,
            "--config" => arguments.config = Some(words.next().ok_or(USAGE)?.into()),
            _ => return Err(format!("unknown argument {word:?}; {USAGE}")),
        }
    }
    Ok(arguments)
}

pub(crate) fn server(arguments: Arguments) -> Result<Server, Box<dyn Error>> {
    let path = arguments.config.unwrap_or("/etc/notes.toml".into());
    let (config, App { file }) = Config::from_file_with_app(&path)?;
    let Absolute(file) = file;
    let looked_at = file.clone();
    Ok(Server::new(config)
        .inherited_only(arguments.inherited_only)
        .preflight(move || {
            // What only the machine shows is told with the name of the configuration file here.
            look_at(&looked_at).map_err(|error| {
                let [path, file] = [&path, &looked_at].map(|path| path.display());
                format!("{path}: file {file} in [app] cannot be written to: {error}")
            })?;
            // A mistake in the names of methods refuses a reload.
            router(None);
            Ok(())
        })
        .try_service(NAME, move |worker: &Worker| {
            let opened = File::options().append(true).create(true).open(&file);
            opened.map(|file| Rpc::new(worker, router(Some(file))))
        }))
}

pub(crate) fn run(words: impl Iterator<Item = String>) -> Result<(), Box<dyn Error>> {
    let arguments = arguments(words)?;
    if arguments.is_check {
        if arguments.assumes_inherited {
            // `ExecReload=` need not have the table in the log each time.
            server(arguments)?.check_assuming_inherited()?;
            return Ok(());
        }
        let table = server(arguments)?.check()?;
        for warning in table.warnings() {
            // Nobody reads it if stderr is closed.
            let _ = writeln!(io::stderr(), "{NAME}: warning: {warning}");
        }
        return Ok(write!(io::stdout(), "{table}")?);
    }
    // First of all: a signal waits for `Server::run`, and nothing that is opened gets the number of a descriptor that is passed on.
    block_signals()?;
    let inherited = Inherited::take().map_err(ServerError::from)?;
    let filter = Filter::from_env("NOTES_LOG")?.unwrap_or_default();
    ringhold_log::start(NAME, filter);
    panics::leave_caught_to_log();
    server(arguments)?.inherited(inherited).run()?;
    Ok(())
}

/// 2 where the arguments, the configuration or the unit have to be changed, else 1.
pub(crate) fn exit_status(error: &(dyn Error + 'static)) -> u8 {
    let failed = error.downcast_ref::<ServerError>();
    failed.map_or(2, ServerError::exit_status)
}

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ringhold_log::report(NAME, &error);
            exit_status(&*error).into()
        }
    }
}
