//! The carrier `store`: the service manager keeps descriptors over a restart (sd_notify(3), FDSTORE=1).

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

#[cfg(doc)]
use super::exec;
use super::giving::{INLET, OUTLET, Package, STATE};
use crate::notify::{self, Term};
use crate::patience::INTERVAL;

/// The name of the descriptors that are stored to find out whether there is a store.
pub(crate) const PROBE: &str = "ringhold.probe";

/// How many descriptors a package has.
pub(crate) const NEEDED: usize = 3;

/// How long the service manager may take to confirm what must be so, in a stop all of it together. It is one process for the
/// whole machine, and does other things, too.
const PATIENCE: Duration = Duration::from_secs(20);

/// The same for what can be done without, in a stop for all of that together.
pub(crate) const PROBE_PATIENCE: Duration = Duration::from_secs(5);

/// How long a process may take from fork(2) to execve(2).
const FORK_PATIENCE: Duration = Duration::from_millis(200);

/// How many of the descriptors of a package the service manager would keep for this process.
///
/// systemd says that it has a store in `$FDSTORE` from version 254 on only. So one end of each of some socketpairs is
/// stored and closed: if the other end then shows a hang-up, nobody kept it (`FileDescriptorStoreMax=` is 0, as by
/// default, or there is no room left).
///
/// # Errors
///
/// `TimedOut` when `term` is over, and what keeps the service manager from being asked.
pub(crate) fn room(term: Term) -> io::Result<usize> {
    if !notify::is_wanted() {
        return Ok(0);
    }
    let room = store_probes(term, &mut notify::send);
    // If that has failed it may come to keep them.
    if !matches!(room, Ok(0)) {
        notify::tell(removal(PROBE));
    }
    room
}

/// Sends a notification, as [`notify::send`] does.
type Send<'a> = &'a mut dyn FnMut(&str, Option<BorrowedFd<'_>>, Term) -> io::Result<()>;

/// Stores as many probes as a package has descriptors. Returns how many of them are kept.
fn store_probes(term: Term, send: Send<'_>) -> io::Result<usize> {
    // Whoever serves owns none of that. It is there if the service manager could not be told, and in the way of the next handover.
    for name in [STATE, OUTLET, INLET] {
        send(&removal(name), None, term)?;
    }
    let mut ours = Vec::new();
    for _ in 0..NEEDED {
        let (kept, own) = UnixStream::pair()?;
        send(&storage(PROBE), Some(kept.as_fd()), term)?;
        ours.push(own);
    }
    Barrier::new()?.pass(term)?;
    ours.retain(|own| !hangs_up_within(own, Duration::ZERO).unwrap_or(true));
    if ours.len() < NEEDED {
        // A process that the service manager was just starting may have had what was dropped, for a moment.
        ours.retain(|own| !hangs_up_within(own, FORK_PATIENCE).unwrap_or(true));
    }
    Ok(ours.len())
}

/// Gives the package to the service manager, and waits until it has it, for [`PATIENCE`] in all. That takes no descriptor that
/// is not open by then.
///
/// # Errors
///
/// That it was not given, or, `TimedOut`, that it was as far as the service manager reads, which has not confirmed it. It may have a
/// part in either case.
pub(crate) fn give(package: &mut Package) -> io::Result<()> {
    notify::extend(2 * PATIENCE);
    let term = Term::of(PATIENCE);
    for (name, descriptor) in package.descriptors() {
        keep_another(name, descriptor, term)?;
    }
    package.barrier.pass(term).map_err(unconfirmed)
}

/// Whatever keeps it from being asked, it has been sent everything.
fn unconfirmed(error: io::Error) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, error)
}

/// Tells the service manager to take all descriptors of this name out of the store.
pub(crate) fn remove(name: &str, term: Term) -> io::Result<()> {
    notify::send(&removal(name), None, term)
}

/// Has the service manager keep this descriptor under this name, and no other.
pub(crate) fn keep(name: &str, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    remove(name, Term::of(PROBE_PATIENCE))?;
    descriptor.map_or(Ok(()), |descriptor| {
        keep_another(name, descriptor, Term::of(PROBE_PATIENCE))
    })
}

/// Has the service manager keep this descriptor, too; one that it has already it drops (sd_notify(3)).
pub(crate) fn keep_another(name: &str, descriptor: BorrowedFd<'_>, term: Term) -> io::Result<()> {
    notify::send(&storage(name), Some(descriptor), term)
}

fn removal(name: &str) -> String {
    format!("FDSTOREREMOVE=1\nFDNAME={name}")
}

fn storage(name: &str) -> String {
    // FDPOLL=0: kept until it is removed, whatever happens to it (systemd 246).
    format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0")
}

