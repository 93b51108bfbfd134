//! A descriptor of the application while it is served, and in the service manager's store.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{claimed_as, own};
use crate::handover::store;
use crate::inherit::NamedDescriptor;
use crate::listeners;
use crate::notify::Term;

/// A descriptor of the application.
#[derive(Debug)]
pub(crate) struct Belonging {
    pub(super) name: String,
    pub(super) descriptor: OwnedFd,
    /// A socket unit passes it on at every start.
    pub(super) is_units: bool,
}

impl Belonging {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Says why what the predecessor had opened is closed, if that has the same name.
    pub(super) fn say_closed(&self, found: &NamedDescriptor, is_of_use: bool) {
        let name = &self.name;
        if claimed_as(&found.name) != name {
            return;
        }
        let why = match (listeners::udp_address(found.fd.as_fd()), self.udp_address()) {
            _ if self.is_units => "a socket unit passes on another one".to_owned(),
            _ if is_of_use => "another one of this name is stored, too, and used".to_owned(),
            (Ok(at), Some(to)) => {
                tracing::info!("descriptor {name:?} of the application moves from {at} to {to}");
                return;
            }
            (Ok(at), None) => format!("it is at {at}"),
            (Err(found), _) => format!("it is {found}"),
        };
        tracing::warn!("closing the descriptor {name:?} that the predecessor had opened: {why}");
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

    /// Where it is bound, if it is a UDP socket.
    pub(crate) fn udp_address(&self) -> Option<SocketAddr> {
        listeners::udp_address(self.descriptor.as_fd()).ok()
    }

    /// Leaves it with the service manager, for whoever comes after this process, however that ends; unless it comes from a socket
    /// unit. What an earlier process has left there under its name goes.
    fn store(&self) -> io::Result<()> {
        let descriptor = (!self.is_units).then(|| self.descriptor.as_fd());
        store::keep(&own(&self.name), descriptor)
    }

    /// Leaves it there once more at the end: the unit may have a store only since then. The service manager knows what it has, and
    /// should it be too slow to answer, that is not lost. Returns whether it reads.
    pub(crate) fn store_again(&self, term: Term) -> bool {
        if !self.is_units
            && let Err(error) = store::keep_another(&own(&self.name), self.descriptor.as_fd(), term)
        {
            tracing::warn!(
                "descriptor {:?} of the application cannot be stored once more: {error}",
                self.name
            );
            return error.kind() != ErrorKind::TimedOut;
        }
        true
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

/// Leaves all of them there. If `somebody_waits` for that, a service manager that does not read is waited for once: what a predecessor
/// had is stored already, and a stop leaves them there [once more](Belonging::store_again). Returns whether it reads.
pub(crate) fn store_all(belongings: &[Belonging], somebody_waits: bool) -> bool {
    for belonging in belongings {
        let Err(error) = belonging.store() else {
            continue;
        };
        if somebody_waits && error.kind() == ErrorKind::TimedOut {
            tracing::warn!(
                "descriptors of the application are not stored anew before a stop: {error}"
            );
            return false;
        }
        tracing::warn!(
            "descriptor {:?} of the application cannot be stored, a restart loses it: {error}",
            belonging.name
        );
    }
    true
}
