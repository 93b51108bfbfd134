//! The carrier `exec`: the process replaces itself, and keeps the descriptors.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::unistd::execve;

/// The first descriptor that is passed on (SD_LISTEN_FDS_START, sd_listen_fds(3)).
const FIRST: RawFd = 3;

/// What is executed if the program's path cannot be.
const ITSELF: &str = "/proc/self/exe";

/// Where the program's path is, for a successor that was executed as [`ITSELF`].
const VARIABLE: &str = "RINGHOLD_PROGRAM";

/// The program, as it was started.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// Absolute, and not resolved through links: a new version behind a link is found.
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// Notes how this process was started. To be called before anything changes the working directory.
    pub(crate) fn current() -> io::Result<Self> {
        let started = Path::new(OsStr::from_bytes(rustix::param::linux_execfn().to_bytes()));
        let path = if started == Path::new(ITSELF)
            && let Some(path) = std::env::var_os(VARIABLE)
        {
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
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The arguments after the name.
    pub(crate) fn arguments(&self) -> &[OsString] {
        self.arguments.get(1..).unwrap_or_default()
    }

    /// Replaces this process. Other threads may go on with descriptors of theirs until they end with this program.
    ///
    /// `descriptors` are passed on under their names, as the service manager does it; all others must be close-on-exec.
    /// Returns only on failure. If the program's path cannot be executed, the running program itself is.
    pub(crate) fn replace(&self, descriptors: Vec<(String, OwnedFd)>) -> io::Error {
        let names: Vec<&str> = descriptors.iter().map(|(name, _)| name.as_str()).collect();
        let prepared = self
            .environment(&names)
            .and_then(|environment| Ok((environment, self.c_arguments()?)));
        let (environment, arguments) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return error,
        };
        let descriptors = descriptors.into_iter().map(|(_, descriptor)| descriptor);
        part_from_threads();
        if let Err(error) = lay_out(descriptors.collect()) {
            return error;
        }
        let mut error = io::Error::from(io::ErrorKind::InvalidInput);
        for path in [self.path.as_os_str(), OsStr::new(ITSELF)] {
            let Ok(c_path) = CString::new(path.as_bytes()) else {
                continue;
            };
            let Err(errno) = execve(&c_path, &arguments, &environment);
            error = errno.into();
            tracing::error!("cannot execute {}: {error}", path.display());
        }
        error
    }

    fn c_arguments(&self) -> io::Result<Vec<CString>> {
        self.arguments
            .iter()
            .map(|argument| Ok(CString::new(argument.as_bytes())?))
            .collect()
    }

    /// The environment of this process, with the announcement of the descriptors, and where the program is.
    fn environment(&self, names: &[&str]) -> io::Result<Vec<CString>> {
        let announcement: [(&str, OsString); 4] = [
            ("LISTEN_PID", std::process::id().to_string().into()),
            ("LISTEN_FDS", names.len().to_string().into()),
            ("LISTEN_FDNAMES", names.join(":").into()),
            (VARIABLE, self.path.clone().into()),
        ];
        let ours = |name: &OsStr| {
            name == "LISTEN_PIDFDID" || announcement.iter().any(|(key, _)| name == *key)
        };
        let kept = std::env::vars_os().filter(|(name, _)| !ours(name));
        let announced = announcement
            .iter()
            .map(|(name, value)| (OsString::from(name), value.clone()));
        kept.chain(announced)
            .map(|(name, value)| {
                let mut entry = name.into_vec();
                entry.push(b'=');
                entry.extend_from_slice(value.as_bytes());
                Ok(CString::new(entry)?)
            })
            .collect()
    }
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

/// Puts the descriptors at 3 and up, in this order, to be inherited.
fn lay_out(descriptors: Vec<OwnedFd>) -> io::Result<()> {
    // First all of them out of the way of all places, so that none is overwritten before it was laid.
    let beyond = FIRST + RawFd::try_from(descriptors.len()).map_err(io::Error::other)?;
    let moved: Vec<OwnedFd> = descriptors
        .iter()
        .map(|descriptor| rustix::io::fcntl_dupfd_cloexec(descriptor, beyond))
        .collect::<Result<_, _>>()?;
    // The originals may themselves be in the places; from here on nobody closes those any more.
    for descriptor in descriptors {
        let _ = descriptor.into_raw_fd();
    }
    for (place, descriptor) in (FIRST..).zip(&moved) {
        put_at(descriptor.as_fd(), place)?;
    }
    // Close-on-exec: gone with this program.
    for descriptor in moved {
        let _ = descriptor.into_raw_fd();
    }
    Ok(())
}

/// Makes `place` a duplicate of `descriptor` that is inherited.
fn put_at(descriptor: BorrowedFd<'_>, place: RawFd) -> io::Result<()> {
    #[expect(
        unsafe_code,
        reason = "descriptors are laid at fixed numbers, whoever has those now"
    )]
    // SAFETY: whatever is closed at `place` belongs to this program, which is about to be replaced: the calling thread has a
    // table of its own, and all that it does from here on is to execute.
    let result = unsafe { libc::dup2(descriptor.as_raw_fd(), place) };
    if result == place {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
