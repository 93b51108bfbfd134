//! What a daemon that starts threads of its own has to do before, and is told if it does not.
//!
//! Without the usual harness, which has threads: this program runs itself again for each case.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/cases.rs"]
mod cases;

use std::process::{Command, ExitCode};
use std::sync::mpsc;
use std::thread::Builder;

use ringhold_core::config::Config;
use ringhold_core::inherit::Inherited;
use ringhold_core::{Server, block_signals};
use rustix::process::{Signal, getpid, kill_process};

/// A title, what `main` does before `run`, and what that says. A SIGTERM that is pending by then stops who has started at once.
type Case = (&'static str, &'static [&'static str], &'static str);

const CASES: [Case; 9] = [
    ("nothing but the signal", &["block", "term"], "stopped"),
    (
        "a thread",
        &["thread"],
        "threads are running already, too late to take inherited descriptors; call block_signals and Inherited::take first",
    ),
    (
        "a thread behind the signals",
        &["block", "thread"],
        "threads are running already, too late to take inherited descriptors; call block_signals and Inherited::take first",
    ),
    (
        "a thread behind what is inherited",
        &["take", "thread"],
        "the thread \"early\" does not block SIGTERM, SIGINT and SIGHUP",
    ),
    (
        "a thread behind both",
        &["block", "take", "thread", "term"],
        "stopped",
    ),
    (
        "a program that is asked, as it should be",
        &["asked", "block", "take", "thread"],
        "ringhold: ready to take over\nstopped",
    ),
    (
        "a program that is asked, and could not start",
        &["asked", "take", "thread"],
        "the thread \"early\" does not block SIGTERM, SIGINT and SIGHUP",
    ),
    (
        "run elsewhere than on the first thread",
        &["take", "elsewhere"],
        "does not block SIGTERM, SIGINT and SIGHUP",
    ),
    (
        "run beside a thread that makes others, and blocks everything whenever it does",
        &["take", "elsewhere", "making"],
        "does not block SIGTERM, SIGINT and SIGHUP",
    ),
];

fn main() -> ExitCode {
    cases::main(&CASES, |(title, ..)| title, run, child)
}

fn run((_, arguments, expected): &Case) -> Result<(), String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    if arguments.contains(&"asked") {
        let question = "state=1\nworkers=1 256 0\nlisteners=0\n";
        command.env("RINGHOLD_PREFLIGHT", question);
    }
    let output = command.arg("--child").args(*arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let has_all = expected.lines().all(|line| said.contains(line));
    match output.status.success() && has_all {
        true => Ok(()),
        false => Err(format!("expected {expected:?}, found {output:?}")),
    }
}

fn child(steps: &[String]) {
    let mut inherited = None;
    let (mut elsewhere, mut making) = (false, false);
    // The thread lives until the process ends.
    let (_stop, stopped) = mpsc::channel::<()>();
    let mut stopped = Some(stopped);
    for step in steps {
        match step.as_str() {
            "block" => block_signals().unwrap(),
            "take" => inherited = Some(Inherited::take().unwrap()),
            "thread" => {
                let stopped = stopped.take().unwrap();
                let (begin, begun) = mpsc::channel();
                let thread = Builder::new().name("early".into());
                thread
                    .spawn(move || {
                        begin.send(()).unwrap();
                        stopped.recv()
                    })
                    .unwrap();
                // A thread that has only just begun blocks every signal.
                begun.recv().unwrap();
            }
            "term" => kill_process(getpid(), Signal::TERM).unwrap(),
            "elsewhere" => elsewhere = true,
            "making" => making = true,
            "asked" => {}
            _ => panic!("no step: {step}"),
        }
    }
    let serve = move || {
        let server = Server::new(Config::default());
        let result = match inherited {
            Some(inherited) => server.inherited(inherited).run(),
            None => server.run(),
        };
        match result {
            Ok(()) => println!("stopped"),
            Err(error) => println!("{error}"),
        }
    };
    if !elsewhere {
        return serve();
    }
    let serving = std::thread::spawn(serve);
    while making && !serving.is_finished() {
        std::thread::spawn(|| {}).join().unwrap();
    }
    serving.join().unwrap();
}
