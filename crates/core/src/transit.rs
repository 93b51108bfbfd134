//! Bytes that other threads have pushed and that have not reached their connection.
//!
//! A worker that is stuck takes no mail and cuts nobody. What may wait for one of its connections is bounded by
//! `limits.outbox_bytes`, what waits for all of them by `limits.memory`: the connection that is pushed more is closed, as one
//! that is too slow. Each push takes its bytes and a [mail](MAIL_BYTES), which small events have more of than of bytes. A
//! worker that keeps up is not to pay for that, so only what is pushed to a connection behind its first
//! [`UNCOUNTED_BYTES_MAX`] is counted.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;

use crate::mailbox::Mail;
use crate::memory::Memory;

/// What a push from another thread takes besides its bytes: the queue keeps a word of its own with each mail. Documents name it.
pub(crate) const MAIL_BYTES: usize = size_of::<Mail>() + size_of::<usize>();

/// So much may be under way to each connection without being counted.
pub(crate) const UNCOUNTED_BYTES_MAX: usize = 64 * 1024;

/// Keeps bytes counted until the last mail that carries them is done with, and with them as many mails as there were at once,
/// up to the next power of two.
pub(crate) struct UnderWay {
    memory: Arc<Memory>,
    bytes: usize,
    /// How many mails are counted. Only the thread that counted the bytes changes it, since nobody else makes mails of them.
    mails: AtomicUsize,
}

impl UnderWay {
    /// Counts bytes and the first mail that carries them, and what it takes to count them.
    fn begin(memory: &Arc<Memory>, bytes: usize) -> Option<Arc<Self>> {
        let new = || {
            Arc::new(UnderWay {
                memory: memory.clone(),
                bytes,
                mails: AtomicUsize::new(1),
            })
        };
        memory.depart(Self::taken(bytes, 1)).then(new)
    }

    /// Counts more mails, if it has more by now: as many again, so that few of them cost an atomic operation.
    fn count_mails(self: &Arc<Self>) -> bool {
        let counted = self.mails.load(Ordering::Relaxed);
        if Arc::strong_count(self) <= counted {
            return true;
        }
        let fits = self.memory.depart(counted * MAIL_BYTES);
        if fits {
            self.mails.store(2 * counted, Ordering::Relaxed);
        }
        fits
    }

    fn taken(bytes: usize, mails: usize) -> usize {
        // It lies behind the two counts of an `Arc`. Bytes that are shared have about as much beside them.
        let itself = size_of::<UnderWay>() + 2 * size_of::<usize>();
        bytes.saturating_add(2 * itself + mails * MAIL_BYTES)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mails = self.mails.load(Ordering::Relaxed);
        self.memory.arrive(Self::taken(self.bytes, mails));
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

/// Counts bytes that are about to be posted, once for all mails that carry them, and the mail. `None` if the process would hold
/// more than it may.
pub(crate) fn count(memory: &Arc<Memory>, bytes: &Bytes) -> Option<Arc<UnderWay>> {
    let counted_before = LAST.try_with(|last| {
        let last = last.borrow();
        let counted = last.counted.upgrade()?;
        // As long as they are counted some mail has them, and nothing else lies where they do.
        let is_same = last.start == bytes.as_ptr() && counted.bytes == bytes.len();
        (is_same && Arc::ptr_eq(&counted.memory, memory)).then_some(counted)
    });
    if let Ok(Some(counted)) = counted_before {
        return counted.count_mails().then_some(counted);
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

    fn taken(bytes: usize, mails: usize) -> u64 {
        UnderWay::taken(bytes, mails) as u64
    }

    #[test]
    fn shared_bytes_are_counted_once_and_as_long_as_anybody_has_them() {
        let memory = Memory::new(taken(6000, 16) + taken(4000, 1), 1);
        let event = Bytes::from(vec![1; 6000]);
        let mails: Vec<_> = (0..10).map(|_| count(&memory, &event).unwrap()).collect();
        assert_eq!(memory.total(), taken(6000, 16));
        assert!(count(&memory, &Bytes::from(vec![1; 6000])).is_none());
        let other = count(&memory, &Bytes::from(vec![1; 4000])).unwrap();
        assert_eq!(memory.total(), taken(6000, 16) + taken(4000, 1));
        assert!(count(&memory, &event).is_none(), "another one was the last");
        drop(mails);
        assert_eq!(memory.total(), taken(4000, 1));
        let again = [(); 2].map(|()| count(&memory, &event).unwrap());
        assert_eq!(memory.total(), taken(6000, 2) + taken(4000, 1));
        drop((again, other));
        assert_eq!(memory.total(), 0);
    }

    #[test]
    fn a_mail_takes_what_the_documents_say() {
        assert_eq!(MAIL_BYTES, 64);
    }

    #[test]
    fn as_many_mails_are_counted_as_there_are_at_once() {
        let memory = Memory::new(taken(1, 64), 1);
        let event = Bytes::from(vec![1]);
        let first = count(&memory, &event).unwrap();
        for _ in 0..1000 {
            assert!(count(&memory, &event).is_some(), "there is one other");
        }
        assert_eq!(memory.total(), taken(1, 2));
        let mails: Vec<_> = std::iter::from_fn(|| count(&memory, &event)).collect();
        assert_eq!(mails.len(), 63, "and the first one");
        assert_eq!(memory.total(), taken(1, 64));
        drop(mails);
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
