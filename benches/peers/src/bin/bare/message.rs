//! The parameters of sends that gather several pieces.

use std::array;
use std::ptr::null_mut;

use libc::{iovec, msghdr};

use crate::buffers::Buffers;
use crate::connection::{PIECES_MAX, Piece};

/// Those of one send. The kernel reads them, so they are boxed and stay where they are until it has.
struct Message {
    header: msghdr,
    slices: [iovec; PIECES_MAX],
}

impl Message {
    fn new() -> Box<Self> {
        let header = msghdr {
            msg_name: null_mut(),
            msg_namelen: 0,
            msg_iov: null_mut(),
            msg_iovlen: 0,
            msg_control: null_mut(),
            msg_controllen: 0,
            msg_flags: 0,
        };
        let slices = array::from_fn(|_| iovec {
            iov_base: null_mut(),
            iov_len: 0,
        });
        Box::new(Self { header, slices })
    }
}

/// Those of the sends of one turn, kept for the next one.
#[derive(Default)]
pub(crate) struct Messages {
    #[expect(clippy::vec_box, reason = "what the kernel reads must not move")]
    messages: Vec<Box<Message>>,
    used: usize,
}

impl Messages {
    /// One that gathers these pieces, at most [`PIECES_MAX`].
    pub(crate) fn gather<'p>(
        &mut self,
        pieces: impl Iterator<Item = &'p Piece>,
        buffers: &Buffers,
    ) -> *const msghdr {
        if self.used == self.messages.len() {
            self.messages.push(Message::new());
        }
        let message = &mut *self.messages[self.used];
        self.used += 1;
        let mut count = 0;
        for (slice, piece) in message.slices.iter_mut().zip(pieces) {
            slice.iov_base = buffers.start(piece).cast_mut().cast();
            slice.iov_len = piece.length;
            count += 1;
        }
        message.header.msg_iov = message.slices.as_mut_ptr();
        message.header.msg_iovlen = count;
        &raw const message.header
    }

    /// The turn is over: all of them may be used again.
    pub(crate) fn reuse(&mut self) {
        self.used = 0;
    }
}
