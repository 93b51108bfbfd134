//! Descriptors that belong to the application ([`Server::descriptor`]), from one process to the next.
//!
//! Who opened one is told by the name under which it travels, so that nothing need be recorded: what a socket unit passes on
//! keeps its name, also over execve(2), and comes from the unit at every other start. What the application has opened has
//! [`PREFIX`] before its name, over execve as in the service manager's store, where it lies from the start on.
//!
//! The order of calls: [`DescriptorClaims::check`] looks at names only, also in a program that is asked whether it could take
//! over. [`DescriptorClaims::take_out`] comes before inherited descriptors are matched with sections,
//! [`DescriptorClaims::make`] before anything that the predecessor left is looked at, so that an error leaves all of it as it
//! was. [`Belonging::store`] comes before READY=1, and [`Belonging::passed_as`] is its name for the successor of a reload.
//!
//! [`Server::descriptor`]: crate::Server::descriptor

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{FdFlags, fcntl_setfd};

use crate::config::Config;
use crate::handover::store;
use crate::inherit::{Inherited, NamedDescriptor, RESERVED_PREFIX};
use crate::listeners;
use crate::server::ServerError;

/// What the names begin with under which the application's own descriptors are stored and passed on.
pub(crate) const PREFIX: &str = "ringhold.fd.";

/// FDNAME= may have so many bytes (sd_pid_notify_with_fds(3)).
const NAME_BYTES_MAX: usize = 255 - PREFIX.len();

/// What opens a descriptor, or goes on with the one that was passed on.
pub(crate) type Make = Box<dyn FnOnce(Option<OwnedFd>) -> io::Result<OwnedFd> + Send>;

/// The descriptors that the application wants to have.
#[derive(Default)]
pub(crate) struct DescriptorClaims(Vec<Claim>);

struct Claim {
    name: String,
    make: Make,
}

/// A descriptor of the application.
#[derive(Debug)]
pub(crate) struct Belonging {
    name: String,
    descriptor: OwnedFd,
    /// A socket unit passes it on at every start.
    is_units: bool,
}

