//! Deferred replies that are still owed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use slab::Slab;

use crate::reply::Ticket;

/// The open tickets of one connection; without memory while there are none.
#[derive(Default)]
pub(crate) struct Tickets {
    open: Option<Box<Open>>,
}

#[derive(Default)]
struct Open {
    tickets: Slab<(u32, Ticket)>,
    /// Told apart from earlier tickets with the same key by the upper half of the serial number.
    next: u32,
}

impl Tickets {
    /// Opens a ticket; its serial number names it within this connection.
    pub(crate) fn open(&mut self, ticket: Ticket) -> u64 {
        let open = self.open.get_or_insert_default();
        let round = open.next;
        open.next = open.next.wrapping_add(1);
        let key = open.tickets.insert((round, ticket));
        u64::from(round) << 32 | key as u64
    }

    /// Closes the ticket with this serial number; `None` if it is not open any more.
    pub(crate) fn close(&mut self, serial: u64) -> Option<Ticket> {
        let open = self.open.as_mut()?;
        let key = (serial & u64::from(u32::MAX)) as usize;
        match open.tickets.get(key) {
            Some((round, _)) if u64::from(*round) == serial >> 32 => {
                Some(open.tickets.remove(key).1)
            }
            _ => None,
        }
    }

    /// Closes any one open ticket.
    pub(crate) fn close_any(&mut self) -> Option<Ticket> {
        let open = self.open.as_mut()?;
        let key = open.tickets.iter().next()?.0;
        Some(open.tickets.remove(key).1)
    }

    pub(crate) fn len(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.tickets.len())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How many tickets are open in the whole process: a stopping server waits for them.
#[derive(Clone, Default)]
pub(crate) struct OpenTickets(Arc<AtomicUsize>);

impl OpenTickets {
    pub(crate) fn opened(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    /// Returns true when none is open any more.
    pub(crate) fn closed(&self) -> bool {
        self.0.fetch_sub(1, Ordering::AcqRel) == 1
    }

    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_closes_once_and_a_reused_key_is_another_ticket() {
        let mut tickets = Tickets::default();
        let first = tickets.open(Ticket(7));
        assert_eq!(tickets.close(first), Some(Ticket(7)));
        assert_eq!(tickets.close(first), None);
        let second = tickets.open(Ticket(8));
        assert_eq!(
            tickets.close(first),
            None,
            "the key is the same, the ticket is not"
        );
        assert_eq!(tickets.close(second), Some(Ticket(8)));
        assert!(tickets.is_empty());
        assert_eq!(tickets.close_any(), None);
    }
}
