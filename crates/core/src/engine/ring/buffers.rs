//! The receive buffers that all connections of a worker share: a provided-buffer ring (io_uring_register_buf_ring(3)).
//!
//! Two mappings: the buffers, and the ring of entries through which free ones are given to the kernel. The kernel
//! takes a buffer when it completes a receive and names it in the completion; from then until it is published again
//! the memory is ours to read. A buffer that a service keeps a part of is *leased*: it is published again when the
//! last lease is dropped, on whatever thread that happens.
//!
//! Of those that are free the kernel has as many as it needs ([`circulation`]).
//!
//! Some more are set aside for receives that are over when the enter that begins them returns, so that the buffer can be
//! named beforehand: that is cheaper than to have the kernel choose one, and the one that was used last is still in the cache.

use std::cell::Cell;
use std::io;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use io_uring::Submitter;
use io_uring::types::BufRingEntry;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use self::circulation::Circulation;
use super::poison;
use crate::config::RingConfig;
use crate::frame::Lend;

mod circulation;

/// The id of the one group of buffers that a worker has.
pub(super) const GROUP: u16 = 0;

/// Half as many buffers as the kernel gets are set aside, but not more than this.
const ASIDE_MAX: u16 = 32;

/// Pages of memory, which are aligned as the kernel wants a ring of entries to be. They read as zero, and none takes memory before it is
/// written to; an allocator clears what it is asked to align like this, and so touches all of it. Given back when the value
/// is dropped.
struct Memory {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the value only owns the memory; who may access what of it is up to the types that contain it.
#[expect(unsafe_code, reason = "memory that is shared with the kernel")]
unsafe impl Send for Memory {}
// SAFETY: as above; a shared `Memory` gives nothing but its address.
#[expect(unsafe_code, reason = "memory that is shared with the kernel")]
unsafe impl Sync for Memory {}

impl Memory {
    fn new(bytes: usize) -> io::Result<Self> {
        Self::with(bytes, ProtFlags::READ | ProtFlags::WRITE)
    }

    fn with(bytes: usize, access: ProtFlags) -> io::Result<Self> {
        // SAFETY: without MAP_FIXED no memory that is in use is touched.
        #[expect(unsafe_code, reason = "mapping memory")]
        let base = unsafe { mmap_anonymous(null_mut(), bytes, access, MapFlags::PRIVATE) };
        // As much as the configuration asks for, so that it is for the operator to know, and no reason to abort.
        let base = base.ok().and_then(|base| NonNull::new(base.cast()));
        let base = base.ok_or_else(|| {
            let why = format!(
                "there is no memory for {bytes} bytes (buffers and buffer_bytes in section [ring])"
            );
            io::Error::new(io::ErrorKind::OutOfMemory, why)
        })?;
        Ok(Memory { base, bytes })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // What is mapped there next may be used.
        poison::allow(self.base.as_ptr(), self.bytes);
        // SAFETY: the pages are those that were mapped, and nobody refers to them once their owner is dropped.
        #[expect(unsafe_code, reason = "mapping memory")]
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "a whole mapping can always go");
    }
}

/// Whether so many bytes of addresses can be had. No memory is behind them.
pub(super) fn reserve(bytes: usize) -> io::Result<()> {
    Memory::with(bytes, ProtFlags::empty()).map(drop)
}

/// The buffers themselves, kept alive by the worker and by every lease.
struct Store {
    memory: Memory,
    buffer_bytes: usize,
    /// Leases by buffer. While dispatching, the worker holds one itself on a buffer that it has lent.
    leases: Vec<AtomicU32>,
    /// One bit a buffer: its last lease is gone, it can be published.
    returned: Vec<AtomicU64>,
    returned_count: AtomicUsize,
}

impl Store {
    fn address(&self, buffer: u16) -> *mut u8 {
        debug_assert!((buffer as usize) < self.leases.len());
        self.memory
            .base
            .as_ptr()
            .wrapping_add(buffer as usize * self.buffer_bytes)
    }

    /// Drops one lease.
    fn release(&self, buffer: u16) {
        // Release: what the holder read, it has read before the buffer is published again. The worker acquires.
        if self.leases[buffer as usize].fetch_sub(1, Ordering::AcqRel) == 1 {
            self.returned[buffer as usize / 64].fetch_or(1 << (buffer % 64), Ordering::Release);
            self.returned_count.fetch_add(1, Ordering::Release);
        }
    }
}

/// A worker's receive buffers.
pub(super) struct Buffers {
    store: Arc<Store>,
    /// The entries, shared with the kernel.
    ring: Memory,
    entries: u16,
    /// Buffers that are free, and not in the ring. The one that was used last is at the end.
    free: Vec<u16>,
    circulation: Circulation,
    /// Those of the buffers from number `entries` on that are free. The one that was used last is at the end.
    aside: Vec<u16>,
    /// Where the next entry goes.
    tail: u16,
    /// Buffers that are leased.
    leased: u16,
}