/// Takes all descriptors of these names out of the store, and waits until they are.
///
/// # Errors
///
/// That the service manager does not answer, before anything was taken out. Once it was told to, what it was told is done
/// sooner or later, so that nothing is gained by giving up: it is waited for without bound (`TimeoutStartSec=` has one).
pub(crate) fn take_out(names: &[&str]) -> io::Result<()> {
    // Both before the first is out, from when on there is no way back.
    let (mut before, mut after) = (Barrier::new()?, Barrier::new()?);
    // Before what it is for, so that it is read in time if the service manager is slow.
    notify::extend(2 * PATIENCE);
    before.raise(Term::of(PATIENCE))?;
    before.wait(Term::of(PATIENCE))?;
    for name in names {
        insist(|| remove(name, Term::of(PATIENCE)))?;
    }
    insist(|| after.raise(Term::of(PATIENCE)))?;
    insist(|| after.wait(Term::of(PATIENCE)))
}

/// As [`take_out`], for what is of no use to anybody: it is enough that the service manager is told, as soon as it reads. If this process
/// replaces itself before that, it is [told again](exec::owed).
pub(crate) fn discard(names: &[impl AsRef<str>]) {
    let removals = names.iter().map(|name| removal(name.as_ref()));
    removals.for_each(notify::tell);
}

/// The names of what the service manager is to take out of the store and has not been told, each once.
pub(crate) fn owed_removals() -> Vec<String> {
    let beginning = removal("");
    let owed = notify::owed();
    let names = owed.iter().filter_map(|text| text.strip_prefix(&beginning));
    let names: BTreeSet<String> = names.map(str::to_owned).collect();
    names.into_iter().collect()
}

/// Tries again for as long as the service manager is only slow.
fn insist(mut attempt: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => tracing::warn!(
                "taking the predecessor's connections out of the store: {error}; they go on when it has"
            ),
            result => return result,
        }
    }
}

/// Is passed when the service manager has handled everything that it was told before it was raised (systemd 246).
#[derive(Debug)]
pub(crate) struct Barrier {
    /// Hangs up then. `None` without a service manager.
    ours: Option<OwnedFd>,
    /// What the service manager closes then, until it is raised.
    theirs: Option<OwnedFd>,
}

impl Barrier {
    /// Has the descriptors that it takes, and is not raised yet.
    pub(super) fn new() -> io::Result<Self> {
        let ends = notify::is_wanted().then(|| pipe_with(PipeFlags::CLOEXEC));
        let (ours, theirs) = ends.transpose()?.unzip();
        Ok(Barrier { ours, theirs })
    }

    /// Waits until the service manager has handled everything that it was told.
    fn pass(&mut self, term: Term) -> io::Result<()> {
        self.raise(term)?;
        self.wait(term)
    }

    fn raise(&mut self, term: Term) -> io::Result<()> {
        if let Some(theirs) = &self.theirs {
            notify::send("BARRIER=1", Some(theirs.as_fd()), term)?;
        }
        self.theirs = None;
        Ok(())
    }

    /// Waits until it is passed; it is an error if that takes too long.
    fn wait(&self, term: Term) -> io::Result<()> {
        let ours = self.ours.as_ref();
        if ours.map_or(Ok(true), |ours| hangs_up_within(ours, term.left()))? {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!(
                "the service manager has not answered for {:?}",
                term.whole()
            ),
        ))
    }
}

/// Waits until the other end is closed; returns whether it is.
fn hangs_up_within(descriptor: impl AsFd, patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    let mut fds = [PollFd::new(&descriptor, PollFlags::empty())];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => {}
            Err(Errno::NOMEM) if !left.is_zero() => thread::sleep(left.min(INTERVAL)),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A service manager reads each notification just before the time for it is over.
    #[test]
    fn what_it_is_asked_takes_no_longer_than_one_answer_may() {
        let patience = Duration::from_millis(50);
        let mut said = Vec::new();
        let mut waited = Duration::ZERO;
        let mut send = |text: &str, _: Option<BorrowedFd<'_>>, term: Term| {
            let left = term.left();
            thread::sleep(left);
            waited += left;
            said.push(text.lines().next().unwrap().to_owned());
            Ok(())
        };
        // Without a service manager there is no barrier, and nobody keeps anything.
        assert_eq!(store_probes(Term::of(patience), &mut send).unwrap(), 0);
        let expected = ["FDSTOREREMOVE=1", "FDSTORE=1"].map(|word| [word; NEEDED]);
        assert_eq!(said, expected.concat());
        assert!(waited <= patience, "{waited:?}");
    }
}
