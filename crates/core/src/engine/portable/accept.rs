//! The poll behind accepting.

use std::io;

use super::Engine;
use super::flights::{Operation, Outcome};
use crate::engine::turn;

/// One listener of this worker, and whether a poll of it waits.
pub(super) type Listening = turn::Listening<bool>;

impl Engine<'_> {
    /// Waits for connections where they are wanted, and ends where they are not any more for good.
    pub(super) fn update_accepts(&mut self) {
        for (index, Listening { accepting, poll }) in self.acceptors.iter_mut().enumerate() {
            if !accepting.is_in_use(&self.shard.desk.crew) {
                // Nor are those behind it.
                break;
            }
            accepting.end_rest(self.shard.desk.now);
            if accepting.is_stopping() {
                // Whoever was not accepted stays in the backlog, for the successor.
                accepting.end(&mut self.shard);
            } else if accepting.is_wanted() && !*poll {
                *poll = true;
                let operation = Operation::Acceptable(index);
                self.flights.readable(operation, accepting.socket());
            }
        }
    }

    /// Somebody has connected.
    pub(super) fn acceptable(&mut self, index: usize, outcome: &Outcome) {
        let acceptor = &mut self.acceptors[index];
        acceptor.poll = false;
        if outcome.result < 0 {
            let error = io::Error::from_raw_os_error(-outcome.result);
            acceptor.accepting.failed(&error, &self.shard);
        }
        acceptor.accepting.accept(&mut self.shard);
    }
}
