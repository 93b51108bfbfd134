//! Whether listeners could be had, found out on behalf of a process that has them now.

use super::bind::{self, Failure, Options};
use super::matching::name_problems;
use super::overlap::Space;
use super::plan::copies;
use super::succession::{Held, Wanted, assign};
use super::{StartError, StartProblem, names};
use crate::config::{Config, ListenAddress, SocketConfig};
use crate::inherit::is_reserved;

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
        .filter(|name| !is_reserved(name))
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
    conclude(Rehearsal::new(&wanted, held).problems(Rehearsal::try_out))
}

/// How many listeners would be bound, each copy of one counted.
pub(crate) fn to_be_bound(config: &Config, inherited: &[&str], workers: usize) -> usize {
    let count = |(_, socket): (&str, &SocketConfig)| -> usize {
        // A partition of workers that do not exist was refused.
        let partition = socket.workers.resolve(workers).unwrap_or_default();
        let listen = socket.listen.iter();
        listen.map(|at| copies(socket, at, &partition)).sum()
    };
    to_bind(config, inherited).map(count).sum()
}

/// Which of `wanted` could not be had because of each other. Nothing is tried.
pub(super) fn conflicts(wanted: &[Wanted<'_>]) -> Vec<StartProblem> {
    Rehearsal::new(wanted, &[]).problems(Rehearsal::has_room)
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
            // Only what is held says which port the kernel chose. Whether [::] takes IPv4, too, is judged as the plan of the
            // successor does, which does not know what is held.
            let place = assigned.first().and_then(|index| held[*index].place());
            let listen = place.as_ref().unwrap_or(wanted.listen);
            Space::of(listen, wanted.options.ipv6_only)
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

    /// What is wrong with each of them.
    fn problems(
        &self,
        attempt: impl Fn(&Self, usize) -> Result<(), StartProblem>,
    ) -> Vec<StartProblem> {
        let all = 0..self.wanted.len();
        all.filter_map(|index| attempt(self, index).err()).collect()
    }

    /// Whether this one could be had.
    fn try_out(&self, index: usize) -> Result<(), StartProblem> {
        let Wanted {
            name,
            listen,
            options,
        } = self.wanted[index];
        let at = |failure: Failure| failure.at(name, listen);
        self.has_room(index)?;
        if self.is_held[index] {
            return bind::rehearse_options(listen, options).map_err(at);
        }
        let space = &self.spaces[index];
        match bind::rehearse(listen, options) {
            // By what will be closed.
            Err(failure)
                if failure.is_in_use() && self.released.iter().any(|held| held.overlaps(space)) =>
            {
                Ok(())
            }
            result => result.map_err(at),
        }
    }

    /// Whether none of those that come before this one is in its way: first what is there already, then in their order.
    fn has_room(&self, index: usize) -> Result<(), StartProblem> {
        let turn = |index: usize| (!self.is_held[index], index);
        let mut before = (0..self.wanted.len()).filter(|other| turn(*other) < turn(index));
        let Some(other) = before.find(|other| self.spaces[*other].overlaps(&self.spaces[index]))
        else {
            return Ok(());
        };
        let [this, other] = [index, other].map(|index| self.wanted[index]);
        Err(StartProblem::InTheWay {
            socket: this.name.to_owned(),
            address: this.listen.clone(),
            other: other.name.to_owned(),
            other_address: other.listen.clone(),
        })
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
