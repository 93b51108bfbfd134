//! Joins inherited descriptors and socket sections by name.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, RawFd};

use super::{StartProblem, check};
use crate::belongings::PREFIX;
use crate::config::{Config, nearest};
use crate::inherit::{Inherited, NamedDescriptor, is_reserved};

/// The name of a stored descriptor that was given none (FDSTORE=1 without FDNAME=, sd_pid_notify_with_fds(3)).
const STORED: &str = "stored";

/// The name of what the service manager is not told a name for, or of what is inherited without names (sd_listen_fds_with_names(3)).
pub(super) const UNNAMED: &str = "unknown";

/// The inherited descriptors, by what they are to us.
pub(super) struct Sorted {
    /// By section name.
    pub(super) claimed: BTreeMap<String, Vec<NamedDescriptor>>,
    unclaimed: Vec<NamedDescriptor>,
    pub(super) reserved: Vec<NamedDescriptor>,
    pub(super) strays: Vec<NamedDescriptor>,
}

impl Sorted {
    pub(super) fn new(config: &Config, inherited: Inherited) -> Self {
        let mut sorted = Self {
            claimed: BTreeMap::new(),
            unclaimed: Vec::new(),
            reserved: Vec::new(),
            strays: Vec::new(),
        };
        for descriptor in inherited.descriptors {
            if descriptor.name.starts_with(PREFIX) {
                // The application had opened it, and does not claim it any more.
                sorted.strays.push(descriptor);
                continue;
            }
            if is_reserved(&descriptor.name) {
                sorted.reserved.push(descriptor);
                continue;
            }
            let section = config
                .sockets
                .iter()
                .find(|(name, socket)| socket.descriptor_name(name) == descriptor.name);
            match section {
                Some((name, _)) => sorted
                    .claimed
                    .entry(name.clone())
                    .or_default()
                    .push(descriptor),
                None if descriptor.name != STORED && check::is_listening(descriptor.fd.as_fd()) => {
                    sorted.unclaimed.push(descriptor);
                }
                None => sorted.strays.push(descriptor),
            }
        }
        sorted
    }

    /// The names of what is, or is to be, a listener.
    pub(super) fn names(&self) -> Vec<(&str, Option<RawFd>)> {
        let all = self.claimed.values().flatten().chain(&self.unclaimed);
        all.map(|descriptor| (descriptor.name.as_str(), Some(descriptor.number)))
            .collect()
    }
}

/// What can be wrong between the sections and the names of the inherited listeners.
pub(super) fn name_problems(
    config: &Config,
    listeners: &[(&str, Option<RawFd>)],
    inherited_only: bool,
    services: &[&str],
    workers: usize,
) -> Vec<StartProblem> {
    let mut problems = Vec::new();
    for (name, socket) in &config.sockets {
        let descriptor = socket.descriptor_name(name);
        let inherited = listeners
            .iter()
            .any(|(listener, _)| *listener == descriptor);
        if socket.enable && !services.contains(&socket.service.as_str()) {
            problems.push(StartProblem::UnknownService {
                socket: name.clone(),
                service: socket.service.clone(),
                known: services
                    .iter()
                    .map(|service| (*service).to_owned())
                    .collect(),
                nearest: nearest(&socket.service, services.iter().copied()).map(str::to_owned),
            });
        }
        match socket.workers.resolve(workers) {
            Ok(partition) if partition.is_empty() => {
                problems.push(StartProblem::NoWorkers {
                    socket: name.clone(),
                });
            }
            Ok(_) => {}
            Err(index) => problems.push(StartProblem::Partition {
                socket: name.clone(),
                index,
                workers,
            }),
        }
        if inherited || !socket.enable {
            continue;
        }
        let (socket_name, descriptor) = (name.clone(), descriptor.to_owned());
        if inherited_only {
            let inherited: BTreeSet<&str> =
                listeners.iter().map(|(listener, _)| *listener).collect();
            let inherited = inherited.into_iter().map(str::to_owned).collect();
            problems.push(StartProblem::NotInherited {
                socket: socket_name,
                descriptor,
                inherited,
            });
        } else if socket.listen.is_empty() {
            problems.push(StartProblem::NoAddress {
                socket: socket_name,
                descriptor,
            });
        }
    }
    let unclaimed: BTreeSet<_> = listeners
        .iter()
        .filter(|(listener, _)| {
            let mut sockets = config.sockets.iter();
            !sockets.any(|(name, socket)| socket.descriptor_name(name) == *listener)
        })
        .collect();
    let names: BTreeSet<&str> = unclaimed.iter().map(|(listener, _)| *listener).collect();
    let renamed = match names.len() {
        1 => only_without(config, listeners),
        _ => None,
    };
    problems.extend(
        unclaimed
            .into_iter()
            .map(|(listener, number)| unclaimed_listener(config, listener, *number, renamed)),
    );
    problems
}

/// The enabled section that has none of these listeners, if there is exactly one.
fn only_without<'c>(config: &'c Config, listeners: &[(&str, Option<RawFd>)]) -> Option<&'c str> {
    let mut without = config.sockets.iter().filter(|(name, socket)| {
        let descriptor = socket.descriptor_name(name);
        socket.enable && !listeners.iter().any(|(it, _)| *it == descriptor)
    });
    let (name, _) = without.next()?;
    without.next().is_none().then_some(name.as_str())
}

/// `renamed` is the section that it may belong to although their names are not alike.
fn unclaimed_listener(
    config: &Config,
    listener: &str,
    number: Option<RawFd>,
    renamed: Option<&str>,
) -> StartProblem {
    // The default name of a socket unit is that of the whole unit.
    let word = listener.strip_suffix(".socket").unwrap_or(listener);
    let probable = nearest(word, config.sockets.keys().map(String::as_str));
    StartProblem::Unclaimed {
        name: listener.to_owned(),
        number,
        sections: config
            .sockets
            .iter()
            .map(|(name, socket)| (name.clone(), socket.descriptor_name(name).to_owned()))
            .collect(),
        // One that was passed without a name needs one.
        probable: probable
            .or(renamed.filter(|_| listener != UNNAMED))
            .map(str::to_owned),
    }
}
