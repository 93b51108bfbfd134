//! Values by number, in pages: what a burst of them needed does not stay.
//!
//! One growing vector, which is what a slab is elsewhere, is copied when it grows, and one value at its end keeps all of
//! it. Here a value never moves, the lowest free number is taken first, and a page without values is given back.

use std::num::NonZeroU32;

/// Values in a page: one bit each of a word.
const PAGE: usize = u64::BITS as usize;

/// Values by number; a number is used again when its value is gone.
pub(crate) struct Slots<T> {
    pages: Vec<Page<T>>,
    /// No page before this one has room.
    room: usize,
    len: usize,
    /// The places of an empty page, so that one value that comes and goes does not allocate.
    spare: Option<Places<T>>,
}

/// [`PAGE`] places, or none at all.
type Places<T> = Box<[Option<T>]>;

struct Page<T> {
    /// A bit for each place that has a value.
    taken: u64,
    places: Places<T>,
}

/// The number of a value, as who has many of them keeps it: that there is none takes no room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key(NonZeroU32);

impl Key {
    fn new(number: usize) -> Self {
        // A process has at most 2^30 descriptors, and not more values.
        Key(NonZeroU32::MIN.saturating_add(number as u32))
    }

    pub(crate) fn number(self) -> usize {
        self.0.get() as usize - 1
    }
}

impl<T> Slots<T> {
    pub(crate) fn new() -> Self {
        Slots {
            pages: Vec::new(),
            room: 0,
            len: 0,
            spare: None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn get(&self, key: usize) -> Option<&T> {
        self.pages.get(key / PAGE)?.places.get(key % PAGE)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, key: usize) -> Option<&mut T> {
        let page = self.pages.get_mut(key / PAGE)?;
        page.places.get_mut(key % PAGE)?.as_mut()
    }

    /// The values with their numbers, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        let pages = self.pages.iter().enumerate();
        pages.flat_map(|(index, page)| {
            let places = page.places.iter().enumerate();
            places.filter_map(move |(place, value)| Some((index * PAGE + place, value.as_ref()?)))
        })
    }

    /// The number that the next value gets.
    pub(crate) fn next_key(&self) -> usize {
        let index = self.page_with_room();
        let taken = self.pages.get(index).map_or(0, |page| page.taken);
        index * PAGE + taken.trailing_ones() as usize
    }

    /// Puts a value in and returns its number.
    pub(crate) fn insert(&mut self, value: T) -> usize {
        self.room = self.page_with_room();
        if self.room == self.pages.len() {
            self.pages.push(Page {
                taken: 0,
                places: Box::default(),
            });
        }
        let page = &mut self.pages[self.room];
        if page.taken == 0 {
            let spare = self.spare.take();
            page.places = spare.unwrap_or_else(|| (0..PAGE).map(|_| None).collect());
        }
        let place = page.taken.trailing_ones() as usize;
        page.taken |= 1 << place;
        page.places[place] = Some(value);
        self.len += 1;
        self.room * PAGE + place
    }

    /// Takes a value out.
    pub(crate) fn remove(&mut self, key: usize) -> Option<T> {
        let index = key / PAGE;
        let page = self.pages.get_mut(index)?;
        let value = page.places.get_mut(key % PAGE)?.take()?;
        page.taken &= !(1 << (key % PAGE));
        self.len -= 1;
        self.room = self.room.min(index);
        if page.taken == 0 {
            // The one at the lower address is kept: what is free above it can go back to the system.
            let places = std::mem::take(&mut page.places);
            if self
                .spare
                .as_ref()
                .is_none_or(|spare| places.as_ptr() < spare.as_ptr())
            {
                self.spare = Some(places);
            }
        }
        Some(value)
    }

    /// Puts a value in and returns its number, to be kept.
    pub(crate) fn keep(&mut self, value: T) -> Key {
        Key::new(self.insert(value))
    }

    fn page_with_room(&self) -> usize {
        let pages = self.pages.iter().skip(self.room);
        self.room + pages.take_while(|page| page.taken == u64::MAX).count()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn pages_with_memory<T>(slots: &Slots<T>) -> usize {
        let pages = slots.pages.iter();
        pages.filter(|page| !page.places.is_empty()).count()
    }

    #[test]
    fn a_burst_leaves_the_pages_of_those_that_stay() {
        let mut slots = Slots::new();
        for key in 0..10_000 {
            assert_eq!(slots.next_key(), key);
            assert_eq!(slots.insert(key), key);
        }
        for key in (0..10_000).filter(|key| ![0, 70, 9_999].contains(key)) {
            assert_eq!(slots.remove(key), Some(key));
            assert_eq!(slots.remove(key), None);
        }
        assert_eq!(pages_with_memory(&slots), 3);
        assert_eq!(
            slots.iter().map(|(key, _)| key).collect::<Vec<_>>(),
            [0, 70, 9_999]
        );
        assert_eq!(slots.insert(1), 1, "the lowest free number comes first");
    }

    #[test]
    fn one_value_that_comes_and_goes_uses_the_same_memory() {
        let mut slots = Slots::new();
        slots.insert(0);
        let first: *const _ = slots.get(0).unwrap();
        for value in 1..100 {
            slots.remove(0);
            assert_eq!(pages_with_memory(&slots), 0);
            slots.insert(value);
            assert!(std::ptr::eq(first, slots.get(0).unwrap()));
        }
    }

    proptest! {
        #[test]
        fn it_is_a_map_that_gives_the_lowest_number(
            steps in prop::collection::vec(prop_oneof![Just(None), (0usize..300).prop_map(Some)], 0..2000)
        ) {
            let mut slots = Slots::new();
            let mut model = BTreeMap::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    None => {
                        let lowest = (0..).find(|key| !model.contains_key(key)).unwrap();
                        prop_assert_eq!(slots.next_key(), lowest);
                        prop_assert_eq!(slots.insert(number), lowest);
                        model.insert(lowest, number);
                    }
                    Some(key) => prop_assert_eq!(slots.remove(key), model.remove(&key)),
                }
                prop_assert_eq!(slots.len(), model.len());
            }
            prop_assert_eq!(slots.is_empty(), model.is_empty());
            prop_assert!(slots.iter().eq(model.iter().map(|(key, value)| (*key, value))));
            for key in 0..300 {
                prop_assert_eq!(slots.get(key), model.get(&key));
                prop_assert_eq!(slots.get_mut(key), model.get_mut(&key));
            }
        }
    }
}
