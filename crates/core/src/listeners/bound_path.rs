//! The path of a unix socket, and whose it is.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::bind::{Failure, Options, give};

/// A path in the file system that a bound unix socket made, and the inode that it had then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundPath {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// A predecessor made it.
    pub(super) taken_over: bool,
}

impl BoundPath {
    /// One of which this is known.
    pub(super) fn new(path: &Path, stat: &Stat) -> Self {
        Self {
            path: path.to_owned(),
            device: stat.st_dev,
            inode: stat.st_ino,
            taken_over: false,
        }
    }

    /// That of the socket that was just bound to `path`.
    pub(super) fn at(path: &Path) -> Result<Self, Failure> {
        match stat(path)? {
            Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Socket => {
                Ok(Self::new(path, &stat))
            }
            Some(_) => Err(replaced()),
            None => Err(Failure::new(
                "somebody removed the socket that was just made",
                None,
            )),
        }
    }

    /// The path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the path if the socket there is the one that was bound. While that socket is open its inode cannot be
    /// used again, so this must come before the socket is closed. Returns whether it was removed.
    ///
    /// # Errors
    /// That it is ours and cannot be removed.
    pub(super) fn remove(&self) -> io::Result<bool> {
        match stat(&self.path)? {
            Some(stat) if self.is(&stat) => {
                rustix::fs::unlink(&self.path)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Whether the socket that was bound is still what is there, as far as this process can see: what it may not look at is.
    pub(super) fn is_there(&self) -> bool {
        stat(&self.path).map_or(true, |stat| stat.is_some_and(|stat| self.is(&stat)))
    }

    /// Gives the path its owners and its mode, if the socket there is the one that was bound, and not another one or a link that
    /// somebody put there.
    pub(super) fn adjust(&self, options: &Options) -> Result<(), Failure> {
        let handle = rustix::fs::open(
            &self.path,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let stat = rustix::fs::fstat(&handle)?;
        if !self.is(&stat) {
            return Err(replaced());
        }
        give(&handle, options.owners)?;
        // The umask may have narrowed it. A handle cannot be changed directly before Linux 6.6 (fchmodat2(2)).
        if stat.st_mode & 0o7777 != options.mode {
            let through = format!("/proc/self/fd/{}", handle.as_fd().as_raw_fd());
            rustix::fs::chmod(through, Mode::from_raw_mode(options.mode)).map_err(|error| {
                let reason = format!(
                    "its mode cannot be set to {:04o} through /proc/self/fd",
                    options.mode
                );
                Failure::new(reason, Some(error.into()))
            })?;
        }
        Ok(())
    }

    fn is(&self, stat: &Stat) -> bool {
        (stat.st_dev, stat.st_ino) == (self.device, self.inode)
    }

    pub(crate) fn to_record(&self) -> (String, u64, u64) {
        // A path that is not UTF-8 cannot have come from the configuration.
        (
            self.path.to_string_lossy().into_owned(),
            self.device,
            self.inode,
        )
    }

    pub(crate) fn from_record((path, device, inode): (String, u64, u64)) -> Self {
        BoundPath {
            path: path.into(),
            device,
            inode,
            taken_over: true,
        }
    }
}

fn replaced() -> Failure {
    Failure::new("somebody replaced the socket that was made there", None)
}

/// What is at `path`, without following a link.
pub(super) fn stat(path: &Path) -> rustix::io::Result<Option<Stat>> {
    match rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        // A missing directory is reported when the socket is bound.
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}
