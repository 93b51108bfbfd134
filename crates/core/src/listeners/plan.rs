//! Decides what each socket section will use.

use std::collections::{BTreeSet, VecDeque};
use std::os::fd::{AsFd, RawFd};
use std::sync::Arc;
use std::time::Instant;

use super::bind::{GRACE, Options};
use super::entry::{Entry, Planned};
use super::keepalive::Keepalive;
use super::matching::{Sorted, name_problems};
use super::rehearsal::conflicts;
use super::rows::{Row, Table};
use super::succession::{Held, Wanted, assign};
use super::{Heirloom, Listener, StartError, StartProblem, check, names};
use crate::config::{Config, ListenAddress, SocketConfig};
use crate::inherit::{Inherited, NamedDescriptor};
use crate::limits::Limits;
use crate::placement;

/// What each socket section will use. Nothing is bound yet; what was inherited has been checked.
#[derive(Debug)]
pub struct Plan {
    entries: Vec<Entry>,
    rows: Vec<Row>,
    reserved: Vec<NamedDescriptor>,
    strays: Vec<NamedDescriptor>,
}

/// Decides what each section of `config` uses: the inherited descriptors of its name, or the addresses that it lists.
///
/// With `inherited_only` an enabled section without an inherited descriptor is an error. `services` are the names that
/// sections may refer to, `workers` is how many workers there are.
///
/// Inherited descriptors that are nobody's listener are set aside: those whose names begin with `ringhold.`
/// ([`Plan::take_reserved`]) and those that do not listen and that no section claims, which some other version left in the
/// service manager's store ([`Plan::take_strays`]).
///
/// Nothing is bound, connected or removed, so it may be asked just to know (`ringhold check`).
///
/// # Errors
/// Every problem that was found, in all sections.
pub fn plan(
    config: &Config,
    inherited: Inherited,
    inherited_only: bool,
    services: &[&str],
    workers: usize,
) -> Result<Plan, StartError> {
    let mut sorted = Sorted::new(config, inherited);
    let listeners: Vec<(&str, Option<RawFd>)> = sorted.names();
    let mut problems = name_problems(config, &listeners, inherited_only, services, workers);
    let mut plan = Plan {
        entries: Vec::new(),
        rows: Vec::new(),
        reserved: Vec::new(),
        strays: Vec::new(),
    };
    for (name, socket) in &config.sockets {
        let descriptors = sorted.claimed.remove(name.as_str()).unwrap_or_default();
        let Ok(partition) = socket.workers.resolve(workers) else {
            continue;
        };
        match sources(name, socket, descriptors, &partition) {
            Ok(sources) => plan.add(name, socket, &config.limits, &partition, sources),
            Err(more) => problems.extend(more),
        }
    }
    if !inherited_only {
        // What is inherited may be of another network namespace (PrivateNetwork= in systemd.exec(5)) and in nobody's way.
        let wanted: Vec<Wanted<'_>> = plan.entries.iter().filter_map(Entry::wanted).collect();
        problems.extend(conflicts(&wanted));
    }
    if !problems.is_empty() {
        return Err(StartError::new(problems));
    }
    (plan.reserved, plan.strays) = (sorted.reserved, sorted.strays);
    Ok(plan)
}

impl Plan {
    /// Takes out the descriptors whose names begin with `ringhold.`.
    pub fn take_reserved(&mut self) -> Vec<NamedDescriptor> {
        std::mem::take(&mut self.reserved)
    }

    /// Takes out the descriptors that no section claims and that do not listen. They are to be removed from the store,
    /// closed and logged.
    pub fn take_strays(&mut self) -> Vec<NamedDescriptor> {
        std::mem::take(&mut self.strays)
    }

    /// How many of its listeners are inherited.
    pub(crate) fn inherited(&self) -> usize {
        self.entries.len() - self.to_be_bound()
    }

