//! What is known about a connection, and the operations on it.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};

use io_uring::squeue::{Entry, Flags};
use io_uring::{opcode, types};

use crate::buffers::{Buffers, GROUP};

// From <linux/io_uring.h>; io-uring keeps them to itself.
const RECVSEND_POLL_FIRST: u16 = 1 << 0;
const RECV_MULTISHOT: u16 = 1 << 1;

/// A send never waits: it takes what there is room for when it is submitted.
const SEND: i32 = libc::MSG_NOSIGNAL | libc::MSG_WAITALL | libc::MSG_DONTWAIT;

/// What one send takes at most.
pub(crate) const PIECES_MAX: usize = 64;

/// What an operation is about, as its `user_data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Accepting on one of the listeners.
    Accept(usize),
    /// Receiving on a connection.
    Receive(usize),
    /// Sending on a connection. It completes only if it has not sent everything.
    Send(usize),
    /// Waiting for room to send.
    Room(usize),
    /// Waiting for the peer to end its side.
    Watch(usize),
    /// Ending the receive of a connection.
    Cancel,
}

impl Operation {
    pub(crate) fn pack(self) -> u64 {
        let (kind, index) = match self {
            Self::Accept(index) => (0, index),
            Self::Receive(slot) => (1, slot),
            Self::Send(slot) => (2, slot),
            Self::Room(slot) => (3, slot),
            Self::Watch(slot) => (4, slot),
            Self::Cancel => (5, 0),
        };
        kind << 32 | index as u64
    }

    pub(crate) fn unpack(user_data: u64) -> Self {
        let index = user_data as u32 as usize;
        match user_data >> 32 {
            0 => Self::Accept(index),
            1 => Self::Receive(index),
            2 => Self::Send(index),
            3 => Self::Room(index),
            4 => Self::Watch(index),
            _ => Self::Cancel,
        }
    }
}

/// Received bytes that are to be sent back: a part of a buffer.
#[derive(Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) buffer: u16,
    pub(crate) offset: usize,
    pub(crate) length: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sending {
    No,
    /// So many pieces, in the turn that is being prepared or dispatched.
    Submitted(usize),
    /// There was no room.
    Blocked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Receiving {
    /// Not any more, or not until what is held was sent.
    No,
    /// Into as many buffers as it takes.
    Many,
    /// Into one buffer.
    One,
    /// Asked to end.
    Cancelled,
    /// There was no buffer.
    Starved,
}

pub(crate) struct Connection {
    pub(crate) socket: OwnedFd,
    pub(crate) receiving: Receiving,
    pub(crate) sending: Sending,
    /// In the order in which they were received.
    pub(crate) pieces: VecDeque<Piece>,
    /// Whether the end of the peer's side is watched for, and whether it was seen.
    pub(crate) watching: bool,
    pub(crate) ended: bool,
    /// Whether everything up to that was received, or the peer is gone.
    pub(crate) over: bool,
    /// Whether it is among those that are looked after at the end of the turn.
    pub(crate) touched: bool,
}

impl Connection {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            receiving: Receiving::No,
            sending: Sending::No,
            pieces: VecDeque::new(),
            watching: false,
            ended: false,
            over: false,
            touched: false,
        }
    }

    fn fd(&self) -> types::Fd {
        types::Fd(self.socket.as_raw_fd())
    }

    /// A receive into whichever buffers come next. That of many goes on until there is none or the stream ends, and
    /// looks at the socket only when that is readable.
    pub(crate) fn receive(&self, slot: usize, how: Receiving) -> Entry {
        let flags = match how {
            Receiving::Many => RECV_MULTISHOT | RECVSEND_POLL_FIRST,
            _ => 0,
        };
        opcode::Recv::new(self.fd(), std::ptr::null_mut(), 0)
            .buf_group(GROUP)
            .ioprio(flags)
            .build()
            .flags(Flags::BUFFER_SELECT)
            .user_data(Operation::Receive(slot).pack())
    }

    /// A poll for the end of the peer's side. A receive of many that takes all the data misses the end if that came
    /// with it, up to Linux 6.18 at least.
    pub(crate) fn watch(&self, slot: usize) -> Entry {
        opcode::PollAdd::new(self.fd(), libc::POLLRDHUP as u32)
            .build()
            .user_data(Operation::Watch(slot).pack())
    }

    pub(crate) fn cancel_receive(slot: usize) -> Entry {
        opcode::AsyncCancel::new(Operation::Receive(slot).pack())
            .build()
            .user_data(Operation::Cancel.pack())
    }

    pub(crate) fn wait_for_room(&self, slot: usize) -> Entry {
        opcode::PollAdd::new(self.fd(), libc::POLLOUT as u32)
            .build()
            .user_data(Operation::Room(slot).pack())
    }

    /// A send of the only piece.
    pub(crate) fn send(&self, slot: usize, buffers: &Buffers) -> Entry {
        let piece = &self.pieces[0];
        opcode::Send::new(self.fd(), buffers.start(piece), piece.length as u32)
            .flags(SEND)
            .build()
            .flags(Flags::SKIP_SUCCESS)
            .user_data(Operation::Send(slot).pack())
    }

    /// A send of several pieces.
    pub(crate) fn gather(&self, slot: usize, header: *const libc::msghdr) -> Entry {
        opcode::SendMsg::new(self.fd(), header)
            .flags(SEND as u32)
            .build()
            .flags(Flags::SKIP_SUCCESS)
            .user_data(Operation::Send(slot).pack())
    }

    /// Whether something is to be done when a send is over, even if it has sent everything.
    pub(crate) fn needs_care(&self) -> bool {
        self.over || self.receiving == Receiving::No
    }

    /// Whether the kernel has nothing to do with it any more, and there is nothing to be done.
    pub(crate) fn is_done(&self) -> bool {
        self.over
            && self.pieces.is_empty()
            && self.sending == Sending::No
            && self.receiving == Receiving::No
            && !self.watching
    }
}