impl Buffers {
    /// Allocates as many buffers, and as large ones, as the configuration says, and gives them to the kernel.
    ///
    /// # Errors
    ///
    /// Those of io_uring_register(2) with IORING_REGISTER_PBUF_RING, that there is no memory, and that there cannot be such
    /// buffers: the configuration may be a program's own, which nobody has checked.
    ///
    /// # Safety
    ///
    /// The ring must be gone, or the group unregistered, before the value is dropped.
    #[expect(unsafe_code, reason = "the kernel keeps the address of the entries")]
    pub(super) unsafe fn register(
        submitter: &Submitter<'_>,
        config: &RingConfig,
    ) -> io::Result<Self> {
        let mut buffers = Buffers::new(config)?;
        let ring = buffers.ring.base.as_ptr() as u64;
        // SAFETY: the memory is whole pages, as large as the entries, and outlives the registration as the
        // caller vouches.
        unsafe { submitter.register_buf_ring_with_flags(ring, buffers.entries, GROUP, 0)? };
        buffers.fill();
        Ok(buffers)
    }

    /// The memory of all that. Nobody has any of the buffers.
    fn new(config: &RingConfig) -> io::Result<Self> {
        let (entries, buffer_bytes) = config.buffer_sizes()?;
        let aside = (entries / 2).min(ASIDE_MAX);
        let count = usize::from(entries + aside);
        let store = Store {
            memory: Memory::new(count * buffer_bytes)?,
            buffer_bytes,
            leases: (0..count).map(|_| AtomicU32::new(0)).collect(),
            returned: (0..count.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            returned_count: AtomicUsize::new(0),
        };
        Ok(Buffers {
            store: Arc::new(store),
            ring: Memory::new(usize::from(entries) * size_of::<BufRingEntry>())?,
            entries,
            free: Vec::with_capacity(entries.into()),
            circulation: Circulation::new(entries),
            aside: Vec::with_capacity(aside.into()),
            tail: 0,
            leased: 0,
        })
    }

    /// All of them are free, and the kernel gets the first ones.
    fn fill(&mut self) {
        for buffer in (0..self.store.leases.len() as u16).rev() {
            self.recycle(buffer);
        }
        self.publish(0);
    }

    pub(super) fn entries(&self) -> usize {
        self.entries as usize
    }

    /// Buffers that services hold parts of.
    pub(super) fn leased(&self) -> usize {
        self.leased as usize
    }

    /// A buffer for a receive that names it, and how long it is. The kernel may write to it until the receive has completed.
    pub(super) fn take_aside(&mut self) -> Option<(u16, *mut u8, usize)> {
        let buffer = self.aside.pop()?;
        Some((buffer, self.store.address(buffer), self.store.buffer_bytes))
    }

    /// The first `length` bytes of a buffer that a completion used, until it is given back.
    pub(super) fn received(&self, buffer: u16, length: usize) -> Received<'_> {
        assert!(
            usize::from(buffer) < self.store.leases.len() && length <= self.store.buffer_bytes,
            "the kernel uses buffers that it was given"
        );
        poison::allow(self.store.address(buffer), length);
        // SAFETY: the range lies within the mapping. The kernel filled it and took the buffer off the ring, or it is one
        // that was set aside, so nobody writes to it until `give_back`, which needs `self` mutably and therefore comes after the borrow.
        #[expect(unsafe_code, reason = "memory that is shared with the kernel")]
        let bytes = unsafe { std::slice::from_raw_parts(self.store.address(buffer), length) };
        Received {
            bytes,
            buffer,
            buffers: self,
            lent: Cell::new(false),
        }
    }

    /// Ends the use of a buffer: it goes back to the kernel, or waits for the leases on it.
    pub(super) fn give_back(&mut self, buffer: u16, lent: bool) {
        if buffer < self.entries {
            self.circulation.used();
        }
        if lent {
            self.leased += 1;
            self.store.release(buffer);
        } else {
            self.recycle(buffer);
        }
    }

    /// Takes back the buffers whose last lease is gone.
    pub(super) fn collect(&mut self) {
        if self.leased == 0 || self.store.returned_count.load(Ordering::Acquire) == 0 {
            return;
        }
        for word in 0..self.store.returned.len() {
            let mut bits = self.store.returned[word].swap(0, Ordering::Acquire);
            while bits != 0 {
                let buffer = word as u16 * 64 + bits.trailing_zeros() as u16;
                bits &= bits - 1;
                self.store.returned_count.fetch_sub(1, Ordering::Relaxed);
                self.leased -= 1;
                self.recycle(buffer);
            }
        }
    }

