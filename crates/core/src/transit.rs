//! Bytes that other threads have pushed and that have not reached their connection.
//!
//! A worker that is stuck empties no inbox and cuts nobody. What may wait for one of its connections is bounded by
//! `outbox_bytes`, what waits for all of them by `limits.memory`: the connection that is pushed more is closed, as one
//! that is too slow. Each push takes its bytes and an [item](ITEM_BYTES), which small events have more of than of bytes. A
//! worker that keeps up is not to pay for that, so only what is pushed to a connection behind its first
//! [`UNCOUNTED_BYTES_MAX`] is counted.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;

use crate::memory::Memory;
use crate::peer::Item;

/// What a push from another thread takes at most besides its bytes: a queue that has grown may be half full. Documents name it.
pub(crate) const ITEM_BYTES: usize = 2 * size_of::<Item>();

/// So much may be under way to each connection without being counted.
pub(crate) const UNCOUNTED_BYTES_MAX: usize = 64 * 1024;

/// Keeps bytes counted until the last item that carries them is done with, and with them as many items as there were at once,
/// up to the next power of two.
pub(crate) struct UnderWay {
    memory: Arc<Memory>,
    bytes: usize,
    /// How many items are counted. Only the thread that counted the bytes changes it, since nobody else makes items of them.
    items: AtomicUsize,
}

impl UnderWay {
    /// Counts bytes and the first item that carries them, and what it takes to count them.
    fn begin(memory: &Arc<Memory>, bytes: usize) -> Option<Arc<Self>> {
        let new = || {
            Arc::new(UnderWay {
                memory: memory.clone(),
                bytes,
                items: AtomicUsize::new(1),
            })
        };
        memory.depart(Self::taken(bytes, 1)).then(new)
    }

    /// Counts more items, if it has more by now: as many again, so that few of them cost an atomic operation.
    fn count_items(self: &Arc<Self>) -> bool {
        let counted = self.items.load(Ordering::Relaxed);
        if Arc::strong_count(self) <= counted {
            return true;
        }
        let fits = self.memory.depart(counted * ITEM_BYTES);
        if fits {
            self.items.store(2 * counted, Ordering::Relaxed);
        }
        fits
    }

    fn taken(bytes: usize, items: usize) -> usize {
        // It lies behind the two counts of an `Arc`. Bytes that are shared have about as much beside them.
        let itself = size_of::<UnderWay>() + 2 * size_of::<usize>();
        bytes.saturating_add(2 * itself + items * ITEM_BYTES)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let items = self.items.load(Ordering::Relaxed);
        self.memory.arrive(Self::taken(self.bytes, items));
    }
}

/// What a thread has counted last: whoever publishes pushes the same bytes to one connection after the other.
struct Last {
    start: *const u8,
    counted: Weak<UnderWay>,
}

thread_local! {
    static LAST: RefCell<Last> = const {
        RefCell::new(Last {
            start: std::ptr::null(),
            counted: Weak::new(),
        })
    };
}

/// Counts bytes that are about to be posted, once for all items that carry them, and the item. `None` if the process would hold
/// more than it may.
pub(crate) fn count(memory: &Arc<Memory>, bytes: &Bytes) -> Option<Arc<UnderWay>> {
    let counted_before = LAST.try_with(|last| {
        let last = last.borrow();
        let counted = last.counted.upgrade()?;
        // As long as they are counted some item has them, and nothing else lies where they do.
        let is_same = last.start == bytes.as_ptr() && counted.bytes == bytes.len();
        (is_same && Arc::ptr_eq(&counted.memory, memory)).then_some(counted)
    });
    if let Ok(Some(counted)) = counted_before {
        return counted.count_items().then_some(counted);
    }
    let counted = UnderWay::begin(memory, bytes.len())?;
    // A thread that is about to end remembers nothing.
    let _ = LAST.try_with(|last| {
        last.replace(Last {
            start: bytes.as_ptr(),
            counted: Arc::downgrade(&counted),
        })
    });
    Some(counted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(bytes: usize, items: usize) -> u64 {
        UnderWay::taken(bytes, items) as u64
    }

    #[test]
    fn shared_bytes_are_counted_once_and_as_long_as_anybody_has_them() {
        let memory = Memory::new(taken(6000, 16) + taken(4000, 1), 1);
        let event = Bytes::from(vec![1; 6000]);
        let items: Vec<_> = (0..10).map(|_| count(&memory, &event).unwrap()).collect();
        assert_eq!(memory.total(), taken(6000, 16));
        assert!(count(&memory, &Bytes::from(vec![1; 6000])).is_none());
        let other = count(&memory, &Bytes::from(vec![1; 4000])).unwrap();
        assert_eq!(memory.total(), taken(6000, 16) + taken(4000, 1));
        assert!(count(&memory, &event).is_none(), "another one was the last");
        drop(items);
        assert_eq!(memory.total(), taken(4000, 1));
        let again = [(); 2].map(|()| count(&memory, &event).unwrap());
        assert_eq!(memory.total(), taken(6000, 2) + taken(4000, 1));
        drop((again, other));
        assert_eq!(memory.total(), 0);
    }

    #[test]
    fn an_item_takes_what_the_documents_say() {
        assert_eq!(ITEM_BYTES, 96);
    }

    #[test]
    fn as_many_items_are_counted_as_there_are_at_once() {
        let memory = Memory::new(taken(1, 64), 1);
        let event = Bytes::from(vec![1]);
        let first = count(&memory, &event).unwrap();
        for _ in 0..1000 {
            assert!(count(&memory, &event).is_some(), "there is one other");
        }
        assert_eq!(memory.total(), taken(1, 2));
        let items: Vec<_> = std::iter::from_fn(|| count(&memory, &event)).collect();
        assert_eq!(items.len(), 63, "and the first one");
        assert_eq!(memory.total(), taken(1, 64));
        drop(items);
        assert!(count(&memory, &event).is_some());
        drop(first);
        assert_eq!(memory.total(), 0);
    }

    #[test]
    fn a_part_of_the_same_bytes_and_another_process_wide_count_are_others() {
        let memories = [Memory::new(10_000, 1), Memory::new(10_000, 1)];
        let event = Bytes::from(vec![1; 600]);
        let counted = [
            count(&memories[0], &event).unwrap(),
            count(&memories[0], &event.slice(..100)).unwrap(),
            count(&memories[1], &event).unwrap(),
        ];
        let [six, one] = [600, 100].map(|bytes| taken(bytes, 1));
        assert_eq!(
            memories.each_ref().map(|memory| memory.total()),
            [six + one, six]
        );
        drop(counted);
        assert_eq!(memories.each_ref().map(|memory| memory.total()), [0, 0]);
    }
}
