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
    /// Waits for connections where they are wanted, and ends where they are not any more for good.
    pub(super) fn update_accepts(&mut self) {
        for (index, Listening { accepting, polling }) in self.acceptors.iter_mut().enumerate() {
            if !accepting.is_in_use(&self.shard.desk.crew) {
                // Nor are those behind it.
                break;
            }
            accepting.end_rest(self.shard.desk.now);
            if accepting.is_stopping() {
                // Whoever was not accepted stays in the backlog, for the successor.
                accepting.end(&mut self.shard);
            } else if accepting.is_wanted() && !*polling {
                *polling = true;
                let operation = Operation::Acceptable(index);
                self.flights.readable(operation, accepting.socket());
            }
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
    }

    /// Does what a mail asks of the listeners.
    pub(super) fn obey(&mut self, order: Accept) {
        for acceptor in &mut self.acceptors {
            acceptor.accepting.obey(order, &mut self.shard);
        }
    }
}
