//! Answers that come later.

use std::future::Future;

use bytes::Bytes;
use ringhold_core::{ConnectionId, PushError};
use serde::Serialize;

use crate::answer::{SHARE_BYTES_MIN, serialize_result};
use crate::envelope;
use crate::fault::Fault;
use crate::methods::Faults;
use crate::strings::Strings;
use crate::token::is_result;

/// The right to answer one request later, from any thread or runtime, exactly once.
///
/// As long as its connection lasts the client gets an answer. A responder that is dropped makes it the error `the handler
/// gave no answer`, or `the handler panicked` when a panic dropped it; a server that stops or restarts, and cannot wait any
/// longer, answers with an error that says so, as does one that has waited for `promise_timeout`. When the connection ends before, whether it is cut, breaks a limit or is
/// [closed](crate::Context::close) by a handler, the answer goes nowhere.
///
/// A notification is not answered. What is given to its responder goes nowhere, and whether it failed is counted, as of a request: a
/// fault is a failure of the method, and so is a responder that is dropped. The log has nothing of them, unlike of those of methods
/// that are not deferred: no worker is there that would bound how much. Whoever wants to know why logs it where it goes wrong.
#[derive(Debug)]
pub struct Responder {
    to: Option<To>,
    /// How many calls of the method have failed; `None` once this one has come to something.
    faults: Option<Faults>,
}

#[derive(Debug)]
struct To {
    ticket: ringhold_core::Responder,
    id: u32,
    strings: Strings,
}

impl Responder {
    pub(crate) fn new(
        ticket: ringhold_core::Responder,
        id: u32,
        strings: Strings,
        faults: Faults,
    ) -> Self {
        Responder {
            to: Some(To {
                ticket,
                id,
                strings,
            }),
            faults: Some(faults),
        }
    }

    /// The responder of a notification.
    pub(crate) fn unheard(faults: Faults) -> Self {
        Responder {
            to: None,
            faults: Some(faults),
        }
    }

    /// Answers with a value. Structs become maps. If the value cannot be serialized, the answer is an error.
    pub fn ok<T: Serialize + ?Sized>(self, value: &T) {
        self.put(|out| serialize_result(out, value));
    }

    /// As [`Responder::ok`], for answers that are not to be lost, such as a job that is given away: says whether this one is sent,
    /// unless the connection ends before the client has it. If the value cannot be serialized, the error that is sent is the answer.
    ///
    /// # Errors
    ///
    /// If nobody waits for it: the connection has ended, or is ending, the server has given up on the answer, or its successor is
    /// [asked again](crate::Router::repeatable); or it was a notification. Then the client gets nothing of it.
    pub fn try_ok<T: Serialize + ?Sized>(self, value: &T) -> Result<(), PushError> {
        self.try_put(|out| serialize_result(out, value))
    }

    /// Answers with an error.
    pub fn fault(mut self, fault: impl Into<Fault>) {
        let fault = fault.into();
        if self.to.is_none() {
            return self.come_to(false);
        }
        self.put(|_| Err(fault));
    }

    /// Answers with a value or an error.
    pub fn result<T: Serialize>(self, result: Result<T, Fault>) {
        match result {
            Ok(value) => self.ok(&value),
            Err(fault) => self.fault(fault),
        }
    }

    /// Answers with what `work` comes to: the task of any runtime, in which `?` makes errors the answer.
    ///
    /// If the task is aborted, and this future dropped with it, the client gets the error `the handler gave no answer`, and `the handler
    /// panicked` if `work` panics.
    ///
    /// ```no_run
    /// # fn spawn(task: impl Future<Output = ()> + Send + 'static) {}
    /// # async fn read(path: &str) -> std::io::Result<String> { Ok(path.into()) }
    /// use ringhold_rpc::{Fault, Router};
    ///
    /// async fn first_line(path: String) -> Result<String, Fault> {
    ///     let text = read(&path).await?;
    ///     Ok(text.lines().next().unwrap_or_default().to_owned())
    /// }
    ///
    /// let router = Router::new().deferred("first_line", |(path,): (String,), responder| {
    ///     spawn(responder.with(first_line(path)));
    /// });
    /// ```
    pub async fn with<T: Serialize>(self, work: impl Future<Output = Result<T, Fault>>) {
        self.result(work.await);
    }

    /// Answers with a value that is msgpack already: exactly one object, or nothing, which means nil. It is checked as in
    /// [`Answer::encoded`](crate::Answer::encoded).
    pub fn encoded(self, object: &[u8]) {
        debug_assert!(is_result(object), "a result is one msgpack object");
        self.put(|out| {
            out.extend_from_slice(object);
            Ok(())
        });
    }

