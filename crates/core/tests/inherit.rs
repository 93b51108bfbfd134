//! The contract of inherited descriptors (sd_listen_fds(3)), row by row, each in a process of its own with a real
//! environment and real descriptors.
//!
//! Without the usual harness, whose threads the inheriting process must not have: this program runs itself again,
//! through a shell that lays descriptors at 3 and up and knows the number of its own process.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/cases.rs"]
mod cases;

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use ringhold_core::inherit::Inherited;
use rustix::fs::{fstat, fstatfs};
use rustix::io::{FdFlags, fcntl_getfd};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

const VARIABLES: [&str; 4] = [
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
];

fn main() -> ExitCode {
    cases::main(&all(), |case| case.title, run, child)
}

/// One row.
struct Case {
    title: &'static str,
    /// What the shell sets `LISTEN_PID` to; `$$` is the process itself.
    pid: Option<&'static str>,
    pidfdid: Option<Identity>,
    fds: Option<&'static str>,
    names: Option<OsString>,
    /// How many descriptors are open from 3 on.
    open: usize,
    /// What the process is to do apart from taking.
    arguments: &'static [&'static str],
    expected: Expected,
}

enum Identity {
    Own,
    Other,
    Text(&'static str),
}

enum Expected {
    /// These names, for descriptors 3 and up.
    Names(Vec<String>),
    /// An error that contains this text.
    Error(&'static str),
}

fn case(title: &'static str, names: Option<&str>, expected: Expected) -> Case {
    Case {
        title,
        pid: Some("$$"),
        pidfdid: None,
        fds: Some("2"),
        names: names.map(OsString::from),
        open: 2,
        arguments: &[],
        expected,
    }
}

fn named(names: &[&str]) -> Expected {
    Expected::Names(names.iter().map(|&name| name.to_owned()).collect())
}

fn all() -> Vec<Case> {
    let mut cases = pid_cases();
    cases.extend(count_cases());
    cases.extend(name_cases());
    cases.extend(process_cases());
    cases
}

fn pid_cases() -> Vec<Case> {
    let other = |title, pidfdid| Case {
        pid: Some("1"),
        pidfdid,
        ..case(title, Some("a:b"), named(&[]))
    };
    vec![
        Case {
            pid: None,
            fds: None,
            ..case("nothing is announced", None, named(&[]))
        },
        Case {
            pid: None,
            ..case("no LISTEN_PID", Some("a:b"), named(&[]))
        },
        other("LISTEN_PID of another process", None),
        // Nothing else is looked at then.
        other(
            "LISTEN_PID of another process and no inode",
            Some(Identity::Text("x")),
        ),
        Case {
            fds: Some("0"),
            ..other("LISTEN_PID of another process and no count", None)
        },
        Case {
            names: Some("a".into()),
            ..other("LISTEN_PID of another process and wrong names", None)
        },
        Case {
            pid: Some("x"),
            ..case(
                "LISTEN_PID is no number",
                None,
                Expected::Error("LISTEN_PID is \"x\""),
            )
        },
        Case {
            pid: Some(""),
            ..case(
                "LISTEN_PID is empty",
                None,
                Expected::Error("LISTEN_PID is \"\""),
            )
        },
        Case {
            pidfdid: Some(Identity::Own),
            ..case("LISTEN_PIDFDID is ours", Some("a:b"), named(&["a", "b"]))
        },
        Case {
            pidfdid: Some(Identity::Other),
            ..case(
                "LISTEN_PIDFDID is another process's",
                Some("a:b"),
                // A kernel without inodes for pidfds cannot tell; then the number of the process decides.
                if pidfds_have_inodes() {
                    named(&[])
                } else {
                    named(&["a", "b"])
                },
            )
        },
        Case {
            pidfdid: Some(Identity::Text("-3")),
            ..case(
                "LISTEN_PIDFDID is no number",
                Some("a:b"),
                Expected::Error("LISTEN_PIDFDID is \"-3\""),
            )
        },
    ]
}

fn count_cases() -> Vec<Case> {
    let wrong = |title, fds, text| Case {
        fds: Some(fds),
        ..case(title, None, Expected::Error(text))
    };
    vec![
        Case {
            fds: None,
            ..case("no LISTEN_FDS", Some("a:b"), named(&[]))
        },
        Case {
            fds: Some("1"),
            ..case("one of two open descriptors", Some("a"), named(&["a"]))
        },
        wrong("LISTEN_FDS is no number", "two", "LISTEN_FDS is \"two\""),
        wrong("LISTEN_FDS is empty", "", "LISTEN_FDS is \"\""),
        wrong(
            "LISTEN_FDS is zero",
            "0",
            "LISTEN_FDS is \"0\", but it must be a number above zero",
        ),
        wrong("LISTEN_FDS is below zero", "-1", "LISTEN_FDS is \"-1\""),
        wrong(
            "LISTEN_FDS is larger than a number",
            "99999999999",
            "LISTEN_FDS is \"99999999999\"",
        ),
        wrong(
            "LISTEN_FDS is larger than the last descriptor",
            "2147483645",
            "LISTEN_FDS",
        ),
        wrong(
            "LISTEN_FDS overflows",
            "4294967295",
            "LISTEN_FDS is \"4294967295\"",
        ),
        wrong(
            "a descriptor is not open",
            "3",
            "LISTEN_FDS announces 3 inherited descriptors from number 3 on, but",
        ),
        Case {
            open: 0,
            ..wrong("no descriptor is open", "1", "not all of them are open")
        },
    ]
}

fn name_cases() -> Vec<Case> {
    let long = "x".repeat(255);
    let three = |title, names, expected| Case {
        fds: Some("3"),
        open: 3,
        ..case(title, names, expected)
    };
    vec![
        case("names", Some("a:b"), named(&["a", "b"])),
        case("no LISTEN_FDNAMES", None, named(&["unknown", "unknown"])),
        case("names repeat", Some("a:a"), named(&["a", "a"])),
        three("an empty name", Some("x::z"), named(&["x", "", "z"])),
        three(
            "empty names at the ends",
            Some(":y:"),
            named(&["", "y", ""]),
        ),
        Case {
            fds: Some("1"),
            ..case("one empty name", Some(""), named(&[""]))
        },
        case(
            "the default name of a unit",
            Some("a\\x2db.socket: ~"),
            named(&["a\\x2db.socket", " ~"]),
        ),
        case(
            "long names",
            Some(&format!("{long}:{long}")),
            named(&[&long, &long]),
        ),
        case(
            "too few names",
            Some("a"),
            Expected::Error("\"a\", a list of 1 for 2 inherited descriptors"),
        ),
        case(
            "too many names",
            Some("a:b:c"),
            Expected::Error("\"a:b:c\", a list of 3 for 2 inherited descriptors"),
        ),
        Case {
            names: Some(OsStr::from_bytes(b"a:\xff").to_owned()),
            ..case(
                "names that are not text",
                None,
                Expected::Error("LISTEN_FDNAMES is "),
            )
        },
    ]
}

fn process_cases() -> Vec<Case> {
    vec![
        Case {
            arguments: &["twice"],
            ..case("taken twice", Some("a:b"), named(&["a", "b"]))
        },
        Case {
            arguments: &["thread"],
            ..case(
                "another thread runs",
                Some("a:b"),
                Expected::Error("threads are running already"),
            )
        },
        Case {
            arguments: &["thread"],
            pid: None,
            fds: None,
            ..case(
                "another thread runs and nothing is announced",
                None,
                named(&[]),
            )
        },
    ]
}

/// What the process does that inherits: takes, and prints what it got.
fn child(arguments: &[String]) {
    let wants = |what: &str| arguments.iter().any(|argument| argument == what);
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let thread = wants("thread").then(|| std::thread::spawn(move || stopped.recv()));
    let result = Inherited::take();
    if wants("twice") {
        let again = Inherited::take().map(|inherited| inherited.descriptors.len());
        assert!(matches!(again, Ok(0)), "{again:?}");
    }
    drop(stop);
    thread.map(std::thread::JoinHandle::join);
    match result {
        Ok(inherited) => {
            for descriptor in inherited.descriptors {
                assert_eq!(descriptor.fd.as_raw_fd(), descriptor.number);
                let close_on_exec = fcntl_getfd(&descriptor.fd)
                    .unwrap()
                    .contains(FdFlags::CLOEXEC);
                let mut content = String::new();
                std::fs::File::from(descriptor.fd)
                    .read_to_string(&mut content)
                    .unwrap();
                println!(
                    "{} {close_on_exec} {content} {}",
                    descriptor.number, descriptor.name
                );
            }
        }
        Err(error) => println!("error: {error}"),
    }
    for variable in VARIABLES {
        if std::env::var_os(variable).is_some() {
            println!("left: {variable}");
        }
    }
}

fn run(case: &Case) -> Result<(), String> {
    let directory = tempfile::tempdir().unwrap();
    for number in 3..6 {
        let path = directory.path().join(number.to_string());
        std::fs::write(path, format!("content-{number}")).unwrap();
    }
    let output = spawn(case, directory.path());
    let expected = lines(case);
    let right = match &expected {
        Ok(expected) => output == *expected,
        Err((text, rest)) => {
            let says = |line: &String| line.starts_with("error: ") && line.contains(text);
            output.first().is_some_and(says) && output[1..] == *rest
        }
    };
    match right {
        true => Ok(()),
        false => Err(format!("expected {expected:#?}\nfound {output:#?}")),
    }
}

/// The lines that the process is to print, or for an error the text in the first and the lines after it.
fn lines(case: &Case) -> Result<Vec<String>, (&'static str, Vec<String>)> {
    match &case.expected {
        Expected::Names(names) => {
            let descriptors = names.iter().zip(3..);
            Ok(descriptors
                .map(|(name, number)| format!("{number} true content-{number} {name}"))
                .collect())
        }
        // Then nothing was taken, and changing the environment would be a race.
        Expected::Error(text) if case.arguments.contains(&"thread") => {
            let set = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];
            Err((
                text,
                set.iter()
                    .map(|variable| format!("left: {variable}"))
                    .collect(),
            ))
        }
        Expected::Error(text) => Err((text, Vec::new())),
    }
}

/// Runs a case, and returns what the process printed.
fn spawn(case: &Case, directory: &Path) -> Vec<String> {
    // The shell tells its number from the start, and keeps it when it becomes the process.
    let mut script = String::from("read id; ");
    if case.pidfdid.is_some() {
        script.push_str("export LISTEN_PIDFDID=\"$id\"; ");
    }
    if let Some(pid) = case.pid {
        script.push_str(&format!("export LISTEN_PID=\"{pid}\"; "));
    }
    script.push_str("exec \"$0\" --child \"$@\"");
    for number in 3..3 + case.open {
        let path: PathBuf = directory.join(number.to_string());
        script.push_str(&format!(" {number}<'{}'", path.display()));
    }
    // What came from whoever runs the tests would count as open.
    (3 + case.open..8).for_each(|number| script.push_str(&format!(" {number}<&-")));
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(script)
        .arg(std::env::current_exe().unwrap())
        .args(case.arguments);
    VARIABLES.iter().for_each(|variable| {
        command.env_remove(variable);
    });
    case.fds.map(|fds| command.env("LISTEN_FDS", fds));
    case.names
        .as_ref()
        .map(|names| command.env("LISTEN_FDNAMES", names));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let id = match case.pidfdid {
        None => String::new(),
        Some(Identity::Own) => inode(child.id()).to_string(),
        Some(Identity::Other) => inode(std::process::id()).to_string(),
        Some(Identity::Text(text)) => text.to_owned(),
    };
    writeln!(child.stdin.take().unwrap(), "{id}").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}: {output:?}", case.title);
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

fn inode(process: u32) -> u64 {
    let pid = Pid::from_raw(process.try_into().unwrap()).unwrap();
    fstat(pidfd_open(pid, PidfdFlags::empty()).unwrap())
        .unwrap()
        .st_ino
}

fn pidfds_have_inodes() -> bool {
    let own = pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).unwrap();
    // PID_FS_MAGIC
    fstatfs(own).unwrap().f_type == 0x5049_4446
}
