//! Whether listeners could be had, found out on behalf of a process that has them now.

use super::bind::{self, Failure, Options};
use super::matching::name_problems;
use super::overlap::Space;
use super::succession::{Held, Wanted, assign};
use super::{StartError, StartProblem, names};
use crate::config::{Config, ListenAddress, SocketConfig};
use crate::inherit::RESERVED_PREFIX;

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

/// Whether the addresses could be had that are not inherited, by a successor of the process that holds `held`. It tries
/// those that are to be bound, and leaves nothing behind.
pub(crate) fn rehearse_binding(
    config: &Config,
    inherited: &[&str],
    held: &[Held],
) -> Result<(), StartError> {
    let sections: Vec<(&str, &[ListenAddress], Options)> = to_bind(config, inherited)
        .filter_map(|(name, socket)| {
            let owners = names::owners(name, socket).ok()?;
            Some((name, &socket.listen[..], Options::new(socket, owners)))
        })
        .collect();
    let wanted: Vec<Wanted<'_>> = sections
        .iter()
        .flat_map(|(name, listen, options)| {
            listen.iter().map(move |listen| Wanted {
                name,
                listen,
                options,
            })
        })
        .collect();
    let rehearsal = Rehearsal::new(&wanted, held);
    let problems = (0..wanted.len()).filter_map(|index| {
        let Wanted { name, listen, .. } = wanted[index];
        Some(rehearsal.try_out(index).err()?.at(name, listen))
    });
    conclude(problems.collect())
}

/// Who would listen where.
struct Rehearsal<'a> {
    wanted: &'a [Wanted<'a>],
    /// What each of them would occupy.
    spaces: Vec<Space>,
    /// Whether it is there already, and would be taken over.
    is_held: Vec<bool>,
    /// What would be closed before anything is bound.
    released: Vec<Space>,
}

impl<'a> Rehearsal<'a> {
    fn new(wanted: &'a [Wanted<'a>], held: &[Held]) -> Self {
        let assigned = assign(wanted, held);
        let space = |(wanted, assigned): (&Wanted<'_>, &Vec<usize>)| {
            let held = assigned.first().and_then(|index| held[*index].space());
            held.unwrap_or_else(|| Space::of(wanted.listen, wanted.options.ipv6_only))
        };
        let released =
            (0..held.len()).filter(|index| !assigned.iter().flatten().any(|taken| taken == index));
        Rehearsal {
            wanted,
            spaces: wanted.iter().zip(&assigned).map(space).collect(),
            is_held: assigned.iter().map(|taken| !taken.is_empty()).collect(),
            released: released.filter_map(|index| held[index].space()).collect(),
        }
    }

    /// Whether this one could be had.
    fn try_out(&self, index: usize) -> Result<(), Failure> {
        let Wanted {
            listen, options, ..
        } = self.wanted[index];
        if self.is_held[index] {
            return bind::rehearse_options(listen, options);
        }
        if let Some(other) = self.in_the_way(index) {
            let Wanted { name, listen, .. } = self.wanted[other];
            return Err(Failure::in_the_way(name, listen));
        }
        let space = &self.spaces[index];
        match bind::rehearse(listen, options) {
            // By what will be closed.
            Err(failure)
                if failure.is_in_use() && self.released.iter().any(|held| held.overlaps(space)) =>
            {
                Ok(())
            }
            result => result,
        }
    }

    /// Another one that would be there when this one is to be bound.
    fn in_the_way(&self, index: usize) -> Option<usize> {
        let is_there = |other: &usize| *other < index || (*other != index && self.is_held[*other]);
        let mut others = (0..self.wanted.len()).filter(is_there);
        others.find(|other| self.spaces[*other].overlaps(&self.spaces[index]))
    }
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

fn conclude(problems: Vec<StartProblem>) -> Result<(), StartError> {
    if problems.is_empty() {
        Ok(())
    } else {
        Err(StartError::new(problems))
    }
}