    /// As [`Responder::encoded`]. When the object is large it is queued without being copied, as one that many ask for.
    pub fn share(self, object: Bytes) {
        if !self.is_shared(&object) {
            return self.encoded(&object);
        }
        if let Some((ticket, pieces)) = self.shared(object) {
            ticket.answer_in_two(pieces);
        }
    }

    /// As [`Responder::share`], and says whether it is sent, as [`Responder::try_ok`].
    ///
    /// # Errors
    ///
    /// Those of [`Responder::try_ok`].
    pub fn try_share(self, object: Bytes) -> Result<(), PushError> {
        if !self.is_shared(&object) {
            debug_assert!(is_result(&object), "a result is one msgpack object");
            return self.try_put(|out| {
                out.extend_from_slice(&object);
                Ok(())
            });
        }
        match self.shared(object) {
            Some((ticket, pieces)) => ticket.try_answer_in_two(pieces),
            None => Err(PushError::Gone),
        }
    }

    /// Whether an object is sent as it is, and as the bytes that they are.
    fn is_shared(&self, object: &Bytes) -> bool {
        let is_current = |to: &To| to.strings == Strings::Current;
        object.len() >= SHARE_BYTES_MIN && self.to.as_ref().is_some_and(is_current)
    }

    /// The answer with such an object.
    fn shared(mut self, object: Bytes) -> Option<(ringhold_core::Responder, [Bytes; 2])> {
        debug_assert!(is_result(&object), "a result is one msgpack object");
        self.come_to(true);
        let to = self.to.take()?;
        let mut header = Vec::new();
        envelope::write_result_header(&mut header, to.id);
        Some((to.ticket, [Bytes::from(header), object]))
    }

    /// Whether there is anybody to answer: false for a notification. It is answered all the same, by [`Responder::ok`] with `()` for example,
    /// so that it does not count as one that failed.
    pub fn is_heard(&self) -> bool {
        self.to.is_some()
    }

    /// Whether the answer that was promised is still waited for: not once the connection has begun to end, nor when the server
    /// has given up waiting for it. A handler that answers one request after the other can leave out those whose answers nobody
    /// gets. True for a notification, whose work was asked for although it is not [answered](Responder::is_heard).
    ///
    /// It may change right after this. A client that closes its socket looks like one that has only ended its side and reads
    /// on; see [`ringhold_core::Responder::is_wanted`].
    pub fn is_wanted(&self) -> bool {
        self.to.as_ref().is_none_or(|to| to.ticket.is_wanted())
    }

    /// Names the connection that waits for the answer; `None` for a notification.
    pub fn connection(&self) -> Option<ConnectionId> {
        self.to.as_ref().map(|to| to.ticket.connection())
    }

    fn put(mut self, write: impl FnOnce(&mut Vec<u8>) -> Result<(), Fault>) {
        let Some(to) = &self.to else {
            return self.come_to(true);
        };
        let mut out = Vec::new();
        // A panic in here finds the ticket still in its place.
        let is_result = envelope::write_response(&mut out, to.strings, to.id, write);
        self.come_to(is_result);
        if let Some(to) = self.to.take() {
            to.ticket.answer(Bytes::from(out));
        }
    }

    fn try_put(
        mut self,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), Fault>,
    ) -> Result<(), PushError> {
        let Some(to) = &self.to else {
            self.come_to(true);
            return Err(PushError::Gone);
        };
        let mut out = Vec::new();
        // A panic in here finds the ticket still in its place.
        let is_result = envelope::write_response(&mut out, to.strings, to.id, write);
        self.come_to(is_result);
        match self.to.take() {
            Some(to) => to.ticket.try_answer(Bytes::from(out)),
            None => Err(PushError::Gone),
        }
    }

    /// The call has come to something.
    fn come_to(&mut self, is_result: bool) {
        // If it was given up before, that has been counted.
        let is_wanted = self.is_wanted();
        if let Some(faults) = self.faults.take()
            && !is_result
            && is_wanted
        {
            faults.add_one();
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        // A ticket that is merely dropped comes back to the worker, which counts it and says that the handler gave no answer.
        if self.is_heard() && !std::thread::panicking() {
            return;
        }
        self.come_to(false);
        if let Some(to) = self.to.take() {
            let mut out = Vec::new();
            let fault = Fault::new("the handler panicked");
            envelope::write_fault(&mut out, to.strings, to.id, &fault);
            to.ticket.answer(Bytes::from(out));
        }
    }
}
