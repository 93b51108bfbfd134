//! The poll behind accepting.

use std::io;

use super::Engine;
use super::flights::{Operation, Outcome};
use crate::engine::Acceptor;
use crate::engine::accepting::Accepting;
use crate::shard::Accept;

/// One listener of this worker.
pub(super) struct Listening {
    pub(super) accepting: Accepting,
    /// A poll waits until somebody connects. It takes nothing, so nobody minds if it goes on unneeded.
    polling: bool,
}

impl Listening {
    /// # Errors
    ///
    /// Those of [`Accepting::new`].
    pub(super) fn new(acceptor: Acceptor) -> io::Result<Self> {
        Ok(Listening {
            accepting: Accepting::new(acceptor)?,
            polling: false,
        })
    }
}

impl Engine<'_> {
    /// Begins to wait for connections if they are wanted, and ends where they are not any more for good.
    pub(super) fn arm_accept(&mut self, index: usize) {
        let acceptor = &mut self.acceptors[index];
        if acceptor.accepting.is_stopping() {
            // Whoever was not accepted stays in the backlog, for the successor.
            acceptor.accepting.end(&mut self.shard);
        } else if acceptor.accepting.is_wanted() && !acceptor.polling {
            acceptor.polling = true;
            let operation = Operation::Acceptable(index);
            self.flights
                .readable(operation, acceptor.accepting.socket());
        }
    }

    /// Somebody has connected.
    pub(super) fn acceptable(&mut self, index: usize, outcome: &Outcome) {
        let acceptor = &mut self.acceptors[index];
        acceptor.polling = false;
        if outcome.result < 0 {
            let error = io::Error::from_raw_os_error(-outcome.result);
            acceptor.accepting.failed(&error, &self.shard);
        }
        acceptor.accepting.accept(&mut self.shard);
        self.arm_accept(index);
    }

    /// Accepts again where the rest is over.
    pub(super) fn retry_accepts(&mut self) {
        for index in 0..self.acceptors.len() {
            let accepting = &mut self.acceptors[index].accepting;
            if accepting.end_rest(self.shard.desk.now) {
                self.arm_accept(index);
            }
        }
    }

    /// Does what a mail asks of the listeners.
    pub(super) fn obey(&mut self, order: Accept) {
        for index in 0..self.acceptors.len() {
            let accepting = &mut self.acceptors[index].accepting;
            accepting.obey(order, &mut self.shard);
            self.arm_accept(index);
        }
    }
}
