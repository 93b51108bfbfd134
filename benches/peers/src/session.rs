//! One connection, as the service sees it.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::rc::Rc;

use bytes::BytesMut;

use crate::frames::Frames;
use crate::outbox::Outbox;
use crate::replies::Replies;
use crate::service::{Service, Subscription};

/// The peer does not speak MessagePack-RPC; its connection is to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Garbage;

impl fmt::Display for Garbage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this is not MessagePack-RPC")
    }
}

impl std::error::Error for Garbage {}

impl From<Garbage> for io::Error {
    fn from(garbage: Garbage) -> Self {
        Self::new(io::ErrorKind::InvalidData, garbage)
    }
}

/// One connection, as the service sees it: bytes go in, replies come out.
///
/// It begins at a frame boundary and keeps what it gets of a frame until that is whole. Whole frames are handled where
/// they were received.
#[derive(Debug)]
pub struct Session {
    service: Rc<RefCell<Service>>,
    frames: Frames,
    subscription: Option<Subscription>,
}

impl Session {
    /// A fresh one.
    pub fn new(service: &Rc<RefCell<Service>>) -> Self {
        Self {
            service: service.clone(),
            frames: Frames::default(),
            subscription: None,
        }
    }

    /// The beginning of a frame whose end has not arrived. What is received next may be appended, if
    /// [`Session::received`] is called then.
    pub fn buffer(&mut self) -> &mut BytesMut {
        self.frames.buffer()
    }

    /// So many bytes, at least, are missing from the frame whose beginning is in the buffer.
    pub fn missing(&self) -> usize {
        self.frames.missing()
    }

    /// Where the events of this connection are, and where its replies must go, once it has subscribed.
    pub fn outbox(&self) -> Option<&Rc<Outbox>> {
        let subscription = self.subscription.as_ref()?;
        Some(&subscription.outbox)
    }

    /// Handles the frames in the buffer that are whole now.
    ///
    /// # Errors
    ///
    /// They are none.
    pub fn received(&mut self, replies: &mut Replies) -> Result<(), Garbage> {
        let service = &mut *self.service.borrow_mut();
        self.frames
            .received(service, &mut self.subscription, replies)
    }

    /// Handles the frames that are whole with these bytes, which were received in a buffer of somebody else. What is
    /// left of them is kept.
    ///
    /// # Errors
    ///
    /// They are none.
    pub fn receive(&mut self, bytes: &[u8], replies: &mut Replies) -> Result<(), Garbage> {
        let service = &mut *self.service.borrow_mut();
        self.frames
            .receive(service, &mut self.subscription, bytes, replies)
    }
}

/// As [`Session`], of a task that moves between threads: it uses the service of the thread that it is on, and gets no
/// events.
#[derive(Debug, Default)]
pub struct MovingSession {
    frames: Frames,
}

impl MovingSession {
    /// As [`Session::buffer`].
    pub fn buffer(&mut self) -> &mut BytesMut {
        self.frames.buffer()
    }

    /// As [`Session::missing`].
    pub fn missing(&self) -> usize {
        self.frames.missing()
    }

    /// As [`Session::received`].
    ///
    /// # Errors
    ///
    /// They are none.
    pub fn received(
        &mut self,
        service: &mut Service,
        replies: &mut Replies,
    ) -> Result<(), Garbage> {
        self.frames.received(service, &mut None, replies)
    }

