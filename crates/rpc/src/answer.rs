//! The one answer to a call.

use std::cell::Cell;

use bytes::Bytes;
use ringhold_core::Reply;
use serde::Serialize;

use crate::call::Call;
use crate::context::Context;
use crate::envelope;
use crate::fault::Fault;
use crate::methods::{Method, Promises};
use crate::names::shortened;
use crate::pending;
use crate::responder::Responder;
use crate::session::Session;
use crate::strings::Strings;
use crate::token::is_result;

/// From this length on shared bytes are queued as they are instead of being copied into the outbox.
pub(crate) const SHARE_BYTES_MIN: usize = 4096;

/// The right, and the duty, to answer one call: every way to use it up gives the [`Answered`] that a handler must
/// return.
///
/// A notification is not answered. Its handler need not care: the answer goes nowhere, and closures that would write
/// it are not called.
pub struct Answer<'a> {
    pub(crate) reply: Reply<'a>,
    pub(crate) session: &'a mut Session,
    pub(crate) id: Option<u32>,
    /// The number of the method.
    pub(crate) number: usize,
    pub(crate) method: &'a Method,
    pub(crate) strings: Strings,
    /// Set when the call has come to something, or its responder sees to that. A client that waits has been, or will be, told.
    pub(crate) done: &'a Cell<bool>,
}

/// Proof that a call was answered, or that it will be.
#[derive(Debug)]
#[must_use = "a handler returns it"]
pub struct Answered(());

impl<'a> Answer<'a> {
    /// Answers with a value. Structs become maps. If the value cannot be serialized, the answer is an error.
    pub fn ok<T: Serialize + ?Sized>(self, value: &T) -> Answered {
        self.put(|out| serialize_result(out, value))
    }

    /// Answers with an error.
    pub fn fault(self, fault: impl Into<Fault>) -> Answered {
        let fault = fault.into();
        if self.id.is_none() {
            self.method.faults.add_one();
            let name = &self.method.name;
            self.reply
                .report_untold(format_args!("its notification of {name:?} failed: {fault}"));
        }
        self.put(|_| Err(fault))
    }

    /// Answers with a value or an error.
    pub fn result<T: Serialize>(self, result: Result<T, Fault>) -> Answered {
        match result {
            Ok(value) => self.ok(&value),
            Err(fault) => self.fault(fault),
        }
    }

    /// Answers with a value that is msgpack already: exactly one object, or nothing, which means nil. Debug builds panic if it is
    /// not; release builds trust the handler, and anything else would spoil what the client reads behind it.
    #[inline]
    pub fn encoded(self, object: &[u8]) -> Answered {
        match self.id {
            Some(id) => self.encoded_to(id, object),
            None => self.done(),
        }
    }

    fn encoded_to(mut self, id: u32, object: &[u8]) -> Answered {
        if self.strings != Strings::Current || object.is_empty() {
            return self.encoded_otherwise(object);
        }
        debug_assert!(is_result(object), "a result is one msgpack object");
        let (head, length) = envelope::result_header(id);
        self.reply.append(head, length, object);
        self.done()
    }

    /// As [`Answer::encoded`], for what is not sent as it is.
    #[cold]
    fn encoded_otherwise(self, object: &[u8]) -> Answered {
        self.write(|out| out.extend_from_slice(object))
    }

    /// As [`Answer::encoded`]. When the object is large it is queued without being copied.
    pub fn share(mut self, object: Bytes) -> Answered {
        let Some(id) = self.id else {
            return self.done();
        };
        if object.len() < SHARE_BYTES_MIN || self.strings != Strings::Current {
            return self.encoded(&object);
        }
        debug_assert!(is_result(&object), "a result is one msgpack object");
        self.reply
            .write(|out| envelope::write_result_header(out, id));
        self.done.set(true);
        self.reply.share(object);
        Answered(())
    }

    /// Lets `write` append the result to what is sent: exactly one msgpack object, or nothing, which means nil. The
    /// buffer holds other replies already: append only. It is checked as in [`Answer::encoded`].
    pub fn write(self, write: impl FnOnce(&mut Vec<u8>)) -> Answered {
        self.try_write(|out| {
            write(out);
            Ok(())
        })
    }

    /// As [`Answer::write`]; if `write` fails, what it appended is taken back and the answer is its fault.
    pub fn try_write(self, write: impl FnOnce(&mut Vec<u8>) -> Result<(), Fault>) -> Answered {
        self.put(|out| {
            let start = out.len();
            write(out)?;
            debug_assert!(
                out.get(start..).is_some_and(is_result),
                "a result is one msgpack object"
            );
            Ok(())
        })
    }

    /// Promises an answer that comes later, from any thread.
    pub fn defer(mut self) -> (Responder, Answered) {
        (self.promise_for(None), Answered(()))
    }

    /// As [`Answer::defer`], for this call that may be made again in the successor, as one of a
    /// [repeatable](crate::Router::repeatable) method.
    pub fn defer_repeatable(mut self, call: &Call<'_>) -> (Responder, Answered) {
        (self.promise_for(Some(call)), Answered(()))
    }

    /// The first half of [`Answer::defer`], as the method promises; the second is [`Answer::promised`].
    pub(crate) fn promise(&mut self, call: &Call<'_>) -> Responder {
        let is_repeatable = self.method.promises == Promises::Repeatable;
        self.promise_for(is_repeatable.then_some(call))
    }

    fn promise_for(&mut self, repeatable: Option<&Call<'_>>) -> Responder {
        let faults = self.method.faults.clone();
        let responder = match self.id {
            Some(id) => {
                let ticket = pending::ticket(id, self.number);
                let ticket = match repeatable {
                    Some(call) => self.reply.defer_repeatable(ticket, call.frame.bytes()),
                    None => self.reply.defer(ticket),
                };
                Responder::new(ticket, id, self.strings, faults)
            }
            None => Responder::unheard(faults),
        };
        self.done.set(true);
        responder
    }

    pub(crate) fn promised(self) -> Answered {
        debug_assert!(self.done.get());
        Answered(())
    }

    /// The connection that the call came from.
    pub fn context(&mut self) -> Context<'_> {
        Context {
            reply: self.reply.reborrow(),
            session: self.session,
            id: self.id,
            strings: self.strings,
        }
    }

    fn put(mut self, write: impl FnOnce(&mut Vec<u8>) -> Result<(), Fault>) -> Answered {
        if let Some(id) = self.id {
            let (strings, faults) = (self.strings, &self.method.faults);
            self.reply.write(|out| {
                if !envelope::write_response(out, strings, id, write) {
                    faults.add_one();
                }
            });
        }
        self.done()
    }

    fn done(self) -> Answered {
        self.done.set(true);
        Answered(())
    }
}

impl std::fmt::Debug for Answer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Answer({}, id {:?})", self.reply.connection(), self.id)
    }
}

/// Appends `value` in the encoding that results and parameters have here: structs are maps.
pub(crate) fn serialize<T: Serialize + ?Sized>(
    out: &mut Vec<u8>,
    value: &T,
) -> Result<(), rmp_serde::encode::Error> {
    rmp_serde::encode::write_named(out, value)
}

pub(crate) fn serialize_result<T: Serialize + ?Sized>(
    out: &mut Vec<u8>,
    value: &T,
) -> Result<(), Fault> {
    serialize(out, value).map_err(|error| {
        let why = shortened(&error.to_string());
        Fault::new(format!("the result cannot be serialized: {why}"))
    })
}
