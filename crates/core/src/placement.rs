//! Which worker a listener belongs to, and which worker a connection goes to.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// The worker that owns descriptor `index` of a name that is placed on `partition`: they go round.
///
/// So as many SO_REUSEPORT listeners as workers give each worker a queue of its own. `None` if nobody is in the
/// partition.
pub fn owner(partition: &[usize], index: usize) -> Option<usize> {
    partition.get(index.checked_rem(partition.len())?).copied()
}

/// Deals connections to workers, evenly by name, and counts what each worker holds.
///
/// One value is shared by all workers. It takes no locks: each count is one atomic number, and a deal that meets
/// another one on the same count looks again.
#[derive(Debug)]
pub struct Dealer {
    limit: u32,
    totals: Vec<AtomicU32>,
    names: Vec<Name>,
}

/// The counts of one socket name.
#[derive(Debug)]
struct Name {
    partition: Vec<usize>,
    /// In the order of the partition.
    held: Vec<AtomicU32>,
    /// Where the search begins, so that ties go round.
    turn: AtomicUsize,
}

impl Dealer {
    /// A dealer for `workers` workers that hold at most `limit` connections each. `partitions` are the workers of each
    /// socket name; the index in it is what the methods call `name`. Workers beyond `workers` are left out.
    pub fn new(
        workers: usize,
        limit: u32,
        partitions: impl IntoIterator<Item = Vec<usize>>,
    ) -> Self {
        let names = partitions.into_iter().map(|mut partition| {
            partition.retain(|&worker| worker < workers);
            let held = partition.iter().map(|_| AtomicU32::new(0)).collect();
            Name {
                partition,
                held,
                turn: AtomicUsize::new(0),
            }
        });
        Self {
            limit,
            totals: (0..workers).map(|_| AtomicU32::new(0)).collect(),
            names: names.collect(),
        }
    }

    /// Chooses the worker for a new connection of `name` and counts it there: the one of its partition that holds
    /// fewest of this name, among those the one that holds fewest in all, among those each in turn. `None` if all of
    /// the partition are at the limit; [`Dealer::release`] tells when that is over.
    pub fn deal(&self, name: usize) -> Option<usize> {
        let name = self.names.get(name)?;
        let count = name.partition.len();
        let start = name
            .turn
            .fetch_add(1, Ordering::Relaxed)
            .checked_rem(count)?;
        loop {
            // The seats in turn, without those of workers that are full.
            let seats = (0..count).map(|step| (start + step) % count);
            let open = seats.filter_map(|seat| {
                let total = self.totals[name.partition[seat]].load(Ordering::Relaxed);
                (total < self.limit).then(|| (name.held[seat].load(Ordering::Relaxed), total, seat))
            });
            // Of equal ones, `min_by_key` takes the first.
            let (held, _, seat) = open.min_by_key(|&(held, total, _)| (held, total))?;
            let worker = name.partition[seat];
            // Only from the count that was seen: two dealers who saw the same one must not both choose it.
            let seen = name.held[seat].compare_exchange(
                held,
                held + 1,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            if seen.is_err() {
                continue;
            }
            if self.admit(worker) {
                return Some(worker);
            }
            name.held[seat].fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Counts a new connection of `name` at `worker`, if that is below the limit: for listeners whose connections stay
    /// with the worker that accepts them.
    pub fn keep(&self, name: usize, worker: usize) -> bool {
        let admitted = self.admit(worker);
        if admitted {
            self.count(name, worker);
        }
        admitted
    }

    /// Counts a connection of `name` at `worker` even above the limit: for connections that exist already, such as
    /// those that a predecessor handed over. Nothing is dropped for a limit.
    pub fn hold(&self, name: usize, worker: usize) {
        if let Some(total) = self.totals.get(worker) {
            total.fetch_add(1, Ordering::Relaxed);
        }
        self.count(name, worker);
    }

    /// Takes back one count of `name` at `worker`, when the connection is closed. True if the worker was at its limit
    /// and is not any more, so that whoever was answered `None` should try again.
    pub fn release(&self, name: usize, worker: usize) -> bool {
        if let Some(held) = self.seat(name, worker) {
            decrement(held);
        }
        let before = self.totals.get(worker).map_or(0, decrement);
        before == self.limit
    }

    /// Connections of `name` that `worker` holds.
    pub fn held(&self, name: usize, worker: usize) -> u32 {
        self.seat(name, worker)
            .map_or(0, |held| held.load(Ordering::Relaxed))
    }

    /// Connections of all names that `worker` holds.
    pub fn total(&self, worker: usize) -> u32 {
        self.totals
            .get(worker)
            .map_or(0, |total| total.load(Ordering::Relaxed))
    }

    fn admit(&self, worker: usize) -> bool {
        let below = |total| (total < self.limit).then_some(total + 1);
        let total = self.totals.get(worker);
        total.is_some_and(|total| {
            total
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, below)
                .is_ok()
        })
    }

    fn count(&self, name: usize, worker: usize) {
        if let Some(held) = self.seat(name, worker) {
            held.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn seat(&self, name: usize, worker: usize) -> Option<&AtomicU32> {
        let name = self.names.get(name)?;
        let seat = name.partition.iter().position(|&member| member == worker)?;
        name.held.get(seat)
    }
}

/// Subtracts one, not below zero. Returns the count before.
fn decrement(count: &AtomicU32) -> u32 {
    let update = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
        count.checked_sub(1)
    });
    update.unwrap_or(0)
}
