use std::ptr::{with_exposed_provenance, with_exposed_provenance_mut};
use std::thread;

use super::*;
use crate::config::impossible_rings;
use crate::engine::ring::{probe, setup};

#[test]
fn sizes_that_no_file_could_ask_for_are_refused() {
    if probe().unavailable.is_some() {
        return;
    }
    let ring = setup::ring(&SMALL).unwrap();
    for config in impossible_rings() {
        // SAFETY: should they be registered after all, the test fails, and they are leaked.
        #[expect(unsafe_code, reason = "the kernel keeps the address of the buffers")]
        let made = unsafe { Buffers::register(&ring.submitter(), &config) };
        match made.map(std::mem::forget) {
            Ok(()) => panic!("{config:?} was taken"),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}"),
        }
    }
}

/// Under the sanitizer each access is checked against this.
#[cfg(ringhold_asan)]
#[test]
fn only_what_was_received_is_allowed_and_while_it_is_ours() {
    if probe().unavailable.is_some() {
        return;
    }
    let ring = setup::ring(&SMALL).unwrap();
    // SAFETY: the ring is dropped first, and nothing receives into them.
    #[expect(unsafe_code, reason = "the kernel keeps the address of the buffers")]
    let mut buffers = unsafe { Buffers::register(&ring.submitter(), &SMALL) }.unwrap();
    drop(ring);
    let store = buffers.store.clone();
    let allowed = move || poison::allowed(store.address(1), 4096);
    assert_eq!(allowed(), 0);
    assert_eq!(buffers.received(1, 100).bytes.len(), 100);
    assert_eq!(allowed(), 100);
    buffers.give_back(1, false);
    assert_eq!(allowed(), 0);
    let received = buffers.received(1, 100);
    let part = received.lend(&received.bytes[3..9]).unwrap();
    buffers.give_back(1, true);
    assert_eq!((allowed(), part.len()), (100, 6));
    drop(part);
    buffers.collect();
    assert_eq!(allowed(), 0);
}

/// What the kernel does with the ring of entries, and with buffers whose address it was given.
struct Kernel {
    ring: u64,
    entries: u16,
    head: u16,
}

/// An entry as the kernel knows it: struct io_uring_buf. The tail of the ring is in the first one.
#[repr(C)]
struct Entry {
    address: u64,
    length: u32,
    buffer: u16,
    tail: AtomicU16,
}

impl Kernel {
    fn new(buffers: &Buffers) -> Self {
        Kernel {
            ring: buffers.ring.base.as_ptr() as u64,
            entries: buffers.entries,
            head: 0,
        }
    }

    fn entry(&self, index: u16) -> &Entry {
        let first = with_exposed_provenance::<Entry>(self.ring as usize);
        // SAFETY: the entry lies in the ring, and nobody writes to it at the same time.
        #[expect(unsafe_code, reason = "in place of the kernel")]
        unsafe {
            &*first.wrapping_add(index.into())
        }
    }

    /// Receives into the next buffer that there is, and says which.
    fn receive(&mut self, bytes: &[u8]) -> Option<u16> {
        if self.entry(0).tail.load(Ordering::Acquire) == self.head {
            return None;
        }
        let entry = self.entry(self.head & (self.entries - 1));
        let (address, length, buffer) = (entry.address, entry.length, entry.buffer);
        self.head = self.head.wrapping_add(1);
        Kernel::write(address, length as usize, bytes);
        Some(buffer)
    }

    fn write(address: u64, length: usize, bytes: &[u8]) {
        assert!(bytes.len() <= length);
        let target = with_exposed_provenance_mut::<u8>(address as usize);
        poison::allow(target, bytes.len());
        // SAFETY: the buffer is as long, and nobody else may use it.
        #[expect(unsafe_code, reason = "in place of the kernel")]
        unsafe {
            target.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
    }
}

const SMALL: RingConfig = RingConfig {
    entries: 8,
    buffers: 4,
    buffer_bytes: 4096,
};

/// What is received in a round.
fn content(round: u8) -> [u8; 64] {
    std::array::from_fn(|place| round.wrapping_mul(7).wrapping_add(place as u8))
}

/// Uses a buffer as the worker does, and gives it back. Returns what a service kept of it, if it could: twice the same.
fn use_up(buffers: &mut Buffers, buffer: u16, round: u8, keeps: bool) -> Vec<Bytes> {
    let received = buffers.received(buffer, 64);
    assert_eq!(received.bytes, content(round));
    let times = if keeps { 2 } else { 0 };
    let kept = (0..times).filter_map(|_| received.lend(&received.bytes[8..60]));
    let kept = kept.collect();
    let lent = received.was_lent();
    buffers.give_back(buffer, lent);
    kept
}

#[test]
fn what_is_kept_stays_as_it_was_on_whatever_thread() {
    let mut buffers = Buffers::new(&SMALL).unwrap();
    buffers.fill();
    let mut kernel = Kernel::new(&buffers);
    let mut services = Vec::new();
    for round in 0..20 {
        let buffer = kernel.receive(&content(round)).unwrap();
        for bytes in use_up(&mut buffers, buffer, round, round % 3 != 0) {
            services.push(thread::spawn(move || {
                assert_eq!(bytes, content(round)[8..60]);
            }));
        }
        // And one that is named.
        let (buffer, target, length) = buffers.take_aside().unwrap();
        Kernel::write(target as u64, length, &content(!round));
        use_up(&mut buffers, buffer, !round, false);
        // Only what is behind the last lease says that the threads are done.
        while buffers.leased() > 1 {
            thread::yield_now();
            buffers.collect();
        }
        buffers.publish(0);
    }
    assert_eq!(services.len(), 26);
    for service in services {
        service.join().unwrap();
    }
    buffers.collect();
    buffers.publish(0);
    assert_eq!(buffers.leased(), 0);
    let mut all: Vec<_> = std::iter::from_fn(|| kernel.receive(&[])).collect();
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3]);
}

#[test]
fn what_is_kept_outlives_the_worker() {
    let mut buffers = Buffers::new(&SMALL).unwrap();
    buffers.fill();
    let mut kernel = Kernel::new(&buffers);
    let buffer = kernel.receive(&content(1)).unwrap();
    let kept = use_up(&mut buffers, buffer, 1, true);
    let part = kept[0].slice(2..);
    drop(buffers);
    drop(kept);
    assert_eq!(part, content(1)[10..60]);
}
