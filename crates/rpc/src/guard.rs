//! What is asked before each call.

use std::panic::{AssertUnwindSafe, catch_unwind};

use ringhold_core::Reply;
use ringhold_core::panics::Caught;

use crate::context::Context;
use crate::drops::OneByOne;
use crate::envelope;
use crate::fault::Fault;
use crate::names::quoted;
use crate::router::Router;
use crate::session::Session;
use crate::strings::Strings;

/// In the order in which they were added. Most routers have none.
#[derive(Default)]
pub(crate) struct Guards(OneByOne<Box<Guard>>);

type Guard = dyn FnMut(&mut Context<'_>, &str) -> Result<(), Fault>;

impl Guards {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Asks them about a call of the method of this name. If one refuses it, the call has been answered, or reported.
    #[inline(never)]
    pub(crate) fn refuses(
        &mut self,
        id: Option<u32>,
        method: &str,
        session: &mut Session,
        strings: Strings,
        reply: &mut Reply<'_>,
    ) -> bool {
        let mut context = Context {
            reply: reply.reborrow(),
            session,
            id,
            strings,
        };
        let Err(fault) = self.ask(&mut context, method) else {
            return false;
        };
        match id {
            Some(id) => reply.write(|out| envelope::write_fault(out, strings, id, &fault)),
            None => {
                let name = quoted(method.as_bytes());
                reply.report_untold(format_args!("its notification of {name} failed: {fault}"));
            }
        }
        true
    }

    fn ask(&mut self, context: &mut Context<'_>, method: &str) -> Result<(), Fault> {
        for guard in self.0.iter_mut() {
            // Unwind safety: what its own state looks like is up to it, as documented.
            match catch_unwind(AssertUnwindSafe(|| guard(context, method))) {
                Ok(said) => said?,
                Err(panic) => {
                    let what = format!("the guard of {}", quoted(method.as_bytes()));
                    context.reply.report_panic(&what, &Caught::new(panic));
                    return Err(Fault::new(format!("{what} panicked")));
                }
            }
        }
        Ok(())
    }
}

impl Router {
    /// Has `guard` called before each call, with the connection that it came from and the name of its method: an error refuses the call. Then no
    /// handler is called, and the error is the answer. A notification that is refused is dropped, with a warning in the log as
    /// [`Router::notification`] says. Both count as faults of the method.
    ///
    /// It is asked of all methods, those that are built in or added behind it too, and of names for which there is no method, so that who is refused
    /// is not told what there is.
    ///
    /// ```
    /// # use ringhold_rpc::{Fault, Router};
    /// /// Who has logged in.
    /// #[derive(Default)]
    /// struct User(String);
    ///
    /// fn router() -> Router {
    ///     Router::new()
    ///         .guard(|context, method| match (method, context.get::<User>()) {
    ///             ("log_in", _) | (_, Some(_)) => Ok(()),
    ///             _ => Err(Fault::new("log in first")),
    ///         })
    ///         .method_with("log_in", |context, (name, password): (String, String)| {
    /// #           let is_right = |_: &str, password: &str| password == "secret";
    ///             if !is_right(&name, &password) {
    ///                 context.close("a wrong password");
    ///                 return Err(Fault::new("a wrong password"));
    ///             }
    ///             context.data::<User>().0 = name;
    ///             Ok(())
    ///         })
    /// }
    /// # use ringhold_core::testing::Exchange;
    /// # use ringhold_rpc::Rpc;
    /// # let mut exchange = Exchange::with_worker(|worker| Rpc::new(worker, router()), Default::default());
    /// # let client = exchange.connect();
    /// # exchange.receive(client, b"\x94\x00\x01\xa4ping\x90\x94\x00\x02\xa6log_in\x92\xa3ann\xa6secret\x94\x00\x03\xa4ping\x90");
    /// # let answers = b"\x94\x01\x01\xaclog in first\xc0\x94\x01\x02\xc0\xc0\x94\x01\x03\xc0\xa4pong";
    /// # assert_eq!(exchange.take_sent(client), answers);
    /// ```
    ///
    /// It is asked each time, since what it knows of the connection may have changed, and must be quick. What takes longer, such as whether a
    /// password is right, is for the method that lets a client in. That may be a [deferred](Router::deferred_with) one, which keeps with the
    /// connection what the task is to tell the guard. Who is refused too often is let go of by [`Context::close`].
    ///
    /// If it panics that is counted and logged, and the call is refused.
    ///
    /// A router that is made of several parts may have one of each. They are asked in the order in which they were added, up to the first that
    /// refuses the call.
    #[must_use]
    pub fn guard(
        mut self,
        guard: impl FnMut(&mut Context<'_>, &str) -> Result<(), Fault> + 'static,
    ) -> Self {
        self.guards.0.push(Box::new(guard));
        self
    }
}
