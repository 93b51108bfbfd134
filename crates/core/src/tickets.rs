//! Deferred replies that are still owed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use slab::Slab;

use crate::pool::Pools;
use crate::reply::Ticket;

/// The open tickets of one connection; without memory while there are none.
#[derive(Default)]
pub(crate) struct Tickets {
    open: Option<Box<TicketSlab>>,
}

/// The memory behind open tickets; pooled.
#[derive(Default)]
pub(crate) struct TicketSlab {
    promises: Slab<Promise>,
    /// None of them was opened earlier, on the worker's clock. The one that was may have been closed since.
    oldest: u64,
}

impl TicketSlab {
    pub(crate) fn is_empty(&self) -> bool {
        self.promises.is_empty()
    }

    pub(crate) fn capacity(&self) -> usize {
        self.promises.capacity()
    }
}

/// An open ticket.
#[derive(Clone, Copy)]
pub(crate) struct Promise {
    pub(crate) ticket: Ticket,
    /// Tells it from earlier ones with the same key.
    round: u32,
    /// When it was opened, in milliseconds on the worker's clock modulo 2^32.
    since: u32,
}

impl Promise {
    /// How long ago it was opened, in milliseconds. After 49 days that begins anew.
    pub(crate) fn age(&self, now: u64) -> u64 {
        u64::from((now as u32).wrapping_sub(self.since))
    }
}

impl Tickets {
    /// Opens a ticket; its serial number names it within this connection. `round` becomes the upper half of it, and tells
    /// the ticket from earlier ones with the same key.
    pub(crate) fn open(&mut self, pools: &mut Pools, round: u32, now: u64, ticket: Ticket) -> u64 {
        let open = self.open.get_or_insert_with(|| pools.tickets());
        if open.is_empty() {
            open.oldest = now;
        }
        let key = open.promises.insert(Promise {
            ticket,
            round,
            since: now as u32,
        });
        u64::from(round) << 32 | key as u64
    }

    /// Closes the ticket with this serial number; `None` if it is not open any more.
    pub(crate) fn close(&mut self, pools: &mut Pools, serial: u64) -> Option<Ticket> {
        let open = self.open.as_mut()?;
        let key = (serial & u64::from(u32::MAX)) as usize;
        let promise = *open.promises.get(key)?;
        if promise.round != round_of(serial) {
            return None;
        }
        open.promises.remove(key);
        if let Some(empty) = self.open.take_if(|open| open.is_empty()) {
            pools.give_tickets(empty);
        }
        Some(promise.ticket)
    }

    /// Closes those that were opened in this round or before.
    pub(crate) fn close_until(&mut self, pools: &mut Pools, last: u32) -> Vec<Ticket> {
        let mut closed = Vec::new();
        if let Some(open) = &mut self.open {
            open.promises.retain(|_, promise| {
                let is_later = is_later_round(promise.round, last);
                if !is_later {
                    closed.push(promise.ticket);
                }
                is_later
            });
        }
        if let Some(empty) = self.open.take_if(|open| open.is_empty()) {
            pools.give_tickets(empty);
        }
        closed
    }

    /// Closes all of them.
    pub(crate) fn close_all(&mut self) -> impl Iterator<Item = Ticket> + use<> {
        let open = self.open.take().into_iter();
        open.flat_map(|open| open.promises.into_iter().map(|(_, promise)| promise.ticket))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Promise> {
        let open = self.open.iter();
        open.flat_map(|open| open.promises.iter().map(|(_, promise)| promise))
    }

    /// When none of them had been opened yet, on the worker's clock. It is not much earlier than the first one was if
    /// [`Tickets::find_oldest`] has been called since others were closed.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.open.as_ref().map(|open| open.oldest)
    }

    /// Looks for the oldest one.
    pub(crate) fn find_oldest(&mut self, now: u64) {
        let age = self.iter().map(|promise| promise.age(now)).max();
        if let Some((open, age)) = self.open.as_mut().zip(age) {
            open.oldest = now.saturating_sub(age);
        }
    }

    /// The last round in which one was opened that is so old now, in milliseconds.
    pub(crate) fn last_round(&self, now: u64, age: u64) -> Option<u32> {
        let old = self.iter().filter(|promise| promise.age(now) >= age);
        let rounds = old.map(|promise| promise.round);
        rounds.reduce(|last, round| {
            if is_later_round(round, last) {
                round
            } else {
                last
            }
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.promises.len())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_none()
    }
}

/// The round in which the ticket with this serial number was opened.
pub(crate) fn round_of(serial: u64) -> u32 {
    (serial >> 32) as u32
}

/// Whether tickets of this round were opened after those of the other one. Rounds are counted modulo 2^32.
pub(crate) fn is_later_round(round: u32, other: u32) -> bool {
    other.wrapping_sub(round) > u32::MAX / 2
}

/// How many of something there are in the whole process that a stopping server waits for, such as open tickets.
#[derive(Clone)]
pub(crate) struct Tally(Arc<[Count]>);

/// One worker's part, which only its own thread changes until nobody waits for it any more.
#[derive(Default)]
#[repr(align(64))]
struct Count(AtomicUsize);

impl Tally {
    pub(crate) fn new(workers: usize) -> Self {
        Tally((0..workers).map(|_| Count::default()).collect())
    }

    /// This worker has one more.
    pub(crate) fn opened(&self, worker: usize) {
        self.0[worker].0.fetch_add(1, Ordering::AcqRel);
    }

    /// This worker has one less. Returns true when it has none any more.
    pub(crate) fn closed(&self, worker: usize) -> bool {
        let less = |count: usize| count.checked_sub(1);
        // Sequentially consistent, so that of two workers at least one sees that the other has none either.
        let before = self.0[worker]
            .0
            .fetch_update(Ordering::SeqCst, Ordering::Relaxed, less);
        before == Ok(1)
    }

