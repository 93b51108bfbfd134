//! No peer, but a plain multishot loop: every byte that is received is sent back, without a look at it.
//!
//! It is a ceiling only for who receives the same way. It does not wait for the end of a frame, as whoever handles frames
//! must. And it has nothing of what ringhold does so that the kernel has less to do: pieces, looks, registered sockets
//! (docs/decisions/0008, 0009 and 0014).
//!
//! # How it is tuned
//! - `SINGLE_ISSUER`, `DEFER_TASKRUN`, `COOP_TASKRUN`, `TASKRUN_FLAG`, a registered ring descriptor; multishot accept,
//!   and multishot receive into shared buffers. Registered ("direct") sockets (0.96 to 1.02) and a ring without the
//!   array of indices (0.98 to 1.01) make no difference.
//! - One enter a turn, which waits for one completion. When there may be more than the kernel hands out at once, the
//!   next enter does not wait, and asks for none. If it asks for many, with a timeout of zero, it arms a timer that
//!   fires at once (64 connections: 1.09 to 1.50 on unix, 1.04 to 1.21 on TCP; 1024: 0.96 to 1.02), and the flag that
//!   there is deferred work can stay set when there is none.
//! - 64 buffers of 32 KiB in the ring, those that were used last before others. With 16 KiB a message of that size and
//!   its envelope take two (1.53 to 2.3); larger ones are no better (64 KiB: 0.96 to 1.02), nor are 256 of them (1.00
//!   to 1.02). There are more when the ring is found empty, but not if they are full: they would be out of the cache
//!   before they are sent (1.02 to 1.11 for messages of 16 KiB and 1 MiB).
//! - Bytes are sent from the buffers that they were received in. A copy, which gives the buffer back at once, costs
//!   the same for small messages (0.98 to 1.04) and more for 16 KiB (1.06 to 1.07).
//! - Sends never wait, gather up to 64 buffers, and complete only if something is left (`MSG_DONTWAIT`,
//!   `SKIP_SUCCESS`): when the enter that submitted them has returned, they are over. With one connection that halves
//!   the calls, from two a message to one, because a send does not end the wait for the next message; in CPU that is 0
//!   to 9 %. With 64 it makes no difference (sends that complete: 0.96 to 1.02), nor does calling send(2) (0.94 to
//!   1.07).
//! - A poll for the end of the peer's side goes along with each connection, because a multishot receive may miss it.
//!   It costs 0 to 4 %.
//!
//! The ratios are server CPU per message relative to the code as it is, over several runs on a busy machine.

mod buffers;
mod connection;
mod message;
mod ring;

use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use io_uring::opcode;
use io_uring::squeue::Entry;
use io_uring::types::Fd;
use ringhold_peers::{Arguments, Listeners};
use rustix::net::Shutdown;
use slab::Slab;

use buffers::Buffers;
use connection::{Connection, Operation, PIECES_MAX, Piece, Receiving, Sending};
use message::Messages;
use ring::{Completion, Queue};

/// A connection that has so many pieces to be sent is not read until half of them are.
const PIECES_HELD_MAX: usize = 256;

fn main() -> io::Result<()> {
    let listeners = Listeners::open(&Arguments::read())?;
    let mut ring = ring::ring()?;
    let queue = Queue::new(&mut ring)?;
    // SAFETY: the server is never dropped, so the buffers outlive the ring.
    #[expect(unsafe_code, reason = "the kernel keeps the address of the buffers")]
    let buffers = unsafe { Buffers::register(queue.submitter())? };
    let mut server = ManuallyDrop::new(Server {
        queue,
        buffers,
        listeners: [listeners.tcp.as_raw_fd(), listeners.unix.as_raw_fd()].map(Fd),
        connections: Slab::new(),
        starved: VecDeque::new(),
        touched: Vec::new(),
        sends: Vec::new(),
        messages: Messages::default(),
        hurry: false,
    });
    for index in 0..server.listeners.len() {
        server.arm_accept(index)?;
    }
    listeners.announce()?;
    let mut completions = Vec::new();
    loop {
        server.turn(&mut completions)?;
    }
}

