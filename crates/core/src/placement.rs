//! Which worker a listener belongs to, and which worker a connection goes to.

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

/// The worker that owns descriptor `index` of a name that is placed on `partition`: they go round.
///
/// So as many SO_REUSEPORT listeners as workers give each worker a queue of its own. `None` if nobody is in the
/// partition.
pub(crate) fn owner(partition: &[usize], index: usize) -> Option<usize> {
    partition.get(index.checked_rem(partition.len())?).copied()
}

/// The worker that accepts on a listener as long as its owner is stuck: the next one of its partition that is not. The
/// owner itself if it is not; `None` if all are.
pub(crate) fn deputy(
    partition: &[usize],
    owner: usize,
    is_stuck: impl Fn(usize) -> bool,
) -> Option<usize> {
    let place = partition.iter().position(|worker| *worker == owner)?;
    let (before, behind) = partition.split_at(place);
    let mut workers = behind.iter().chain(before).copied();
    workers.find(|worker| !is_stuck(*worker))
}

/// Where the connections of a socket name may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    /// The workers.
    pub(crate) partition: Vec<usize>,
    /// How many of them each of these workers holds at most.
    pub(crate) connections: u32,
}

impl From<Vec<usize>> for Placement {
    /// These workers, and no other limit than theirs.
    fn from(partition: Vec<usize>) -> Self {
        Self {
            partition,
            connections: u32::MAX,
        }
    }
}

/// Deals connections to workers, evenly by name, and counts what each worker holds.
///
/// One value is shared by all workers. It takes no locks: each count is one atomic number, and a deal that meets
/// another one on the same count looks again.
#[derive(Debug)]
pub(crate) struct Dealer {
    limit: u32,
    totals: Vec<AtomicU32>,
    /// By worker.
    stuck: Vec<AtomicBool>,
    names: Vec<Name>,
}

/// The count of all connections of a worker that is left out: above every limit, and so far above that nothing that is still
/// counted there changes it.
const LEFT_OUT: u32 = u32::MAX / 4 * 3;

/// The counts of one socket name.
#[derive(Debug)]
struct Name {
    placement: Placement,
    /// By worker.
    held: Vec<AtomicU32>,
    /// Where the search begins, so that ties go round.
    turn: AtomicUsize,
}

/// What became of a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) struct Dealt {
    /// The worker that it is counted at; `None` if there is no room for it.
    pub(crate) worker: Option<usize>,
    /// It was counted, for a moment, where there was no room after all, and somebody else who saw the name at its limit
    /// there may have been answered `None`. As after [`Dealer::release`], who was should try again.
    pub(crate) frees: bool,
}

impl Dealer {
    /// A dealer for `workers` workers that hold at most `limit` connections each. `placements` are those of the socket
    /// names, on these workers; the index in it is what the methods call `name`.
    pub(crate) fn new(
        workers: usize,
        limit: u32,
        placements: impl IntoIterator<Item: Into<Placement>>,
    ) -> Self {
        let none = || (0..workers).map(|_| AtomicU32::new(0)).collect();
        let names = placements.into_iter().map(|placement| Name {
            placement: placement.into(),
            held: none(),
            turn: AtomicUsize::new(0),
        });
        Self {
            limit,
            totals: none(),
            stuck: (0..workers).map(|_| AtomicBool::new(false)).collect(),
            names: names.collect(),
        }
    }

