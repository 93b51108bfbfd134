//! Bytes that other threads have pushed and that have not reached their connection.
//!
//! A worker that is stuck takes no mail and cuts nobody. What may wait for one of its connections is bounded by
//! `limits.outbox_bytes`, what waits for all of them by `limits.memory`: the connection that is pushed more is closed, as one
//! that is too slow. A worker that keeps up is not to pay for that, so only what is pushed to a connection behind its first
//! [`UNCOUNTED_BYTES_MAX`] is counted.

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use bytes::Bytes;

use crate::memory::Memory;

/// So much may be under way to each connection without being counted.
pub(crate) const UNCOUNTED_BYTES_MAX: usize = 64 * 1024;

/// Keeps bytes counted until the last mail that carries them is done with.
pub(crate) struct UnderWay {
    memory: Arc<Memory>,
    bytes: usize,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.memory.arrive(self.bytes);
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

/// Counts bytes that are about to be posted, once for all mails that carry them. `None` if the process would hold more than
/// it may.
pub(crate) fn count(memory: &Arc<Memory>, bytes: &Bytes) -> Option<Arc<UnderWay>> {
    let counted_before = LAST.try_with(|last| {
        let last = last.borrow();
        let counted = last.counted.upgrade()?;
        // As long as they are counted some mail has them, and nothing else lies where they do.
        let is_same = last.start == bytes.as_ptr() && counted.bytes == bytes.len();
        (is_same && Arc::ptr_eq(&counted.memory, memory)).then_some(counted)
    });
    if let Ok(Some(counted)) = counted_before {
        return Some(counted);
    }
    if !memory.depart(bytes.len()) {
        return None;
    }
    let counted = Arc::new(UnderWay {
        memory: memory.clone(),
        bytes: bytes.len(),
    });
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

    #[test]
    fn shared_bytes_are_counted_once_and_as_long_as_anybody_has_them() {
        let memory = Memory::new(1000, 1);
        let event = Bytes::from(vec![1; 600]);
        let mails: Vec<_> = (0..10).map(|_| count(&memory, &event).unwrap()).collect();
        assert_eq!(memory.total(), 600);
        assert!(count(&memory, &Bytes::from(vec![1; 600])).is_none());
        let other = count(&memory, &Bytes::from(vec![1; 400])).unwrap();
        assert_eq!(memory.total(), 1000);
        assert!(count(&memory, &event).is_none(), "another one was the last");
        drop(mails);
        assert_eq!(memory.total(), 400);
        let again = [(); 2].map(|()| count(&memory, &event).unwrap());
        assert_eq!(memory.total(), 1000);
        drop((again, other));
        assert_eq!(memory.total(), 0);
    }

    #[test]
    fn a_part_of_the_same_bytes_and_another_process_wide_count_are_others() {
        let memories = [Memory::new(1000, 1), Memory::new(1000, 1)];
        let event = Bytes::from(vec![1; 600]);
        let counted = [
            count(&memories[0], &event).unwrap(),
            count(&memories[0], &event.slice(..100)).unwrap(),
            count(&memories[1], &event).unwrap(),
        ];
        assert_eq!(memories.each_ref().map(|memory| memory.total()), [700, 600]);
        drop(counted);
        assert_eq!(memories.each_ref().map(|memory| memory.total()), [0, 0]);
    }
}
