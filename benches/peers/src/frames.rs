//! The stream of one connection, cut into frames.

use bytes::{Buf, BytesMut};
use ringhold_framer::{Parked, Progress, TopLevel};

use crate::replies::Replies;
use crate::service::{Large, Service, Subscription};
use crate::session::Garbage;

/// What there is of a frame until it is whole. It may go from one service to another between two receives.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// Bytes from a frame boundary on.
    buffer: BytesMut,
    /// So many of them were seen by the framer, which left its state in `parked`.
    scanned: usize,
    parked: Option<Parked>,
    missing: usize,
}

/// A frame at the beginning of some bytes, whose large result waits to be sent.
struct LargeFrame {
    length: usize,
    large: Large,
}

impl Frames {
    pub(crate) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    pub(crate) fn missing(&self) -> usize {
        self.missing
    }

    /// Handles the frames in the buffer that are whole now.
    pub(crate) fn received(
        &mut self,
        service: &mut Service,
        subscription: &mut Option<Subscription>,
        replies: &mut Replies,
    ) -> Result<(), Garbage> {
        let mut buffer = std::mem::take(&mut self.buffer);
        loop {
            let (handled, large_frame) = self.dispatch(service, subscription, &buffer, replies)?;
            buffer.advance(handled);
            let Some(LargeFrame { length, large }) = large_frame else {
                self.buffer = buffer;
                return Ok(());
            };
            let frame = buffer.split_to(length).freeze();
            replies.shared_result(large.id, frame.slice(large.result));
        }
    }

    /// Handles the frames that are whole with these bytes, which were received in a buffer of somebody else. What is
    /// left of them is kept.
    pub(crate) fn receive(
        &mut self,
        service: &mut Service,
        subscription: &mut Option<Subscription>,
        bytes: &[u8],
        replies: &mut Replies,
    ) -> Result<(), Garbage> {
        let mut rest = bytes;
        if let Some(parked) = self.parked.take() {
            let used = self.complete(service, subscription, parked, bytes, replies)?;
            rest = &bytes[used..];
        }
        while !rest.is_empty() {
            let (handled, large_frame) = self.dispatch(service, subscription, rest, replies)?;
            rest = &rest[handled..];
            let Some(LargeFrame { length, large }) = large_frame else {
                self.buffer.extend_from_slice(rest);
                break;
            };
            replies.result(large.id, &rest[large.result]);
            rest = &rest[length..];
        }
        Ok(())
    }

    /// Handles the whole frames at the beginning of `bytes`, up to the first large one. Returns how many bytes they
    /// have; what comes then, if it is not a large one, was scanned.
    fn dispatch(
        &mut self,
        service: &mut Service,
        subscription: &mut Option<Subscription>,
        bytes: &[u8],
        replies: &mut Replies,
    ) -> Result<(usize, Option<LargeFrame>), Garbage> {
        let mut scanned = std::mem::take(&mut self.scanned);
        self.missing = 0;
        if let Some(parked) = self.parked.take() {
            service.framer.resume(parked);
        }
        let mut start = 0;
        let mut large_frame = None;
        while let Some(first) = bytes.get(start + scanned) {
            if scanned == 0 && !TopLevel::Array.allows(*first) {
                return Err(Garbage);
            }
            match service.feed(&bytes[start + scanned..])? {
                Progress::Complete { used } => {
                    let length = scanned + used;
                    let frame = &bytes[start..start + length];
                    let large = service.message(frame, subscription, replies)?;
                    scanned = 0;
                    if let Some(large) = large {
                        large_frame = Some(LargeFrame { length, large });
                        break;
                    }
                    start += length;
                }
                Progress::More { at_least } => {
                    scanned = bytes.len() - start;
                    self.missing = at_least;
                }
            }
        }
        self.scanned = scanned;
        self.parked = service.framer.park();
        service.flush_events();
        Ok((start, large_frame))
    }

    /// Goes on with the frame whose beginning is in the buffer. Returns how many of the bytes belong to it.
    fn complete(
        &mut self,
        service: &mut Service,
        subscription: &mut Option<Subscription>,
        parked: Parked,
        bytes: &[u8],
        replies: &mut Replies,
    ) -> Result<usize, Garbage> {
        service.framer.resume(parked);
        match service.feed(bytes)? {
            Progress::More { at_least } => {
                self.buffer.extend_from_slice(bytes);
                self.scanned = self.buffer.len();
                self.missing = at_least;
                self.parked = service.framer.park();
                Ok(bytes.len())
            }
            Progress::Complete { used } => {
                self.buffer.extend_from_slice(&bytes[..used]);
                let large = service.message(&self.buffer, subscription, replies)?;
                if let Some(large) = large {
                    let frame = self.buffer.split().freeze();
                    replies.shared_result(large.id, frame.slice(large.result));
                }
                self.buffer.clear();
                self.scanned = 0;
                self.missing = 0;
                service.flush_events();
                Ok(used)
            }
        }
    }
}
