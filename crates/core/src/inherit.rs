//! Descriptors that the service manager (or the process before us) passes on: from `LISTEN_FDS` to owned, named ones.
//!
//! The contract is sd_listen_fds(3). The crate `sd-notify` keeps most of it: whose descriptors they are (`LISTEN_PID`),
//! how many, that all of them are open and become close-on-exec, and how names are split. By hand, because it does
//! not:
//! - `LISTEN_PIDFDID` (systemd after 257), which tells our process from an earlier one with the same number;
//! - `LISTEN_FDS=0` is an error;
//! - the names are not looked at when the descriptors are not for us (`sd-notify` then finds their count wrong);
//! - a variable that is not UTF-8 is an error, not an absent variable;
//! - all four variables are removed, also on failure.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process;

use rustix::process::PidfdFlags;

use crate::belongings;

/// What the names of descriptors begin with that belong to the handover and not to any socket section.
pub(crate) const RESERVED_PREFIX: &str = "ringhold.";

/// Whether a descriptor of this name belongs to the handover, or did to that of another version. What a unit `ringhold.socket` passes on
/// without FileDescriptorName= is called like that (systemd.socket(5)), and is a listener like any other.
pub(crate) fn is_reserved(name: &str) -> bool {
    let is_unit = name.ends_with(".socket") && !name.starts_with(belongings::PREFIX);
    name.starts_with(RESERVED_PREFIX) && !is_unit
}

const PID: &str = "LISTEN_PID";
const PIDFDID: &str = "LISTEN_PIDFDID";
const FDS: &str = "LISTEN_FDS";
const FDNAMES: &str = "LISTEN_FDNAMES";
const VARIABLES: [&str; 4] = [PID, PIDFDID, FDS, FDNAMES];

/// The file system that pidfds have had since Linux 6.9 (`PID_FS_MAGIC` in linux/magic.h). Before, all of them had one
/// inode, which tells nothing.
const PID_FS_MAGIC: u64 = 0x5049_4446;

/// The descriptors that were passed on, in the order of their numbers.
#[derive(Debug, Default)]
pub struct Inherited {
    /// Name, original number and ownership of each. Names repeat: all sockets of a unit have the same.
    pub descriptors: Vec<NamedDescriptor>,
}

/// One descriptor that was passed on.
#[derive(Debug)]
pub struct NamedDescriptor {
    /// Its name, as `FileDescriptorName=` or `FDNAME=` gave it. It may be empty.
    pub name: String,
    /// The number it was passed as, for messages.
    pub number: RawFd,
    /// The descriptor, close-on-exec.
    pub fd: OwnedFd,
}

impl Inherited {
    /// Takes what the environment announces, and removes the announcement, also on failure, so that neither a child
    /// nor a second call claims the descriptors again. (Only [`InheritError::NotFirst`] leaves it, since it could not be
    /// removed safely.)
    ///
    /// This belongs first in `main`: the environment changes, so there must be no other thread, and nothing else may
    /// have taken descriptors 3 and up as its own. Where the environment announces nothing, it changes nothing and may
    /// be called at any time.
    ///
    /// [`Server::run`](crate::Server::run) and [`Server::start`](crate::Server::start) call it. A program that has threads
    /// by then calls it itself, and passes on what it gives: see [`Server::inherited`](crate::Server::inherited).
    ///
    /// # Errors
    /// That the announcement contradicts itself or the facts; sd_listen_fds(3) says which announcements are errors
    /// and which are none for us.
    pub fn take() -> Result<Self, InheritError> {
        let Some(announcement) = Announcement::read() else {
            return Ok(Self::none());
        };
        must_be_first()?;
        let result = announcement.collect();
        for variable in VARIABLES {
            #[expect(
                unsafe_code,
                reason = "the standard library cannot rule out other threads"
            )]
            // SAFETY: no other thread can read the environment meanwhile, there is none (checked above; where /proc
            // is missing, the documentation demands it).
            unsafe {
                env::remove_var(variable);
            }
        }
        result
    }

    /// Nothing inherited.
    pub fn none() -> Self {
        Self::default()
    }

    /// As if `descriptors` had been inherited under these names.
    ///
    /// What a predecessor hands over comes by [`Inherited::take`] only.
    pub fn from_descriptors(descriptors: Vec<(String, OwnedFd)>) -> Self {
        let descriptors = descriptors
            .into_iter()
            .map(|(name, fd)| NamedDescriptor {
                name,
                number: fd.as_raw_fd(),
                fd,
            })
            .collect();
        Self { descriptors }
    }
}

