//! MessagePack-RPC as a service of the core.

use std::cell::Cell;
use std::io;
use std::mem::take;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ringhold_core::panics::Caught;
use ringhold_core::{
    Abandoned, Claims, Close, Ended, Flow, Frame, Peer, Refusal, Reply, RestoreError, Saved,
    Service, SourceId, Tick, Ticket, TopLevel, Watch, Worker,
};

use crate::answer::Answer;
use crate::builtin;
use crate::call::Call;
use crate::envelope::{self, Envelope, Malformed, Message};
use crate::fault::Fault;
use crate::names::{Guesses, quoted};
use crate::pending;
use crate::recent::{Known, Recents};
use crate::resume::Resumed;
use crate::router::Router;
use crate::session::Session;
use crate::strings::Strings;
use crate::turn::{Sources, Turn};

/// Answers MessagePack-RPC with the methods of a [`Router`], which is also told of the beginning and the end of each connection
/// ([`Router::connected`], [`Router::gone`]). A service around this one would have to pass on each call of [`Service`], also those that
/// it need not write, and have its [`Session`].
///
/// [`ServeRpc::rpc`](crate::ServeRpc::rpc) adds one to a server. One that is not as [`Rpc::new`] makes it is added by
/// [`Server::service`](ringhold_core::Server::service), and its router is made in [`Server::preflight`](ringhold_core::Server::preflight) as well:
///
/// ```no_run
/// # use ringhold_core::{Server, config::Config};
/// # use ringhold_rpc::{Router, Rpc, Strings};
/// # fn serve(config: Config) -> Result<(), Box<dyn std::error::Error>> {
/// fn router() -> Router {
///     Router::new().method("add", |(a, b): (i64, i64)| Ok(a + b))
/// }
///
/// Server::new(config)
///     .preflight(|| {
///         // A mistake in its names refuses a reload.
///         router();
///         Ok(())
///     })
///     .service("old", |worker| Rpc::new(worker, router()).strings(Strings::OldRaw))
///     .run()?;
/// # Ok(())
/// # }
/// ```
pub struct Rpc {
    router: Router,
    /// Of what is handed over.
    claims: Claims,
    sources: Sources,
    strings: Strings,
    recent: Recents,
    guesses: Guesses,
}

impl Rpc {
    /// With one worker's router.
    pub fn new(worker: &Worker, mut router: Router) -> Self {
        builtin::bind(&mut router.methods, worker);
        router.methods.count(worker);
        Rpc {
            sources: Sources::new(worker, take(&mut *router.sources)),
            router,
            claims: worker.claims(),
            strings: Strings::default(),
            recent: Recents::NONE,
            guesses: Guesses::new(Instant::now()),
        }
    }

    /// Says which msgpack the clients read. To serve both kinds, register the service twice and give the clients of old
    /// a socket of their own.
    #[must_use]
    pub fn strings(mut self, strings: Strings) -> Self {
        self.strings = strings;
        self
    }