    /// Chooses the worker for a new connection of `name` and counts it there: the one of its partition that holds
    /// fewest of this name, among those the one that holds fewest in all, among those each in turn; one that is
    /// [stuck](Dealer::set_stuck) only if no other has room. There is no room if all of the partition are at their limit,
    /// or at that of the name; [`Dealer::release`] tells when that is over.
    pub(crate) fn deal(&self, name: usize) -> Dealt {
        let name = &self.names[name];
        let start = name.turn.fetch_add(1, Ordering::Relaxed);
        let mut frees = false;
        while let Some((held, worker)) = self.fewest(name, start) {
            // Only from the count that was seen: two dealers who saw the same one must not both choose it.
            let seen = name.held[worker].compare_exchange(
                held,
                held + 1,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            if seen.is_err() {
                continue;
            }
            if self.admit(worker) {
                let worker = Some(worker);
                return Dealt { worker, frees };
            }
            frees |= name.take_back(worker);
        }
        let worker = None;
        Dealt { worker, frees }
    }

    /// Who holds fewest of a name, of those that have room for it: how many, and which worker.
    fn fewest(&self, name: &Name, start: usize) -> Option<(u32, usize)> {
        let partition = &name.placement.partition;
        let count = partition.len();
        // In turn, and of equal ones `min_by_key` takes the first.
        let workers = (0..count).map(|step| partition[(start % count + step) % count]);
        let counts = workers.map(|worker| (name.held(worker), self.total(worker), worker));
        let open = counts
            .filter(|&(held, total, _)| held < name.placement.connections && total < self.limit);
        let (held, _, worker) =
            open.min_by_key(|&(held, total, worker)| (self.is_stuck(worker), held, total))?;
        Some((held, worker))
    }

    /// Counts a new connection of `name` at `worker`, if that is below the limits: for listeners whose connections stay
    /// with the worker that accepts them.
    pub(crate) fn keep(&self, name: usize, worker: usize) -> Dealt {
        let name = &self.names[name];
        let is_claimed = self.total(worker) < self.limit && name.claim(worker);
        let is_kept = is_claimed && self.admit(worker);
        Dealt {
            worker: is_kept.then_some(worker),
            frees: is_claimed && !is_kept && name.take_back(worker),
        }
    }

    /// Chooses the worker for a connection of `name` that must be served, whatever the limits say, and counts it there.
    /// It stays within the partition, and above the limits goes to the worker that holds fewest of the name. To be called
    /// before anybody deals.
    pub(crate) fn place(&self, name: usize) -> usize {
        if let Some(worker) = self.deal(name).worker {
            return worker;
        }
        let workers = self.names[name].placement.partition.iter().copied();
        let fewest = workers.min_by_key(|&worker| (self.held(name, worker), self.total(worker)));
        // A name without workers has no connections.
        let worker = fewest.unwrap_or(0);
        self.hold(name, worker);
        worker
    }

    /// Counts a connection of `name` at `worker` even above the limit: for connections that exist already, such as
    /// those that a predecessor handed over. Nothing is dropped for a limit.
    pub(crate) fn hold(&self, name: usize, worker: usize) {
        self.totals[worker].fetch_add(1, Ordering::Relaxed);
        self.names[name].held[worker].fetch_add(1, Ordering::Relaxed);
    }

    /// Takes back one count of `name` at `worker`, when the connection is closed. True if the worker was at its limit, or
    /// at that of the name, and is not any more, so that whoever was answered `None` should try again.
    pub(crate) fn release(&self, name: usize, worker: usize) -> bool {
        let was_name_full = self.names[name].take_back(worker);
        let before = decrement(&self.totals[worker]);
        before == self.limit || (was_name_full && before < self.limit)
    }

    /// From now on there is no room at `worker`, which takes no more connections. What it held is not known any more.
    pub(crate) fn leave_out(&self, worker: usize) {
        self.totals[worker].store(LEFT_OUT, Ordering::Relaxed);
    }

    /// Whether `worker` takes no turns at the moment, so that whoever is dealt to it would wait.
    pub(crate) fn set_stuck(&self, worker: usize, is_stuck: bool) {
        self.stuck[worker].store(is_stuck, Ordering::Relaxed);
    }

    fn is_stuck(&self, worker: usize) -> bool {
        self.stuck[worker].load(Ordering::Relaxed)
    }

    /// Whether `worker` has room for more connections, but not for more of `name`.
    pub(crate) fn is_at_limit_of_name(&self, name: usize, worker: usize) -> bool {
        self.names[name].room(worker) == 0 && self.total(worker) < self.limit
    }

    /// How many more connections of `name` there is room for at `worker`.
    pub(crate) fn room(&self, name: usize, worker: usize) -> u32 {
        let in_all = self.limit.saturating_sub(self.total(worker));
        self.names[name].room(worker).min(in_all)
    }

    /// Connections of `name` that `worker` holds.
    pub(crate) fn held(&self, name: usize, worker: usize) -> u32 {
        self.names[name].held(worker)
    }

    /// Connections of all names and workers, with those that are on their way to their worker.
    pub(crate) fn all(&self) -> usize {
        (0..self.totals.len())
            .map(|worker| self.all_of(worker))
            .sum()
    }

    /// The same of one worker, also of one that is left out.
    pub(crate) fn all_of(&self, worker: usize) -> usize {
        let held = self.names.iter().map(|name| name.held(worker) as usize);
        held.sum()
    }

    /// Connections of all names that `worker` holds.
    pub(crate) fn total(&self, worker: usize) -> u32 {
        self.totals[worker].load(Ordering::Relaxed)
    }

    fn admit(&self, worker: usize) -> bool {
        increment(&self.totals[worker], self.limit)
    }
}

impl Name {
    fn held(&self, worker: usize) -> u32 {
        self.held[worker].load(Ordering::Relaxed)
    }

    /// How many more connections its own limit allows at a worker.
    fn room(&self, worker: usize) -> u32 {
        let limit = self.placement.connections;
        limit.saturating_sub(self.held(worker))
    }

    /// Counts one more at a worker, if that is below the limit of the name.
    fn claim(&self, worker: usize) -> bool {
        increment(&self.held[worker], self.placement.connections)
    }

    /// Takes back one count at a worker. Whether the name was at its limit there, and is not any more.
    fn take_back(&self, worker: usize) -> bool {
        decrement(&self.held[worker]) == self.placement.connections
    }
}

/// Adds one, if the count is below `limit`. Returns whether it was.
fn increment(count: &AtomicU32, limit: u32) -> bool {
    let below = |count| (count < limit).then_some(count + 1);
    count
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, below)
        .is_ok()
}

/// Subtracts one, not below zero. Returns the count before.
fn decrement(count: &AtomicU32) -> u32 {
    let update = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
        count.checked_sub(1)
    });
    update.unwrap_or(0)
}
