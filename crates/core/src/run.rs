//! A whole daemon: signals, the service manager, the watchdog, until it is told to stop.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::config::Config;
use crate::handover::exec::Program;
use crate::handover::preflight::{self, Question};
use crate::handover::{giving, store};
use crate::listeners::Origin;
use crate::metrics::{NameTotals, Snapshot};
use crate::notify;
use crate::server::{Running, Server, ServerError};

/// How often `STATUS=` is brought up to date.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

impl Server {
    /// Runs the server until SIGTERM or SIGINT, talking to the service manager if there is one.
    ///
    /// Call it first in `main`, before there is any other thread: it blocks those signals (and SIGHUP) for the whole
    /// process and takes the descriptors that the environment announces. A program that must start threads before,
    /// such as a runtime's, calls [`block_signals`] before those.
    ///
    /// # Errors
    ///
    /// Whatever stood in the way of starting, or made a worker fail.
    pub fn run(self) -> Result<(), ServerError> {
        if let Some(question) = std::env::var_os(preflight::VARIABLE) {
            return self.answer(&question);
        }
        block_signals()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&signals(), flags).map_err(io::Error::from)?;
        let program = Program::current()?;

        let daemon = Daemon {
            names: DescriptorNames::of(&self.config),
            program,
        };
        let running = self.start()?;
        announce(&running);
        let metrics = running.metrics().clone();
        notify::ready();
        let has_store = has_store();

        let mut control = Control::new(&running);
        let end = loop {
            match control.wait(&signals)? {
                Why::Reload => {
                    tracing::info!("SIGHUP: reloading");
                    notify::reloading();
                    match daemon.preflight(&running) {
                        Ok(()) => break End::Replace,
                        Err(reason) => {
                            tracing::error!("the reload is refused, nothing has changed: {reason}");
                            notify::ready();
                        }
                    }
                }
                Why::Stop(signal) => {
                    tracing::info!("{signal}: stopping");
                    notify::stopping();
                    break if has_store { End::Store } else { End::Close };
                }
                Why::Ended => {
                    notify::stopping();
                    break End::Close;
                }
            }
        };
        match end {
            End::Close => {
                running.stop();
                running.join()?;
            }
            End::Store => {
                let (listeners, parcels) = running.release()?;
                let package = giving::pack(&listeners, parcels)?;
                store::give(&package)?;
                tracing::info!(
                    "left {} connections with the service manager",
                    package.connections
                );
            }
            End::Replace => return Err(daemon.replace(running)?.into()),
        }
        let total = metrics.snapshot().total();
        tracing::info!(
            "stopped; {} connections and {} frames were served",
            total.opened,
            total.frames_in
        );
        Ok(())
    }

    /// Says whether this program could take over from one that holds these listeners; opens nothing.
    fn answer(self, question: &OsStr) -> Result<(), ServerError> {
        let question = question
            .to_str()
            .and_then(Question::parse)
            .filter(|question| question.version == Question::new(Vec::new()).version)
            .ok_or_else(|| {
                ServerError::Engine(
                    "the running version hands over state that this one cannot read".into(),
                )
            })?;
        let names: Vec<&str> = question.names.iter().map(String::as_str).collect();
        self.rehearse(&names)?;
        io::stdout().write_all(preflight::YES.as_bytes())?;
        Ok(())
    }
}

/// What this process knows of itself, for its successor.
struct Daemon {
    program: Program,
    names: DescriptorNames,
}

/// The descriptor name of each section.
struct DescriptorNames(BTreeMap<String, String>);

impl DescriptorNames {
    fn of(config: &Config) -> Self {
        let names = config.sockets.iter();
        DescriptorNames(
            names
                .map(|(name, socket)| (name.clone(), socket.descriptor_name(name).to_owned()))
                .collect(),
        )
    }

    fn get(&self, section: &str) -> String {
        self.0
            .get(section)
            .map_or(section, String::as_str)
            .to_owned()
    }
}

