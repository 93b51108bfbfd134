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

/// The memory behind open tickets; pooled.
#[derive(Default)]
pub(crate) struct Promises {
    /// In the order in which they were opened.
    tickets: VecDeque<Promise>,
    /// How many of them are repeatable.
    repeatable: usize,
    /// Bytes of the requests of those.
    held: usize,
}

impl Promises {
    pub(crate) fn is_empty(&self) -> bool {
        self.tickets.is_empty()
    }

    pub(crate) fn capacity(&self) -> usize {
        self.tickets.capacity()
    }

    fn count_out(&mut self, promise: &Promise) {
        if let Some(request) = &promise.request {
            self.repeatable -= 1;
            self.held -= request.len();
        }
    }
}

/// An open ticket.
pub(crate) struct Promise {
    pub(crate) ticket: Ticket,
    pub(crate) serial: u64,
    /// When it was opened, in milliseconds on the worker's clock.
    since: u64,
    /// What the successor is asked if it is not answered before a handover. Then it is repeatable, and no stop waits for it.
    pub(crate) request: Option<Box<[u8]>>,
}

impl Promise {
    /// How long ago it was opened, in milliseconds.
    pub(crate) fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.since)
    }

    pub(crate) fn is_repeatable(&self) -> bool {
        self.request.is_some()
    }
}

/// Which tickets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Any,
    /// Those that a stop waits for.
    Awaited,
    Repeatable,
}

impl Kind {
    pub(crate) fn has(self, promise: &Promise) -> bool {
        match self {
            Kind::Any => true,
            Kind::Awaited => !promise.is_repeatable(),
            Kind::Repeatable => promise.is_repeatable(),
        }
    }
}

impl Tickets {
    /// Opens a ticket, for a repeatable `request` if there is one. Its serial number is above those of all that were opened before.
    pub(crate) fn open(
        &mut self,
        pools: &mut Pools,
        serial: u64,
        now: u64,
        ticket: Ticket,
        request: Option<Box<[u8]>>,
    ) {
        let open = self.open.get_or_insert_with(|| pools.tickets());
        let last = open.tickets.back();
        debug_assert!(last.is_none_or(|last| last.serial < serial));
        if let Some(request) = &request {
            open.repeatable += 1;
            open.held += request.len();
        }
        open.tickets.push_back(Promise {
            ticket,
            serial,
            since: now,
            request,
        });
    }

    /// Closes the ticket with this serial number; `None` if it is not open any more.
    pub(crate) fn close(&mut self, pools: &mut Pools, serial: u64) -> Option<Promise> {
        let open = self.open.as_mut()?;
        let tickets = &mut open.tickets;
        let place = tickets.binary_search_by_key(&serial, |promise| promise.serial);
        let promise = tickets.remove(place.ok()?)?;
        open.count_out(&promise);
        self.give_back(pools);
        Some(promise)
    }

    /// Closes those up to this serial number that are `to_close`.
    pub(crate) fn close_where(
        &mut self,
        pools: &mut Pools,
        last: u64,
        to_close: impl Fn(&Promise) -> bool,
    ) -> Vec<Promise> {
        let Some(open) = &mut self.open else {
            return Vec::new();
        };
        let count = open
            .tickets
            .partition_point(|promise| promise.serial <= last);
        let (closed, others): (Vec<_>, Vec<_>) = open
            .tickets
            .drain(..count)
            .partition(|promise| to_close(promise));
        for other in others.into_iter().rev() {
            open.tickets.push_front(other);
        }
        closed.iter().for_each(|promise| open.count_out(promise));
        self.give_back(pools);
        closed
    }

    fn give_back(&mut self, pools: &mut Pools) {
        if let Some(empty) = self.open.take_if(|open| open.is_empty()) {
            pools.give_tickets(empty);
        }
    }

    /// Closes all of them.
    pub(crate) fn close_all(&mut self) -> impl Iterator<Item = Promise> + use<> {
        let open = self.open.take().into_iter();
        open.flat_map(|open| open.tickets)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Promise> {
        self.open.iter().flat_map(|open| &open.tickets)
    }

    /// Those that a stop waits for.
    pub(crate) fn awaited(&self) -> impl Iterator<Item = &Promise> {
        self.iter().filter(|promise| !promise.is_repeatable())
    }

    /// When the oldest one was opened, on the worker's clock.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.iter().next().map(|promise| promise.since)
    }