/// Why the inherited descriptors cannot be taken.
#[derive(Debug)]
#[non_exhaustive]
pub enum InheritError {
    /// There are other threads already.
    NotFirst,
    /// A variable has a value that cannot be.
    Invalid {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// `LISTEN_FDNAMES` has more or fewer names than there are descriptors.
    NameCount {
        /// The value of `LISTEN_FDNAMES`.
        names: String,
        /// How many descriptors there are.
        descriptors: usize,
    },
    /// Some descriptor cannot be used, usually because it is not open.
    Descriptors {
        /// The value of `LISTEN_FDS`.
        count: String,
        /// What the kernel said.
        error: io::Error,
    },
}

impl fmt::Display for InheritError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFirst => f.write_str(
                "threads are running already, too late to take inherited descriptors; call block_signals and \
                 Inherited::take first in main, before any runtime or logger starts, and give the result to Server::inherited",
            ),
            Self::Invalid { variable, value, expected } => {
                write!(f, "{variable} is {value:?}, but it must be {expected}; it is set by the service manager")
            }
            Self::NameCount { names, descriptors } => write!(
                f,
                "{FDNAMES} is {names:?}, a list of {} for {descriptors} inherited descriptors; start the process \
                 through the service manager, which sets both",
                names.split(':').count()
            ),
            Self::Descriptors { count, error } => write!(
                f,
                "{FDS} announces {count} inherited descriptors from number 3 on, but not all of them are open \
                 ({error}); whatever started the process closed them"
            ),
        }
    }
}

impl std::error::Error for InheritError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Descriptors { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// The variables, as they were found.
struct Announcement {
    values: [Option<OsString>; 4],
}

impl Announcement {
    fn read() -> Option<Self> {
        let values = VARIABLES.map(env::var_os);
        values
            .iter()
            .any(Option::is_some)
            .then_some(Self { values })
    }

    fn text(&self, variable: &'static str) -> Result<Option<&str>, InheritError> {
        let index = VARIABLES.iter().position(|known| *known == variable);
        let Some(value) = index.and_then(|index| self.values[index].as_ref()) else {
            return Ok(None);
        };
        match value.to_str() {
            Some(text) => Ok(Some(text)),
            None => Err(invalid(variable, &value.to_string_lossy(), "ASCII text")),
        }
    }

    fn collect(&self) -> Result<Inherited, InheritError> {
        let pid = self.text(PID)?;
        let ours = pid.and_then(|pid| pid.parse::<u32>().ok()) == Some(process::id());
        if ours {
            if let Some(text) = self.text(PIDFDID)? {
                let announced: u64 = text
                    .parse()
                    .map_err(|_| invalid(PIDFDID, text, "the number of an inode"))?;
                // Where ours cannot be read, the number of the process has to suffice.
                if own_pidfd_inode().is_some_and(|own| own != announced) {
                    return Ok(Inherited::none());
                }
            }
            if self
                .text(FDS)?
                .is_some_and(|count| count.parse() == Ok(0_u32))
            {
                return Err(invalid(FDS, "0", "a number above zero"));
            }
        }
        let failed = |error: io::Error| self.explain(error);
        let count = sd_notify::listen_fds().map_err(failed)?.len();
        if count == 0 {
            return Ok(Inherited::none());
        }
        self.text(FDNAMES)?;
        let named = sd_notify::listen_fds_with_names().map_err(failed)?;
        let descriptors = named
            .map(|(number, name)| {
                #[expect(
                    unsafe_code,
                    reason = "an inherited descriptor is only a number until it is adopted"
                )]
                // SAFETY: `number` is open (sd-notify just set its flags), and nothing else in this process owns it:
                // by the contract of `take` we are first, and the announcement is removed, so we do it once.
                let fd = unsafe { OwnedFd::from_raw_fd(number) };
                NamedDescriptor { name, number, fd }
            })
            .collect();
        Ok(Inherited { descriptors })
    }

    /// What an error of sd-notify means, which tells its kinds apart by text only.
    fn explain(&self, error: io::Error) -> InheritError {
        let text = |variable| {
            self.text(variable)
                .ok()
                .flatten()
                .unwrap_or_default()
                .to_owned()
        };
        if error.kind() != io::ErrorKind::InvalidInput || error.raw_os_error().is_some() {
            return InheritError::Descriptors {
                count: text(FDS),
                error,
            };
        }
        if text(PID).parse::<u32>().is_err() {
            return invalid(PID, &text(PID), "the number of a process");
        }
        match text(FDS).parse::<u32>() {
            Ok(count) if count <= i32::MAX as u32 - 3 => InheritError::NameCount {
                names: text(FDNAMES),
                descriptors: count as usize,
            },
            _ => invalid(FDS, &text(FDS), "a number of descriptors"),
        }
    }
}

fn invalid(variable: &'static str, value: &str, expected: &'static str) -> InheritError {
    InheritError::Invalid {
        variable,
        value: value.to_owned(),
        expected,
    }
}

/// The inode of our own pidfd, where pidfds have inodes of their own.
fn own_pidfd_inode() -> Option<u64> {
    let pidfd = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).ok()?;
    let file_system = rustix::fs::fstatfs(&pidfd).ok()?;
    if file_system.f_type as u64 != PID_FS_MAGIC {
        return None;
    }
    rustix::fs::fstat(&pidfd).ok().map(|stat| stat.st_ino)
}

/// Whether [`Inherited::take`] could take anything, announced or not; where /proc does not say, it could.
pub(crate) fn must_be_first() -> Result<(), InheritError> {
    let threads = std::fs::read_dir("/proc/self/task").map(Iterator::count);
    match threads {
        Ok(threads) if threads > 1 => Err(InheritError::NotFirst),
        _ => Ok(()),
    }
}
