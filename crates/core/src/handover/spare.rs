//! Descriptors that are kept in reserve, so that a process whose descriptors are used up by connections can still hand
//! those over.

use std::os::fd::OwnedFd;

use rustix::event::{EventfdFlags, eventfd};

/// Descriptors that mean nothing. Dropped, they make room.
#[derive(Debug)]
pub(crate) struct Spare {
    _descriptors: Vec<OwnedFd>,
}

impl Spare {
    /// Keeps so many, or as many as there are.
    pub(crate) fn keep(count: usize) -> Self {
        let mut descriptors = Vec::with_capacity(count);
        if let Ok(first) = eventfd(0, EventfdFlags::CLOEXEC) {
            while descriptors.len() + 1 < count
                && let Ok(another) = first.try_clone()
            {
                descriptors.push(another);
            }
            descriptors.push(first);
        }
        Spare {
            _descriptors: descriptors,
        }
    }
}
