//! What the main thread does while the workers work: it waits for signals, feeds the watchdog and brings the status line
//! up to date, and waits for the child that was asked whether it could take over.

mod relief;
mod signals;
mod status;
mod turns;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::connection::LINGER;
use crate::handover::preflight::Asked;
use crate::handover::store;
use crate::notify;
use crate::patience;
use crate::running::Running;
use crate::server::ServerError;
use crate::shard::REST_MAX;

use self::relief::Relief;
use self::signals::read;
use self::status::Status;
use self::turns::{Found, LOOK_INTERVAL, Rounds, Turns};

pub(crate) use self::signals::{Signals, is_told_to_stop};

/// A worker that so many looks in a row have found in the same turn is left behind by a handover. A little more than workers wait for each
/// other ([`REST_MAX`]).
const LOOKS_MAX: u32 = 16;

/// What else takes time, on a machine that is busy.
const MARGIN: Duration = Duration::from_secs(5);

/// How long it may take from a signal until every worker has ended or was left behind: the service manager says whether it has a
/// store, deferred replies come, stuck workers are found, more deferred replies come while services are given what has arrived, and
/// what cannot be saved ends.
pub(crate) fn longest_end(drain: Duration) -> Duration {
    let known = store::PROBE_PATIENCE + LOOK_INTERVAL * LOOKS_MAX + LINGER + MARGIN;
    drain
        .saturating_add(drain.max(REST_MAX))
        .saturating_add(known)
}

/// What the main thread has to see to.
pub(crate) struct Control<'a> {
    signals: &'a Signals,
    status: Status,
    watchdog: Option<Watchdog>,
    relief: Option<Relief>,
    /// The child that is asked at the moment.
    asked: Option<Asked>,
}

/// What happened.
pub(crate) enum Why {
    /// SIGTERM or SIGINT.
    Stop(Signal),
    /// SIGHUP. Not while a child is asked: then it stays pending.
    Reload,
    /// The child has answered: why it could not take over, if it could not. What it took is still open.
    Answer(Result<(), String>, Asked),
    /// A worker ended by itself, which it does only if it failed.
    Ended,
}

impl<'a> Control<'a> {
    pub(crate) fn new(signals: &'a Signals, running: &Running) -> Self {
        let watchdog = sd_notify::watchdog_enabled().map(|limit| Watchdog {
            interval: limit / 4,
            next: Instant::now(),
            turns: Turns::of_all(),
            missed: 0,
            is_lenient: false,
        });
        Control {
            signals,
            status: Status::new(),
            watchdog,
            relief: Relief::begin(running, Instant::now()),
            asked: None,
        }
    }

    /// Waits for this child's answer, too.
    pub(crate) fn wait_for_answer(&mut self, asked: Asked) {
        self.asked = Some(asked);
    }

    /// From now on the status line says that a reload was refused.
    pub(crate) fn reload_refused(&mut self, running: &Running) {
        self.status.refuse(running, Instant::now());
    }

    /// Waits until something happens. A stop comes first, whatever else there is.
    pub(crate) fn wait(&mut self, running: &Running) -> Result<Why, ServerError> {
        loop {
            let asks = self.asked.as_ref().map(Asked::next_look);
            let relieves = self.relief.as_mut();
            let relieves = relieves.map(|relief| relief.update(running, Instant::now()));
            let deadline = asks.into_iter().chain(relieves).min();
            let stop = self.signals.stop.as_fd();
            let reload = self.signals.reload.as_fd();
            let news = self
                .asked
                .as_ref()
                .map_or([Some(reload), None], Asked::news);
            // Where there is nothing to wait for, one that is waited for anyway.
            let [first, second] = news.map(|news| news.unwrap_or(stop));
            let ready = [stop, running.ended(), first, second];
            let [stop, ended, first, _] = attend(
                &mut self.status,
                &mut self.watchdog,
                running,
                deadline,
                ready,
            )?;
            if stop && let Some(signal) = read(&self.signals.stop)? {
                // It need not answer any more.
                self.asked = None;
                return Ok(Why::Stop(signal));
            }
            if ended {
                return Ok(Why::Ended);
            }
            match self.asked.take() {
                Some(mut asked) => match asked.read() {
                    Some(answer) => return Ok(Why::Answer(answer, asked)),
                    None => self.asked = Some(asked),
                },
                None if first && read(&self.signals.reload)?.is_some() => return Ok(Why::Reload),
                None => {}
            }
        }
    }

    /// Waits until every worker has ended, which they have been told to. If they were told to `hand_over`, one that takes
    /// no turns is left behind: to wait for it would cost the connections of all others when the service manager's patience
    /// is over. Otherwise it is waited for, but by nobody else: what the services of the others bring to an end is not lost with it.
    pub(crate) fn wait_for_end(
        &mut self,
        running: &Running,
        hand_over: bool,
    ) -> Result<(), ServerError> {
        let mut rounds = Rounds::begin(Turns::of_all(), running, Instant::now());
        if hand_over {
            // Workers wait for each other.
            self.status.turns = None;
            if let Some(watchdog) = &mut self.watchdog {
                // It would kill the process for the same reason, and sooner.
                watchdog.is_lenient = true;
            }
        }
        loop {
            running.reset_ended();
            // One that ended before the reset is seen by this look.
            if running.have_ended().iter().all(|ended| *ended) {
                return Ok(());
            }
            let ready = [running.ended()];
            attend(
                &mut self.status,
                &mut self.watchdog,
                running,
                Some(rounds.next),
                ready,
            )?;
            leave_stuck_behind(&mut rounds, running, hand_over);
        }
    }
}