/// The kernel holds the addresses of buffers: of those in the ring always, of those that are sent, and of `messages`,
/// from one call of [`Queue::turn`] to its return.
struct Server<'r> {
    queue: Queue<'r>,
    buffers: Buffers,
    listeners: [Fd; 2],
    connections: Slab<Connection>,
    /// Connections that found no buffer, in the order in which they did.
    starved: VecDeque<usize>,
    /// Connections to be looked after before the next turn.
    touched: Vec<usize>,
    /// Connections whose sends are submitted with the next turn, and over when it returns.
    sends: Vec<usize>,
    messages: Messages,
    /// Whether there is something to be done when the sends of the next turn are over.
    hurry: bool,
}

impl Server<'_> {
    fn turn(&mut self, completions: &mut Vec<Completion>) -> io::Result<()> {
        self.offer_buffers()?;
        // A send that is done says nothing, so if something comes behind it, this must not sleep.
        let freeing = !self.sends.is_empty() && !self.starved.is_empty();
        let hurry = std::mem::take(&mut self.hurry) || freeing;
        self.queue.turn(hurry, completions)?;
        for completion in completions.iter() {
            match Operation::unpack(completion.user_data) {
                Operation::Accept(index) => self.accepted(index, completion)?,
                Operation::Receive(slot) => self.received(slot, completion),
                Operation::Send(slot) => self.sent_less(slot, completion.result)?,
                Operation::Room(slot) => {
                    self.connections[slot].sending = Sending::No;
                    self.touch(slot);
                }
                Operation::Watch(slot) => {
                    let connection = &mut self.connections[slot];
                    connection.watching = false;
                    connection.ended = true;
                    self.touch(slot);
                }
                // What counts is the last completion of the receive.
                Operation::Cancel => {}
            }
        }
        self.sent();
        let mut touched = std::mem::take(&mut self.touched);
        for slot in touched.drain(..) {
            self.look_after(slot)?;
        }
        self.touched = touched;
        Ok(())
    }

    /// Fills the ring of buffers up, and lets as many connections try again as there are buffers.
    fn offer_buffers(&mut self) -> io::Result<()> {
        for _ in 0..self.buffers.offer() {
            let Some(slot) = self.starved.pop_front() else {
                break;
            };
            self.connections[slot].receiving = Receiving::No;
            self.look_after(slot)?;
        }
        Ok(())
    }

    fn arm_accept(&mut self, index: usize) -> io::Result<()> {
        let accept = opcode::AcceptMulti::new(self.listeners[index])
            .flags(libc::SOCK_CLOEXEC)
            .build()
            .user_data(Operation::Accept(index).pack());
        self.push(&accept)
    }

    fn accepted(&mut self, index: usize, completion: &Completion) -> io::Result<()> {
        if !completion.more() {
            self.arm_accept(index)?;
        }
        match completion.result {
            0.. => {
                // SAFETY: the kernel has just opened it for us.
                #[expect(unsafe_code, reason = "a descriptor comes as a number")]
                let socket = unsafe { OwnedFd::from_raw_fd(completion.result) };
                let slot = self.connections.insert(Connection::new(socket));
                self.touch(slot);
                let watch = self.connections[slot].watch(slot);
                self.connections[slot].watching = true;
                self.push(&watch)
            }
            error => match -error {
                libc::ECONNABORTED | libc::EINTR => Ok(()),
                errno => Err(io::Error::from_raw_os_error(errno)),
            },
        }
    }

    fn received(&mut self, slot: usize, completion: &Completion) {
        let connection = &mut self.connections[slot];
        let cancelled = connection.receiving == Receiving::Cancelled;
        if !completion.more() {
            connection.receiving = Receiving::No;
        }
        let length = usize::try_from(completion.result).unwrap_or(0);
        if let Some(buffer) = completion.buffer() {
            self.buffers.taken(length);
            if length > 0 && !connection.over {
                connection.pieces.push_back(Piece {
                    buffer,
                    offset: 0,
                    length,
                });
            } else {
                self.buffers.give_back(buffer);
            }
        }
        match -completion.result {
            // Kernels before 6.5 end a receive that is cancelled like this.
            libc::ENOBUFS if !cancelled => {
                connection.receiving = Receiving::Starved;
                self.starved.push_back(slot);
                self.buffers.starved();
            }
            ..0 | libc::ENOBUFS | libc::ECANCELED | libc::EINTR => {}
            _ => connection.over = true,
        }
        self.touch(slot);
    }

    /// A send has not sent everything: the rest waits for room, or nobody is there any more.
    fn sent_less(&mut self, slot: usize, result: i32) -> io::Result<()> {
        let connection = &mut self.connections[slot];
        if result < 0 && result != -libc::EAGAIN && result != -libc::EINTR {
            for piece in connection.pieces.drain(..) {
                self.buffers.give_back(piece.buffer);
            }
            connection.sending = Sending::No;
            connection.over = true;
            // Ends the receive, if it has not ended by itself.
            let _ = rustix::net::shutdown(&connection.socket, Shutdown::Both);
            self.touch(slot);
            return Ok(());
        }
        let mut left = usize::try_from(result).unwrap_or(0);
        while let Some(piece) = connection.pieces.front_mut()
            && left > 0
        {
            let taken = left.min(piece.length);
            piece.offset += taken;
            piece.length -= taken;
            left -= taken;
            if piece.length == 0 {
                self.buffers.give_back(piece.buffer);
                connection.pieces.pop_front();
            }
        }
        connection.sending = Sending::Blocked;
        let wait = connection.wait_for_room(slot);
        self.push(&wait)
    }

    /// The other sends of the turn are done.
    fn sent(&mut self) {
        self.messages.reuse();
        let mut sends = std::mem::take(&mut self.sends);
        for slot in sends.drain(..) {
            let connection = &mut self.connections[slot];
            let Sending::Submitted(count) = connection.sending else {
                continue;
            };
            for piece in connection.pieces.drain(..count) {
                self.buffers.give_back(piece.buffer);
            }
            connection.sending = Sending::No;
            if !connection.pieces.is_empty() || connection.needs_care() {
                self.touch(slot);
            }
        }
        self.sends = sends;
    }

    fn touch(&mut self, slot: usize) {
        let connection = &mut self.connections[slot];
        if !std::mem::replace(&mut connection.touched, true) {
            self.touched.push(slot);
        }
    }

    /// Begins what can begin on a connection, and closes it when it is over.
    fn look_after(&mut self, slot: usize) -> io::Result<()> {
        self.connections[slot].touched = false;
        self.update_receive(slot)?;
        let connection = &mut self.connections[slot];
        if connection.is_done() {
            self.connections.remove(slot);
            return Ok(());
        }
        let held = connection.pieces.len();
        if held == 0 || connection.sending != Sending::No {
            return Ok(());
        }
        let count = held.min(PIECES_MAX);
        connection.sending = Sending::Submitted(count);
        self.hurry |= held > count || connection.needs_care();
        self.sends.push(slot);
        let send = if count == 1 {
            connection.send(slot, &self.buffers)
        } else {
            let pieces = connection.pieces.iter().take(count);
            connection.gather(slot, self.messages.gather(pieces, &self.buffers))
        };
        self.push(&send)
    }

    fn update_receive(&mut self, slot: usize) -> io::Result<()> {
        let connection = &mut self.connections[slot];
        let held = connection.pieces.len();
        match connection.receiving {
            // Either it goes on when less is held, or those that see the end take its place.
            Receiving::Many if held >= PIECES_HELD_MAX || connection.ended => {
                connection.receiving = Receiving::Cancelled;
                self.push(&Connection::cancel_receive(slot))
            }
            Receiving::No if !connection.over && held <= PIECES_HELD_MAX / 2 => {
                let how = if connection.ended {
                    Receiving::One
                } else {
                    Receiving::Many
                };
                connection.receiving = how;
                let receive = connection.receive(slot, how);
                self.push(&receive)
            }
            _ => Ok(()),
        }
    }

    fn push(&mut self, entry: &Entry) -> io::Result<()> {
        // SAFETY: accepts, polls and cancellations point to nothing, receives to nothing but the buffers in the ring.
        // The pieces of sends and their messages are kept until `sent` or `sent_less`, which come after the turn that
        // submits them; as sends do not wait, that is when they are over.
        #[expect(unsafe_code, reason = "submitting an operation")]
        unsafe {
            self.queue.push(entry)
        }
    }
}
