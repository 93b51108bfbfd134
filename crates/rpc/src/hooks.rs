//! The beginnings and ends of connections.

use std::fmt;
use std::mem::replace;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;
use std::time::Duration;

use ringhold_core::{Close, Ended, Peer, Refusal};

use crate::drops::{OneByOne, drop_unheard};
use crate::notify::Notifier;
use crate::resume::Kept;
use crate::router::Router;
use crate::session::Session;
use crate::strings::Strings;

/// What a router is to do when connections begin and end, in the order in which it was added.
#[derive(Default)]
pub(crate) struct Hooks {
    connected: OneByOne<Box<Welcome>>,
    gone: OneByOne<Goodbye>,
}

type Welcome = dyn FnMut(&mut Arrival<'_>) -> Result<(), Refusal>;

struct Goodbye {
    /// So many `connected` were added before it.
    behind: usize,
    gone: Box<dyn FnMut(&mut Gone<'_>)>,
}

impl Hooks {
    /// The session of a connection that begins, or goes on in this process.
    pub(crate) fn connected(
        &mut self,
        peer: &Peer<'_>,
        strings: Strings,
    ) -> Result<Session, Refusal> {
        let mut arrival = Arrival {
            peer: *peer,
            strings,
            session: Session::default(),
        };
        for (passed, connected) in self.connected.iter_mut().enumerate() {
            // Unwind safety: the panic goes on.
            let asked = catch_unwind(AssertUnwindSafe(|| connected(&mut arrival)));
            let (why, refused) = match asked {
                Ok(Ok(())) => continue,
                Ok(Err(refusal)) => (Close::Refused(refusal.to_string().into()), Ok(refusal)),
                Err(panic) => (Close::Panicked, Err(panic)),
            };
            // Of those before, each may have told others of it.
            let told = self.gone.iter_mut();
            let told = told.filter(|goodbye| (1..=passed).contains(&goodbye.behind));
            let ended = Ended::new(peer, &why);
            return Err(refuse(told, &ended, arrival.session, refused));
        }
        Ok(arrival.session)
    }

    /// Takes leave of a connection that has begun, then goes on with why it is refused: an error, which is returned, or a panic.
    pub(crate) fn refuse<E>(
        &mut self,
        ended: &Ended<'_>,
        session: Session,
        refused: thread::Result<E>,
    ) -> E {
        refuse(self.gone.iter_mut(), ended, session, refused)
    }

    /// Takes leave of a connection that has begun.
    pub(crate) fn gone(&mut self, ended: &Ended<'_>, session: Session) {
        let left = take_leave(self.gone.iter_mut(), ended, session);
        left.unwrap_or_else(|panic| resume_unwind(panic));
    }
}

/// As [`Hooks::refuse`], of these.
fn refuse<'a, E>(
    told: impl Iterator<Item = &'a mut Goodbye>,
    ended: &Ended<'_>,
    session: Session,
    refused: thread::Result<E>,
) -> E {
    if let Err(panic) = take_leave(told, ended, session) {
        drop_unheard(refused);
        resume_unwind(panic);
    }
    refused.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Each is called, whether or not one before it panics.
///
/// # Errors
///
/// The last panic, of one of them or of what was kept. That the others are not lost is up to the panic hook
/// ([`leave_to_log`](ringhold_core::panics::leave_to_log)).
fn take_leave<'a>(
    told: impl Iterator<Item = &'a mut Goodbye>,
    ended: &Ended<'_>,
    session: Session,
) -> thread::Result<()> {
    let mut gone = Gone { ended, session };
    let mut left = Ok(());
    let mut note = |said: thread::Result<()>| {
        if said.is_err() {
            drop_unheard(replace(&mut left, said));
        }
    };
    for goodbye in told {
        // Unwind safety: the panic goes on.
        note(catch_unwind(AssertUnwindSafe(|| (goodbye.gone)(&mut gone))));
    }
    // While a panic unwinds, another one would end the process: what made one of them panic may be wrong for what was kept, too.
    note(catch_unwind(AssertUnwindSafe(|| drop(gone))));
    left
}

impl Router {
    /// Has `connected` called for each connection before anything of it is read: an error, also one that `?` makes a [`Refusal`], ends it.
    /// It may keep with the connection what handlers ask it for ([`Arrival::keep`]).
    ///
    /// It is called as well for each connection that goes on in this process ([`Peer::is_handed_over`]), before its data is
    /// [resumed](Router::resume): this process may have other rules, and what is kept need not be passed on, since it is kept anew.
    ///
    /// ```
    /// # use ringhold_core::Refusal;
    /// # use ringhold_rpc::Router;
    /// /// Whose connection it is.
    /// struct User(u32);
    ///
    /// /// Serves some users, over unix sockets.
    /// fn router(uids: Vec<u32>) -> Router {
    ///     Router::new()
    ///         .connected(move |arrival| match arrival.peer().credentials()? {
    ///             Some(who) if uids.contains(&who.uid) => {
    ///                 arrival.keep(User(who.uid));
    ///                 Ok(())
    ///             }
    ///             Some(who) => Err(Refusal::new(format!("user {} may not connect", who.uid))),
    ///             None => Err(Refusal::new("only unix sockets tell who connects")),
    ///         })
    ///         .method_with("who_am_i", |context, ()| Ok(context.get().map(|User(uid)| *uid)))
    /// }
    /// # use ringhold_core::testing::Exchange;
    /// # use ringhold_core::{Credentials, PeerAddress, Worker};
    /// # use ringhold_rpc::Rpc;
    /// # let make = |worker: &Worker| Rpc::new(worker, router(vec![1000, 1001]));
    /// # let mut exchange = Exchange::with_worker(make, Default::default());
    /// # let mut connect = |uid| {
    /// #     let who = Credentials { pid: None, uid, gid: 100 };
    /// #     exchange.set_peer(PeerAddress::Unix, Some(who));
    /// #     exchange.connect()
    /// # };
    /// # let [root, first, second] = [0, 1000, 1001].map(&mut connect);
    /// # let mut exchange = exchange.hand_over(make);
    /// # assert_eq!([root, first, second].map(|client| exchange.is_open(client)), [false, true, true]);
    /// # exchange.receive(second, b"\x94\x00\x01\xa8who_am_i\x90");
    /// # assert_eq!(exchange.take_sent(second), b"\x94\x01\x01\xc0\xcd\x03\xe9");
    /// ```
    ///
    /// If it panics that is counted and logged, and costs the connection.
    ///
    /// A router that is made of several parts may have one of each. They are asked in the order in which they were added, up to the first that
    /// refuses the connection, or panics. If others had let it in before, those [`gone`](Router::gone) are told that were added between
    /// the first of them and the one that refuses. So a part with a `gone` right behind its `connected` is told of the end of each connection that it has
    /// let in, and of no other, in whatever order the parts are put together. `docs/services.md` has an example.
    #[must_use]
    pub fn connected(
        mut self,
        connected: impl FnMut(&mut Arrival<'_>) -> Result<(), Refusal> + 'static,
    ) -> Self {
        self.hooks.connected.push(Box::new(connected));
        self
    }

    /// Has `gone` called for each connection that the router lets in, once, when this process has it no more: because it has ended, or
    /// because a successor goes on with it, which [`Ended::why`] tells apart ([`Close::HandedOver`]).
    ///
    /// [`Notifier`]s say by then that it is gone. All calls come before what the router [hands over](Router::hand_over) is asked for.
    /// For a connection whose data cannot be [resumed](Router::resume), or that one [`connected`](Router::connected) has let in and another one refuses,
    /// it is called before that, at once: last output is still to be written.
    ///
    /// ```
    /// # use std::{cell::RefCell, collections::HashMap, rc::Rc};
    /// # use ringhold_rpc::{Notification, Router};
    /// /// Tells all clients of this worker when one comes or leaves.
    /// fn router() -> Router {
    ///     let clients = Rc::new(RefCell::new(HashMap::new()));
    ///     let left = clients.clone();
    ///     let tell = |clients: &HashMap<_, ringhold_rpc::Notifier>| {
    ///         if let Ok(news) = Notification::new("clients", &clients.len()) {
    ///             clients.values().for_each(|client| drop(client.send(&news)));
    ///         }
    ///     };
    ///     Router::new()
    ///         .connected(move |arrival| {
    ///             let mut clients = clients.borrow_mut();
    ///             clients.insert(arrival.peer().id(), arrival.notifier());
    ///             // Nothing has changed because another process goes on.
    ///             if !arrival.peer().is_handed_over() {
    ///                 tell(&clients);
    ///             }
    ///             Ok(())
    ///         })
    ///         .gone(move |gone| {
    ///             let mut clients = left.borrow_mut();
    ///             clients.remove(&gone.ended().connection());
    ///             tell(&clients);
    ///         })
    /// }
    /// # use ringhold_core::testing::Exchange;
    /// # use ringhold_rpc::Rpc;
    /// # let mut exchange = Exchange::with_worker(|worker| Rpc::new(worker, router()), Default::default());
    /// # let [first, second] = [(); 2].map(|()| exchange.connect());
    /// # let mut exchange = exchange.hand_over(|worker| Rpc::new(worker, router()));
    /// # exchange.end(second);
    /// # let told = [1, 2, 1].map(|count| [&b"\x93\x02\xa7clients\x91"[..], &[count]].concat()).concat();
    /// # assert_eq!(exchange.take_sent(first), told);
    /// ```
    ///
    /// If it panics that is counted and logged.
    ///
    /// There may be several. They are called in the order in which they were added, each even if one before it panics, and what one has
    /// [taken](Gone::take_data) those behind it do not find. Of several that panic for one connection the last is counted and logged; those
    /// before it are logged if the panic hook leaves them to the log ([`leave_caught_to_log`](ringhold_core::panics::leave_caught_to_log)).
    #[must_use]
    pub fn gone(mut self, gone: impl FnMut(&mut Gone<'_>) + 'static) -> Self {
        self.hooks.gone.push(Goodbye {
            behind: self.hooks.connected.len(),
            gone: Box::new(gone),
        });
        self
    }
}

/// A connection that has been made, or goes on in this process: see [`Router::connected`].
pub struct Arrival<'a> {
    peer: Peer<'a>,
    strings: Strings,
    session: Session,
}

impl<'a> Arrival<'a> {
    /// The other end.
    pub fn peer(&self) -> Peer<'a> {
        self.peer
    }

    /// How long the worker has been running, in whole milliseconds, as of the beginning of its turn, as [`Turn::now`](crate::Turn::now).
    /// `docs/services.md` has an example.
    pub fn now(&self) -> Duration {
        self.peer.now()
    }

    /// A way to send notifications to this connection later, from anywhere. It does not close the connection in a restart or reload: there
    /// is one of the successor's then.
    pub fn notifier(&self) -> Notifier {
        Notifier::of_subscription(self.peer.handle(), self.strings)
    }

    /// Keeps a value with the connection, where handlers find it: [`Context::get`](crate::Context::get) and
    /// [`Context::data`](crate::Context::data). There is one of each type.
    ///
    /// It does not close the connection in a restart or reload, and the successor does not get it but keeps one of its own. Unless the
    /// router [resumes](Router::resume) its type: then it is passed on, and takes the place of that one.
    pub fn keep<T: 'static>(&mut self, value: T) {
        self.session.keep(Kept::derived(value));
    }

    /// The value of this type that a [`connected`](Router::connected) before this one has kept; `None` if there is none.
    pub fn get<T: 'static>(&mut self) -> Option<&mut T> {
        self.session.get()
    }
}

impl fmt::Debug for Arrival<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Arrival({:?})", self.peer)
    }
}

/// A connection that this process has no more: see [`Router::gone`].
pub struct Gone<'a> {
    ended: &'a Ended<'a>,
    session: Session,
}

impl<'a> Gone<'a> {
    /// Which connection it was, and why it has ended.
    pub fn ended(&self) -> &'a Ended<'a> {
        self.ended
    }

    /// The value of this type that was kept with the connection, by a handler or by [`Router::connected`]; `None` if there was none,
    /// or it was taken.
    pub fn get<T: 'static>(&mut self) -> Option<&mut T> {
        self.session.get()
    }

    /// As [`Gone::get`], for whoever goes on with the value. What nobody takes is dropped.
    pub fn take_data<T: 'static>(&mut self) -> Option<T> {
        self.session.take_data()
    }
}

impl fmt::Debug for Gone<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gone({:?})", self.ended)
    }
}