/// Has the others wait no more for workers that take no turns.
fn leave_stuck_behind(rounds: &mut Rounds, running: &Running, hand_over: bool) {
    let found = rounds.look(running, Instant::now());
    for Found { worker, looks, .. } in found.into_iter().flatten() {
        // Who connects meanwhile, before a handover, is not to wait there, and be lost with it.
        running.deal_to_others(worker, looks > 0);
        if looks == LOOKS_MAX {
            let time = LOOK_INTERVAL * LOOKS_MAX;
            let holdup = running.holdup(worker);
            let why = format!("it has taken no turn for {time:?}: {holdup}");
            match hand_over {
                true => running.leave_behind(worker, &why),
                false => running.end_without(worker, &why),
            }
        }
    }
}

/// Does what is due and waits until something is, until `deadline`, or until one of `descriptors` is readable: which are.
fn attend<const N: usize>(
    status: &mut Status,
    watchdog: &mut Option<Watchdog>,
    running: &Running,
    deadline: Option<Instant>,
    descriptors: [BorrowedFd<'_>; N],
) -> io::Result<[bool; N]> {
    let now = Instant::now();
    status.update(running, now);
    let mut next = deadline.map_or(status.next, |deadline| deadline.min(status.next));
    if let Some(watchdog) = watchdog {
        watchdog.update(running, now);
        next = next.min(watchdog.next);
    }
    if notify::send_owed() {
        next = next.min(now + notify::ATTEMPT);
    }
    readable(descriptors, next.saturating_duration_since(now))
}

/// Waits until one of these is readable, at most for so long: which are. None may be before, if the kernel cannot wait just now.
fn readable<const N: usize>(
    descriptors: [BorrowedFd<'_>; N],
    timeout: Duration,
) -> io::Result<[bool; N]> {
    let timespec = Timespec::try_from(timeout).ok();
    let mut fds = descriptors.map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN));
    match poll(&mut fds, timespec.as_ref()) {
        Ok(_) => Ok(fds.map(|fd| !fd.revents().is_empty())),
        Err(Errno::INTR) => Ok([false; N]),
        Err(Errno::NOMEM) => {
            std::thread::sleep(timeout.min(patience::INTERVAL));
            Ok([false; N])
        }
        Err(error) => Err(error.into()),
    }
}

/// Feeds the service manager's watchdog for as long as every worker takes its turns.
struct Watchdog {
    interval: Duration,
    next: Instant,
    turns: Turns,
    /// How many looks there were since it was fed.
    missed: u32,
    /// Somebody else sees to workers that take none.
    is_lenient: bool,
}

impl Watchdog {
    fn update(&mut self, running: &Running, now: Instant) {
        if now < self.next {
            return;
        }
        self.next = now + self.interval;
        let found = self.turns.look(running);
        let stuck = found
            .iter()
            .find(|found| found.looks > self.missed && !self.is_lenient);
        match stuck {
            None => {
                notify::watchdog();
                self.missed = 0;
            }
            Some(found) => {
                self.missed += 1;
                let worker = found.worker;
                let holdup = running.holdup(worker);
                tracing::error!(
                    "worker {worker} has taken no turn: {holdup}, and the watchdog is not fed"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::SigSet;
    use nix::sys::signalfd::{SfdFlags, SignalFd};

    use super::*;
    use crate::seccomp::deny;

    /// Waits for a signal that is pending, and reads it, on a thread whose system call of this number fails like that.
    fn attempt(call: i64, errno: i32) -> (io::Result<[bool; 1]>, io::Result<Option<Signal>>) {
        let attempt = move || {
            let usr1: SigSet = [Signal::SIGUSR1].into_iter().collect();
            usr1.thread_block().unwrap();
            let signals = SignalFd::with_flags(&usr1, SfdFlags::SFD_NONBLOCK).unwrap();
            nix::sys::signal::raise(Signal::SIGUSR1).unwrap();
            deny(call, errno);
            let is_ready = readable([signals.as_fd()], Duration::from_secs(60));
            (is_ready, read(&signals))
        };
        std::thread::spawn(attempt).join().unwrap()
    }

    /// The main thread comes again.
    #[test]
    fn what_the_kernel_could_not_do_for_now_ends_nobody() {
        for errno in [libc::ENOMEM, libc::EINTR] {
            let (is_ready, read) = attempt(libc::SYS_ppoll, errno);
            assert_eq!(is_ready.unwrap(), [false], "{errno}");
            assert_eq!(read.unwrap(), Some(Signal::SIGUSR1), "{errno}");
        }
        let (is_ready, read) = attempt(libc::SYS_read, libc::EINTR);
        assert_eq!(is_ready.unwrap(), [true]);
        assert_eq!(read.unwrap(), None);
    }

    #[test]
    fn what_stays_wrong_is_reported() {
        assert!(attempt(libc::SYS_ppoll, libc::EINVAL).0.is_err());
        assert!(attempt(libc::SYS_read, libc::EINVAL).1.is_err());
    }
}
