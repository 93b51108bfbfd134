//! The poll of what services read from besides connections.

use std::io;
use std::os::fd::AsRawFd;

use super::Engine;
use super::files::File;
use super::operation::{Kind, Operation};

impl Engine<'_> {
    /// Begins to wait for something to read, unless that has happened.
    pub(super) fn arm_sources(&mut self) -> io::Result<()> {
        let Some(sources) = self.shard.sources() else {
            return Ok(());
        };
        if std::mem::replace(&mut self.sources_armed, true) {
            return Ok(());
        }
        let file = File::descriptor(sources.as_raw_fd());
        let poll = Operation::new(Kind::Sources, 0, 0);
        self.queue.poll(file, libc::POLLIN, false, poll.pack())
    }

    /// There is something to read, or the poll has failed or was cancelled.
    pub(super) fn sources_polled(&mut self) {
        self.sources_armed = false;
        if !self.finishes {
            self.shard.read_sources();
        }
    }
}
