//! A listener that is planned, and how it is made.

use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Instant;

use rustix::net::sockopt::set_tcp_nodelay;

use super::bind::{Options, bind};
use super::keepalive::Keepalive;
use super::rows::{Row, Source};
use super::succession::Wanted;
use super::{Address, Heirloom, Listener, Origin, StartProblem};
use crate::config::ListenAddress;
use crate::placement;

/// One listener to be.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Arc<str>,
    pub(super) group: usize,
    pub(super) service: String,
    pub(super) enabled: bool,
    pub(super) owner: usize,
    pub(super) partition: Vec<usize>,
    pub(super) dealt: bool,
    pub(super) socket: Planned,
}

/// Where its socket comes from.
#[derive(Debug)]
pub(super) enum Planned {
    Inherited {
        number: RawFd,
        name: String,
        fd: OwnedFd,
        address: Address,
        nodelay: bool,
        keepalive: Keepalive,
    },
    Bind {
        listen: ListenAddress,
        /// Its place in key `listen`.
        place: usize,
        options: Arc<Options>,
        /// How many entries before it listen on the same address (SO_REUSEPORT).
        repetition: usize,
    },
}

impl Entry {
    /// The address that is to be bound, where it is the first to listen there.
    pub(super) fn wanted(&self) -> Option<Wanted<'_>> {
        match &self.socket {
            Planned::Bind {
                listen,
                options,
                repetition: 0,
                ..
            } => Some(Wanted {
                name: &self.name,
                listen,
                options,
            }),
            _ => None,
        }
    }

    /// Whether it is to be bound.
    pub(super) fn is_bound(&self) -> bool {
        matches!(self.socket, Planned::Bind { .. })
    }

    /// How many entries before it listen on the same address.
    pub(super) fn repetition(&self) -> usize {
        match self.socket {
            Planned::Bind { repetition, .. } => repetition,
            Planned::Inherited { .. } => 0,
        }
    }

    /// Whether it listens on the address of the entry before it.
    pub(super) fn is_copy_of(&self, before: &Entry) -> bool {
        self.group == before.group && self.repetition() == before.repetition() + 1
    }

    /// One more listener on its address, as the predecessor had `index` others.
    pub(super) fn extra(&self, index: usize) -> Option<Entry> {
        let Planned::Bind {
            listen,
            place,
            options,
            ..
        } = &self.socket
        else {
            return None;
        };
        Some(Entry {
            name: Arc::clone(&self.name),
            service: self.service.clone(),
            owner: placement::owner(&self.partition, index)?,
            partition: self.partition.clone(),
            socket: Planned::Bind {
                listen: listen.clone(),
                place: *place,
                options: Arc::clone(options),
                repetition: index,
            },
            ..*self
        })
    }

    /// Its row of the table, of which its section says the rest.
    pub(super) fn row(&self, section: &Row) -> Row {
        let (address, source) = match &self.socket {
            Planned::Inherited {
                number, address, ..
            } => (address.to_string(), Source::Inherited(*number)),
            Planned::Bind { listen, .. } => (listen.to_string(), Source::WouldBind),
        };
        let workers = match self.dealt {
            true => self.partition.clone(),
            false => vec![self.owner],
        };
        Row {
            address,
            source,
            workers,
            ..section.clone()
        }
    }

    /// Makes the listener. `before` is the one that was made before, `heirloom` what the predecessor had bound. An address
    /// that is in use is tried again until `deadline`.
    pub(super) fn open(
        self,
        before: Option<&Listener>,
        heirloom: Option<Heirloom>,
        deadline: Instant,
    ) -> Result<Listener, StartProblem> {
        let mut is_kept = false;
        let (socket, address, origin, path) = match self.socket {
            Planned::Inherited {
                number,
                name,
                fd,
                address,
                nodelay,
                keepalive,
            } => {
                // Accepted sockets inherit what is set. Nobody is turned away because it cannot be.
                if nodelay && address.is_tcp() {
                    // A unit without NoDelay=yes has rarely meant to hold answers back.
                    let _ = set_tcp_nodelay(&fd, true);
                }
                if !keepalive.is_off() && address.is_tcp() {
                    // Nor one without KeepAlive=yes to keep connections for ever of which the peer is gone.
                    let _ = keepalive.set(&fd);
                }
                (fd, address, Origin::Inherited { number, name }, None)
            }
            Planned::Bind {
                listen,
                options,
                repetition,
                ..
            } => {
                let exact = exact(&listen, repetition, before);
                let kept = heirloom.and_then(|heirloom| heirloom.adapt(&self.name, &options));
                is_kept = kept.is_some();
                let bound = match kept {
                    Some(bound) => bound,
                    None => bind(&self.name, &exact, &options, repetition == 0, deadline)?,
                };
                if repetition == 0 {
                    options.buffers.warn(&self.name, &bound);
                }
                (
                    bound.socket,
                    bound.address,
                    Origin::Bound { listen },
                    bound.path,
                )
            }
        };
        Ok(Listener {
            name: self.name,
            group: self.group,
            socket,
            address,
            origin,
            service: self.service,
            enabled: self.enabled,
            owner: self.owner,
            partition: self.partition,
            dealt: self.dealt,
            deputy: AtomicUsize::new(self.owner),
            path,
            is_kept,
            is_closed: AtomicBool::new(false),
        })
    }
}

/// Where to listen: those that share an address do so on the port that the kernel chose for the first of them.
fn exact(listen: &ListenAddress, repetition: usize, before: Option<&Listener>) -> ListenAddress {
    match before {
        Some(Listener {
            address: Address::Tcp(address),
            ..
        }) if repetition > 0 => ListenAddress::Tcp(*address),
        _ => listen.clone(),
    }
}