    /// How many are to be bound.
    pub(crate) fn to_be_bound(&self) -> usize {
        self.entries.iter().filter(|entry| entry.is_bound()).count()
    }

    /// The table of the plan: every listener, and the disabled names that have none.
    pub fn table(&self) -> Table {
        Table(self.rows.clone())
    }

    /// Binds what is missing, and returns all listeners, by name and then in the order of their descriptors or
    /// addresses. On failure the paths that were made are removed again.
    ///
    /// # Errors
    /// Every address that cannot be bound.
    pub fn open(self) -> Result<Vec<Listener>, StartError> {
        self.open_with(Vec::new())
    }

    /// As [`Plan::open`], but what the predecessor had bound for an address that is still wanted is taken over. The rest
    /// of that is closed first, since its addresses may be in the way.
    pub(crate) fn open_with(self, heirlooms: Vec<Heirloom>) -> Result<Vec<Listener>, StartError> {
        let mut listeners: Vec<Listener> = Vec::with_capacity(self.entries.len());
        let mut problems: Vec<StartProblem> = Vec::new();
        let deadline = Instant::now() + GRACE;
        let mut is_missing = false;
        for (entry, heirloom) in self.with_heirlooms(heirlooms) {
            // What listens on the address of the one before would fail for the same reason. What the predecessor had bound
            // stays as it is, once it is clear that this process does not start.
            let is_copy = is_missing && entry.repetition() > 0;
            is_missing = is_copy || (!problems.is_empty() && heirloom.is_some());
            if is_missing {
                continue;
            }
            match entry.open(listeners.last(), heirloom, deadline) {
                Ok(listener) => listeners.push(listener),
                Err(problem) => {
                    is_missing = true;
                    let is_last = problem.is_lack_of_descriptors();
                    problems.push(problem);
                    if is_last {
                        break;
                    }
                }
            }
        }
        if problems.is_empty() {
            return Ok(listeners);
        }
        for listener in &listeners {
            // The problems that stopped us are those to report.
            let _ = listener.unlink_new();
        }
        Err(StartError::new(problems))
    }

    /// The entries, each with what it takes over, and one more for each heirloom beyond those that are planned: the
    /// listeners of workers that there are no more (SO_REUSEPORT). Clients may be waiting in their queues, so that they
    /// are dealt to the others rather than closed. What nobody takes over is closed.
    fn with_heirlooms(self, heirlooms: Vec<Heirloom>) -> Vec<(Entry, Option<Heirloom>)> {
        let held: Vec<Held> = heirlooms.iter().map(Heirloom::describe).collect();
        let wanted: Vec<Wanted<'_>> = self.entries.iter().filter_map(Entry::wanted).collect();
        let mut assigned = assign(&wanted, &held).into_iter();
        let mut heirlooms: Vec<Option<Heirloom>> = heirlooms.into_iter().map(Some).collect();

        let mut pairs = Vec::with_capacity(self.entries.len());
        let mut at_place: VecDeque<usize> = VecDeque::new();
        let mut entries = self.entries.into_iter().peekable();
        while let Some(entry) = entries.next() {
            if entry.wanted().is_some() {
                at_place = assigned.next().unwrap_or_default().into();
            }
            let mut next = || heirlooms[at_place.pop_front()?].take();
            let heirloom = next();
            let mut extras = Vec::new();
            if entries.peek().is_none_or(|next| !next.is_copy_of(&entry)) {
                let numbered = (entry.repetition() + 1..).zip(std::iter::from_fn(next));
                extras.extend(
                    numbered.filter_map(|(index, heirloom)| {
                        Some((entry.extra(index)?, Some(heirloom)))
                    }),
                );
            }
            pairs.push((entry, heirloom));
            pairs.extend(extras);
        }
        heirlooms.into_iter().flatten().for_each(Heirloom::discard);
        pairs
    }