    /// The call in a frame, whether or not it is like one before; otherwise what becomes of the connection.
    fn read<'f>(
        &mut self,
        frame: &Frame<'f>,
        session: &mut Session,
        reply: &mut Reply<'_>,
    ) -> Result<Known<'f>, Flow> {
        let usual = envelope::usual(frame.bytes());
        let envelope = match usual {
            Some(envelope) => envelope,
            None => self.unusual(frame, reply)?,
        };
        let Some(method) = self.router.methods.find(envelope.method) else {
            self.unknown(envelope.id, envelope.method, session, reply);
            return Err(ending(session));
        };
        if usual.is_some() {
            self.recent.missed(frame.bytes(), &envelope, method);
        }
        let Envelope { id, params, .. } = envelope;
        Ok(Known { id, params, method })
    }

    /// Calls the handler of a method and sees to it that a request gets its reply.
    #[inline(always)]
    fn call(
        &mut self,
        frame: &Frame<'_>,
        known: Known<'_>,
        session: &mut Session,
        reply: &mut Reply<'_>,
    ) -> Flow {
        let Known {
            id,
            params,
            method: number,
        } = known;
        let Router {
            methods, guards, ..
        } = &mut self.router;
        let Some(entry) = methods.call(number) else {
            debug_assert!(false, "a router loses no method");
            return Flow::Continue;
        };
        entry.method.count_call();
        // Before there is an answer: one that is lent before it is given to the handler would be copied, which costs as much as a small call.
        if !guards.is_empty()
            && guards.refuses(id, &entry.method.name, session, self.strings, reply)
        {
            entry.method.faults.add_one();
            return ending(session);
        }
        let done = Cell::new(false);
        // Unwind safety: what a panicking handler was writing has been taken back by the outbox, `done` says whether the
        // client has its reply, and what the handler's own state looks like is up to the handler, as documented.
        let result = catch_unwind(AssertUnwindSafe(|| {
            let call = Call {
                frame,
                id,
                // The router's copy of the name is at hand whichever way the frame was read.
                method: entry.method.name.as_bytes(),
                params,
            };
            let answer = Answer {
                reply: reply.reborrow(),
                session,
                id,
                number,
                method: &entry.method,
                strings: self.strings,
                done: &done,
            };
            (entry.handler)(call, answer)
        }));
        if let Err(panic) = result {
            let unanswered = id.filter(|_| !done.get());
            if !done.get() {
                entry.method.faults.add_one();
            }
            self.panicked(unanswered, number, Caught::new(panic), reply);
        }
        ending(session)
    }

    /// The call in a frame that is not written as nearly everybody does; otherwise what becomes of the connection.
    #[cold]
    fn unusual<'f>(&self, frame: &Frame<'f>, reply: &mut Reply<'_>) -> Result<Envelope<'f>, Flow> {
        match envelope::parse(frame.bytes()) {
            Ok(Message::Call(envelope)) => return Ok(envelope),
            Ok(Message::Response) => {
                tracing::debug!(connection = %reply.connection(), "ignored a response to no request of ours");
            }
            Err(Malformed::Request { id, why }) => self.fault(id, &Fault::new(why), reply),
            Err(Malformed::Message { why }) => {
                return Err(Flow::reject(format!("this is not MessagePack-RPC: {why}")));
            }
        }
        Err(Flow::Continue)
    }

    #[cold]
    fn unknown(
        &mut self,
        id: Option<u32>,
        method: &[u8],
        session: &mut Session,
        reply: &mut Reply<'_>,
    ) {
        self.router.methods.call_unknown();
        let name = quoted(method);
        // Who may not call it is not told that there is none, nor what else there is.
        let shown = str::from_utf8(method).unwrap_or(&name);
        let guards = &mut self.router.guards;
        if guards.refuses(id, shown, session, self.strings, reply) {
            return;
        }
        let Some(id) = id else {
            reply.report_untold(format_args!(
                "there is no method {name}, for which it sent a notification"
            ));
            return;
        };
        let known = self.router.methods.iter().map(|method| &*method.name);
        let hint = match self.guesses.nearest(method, known, Instant::now()) {
            Some(nearest) => format!("; did you mean {nearest:?}?"),
            None if self.router.methods.has_builtin(builtin::METHODS.0) => {
                format!("; call {:?} for a list", builtin::METHODS.0)
            }
            None => String::new(),
        };
        let fault = Fault::new(format!("there is no method {name}{hint}"));
        self.fault(id, &fault, reply);
    }

    /// Reports the panic of a handler, to the client as well if it has no reply yet.
    #[cold]
    fn panicked(
        &self,
        unanswered: Option<u32>,
        number: usize,
        panic: Caught,
        reply: &mut Reply<'_>,
    ) {
        let name = self.name_of(number);
        reply.report_panic(&format!("the handler of {name}"), &panic);
        if let Some(id) = unanswered {
            let fault = Fault::new(format!("the handler of {name} panicked"));
            self.fault(id, &fault, reply);
        }
    }

    /// The name of the method of this number, as it is shown to people.
    fn name_of(&self, number: usize) -> String {
        let method = self.router.methods.get(number);
        quoted(method.map_or(b"", |method| method.name.as_bytes()))
    }

    fn fault(&self, id: u32, fault: &Fault, reply: &mut Reply<'_>) {
        reply.write(|out| envelope::write_fault(out, self.strings, id, fault));
    }
}

