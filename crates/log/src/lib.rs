//! The log of a daemon: events of the crate `tracing`, to where they are read.
//!
//! - To the journal, with fields, when the service manager connected stderr to it (`JOURNAL_STREAM`, systemd.exec(5)).
//! - To stderr, each line with its priority as `<6>`, if a service manager started this process, and reads it otherwise
//!   (sd-daemon(3)): `SYSTEMD_EXEC_PID` is this process or, where that is not set, `NOTIFY_SOCKET` is.
//!   The program that a reload asks, a child of the one that serves, writes as that one.
//! - To stderr in a form for people, with colours on a terminal unless `NO_COLOR` is set.
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use ringhold_log::Filter;
//!
//! fn main() -> ExitCode {
//!     match serve() {
//!         Ok(()) => ExitCode::SUCCESS,
//!         Err(error) => {
//!             ringhold_log::report("station", error);
//!             ExitCode::FAILURE
//!         }
//!     }
//! }
//!
//! fn serve() -> Result<(), Box<dyn std::error::Error>> {
//!     let filter = Filter::from_env("STATION_LOG")?.unwrap_or_default();
//!     ringhold_log::start("station", filter);
//!     // Here the server runs.
//!     Ok(())
//! }
//! ```
#![forbid(unsafe_code)]

mod destination;
mod filter;

use std::env;
use std::fmt::{self, Display};
use std::io::{self, Write};

use tracing::{Event, Level, Subscriber};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use destination::Destination;
pub use filter::{Filter, FilterError};

/// Begins to log what `filter` lets pass, to where the environment says.
///
/// `name` is that of the program. In the journal it is the `SYSLOG_IDENTIFIER` of each entry, and in capitals it comes before the
/// names of fields, as in `RINGHOLD_SOCKET`; what cannot be in such a name becomes `_`.
///
/// Call `Inherited::take` of `ringhold-core` before this: the log opens a descriptor, which could get a number that
/// `LISTEN_FDS` announces.
///
/// # Panics
///
/// If the process has a subscriber already.
pub fn start(name: &str, filter: Filter) {
    let Filter(filter) = filter;
    let destination = Destination::here();
    let (journal, failure) = match destination {
        Destination::Journal => match journal(name) {
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

/// Prints why the program ends to stderr, whatever the filter says: each line of the message for itself, behind the name of the
/// program and, for a service manager, the priority of an error.
pub fn report(name: &str, message: impl Display) {
    let prefix = match Destination::here() {
        Destination::Journal | Destination::Manager => "<3>",
        Destination::Terminal | Destination::Plain => "",
    };
    let mut stderr = io::stderr().lock();
    for line in message.to_string().lines() {
        // There is nobody left to tell if stderr is closed.
        let _ = writeln!(stderr, "{prefix}{name}: {line}");
    }
}

fn journal(name: &str) -> io::Result<tracing_journald::Layer> {
    let priorities = PriorityMappings {
        info: Priority::Informational,
        debug: Priority::Debug,
        ..PriorityMappings::new()
    };
    Ok(tracing_journald::layer()?
        .with_syslog_identifier(name.to_owned())
        .with_field_prefix(field_prefix(name))
        .with_priority_mappings(priorities))
}

/// What comes before the names of fields. The journal drops a field whose name has other characters than these, or does not
/// begin with a letter (systemd.journal-fields(7)).
fn field_prefix(name: &str) -> Option<String> {
    let name = name.trim_start_matches(|first: char| !first.is_ascii_alphabetic());
    let prefix = name.replace(|other: char| !other.is_ascii_alphanumeric(), "_");
    (!prefix.is_empty()).then(|| prefix.to_ascii_uppercase())
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

    #[test]
    fn fields_have_names_that_the_journal_takes() {
        let prefix = |name| field_prefix(name);
        assert_eq!(prefix("ringhold").as_deref(), Some("RINGHOLD"));
        assert_eq!(prefix("my-daemon2.é").as_deref(), Some("MY_DAEMON2__"));
        assert_eq!(prefix("_2nd").as_deref(), Some("ND"));
        assert_eq!(prefix("22"), None);
    }

    #[test]
    fn every_line_has_the_prefix() {
        use std::sync::{Arc, Mutex};
        let written = Arc::new(Mutex::new(Vec::new()));
        let sink = written.clone();
        struct Sink(Arc<Mutex<Vec<u8>>>);
        impl Write for Sink {
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
