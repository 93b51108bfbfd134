//! Deferred replies that a stop waits for, until they are given or it gives them up.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::Ordering;

use super::Shard;
use super::mail::give_up;
use super::stopping::Phase;
use crate::close::Close;
use crate::connection::{Connection, Life, milliseconds};
use crate::crew::Step;
use crate::peer::Link;
use crate::reply::{Abandoned, Ticket};
use crate::tickets::Kind;

/// So many milliseconds after a stop has begun, and again and again, the log says which deferred replies it waits for that were promised as
/// long ago. Usual ones are there by then.
pub(super) const OWED_NAMED_AFTER_MS: u64 = 1_000;

/// A deferred reply that takes this part of `handover.drain` is slow: a stop does not read its connection any more.
const SLOW_PART: u64 = 4;

/// So many times at most it looks for slow ones within that part, each time at all connections, however many there are.
const LOOKS_MAX: u64 = 64;

/// So many of them each time, at most, by each worker.
const OWED_NAMED_MAX: usize = 10;

impl<L: Link> Shard<L> {
    /// After what time a deferred reply is slow, in milliseconds.
    pub(super) fn slow(&self) -> u64 {
        milliseconds(self.drain) / SLOW_PART
    }

    /// Reads those no more that wait for a slow deferred reply by now, and notes when to look again.
    pub(super) fn find_slow(&mut self) {
        let (now, slow) = (self.desk.now, self.slow());
        // What is promised from now on is not slow before that.
        let mut next = now.saturating_add(slow);
        for slot in self.slots() {
            self.note_promises(slot);
            let Some(entry) = self.connections.get(slot as usize) else {
                continue;
            };
            if entry.is_frozen {
                self.touch(slot);
            } else if let Some(oldest) = entry.connection.tickets.oldest_awaited() {
                next = next.min(oldest.saturating_add(slow));
            }
        }
        self.stop.slow_at = next.max(now.saturating_add(1 + slow / LOOKS_MAX));
    }

    /// From now on connections that wait for a deferred reply are not read.
    pub(super) fn freeze(&mut self, until: u64) {
        self.phase = Phase::Waiting {
            until,
            freezes: true,
        };
        self.count_owed_anew();
        for slot in self.slots() {
            self.note_promises(slot);
            self.touch(slot);
        }
    }

    /// Whether the last of the connections that were owed a deferred reply when the stop began is so no more.
    pub(super) fn owes_less(&self) -> bool {
        let owed = self.stop.owed.last().copied();
        owed.zip(self.stop.promised).is_some_and(|(id, promised)| {
            let is_owed = |it: &Connection| it.id == id && it.tickets.has_awaited_until(promised);
            !self.is_open_to(id.slot, is_owed)
        })
    }

    /// Whether no worker owes a deferred reply any more that it had promised before it began to stop.
    pub(super) fn is_all_kept(&mut self) -> bool {
        while self.owes_less() {
            self.stop.owed.pop();
        }
        if !self.stop.owed.is_empty() {
            return false;
        }
        self.desk.crew.reach(self.desk.worker, Step::Kept);
        self.desk.crew.have_all_reached(Step::Kept)
    }

    /// Notes what a stop waits for on this connection: a deferred reply, after which it is not read any more if that is slow or the
    /// stop freezes; and, if it is being closed before a handover, the output that it still has.
    pub(super) fn note_promises(&mut self, slot: u32) {
        let Phase::Waiting { freezes, .. } = self.phase else {
            return;
        };
        let (now, slow) = (self.desk.now, self.slow());
        let Some(entry) = self.connections.get_mut(slot as usize) else {
            return;
        };
        let connection = &entry.connection;
        let waits = |since: u64| freezes || now.saturating_sub(since) >= slow;
        entry.is_frozen |= connection.tickets.oldest_awaited().is_some_and(waits);
        let is_flushing = match connection.life {
            // It will, when it has been answered.
            Life::Refused { .. } => true,
            Life::Closing { .. } => !connection.owes_only_output() && !connection.outbox.is_empty(),
            _ => false,
        };
        if self.stop.hands_over && is_flushing && !entry.is_awaited {
            entry.is_awaited = true;
            self.desk.crew.endings.opened(self.desk.worker);
        }
    }

