//! The carrier `exec`: the process replaces itself, and keeps the descriptors.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::execve;

use super::{killed, store};

/// The first descriptor that is passed on (SD_LISTEN_FDS_START, sd_listen_fds(3)).
const FIRST: RawFd = 3;

/// What is executed if the program's path cannot be.
const ITSELF: &str = "/proc/self/exe";

/// Where the program's path is, for a successor that was executed as [`ITSELF`]. Every successor that was executed has it.
const VARIABLE: &str = "RINGHOLD_PROGRAM";

/// Why such a successor was not executed by that path.
const REASON: &str = "RINGHOLD_PROGRAM_ERROR";

/// The names of what the service manager is to take out of its store, and what executed a successor could not tell it.
const OWED: &str = "RINGHOLD_OWED";

/// No more bytes of names than this are told to a successor: a variable of the environment has 128 KiB (execve(2)).
const OWED_BYTES_MAX: usize = 64 * 1024;

/// The program, as it was started.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// Absolute, and not resolved through links: a new version behind a link is found.
    path: PathBuf,
    arguments: Vec<OsString>,
    /// Why it was executed as [`ITSELF`] instead, if it was.
    missed: Option<OsString>,
}

impl Program {
    /// Notes how this process was started. To be called before anything changes the working directory.
    pub(crate) fn current() -> io::Result<Self> {
        let started = Path::new(OsStr::from_bytes(rustix::param::linux_execfn().to_bytes()));
        let mut missed = None;
        let path = if started == Path::new(ITSELF)
            && let Some(path) = std::env::var_os(VARIABLE)
        {
            missed = std::env::var_os(REASON);
            // The next version is to be looked for where this one once was.
            path.into()
        } else if started.is_absolute() {
            started.to_owned()
        } else {
            std::env::current_dir()?.join(started)
        };
        Ok(Program {
            path,
            arguments: std::env::args_os().collect(),
            missed,
        })
    }

    /// One that this process was not started by.
    #[cfg(test)]
    pub(crate) fn other(path: &str, arguments: &[&str]) -> Self {
        Program {
            path: path.into(),
            arguments: arguments.iter().map(OsString::from).collect(),
            missed: None,
        }
    }

    /// Says that the predecessor could not execute the program, if that is so: it could not say so itself.
    pub(crate) fn say_missed(&self) {
        if let Some(reason) = &self.missed {
            tracing::error!(
                "the predecessor cannot execute {}: {}; this is the program that ran before, once more",
                self.path.display(),
                reason.display()
            );
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A command that starts it as this process was started, by the same path and with the same arguments, the name that it
    /// is called by among them.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        if let Some((name, arguments)) = self.arguments.split_first() {
            command.arg0(name).args(arguments);
        }
        command
    }

