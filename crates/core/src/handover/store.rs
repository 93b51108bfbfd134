//! The carrier `store`: the service manager keeps descriptors over a restart (sd_notify(3), FDSTORE=1).

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use super::giving::Package;
use crate::notify;

/// The name of the descriptors that are stored to find out whether there is a store.
pub(crate) const PROBE: &str = "ringhold.probe";

/// How many descriptors a package has.
pub(crate) const NEEDED: usize = 3;

/// How long the service manager may take to confirm what must be so. It is one process for the whole machine, and does
/// other things, too.
const PATIENCE_S: i64 = 20;

/// The same for what can be done without.
const PROBE_PATIENCE_S: i64 = 5;

/// How many of the descriptors of a package the service manager would keep for this process.
///
/// systemd says that it has a store in `$FDSTORE` from version 254 on only. So one end of each of some socketpairs is
/// stored and closed: if the other end then shows a hang-up, nobody kept it (`FileDescriptorStoreMax=` is 0, as by
/// default, or there is no room left).
pub(crate) fn room() -> io::Result<usize> {
    if !notify::is_wanted() {
        return Ok(0);
    }
    let mut ours = Vec::new();
    for _ in 0..NEEDED {
        let (kept, own) = UnixStream::pair()?;
        store(PROBE, kept.as_fd())?;
        own.set_nonblocking(true)?;
        ours.push(own);
    }
    barrier_within(PROBE_PATIENCE_S)?;
    let mut room = 0;
    for mut own in ours {
        match own.read(&mut [0]) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => room += 1,
            Err(error) => return Err(error),
        }
    }
    if room > 0 {
        remove(PROBE)?;
    }
    Ok(room)
}

/// Gives the package to the service manager, and waits until it has it.
pub(crate) fn give(package: &Package) -> io::Result<()> {
    for (name, descriptor) in package.descriptors() {
        store(name, descriptor)?;
    }
    barrier()
}

/// Takes all descriptors of this name out of the store.
pub(crate) fn remove(name: &str) -> io::Result<()> {
    notify::send(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), None)
}

fn store(name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    // FDPOLL=0: kept until it is removed, whatever happens to it (systemd 246).
    let text = format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0");
    notify::send(&text, Some(descriptor))
}

/// Waits until the service manager has handled everything that it was told before (systemd 246).
pub(crate) fn barrier() -> io::Result<()> {
    barrier_within(PATIENCE_S)
}

fn barrier_within(seconds: i64) -> io::Result<()> {
    if !notify::is_wanted() {
        return Ok(());
    }
    let (ours, theirs): (OwnedFd, OwnedFd) = pipe_with(PipeFlags::CLOEXEC)?;
    notify::send("BARRIER=1", Some(theirs.as_fd()))?;
    drop(theirs);
    let mut fds = [PollFd::new(&ours, PollFlags::empty())];
    let patience = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    loop {
        match poll(&mut fds, Some(&patience)) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::TimedOut)),
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