impl Daemon {
    /// Asks the program that would take over.
    fn preflight(&self, running: &Running) -> Result<(), String> {
        let inherited = running
            .listeners()
            .filter(|listener| matches!(listener.origin, Origin::Inherited { .. }));
        let names = inherited
            .map(|listener| self.names.get(&listener.name))
            .collect();
        preflight::ask(&self.program, &Question::new(names))
    }

    /// Replaces the process. Returns only if that failed, with the reason.
    fn replace(&self, running: Running) -> Result<io::Error, ServerError> {
        let (listeners, parcels) = running.release()?;
        let package = giving::pack(&listeners, parcels)?;
        let mut descriptors = Vec::new();
        for listener in &listeners {
            if matches!(listener.origin, Origin::Inherited { .. }) {
                descriptors.push((self.names.get(&listener.name), listener.socket.try_clone()?));
            }
        }
        for (name, descriptor) in package.descriptors() {
            descriptors.push((name.to_owned(), descriptor.try_clone_to_owned()?));
        }
        tracing::info!(
            "handing {} connections over to {}",
            package.connections,
            self.program.path().display()
        );
        Ok(self.program.replace(descriptors))
    }
}

/// How the process ends.
enum End {
    /// Connections are finished and closed.
    Close,
    /// Connections wait in the service manager's store for the next process.
    Store,
    /// The process replaces itself.
    Replace,
}

/// Whether the service manager would keep connections over a restart; says so if it would not.
fn has_store() -> bool {
    match store::exists() {
        Ok(true) => true,
        Ok(false) => {
            if std::env::var_os("NOTIFY_SOCKET").is_some() {
                tracing::info!(
                    "the service manager stores no descriptors for this unit (FileDescriptorStoreMax=): a restart will \
                     close open connections"
                );
            }
            false
        }
        Err(error) => {
            tracing::warn!(
                "whether the service manager stores descriptors is unknown ({error}): a restart will close open connections"
            );
            false
        }
    }
}

/// One line a listener: where, and how we got it.
fn announce(running: &Running) {
    for listener in running.listeners() {
        tracing::info!(
            socket = %listener.name,
            "{} on {} ({}), service {}{}",
            if listener.enabled { "listening" } else { "turning clients away" },
            listener.address,
            listener.origin,
            listener.service,
            if listener.enabled { "" } else { " disabled" },
        );
    }
    if running.listeners().len() == 0 {
        tracing::warn!("no socket is configured and none was inherited: nothing will ever connect");
    }
}

/// Blocks the signals that [`Server::run`] reads (SIGTERM, SIGINT and SIGHUP) for this thread and all that it will
/// start: a thread that does not block them would be ended by them, and the process with it.
///
/// # Errors
///
/// Those of pthread_sigmask(3).
pub fn block_signals() -> io::Result<()> {
    Ok(signals().thread_block()?)
}

fn signals() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]
        .into_iter()
        .collect()
}

/// What the main thread does while the workers work.
struct Control<'a> {
    running: &'a Running,
    status: Status,
    watchdog: Option<Watchdog>,
}

enum Why {
    /// SIGTERM or SIGINT.
    Stop(Signal),
    /// SIGHUP.
    Reload,
    /// A worker ended by itself, which it does only if it failed.
    Ended,
}

impl<'a> Control<'a> {
    fn new(running: &'a Running) -> Self {
        let watchdog = sd_notify::watchdog_enabled().map(|limit| Watchdog {
            interval: limit / 4,
            next: Instant::now(),
            turns: Vec::new(),
        });
        Control {
            running,
            status: Status::new(),
            watchdog,
        }
    }

