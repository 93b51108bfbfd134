//! The successor's side: from the descriptors that it woke up with to listeners and parcels.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::net::sockopt::socket_cookie;

use super::bequest::{Bequest, Contents};
use super::giving::{INLET, OUTLET, STATE};
use super::parcel::{Parcel, State, shut};
use super::spare::Spare;
use super::store::{self, PROBE};
use super::vault::{self, ATTEMPTS_MAX, Estate, ListenerRecord, VaultError};
use super::{carton, exec};
use crate::inherit::NamedDescriptor;
use crate::listeners::{BoundPath, Heirloom};
use crate::patience::{Obstacle, Patience, Step};
use crate::plain::{self, Counted};

/// What a predecessor left.
#[derive(Debug, Default)]
pub(crate) struct Inheritance {
    /// Listeners that it had bound itself.
    pub(crate) listeners: Vec<Heirloom>,
    pub(crate) parcels: Vec<Parcel>,
    /// What services left.
    pub(crate) bequests: Vec<Bequest>,
    /// Connections that could not be taken over. They were shut down.
    pub(crate) lost: usize,
    /// Since when the predecessor has not served anybody, if it says so.
    pub(crate) paused: Option<Instant>,
    /// The handover's own descriptors: while they are open, a crash leaves everything for the next attempt.
    kept: Vec<NamedDescriptor>,
    /// The service manager has them too, as far as is known.
    is_stored: bool,
    /// The attempt was counted, and the state could be read.
    is_counted: bool,
}

impl Inheritance {
    /// Looks at what the predecessor left, and takes nothing out: until [`Inheritance::commit`] a successor of this
    /// process finds the same.
    ///
    /// `needed` descriptors are left free for what else it takes to serve, and one more for each of the `to_be_bound` listeners that the
    /// predecessor has not: if there are too few for everything, some connections are lost rather than all.
    ///
    /// # Errors
    ///
    /// That the kernel has no memory to read it with, for as long as `patience` lasts. This was no attempt.
    pub(crate) fn look(
        reserved: Vec<NamedDescriptor>,
        needed: usize,
        to_be_bound: usize,
        patience: &Patience,
    ) -> Result<Self, String> {
        let mut inheritance = Inheritance {
            is_stored: true,
            ..Inheritance::default()
        };
        let find = |name: &str| {
            let found = reserved.iter().find(|descriptor| descriptor.name == name);
            found.map(|descriptor| &descriptor.fd)
        };
        let state = find(STATE);
        let ends: Vec<&OwnedFd> = [OUTLET, INLET].into_iter().filter_map(find).collect();
        if state.is_some() || !ends.is_empty() {
            // First what takes one descriptor, then what may take all.
            let estate = patience.insist(Step::State, || {
                state.map_or(Err(VaultError::Missing), vault::read)
            });
            if let Err(error) = &estate
                && error.may_pass()
            {
                return Err(format!(
                    "the connections of the predecessor cannot be taken over: {error}; the next start takes over what is still in the \
                     service manager's store"
                ));
            }
            if estate.is_ok() {
                inheritance.paused = state.and_then(vault::paused);
            }
            // Those that are not gone on with are closed before any is bound.
            let handed = estate.as_ref().map_or(0, Estate::handed_listeners);
            inheritance.unpack(estate, &ends, needed + to_be_bound.saturating_sub(handed));
        }
        for descriptor in &reserved {
            if ![STATE, OUTLET, INLET, PROBE].contains(&descriptor.name.as_str()) {
                tracing::warn!(name = %descriptor.name, "dropping a descriptor of an unknown version's handover");
            }
        }
        inheritance.kept = reserved;
        Ok(inheritance)
    }

