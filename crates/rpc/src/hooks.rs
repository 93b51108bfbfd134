//! The beginnings and ends of connections.

use std::fmt;

use ringhold_core::{Ended, Peer, Refusal};

use crate::notify::Notifier;
use crate::resume::Kept;
use crate::router::Router;
use crate::session::Session;
use crate::strings::Strings;

/// What a router is to do when connections begin and end.
#[derive(Default)]
pub(crate) struct Hooks {
    connected: Option<Box<Welcome>>,
    gone: Option<Box<Goodbye>>,
}

type Welcome = dyn FnMut(&mut Arrival<'_>) -> Result<(), Refusal>;
type Goodbye = dyn FnMut(&mut Gone<'_>);

impl Hooks {
    /// The session of a connection that begins, or goes on in this process.
    pub(crate) fn connected(
        &mut self,
        peer: &Peer<'_>,
        strings: Strings,
    ) -> Result<Session, Refusal> {
        let session = Session::default();
        let Some(connected) = &mut self.connected else {
            return Ok(session);
        };
        let mut arrival = Arrival {
            peer: *peer,
            strings,
            session,
        };
        connected(&mut arrival)?;
        Ok(arrival.session)
    }

    /// Takes leave of a connection that has begun.
    pub(crate) fn gone(&mut self, ended: &Ended<'_>, session: Session) {
        if let Some(gone) = &mut self.gone {
            gone(&mut Gone { ended, session });
        }
    }
}

impl Router {
    /// Has `connected` called for each connection before anything of it is read: an error ends it. It may keep with the connection what
    /// handlers ask it for ([`Arrival::keep`]).
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
    ///         .connected(move |arrival| match arrival.peer().credentials() {
    ///             Ok(Some(who)) if uids.contains(&who.uid) => {
    ///                 arrival.keep(User(who.uid));
    ///                 Ok(())
    ///             }
    ///             Ok(Some(who)) => Err(Refusal::new(format!("user {} may not connect", who.uid))),
    ///             Ok(None) => Err(Refusal::new("only unix sockets tell who connects")),
    ///             Err(error) => Err(Refusal::new(format!("it is not known who connects: {error}"))),
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
    /// # Panics
    ///
    /// If the router has one already.
    #[must_use]
    pub fn connected(
        mut self,
        connected: impl FnMut(&mut Arrival<'_>) -> Result<(), Refusal> + 'static,
    ) -> Self {
        let before = self.hooks.connected.replace(Box::new(connected));
        assert!(before.is_none(), "the router has a `connected` already");
        self
    }

    /// Has `gone` called for each connection that the router lets in, once, when this process has it no more: because it has ended, or
    /// because a successor goes on with it, which [`Ended::why`] tells apart ([`Close::HandedOver`](ringhold_core::Close::HandedOver)).
    ///
    /// [`Notifier`]s say by then that it is gone. All calls come before what the router [hands over](Router::hand_over) is asked for.
    /// For a connection whose data cannot be [resumed](Router::resume) it is called before that, at once: last output is still to be written.
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
    /// # Panics
    ///
    /// If the router has one already.
    #[must_use]
    pub fn gone(mut self, gone: impl FnMut(&mut Gone<'_>) + 'static) -> Self {
        let before = self.hooks.gone.replace(Box::new(gone));
        assert!(before.is_none(), "the router has a `gone` already");
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

    /// The value of this type that was kept with the connection, by a handler or by [`Router::connected`]; `None` if there was none.
    /// What is not taken is dropped.
    pub fn take_data<T: 'static>(&mut self) -> Option<T> {
        self.session.take_data()
    }
}

impl fmt::Debug for Gone<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gone({:?})", self.ended)
    }
}