    fn wait(&mut self, signals: &SignalFd) -> Result<Why, ServerError> {
        loop {
            let now = Instant::now();
            self.status.update(self.running, now);
            let mut next = self.status.next;
            if let Some(watchdog) = &mut self.watchdog {
                watchdog.update(self.running, now);
                next = next.min(watchdog.next);
            }
            let timeout = next.saturating_duration_since(now);
            let timeout = Timespec {
                tv_sec: timeout.as_secs() as i64,
                tv_nsec: i64::from(timeout.subsec_nanos()),
            };
            let signals_fd = signals.as_fd();
            let ended_fd = self.running.ended();
            let mut fds = [
                PollFd::new(&signals_fd, PollFlags::IN),
                PollFd::new(&ended_fd, PollFlags::IN),
            ];
            match poll(&mut fds, Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
            if !fds[1].revents().is_empty() {
                return Ok(Why::Ended);
            }
            if let Some(info) = signals.read_signal().map_err(io::Error::from)? {
                match Signal::try_from(info.ssi_signo as i32) {
                    Ok(Signal::SIGHUP) => return Ok(Why::Reload),
                    Ok(signal) => return Ok(Why::Stop(signal)),
                    Err(error) => return Err(io::Error::from(error).into()),
                }
            }
        }
    }
}

/// Feeds the service manager's watchdog for as long as every worker takes its turns.
struct Watchdog {
    interval: Duration,
    next: Instant,
    /// Each worker's turns when it was fed last.
    turns: Vec<u64>,
}

impl Watchdog {
    fn update(&mut self, running: &Running, now: Instant) {
        if now < self.next {
            return;
        }
        let turns: Vec<u64> = running
            .metrics()
            .snapshot()
            .workers
            .iter()
            .map(|w| w.engine.turns)
            .collect();
        let stuck = turns
            .iter()
            .zip(&self.turns)
            .position(|(now, before)| now == before);
        match stuck {
            None => {
                notify::watchdog();
                self.turns = turns;
            }
            Some(worker) => tracing::error!(
                worker,
                "the worker has taken no turn: the watchdog is not fed"
            ),
        }
        // An idle worker takes a turn because of this, before the next look.
        running.nudge();
        self.next = now + self.interval;
    }
}

/// The line that `systemctl status` shows.
struct Status {
    next: Instant,
    before: Option<(Instant, NameTotals)>,
    line: String,
}

impl Status {
    fn new() -> Self {
        Status {
            next: Instant::now(),
            before: None,
            line: String::new(),
        }
    }

    fn update(&mut self, running: &Running, now: Instant) {
        if now < self.next {
            return;
        }
        self.next = now + STATUS_INTERVAL;
        let snapshot: Snapshot = running.metrics().snapshot();
        let total = snapshot.total();
        let line = match &self.before {
            None => "serving".to_owned(),
            Some((at, before)) => line(&total, before, now.duration_since(*at)),
        };
        if line != self.line {
            notify::status(&line);
            self.line = line;
        }
        self.before = Some((now, total));
    }
}

fn line(total: &NameTotals, before: &NameTotals, elapsed: Duration) -> String {
    let per_second =
        |now: u64, then: u64| now.wrapping_sub(then) as f64 / elapsed.as_secs_f64().max(0.001);
    format!(
        "{} connections, {:.0} frames/s, {:.1} kB/s in, {:.1} kB/s out",
        total.open,
        per_second(total.frames_in, before.frames_in),
        per_second(total.bytes_in, before.bytes_in) / 1e3,
        per_second(total.bytes_out, before.bytes_out) / 1e3,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_line_shows_rates() {
        let before = NameTotals {
            frames_in: 100,
            bytes_in: 0,
            ..NameTotals::default()
        };
        let total = NameTotals {
            open: 3,
            frames_in: 600,
            bytes_in: 10_000,
            bytes_out: 5000,
            ..before
        };
        assert_eq!(
            line(&total, &before, Duration::from_secs(5)),
            "3 connections, 100 frames/s, 2.0 kB/s in, 1.0 kB/s out"
        );
    }
}
