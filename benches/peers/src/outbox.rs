//! What waits to be sent to a subscriber: events, and its own replies.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io::IoSlice;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};

use crate::replies::Replies;

/// A subscriber that lets so much pile up is cut.
const WAITING_BYTES_MAX: usize = 8 << 20;

/// Bytes in several pieces, to be written in order.
#[derive(Debug, Default)]
pub struct Batch {
    pieces: VecDeque<Bytes>,
    bytes: usize,
}

impl Batch {
    /// Appends a piece.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.bytes += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// The pieces, in order.
    pub fn pieces(&self) -> impl Iterator<Item = &Bytes> {
        self.pieces.iter()
    }

    /// Takes the first piece.
    pub fn pop(&mut self) -> Option<Bytes> {
        let piece = self.pieces.pop_front()?;
        self.bytes -= piece.len();
        Some(piece)
    }

    /// Takes the first piece, joined by those behind it as long as all of them have at most `bytes_max` bytes.
    pub fn pop_joined(&mut self, bytes_max: usize) -> Option<Bytes> {
        let piece = self.pop()?;
        let mut joined = BytesMut::new();
        while let Some(next) = self.pieces.front()
            && piece.len().max(joined.len()) + next.len() <= bytes_max
        {
            if joined.is_empty() {
                joined.reserve(bytes_max.min(piece.len() + self.bytes));
                joined.extend_from_slice(&piece);
            }
            joined.extend_from_slice(next);
            self.pop();
        }
        if joined.is_empty() {
            Some(piece)
        } else {
            Some(joined.freeze())
        }
    }
}

impl Buf for Batch {
    fn remaining(&self) -> usize {
        self.bytes
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| piece)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let count = slices.len().min(self.pieces.len());
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(piece);
        }
        count
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.bytes, "advanced beyond the end");
        self.bytes -= count;
        while let Some(piece) = self.pieces.front_mut() {
            if count < piece.len() {
                piece.advance(count);
                return;
            }
            count -= piece.len();
            self.pieces.pop_front();
        }
    }
}

/// The queue of one subscriber. Whoever publishes fills it, whoever writes to the connection empties it.
#[derive(Default)]
pub struct Outbox(RefCell<State>);

#[derive(Default)]
struct State {
    waiting: Batch,
    writer: Option<Waker>,
    /// Whether the writer is busy with what it took.
    writing: bool,
    shortcut: Option<Shortcut>,
    closed: bool,
}

/// Sends as many of some bytes as can be sent at once.
type Shortcut = Box<dyn Fn(&[u8]) -> usize>;

impl Outbox {
    /// From now on whoever pushes sends as well, as long as nothing waits; `send` says how many bytes it could send.
    pub fn set_shortcut(&self, send: impl Fn(&[u8]) -> usize + 'static) {
        self.0.borrow_mut().shortcut = Some(Box::new(send));
    }

    /// Appends a piece, unless the subscriber is so slow that it is to be cut.
    pub fn push(&self, mut piece: Bytes) {
        let state = &mut *self.0.borrow_mut();
        if state.closed {
            return;
        }
        if let Some(send) = &state.shortcut
            && !state.writing
            && state.waiting.bytes == 0
        {
            piece.advance(send(&piece));
            if piece.is_empty() {
                return;
            }
        }
        state.waiting.push(piece);
        if state.waiting.bytes > WAITING_BYTES_MAX {
            state.waiting = Batch::default();
            state.closed = true;
        }
        if let Some(writer) = state.writer.take() {
            writer.wake();
        }
    }

    /// Appends the replies to the subscriber's own requests.
    pub fn push_replies(&self, replies: &mut Replies) {
        let mut batch = Batch::default();
        replies.take(&mut batch);
        while let Some(piece) = batch.pop() {
            self.push(piece);
        }
    }

    /// Ends it: nothing is appended any more.
    pub fn close(&self) {
        let state = &mut *self.0.borrow_mut();
        state.closed = true;
        if let Some(writer) = state.writer.take() {
            writer.wake();
        }
    }

    /// Waits until there is something, and swaps it for the batch, which should be empty. `false` when there will be
    /// nothing more.
    pub async fn take(&self, batch: &mut Batch) -> bool {
        poll_fn(|context| self.poll_take(context, batch)).await
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> Vec<u8> {
        let state = self.0.borrow();
        state.waiting.pieces.iter().flatten().copied().collect()
    }

    #[cfg(test)]
    pub(crate) fn is_closed(&self) -> bool {
        self.0.borrow().closed
    }

    fn poll_take(&self, context: &mut Context<'_>, batch: &mut Batch) -> Poll<bool> {
        let state = &mut *self.0.borrow_mut();
        state.writing = state.waiting.bytes > 0;
        if state.writing {
            std::mem::swap(&mut state.waiting, batch);
            return Poll::Ready(true);
        }
        if state.closed {
            return Poll::Ready(false);
        }
        state.writer = Some(context.waker().clone());
        Poll::Pending
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.borrow();
        f.debug_struct("Outbox")
            .field("waiting", &state.waiting)
            .field("closed", &state.closed)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_advanced_over_pieces() {
        let mut batch = Batch::default();
        for piece in [&b"ab"[..], b"", b"cde", b"f"] {
            batch.push(Bytes::copy_from_slice(piece));
        }
        let mut slices = [IoSlice::new(&[]); 2];
        assert_eq!(batch.chunks_vectored(&mut slices), 2);
        assert_eq!((&*slices[0], &*slices[1]), (&b"ab"[..], &b"cde"[..]));
        batch.advance(3);
        assert_eq!((batch.chunk(), batch.remaining()), (&b"de"[..], 3));
        assert_eq!(batch.pop().as_deref(), Some(&b"de"[..]));
        batch.advance(1);
        assert_eq!((batch.chunk(), batch.remaining()), (&b""[..], 0));
    }

    #[test]
    fn small_pieces_are_joined_in_order() {
        let mut batch = Batch::default();
        for piece in [&b"ab"[..], b"cd", b"efghi", b"j", b"k"] {
            batch.push(Bytes::copy_from_slice(piece));
        }
        let joined: Vec<Bytes> = std::iter::from_fn(|| batch.pop_joined(4)).collect();
        assert_eq!(joined, [&b"abcd"[..], b"efghi", b"jk"]);
        assert_eq!(batch.remaining(), 0);
    }

    #[test]
    fn a_subscriber_that_takes_nothing_is_cut() {
        let outbox = Outbox::default();
        let piece = Bytes::from(vec![0; WAITING_BYTES_MAX]);
        outbox.push(piece);
        assert!(!outbox.0.borrow().closed);
        outbox.push(Bytes::from_static(b"x"));
        let state = outbox.0.borrow();
        assert!(state.closed && state.waiting.bytes == 0);
    }
}
