//! The connection that a call came from.

use std::borrow::Cow;
use std::time::Duration;

use ringhold_core::{ConnectionId, Peer, Reply};

use crate::notify::Notifier;
use crate::session::Session;
use crate::strings::Strings;

/// What a handler may ask about the connection that a call came from, and keep with it.
pub struct Context<'a> {
    pub(crate) reply: Reply<'a>,
    pub(crate) session: &'a mut Session,
    pub(crate) id: Option<u32>,
    pub(crate) strings: Strings,
}

impl Context<'_> {
    /// The message id of a request; `None` for a notification.
    pub fn message_id(&self) -> Option<u32> {
        self.id
    }

    /// How long the worker has been running, in whole milliseconds, as of the beginning of its turn, as [`Turn::now`](crate::Turn::now). It costs
    /// no system call, and in an [`Exchange`](ringhold_core::testing::Exchange) it passes as it is told.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use ringhold_rpc::{Fault, Router};
    /// /// When the connection has put something last, on the clock of its worker.
    /// #[derive(Default)]
    /// struct Last(Option<Duration>);
    ///
    /// /// Takes a value a second of each client.
    /// fn router() -> Router {
    ///     Router::new()
    ///         // A value whose time is of another process would be wrong there.
    ///         .connected(|arrival| Ok(arrival.keep(Last(None))))
    ///         .method_with("put", |context, value: f64| {
    ///             let now = context.now();
    ///             let Last(last) = context.data();
    ///             if last.is_some_and(|last| now - last < Duration::from_secs(1)) {
    ///                 return Err(Fault::new("one a second"));
    ///             }
    ///             *last = Some(now);
    ///             Ok(value)
    ///         })
    /// }
    /// # use ringhold_core::testing::Exchange;
    /// # use ringhold_rpc::Rpc;
    /// # let mut exchange = Exchange::with_worker(|worker| Rpc::new(worker, router()), Default::default());
    /// # let [client, other] = [(); 2].map(|()| exchange.connect());
    /// # let put = |exchange: &mut Exchange, client| {
    /// #     exchange.receive(client, b"\x94\x00\x01\xa3put\x91\xcb\0\0\0\0\0\0\0\0");
    /// #     exchange.take_sent(client)[3] == 0xc0
    /// # };
    /// # assert_eq!([client, client, other].map(|it| put(&mut exchange, it)), [true, false, true]);
    /// # exchange.advance(Duration::from_millis(999));
    /// # assert!(!put(&mut exchange, client));
    /// # exchange.advance(Duration::from_millis(1));
    /// # assert!(put(&mut exchange, client));
    /// # let mut exchange = exchange.hand_over(|worker| Rpc::new(worker, router()));
    /// # assert_eq!([client, client].map(|it| put(&mut exchange, it)), [true, false]);
    /// ```
    pub fn now(&self) -> Duration {
        self.reply.now()
    }

    /// Names the connection for as long as the process lives.
    pub fn connection(&self) -> ConnectionId {
        self.reply.connection()
    }

    /// The other end.
    pub fn peer(&self) -> Peer<'_> {
        self.reply.peer()
    }

    /// A way to send notifications to this connection later, from anywhere.
    ///
    /// As long as one of its clones lives, a restart or reload closes the connection, because the successor would not know
    /// what it subscribed to. [`Context::subscription`] has it survive.
    pub fn notifier(&mut self) -> Notifier {
        Notifier::new(self.reply.handle(), self.session.subscribe(), self.strings)
    }

    /// A value that is kept with the connection, made when it is asked for first; one of each type. It is dropped when the
    /// connection has ended, or has gone to a successor, unless [`Router::gone`](crate::Router::gone) takes it.
    ///
    /// A restart or reload closes a connection with such a value, unless the router [resumes](crate::Router::resume) its type
    /// or its [`connected`](crate::Router::connected) has kept it, until it is [taken](Context::take_data). Who only
    /// looks whether there is one [gets](Context::get) it.
    pub fn data<T: Default + 'static>(&mut self) -> &mut T {
        self.session.data()
    }

    /// The value of this type that is kept with the connection; `None` if there is none, which stays so.
    pub fn get<T: 'static>(&mut self) -> Option<&mut T> {
        self.session.get()
    }

    /// The value of this type that is kept with the connection, as [`Context::data`], and a notifier for what the value
    /// says that the connection subscribes to. Use it instead of `data` and [`notifier`](Context::notifier) when the value lists
    /// what the connection subscribes to: then the subscription survives restarts.
    ///
    /// Such a notifier alone does not close the connection in a restart or reload. Its successor has the value again, if the
    /// router [resumes](crate::Router::resume) its type, and makes new notifiers for what it says.
    pub fn subscription<T: Default + 'static>(&mut self) -> (&mut T, Notifier) {
        let notifier = Notifier::of_subscription(self.reply.handle(), self.strings);
        (self.session.data(), notifier)
    }

    /// The value of this type, which is kept with the connection no longer; `None` if there was none.
    pub fn take_data<T: 'static>(&mut self) -> Option<T> {
        self.session.take_data()
    }

    /// Ends the connection for this reason when the handler has returned and its answer is written. The log has it at debug level
    /// only: nothing is wrong with whom a service lets go. Calls that are to be answered later by a [`Responder`](crate::Responder)
    /// are not waited for, and are never answered.
    pub fn close(&mut self, reason: impl Into<Cow<'static, str>>) {
        self.session.close(reason.into());
    }
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Context({})", self.connection())
    }
}
