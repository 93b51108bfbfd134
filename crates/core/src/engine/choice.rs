//! Which engine a server uses, and why.

use std::fmt;
use std::io;

use super::portable::{self, Unavailable};
use super::ring;
use crate::config::EngineChoice;
use crate::patience::{Obstacle, Patience, Step};
use crate::rlimit;

/// The engines there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EngineKind {
    /// Raw io_uring, Linux 6.1 or newer.
    Ring,
    /// tokio-uring, Linux 5.10 or newer.
    Portable,
}

impl EngineKind {
    /// How many descriptors a worker takes, besides listeners and connections.
    pub(crate) fn descriptors_per_worker(self) -> usize {
        match self {
            // The ring, the event of the mailbox, and what services are waited for with that read from anything else.
            EngineKind::Ring => 3,
            // And what the runtime waits with, and what watches the listeners.
            EngineKind::Portable => 7,
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EngineKind::Ring => "ring",
            EngineKind::Portable => "portable",
        })
    }
}

/// An engine, and why it and not the other one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) engine: EngineKind,
    pub(crate) reason: Reason,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The configuration asks for it.
    Configured,
    /// It was tried and works.
    Works,
    /// The better one does not work, for this reason.
    Instead(String),
}

impl Chosen {
    /// Whether the configuration would have let the other engine be used, if it worked.
    pub(crate) fn is_second_best(&self) -> bool {
        matches!(self.reason, Reason::Instead(_))
    }
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "using the {} engine", self.engine)?;
        match &self.reason {
            Reason::Configured => f.write_str(", as the configuration says"),
            Reason::Works => Ok(()),
            Reason::Instead(why) => write!(f, ": {why}"),
        }
    }
}

/// Why an engine does not work.
#[derive(Debug)]
pub(crate) struct Refused {
    why: String,
    may_pass: bool,
}

