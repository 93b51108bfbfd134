//! How many descriptors the process may open, and what helps against this limit and others.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The soft limit of open descriptors before and after [`raise`], and the hard one. `u64::MAX` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raised {
    /// The soft limit as it was.
    pub before: u64,
    /// The soft limit as it is.
    pub after: u64,
}

/// Raises the soft limit of open descriptors (RLIMIT_NOFILE, getrlimit(2)) to the hard one. The soft default of 1024
/// exists for select(2), which nothing here uses.
///
/// # Errors
/// That the kernel refuses.
pub fn raise() -> io::Result<Raised> {
    let limit = getrlimit(Resource::Nofile);
    let before = limit.current.unwrap_or(u64::MAX);
    let after = limit.maximum.unwrap_or(u64::MAX);
    if before < after {
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: limit.maximum,
                maximum: limit.maximum,
            },
        )?;
    }
    Ok(Raised { before, after })
}

/// What can be done if the process may open too few, to be put behind what that prevents.
pub(crate) const RAISE_LIMIT: &str = "; raise LimitNOFILE= (ulimit -n without systemd)";

/// Whether a call failed because no descriptor is left, of those of the process or of the machine.
pub(crate) fn is_used_up(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// What can be done if a limit is why a call failed, to be put behind its error; nothing for other errors.
pub(crate) fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE) => RAISE_LIMIT,
        Some(libc::ENFILE) => "; the whole machine may open no more: raise sysctl fs.file-max",
        Some(libc::EFBIG) => "; raise LimitFSIZE= (ulimit -f without systemd)",
        _ => "",
    }
}

/// What can be done if a thread cannot be started, to be put behind the error.
pub(crate) fn thread_advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        // For want of memory for its stack, too (pthread_create(3)).
        Some(libc::EAGAIN) => {
            "; raise TasksMax= and LimitNPROC= (ulimit -u without systemd), or LimitAS= if it is set"
        }
        _ => advice(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_limit_reaches_the_hard_one_and_stays() {
        let first = raise().unwrap();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        assert_eq!(first.after, limit.maximum.unwrap_or(u64::MAX));
        assert_eq!(
            raise().unwrap(),
            Raised {
                before: first.after,
                after: first.after
            }
        );
    }
}