    /// When the oldest one was opened that a stop waits for, on the worker's clock.
    pub(crate) fn oldest_awaited(&self) -> Option<u64> {
        self.awaited().next().map(|promise| promise.since)
    }

    /// The serial number of the last one that is so old now, in milliseconds.
    pub(crate) fn last_of_age(&self, now: u64, age: u64) -> Option<u64> {
        let old = self.iter().take_while(|promise| promise.age(now) >= age);
        old.last().map(|promise| promise.serial)
    }

    /// Whether one that a stop waits for has this serial number or one below it.
    pub(crate) fn has_awaited_until(&self, last: u64) -> bool {
        let first = self.awaited().next();
        first.is_some_and(|promise| promise.serial <= last)
    }

    /// Whether a stop waits for any.
    pub(crate) fn is_awaited(&self) -> bool {
        self.len() > self.repeatable()
    }

    /// How many are repeatable.
    pub(crate) fn repeatable(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.repeatable)
    }

    /// Bytes that are kept of requests.
    pub(crate) fn held(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.held)
    }

    pub(crate) fn len(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.tickets.len())
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
            tickets.open(pools, serial, now, Ticket(serial), None);
        }
        tickets
    }

    fn serials(promises: &[Promise]) -> Vec<u64> {
        promises.iter().map(|promise| promise.serial).collect()
    }

    #[test]
    fn a_ticket_closes_once_in_whatever_order() {
        let mut pools = Pools::default();
        let mut tickets = tickets(&mut pools, &[3, 5, 6, 9].map(|serial| (serial, 7)));
        for serial in [5, 9, 3, 6] {
            let closed = tickets.close(&mut pools, serial).unwrap();
            assert_eq!(closed.ticket, Ticket(serial));
            assert!(tickets.close(&mut pools, serial).is_none());
        }
        assert!(tickets.close(&mut pools, 4).is_none());
        assert!(tickets.is_empty());
        assert_eq!(tickets.close_all().count(), 0);
    }

    #[test]
    fn the_earlier_ones_are_closed_and_the_others_stay() {
        let mut pools = Pools::default();
        let mut tickets = tickets(&mut pools, &[3, 5, 6, 9].map(|serial| (serial, 7)));
        let mut closed = |tickets: &mut Tickets, last| {
            let closed = tickets.close_where(&mut pools, last, |_| true);
            serials(&closed)
        };
        assert_eq!(closed(&mut tickets, 2), []);
        assert_eq!(closed(&mut tickets, 5), [3, 5]);
        assert_eq!(closed(&mut tickets, 8), [6]);
        assert_eq!(closed(&mut tickets, u64::MAX), [9]);
        assert!(tickets.is_empty());
        assert_eq!(closed(&mut tickets, u64::MAX), []);
    }

    #[test]
    fn repeatable_ones_are_told_apart_and_keep_their_requests() {
        let mut pools = Pools::default();
        let mut tickets = Tickets::default();
        for serial in 1..=6 {
            let request = (serial % 2 == 1).then(|| vec![serial as u8; 10].into());
            tickets.open(&mut pools, serial, serial * 100, Ticket(serial), request);
        }
        assert_eq!((tickets.repeatable(), tickets.held()), (3, 30));
        assert_eq!(
            (tickets.oldest(), tickets.oldest_awaited()),
            (Some(100), Some(200))
        );
        assert!(tickets.has_awaited_until(2) && !tickets.has_awaited_until(1));
        let awaited = tickets.close_where(&mut pools, 4, |promise| Kind::Awaited.has(promise));
        assert_eq!(serials(&awaited), [2, 4]);
        assert!(awaited.iter().all(|promise| promise.request.is_none()));
        let left: Vec<u64> = tickets.iter().map(|promise| promise.serial).collect();
        assert_eq!(left, [1, 3, 5, 6]);
        assert!(tickets.is_awaited());
        let closed = tickets.close(&mut pools, 3).unwrap();
        assert_eq!(closed.request.as_deref(), Some(&[3; 10][..]));
        assert_eq!((tickets.repeatable(), tickets.held()), (2, 20));
        let repeatable = tickets.close_where(&mut pools, 6, |it| Kind::Repeatable.has(it));
        assert_eq!(serials(&repeatable), [1, 5]);
        assert_eq!(
            (tickets.repeatable(), tickets.held(), tickets.len()),
            (0, 0, 1)
        );
        tickets.close(&mut pools, 6);
        assert!(tickets.is_empty() && !tickets.is_awaited());
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
