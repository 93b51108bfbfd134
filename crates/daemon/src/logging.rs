//! Where the log goes: to the journal, to stderr for a service manager, or to a person.

use std::env;
use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// Begins to log what `filter` lets pass, to where the environment says.
pub(crate) fn start(filter: Targets) {
    let destination = Destination::of(&Surroundings::look());
    let (journal, failure) = match destination {
        Destination::Journal => match journal() {
            Ok(journal) => (Some(journal), None),
            Err(error) => (None, Some(error)),
        },
        _ => (None, None),
    };
    let registry = tracing_subscriber::registry();
    if let Some(journal) = journal {
        registry.with(journal.with_filter(filter)).init();
        return;
    }
    // A failure to write a line must not become a second line, which would panic if stderr is closed.
    let stderr = tracing_subscriber::fmt::layer()
        .log_internal_errors(false)
        .with_writer(io::stderr)
        .with_target(false);
    match destination {
        Destination::Terminal => {
            let colours = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            let layer = stderr.with_ansi(colours);
            registry.with(layer.with_filter(filter)).init();
        }
        Destination::Plain => {
            let layer = stderr.with_ansi(false);
            registry.with(layer.with_filter(filter)).init();
        }
        // If the journal cannot be reached by its socket, it still reads stderr.
        Destination::Manager | Destination::Journal => {
            let layer = stderr.with_ansi(false).event_format(Prefixed);
            registry.with(layer.with_filter(filter)).init();
        }
    }
    if let Some(error) = failure {
        tracing::warn!("cannot reach the journal, logging to stderr: {error}");
    }
}

/// What a line about a fatal error begins with, which is printed whatever the filter says.
pub(crate) fn error_prefix() -> &'static str {
    match Destination::of(&Surroundings::look()) {
        Destination::Journal | Destination::Manager => "<3>",
        Destination::Terminal | Destination::Plain => "",
    }
}

/// Reads a filter: a level, or levels for modules, as in `info,ringhold_core=debug`.
///
/// # Errors
/// What is wrong, and what would be right.
pub(crate) fn parse_filter(text: &str) -> Result<Targets, String> {
    // A word that is no level would be taken as the name of a module, and the rest be silent.
    let wrong = text
        .split(',')
        .map(|part| part.rsplit_once('=').map_or(part, |(_, level)| level))
        .find(|level| level.parse::<LevelFilter>().is_err() || level.is_empty());
    match wrong {
        Some(level) => Err(format!(
            "{level:?} is not a level; levels are error, warn, info, debug, trace and off"
        )),
        None => text.parse().map_err(|error| format!("{error}")),
    }
}

/// What is logged unless the command line says it: what the variable `RINGHOLD_LOG` says, if it says anything.
///
/// # Errors
/// What is wrong with the variable.
pub(crate) fn usual_filter() -> Result<Targets, String> {
    match env::var_os("RINGHOLD_LOG").filter(|value| !value.is_empty()) {
        Some(value) => parse_filter(&value.to_string_lossy()),
        None => Ok(Targets::new().with_default(Level::INFO)),
    }
}

/// What is known about stderr.
struct Surroundings {
    /// The variable `JOURNAL_STREAM`: the device and inode of the stream that leads to the journal (systemd.exec(5)).
    journal_stream: Option<String>,
    /// The device and inode of stderr.
    stderr: Option<(u64, u64)>,
    terminal: bool,
    /// Whether a service manager started this process.
    managed: bool,
}

impl Surroundings {
    fn look() -> Self {
        let stderr = io::stderr();
        let identity = stderr
            .as_fd()
            .try_clone_to_owned()
            .and_then(|fd| File::from(fd).metadata());
        Surroundings {
            journal_stream: env::var("JOURNAL_STREAM").ok(),
            stderr: identity.ok().map(|file| (file.dev(), file.ino())),
            terminal: stderr.is_terminal(),
            managed: ["INVOCATION_ID", "NOTIFY_SOCKET"]
                .iter()
                .any(|variable| env::var_os(variable).is_some()),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Destination {
    /// The journal's own socket, with fields.
    Journal,
    /// stderr, each line with the priority prefix of sd-daemon(3).
    Manager,
    /// stderr, for a person.
    Terminal,
    /// stderr, which is a file or a pipe.
    Plain,
}

impl Destination {
    fn of(surroundings: &Surroundings) -> Self {
        let announced = surroundings
            .journal_stream
            .as_deref()
            .and_then(|value| value.split_once(':'))
            .and_then(|(device, inode)| Some((device.parse().ok()?, inode.parse().ok()?)));
        // A parent's variable may be left over after stderr was redirected, so they are compared.
        if announced.is_some() && announced == surroundings.stderr {
            Destination::Journal
        } else if surroundings.terminal {
            Destination::Terminal
        } else if surroundings.managed {
            Destination::Manager
        } else {
            Destination::Plain
        }
    }
}

fn journal() -> io::Result<tracing_journald::Layer> {
    let priorities = PriorityMappings {
        info: Priority::Informational,
        debug: Priority::Debug,
        ..PriorityMappings::new()
    };
    Ok(tracing_journald::layer()?
        .with_syslog_identifier("ringhold".to_owned())
        .with_field_prefix(Some("RINGHOLD".to_owned()))
        .with_priority_mappings(priorities))
}

/// `<6>message field=value`: the form of sd-daemon(3).
struct Prefixed;

impl<S, N> FormatEvent<S, N> for Prefixed
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = String::new();
        context.format_fields(Writer::new(&mut text), event)?;
        let priority = priority(event.metadata().level());
        // The prefix holds for its line only.
        for line in text.lines() {
            writeln!(writer, "<{priority}>{line}")?;
        }
        Ok(())
    }
}

/// The number of a level in sd-daemon(3).
fn priority(level: &Level) -> u8 {
    match *level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination(journal_stream: Option<&str>, terminal: bool, managed: bool) -> Destination {
        Destination::of(&Surroundings {
            journal_stream: journal_stream.map(str::to_owned),
            stderr: Some((8, 15)),
            terminal,
            managed,
        })
    }

    #[test]
    fn the_journal_is_used_only_if_stderr_is_it() {
        assert_eq!(destination(Some("8:15"), false, true), Destination::Journal);
        for left_over in ["8:16", "9:15", "8", "", "8:15:1", "x:y"] {
            assert_eq!(
                destination(Some(left_over), false, true),
                Destination::Manager
            );
        }
        assert_eq!(destination(None, true, true), Destination::Terminal);
        assert_eq!(destination(Some("1:1"), true, false), Destination::Terminal);
        assert_eq!(destination(None, false, false), Destination::Plain);
    }

    #[test]
    fn a_filter_names_known_levels() {
        for good in [
            "info",
            "WARN",
            "off",
            "info,ringhold_core=debug",
            "ringhold_core=trace",
        ] {
            assert!(parse_filter(good).is_ok(), "{good}");
        }
        for bad in ["", "inof", "info,", "ringhold_core=", "ringhold_core=loud"] {
            assert!(parse_filter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_line_has_the_prefix() {
        use std::sync::{Arc, Mutex};
        let written = Arc::new(Mutex::new(Vec::new()));
        let sink = written.clone();
        struct Sink(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Sink {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let layer = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_writer(move || Sink(sink.clone()))
            .event_format(Prefixed);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::error!("one\ntwo");
            tracing::warn!(socket = "rpc", "three");
            tracing::info!("four");
            tracing::debug!("five");
        });
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        assert_eq!(
            text,
            "<3>one\n<3>two\n<4>three socket=\"rpc\"\n<6>four\n<7>five\n"
        );
    }
}
