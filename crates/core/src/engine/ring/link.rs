//! What the ring engine keeps for one connection.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::bulk::Bulky;
use super::eager::Eager;
use super::receive::Shots;
use super::watch::Watch;
use crate::engine::{peer_address, peer_credentials, unread};
use crate::outbox::SEND_SEGMENTS_MAX;
use crate::peer::{Credentials, Link, PeerAddress};

/// The socket of a connection and the operations that are in flight on it.
pub(crate) struct RingLink {
    pub(super) socket: OwnedFd,
    /// So many operations have begun, as far as they are counted, and whether the kernel knows it by its slot: see [`super::files`].
    pub(super) begun: u8,
    pub(super) is_registered: bool,
    pub(super) receiving: Receiving,
    /// The receive that is in flight was asked to end.
    pub(super) receive_cancelled: bool,
    /// The turn in which it last used up a buffer, and how many in that turn, of how many bytes together.
    pub(super) turn: u32,
    pub(super) buffers_in_turn: u16,
    pub(super) bytes_in_turn: u32,
    /// How it is received from.
    pub(super) pace: Pace,
    /// How often it was eager in vain.
    pub(super) patience: u8,
    /// The poll for something to receive.
    pub(super) readable: Polling,
    /// The watch for the peer's end.
    pub(super) watch: Watch,
    /// A send of so many bytes is in flight.
    pub(super) sending: u32,
    /// The send that is in flight was asked to end.
    pub(super) send_cancelled: bool,
    /// The last send found no room, and nobody has reported any since.
    pub(super) blocked: bool,
    /// The poll for room.
    pub(super) room: Polling,
    /// Parameters of the send that is in flight, if it gathers several segments.
    pub(super) message: Option<Box<Message>>,
}

/// How a connection receives at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Receiving {
    /// Not at all.
    No,
    /// A receive into shared buffers is in flight, with its poll if it has one.
    Stream(Shots),
    /// A receive that does not wait is in flight, into this buffer, which was set aside.
    Look(u16),
    /// It found no buffer, or others had found none before it, and waits in the queue.
    Starved,
    /// It waits for its turn, to look or for the warm buffer.
    Queued,
    /// It waits for the poll for something to receive.
    Polled,
}

/// A poll of one connection, or of one listener.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Polling {
    /// None is in flight.
    #[default]
    No,
    /// In flight.
    Armed,
    /// In flight and asked to end.
    Cancelled,
}

/// How a connection is received from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pace {
    /// A multishot receive waits for whatever comes. It has brought something so many times in a row in crowded turns.
    Patient { crowded: u16 },
    /// See [`super::eager`].
    Eager(Eager),
    /// See [`super::bulk`].
    Bulky(Bulky),
}

impl Default for Pace {
    fn default() -> Self {
        Pace::Patient { crowded: 0 }
    }
}

impl RingLink {
    pub(super) fn receive_in_flight(&self) -> bool {
        match self.receiving {
            Receiving::Stream(_) | Receiving::Look(_) => true,
            Receiving::No | Receiving::Starved | Receiving::Queued | Receiving::Polled => false,
        }
    }

    pub(super) fn in_flight(&self) -> bool {
        self.sending > 0
            || self.receive_in_flight()
            || matches!(self.watch, Watch::Armed | Watch::Cancelled)
            || self.readable != Polling::No
            || self.room != Polling::No
    }

    /// Keeps the parameters of a send that gathers `slices`, see [`Message::gather`].
    pub(super) fn gather<'s>(
        &mut self,
        message: Box<Message>,
        slices: impl Iterator<Item = &'s [u8]>,
    ) -> (*const libc::msghdr, usize) {
        // In its place first: to move a box afterwards would end what others may do with the address of what is in it.
        self.message.insert(message).gather(slices)
    }
}

impl AsFd for RingLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Link for RingLink {
    fn new(socket: OwnedFd) -> Self {
        RingLink {
            socket,
            begun: 0,
            is_registered: false,
            receiving: Receiving::No,
            receive_cancelled: false,
            turn: 0,
            buffers_in_turn: 0,
            bytes_in_turn: 0,
            pace: Pace::default(),
            patience: 0,
            readable: Polling::No,
            watch: Watch::No,
            sending: 0,
            send_cancelled: false,
            blocked: false,
            room: Polling::No,
            message: None,
        }
    }

