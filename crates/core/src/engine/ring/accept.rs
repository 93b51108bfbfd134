//! The poll behind accepting: one for each listener.

use std::io;
use std::os::fd::AsRawFd;

use super::Engine;
use super::files::File;
use super::link::Polling;
use super::operation::{Kind, Operation};
use super::queue::Completion;
use crate::engine::Acceptor;
use crate::engine::accepting::Accepting;
use crate::shard::Accept;

/// One listener of this worker.
pub(super) struct Listening {
    pub(super) accepting: Accepting,
    /// A poll waits until somebody connects. It takes nothing, so it may go on while nobody is wanted.
    poll: Polling,
}

impl Listening {
    /// # Errors
    ///
    /// Those of [`Accepting::new`].
    pub(super) fn new(acceptor: Acceptor) -> io::Result<Self> {
        Ok(Listening {
            accepting: Accepting::new(acceptor)?,
            poll: Polling::No,
        })
    }
}

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

    /// Does what a mail asks of the listeners.
    pub(super) fn obey(&mut self, order: Accept) {
        for acceptor in &mut self.acceptors {
            acceptor.accepting.obey(order, &mut self.shard);
        }
    }
}