    /// Takes note of a free buffer.
    fn recycle(&mut self, buffer: u16) {
        poison::forbid(self.store.address(buffer), self.store.buffer_bytes);
        if buffer >= self.entries {
            self.aside.push(buffer);
        } else {
            self.free.push(buffer);
        }
    }

    /// A receive found no buffer.
    pub(super) fn starved(&mut self) {
        self.circulation.starved();
    }

    /// Lets the kernel have as many of the free buffers as it is to have at this time on the worker's clock, at the end of a turn.
    pub(super) fn publish(&mut self, now: u64) {
        let wanted = usize::from(self.circulation.wanted(now));
        let first = self.free.len().saturating_sub(wanted);
        let count = self.free.len() - first;
        if count == 0 {
            return;
        }
        for place in (first..self.free.len()).rev() {
            self.write_entry(self.free[place]);
        }
        self.free.truncate(first);
        // There are no more than the ring has entries, whose number has 16 bits.
        self.circulation.given(count as u16);
        let base = self.ring.base.as_ptr().cast::<BufRingEntry>();
        // SAFETY: `base` is the ring's first entry, and the tail lies within it.
        #[expect(unsafe_code, reason = "memory that is shared with the kernel")]
        let tail = unsafe { BufRingEntry::tail(base) }.cast_mut();
        // SAFETY: the tail is aligned and lives as long as the ring; kernel and worker access it atomically only.
        #[expect(unsafe_code, reason = "memory that is shared with the kernel")]
        let tail = unsafe { AtomicU16::from_ptr(tail) };
        // Release: the entries were written before.
        tail.store(self.tail, Ordering::Release);
    }

    /// Writes the entry of a free buffer, which the kernel sees when the tail is stored.
    fn write_entry(&mut self, buffer: u16) {
        let index = (self.tail & (self.entries - 1)) as usize;
        let entry = self
            .ring
            .base
            .as_ptr()
            .cast::<BufRingEntry>()
            .wrapping_add(index);
        // SAFETY: the index is within the ring, the kernel does not read entries at or beyond the published tail, and
        // nobody else writes them. Fields are set one by one: the tail overlays a field of entry 0.
        #[expect(unsafe_code, reason = "memory that is shared with the kernel")]
        let entry = unsafe { &mut *entry };
        entry.set_addr(self.store.address(buffer) as u64);
        entry.set_len(self.store.buffer_bytes as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }
}

/// What was received in one shared buffer.
pub(super) struct Received<'a> {
    pub(super) bytes: &'a [u8],
    buffer: u16,
    buffers: &'a Buffers,
    /// Whether a lease was made, so that the worker holds one, too.
    lent: Cell<bool>,
}

impl Received<'_> {
    /// To be passed to [`Buffers::give_back`].
    pub(super) fn was_lent(&self) -> bool {
        self.lent.get()
    }
}

impl Lend for Received<'_> {
    fn lend(&self, part: &[u8]) -> Option<Bytes> {
        let within = self.bytes.as_ptr_range();
        let range = part.as_ptr_range();
        assert!(
            within.start <= range.start && range.end <= within.end,
            "only parts of what was received can be kept"
        );
        let store = &self.buffers.store;
        if !self.lent.get() {
            // Half of the buffers always stay in circulation, so that keeping frames can never stop receiving.
            if self.buffers.leased() >= self.buffers.entries() / 2 {
                return None;
            }
            self.lent.set(true);
            store.leases[self.buffer as usize].store(1, Ordering::Relaxed);
        }
        store.leases[self.buffer as usize].fetch_add(1, Ordering::Relaxed);
        let offset = range.start as usize - store.address(self.buffer) as usize;
        Some(Bytes::from_owner(Lease {
            store: store.clone(),
            buffer: self.buffer,
            offset,
            length: part.len(),
        }))
    }
}

/// A counted reference to a part of a buffer.
struct Lease {
    store: Arc<Store>,
    buffer: u16,
    offset: usize,
    length: usize,
}

impl AsRef<[u8]> for Lease {
    fn as_ref(&self) -> &[u8] {
        let address = self.store.address(self.buffer).wrapping_add(self.offset);
        // SAFETY: `lend` checked that the range lies within the buffer. While a lease exists the buffer is not
        // published, so the kernel does not write to it; the store, which the lease holds, keeps the memory alive.
        #[expect(unsafe_code, reason = "memory that is shared with the kernel")]
        unsafe {
            std::slice::from_raw_parts(address, self.length)
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.store.release(self.buffer);
    }
}

#[cfg(test)]
mod tests;