impl Refused {
    fn by(obstacle: &impl Obstacle) -> Self {
        Refused {
            why: obstacle.to_string(),
            may_pass: obstacle.may_pass(),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl Obstacle for Refused {
    fn may_pass(&self) -> bool {
        self.may_pass
    }
}

/// Chooses the engine of a server, trying out what the kernel offers. Where the better one does not work and the other one does, there is
/// nothing to wait for.
///
/// # Errors
///
/// Why the engine that is asked for does not work, or why none does, and what can be done about it.
pub(crate) fn choose(choice: EngineChoice, patience: &Patience) -> Result<Chosen, String> {
    let try_ring = || ring::try_out().map_err(|why| Refused::by(&why));
    patience
        .insist(Step::Engine, || decide(choice, try_ring, portable::probe))
        .map_err(|refused| refused.why)
}

fn decide(
    choice: EngineChoice,
    ring: impl FnOnce() -> Result<(), Refused>,
    portable: impl FnOnce() -> Result<(), Unavailable>,
) -> Result<Chosen, Refused> {
    let (engine, reason) = match choice {
        EngineChoice::Portable => {
            portable().map_err(|why| Refused::by(&why))?;
            (EngineKind::Portable, Reason::Configured)
        }
        EngineChoice::Ring => {
            ring().map_err(|refused| match portable() {
                Ok(()) => Refused {
                    why: format!("{refused}; engine = \"auto\" would use the portable one"),
                    ..refused
                },
                Err(_) => refused,
            })?;
            (EngineKind::Ring, Reason::Configured)
        }
        EngineChoice::Auto => match ring() {
            Ok(()) => (EngineKind::Ring, Reason::Works),
            Err(refused) => {
                portable().map_err(|worse| Refused {
                    why: worse.behind(&refused.why),
                    may_pass: refused.may_pass || worse.may_pass(),
                })?;
                (EngineKind::Portable, Reason::Instead(refused.why))
            }
        },
    };
    Ok(Chosen { engine, reason })
}

/// What io_uring_setup(2) means by an error, and what can be done about it, to be put behind it.
pub(super) fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => {
            "; the kernel has no io_uring, or a seccomp filter hides it (container runtimes do by default: allow \
             io_uring_setup, io_uring_enter and io_uring_register in its profile)"
        }
        Some(libc::EPERM) => {
            "; io_uring is forbidden, by sysctl kernel.io_uring_disabled (0 allows it) or by a seccomp filter (a \
             container profile, or SystemCallFilter= in the unit: @system-service contains @aio)"
        }
        Some(libc::EACCES) => {
            "; a security module such as SELinux forbids it, and its audit log has the denial"
        }
        Some(libc::ENOMEM) => {
            "; the kernel has no memory for a ring: see MemoryMax=, and raise LimitMEMLOCK= (ulimit -l without systemd), against which \
             rings count before Linux 5.12 and from 6.14 on, those of ring.entries and ring.buffers for each worker"
        }
        _ => rlimit::advice(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_ring() -> Result<(), Refused> {
        Err(Refused {
            why: "no ring".into(),
            may_pass: false,
        })
    }

    fn no_portable() -> Result<(), Unavailable> {
        let error = io::Error::from_raw_os_error(libc::EPERM);
        Err(Unavailable::at("io_uring_setup")(error))
    }

    fn works<E>() -> Result<(), E> {
        Ok(())
    }

    #[test]
    fn auto_takes_the_best_that_works_and_says_why() {
        let chosen = decide(EngineChoice::Auto, works, no_portable).unwrap();
        assert_eq!(chosen.to_string(), "using the ring engine");
        let chosen = decide(EngineChoice::Auto, no_ring, works).unwrap();
        assert_eq!(chosen.engine, EngineKind::Portable);
        assert_eq!(chosen.to_string(), "using the portable engine: no ring");
        let none = decide(EngineChoice::Auto, no_ring, no_portable).unwrap_err();
        assert!(
            none.why
                .starts_with("no ring; the portable engine is not available: io_uring_setup: ")
        );
    }

    #[test]
    fn an_engine_that_is_asked_for_is_used_or_refused() {
        let chosen = decide(EngineChoice::Portable, no_ring, works).unwrap();
        assert_eq!(
            chosen.to_string(),
            "using the portable engine, as the configuration says"
        );
        assert!(decide(EngineChoice::Portable, works, no_portable).is_err());
        let chosen = decide(EngineChoice::Ring, works, no_portable).unwrap();
        assert_eq!(chosen.engine, EngineKind::Ring);
        assert_eq!(
            decide(EngineChoice::Ring, no_ring, works).unwrap_err().why,
            "no ring; engine = \"auto\" would use the portable one"
        );
        assert_eq!(
            decide(EngineChoice::Ring, no_ring, no_portable)
                .unwrap_err()
                .why,
            "no ring"
        );
    }

    #[test]
    fn what_can_be_done_is_said_once() {
        let forbidden = io::Error::from_raw_os_error(libc::EPERM);
        let no_ring = || {
            Err(Refused {
                why: format!("no ring{}", hint(&forbidden)),
                may_pass: false,
            })
        };
        let text = decide(EngineChoice::Auto, no_ring, no_portable)
            .unwrap_err()
            .why;
        assert_eq!(
            text.matches("kernel.io_uring_disabled").count(),
            1,
            "{text}"
        );
    }

    #[test]
    fn what_stands_in_the_way_of_io_uring_is_named() {
        for (errno, expected) in [
            (libc::ENOSYS, "allow io_uring_setup"),
            (libc::EPERM, "kernel.io_uring_disabled"),
            (libc::ENOMEM, "LimitMEMLOCK="),
            (libc::ENOMEM, "from 6.14 on"),
            (libc::ENOMEM, "ring.entries"),
            (libc::EACCES, "SELinux"),
            (libc::EMFILE, "LimitNOFILE="),
        ] {
            let error = io::Error::from_raw_os_error(errno);
            let text = Unavailable::at("io_uring_setup")(error).to_string();
            assert!(text.starts_with("the portable engine is not available: io_uring_setup: "));
            assert!(text.contains(expected), "{text}");
        }
        // What else an engine takes is no matter of io_uring.
        // The runtime has a ring of its own, besides the one that was tried.
        let error = io::Error::from_raw_os_error(libc::ENOMEM);
        let text = Unavailable::at(portable::RUNTIME)(error).to_string();
        assert!(text.contains("LimitMEMLOCK="), "{text}");
        for (step, errno, expected) in [
            (portable::THREAD, libc::EAGAIN, "TasksMax="),
            (portable::EVENT, libc::EMFILE, "LimitNOFILE="),
            (portable::EVENT, libc::ENOMEM, ""),
            (portable::RUNTIME, libc::EPERM, ""),
        ] {
            let text = Unavailable::at(step)(io::Error::from_raw_os_error(errno)).to_string();
            assert!(text.contains(step) && text.contains(expected), "{text}");
            assert!(
                !text.contains("io_uring") && !text.contains("MEMLOCK"),
                "{text}"
            );
        }
    }
}
