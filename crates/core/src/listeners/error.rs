//! Why the listeners cannot be had.

use std::fmt;
use std::io;
use std::os::fd::RawFd;

use super::matching::UNNAMED;
use crate::config::ListenAddress;
use crate::rlimit;

/// Everything that stands in the way of starting, one problem a line when displayed.
#[derive(Debug)]
pub struct StartError {
    problems: Vec<StartProblem>,
}

/// One problem with one socket name.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartProblem {
    /// A section names a service that does not exist.
    UnknownService {
        /// The section.
        socket: String,
        /// The service that it names.
        service: String,
        /// The services that exist.
        known: Vec<String>,
        /// The one that was probably meant.
        nearest: Option<String>,
    },
    /// A section is placed on a worker that does not exist.
    Partition {
        /// The section.
        socket: String,
        /// The worker.
        index: usize,
        /// How many workers there are.
        workers: usize,
    },
    /// A section is placed on no worker at all, which only a program can write.
    NoWorkers {
        /// The section.
        socket: String,
    },
    /// An inherited descriptor is not a listening stream socket.
    NotListener {
        /// Its number.
        number: RawFd,
        /// Its name.
        name: String,
        /// What it is, with its article.
        found: String,
    },
    /// An inherited listener belongs to no section.
    Unclaimed {
        /// Its name.
        name: String,
        /// Its number, if it is known.
        number: Option<RawFd>,
        /// The sections, each with the descriptor name that it claims.
        sections: Vec<(String, String)>,
        /// The section that it probably belongs to: the one whose name is nearest, or the only one that misses a descriptor when this is
        /// the only name that is too many.
        probable: Option<String>,
    },
    /// Only inherited sockets are allowed, and an enabled section has none.
    NotInherited {
        /// The section.
        socket: String,
        /// The descriptor name that it claims.
        descriptor: String,
        /// The names that were inherited, without repetition.
        inherited: Vec<String>,
    },
    /// An enabled section has no inherited descriptor and no address to bind.
    NoAddress {
        /// The section.
        socket: String,
        /// The descriptor name that it claims.
        descriptor: String,
    },
    /// The user or group of a unix socket does not exist or cannot be looked up.
    Owner {
        /// The section.
        socket: String,
        /// The key, `user` or `group`, and what it says.
        what: String,
        /// Why it cannot be used.
        reason: String,
    },
    /// Two addresses are in the way of each other: the kernel lets only one of them be listened on.
    InTheWay {
        /// The section.
        socket: String,
        /// Its address that cannot be had.
        address: ListenAddress,
        /// The section that is to have the other one; it may be the same.
        other: String,
        /// The other one, which is the same or has some of its connections.
        other_address: ListenAddress,
    },
    /// An address cannot be bound.
    Bind {
        /// The section.
        socket: String,
        /// The address.
        address: ListenAddress,
        /// What happened, and what can be done.
        reason: String,
        /// What the kernel said, if it was asked.
        error: Option<io::Error>,
    },
}

impl StartError {
    /// The problems. There is at least one.
    pub fn problems(&self) -> &[StartProblem] {
        &self.problems
    }

    pub(super) fn new(problems: Vec<StartProblem>) -> Self {
        Self { problems }
    }
}

impl StartProblem {
    /// Whether whatever else is to be opened fails for the same reason.
    pub(super) fn is_lack_of_descriptors(&self) -> bool {
        matches!(self, Self::Bind { error: Some(error), .. } if rlimit::is_used_up(error))
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for StartError {}

impl fmt::Display for StartProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownService {
                socket,
                service,
                known,
                nearest,
            } => {
                write!(
                    f,
                    "socket {socket:?} is answered by service {service:?}, which does not exist; "
                )?;
                if let Some(nearest) = nearest {
                    write!(f, "did you mean {nearest:?}? ")?;
                }
                write!(f, "the services are {}", quoted(known))
            }
            Self::Partition {
                socket,
                index,
                workers,
            } => f.write_str(&crate::config::beyond(socket, *index, *workers)),
            Self::NoWorkers { socket } => {
                write!(
                    f,
                    "socket {socket:?} is placed on no worker; to serve nothing, disable it"
                )
            }
            Self::NotListener {
                number,
                name,
                found,
            } => write!(
                f,
                "descriptor {number} ({name:?}) is {found}; a listening TCP or unix stream socket is needed, which is \
                 ListenStream= with Accept=no in its socket unit"
            ),
            Self::Unclaimed {
                name,
                number,
                sections,
                probable,
            } => unclaimed(f, name, *number, sections, probable.as_deref()),
            Self::NotInherited {
                socket,
                descriptor,
                inherited,
            } => write!(
                f,
                "socket {socket:?} was not inherited, and only inherited sockets are allowed; it needs a descriptor \
                 named {descriptor:?}, inherited were {}",
                quoted(inherited)
            ),
            Self::NoAddress { socket, descriptor } => write!(
                f,
                "socket {socket:?} has nothing to listen on: no descriptor named {descriptor:?} was inherited, and \
                 [sockets.{socket}] has no \"listen\"; start its socket unit, or add an address"
            ),
            Self::Owner {
                socket,
                what,
                reason,
            } => {
                write!(f, "{what} of socket {socket:?} cannot be used: {reason}")
            }
            Self::InTheWay {
                socket,
                address,
                other,
                other_address,
            } => write!(
                f,
                "socket {socket:?} cannot listen on {address}: {other_address} of socket {other:?} is in the way; remove \
                 one of the two"
            ),
            Self::Bind {
                socket,
                address,
                reason,
                error,
            } => {
                write!(f, "socket {socket:?} cannot listen on {address}: {reason}")?;
                match error {
                    Some(error) => write!(f, " ({error}){}", rlimit::advice(error)),
                    None => Ok(()),
                }
            }
        }
    }
}

impl std::error::Error for StartProblem {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Bind {
                error: Some(error), ..
            } => Some(error),
            _ => None,
        }
    }
}

fn unclaimed(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    number: Option<RawFd>,
    sections: &[(String, String)],
    probable: Option<&str>,
) -> fmt::Result {
    write!(f, "the inherited listener {name:?}")?;
    if let Some(number) = number {
        write!(f, " (descriptor {number})")?;
    }
    f.write_str(" is claimed by no section, and its clients would wait for ever; ")?;
    if sections.is_empty() {
        f.write_str("there are no socket sections")?;
    } else {
        let list: Vec<String> = sections
            .iter()
            .map(|(section, claims)| match section == claims {
                true => format!("[sockets.{section}]"),
                false => format!("[sockets.{section}] (fd_name = {claims:?})"),
            })
            .collect();
        write!(f, "the sections are {}", list.join(", "))?;
    }
    if name.ends_with(".socket") {
        f.write_str(
            "; it has the name of its socket unit, in which FileDescriptorName= is missing",
        )?;
    }
    match probable {
        Some(section) => write!(
            f,
            "; if it belongs to [sockets.{section}], write fd_name = {name:?} there, or else add a section for it, with \
             enable = false if it is not to be served"
        ),
        None if name == UNNAMED => f.write_str(
            "; no name was passed with it: FileDescriptorName= of its socket unit gives it one, or --fdname= of \
             systemd-socket-activate",
        ),
        None => write!(
            f,
            "; add a section for it, with enable = false if it is not to be served"
        ),
    }
}

/// `"a", "b"`, or `none`.
pub(crate) fn quoted(names: &[String]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names
        .iter()
        .map(|name| format!("{name:?}"))
        .collect::<Vec<_>>()
        .join(", ")
}
