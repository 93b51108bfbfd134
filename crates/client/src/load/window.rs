//! The requests of one connection that wait for their reply.

/// The first id of a connection. From here on the shortest encoding of an id has five bytes, so all
/// requests of a load are of one length.
const FIRST_ID: u32 = 0x1_0000;

/// The ids in flight, each with the time from which its latency counts.
///
/// Ids go up by one. An id's place is its low bits, so a reply is checked by one look at one slot,
/// whatever order replies come in. An id whose slot is held by an older one, which was never
/// answered, is skipped.
#[derive(Debug)]
pub(crate) struct Window {
    slots: Box<[Slot]>,
    next: u32,
    outstanding: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    since: u64,
    id: u32,
    taken: bool,
}

impl Window {
    /// Room for `depth` ids, which may be none, and as much again, so that unanswered ones leave short ways to a free slot.
    pub(crate) fn new(depth: u32) -> Self {
        let slots = vec![Slot::default(); (depth as usize).next_power_of_two() * 2];
        Self {
            slots: slots.into_boxed_slice(),
            next: FIRST_ID,
            outstanding: 0,
        }
    }

    pub(crate) fn outstanding(&self) -> u32 {
        self.outstanding
    }

    /// Takes the next id. There must be fewer than `depth` outstanding.
    pub(crate) fn open(&mut self, since: u64) -> u32 {
        let mask = self.slots.len() - 1;
        loop {
            let id = self.next;
            self.next = id.checked_add(1).unwrap_or(FIRST_ID);
            let slot = &mut self.slots[id as usize & mask];
            if !slot.taken {
                *slot = Slot {
                    since,
                    id,
                    taken: true,
                };
                self.outstanding += 1;
                return id;
            }
        }
    }

    /// Gives an id back and says since when it was out. Nothing if it was not: the reply is the
    /// second one, or one to a request that was never made.
    pub(crate) fn close(&mut self, id: u32) -> Option<u64> {
        let mask = self.slots.len() - 1;
        let slot = &mut self.slots[id as usize & mask];
        if !slot.taken || slot.id != id {
            return None;
        }
        slot.taken = false;
        self.outstanding -= 1;
        Some(slot.since)
    }

    /// Forgets every id and starts again from the first one, as on a new connection.
    pub(crate) fn reset(&mut self) {
        if self.outstanding > 0 {
            self.slots.fill(Slot::default());
        }
        self.outstanding = 0;
        self.next = FIRST_ID;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_closes_once_in_any_order() {
        let mut window = Window::new(3);
        let ids: Vec<u32> = (0..3).map(|at| window.open(at)).collect();
        assert_eq!(ids, [FIRST_ID, FIRST_ID + 1, FIRST_ID + 2]);
        assert_eq!(window.outstanding(), 3);
        for (index, at) in [(1, 1), (2, 2), (0, 0)] {
            assert_eq!(window.close(ids[index]), Some(at));
            assert_eq!(window.close(ids[index]), None);
        }
        assert_eq!(window.close(FIRST_ID + 3), None);
        assert_eq!(window.close(0), None);
        assert_eq!(window.outstanding(), 0);
    }

    #[test]
    fn an_id_that_is_never_answered_is_passed_by() {
        let mut window = Window::new(2);
        let stuck = window.open(7);
        let mut last = stuck;
        for _ in 0..100 {
            let id = window.open(0);
            assert!(id > last && id - last <= 2);
            assert_eq!(window.close(id), Some(0));
            last = id;
        }
        assert_eq!(window.close(stuck), Some(7));
    }

    #[test]
    fn ids_stay_five_bytes_long_when_they_wrap() {
        let mut window = Window::new(1);
        window.next = u32::MAX;
        assert_eq!(window.open(0), u32::MAX);
        assert_eq!(window.close(u32::MAX), Some(0));
        assert_eq!(window.open(0), FIRST_ID);
    }

    #[test]
    fn a_reset_forgets_everything() {
        let mut window = Window::new(4);
        let id = window.open(0);
        window.reset();
        assert_eq!(window.close(id), None);
        assert_eq!(window.open(0), id);
    }
}
