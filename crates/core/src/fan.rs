//! What a worker's own thread pushes to its connections.
//!
//! Whoever publishes pushes one event after the other, each to the same connections in the same order. That makes a
//! table: a row for each event, a column for each connection. It is filled row by row and delivered column by column, so
//! that a connection is visited once for all the events of a turn and gets them as one piece, which all connections share.
//! A push that does not go on with the table begins the next one; a table of one event for one connection is a plain push.

use bytes::Bytes;

use crate::mailbox::Mail;
use crate::peer::{ConnectionId, HandleState};

/// Events are joined up to so many bytes. It bounds what is copied, once for all connections.
const JOINED_BYTES_MAX: usize = 16 * 1024;

/// The table that is being filled.
#[derive(Default)]
pub(crate) struct Fan {
    /// Tells it from those before.
    number: u64,
    /// Each connection once, in the order in which it was pushed the first event.
    to: Vec<ConnectionId>,
    /// The events before the last one, joined.
    before: Vec<u8>,
    last: Bytes,
    /// How many of the connections were pushed the last event. All were pushed those before.
    reached: usize,
    /// Used again for the next one that is complete.
    spare: Option<Box<Fanned>>,
}

/// A table that is complete.
#[derive(Default)]
pub(crate) struct Fanned {
    to: Vec<ConnectionId>,
    /// So many of the connections get all events, the others all but the last one.
    reached: usize,
    all: Bytes,
    all_but_last: Bytes,
}

impl Fan {
    /// Adds a push. What must be delivered before it is returned.
    pub(crate) fn push(
        &mut self,
        to: ConnectionId,
        state: &HandleState,
        bytes: &Bytes,
    ) -> Option<Mail> {
        if self.add(to, state, bytes) {
            return None;
        }
        let mail = self.complete();
        self.number += 1;
        state.enter_fan(self.number);
        self.to.push(to);
        self.last = bytes.clone();
        self.reached = 1;
        mail
    }

    /// Adds a push if it goes on with the table.
    fn add(&mut self, to: ConnectionId, state: &HandleState, bytes: &Bytes) -> bool {
        // Equal addresses are equal bytes, because those of the last event are kept.
        if bytes.as_ptr() == self.last.as_ptr() && bytes.len() == self.last.len() {
            if self.reached < self.to.len() {
                let goes_on = self.to[self.reached] == to;
                self.reached += usize::from(goes_on);
                return goes_on;
            }
            // Whoever had two columns would get the events in another order.
            let is_new = self.before.is_empty() && state.enter_fan(self.number);
            if is_new && !self.to.is_empty() {
                self.to.push(to);
                self.reached += 1;
                return true;
            }
            return false;
        }
        let joined = self.before.len() + self.last.len() + bytes.len();
        let goes_on = self.reached == self.to.len()
            && self.to.first() == Some(&to)
            && joined <= JOINED_BYTES_MAX;
        if goes_on {
            self.before.extend_from_slice(&self.last);
            self.reached = 1;
            self.last = bytes.clone();
        }
        goes_on
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.to.is_empty()
    }

    /// Takes out what has come together, if anything has.
    pub(crate) fn complete(&mut self) -> Option<Mail> {
        let first = *self.to.first()?;
        let last = std::mem::take(&mut self.last);
        let (all, all_but_last) = if self.before.is_empty() {
            (last, Bytes::new())
        } else {
            let length = self.before.len();
            self.before.extend_from_slice(&last);
            let all = Bytes::copy_from_slice(&self.before);
            self.before.clear();
            let all_but_last = all.slice(..length);
            (all, all_but_last)
        };
        if self.to.len() == 1 {
            self.to.clear();
            return Some(Mail::Push {
                to: first,
                bytes: all,
            });
        }
        let mut fanned = self.spare.take().unwrap_or_default();
        std::mem::swap(&mut fanned.to, &mut self.to);
        fanned.reached = self.reached;
        fanned.all = all;
        fanned.all_but_last = all_but_last;
        Some(Mail::Fan(fanned))
    }

    /// Takes back a table that was delivered.
    pub(crate) fn reuse(&mut self, mut fanned: Box<Fanned>) {
        fanned.to.clear();
        fanned.all = Bytes::new();
        fanned.all_but_last = Bytes::new();
        self.spare = Some(fanned);
    }
}

