//! Accepting, and dealing connections to workers.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use io_uring::opcode;
use io_uring::types::Fd;

use super::operation::{Kind, Operation};
use super::queue::Completion;
use super::{Engine, RingLink};
use crate::engine::Acceptor;
use crate::listeners::Listener;
use crate::mailbox::Mail;

/// How long accepting rests after descriptors or memory ran out.
const BACKOFF_MS: u64 = 100;

/// One listener of this worker.
pub(super) struct Accepting {
    listener: Arc<Listener>,
    name: u16,
    state: State,
    /// Accepted, but every worker of the partition holds as many connections as it may.
    waiting: VecDeque<OwnedFd>,
    /// Whether the kernel refused multishot accepts on this listener.
    one_shot: bool,
    stopping: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing is in flight, because there is no room for connections or because it has ended.
    Idle,
    /// An accept is in flight.
    Armed,
    /// An accept is in flight and was asked to end.
    Cancelled,
    /// Nothing is in flight until this time, since descriptors or memory ran out.
    Backoff(u64),
    /// It will accept no more.
    Ended,
}

impl Accepting {
    pub(super) fn new(acceptor: Acceptor) -> Self {
        Accepting {
            listener: acceptor.listener,
            name: acceptor.name,
            state: State::Idle,
            waiting: VecDeque::new(),
            one_shot: false,
            stopping: false,
        }
    }