    fn peer_address(&self) -> io::Result<PeerAddress> {
        peer_address(self.socket.as_fd())
    }

    fn peer_credentials(&self) -> io::Result<Option<Credentials>> {
        peer_credentials(self.socket.as_fd())
    }

    fn unread(&self) -> Option<u64> {
        unread(self.socket.as_fd())
    }

    fn into_socket(self) -> OwnedFd {
        debug_assert!(!self.in_flight(), "the kernel still works on this socket");
        self.socket
    }
}

/// The parameters of a send that gathers several segments. The kernel reads them while the send is in flight, so they
/// are boxed and stay with the link.
pub(super) struct Message {
    header: libc::msghdr,
    parts: [libc::iovec; SEND_SEGMENTS_MAX],
}

impl Message {
    pub(super) fn new() -> Box<Self> {
        const EMPTY: libc::iovec = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        Box::new(Message {
            header: libc::msghdr {
                msg_name: std::ptr::null_mut(),
                msg_namelen: 0,
                msg_iov: std::ptr::null_mut(),
                msg_iovlen: 0,
                msg_control: std::ptr::null_mut(),
                msg_controllen: 0,
                msg_flags: 0,
            },
            parts: [EMPTY; SEND_SEGMENTS_MAX],
        })
    }

    /// Points the message at `slices`, at most [`SEND_SEGMENTS_MAX`] of them. Returns where it is and how long they are
    /// together.
    fn gather<'s>(
        &mut self,
        slices: impl Iterator<Item = &'s [u8]>,
    ) -> (*const libc::msghdr, usize) {
        let mut count = 0;
        let mut length = 0;
        for (part, slice) in self.parts.iter_mut().zip(slices) {
            part.iov_base = slice.as_ptr().cast_mut().cast();
            part.iov_len = slice.len();
            count += 1;
            length += slice.len();
        }
        self.header.msg_iov = self.parts.as_mut_ptr();
        self.header.msg_iovlen = count;
        (&raw const self.header, length)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::ptr::with_exposed_provenance;

    use bytes::Bytes;

    use super::*;
    use crate::outbox::Outbox;
    use crate::pool::Pools;

    /// What a send is to send whose parameters are at this address, read as the kernel does.
    fn gathered(header: u64) -> Vec<u8> {
        let header = with_exposed_provenance::<libc::msghdr>(header as usize);
        // SAFETY: the parameters are kept for the kernel.
        #[expect(unsafe_code, reason = "in place of the kernel")]
        let header = unsafe { header.read() };
        let mut bytes = Vec::new();
        for index in 0..header.msg_iovlen {
            let part = header.msg_iov.wrapping_add(index);
            // SAFETY: there are so many parts.
            #[expect(unsafe_code, reason = "in place of the kernel")]
            let part = unsafe { part.read() };
            // SAFETY: what is sealed neither moves nor changes.
            #[expect(unsafe_code, reason = "in place of the kernel")]
            let slice = unsafe { std::slice::from_raw_parts(part.iov_base.cast(), part.iov_len) };
            bytes.extend_from_slice(slice);
        }
        bytes
    }

    #[test]
    fn what_is_being_sent_stays_where_it_is() {
        let (mut outbox, mut pools) = (Outbox::default(), Pools::default());
        let link = || RingLink::new(UnixStream::pair().unwrap().0.into());
        let mut links = vec![link()];
        outbox.write(&mut pools, |tail| tail.extend_from_slice(b"first"));
        outbox.share(&mut pools, Bytes::from(vec![b'-'; 1000]));
        outbox.write(&mut pools, |tail| tail.extend_from_slice(b"last"));
        let (header, length) = links[0].gather(Message::new(), outbox.begin(&mut pools));
        let header = header as u64;
        for _ in 0..100 {
            outbox.write(&mut pools, |tail| tail.extend_from_slice(b"more"));
            outbox.share(&mut pools, Bytes::from(vec![b'+'; 1000]));
        }
        links.extend((0..3).map(|_| link()));
        let sent = gathered(header);
        assert_eq!(sent.len(), length);
        assert_eq!(sent, [b"first", &[b'-'; 1000][..], b"last"].concat());
        links[0].message = None;
        outbox.sent(&mut pools, length);
        assert_eq!(outbox.len(), 100 * (4 + 1000));
    }

    #[test]
    fn an_idle_connection_costs_little() {
        assert!(size_of::<RingLink>() <= 48);
    }
}
