//! Accepting: a poll, then accept4(2) until nobody waits any more.

use std::io;
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use super::Engine;
use super::flights::{Operation, Outcome};
use crate::engine::Acceptor;
use crate::engine::accepting::Accepting;
use crate::shard::Accept;

/// So many connections are accepted on one listener in one turn; then those that are open have theirs.
const ACCEPTS_PER_TURN_MAX: usize = 64;

/// One listener of this worker.
pub(super) struct Listening {
    pub(super) accepting: Accepting,
    /// A poll waits until somebody connects. It takes nothing, so nobody minds if it goes on unneeded.
    polling: bool,
}

impl Listening {
    /// Sets O_NONBLOCK, since somebody else who has the listener could take the connection that a poll has announced,
    /// and accept4(2) would then hang the worker. The flag belongs to everybody who has the listener.
    ///
    /// # Errors
    ///
    /// Those of fcntl(2).
    pub(super) fn new(acceptor: Acceptor) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&acceptor.listener.socket, true)?;
        Ok(Listening {
            accepting: Accepting::new(acceptor),
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
        for _ in 0..ACCEPTS_PER_TURN_MAX {
            if !acceptor.accepting.is_wanted() {
                break;
            }
            match accept_with(acceptor.accepting.socket().as_fd(), SocketFlags::CLOEXEC) {
                Ok(socket) => acceptor.accepting.take_in(socket, &mut self.shard),
                Err(Errno::AGAIN) => break,
                Err(errno) => acceptor.accepting.failed(&errno.into(), &self.shard),
            }
        }
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
