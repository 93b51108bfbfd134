//! The command `load`.

use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use ringhold_client::Limits;
use ringhold_client::load::{self, Counts, LoadError, LoadPlan, Progress};

use crate::cli::{Echo, Load, Mode, Params};
use crate::exit::{Failure, print};

/// Puts the load on, and reports.
pub(crate) fn load(arguments: &Load) -> Result<(), Failure> {
    let plan = plan(arguments)?;
    // A load that may not have more descriptors makes do with those that it may have.
    let _ = ringhold_core::rlimit::raise();
    // Until the connections stand there is nothing to report, and Ctrl-C ends the process.
    let connected = load::connect(&plan).map_err(failure)?;
    let mut line = Line::new(arguments);
    // Before there are threads, so that all of them leave the signal to it.
    let interrupt = interrupt();
    let mut interrupted = false;
    let report = connected.run(|progress| {
        if arrived(interrupt.as_ref()) {
            if interrupted {
                // Whoever asks twice does not want to wait for replies.
                line.clear();
                std::process::exit(130);
            }
            interrupted = true;
        }
        line.show(progress);
        if interrupted {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    line.clear();
    let report = report.map_err(failure)?;
    if arguments.json {
        let json = serde_json::to_string(&report)
            .map_err(|error| Failure::failed(format!("the report cannot be shown: {error}")))?;
        print(&json)?;
    } else {
        print(&report.to_string())?;
        if arguments.mode == Mode::Notify {
            print(UNCONFIRMED)?;
        }
    }
    // An interrupted load did not do all that was planned, but what it did was right.
    let right = if interrupted {
        report.counts.is_clean()
    } else {
        report.is_clean()
    };
    match right {
        true => Ok(()),
        false => Err(Failure::failed(advice(arguments, &report.counts))),
    }
}

/// What stands below the report of notifications.
const UNCONFIRMED: &str = "unconfirmed nothing answers a notification: the server took them, and whether it has the method, and what \
                           failed, is in its log and in `ringhold status`";

/// What to do if the method is not one for a load. Otherwise the report says what is wrong, and this is empty.
fn advice(arguments: &Load, counts: &Counts) -> String {
    if counts.answered > 0 || counts.errors + counts.wrong == 0 {
        return String::new();
    }
    let needed = match arguments.mode {
        Mode::Subscribe => "one that subscribes, and --params what it takes",
        _ => {
            "one that returns its first parameter (with --echo all, all of them); \"echo\" is there if the service's router is a \
             Router::new"
        }
    };
    format!(
        "no reply to {:?} was right; --method names the method, {needed}",
        arguments.method
    )
}

fn failure(error: LoadError) -> Failure {
    let message = error.to_string();
    match error {
        LoadError::Plan(error) => Failure::usage(format!(
            "this load is not possible: {}: {}",
            option(error.field()),
            error.why()
        )),
        LoadError::Connect { .. } => Failure::unreachable(message),
        _ => Failure::failed(message),
    }
}

/// The option that sets a field of a plan.
fn option(field: &str) -> String {
    match field {
        "payload" => "--size".to_owned(),
        field => format!("--{}", field.replace('_', "-")),
    }
}

/// That every option that was given means something for this load.
fn all_mean_something(arguments: &Load) -> Result<(), Failure> {
    use Mode::{Call, Notify, Subscribe};
    let options: [(&str, bool, &[Mode]); 8] = [
        ("--short-lived", arguments.short_lived > 0, &[Call]),
        (
            "--requests-per-connection",
            arguments.requests_per_connection.is_some(),
            &[Call],
        ),
        ("--depth", arguments.depth.is_some(), &[Call]),
        ("--echo", arguments.echo.is_some(), &[Call]),
        ("--size", arguments.size.is_some(), &[Call, Notify]),
        ("--rate", arguments.rate.is_some(), &[Call, Notify]),
        ("--params", arguments.params.is_some(), &[Subscribe]),
        ("--sequence", arguments.sequence, &[Subscribe]),
    ];
    let idle =
        |(_, is_given, modes): &&(_, bool, &[Mode])| *is_given && !modes.contains(&arguments.mode);
    if let Some((name, _, modes)) = options.iter().find(idle) {
        let modes: Vec<_> = modes.iter().map(ToString::to_string).collect();
        return Err(Failure::usage(format!(
            "{name} means nothing with --mode {}, only with {}",
            arguments.mode,
            modes.join(" and ")
        )));
    }
    if arguments.requests_per_connection.is_some() && arguments.short_lived == 0 {
        return Err(Failure::usage(
            "--requests-per-connection means nothing without --short-lived",
        ));
    }
    Ok(())
}

fn plan(arguments: &Load) -> Result<LoadPlan, Failure> {
    all_mean_something(arguments)?;
    let usual = LoadPlan::new(arguments.address.clone());
    let params = arguments
        .params
        .as_ref()
        .map(|Params(params)| params.clone());
    Ok(LoadPlan {
        mode: match arguments.mode {
            Mode::Call => load::Mode::Call,
            Mode::Notify => load::Mode::Notify,
            Mode::Subscribe => load::Mode::Subscribe {
                params: params.unwrap_or_else(|| vec![0x90]),
                sequence: arguments.sequence,
            },
        },
        connections: arguments.connections,
        short_lived: arguments.short_lived,
        requests_per_connection: arguments
            .requests_per_connection
            .unwrap_or(usual.requests_per_connection),
        depth: arguments.depth.unwrap_or(usual.depth),
        payload: arguments.size.unwrap_or(usual.payload),
        method: arguments.method.clone(),
        echo: match arguments.echo {
            None => usual.echo,
            Some(Echo::First) => load::Echo::First,
            Some(Echo::All) => load::Echo::All,
        },
        rate: arguments.rate,
        count: arguments.count,
        duration: arguments.duration,
        warmup: arguments.warmup,
        drain: arguments.drain,
        reconnect: !arguments.no_reconnect,
        threads: arguments.threads,
        limits: Limits {
            frame_bytes: arguments.frame_bytes,
            ..Limits::default()
        },
        ..usual
    })
}

/// Takes SIGINT as something to be read. Without it Ctrl-C just ends the process.
fn interrupt() -> Option<SignalFd> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    let interrupt =
        SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).ok()?;
    signals.thread_block().ok()?;
    Some(interrupt)
}

fn arrived(interrupt: Option<&SignalFd>) -> bool {
    interrupt.is_some_and(|interrupt| matches!(interrupt.read_signal(), Ok(Some(_))))
}

/// The line on the terminal that changes while the load runs.
struct Line {
    shown: bool,
    mode: Mode,
}

impl Line {
    fn new(arguments: &Load) -> Self {
        Line {
            shown: !arguments.quiet && io::stderr().is_terminal(),
            mode: arguments.mode,
        }
    }

    fn show(&mut self, progress: &Progress) {
        if !self.shown {
            return;
        }
        let text = line(self.mode, progress);
        // It is only an ornament.
        let _ = write!(io::stderr(), "\r{text}\x1b[K");
    }

    fn clear(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

fn line(mode: Mode, progress: &Progress) -> String {
    let (done, recent) = match mode {
        Mode::Call => (progress.counts.answered, progress.recent.answered),
        Mode::Notify => (progress.counts.sent, progress.recent.sent),
        Mode::Subscribe => (progress.counts.notifications, progress.recent.notifications),
    };
    let word = match mode {
        Mode::Call => "answered",
        Mode::Notify => "sent",
        Mode::Subscribe => "received",
    };
    let rate = recent as f64 / progress.recent_time.as_secs_f64().max(0.001);
    let mut text = format!(
        "{:6.1} s  {done} {word}  {rate:.0}/s",
        progress.elapsed.as_secs_f64()
    );
    let counts = &progress.counts;
    let faults = [
        ("lost", counts.lost),
        ("repeated", counts.repeated),
        ("wrong", counts.wrong),
        ("errors", counts.errors),
        ("violations", counts.violations),
        ("disconnects", counts.disconnects),
        ("unfinished", counts.unfinished),
        ("failed to connect", counts.failed_connects),
    ];
    for (name, count) in faults.iter().filter(|(_, count)| *count > 0) {
        text.push_str(&format!("  {name} {count}"));
    }
    text
}
