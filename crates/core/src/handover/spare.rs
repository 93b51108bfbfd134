//! Descriptors that are kept in reserve, so that a process whose descriptors are used up by connections can still hand
//! those over, or refuse others when it stops.

use std::os::fd::OwnedFd;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{DupFlags, dup3};

/// Descriptors that mean nothing. Dropped, they make room.
#[derive(Debug)]
pub(crate) struct Spare {
    descriptors: Vec<OwnedFd>,
}

impl Spare {
    /// Keeps so many, or as many as there are.
    pub(crate) fn keep(count: usize) -> Self {
        let mut spare = Spare {
            descriptors: Vec::with_capacity(count),
        };
        spare.fill(count);
        spare
    }

    /// How many it keeps.
    pub(crate) fn count(&self) -> usize {
        self.descriptors.len()
    }

    /// Keeps so many again, or as many as there are, and no more.
    pub(crate) fn fill(&mut self, count: usize) {
        self.descriptors.truncate(count);
        while self.count() < count
            && let Ok(another) = match self.descriptors.first() {
                Some(first) => first.try_clone(),
                None => eventfd(0, EventfdFlags::CLOEXEC).map_err(Into::into),
            }
        {
            self.descriptors.push(another);
        }
    }

    /// Makes room for so many.
    pub(crate) fn release(&mut self, count: usize) {
        let kept = self.descriptors.len().saturating_sub(count);
        self.descriptors.truncate(kept);
    }

    /// Keeps the place of a descriptor that has served its purpose. It is free at no moment, in which somebody who waits for one
    /// could take it.
    pub(crate) fn replace(&mut self, mut descriptor: OwnedFd) {
        if let Some(first) = self.descriptors.first()
            && dup3(first, &mut descriptor, DupFlags::CLOEXEC).is_ok()
        {
            self.descriptors.push(descriptor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_place_that_is_kept_means_nothing_any_more() {
        let mut spare = Spare::keep(3);
        let (mut reader, writer) = std::io::pipe().unwrap();
        spare.replace(writer.into());
        assert_eq!(reader.read(&mut [0]).unwrap(), 0, "the writer is closed");
        assert_eq!(spare.count(), 4);
        spare.fill(3);
        assert_eq!(spare.count(), 3);
        spare.release(2);
        assert_eq!(spare.count(), 1);
        spare.fill(3);
        assert_eq!(spare.count(), 3);
        spare.release(9);
        assert_eq!(spare.count(), 0);
        spare.fill(2);
        assert_eq!(spare.count(), 2);
    }
}
