//! The poll behind accepting.
//!
//! The listeners are watched by an epoll(7) instance, and only that is polled. A poll of each would keep it open, and its address in use,
//! for as long as the kernel has that: when the connections are handed over, until some time after the process has ended. An
//! instance keeps nothing open.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use super::Engine;
use super::flights::Operation;
use crate::engine::turn;

/// One listener of this worker, and whether it is watched.
pub(super) type Listening = turn::Listening<bool>;

/// What watches the listeners of this worker.
pub(super) struct Watch {
    epoll: OwnedFd,
    is_polled: bool,
    /// Reused when the kernel is asked which listeners are readable.
    ready: Vec<epoll::Event>,
}

impl Watch {
    /// Of so many listeners.
    ///
    /// # Errors
    ///
    /// Those of epoll_create1(2).
    pub(super) fn new(listeners: usize) -> io::Result<Self> {
        Ok(Watch {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            is_polled: false,
            ready: Vec::with_capacity(listeners.max(1)),
        })
    }
}

impl Engine<'_> {
    /// Waits for connections where they are wanted, and ends where they are not any more for good.
    pub(super) fn update_accepts(&mut self) {
        let epoll = &self.watch.epoll;
        let mut is_any_watched = false;
        for (index, listening) in self.acceptors.iter_mut().enumerate() {
            let Listening {
                accepting,
                poll: is_watched,
            } = listening;
            if !accepting.is_in_use(&self.shard.desk.crew) {
                // Nor are those behind it.
                break;
            }
            accepting.end_rest(self.shard.desk.now);
            let is_wanted = accepting.is_wanted();
            if is_wanted && !*is_watched {
                let data = epoll::EventData::new_u64(index as u64);
                let added = epoll::add(epoll, accepting.socket(), data, epoll::EventFlags::IN);
                *is_watched = added.is_ok();
                if let Err(errno) = added {
                    accepting.failed(&errno.into(), &self.shard);
                }
            } else if !is_wanted && std::mem::take(is_watched) {
                // Or it would be reported again and again. It is there, so this does not fail.
                let _ = epoll::delete(epoll, accepting.socket());
            }
            is_any_watched |= *is_watched;
            if accepting.is_stopping() {
                // Whoever was not accepted stays in the backlog, for the successor.
                accepting.end(&mut self.shard);
            }
        }
        if is_any_watched && !std::mem::replace(&mut self.watch.is_polled, true) {
            self.flights.readable(Operation::Acceptable, epoll.as_fd());
        }
    }

    /// Somebody has connected, or the poll has failed.
    pub(super) fn acceptable(&mut self, result: i32) {
        self.watch.is_polled = false;
        if result < 0 {
            let error = io::Error::from_raw_os_error(-result);
            for Listening { accepting, .. } in &mut self.acceptors {
                accepting.failed(&error, &self.shard);
            }
        }
        let ready = &mut self.watch.ready;
        // If it fails, it is as if there were nobody. Who is there is reported again.
        let _ = epoll::wait(
            &self.watch.epoll,
            spare_capacity(ready),
            Some(&Timespec::default()),
        );
        for event in ready.drain(..) {
            let acceptor = &mut self.acceptors[event.data.u64() as usize];
            acceptor.accepting.accept(&mut self.shard);
        }
    }
}
