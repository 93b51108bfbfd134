//! Sockets that the kernel finds by their slot: registered files (io_uring_register(2)).
//!
//! An operation that names a descriptor counts a reference to the socket when it begins and gives it back when it ends.
//! That is one atomic operation each, on a line that the other operations on the socket touch as well. One that names a place in
//! the ring's table counts there, without either. The connection keeps its descriptor for everything else: addresses, options,
//! handing over.
//!
//! Older kernels (6.1 does, 6.18 does not) let go of what was removed from the table only when all operations have ended that began
//! before, on whatever socket (<https://github.com/axboe/liburing/issues/1192>). A receive can wait for years, so there descriptors
//! are used; see [`super::probe()`] for how that is found out.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use io_uring::types::Fd;
use io_uring::{Submitter, squeue};
use rustix::process::{Resource, getrlimit};

use super::Engine;
use super::link::RingLink;

/// With so many receives and sends it pays.
const REGISTERED_WITH: u8 = 3;

/// How an operation names a socket: with this number, under these flags.
#[derive(Debug, Clone, Copy)]
pub(super) struct File {
    pub(super) fd: Fd,
    pub(super) flags: squeue::Flags,
}

impl File {
    pub(super) fn descriptor(descriptor: RawFd) -> Self {
        File {
            fd: Fd(descriptor),
            flags: squeue::Flags::empty(),
        }
    }

    /// What is registered at a place of the table.
    pub(super) fn place(place: u32) -> Self {
        File {
            fd: Fd(place as i32),
            flags: squeue::Flags::FIXED_FILE,
        }
    }
}

/// The ring's table: one place for each slot, or none at all.
pub(super) struct Files {
    places: u32,
}

impl Files {
    /// Makes a table with so many places, or as many as there can be descriptors, since the kernel allows no more. Without
    /// memory for it, it has none.
    pub(super) fn register(submitter: &Submitter<'_>, places: u32) -> Self {
        let descriptors = getrlimit(Resource::Nofile).current;
        let places = descriptors.map_or(places, |most| u64::from(places).min(most) as u32);
        match submitter.register_files_sparse(places) {
            Ok(()) => Files { places },
            Err(_) => Files::none(),
        }
    }

    pub(super) fn none() -> Self {
        Files { places: 0 }
    }

    /// Puts a socket into the place of its slot. Returns whether it is there now.
    pub(super) fn add(&self, submitter: &Submitter<'_>, slot: u32, socket: BorrowedFd<'_>) -> bool {
        let sockets = [socket.as_raw_fd()];
        slot < self.places && matches!(submitter.register_files_update(slot, &sockets), Ok(1))
    }

    /// Takes a socket out. It stays open until then, even if its descriptor was closed.
    pub(super) fn remove(&self, submitter: &Submitter<'_>, slot: u32) {
        let removed = submitter.register_files_update(slot, &[-1]);
        debug_assert!(
            matches!(removed, Ok(1)),
            "the kernel needs no memory for it"
        );
    }
}

impl RingLink {
    /// Notes that an operation begins. With the third, the socket is registered, if there is a place for it: to put it there and take it out
    /// are two system calls, which somebody who makes one request and goes does not repay.
    #[inline]
    pub(super) fn begin(&mut self, files: &Files, submitter: &Submitter<'_>, slot: u32) {
        if self.begun < REGISTERED_WITH {
            self.begun += 1;
            if self.begun == REGISTERED_WITH {
                self.is_registered = files.add(submitter, slot, self.socket.as_fd());
            }
        }
    }

    /// The socket, as operations name it.
    pub(super) fn file(&self, slot: u32) -> File {
        if self.is_registered {
            File::place(slot)
        } else {
            File::descriptor(self.socket.as_raw_fd())
        }
    }
}

impl Engine<'_> {
    /// Takes a socket out of the table on which nothing is in flight any more.
    pub(super) fn unregister(&mut self, slot: u32) {
        if let Some(link) = self.shard.link(slot)
            && std::mem::take(&mut link.is_registered)
        {
            self.files.remove(self.queue.submitter(), slot);
        }
    }
}