    /// Whether there was anything to look at.
    pub(crate) fn is_some(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Whether anything of it can be gone on with.
    pub(crate) fn is_of_use(&self) -> bool {
        !(self.parcels.is_empty() && self.listeners.is_empty() && self.bequests.is_empty())
    }

    /// Takes the predecessor's descriptors out of the service manager's store, and waits until they are. From here on
    /// this process answers for the connections.
    ///
    /// After a reload nobody is waited for: it is the same process that has them, while the store may have a part of them, or nobody
    /// who answers. Who finds that finds that they were taken over.
    ///
    /// # Errors
    ///
    /// The service manager does not answer. Then it may start another process with the same connections, so that this one
    /// must not serve them, and if it is only slow, everything is left as it was found.
    pub(crate) fn commit(&mut self) -> Result<(), String> {
        if self.is_stored {
            let mut names: Vec<&str> = self
                .kept
                .iter()
                .map(|descriptor| descriptor.name.as_str())
                .collect();
            names.sort_unstable();
            names.dedup();
            if exec::is_replacement() && self.spend() {
                store::discard(&names);
            } else if let Err(error) = store::take_out(&names) {
                self.put_back();
                let consequence = match error.kind() {
                    io::ErrorKind::TimedOut => {
                        "nothing was taken out of its store, and the next start finds the same; see what keeps it busy"
                    }
                    _ => "the next start takes over what is still in its store",
                };
                return Err(format!(
                    "the connections of the predecessor cannot be taken over: {error}; {consequence}"
                ));
            }
        }
        self.kept.clear();
        Ok(())
    }

    /// Has nobody take over what this process does. Returns whether that is so.
    fn spend(&self) -> bool {
        self.state()
            .is_some_and(|state| vault::spend(state).is_ok())
    }

    /// This process cannot start, in order and for another reason than the state: the attempt does not count.
    pub(crate) fn put_back(&self) {
        if let Some(state) = self.state()
            && let Err(error) = vault::uncount(state)
        {
            tracing::warn!("an attempt to restore counts although it was none: {error}");
        }
    }

    /// The state, if this attempt to restore it was counted.
    fn state(&self) -> Option<&OwnedFd> {
        let mut kept = self.kept.iter();
        let state = kept.find(|descriptor| self.is_counted && descriptor.name == STATE)?;
        Some(&state.fd)
    }

    /// How much of it can be gone on with.
    pub(crate) fn contents(&self) -> Contents {
        Contents::new(self.parcels.len(), &self.bequests)
    }

    /// This process does not start: says what becomes of what there was for it, which whoever reads why it does not will want to know.
    pub(crate) fn say_what_waits(&self, contents: Contents, is_attempt: bool) {
        if contents.is_nothing() {
            return;
        }
        if !self.is_stored {
            tracing::error!(
                "lost {contents} of the predecessor: this start fails, and no descriptor store has them (FileDescriptorStoreMax=)"
            );
            return;
        }
        let attempts = self.state().and_then(|state| vault::attempts(state).ok());
        let attempt = match attempts {
            Some(ATTEMPTS_MAX) if is_attempt => {
                tracing::error!(
                    "lost {contents} of the predecessor: this start fails (attempt {ATTEMPTS_MAX} of {ATTEMPTS_MAX}), and the next one goes \
                     on without them"
                );
                return;
            }
            Some(count) if is_attempt => format!(" (attempt {count} of {ATTEMPTS_MAX})"),
            _ => String::new(),
        };
        tracing::warn!(
            "this start fails{attempt}: {contents} wait in the service manager's store for one that succeeds; stopping the service loses \
             them"
        );
    }

    fn unpack(&mut self, estate: Result<Estate, VaultError>, ends: &[&OwnedFd], needed: usize) {
        let _spare = Spare::keep(needed);
        let found = carton::look(ends);
        if let Some(error) = &found.failed {
            tracing::error!("not all of the predecessor's connections can be received: {error}");
        }
        if found.lost > 0 {
            tracing::error!(
                "{} of the predecessor could not be received: too many open files; raise LimitNOFILE=",
                plain::connections(found.lost as u64)
            );
        }
        let estate = match estate {
            Ok(estate) => estate,
            Err(VaultError::Spent) => {
                let closed = Counted(
                    found.descriptors.len() as u64,
                    "descriptor that was",
                    "descriptors that were",
                );
                tracing::warn!(
                    "closing {closed} taken over before; the service manager was not told to"
                );
                found.descriptors.iter().for_each(shut);
                return;
            }
            Err(error) => {
                let closed = found.descriptors.len() as u64;
                let closed = Counted(closed, "descriptor is", "descriptors are");
                tracing::error!("{error}: {closed} closed, and what services left is lost");
                self.lost += found.descriptors.len() + found.lost;
                found.descriptors.iter().for_each(shut);
                return;
            }
        };
        (self.is_stored, self.is_counted) = (estate.stored, true);
        self.bequests = estate.bequests;
        let mut listeners: HashMap<u64, ListenerRecord> = estate
            .listeners
            .into_iter()
            .map(|record| (record.cookie, record))
            .collect();
        let mut connections: HashMap<u64, State> = estate
            .connections
            .into_iter()
            .map(|record| (record.cookie, record))
            .collect();
        for socket in found.descriptors {
            let cookie = socket_cookie(&socket).unwrap_or(0);
            if let Some(state) = connections.remove(&cookie) {
                self.parcels.push(Parcel { socket, state });
            } else if let Some(record) = listeners.remove(&cookie) {
                self.listeners.extend(heirloom(socket, record));
            } else {
                shut(&socket);
                self.lost += 1;
            }
        }
        let missing = connections.len();
        self.lost += missing;
        if missing > 0 && found.lost == 0 {
            let why = match &found.failed {
                Some(error) => &format!("they cannot be received: {error}"),
                None => {
                    "the service manager has kept only a part of what it was given; raise FileDescriptorStoreMax="
                }
            };
            tracing::error!(
                "missing {} that the predecessor has described: {why}",
                plain::connections(missing as u64)
            );
        }
    }
}

fn heirloom(socket: OwnedFd, record: ListenerRecord) -> Option<Heirloom> {
    Some(Heirloom {
        socket,
        name: record.name,
        listen: record.bound?,
        path: record.path.map(BoundPath::from_record),
    })
}
