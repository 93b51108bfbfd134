//! The poll behind accepting: one for each listener.

use std::io;
use std::os::fd::AsRawFd;

use super::Engine;
use super::files::File;
use super::link::Polling;
use super::operation::{Kind, Operation};
use super::queue::Completion;
use crate::engine::turn;

/// One listener of this worker.
pub(super) type Listening = turn::Listening<Polling>;

impl Engine<'_> {
    /// Brings what is in flight on the listeners into line with what is wanted of them. One is done when the kernel has
    /// confirmed the end of its poll.
    pub(super) fn update_accepts(&mut self) -> io::Result<()> {
        for (index, Listening { accepting, poll }) in self.acceptors.iter_mut().enumerate() {
            if !accepting.is_in_use(&self.shard.desk.crew) {
                // Nor are those behind it.
                break;
            }
            accepting.end_rest(self.shard.desk.now);
            let target = Operation::new(Kind::Acceptable, 0, index as u32).pack();
            match *poll {
                Polling::No if accepting.is_wanted() => {
                    *poll = Polling::Armed;
                    let file = File::descriptor(accepting.socket().as_raw_fd());
                    self.queue.poll(file, libc::POLLIN, false, target)?;
                }
                Polling::No if accepting.is_stopping() => accepting.end(&mut self.shard),
                Polling::Armed if accepting.is_stopping() => {
                    *poll = Polling::Cancelled;
                    let cancel = Operation::new(Kind::Cancel, 0, 0);
                    self.queue.cancel(target, cancel.pack())?;
                }
                Polling::No | Polling::Armed | Polling::Cancelled => {}
            }
        }
        Ok(())
    }

    /// Somebody has connected, or the poll has failed or was cancelled.
    pub(super) fn acceptable(&mut self, operation: Operation, completion: &Completion) {
        let Listening { accepting, poll } = &mut self.acceptors[operation.slot as usize];
        *poll = Polling::No;
        if completion.result < 0 {
            let error = io::Error::from_raw_os_error(-completion.result);
            accepting.failed(&error, &self.shard);
        }
        accepting.accept(&mut self.shard);
    }
}