    fn add(
        &mut self,
        name: &str,
        socket: &SocketConfig,
        limits: &Limits,
        partition: &[usize],
        sources: Vec<Planned>,
    ) {
        let shared: Arc<str> = Arc::from(name);
        let group = self.entries.last().map_or(0, |last| last.group + 1);
        let section = Row::new(name, socket, limits);
        if sources.is_empty() {
            self.rows.push(section.clone());
        }
        let owners: Vec<usize> = (0..sources.len())
            .filter_map(|index| placement::owner(partition, index))
            .collect();
        let covered: Vec<bool> = sources
            .iter()
            .map(|source| covers(source, &sources, &owners, partition))
            .collect();
        for ((source, owner), covered) in sources.into_iter().zip(owners).zip(covered) {
            let entry = Entry {
                name: Arc::clone(&shared),
                group,
                service: socket.service.clone(),
                enabled: socket.enable,
                owner,
                partition: partition.to_vec(),
                dealt: socket.enable && !covered,
                socket: source,
            };
            self.rows.push(entry.row(&section));
            self.entries.push(entry);
        }
    }
}

/// What section `name` uses: its inherited descriptors, else its addresses if it is enabled.
fn sources(
    name: &str,
    socket: &SocketConfig,
    descriptors: Vec<NamedDescriptor>,
    partition: &[usize],
) -> Result<Vec<Planned>, Vec<StartProblem>> {
    if descriptors.is_empty() {
        return if socket.enable {
            to_bind(name, socket, partition)
        } else {
            Ok(Vec::new())
        };
    }
    let mut planned = Vec::new();
    let mut problems = Vec::new();
    for NamedDescriptor { name, number, fd } in descriptors {
        match check::listener(fd.as_fd()) {
            Ok(address) => planned.push(Planned::Inherited {
                number,
                name,
                fd,
                address,
                nodelay: socket.nodelay,
                keepalive: Keepalive::new(socket),
            }),
            Err(found) => problems.push(StartProblem::NotListener {
                number,
                name,
                found,
            }),
        }
    }
    if problems.is_empty() {
        Ok(planned)
    } else {
        Err(problems)
    }
}

fn to_bind(
    name: &str,
    socket: &SocketConfig,
    partition: &[usize],
) -> Result<Vec<Planned>, Vec<StartProblem>> {
    let owners = names::owners(name, socket).map_err(|problem| vec![problem])?;
    let options = Arc::new(Options::new(socket, owners));
    let planned = socket
        .listen
        .iter()
        .enumerate()
        .flat_map(|(place, listen)| {
            let copies = copies(socket, listen, partition);
            let options = Arc::clone(&options);
            (0..copies).map(move |repetition| Planned::Bind {
                listen: listen.clone(),
                place,
                options: Arc::clone(&options),
                repetition,
            })
        });
    Ok(planned.collect())
}

/// How many listeners a section has on one of its addresses: with `reuse_port` each worker has its own.
pub(super) fn copies(socket: &SocketConfig, listen: &ListenAddress, partition: &[usize]) -> usize {
    match socket.reuse_port && listen.is_tcp() {
        true => partition.len(),
        false => 1,
    }
}

/// Whether the listeners on the address of `source` belong to all workers of the partition, so that the kernel spreads
/// their connections already.
fn covers(source: &Planned, all: &[Planned], owners: &[usize], partition: &[usize]) -> bool {
    let same: BTreeSet<usize> = all
        .iter()
        .zip(owners)
        .filter(|(other, _)| same_address(source, other))
        .map(|(_, owner)| *owner)
        .collect();
    partition.iter().all(|worker| same.contains(worker))
}

fn same_address(one: &Planned, other: &Planned) -> bool {
    match (one, other) {
        (Planned::Inherited { address: one, .. }, Planned::Inherited { address: other, .. }) => {
            one == other
        }
        (Planned::Bind { place: one, .. }, Planned::Bind { place: other, .. }) => one == other,
        _ => false,
    }
}
