//! The receive buffers that all connections share: a provided-buffer ring (io_uring_register_buf_ring(3)).
//!
//! The kernel takes buffers in the order of the ring. So only a few are in it at a time, and those that were used last
//! go in first: the memory of the others is cold.

use std::ffi::c_void;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::connection::Piece;

/// The id of the one group of buffers.
pub(crate) const GROUP: u16 = 0;

/// A message of 16 KiB and its envelope fit into one.
const BUFFER_BYTES: usize = 32 * 1024;

/// Buffers that there are at most. A power of two, as the ring of entries has to be.
const BUFFERS_MAX: u16 = 4096;

/// Buffers in the ring while that is enough.
const OFFERED_MIN: usize = 64;

/// After so many turns in which nobody found the ring empty, fewer buffers are tried.
const CALM_TURNS: u32 = 4096;

/// Pages, zeroed when first touched.
struct Memory {
    base: NonNull<c_void>,
    bytes: usize,
}

impl Memory {
    fn map(bytes: usize) -> io::Result<Self> {
        let hint = std::ptr::null_mut();
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new private mapping at an address of the kernel's choice touches no memory that is there already.
        #[expect(unsafe_code, reason = "memory that is shared with the kernel")]
        let base = unsafe { mmap_anonymous(hint, bytes, protection, MapFlags::PRIVATE) }?;
        let base = NonNull::new(base).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, bytes })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and is not used when that is gone.
        #[expect(unsafe_code, reason = "memory that is shared with the kernel")]
        // What could be done about a failure?
        let _ = unsafe { munmap(self.base.as_ptr(), self.bytes) };
    }
}

/// The buffers, and the ring through which the kernel gets them.
pub(crate) struct Buffers {
    memory: Memory,
    entries: Memory,
    /// Where the next entry goes; the kernel sees it after [`Buffers::offer`].
    tail: u16,
    /// Buffers that are neither in the ring nor in use. The last one was used last.
    free: Vec<u16>,
    /// Buffers in the ring, as far as completions tell, and how many there should be.
    offered: usize,
    wanted: usize,
    /// Turns since the ring was found empty.
    calm: u32,
    /// What the last buffers held on average, in bytes.
    fill: usize,
}

impl Buffers {
    /// Makes the ring of buffers of a ring.
    ///
    /// # Safety
    ///
    /// The ring must be gone when the value is dropped.
    #[expect(unsafe_code, reason = "the kernel keeps the address of the entries")]
    pub(crate) unsafe fn register(submitter: &Submitter<'_>) -> io::Result<Self> {
        let memory = Memory::map(usize::from(BUFFERS_MAX) * BUFFER_BYTES)?;
        let entries = Memory::map(usize::from(BUFFERS_MAX) * size_of::<BufRingEntry>())?;
        let address = entries.base.as_ptr() as u64;
        // SAFETY: the mapping is aligned to a page, has room for so many entries, and outlives the ring as the caller
        // vouches.
        unsafe { submitter.register_buf_ring_with_flags(address, BUFFERS_MAX, GROUP, 0)? };
        Ok(Self {
            memory,
            entries,
            tail: 0,
            free: (0..BUFFERS_MAX).rev().collect(),
            offered: 0,
            wanted: OFFERED_MIN,
            calm: 0,
            fill: 0,
        })
    }

    /// Where a piece begins.
    pub(crate) fn start(&self, piece: &Piece) -> *const u8 {
        self.address(piece.buffer).wrapping_add(piece.offset)
    }

    fn address(&self, buffer: u16) -> *const u8 {
        assert!(buffer < BUFFERS_MAX, "the kernel names buffers that it has");
        let base = self.memory.base.as_ptr().cast::<u8>();
        base.wrapping_add(usize::from(buffer) * BUFFER_BYTES)
    }

    /// Notes that the kernel took a buffer off the ring, and how much it put there.
    pub(crate) fn taken(&mut self, length: usize) {
        self.offered -= 1;
        self.fill = (self.fill * 15 + length) / 16;
    }

    /// Ends the use of a buffer.
    pub(crate) fn give_back(&mut self, buffer: u16) {
        self.free.push(buffer);
    }

    /// Notes that the ring was found empty. There should be more in it, unless they are full anyway: then more of them
    /// would only be cold before they are sent.
    pub(crate) fn starved(&mut self) {
        if self.fill < BUFFER_BYTES / 2 {
            self.wanted = (self.wanted * 2).min(usize::from(BUFFERS_MAX));
        }
        self.calm = 0;
    }

    /// Fills the ring up. Returns how many buffers are in it.
    pub(crate) fn offer(&mut self) -> usize {
        self.calm += 1;
        if self.calm >= CALM_TURNS {
            self.wanted = (self.wanted / 2).max(OFFERED_MIN);
            self.calm = 0;
        }
        while self.offered < self.wanted
            && let Some(buffer) = self.free.pop()
        {
            self.write_entry(buffer);
            self.offered += 1;
        }
        self.publish();
        self.offered
    }

    fn write_entry(&mut self, buffer: u16) {
        let index = usize::from(self.tail & (BUFFERS_MAX - 1));
        let entries = self.entries.base.as_ptr().cast::<BufRingEntry>();
        // SAFETY: the index is within the mapping, the kernel reads no entry at or beyond the published tail, and
        // nobody else writes any. Fields are set one by one: the tail overlays a field of entry 0.
        #[expect(unsafe_code, reason = "memory that is shared with the kernel")]
        let entry = unsafe { &mut *entries.wrapping_add(index) };
        entry.set_addr(self.address(buffer) as u64);
        entry.set_len(BUFFER_BYTES as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&self) {
        let entries = self.entries.base.as_ptr().cast::<BufRingEntry>();
        // SAFETY: it is the address of the ring's first entry, and the tail lies within that.
        #[expect(unsafe_code, reason = "memory that is shared with the kernel")]
        let tail = unsafe { BufRingEntry::tail(entries) }.cast_mut();
        // SAFETY: the tail is aligned and mapped as long as the value lives; both sides access it atomically only.
        #[expect(unsafe_code, reason = "memory that is shared with the kernel")]
        let tail = unsafe { AtomicU16::from_ptr(tail) };
        // Release: the entries were written before.
        tail.store(self.tail, Ordering::Release);
    }
}
