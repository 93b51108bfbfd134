//! One timer wheel per worker.
//!
//! A connection has one entry in the wheel, however many time limits it is under, and no call moves an entry: when one comes
//! up, its owner computes when it is really due and puts it back if that is later. So the data path never touches the wheel.
//! Only what is due before that entry gets one of its own, and the other waits behind it.

/// Length of a tick. Time limits are kept with this precision, never early.
const TICK_MS: u32 = 32;
const SLOTS: usize = 512;
const WORDS: usize = SLOTS / 64;

/// Entries by the tick at which they are to be looked at.
pub(crate) struct Wheel<T> {
    slots: Vec<Vec<T>>,
    /// Which slots have entries.
    occupied: [u64; WORDS],
    /// All ticks before this one have been handled.
    next_tick: u64,
    len: usize,
}

impl<T> Wheel<T> {
    pub(crate) fn new() -> Self {
        Wheel {
            slots: (0..SLOTS).map(|_| Vec::new()).collect(),
            occupied: [0; WORDS],
            next_tick: 0,
            len: 0,
        }
    }

    /// How many entries are in it.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Puts `entry` in, to come up not before `due` (milliseconds on the worker's clock), or at the wheel's horizon
    /// if that is nearer.
    pub(crate) fn insert(&mut self, due: u64, entry: T) {
        // Rounded up, so that an entry never comes up early.
        let tick = due.div_ceil(u64::from(TICK_MS));
        let tick = tick.clamp(self.next_tick, self.next_tick + SLOTS as u64 - 1);
        let slot = (tick % SLOTS as u64) as usize;
        self.slots[slot].push(entry);
        self.occupied[slot / 64] |= 1 << (slot % 64);
        self.len += 1;
    }

    /// Takes out what is due at `now` and appends it to `due`.
    pub(crate) fn advance(&mut self, now: u64, due: &mut Vec<T>) {
        let now_tick = now / u64::from(TICK_MS);
        if now_tick < self.next_tick {
            return;
        }
        let ticks = (now_tick - self.next_tick + 1).min(SLOTS as u64);
        if self.len > 0 {
            for tick in self.next_tick..self.next_tick + ticks {
                let slot = (tick % SLOTS as u64) as usize;
                if self.occupied[slot / 64] & (1 << (slot % 64)) != 0 {
                    self.occupied[slot / 64] &= !(1 << (slot % 64));
                    let mut entries = std::mem::take(&mut self.slots[slot]);
                    self.len -= entries.len();
                    due.append(&mut entries);
                    if entries.capacity() <= 64 {
                        self.slots[slot] = entries;
                    }
                }
            }
        }
        self.next_tick = now_tick + 1;
    }

    /// When to call [`Wheel::advance`] next, in milliseconds on the worker's clock; `None` if the wheel is empty.
    pub(crate) fn next_due(&self) -> Option<u64> {
        if self.len == 0 {
            return None;
        }
        let start = (self.next_tick % SLOTS as u64) as usize;
        let distance = self.distance(start)?;
        Some((self.next_tick + distance as u64) * u64::from(TICK_MS))
    }

    /// How many slots after `start` the next occupied one is.
    fn distance(&self, start: usize) -> Option<usize> {
        // The word of `start` comes twice: first from that slot on, at last up to it.
        let word = start / 64;
        let first = self.occupied[word] & (u64::MAX << (start % 64));
        let rest = (1..=WORDS).map(|step| (step, self.occupied[(word + step) % WORDS]));
        let mut words = std::iter::once((0, first)).chain(rest);
        let (step, bits) = words.find(|(_, bits)| *bits != 0)?;
        Some((step * 64 + bits.trailing_zeros() as usize) - start % 64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due_at(wheel: &mut Wheel<u32>, now: u64) -> Vec<u32> {
        let mut due = Vec::new();
        wheel.advance(now, &mut due);
        due
    }

    #[test]
    fn nothing_comes_up_early_and_nothing_is_forgotten() {
        let mut wheel = Wheel::new();
        let mut expected: Vec<(u64, u32)> = Vec::new();
        for i in 0..1000u32 {
            let due = u64::from(i) * 13;
            wheel.insert(due, i);
            expected.push((due, i));
        }
        let mut seen = Vec::new();
        let mut now = 0;
        while let Some(next) = wheel.next_due() {
            assert!(next >= now, "time does not run backwards");
            now = next;
            for entry in due_at(&mut wheel, now) {
                assert!(expected[entry as usize].0 <= now, "{entry} came up early");
                assert!(now - expected[entry as usize].0 < 2 * u64::from(TICK_MS));
                seen.push(entry);
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn an_entry_beyond_the_horizon_comes_up_at_the_horizon() {
        let mut wheel = Wheel::new();
        wheel.insert(u64::from(u32::MAX), 1);
        let horizon = wheel.next_due().unwrap();
        assert_eq!(horizon, (SLOTS as u64 - 1) * u64::from(TICK_MS));
        assert_eq!(due_at(&mut wheel, horizon), [1]);
        assert_eq!(wheel.next_due(), None);
    }

    #[test]
    fn a_long_sleep_brings_everything_up_once() {
        let mut wheel = Wheel::new();
        wheel.insert(10, 1);
        wheel.insert(5000, 2);
        assert_eq!(due_at(&mut wheel, 1_000_000), [1, 2]);
        wheel.insert(1_000_000, 3);
        assert_eq!(due_at(&mut wheel, 1_000_000), [] as [u32; 0]);
        assert_eq!(due_at(&mut wheel, 1_000_100), [3]);
    }

    #[test]
    fn the_next_entry_is_found_from_every_slot() {
        let ticks = |n: u64| n * u64::from(TICK_MS);
        for start in [0, 1, 63, 64, 65, 300, 511] {
            for distance in 0..SLOTS as u64 {
                let mut wheel = Wheel::new();
                // The next tick is the one behind the time that it was advanced to.
                if start > 0 {
                    wheel.advance(ticks(start - 1), &mut Vec::<u32>::new());
                }
                wheel.insert(ticks(start + distance), 1);
                assert_eq!(wheel.next_due(), Some(ticks(start + distance)));
            }
        }
    }
}