impl Fanned {
    /// What each connection gets.
    pub(crate) fn columns(&self) -> impl Iterator<Item = (ConnectionId, &Bytes)> {
        let (reached, others) = self.to.split_at(self.reached);
        let reached = reached.iter().map(|to| (*to, &self.all));
        reached.chain(others.iter().map(|to| (*to, &self.all_but_last)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::memory::Memory;

    fn id(slot: u32) -> ConnectionId {
        ConnectionId {
            worker: 0,
            generation: 7,
            slot,
        }
    }

    fn states(count: usize) -> Vec<HandleState> {
        let memory = Memory::new(u64::MAX, 1);
        let state = |_| HandleState::new(usize::MAX, memory.clone());
        (0..count).map(state).collect()
    }

    /// What each connection gets of this mail, in order.
    fn deliveries(mail: &Mail) -> Vec<(usize, Bytes)> {
        match mail {
            Mail::Push { to, bytes } => vec![(to.slot as usize, bytes.clone())],
            Mail::Fan(fanned) => {
                let columns = fanned.columns();
                columns
                    .map(|(to, bytes)| (to.slot as usize, bytes.clone()))
                    .collect()
            }
            _ => unreachable!("a fan makes no other mail"),
        }
    }

    #[test]
    fn all_connections_share_the_events_in_one_piece() {
        let states = states(3);
        let mut fan = Fan::default();
        for event in ["one", "two", "six"].map(Bytes::from) {
            for (slot, state) in states.iter().enumerate() {
                assert!(fan.push(id(slot as u32), state, &event).is_none());
            }
        }
        let got = deliveries(&fan.complete().unwrap());
        assert!(fan.complete().is_none());
        assert_eq!(got.len(), 3);
        for (slot, (to, bytes)) in got.iter().enumerate() {
            assert_eq!((*to, &bytes[..]), (slot, &b"onetwosix"[..]));
            assert_eq!(bytes.as_ptr(), got[0].1.as_ptr());
        }
    }

    #[test]
    fn whoever_was_not_pushed_the_last_event_does_not_get_it() {
        let states = states(3);
        let mut fan = Fan::default();
        let events = ["one", "two"].map(Bytes::from);
        for (event, slot) in [(0, 0), (0, 1), (0, 2), (1, 0)] {
            assert!(
                fan.push(id(slot), &states[slot as usize], &events[event])
                    .is_none()
            );
        }
        let before = fan.push(id(2), &states[2], &events[1]).unwrap();
        let got = |to, bytes| (to, Bytes::from_static(bytes));
        assert_eq!(
            deliveries(&before),
            [got(0, b"onetwo"), got(1, b"one"), got(2, b"one")]
        );
        assert_eq!(deliveries(&fan.complete().unwrap()), [got(2, b"two")]);
    }

    #[test]
    fn events_for_one_connection_are_a_plain_push() {
        let states = states(1);
        let mut fan = Fan::default();
        let event = Bytes::from(vec![1; 1000]);
        assert!(fan.push(id(0), &states[0], &event).is_none());
        let alone = fan.complete().unwrap();
        assert!(matches!(&alone, Mail::Push { bytes, .. } if bytes.as_ptr() == event.as_ptr()));
        let mut sizes = Vec::new();
        for byte in 0..20 {
            let mail = fan.push(id(0), &states[0], &Bytes::from(vec![byte; 1000]));
            sizes.extend(mail.map(|mail| deliveries(&mail)[0].1.len()));
        }
        assert_eq!(sizes, [16_000]);
        assert!(matches!(fan.complete(), Some(Mail::Push { bytes, .. }) if bytes.len() == 4000));
    }

    proptest! {
        #[test]
        fn each_connection_gets_what_it_was_pushed_in_that_order(
            rows in prop::collection::vec((0usize..6, prop::collection::vec(0usize..5, 0..8), 1usize..8), 0..30)
        ) {
            let events: Vec<Bytes> = (0..6u8)
                .map(|number| Bytes::from(vec![number; [0, 1, 3, 700, 9_000, 20_000][number as usize]]))
                .collect();
            let states = states(5);
            let mut fan = Fan::default();
            let mut expected = vec![Vec::new(); 5];
            let mut found = vec![Vec::new(); 5];
            let mut take = |mail: Option<Mail>| {
                for (to, bytes) in mail.iter().flat_map(deliveries) {
                    found[to].extend_from_slice(&bytes);
                }
                if let Some(Mail::Fan(fanned)) = mail {
                    return Some(fanned);
                }
                None
            };
            for (event, slots, times) in rows {
                for number in 0..times {
                    // The same bytes again, or others that are equal.
                    let event = if number % 3 == 0 {
                        events[event].clone()
                    } else {
                        Bytes::copy_from_slice(&events[event])
                    };
                    for slot in &slots {
                        expected[*slot].extend_from_slice(&event);
                        if let Some(fanned) = take(fan.push(id(*slot as u32), &states[*slot], &event)) {
                            fan.reuse(fanned);
                        }
                    }
                }
            }
            take(fan.complete());
            prop_assert!(found == expected);
        }
    }
}
