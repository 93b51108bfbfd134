//! What is known of a request that is answered later.

use ringhold_core::Ticket;

/// For a request with this id, for the method of this number.
pub(crate) fn ticket(id: u32, method: usize) -> Ticket {
    // Nobody has 2^32 methods.
    Ticket((method as u64) << 32 | u64::from(id))
}

/// The id of the request.
pub(crate) fn id(ticket: Ticket) -> u32 {
    ticket.0 as u32
}

/// The number of its method.
pub(crate) fn method(ticket: Ticket) -> usize {
    (ticket.0 >> 32) as usize
}