    pub(super) fn retry_at(&self) -> Option<u64> {
        match self.state {
            State::Backoff(at) => Some(at),
            _ => None,
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.state == State::Ended
    }
}

impl Engine<'_> {
    pub(super) fn arm_accept(&mut self, index: usize) -> io::Result<()> {
        let acceptor = &mut self.acceptors[index];
        debug_assert!(
            !matches!(acceptor.state, State::Armed | State::Cancelled),
            "one accept a listener"
        );
        let fd = Fd(acceptor.listener.socket.as_raw_fd());
        // Never SOCK_NONBLOCK: a send on such a socket fails with EAGAIN instead of waiting for room.
        let flags = libc::SOCK_CLOEXEC;
        let accept = if acceptor.one_shot {
            opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut())
                .flags(flags)
                .build()
        } else {
            opcode::AcceptMulti::new(fd).flags(flags).build()
        };
        let accept = accept.user_data(Operation::new(Kind::Accept, 0, index as u32).pack());
        acceptor.state = State::Armed;
        // SAFETY: the entry points to nothing.
        #[expect(unsafe_code, reason = "submitting an operation")]
        unsafe {
            self.queue.push(&accept)
        }
    }

    /// An accept completed. A connection can come with any completion, the last one included.
    pub(super) fn accepted(
        &mut self,
        operation: Operation,
        completion: &Completion,
    ) -> io::Result<()> {
        let index = operation.slot as usize;
        if completion.result >= 0 {
            // SAFETY: the kernel made this descriptor for us and told nobody else.
            #[expect(unsafe_code, reason = "adopting an accepted descriptor")]
            let socket = unsafe { OwnedFd::from_raw_fd(completion.result) };
            self.take_in(index, socket)?;
        }
        if completion.more() {
            return Ok(());
        }
        let acceptor = &mut self.acceptors[index];
        acceptor.state = State::Idle;
        if acceptor.stopping {
            return self.end_accepting(index);
        }
        if completion.result < 0 {
            self.accept_failed(index, -completion.result);
        }
        if self.acceptors[index].state == State::Idle && self.acceptors[index].waiting.is_empty() {
            self.arm_accept(index)?;
        }
        Ok(())
    }

    /// Decides what becomes of a listener whose accept ended with an error.
    fn accept_failed(&mut self, index: usize, errno: i32) {
        let acceptor = &mut self.acceptors[index];
        let error = io::Error::from_raw_os_error(errno);
        match errno {
            libc::ECANCELED | libc::EINTR | libc::EAGAIN | libc::ECONNABORTED => {}
            libc::EINVAL | libc::ENOTSOCK if !acceptor.one_shot => {
                tracing::warn!(socket = %acceptor.listener.name, "multishot accept is refused ({error}): accepting one by one");
                acceptor.one_shot = true;
            }
            _ => {
                let engine = &self.shard.desk.counters().engine;
                if engine.accept_backoffs.value().is_power_of_two()
                    || engine.accept_backoffs.value() == 0
                {
                    tracing::warn!(
                        socket = %acceptor.listener.name,
                        "accepting rests for {BACKOFF_MS} ms: {error}; connections wait in the backlog (LimitNOFILE= \
                         bounds the descriptors)",
                    );
                }
                engine.accept_backoffs.add(1);
                acceptor.state = State::Backoff(self.shard.desk.now + BACKOFF_MS);
            }
        }
    }

    /// Accepts again where the rest is over.
    pub(super) fn retry_accepts(&mut self) -> io::Result<()> {
        for index in 0..self.acceptors.len() {
            if self.acceptors[index]
                .retry_at()
                .is_some_and(|at| at <= self.shard.desk.now)
            {
                self.arm_accept(index)?;
            }
        }
        Ok(())
    }

    /// Gives a new connection to the worker whose turn it is, or lets it wait for room.
    fn take_in(&mut self, index: usize, socket: OwnedFd) -> io::Result<()> {
        let acceptor = &mut self.acceptors[index];
        let counters = self.shard.desk.name_counters(acceptor.name);
        if !acceptor.listener.enabled {
            let so_far = counters.turned_away.value();
            if so_far == 0 || so_far.is_power_of_two() {
                tracing::warn!(
                    socket = %acceptor.listener.name,
                    "turned away {} connections so far: the configuration disables this socket",
                    so_far + 1,
                );
            }
            counters.turned_away.add(1);
            return Ok(());
        }
        counters.accepted.add(1);
        if acceptor.waiting.is_empty()
            && let Some(worker) = self.deal(index)
        {
            self.hand_to(worker, index, socket);
            return Ok(());
        }
        self.acceptors[index].waiting.push_back(socket);
        self.pause_accepting(index)
    }

    fn deal(&self, index: usize) -> Option<usize> {
        let acceptor = &self.acceptors[index];
        let dealer = &self.shard.crew.dealer;
        let name = acceptor.name as usize;
        if acceptor.listener.dealt {
            return dealer.deal(name);
        }
        let worker = self.shard.desk.worker as usize;
        dealer.keep(name, worker).then_some(worker)
    }

    fn hand_to(&mut self, worker: usize, index: usize, socket: OwnedFd) {
        let name = self.acceptors[index].name;
        if worker == self.shard.desk.worker as usize {
            self.shard.open(name, RingLink::new(socket));
        } else if let Err(Mail::Accepted { socket, .. }) =
            self.shard.crew.posts[worker].send(Mail::Accepted { name, socket })
        {
            // That worker has failed; its connections are lost, this one need not be.
            self.shard.crew.dealer.release(name as usize, worker);
            self.shard
                .crew
                .dealer
                .hold(name as usize, self.shard.desk.worker as usize);
            self.shard.open(name, RingLink::new(socket));
        }
    }

    fn pause_accepting(&mut self, index: usize) -> io::Result<()> {
        if self.acceptors[index].state != State::Armed {
            return Ok(());
        }
        self.acceptors[index].state = State::Cancelled;
        self.cancel(Operation::new(Kind::Accept, 0, index as u32))
    }

    /// Some worker has room again.
    pub(super) fn deal_waiting(&mut self) -> io::Result<()> {
        for index in 0..self.acceptors.len() {
            while !self.acceptors[index].waiting.is_empty() {
                let Some(worker) = self.deal(index) else {
                    break;
                };
                if let Some(socket) = self.acceptors[index].waiting.pop_front() {
                    self.hand_to(worker, index, socket);
                }
            }
            let acceptor = &self.acceptors[index];
            if acceptor.waiting.is_empty() && acceptor.state == State::Idle && !acceptor.stopping {
                self.arm_accept(index)?;
            }
        }
        Ok(())
    }

    /// Accepts no more. What was accepted by the time the kernel has confirmed it is served.
    pub(super) fn stop_accepting(&mut self) -> io::Result<()> {
        for index in 0..self.acceptors.len() {
            self.acceptors[index].stopping = true;
            match self.acceptors[index].state {
                State::Armed => self.pause_accepting(index)?,
                State::Idle | State::Backoff(_) => self.end_accepting(index)?,
                State::Cancelled | State::Ended => {}
            }
        }
        Ok(())
    }

    fn end_accepting(&mut self, index: usize) -> io::Result<()> {
        // Nothing that was accepted is lost to a limit.
        while let Some(socket) = self.acceptors[index].waiting.pop_front() {
            let worker = self.shard.desk.worker as usize;
            self.shard
                .crew
                .dealer
                .hold(self.acceptors[index].name as usize, worker);
            self.hand_to(worker, index, socket);
        }
        self.acceptors[index].state = State::Ended;
        self.shard.crew.acceptor_ended();
        Ok(())
    }
}