impl DescriptorClaims {
    /// Adds one.
    ///
    /// # Panics
    ///
    /// If nothing can have this name, or something has it.
    pub(crate) fn add(&mut self, name: String, make: Make) {
        let is_possible = (1..=NAME_BYTES_MAX).contains(&name.len())
            && name
                .bytes()
                .all(|byte| matches!(byte, b' '..=b'~') && byte != b':');
        assert!(
            is_possible,
            "no descriptor can be named {name:?}: it takes 1 to {NAME_BYTES_MAX} printable ASCII characters without a colon"
        );
        assert!(
            !name.starts_with(RESERVED_PREFIX),
            "no descriptor can be named {name:?}: names that begin with {RESERVED_PREFIX:?} are kept for the handover"
        );
        assert!(!self.has(&name), "there are two descriptors named {name:?}");
        self.0.push(Claim { name, make });
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|claim| claim.name == name)
    }

    /// Whether what is inherited under these names is nobody else's, and one a name.
    pub(crate) fn check(&self, config: &Config, inherited: &[&str]) -> Result<(), ServerError> {
        for Claim { name, .. } in &self.0 {
            let mut sections = config.sockets.iter();
            if let Some((section, _)) =
                sections.find(|(section, socket)| socket.descriptor_name(section) == name)
            {
                return Err(refused(
                    name,
                    format!(
                        "[sockets.{section}] takes what has this name; call the section otherwise, or write another fd_name there"
                    ),
                ));
            }
            let count = inherited.iter().filter(|other| *other == name).count();
            if count > 1 {
                return Err(refused(
                    name,
                    format!(
                        "{count} of this name are inherited; each needs a name of its own (FileDescriptorName= of its socket unit)"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Whether what socket units pass on under these names would be gone on with.
    pub(crate) fn go_on_with(&self, names: &[String]) -> Result<(), ServerError> {
        match names.iter().find(|name| !self.has(name)) {
            None => Ok(()),
            Some(name) => Err(refused(
                name,
                "a socket unit passes it on, the running program uses it, and this one does not claim it".into(),
            )),
        }
    }

    /// Takes out what is claimed.
    pub(crate) fn take_out(&self, inherited: &mut Inherited) -> Vec<NamedDescriptor> {
        let is_claimed = |descriptor: &mut NamedDescriptor| self.has(claimed_as(&descriptor.name));
        inherited.descriptors.extract_if(.., is_claimed).collect()
    }

    /// Has all of them, of which some are `inherited`.
    pub(crate) fn make(
        self,
        mut inherited: Vec<NamedDescriptor>,
    ) -> Result<Vec<Belonging>, ServerError> {
        let made = self.0.into_iter().map(|claim| claim.make(&mut inherited));
        let made = made.collect::<Result<Vec<Belonging>, _>>()?;
        // Every claim has taken the first that there was for it.
        for NamedDescriptor { name, .. } in inherited {
            let name = claimed_as(&name);
            let is_units = made.iter().any(|it| it.name == name && it.is_units);
            let why = match is_units {
                true => "a socket unit passes on another one",
                false => "another one of this name is stored, too, and used",
            };
            tracing::warn!(
                "closing the descriptor {name:?} that the predecessor had opened: {why}"
            );
        }
        Ok(made)
    }
}

impl Claim {
    fn make(self, inherited: &mut Vec<NamedDescriptor>) -> Result<Belonging, ServerError> {
        let Claim { name, make } = self;
        let mut take = |name: &str| {
            let index = inherited.iter().position(|found| found.name == name)?;
            Some(inherited.remove(index).fd)
        };
        let units = take(&name);
        let is_units = units.is_some();
        let passed_on = units.or_else(|| take(&own(&name)));
        let origin = match &passed_on {
            Some(_) if is_units => "inherited",
            Some(_) => "the predecessor's",
            None => "new",
        };
        let descriptor = make(passed_on).and_then(|descriptor| {
            // Only what is laid out for it goes to another program.
            fcntl_setfd(&descriptor, FdFlags::CLOEXEC)?;
            Ok(descriptor)
        });
        match descriptor {
            Ok(descriptor) => {
                tracing::info!("descriptor {name:?} of the application ({origin})");
                Ok(Belonging {
                    name,
                    descriptor,
                    is_units,
                })
            }
            Err(error) => Err(ServerError::Descriptor { name, error }),
        }
    }
}

impl Belonging {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// For a service.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.descriptor.try_clone()
    }

    /// Whether it is a listening socket, if a socket unit passes it on.
    pub(crate) fn units(&self) -> Option<bool> {
        self.is_units
            .then(|| listeners::is_listening(&self.descriptor))
    }

    /// Leaves it with the service manager, for whoever comes after this process, however that ends; unless it comes from a socket
    /// unit. What an earlier process has left there under its name goes.
    pub(crate) fn store(&self) {
        let descriptor = (!self.is_units).then(|| self.descriptor.as_fd());
        if let Err(error) = store::keep(&own(&self.name), descriptor) {
            tracing::warn!(
                "descriptor {:?} of the application cannot be stored, a restart loses it: {error}",
                self.name
            );
        }
    }

    /// Leaves it there once more at the end: the unit may have a store only since then. The service manager knows what it has, and
    /// should it be too slow to answer, that is not lost.
    pub(crate) fn store_again(&self) {
        if !self.is_units
            && let Err(error) = store::keep_another(&own(&self.name), self.descriptor.as_fd())
        {
            tracing::warn!(
                "descriptor {:?} of the application cannot be stored once more: {error}",
                self.name
            );
        }
    }

    /// Whether it takes room in the service manager's store.
    pub(crate) fn is_stored(&self) -> bool {
        !self.is_units
    }

    /// The descriptor, and its name for a successor.
    pub(crate) fn passed_as(&self) -> (String, BorrowedFd<'_>) {
        let name = match self.is_units {
            true => self.name.clone(),
            false => own(&self.name),
        };
        (name, self.descriptor.as_fd())
    }
}

/// The name that the application has for what travels under this one.
fn claimed_as(name: &str) -> &str {
    name.strip_prefix(PREFIX).unwrap_or(name)
}

fn own(name: &str) -> String {
    format!("{PREFIX}{name}")
}

fn refused(name: &str, reason: String) -> ServerError {
    ServerError::Claim {
        name: name.to_owned(),
        reason,
    }
}