    /// As [`Session::receive`].
    ///
    /// # Errors
    ///
    /// They are none.
    pub fn receive(
        &mut self,
        service: &mut Service,
        bytes: &[u8],
        replies: &mut Replies,
    ) -> Result<(), Garbage> {
        self.frames.receive(service, &mut None, bytes, replies)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(subscription) = &self.subscription {
            self.service.borrow_mut().unsubscribe(subscription);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Buf;

    use super::*;
    use crate::outbox::Batch;

    /// Requests, a notification, and values on both sides of what is shared.
    fn conversation() -> (Vec<u8>, Vec<u8>) {
        let (mut requests, mut replies) = (Vec::new(), Vec::new());
        for (id, length) in [(1, 3), (300, 700), (70_000, 40_000), (4, 0), (5, 33_000)] {
            let value = vec![id as u8; length];
            requests.extend_from_slice(b"\x94\x00");
            replies.extend_from_slice(b"\x94\x01");
            for out in [&mut requests, &mut replies] {
                rmp::encode::write_uint(out, id).unwrap();
            }
            requests.extend_from_slice(b"\xa4echo\x91");
            replies.push(0xc0);
            for out in [&mut requests, &mut replies] {
                rmp::encode::write_bin(out, &value).unwrap();
            }
            requests.extend_from_slice(b"\x93\x02\xa4ping\x91\x01");
        }
        (requests, replies)
    }

    fn taken(replies: &mut Replies) -> Vec<u8> {
        let mut batch = Batch::default();
        replies.take(&mut batch);
        batch.copy_to_bytes(batch.remaining()).to_vec()
    }

    #[test]
    fn wherever_the_stream_is_cut_the_replies_are_the_same() {
        let (requests, expected) = conversation();
        let service = Service::new();
        for step in [1, 2, 7, 13, 1000, 4096, 40_003, 65_536, requests.len()] {
            let mut lent = Session::new(&service);
            let mut owned = Session::new(&service);
            let mut mixed = Session::new(&service);
            let mut replies: [Replies; 3] = Default::default();
            let mut all: [Vec<u8>; 3] = Default::default();
            for (index, piece) in requests.chunks(step).enumerate() {
                lent.receive(piece, &mut replies[0]).unwrap();
                owned.buffer().extend_from_slice(piece);
                owned.received(&mut replies[1]).unwrap();
                if index % 3 == 0 {
                    mixed.buffer().extend_from_slice(piece);
                    mixed.received(&mut replies[2]).unwrap();
                } else {
                    mixed.receive(piece, &mut replies[2]).unwrap();
                }
                for (all, replies) in all.iter_mut().zip(&mut replies) {
                    all.extend(taken(replies));
                }
            }
            for all in all {
                assert!(all == expected, "other replies in steps of {step}");
            }
        }
    }

    #[test]
    fn a_session_may_move_in_the_middle_of_a_frame() {
        let (requests, expected) = conversation();
        for step in [1, 7, 4096, 40_003] {
            let mut services = [Service::without_events(), Service::without_events()];
            let mut session = MovingSession::default();
            let (mut replies, mut all) = (Replies::default(), Vec::new());
            for (index, piece) in requests.chunks(step).enumerate() {
                let service = &mut services[index % 2];
                if index % 3 == 0 {
                    session.buffer().extend_from_slice(piece);
                    session.received(service, &mut replies).unwrap();
                } else {
                    session.receive(service, piece, &mut replies).unwrap();
                }
                all.extend(taken(&mut replies));
            }
            assert!(all == expected, "other replies in steps of {step}");
        }
    }

    #[test]
    fn a_session_that_moves_cannot_subscribe() {
        let mut service = Service::without_events();
        let mut session = MovingSession::default();
        let mut replies = Replies::default();
        let messages =
            b"\x93\x02\xa9subscribe\x90\x93\x02\xa7publish\x91\x01\x94\x00\x07\xa4ping\x90";
        session
            .receive(&mut service, messages, &mut replies)
            .unwrap();
        assert_eq!(taken(&mut replies), b"\x94\x01\x07\xc0\xa4pong");
    }

    #[test]
    fn garbage_is_refused_at_once_and_leaves_the_service_usable() {
        let service = Service::new();
        let mut replies = Replies::default();
        for garbage in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\x90",
            b"\xc1",
            b"\xdd\xff\xff\xff\xff",
        ] {
            let mut session = Session::new(&service);
            assert_eq!(session.receive(garbage, &mut replies), Err(Garbage));
        }
        let mut session = Session::new(&service);
        session
            .receive(b"\x94\x00\x07\xa4ping\x90", &mut replies)
            .unwrap();
        assert_eq!(taken(&mut replies), b"\x94\x01\x07\xc0\xa4pong");
    }

    #[test]
    fn subscribers_share_what_is_published_after_they_came() {
        let service = Service::new();
        let mut replies = Replies::default();
        let mut first = Session::new(&service);
        let mut second = Session::new(&service);
        first
            .receive(b"\x93\x02\xa9subscribe\x90", &mut replies)
            .unwrap();
        second
            .receive(
                b"\x93\x02\xa7publish\x91\x01\x93\x02\xa9subscribe\x90\x93\x02\xa7publish\x91\x02",
                &mut replies,
            )
            .unwrap();
        assert!(replies.is_empty());
        for (session, expected) in [
            (
                &first,
                &b"\x93\x02\xa5event\x91\x01\x93\x02\xa5event\x91\x02"[..],
            ),
            (&second, b"\x93\x02\xa5event\x91\x02"),
        ] {
            let outbox = session.outbox().unwrap();
            assert_eq!(outbox.waiting(), expected);
        }
        let outbox = first.outbox().unwrap().clone();
        drop(first);
        second
            .receive(b"\x93\x02\xa7publish\x91\x03", &mut replies)
            .unwrap();
        assert!(outbox.is_closed());
    }
}
