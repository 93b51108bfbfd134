//! Methods of every kind.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use ringhold_rpc::{Fault, Responder, Router};
use rmpv::Value;

use super::super::ON_PURPOSE;

/// Calls that are not answered yet.
#[derive(Clone, Default)]
pub(crate) struct Waiting(Rc<RefCell<Vec<Responder>>>);

impl Waiting {
    pub(crate) fn take_one(&self) -> Option<Responder> {
        self.0.borrow_mut().pop()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    pub(crate) fn take_all(&self) -> Vec<Responder> {
        self.0.take()
    }

    fn put(&self, responder: Responder) {
        self.0.borrow_mut().push(responder);
    }
}

/// The methods whose replies may come out of order, or not at all if the connection ends first. One that is answered
/// before its handler returns is among them, since the answer takes its way through the mailbox all the same.
pub(crate) const DEFERRED: [&[u8]; 3] = [b"later", b"take", b"soon"];

/// The method that ends the connection.
pub(crate) const CLOSE: &[u8] = b"close";

pub(crate) fn router(waiting: &Waiting) -> Router {
    let (later, take) = (waiting.clone(), waiting.clone());
    let router = Router::new()
        .deferred("later", move |_: Vec<Value>, responder| {
            later.put(responder)
        })
        .raw("take", move |_, answer| {
            let (responder, answered) = answer.defer();
            take.put(responder);
            answered
        })
        .deferred_with("soon", |context, n: Option<u32>, responder| {
            *context.data::<u32>() += n.unwrap_or(1);
            responder.ok(context.data::<u32>());
        });
    raw(typed(router))
}

fn typed(router: Router) -> Router {
    type Mixed = (Option<bool>, Vec<i8>, BTreeMap<String, f32>, Option<char>);
    router
        .method("add", |(a, b): (i64, i64)| Ok(a.wrapping_add(b)))
        .method("value", |value: Value| Ok(value))
        .method("mixed", |mixed: Mixed| Ok(mixed))
        .method("text", |text: String| Ok(text.to_uppercase()))
        .method("fail", |_: Value| -> Result<(), _> {
            Err(Fault::value(&(3, "no")))
        })
        .method("panic", |_: Vec<Value>| -> Result<(), _> {
            panic!("{ON_PURPOSE}")
        })
        .method_with("count", |context, ()| {
            *context.data::<u64>() += 1;
            Ok(*context.data::<u64>())
        })
        .notification("note", |_: Vec<u16>| ())
        .notification_with("tick", |context, n: u8| {
            let notifier = context.notifier();
            for i in 0..n & 3 {
                let _ = notifier.notify("tick", &(i, "x"));
            }
        })
}

fn raw(router: Router) -> Router {
    router
        .raw("borrow", |call, answer| {
            let decoded = call.decode::<(&str, Option<u8>)>();
            answer.result(decoded.map(|(text, n)| (text.len(), n)))
        })
        .raw("sum", |call, answer| {
            let sum = |sum: u8, byte: &u8| sum.wrapping_add(*byte);
            answer.ok(&call.params().iter().fold(0, sum))
        })
        .raw("keep", |call, answer| {
            let kept = call.keep(call.params());
            answer.share(kept)
        })
        .raw("half", |_, answer| {
            answer.write(|out| {
                out.extend_from_slice(b"\x92\x01");
                panic!("{ON_PURPOSE}");
            })
        })
        .raw("try", |call, answer| {
            let failed = call.params().len() > 2;
            answer.try_write(|out| {
                out.push(0xc2);
                if failed {
                    return Err(Fault::new("too many"));
                }
                Ok(())
            })
        })
        .raw("nothing", |_, answer| answer.write(|_| ()))
        .raw("close", |_, mut answer| {
            answer.context().close("asked to");
            answer.ok(&())
        })
}