    /// Replaces this process. Other threads may go on with descriptors of theirs until they end with this program.
    ///
    /// `descriptors` are passed on under their names, as the service manager does it; all others must be close-on-exec.
    /// Returns only on failure, with all descriptors as they were. If the program's path cannot be executed, the running
    /// program itself is, and [says so](Program::say_missed).
    pub(crate) fn replace(&self, descriptors: &[(String, BorrowedFd<'_>)]) -> io::Error {
        match self.try_to_replace(descriptors) {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    fn try_to_replace(&self, descriptors: &[(String, BorrowedFd<'_>)]) -> io::Result<Infallible> {
        let (names, descriptors): (Vec<&str>, Vec<BorrowedFd<'_>>) = descriptors
            .iter()
            .map(|(name, descriptor)| (name.as_str(), *descriptor))
            .unzip();
        let mut environment = self.environment(&names)?;
        let arguments = self.c_arguments()?;
        let path = CString::new(self.path.as_os_str().as_bytes())?;
        let itself = CString::new(ITSELF)?;
        part_from_threads();

        // Nothing is logged as long as this is there: it may lie where the log goes.
        let overlay = Overlay::lay(&descriptors)?;
        let Err(first) = execve(&path, &arguments, &environment);
        let first = io::Error::from(first);
        environment.push(CString::new(format!("{REASON}={first}"))?);
        let Err(second) = execve(&itself, &arguments, &environment);
        drop(overlay);

        tracing::error!("cannot execute {}: {first}", self.path.display());
        tracing::error!("cannot execute {ITSELF}: {}", io::Error::from(second));
        Err(first)
    }

    fn c_arguments(&self) -> io::Result<Vec<CString>> {
        self.arguments
            .iter()
            .map(|argument| Ok(CString::new(argument.as_bytes())?))
            .collect()
    }

    /// The environment of this process, with the announcement of the descriptors, where the program is, and which children it goes on with.
    fn environment(&self, names: &[&str]) -> io::Result<Vec<CString>> {
        let announcement: [(&str, OsString); 4] = [
            ("LISTEN_PID", std::process::id().to_string().into()),
            ("LISTEN_FDS", names.len().to_string().into()),
            ("LISTEN_FDNAMES", names.join(":").into()),
            (VARIABLE, self.path.clone().into()),
        ];
        let ours = |name: &OsStr| {
            name == "LISTEN_PIDFDID"
                || name == REASON
                || name == OWED
                || name == killed::VARIABLE
                || announcement.iter().any(|(key, _)| name == *key)
        };
        let kept = std::env::vars_os().filter(|(name, _)| !ours(name));
        let owed = listed(&store::owed_removals());
        let announced = announcement
            .iter()
            .map(|(name, value)| (OsString::from(name), value.clone()))
            .chain(owed.map(|names| (OWED.into(), names.into())));
        kept.chain(announced)
            .chain(killed::announcement())
            .map(|(name, value)| {
                let mut entry = name.into_vec();
                entry.push(b'=');
                entry.extend_from_slice(value.as_bytes());
                Ok(CString::new(entry)?)
            })
            .collect()
    }
}

/// Whether this process has gone on from one that replaced itself, so that what it was passed on is what that one had.
pub(crate) fn is_replacement() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// The names of what the service manager is to take out of its store, and what executed this process could not tell it.
pub(crate) fn owed() -> Vec<String> {
    let owed = std::env::var(OWED).unwrap_or_default();
    let names = owed.split(':').filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

/// As many of these names as a successor is told, if there are any. None of them has a colon (sd_notify(3), FDNAME=).
fn listed(names: &[String]) -> Option<String> {
    let mut room = OWED_BYTES_MAX;
    let fits = |name: &&String| {
        let left = room.checked_sub(name.len() + 1);
        room = left.unwrap_or(0);
        left.is_some()
    };
    let count = names.iter().take_while(fits).count();
    if count < names.len() {
        tracing::warn!(
            "the service manager does not read its notifications: {} descriptors that are given up stay in its store",
            names.len() - count
        );
    }
    (count > 0).then(|| names[..count].join(":"))
}

/// Gives this thread a table of descriptors of its own. What other threads still do with a number means what it meant before,
/// also where another descriptor lies at that number here; execve(2) ends them, and with them their table.
fn part_from_threads() {
    // An empty range is closed: of unshare(2) and close_range(2), containers rather allow this one.
    #[expect(unsafe_code, reason = "no library has this call")]
    // SAFETY: no number is as large as that, so nothing is closed. The threads of this process share no table any more, but
    // all who own a descriptor find it in the table of their own, since this one is a copy.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            u32::MAX,
            u32::MAX,
            libc::CLOSE_RANGE_UNSHARE,
        )
    };
    if result == 0 {
        return;
    }
    let error = io::Error::last_os_error();
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads > 1 {
        // What they spoil would be noticed by its checksum. To stay would lose it for certain.
        tracing::warn!(
            "other threads of the program may meet descriptors that are passed on, since close_range(2) fails: {error}"
        );
    }
}

/// Descriptors at 3 and up, to be inherited, over whatever this program has there. Dropped, that is as it was.
#[derive(Debug)]
struct Overlay {
    /// What was there, by place.
    covered: Vec<Option<OwnedFd>>,
}

impl Overlay {
    /// Lays duplicates of the descriptors in this order. That takes one more of each place: for the duplicate, or for what
    /// it covers, whichever lies where nothing was.
    fn lay(descriptors: &[BorrowedFd<'_>]) -> io::Result<Self> {
        let beyond = FIRST + RawFd::try_from(descriptors.len()).map_err(io::Error::other)?;
        let covered = (FIRST..beyond).map(|place| duplicate(place, beyond));
        let overlay = Overlay {
            covered: covered.collect::<io::Result<_>>()?,
        };
        for (place, descriptor) in (FIRST..).zip(descriptors) {
            // One that has a place itself may be covered by now.
            let covered = usize::try_from(descriptor.as_raw_fd() - FIRST)
                .ok()
                .and_then(|index| overlay.covered.get(index)?.as_ref());
            let safe = covered.map_or(*descriptor, AsFd::as_fd);
            put_at(safe, place, 0)?;
        }
        Ok(overlay)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        for (place, covered) in (FIRST..).zip(&self.covered) {
            // Both descriptors are open, and nothing else can be wrong with them.
            let _ = match covered {
                Some(covered) => put_at(covered.as_fd(), place, libc::O_CLOEXEC),
                None => clear(place),
            };
        }
    }
}

/// A duplicate of what is at `place`, if anything is, at a number from `beyond` on.
fn duplicate(place: RawFd, beyond: RawFd) -> io::Result<Option<OwnedFd>> {
    #[expect(unsafe_code, reason = "nobody knows whether there is a descriptor")]
    // SAFETY: nothing happens to what is there, if anything is.
    let number = unsafe { libc::fcntl(place, libc::F_DUPFD_CLOEXEC, beyond) };
    if number == -1 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::EBADF) => Ok(None),
            _ => Err(error),
        };
    }
    #[expect(unsafe_code, reason = "a new descriptor")]
    // SAFETY: it was made just now, and is nobody else's.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(number) }))
}

/// Makes `place` a duplicate of `descriptor`, with these flags of its own.
fn put_at(descriptor: BorrowedFd<'_>, place: RawFd, flags: i32) -> io::Result<()> {
    #[expect(
        unsafe_code,
        reason = "descriptors are laid at fixed numbers, whoever has those now"
    )]
    // SAFETY: what is closed at `place` is an overlay's, or its owner is in this program and finds it there again when the overlay
    // is dropped: the calling thread has a table of its own, and all that it does until then is to execute.
    let result = unsafe { libc::dup3(descriptor.as_raw_fd(), place, flags) };
    if result == place {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Closes what an overlay has laid where nothing was.
fn clear(place: RawFd) -> io::Result<()> {
    #[expect(unsafe_code, reason = "it has no owner but its number")]
    // SAFETY: the overlay has put it there, and nobody else knows of it.
    match unsafe { libc::close(place) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_owed_than_fits_into_the_environment() {
        let names = |count: usize| -> Vec<String> {
            let name = |index: usize| format!("{index:0>255}");
            (0..count).map(name).collect()
        };
        assert_eq!(listed(&names(0)), None);
        let two = names(2);
        assert_eq!(listed(&two), Some(format!("{}:{}", two[0], two[1])));
        let most = OWED_BYTES_MAX / 256;
        for count in [most, most + 1, 2 * most] {
            assert_eq!(listed(&names(count)), Some(names(most).join(":")));
        }
    }
}
