//! Deferred replies that are still owed.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::pool::Pools;
use crate::reply::Ticket;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// The open tickets of one connection; without memory while there are none.
#[derive(Default)]
pub(crate) struct Tickets {
    open: Option<Box<Promises>>,
}

/// The memory behind open tickets, which lie in the order in which they were opened; pooled.
#[derive(Default)]
pub(crate) struct Promises(VecDeque<Promise>);

impl Promises {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn capacity(&self) -> usize {
        self.0.capacity()
    }
}

/// An open ticket.
#[derive(Clone, Copy)]
pub(crate) struct Promise {
    pub(crate) ticket: Ticket,
    serial: u64,
    /// When it was opened, in milliseconds on the worker's clock.
    since: u64,
}

impl Promise {
    /// How long ago it was opened, in milliseconds.
    pub(crate) fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.since)
    }
}

impl Tickets {
    /// Opens a ticket. Its serial number is above those of all that were opened before.
    pub(crate) fn open(&mut self, pools: &mut Pools, serial: u64, now: u64, ticket: Ticket) {
        let open = self.open.get_or_insert_with(|| pools.tickets());
        debug_assert!(open.0.back().is_none_or(|last| last.serial < serial));
        open.0.push_back(Promise {
            ticket,
            serial,
            since: now,
        });
    }

    /// Closes the ticket with this serial number; `None` if it is not open any more.
    pub(crate) fn close(&mut self, pools: &mut Pools, serial: u64) -> Option<Ticket> {
        let open = &mut self.open.as_mut()?.0;
        let place = open.binary_search_by_key(&serial, |promise| promise.serial);
        let promise = open.remove(place.ok()?)?;
        self.give_back(pools);
        Some(promise.ticket)
    }

    /// Closes those up to this serial number.
    pub(crate) fn close_until(&mut self, pools: &mut Pools, last: u64) -> Vec<Ticket> {
        let Some(open) = &mut self.open else {
            return Vec::new();
        };
        let count = open.0.partition_point(|promise| promise.serial <= last);
        let closed = open
            .0
            .drain(..count)
            .map(|promise| promise.ticket)
            .collect();
        self.give_back(pools);
        closed
    }

    fn give_back(&mut self, pools: &mut Pools) {
        if let Some(empty) = self.open.take_if(|open| open.is_empty()) {
            pools.give_tickets(empty);
        }
    }

    /// Closes all of them.
    pub(crate) fn close_all(&mut self) -> impl Iterator<Item = Ticket> + use<> {
        let open = self.open.take().into_iter();
        open.flat_map(|open| open.0.into_iter().map(|promise| promise.ticket))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Promise> {
        self.open.iter().flat_map(|open| &open.0)
    }

    /// When the oldest one was opened, on the worker's clock.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.iter().next().map(|promise| promise.since)
    }

    /// The serial number of the last one that is so old now, in milliseconds.
    pub(crate) fn last_of_age(&self, now: u64, age: u64) -> Option<u64> {
        let old = self.iter().take_while(|promise| promise.age(now) >= age);
        old.last().map(|promise| promise.serial)
    }

    /// Whether one of them has this serial number or one below it.
    pub(crate) fn has_until(&self, last: u64) -> bool {
        let first = self.iter().next();
        first.is_some_and(|promise| promise.serial <= last)
    }

    pub(crate) fn len(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.0.len())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_none()
    }
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

    /// With a ticket for each of these serial numbers, by which it is called, opened at these times.
    fn tickets(pools: &mut Pools, opened: &[(u64, u64)]) -> Tickets {
        let mut tickets = Tickets::default();
        for &(serial, now) in opened {
            tickets.open(pools, serial, now, Ticket(serial));
        }
        tickets
    }

    #[test]
    fn a_ticket_closes_once_in_whatever_order() {
        let mut pools = Pools::default();
        let mut tickets = tickets(&mut pools, &[3, 5, 6, 9].map(|serial| (serial, 7)));
        for serial in [5, 9, 3, 6] {
            assert_eq!(tickets.close(&mut pools, serial), Some(Ticket(serial)));
            assert_eq!(tickets.close(&mut pools, serial), None);
        }
        assert_eq!(tickets.close(&mut pools, 4), None);
        assert!(tickets.is_empty());
        assert_eq!(tickets.close_all().count(), 0);
    }

    #[test]
    fn the_earlier_ones_are_closed_and_the_others_stay() {
        let mut pools = Pools::default();
        let mut tickets = tickets(&mut pools, &[3, 5, 6, 9].map(|serial| (serial, 7)));
        let mut closed = |tickets: &mut Tickets, last| tickets.close_until(&mut pools, last);
        assert_eq!(closed(&mut tickets, 2), []);
        assert_eq!(closed(&mut tickets, 5), [3, 5].map(Ticket));
        assert_eq!(closed(&mut tickets, 8), [Ticket(6)]);
        assert_eq!(closed(&mut tickets, u64::MAX), [Ticket(9)]);
        assert!(tickets.is_empty());
        assert_eq!(closed(&mut tickets, u64::MAX), []);
    }

    #[test]
    fn it_is_known_how_old_they_are() {
        let mut pools = Pools::default();
        let opened = [(1, 100), (2, 200), (3, 200), (4, 300)];
        let mut tickets = tickets(&mut pools, &opened);
        assert_eq!(tickets.oldest(), Some(100));
        tickets.close(&mut pools, 1);
        assert_eq!(tickets.oldest(), Some(200));
        let last = [900, 800, 700].map(|age| tickets.last_of_age(1000, age));
        assert_eq!(last, [None, Some(3), Some(4)]);
        assert_eq!(tickets.close_all().count(), 3);
        assert_eq!(
            (tickets.oldest(), tickets.last_of_age(1000, 0)),
            (None, None)
        );
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
}
