//! Whether listeners could be had, found out on behalf of a process that has them now.

use std::net::SocketAddr;

use super::bind::{self, Options};
use super::matching::name_problems;
use super::{StartError, StartProblem, names};
use crate::config::{Config, ListenAddress, SocketConfig};
use crate::inherit::RESERVED_PREFIX;

/// A listener that the asking process has bound itself, and would pass on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// The name of its section.
    pub(crate) name: String,
    /// What the configuration asked for, in its notation.
    pub(crate) listen: String,
    /// Where it listens.
    pub(crate) address: String,
}

/// Whether [`plan`](super::plan()) would find problems in the names if listeners with these descriptor names were
/// inherited: for a process that asks on behalf of another, which holds the descriptors.
///
/// # Errors
/// Every problem that was found.
pub fn rehearse(
    config: &Config,
    inherited: &[&str],
    inherited_only: bool,
    services: &[&str],
    workers: usize,
) -> Result<(), StartError> {
    let listeners: Vec<_> = inherited
        .iter()
        .filter(|name| !name.starts_with(RESERVED_PREFIX))
        .map(|name| (*name, None))
        .collect();
    let mut problems = name_problems(config, &listeners, inherited_only, services, workers);
    for (name, socket) in to_bind(config, inherited) {
        problems.extend(names::owners(name, socket).err());
    }
    conclude(problems)
}

/// Whether the addresses could be bound that neither are inherited nor are among those that the asking process holds.
/// It tries, and leaves nothing behind.
pub(crate) fn rehearse_binding(
    config: &Config,
    inherited: &[&str],
    held: &[Held],
) -> Result<(), StartError> {
    let is_for = |held: &Held, name: &str, listen: &ListenAddress| {
        held.name == name && held.listen == listen.to_string()
    };
    // What nobody wants any more is closed before anything is bound.
    let (wanted, unwanted): (Vec<&Held>, Vec<&Held>) = held.iter().partition(|held| {
        to_bind(config, inherited).any(|(name, socket)| {
            socket
                .listen
                .iter()
                .any(|listen| is_for(held, name, listen))
        })
    });
    let mut problems = Vec::new();
    for (name, socket) in to_bind(config, inherited) {
        let Ok(owners) = names::owners(name, socket) else {
            continue;
        };
        let options = Options::new(socket, owners);
        for listen in &socket.listen {
            if wanted.iter().any(|held| is_for(held, name, listen)) {
                continue;
            }
            if let Err(failure) = bind::rehearse(listen, &options)
                && !(failure.is_in_use() && makes_room(listen, &unwanted))
            {
                problems.push(failure.at(name, listen));
            }
        }
    }
    conclude(problems)
}

/// The sections that bind their addresses.
fn to_bind<'c>(
    config: &'c Config,
    inherited: &[&str],
) -> impl Iterator<Item = (&'c str, &'c SocketConfig)> {
    config
        .sockets
        .iter()
        .filter(|(name, socket)| {
            socket.enable && !inherited.contains(&socket.descriptor_name(name))
        })
        .map(|(name, socket)| (name.as_str(), socket))
}

/// Whether `listen` may be in use by one of these listeners only, which will be closed.
fn makes_room(listen: &ListenAddress, held: &[&Held]) -> bool {
    match listen {
        ListenAddress::Tcp(address) => held.iter().any(|held| {
            held.address
                .parse::<SocketAddr>()
                .is_ok_and(|held| held.port() == address.port())
        }),
        ListenAddress::UnixPath(_) => held.iter().any(|held| held.listen == listen.to_string()),
        // The name is in use for as long as any duplicate of the socket is open, which is until the handover is over.
        ListenAddress::UnixAbstract(_) => false,
    }
}

fn conclude(problems: Vec<StartProblem>) -> Result<(), StartError> {
    if problems.is_empty() {
        Ok(())
    } else {
        Err(StartError::new(problems))
    }
}
