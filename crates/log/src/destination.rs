//! Where the log goes.

use std::env;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::parent_id;
use std::process;

/// What is known about stderr.
struct Surroundings {
    /// The variable `JOURNAL_STREAM`: the device and inode of the stream that leads to the journal (systemd.exec(5)).
    journal_stream: Option<String>,
    /// The device and inode of stderr.
    stderr: Option<(u64, u64)>,
    terminal: bool,
    /// Whether a service manager started this process itself.
    managed: bool,
}

impl Surroundings {
    fn look() -> Self {
        let stderr = io::stderr();
        // A program that a reload asks is the child of the one that serves, and writes as that does. The server of
        // ringhold-core asks, and keeps NOTIFY_SOCKET to itself.
        let (started, notifies) = match env::var_os("RINGHOLD_PREFLIGHT") {
            Some(_) => (parent_id(), "RINGHOLD_PREFLIGHT_NOTIFIES"),
            None => (process::id(), "NOTIFY_SOCKET"),
        };
        let identity = stderr
            .as_fd()
            .try_clone_to_owned()
            .and_then(|fd| File::from(fd).metadata());
        Surroundings {
            journal_stream: env::var("JOURNAL_STREAM").ok(),
            stderr: identity.ok().map(|file| (file.dev(), file.ino())),
            terminal: stderr.is_terminal(),
            managed: is_managed(
                env::var("SYSTEMD_EXEC_PID").ok().as_deref(),
                env::var_os(notifies).is_some(),
                started,
            ),
        }
    }
}

/// Whether the service manager itself started this process. Everything below a unit inherits the unit's variables, so most of
/// them, as `INVOCATION_ID`, say nothing about who started it.
///
/// systemd puts the process that it starts into `SYSTEMD_EXEC_PID` (systemd.exec(5)); a replacement in place keeps both. Before
/// version 248, and from other managers, there is no such variable. There it counts that this process, or one above it, is
/// expected to notify.
fn is_managed(exec_pid: Option<&str>, notifies: bool, own_pid: u32) -> bool {
    match exec_pid {
        Some(pid) => pid.parse() == Ok(own_pid),
        None => notifies,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
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
    /// Where that of this process goes.
    pub(crate) fn here() -> Self {
        Self::of(&Surroundings::look())
    }

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
    fn what_is_inherited_from_a_unit_is_not_taken_for_its_own() {
        assert!(is_managed(Some("41"), false, 41));
        assert!(is_managed(Some("41"), true, 41));
        assert!(!is_managed(Some("41"), true, 42));
        assert!(!is_managed(Some(""), true, 42));
        // Before systemd 248.
        assert!(is_managed(None, true, 42));
        assert!(!is_managed(None, false, 42));
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
}
