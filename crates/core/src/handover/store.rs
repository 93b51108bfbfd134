//! The carrier `store`: the service manager keeps descriptors over a restart (sd_notify(3), FDSTORE=1).

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use sd_notify::NotifyState;

use super::giving::Package;

/// The name of the descriptor that is stored to find out whether there is a store.
const PROBE: &str = "ringhold.probe";

/// How long the service manager may take to confirm.
const PATIENCE_S: i64 = 5;

/// Whether the service manager keeps descriptors for this process.
///
/// systemd says so in `$FDSTORE` from version 254 on only. So one end of a socketpair is stored and closed: if the other
/// end then shows a hang-up, nobody kept it (`FileDescriptorStoreMax=` is 0, as by default).
pub(crate) fn exists() -> io::Result<bool> {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return Ok(false);
    }
    let (kept, mut ours) = UnixStream::pair()?;
    store(PROBE, kept.as_fd())?;
    drop(kept);
    barrier()?;
    ours.set_nonblocking(true)?;
    let exists = match ours.read(&mut [0]) {
        Ok(_) => false,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => true,
        Err(error) => return Err(error),
    };
    if exists {
        remove(PROBE)?;
    }
    Ok(exists)
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
    sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)])
}

fn store(name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    // FDPOLL=0: kept until it is removed, whatever happens to it (systemd 246).
    let states = [
        NotifyState::FdStore,
        NotifyState::FdName(name),
        NotifyState::Custom("FDPOLL=0"),
    ];
    sd_notify::notify_with_fds(&states, &[descriptor])
}

/// Waits until the service manager has handled everything that it was told before (systemd 246).
pub(crate) fn barrier() -> io::Result<()> {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return Ok(());
    }
    let (ours, theirs): (OwnedFd, OwnedFd) = pipe_with(PipeFlags::CLOEXEC)?;
    sd_notify::notify_with_fds(&[NotifyState::Custom("BARRIER=1")], &[theirs.as_fd()])?;
    drop(theirs);
    let mut fds = [PollFd::new(&ours, PollFlags::empty())];
    let patience = Timespec {
        tv_sec: PATIENCE_S,
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