    /// This worker has ended, or is stuck: what it still had is not waited for.
    pub(crate) fn forget(&self, worker: usize) {
        self.0[worker].0.store(0, Ordering::SeqCst);
    }

    pub(crate) fn count(&self) -> usize {
        let counts = self.0.iter();
        counts.map(|count| count.0.load(Ordering::SeqCst)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_closes_once_and_a_reused_key_is_another_ticket() {
        let mut pools = Pools::default();
        let mut tickets = Tickets::default();
        let first = tickets.open(&mut pools, 0, 9, Ticket(7));
        assert_eq!(tickets.close(&mut pools, first), Some(Ticket(7)));
        assert_eq!(tickets.close(&mut pools, first), None);
        let second = tickets.open(&mut pools, 1, 9, Ticket(8));
        assert_eq!(
            tickets.close(&mut pools, first),
            None,
            "the key is the same, the ticket is not"
        );
        assert_eq!(tickets.close(&mut pools, second), Some(Ticket(8)));
        assert!(tickets.is_empty());
        assert_eq!(tickets.close_all().count(), 0);
    }

    #[test]
    fn a_promise_knows_its_age_when_its_clock_begins_anew() {
        let mut pools = Pools::default();
        let mut tickets = Tickets::default();
        let then = u64::from(u32::MAX) * 3;
        tickets.open(&mut pools, 0, then, Ticket(7));
        tickets.open(&mut pools, 1, then + 100, Ticket(8));
        let ages = tickets.iter().map(|promise| promise.age(then + 1000));
        assert_eq!(ages.collect::<Vec<_>>(), [1000, 900]);
        assert!(
            size_of::<Promise>() <= 16,
            "the time is where nothing else was"
        );
    }

    #[test]
    fn the_earlier_ones_are_closed_and_the_others_stay() {
        let mut pools = Pools::default();
        let mut tickets = Tickets::default();
        let rounds = [u32::MAX - 1, u32::MAX, 0, 1, 2];
        let serials =
            rounds.map(|round| tickets.open(&mut pools, round, 9, Ticket(u64::from(round))));
        let closed = |tickets: &mut Tickets, pools: &mut Pools, last| {
            let closed = tickets.close_until(pools, last);
            closed.iter().map(|ticket| ticket.0).collect::<Vec<_>>()
        };
        assert_eq!(closed(&mut tickets, &mut pools, u32::MAX - 2), []);
        let last = u64::from(u32::MAX);
        assert_eq!(
            closed(&mut tickets, &mut pools, 0),
            [last - 1, last, 0],
            "in the order in which they were opened"
        );
        assert_eq!(tickets.close(&mut pools, serials[2]), None);
        assert_eq!(tickets.close(&mut pools, serials[3]), Some(Ticket(1)));
        assert_eq!(closed(&mut tickets, &mut pools, 2), [2]);
        assert!(tickets.is_empty());
        assert_eq!(closed(&mut tickets, &mut pools, 2), []);
    }

    #[test]
    fn the_oldest_one_is_found_when_it_is_looked_for() {
        let mut pools = Pools::default();
        let mut tickets = Tickets::default();
        assert_eq!(tickets.oldest(), None);
        let serials = [(u32::MAX, 100), (0, 200), (1, 200), (2, 300)]
            .map(|(round, now)| tickets.open(&mut pools, round, now, Ticket(7)));
        tickets.close(&mut pools, serials[0]);
        assert_eq!(tickets.oldest(), Some(100));
        tickets.find_oldest(1000);
        assert_eq!(tickets.oldest(), Some(200));
        let rounds = [900, 800, 700].map(|age| tickets.last_round(1000, age));
        assert_eq!(rounds, [None, Some(1), Some(2)]);
        for serial in &serials[1..] {
            tickets.close(&mut pools, *serial);
        }
        tickets.find_oldest(1000);
        assert_eq!(
            (tickets.oldest(), tickets.last_round(1000, 0)),
            (None, None)
        );
        // The memory is used again.
        tickets.open(&mut pools, 3, 2000, Ticket(8));
        assert_eq!(tickets.oldest(), Some(2000));
    }

    #[test]
    fn none_is_left_when_no_worker_has_any_or_those_that_have_ended() {
        let tally = Tally::new(3);
        for worker in [0, 0, 1, 2] {
            tally.opened(worker);
        }
        assert_eq!(
            [0, 0, 1].map(|worker| tally.closed(worker)),
            [false, true, true]
        );
        assert_eq!(tally.count(), 1);
        tally.opened(1);
        tally.forget(2);
        assert!(!tally.closed(2), "it has ended");
        assert_eq!(tally.count(), 1);
        tally.closed(1);
        assert_eq!(tally.count(), 0);
    }

    #[test]
    fn closing_all_leaves_no_serial_number_valid() {
        let mut pools = Pools::default();
        let mut tickets = Tickets::default();
        let serials: Vec<u64> = (0..5)
            .map(|n| tickets.open(&mut pools, n as u32, 9, Ticket(n)))
            .collect();
        tickets.close(&mut pools, serials[1]);
        let closed: Vec<u64> = tickets.close_all().map(|ticket| ticket.0).collect();
        assert_eq!(closed, [0, 2, 3, 4]);
        assert!(tickets.is_empty());
        let again: Vec<u64> = (5..10)
            .map(|n| tickets.open(&mut pools, n as u32, 9, Ticket(n)))
            .collect();
        for serial in serials {
            assert_eq!(tickets.close(&mut pools, serial), None);
        }
        assert_eq!(tickets.close(&mut pools, again[4]), Some(Ticket(9)));
    }
}