/// What becomes of the connection when a call has come to something.
#[inline]
fn ending(session: &mut Session) -> Flow {
    match session.take_closing() {
        None => Flow::Continue,
        Some(reason) => Flow::Close(reason),
    }
}

impl Service for Rpc {
    type Session = Session;

    const TOP_LEVEL: TopLevel = TopLevel::Array;

    fn connected(&mut self, peer: &Peer<'_>, _: &mut Reply<'_>) -> Result<Session, Refusal> {
        self.router.hooks.connected(peer, self.strings)
    }

    // Into the loop over the frames of a buffer: the call alone, and what it passes through memory, would cost a quarter of
    // what a small message costs here.
    #[inline(always)]
    fn frame(&mut self, session: &mut Session, frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        let call = match self.recent.known(frame.bytes()) {
            Some(call) => call,
            None => match self.read(&frame, session, reply) {
                Ok(call) => call,
                Err(flow) => {
                    self.router.methods.call_none();
                    return flow;
                }
            },
        };
        self.call(&frame, call, session, reply)
    }

    fn abandoned(
        &mut self,
        _: &mut Session,
        ticket: Ticket,
        why: Abandoned,
        reply: &mut Reply<'_>,
    ) -> Flow {
        if let Some(method) = self.router.methods.get(pending::method(ticket)) {
            method.faults.add_one();
        }
        self.fault(pending::id(ticket), &Fault::new(why.to_string()), reply);
        Flow::Continue
    }

    fn disconnected(&mut self, session: Session, ended: &Ended<'_>) {
        self.router.hooks.gone(ended, session);
    }

    fn request_name(&self, ticket: Ticket) -> String {
        let name = self.name_of(pending::method(ticket));
        format!("request {} for {name}", pending::id(ticket))
    }

    fn frame_name(&self) -> Option<String> {
        let method = self.router.methods.last()?;
        Some(format!("a call of {}", quoted(method.name.as_bytes())))
    }

    fn tick(&mut self, tick: &Tick<'_>) -> Option<Duration> {
        let mut turn = Turn::new(tick, &mut self.sources);
        self.router.clock.tick(tick.now(), |interval, work| {
            // Unwind safety: what its state looks like is up to it.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(&mut turn))) {
                let what = format!("what is due every {interval:?}");
                tick.report_panic(&what, &Caught::new(panic));
            }
        })
    }

    fn readable(&mut self, source: SourceId, tick: &Tick<'_>) -> io::Result<Watch> {
        self.sources.read(source, tick)
    }

    fn hand_over(&mut self, tick: &Tick<'_>) -> Option<Bytes> {
        self.router
            .leavings
            .write(&self.claims, |what, panic| tick.report_panic(what, panic))
    }

    fn save(&self, session: &Session) -> Saved {
        session.save(&self.router.resumes)
    }

    fn restore(&mut self, peer: &Peer<'_>, saved: &[u8]) -> Result<Session, RestoreError> {
        let mut session = self.router.hooks.connected(peer, self.strings)?;
        let resumed = Resumed::new(*peer, self.strings);
        // Unwind safety: the panic goes on.
        let restored = catch_unwind(AssertUnwindSafe(|| {
            self.router.resumes.restore(&resumed, saved, &mut session)
        }));
        let (why, refused) = match restored {
            Ok(Ok(())) => return Ok(session),
            Ok(Err(error)) => (Close::Unrestored(error.to_string().into()), Ok(error)),
            Err(panic) => (Close::Panicked, Err(panic)),
        };
        let ended = Ended::new(peer, &why);
        Err(self.router.hooks.refuse(&ended, session, refused))
    }
}

impl std::fmt::Debug for Rpc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rpc")
            .field("methods", &self.router.methods)
            .field("strings", &self.strings)
            .finish()
    }
}