    /// Logs which deferred replies are waited for that it has not said before, those that were promised first, and how many more
    /// there are.
    pub(super) fn name_owed(&mut self) {
        let now = self.desk.now;
        self.stop.names_owed_at = Some(now + OWED_NAMED_AFTER_MS);
        let last = self.stop.owed_named.replace(now);
        // Younger ones are usual, for all that is known; older ones were old enough the last time.
        let new = last.map_or(u64::MAX, |last| now - last + OWED_NAMED_AFTER_MS);
        let ages = OWED_NAMED_AFTER_MS..new;
        let mut count = 0;
        let mut oldest = BinaryHeap::new();
        for (slot, entry) in self.connections.iter() {
            // To one that is ending nothing is given any more.
            if !entry.connection.is_answered() {
                continue;
            }
            for promise in entry.connection.tickets.awaited() {
                let age = promise.age(now);
                if !ages.contains(&age) {
                    continue;
                }
                count += 1;
                oldest.push((Reverse(age), slot as u32, promise.ticket.0));
                if oldest.len() > OWED_NAMED_MAX {
                    oldest.pop();
                }
            }
        }
        for (Reverse(age), slot, ticket) in oldest.into_sorted_vec() {
            self.with_host(slot, |host, reply| {
                host.name_owed(Ticket(ticket), age, reply);
            });
        }
        if count > OWED_NAMED_MAX {
            tracing::info!(
                worker = self.desk.worker,
                "{} more deferred replies are waited for",
                count - OWED_NAMED_MAX
            );
        }
    }

    /// When the last deferred replies are given up by a stop that waits until `until` for the first ones. What is promised
    /// as long as connections are read has as much time as what was promised before the stop.
    pub(super) fn end_of_promises(&self, until: u64) -> u64 {
        until.saturating_add(milliseconds(self.drain))
    }

    /// Ends those whose services have promised something when the last deferred replies were given up: it would go on so for ever.
    /// Returns whether none is left to look at again, for which an answer is on its way that was given in time.
    pub(super) fn end_owed(&mut self) -> bool {
        let mut are_all_told = true;
        for slot in self.slots() {
            let Some(entry) = self.connections.get(slot as usize) else {
                continue;
            };
            let connection = &entry.connection;
            if !connection.is_answered() || !connection.tickets.is_awaited() {
                continue;
            }
            if entry.handle.get().is_some_and(|handle| handle.waits()) {
                are_all_told = false;
            } else if self.stop.hands_over {
                self.end_unsaved(slot);
            } else {
                self.cut(slot, Close::Stopping);
            }
        }
        are_all_told
    }

    /// Gives up on the deferred replies up to the ticket with this serial number, but for those of which the successor is asked.
    pub(super) fn abandon_until(&mut self, last: u64) {
        let slots: Vec<u32> = self
            .connections
            .iter()
            .filter(|(_, entry)| entry.connection.tickets.is_awaited())
            .map(|(slot, _)| slot as u32)
            .collect();
        for slot in slots {
            self.abandon_of(slot, last, Kind::Awaited, Abandoned::Stopping);
        }
    }

    /// Gives up on the deferred replies of one connection up to the ticket with this serial number.
    pub(super) fn abandon_of(&mut self, slot: u32, last: u64, of: Kind, why: Abandoned) {
        self.note_promises(slot);
        self.with_host(slot, |host, reply| {
            let tickets = &mut reply.connection.tickets;
            let handle = reply.handle.get();
            let answered = handle.map_or_else(Vec::new, |handle| handle.give_up(last, of));
            // Those that were answered by now get it when that is taken.
            let is_answered = |serial| answered.binary_search(&serial).is_ok();
            let given_up = tickets.close_where(&mut reply.desk.pools, last, |promise| {
                of.has(promise) && !is_answered(promise.serial)
            });
            for promise in given_up {
                let is_told = give_up(host, reply, &promise, why);
                if is_told && why == Abandoned::Stopping && !promise.is_repeatable() {
                    reply.desk.crew.given_up.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
}
