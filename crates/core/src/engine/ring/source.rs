//! The polls of what is watched for the services.

use std::io;
use std::os::fd::AsRawFd;

use super::Engine;
use super::files::File;
use super::operation::{Kind, Operation};
use super::queue::Completion;

impl Engine<'_> {
    /// Begins to wait for what is to be read.
    pub(super) fn arm_sources(&mut self) -> io::Result<()> {
        while let Some(index) = self.shard.next_source() {
            if let Some(descriptor) = self.shard.source(index) {
                let file = File::descriptor(descriptor.as_raw_fd());
                let poll = Operation::new(Kind::Source, 0, index);
                self.queue.poll(file, libc::POLLIN, false, poll.pack())?;
            }
        }
        Ok(())
    }

    /// There is something to read, or the poll has failed or was cancelled.
    pub(super) fn source_polled(&mut self, operation: Operation, completion: &Completion) {
        if self.finishes {
            return self.shard.forget_source(operation.slot);
        }
        let polled = match completion.result {
            error @ ..0 => Err(io::Error::from_raw_os_error(-error)),
            _ => Ok(()),
        };
        self.shard.source_readable(operation.slot, polled);
    }

    /// Asks for the end of all polls.
    pub(super) fn cancel_sources(&mut self) -> io::Result<()> {
        for index in self.shard.polled_sources().to_vec() {
            self.cancel(Operation::new(Kind::Source, 0, index))?;
        }
        Ok(())
    }
}
