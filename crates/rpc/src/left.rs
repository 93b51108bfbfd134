//! What handlers keep on a worker, and leave to the next process.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use ringhold_core::panics::Caught;
use ringhold_core::{Claims, Plain, Worker};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::drops::OneByOne;
use crate::router::Router;

/// What is written for the successor: the name and the msgpack of each value.
type Written<'a> = Vec<(&'a str, &'a serde_bytes::Bytes)>;

impl Router {
    /// Has what handlers keep themselves on this worker, not for a connection, survive restarts and reloads: `leave` is called when the
    /// last request is answered, and the next process asks for it with [`Router::taken_over`] when it makes its routers.
    ///
    /// ```
    /// # use std::{cell::RefCell, collections::BTreeMap, rc::Rc};
    /// # use ringhold_core::Worker;
    /// # use ringhold_rpc::{Router, Rpc};
    /// /// How often each user was seen on this worker.
    /// type Visits = BTreeMap<String, u64>;
    ///
    /// fn make(worker: &Worker) -> Rpc {
    ///     let mut visits = Visits::new();
    ///     for (user, count) in Router::taken_over::<Visits>(worker, "visits").into_iter().flatten() {
    ///         // There may be more or fewer workers than before: one of them goes on where all have stopped.
    ///         if worker.index() == 0 {
    ///             *visits.entry(user).or_default() += count;
    ///         }
    ///     }
    ///     let visits = Rc::new(RefCell::new(visits));
    ///     let left = visits.clone();
    ///     let router = Router::new()
    ///         .notification("visit", move |user: String| *visits.borrow_mut().entry(user).or_default() += 1)
    ///         .hand_over("visits", move || left.take());
    ///     Rpc::new(worker, router)
    /// }
    /// # let mut exchange = ringhold_core::testing::Exchange::with_worker(make, Default::default());
    /// # let client = exchange.connect();
    /// # exchange.receive(client, b"\x93\x02\xa5visit\x91\xa3ann");
    /// # let _ = exchange.hand_over(make).hand_over(|worker| {
    /// #     assert_eq!(Router::taken_over::<Visits>(worker, "visits"), [Visits::from([("ann".into(), 1)])]);
    /// #     make(worker)
    /// # });
    /// ```
    ///
    /// It is passed on as msgpack with the names of fields, so fields may be added and left out if `#[serde(default)]` makes up for them,
    /// and much of one kind takes less as tuples. In a stop it is called as well if there is a store, and then nobody may come to take it
    /// over: what must not be lost, `leave` writes to a file before it returns. `examples/writer.rs` has a thread that does. If `leave`
    /// does not return that costs the worker's connections and all that its services would leave; if it panics that is counted and
    /// logged, and costs this value alone. A name that is never asked for, on any worker, is not handed over,
    /// with an error in the log, and one that the successor does not ask for is lost, with a warning. When it is called and when not:
    /// [`Service::hand_over`](ringhold_core::Service::hand_over).
    ///
    /// # Panics
    ///
    /// If something is handed over under this name already.
    #[must_use]
    pub fn hand_over<T: Serialize>(
        mut self,
        name: &str,
        leave: impl FnMut() -> T + 'static,
    ) -> Self {
        self.leavings.add(name, leave);
        self
    }

    /// What the workers of the process before have [handed over](Router::hand_over) under this name, in their order. Each worker of this
    /// one is given all of it, see [`Worker::taken_over`], and decodes it anew; it is enough if one of them asks. What cannot be decoded is left
    /// out, with an error in the log: that is right for what can be made again, such as a cache. Otherwise see [`Router::try_taken_over`].
    pub fn taken_over<T: DeserializeOwned>(worker: &Worker, name: &str) -> Vec<T> {
        let values = Self::each_taken_over(worker, name);
        values
            .flat_map(|values| {
                let say = |error| tracing::error!("{error}");
                values.map_err(say).unwrap_or_default()
            })
            .collect()
    }

    /// As [`Router::taken_over`], for what must not be lost: with [`Server::try_service`](ringhold_core::Server::try_service) a program that
    /// cannot read it does not start, and the next start finds all of it, connections too, if the service manager keeps them. Once the old
    /// program is back they go on.
    ///
    /// ```
    /// # use std::{cell::RefCell, rc::Rc};
    /// # use ringhold_core::{Server, Worker, config::Config};
    /// # use ringhold_rpc::{Router, Rpc, TakeOverError};
    /// fn make(worker: &Worker) -> Result<Rpc, TakeOverError> {
    ///     let balance: i64 = Router::try_taken_over::<i64>(worker, "balance")?.into_iter().sum();
    ///     # let balance = Rc::new(RefCell::new(balance));
    ///     // …
    ///     # Ok(Rpc::new(worker, Router::new().hand_over("balance", move || balance.take())))
    /// }
    ///
    /// fn server(config: Config) -> Server {
    ///     Server::new(config).try_service("accounts", make)
    /// }
    /// # let _ = server;
    /// ```
    ///
    /// # Errors
    ///
    /// The first value that cannot be decoded. All are read before.
    pub fn try_taken_over<T: DeserializeOwned>(
        worker: &Worker,
        name: &str,
    ) -> Result<Vec<T>, TakeOverError> {
        let values: Vec<_> = Self::each_taken_over(worker, name).collect();
        let values: Result<Vec<_>, _> = values.into_iter().collect();
        Ok(values?.into_iter().flatten().collect())
    }

    /// What each worker has left under this name: one value or none.
    fn each_taken_over<T: DeserializeOwned>(
        worker: &Worker,
        name: &str,
    ) -> impl Iterator<Item = Result<Option<T>, TakeOverError>> {
        let claims = worker.claims();
        claims.claim(name);
        let read = move |left: &Bytes| -> Result<Option<T>, rmp_serde::decode::Error> {
            let written: Written<'_> = rmp_serde::from_slice(left)?;
            written
                .iter()
                .for_each(|(known, _)| claims.note_left(known));
            let value = written.into_iter().find(|(known, _)| *known == name);
            value
                .map(|(_, value)| rmp_serde::from_slice(value))
                .transpose()
        };
        let left = worker.taken_over().iter();
        left.map(move |left| {
            read(left).map_err(|error| TakeOverError {
                name: name.to_owned(),
                // What serde says can quote values, and those may be of clients.
                why: Plain(error).to_string(),
            })
        })
    }
}

/// What the process before has left under a name is not what this one can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakeOverError {
    name: String,
    why: String,
}

impl fmt::Display for TakeOverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TakeOverError { name, why } = self;
        write!(
            f,
            "{name:?}, which the predecessor left, cannot be taken over: {why}"
        )
    }
}

impl std::error::Error for TakeOverError {}

type Leave = Box<dyn FnMut() -> Result<Vec<u8>, rmp_serde::encode::Error>>;

/// What [`Router::hand_over`] was given, by name.
#[derive(Default)]
pub(crate) struct Leavings(OneByOne<(String, Leave)>);

impl Leavings {
    pub(crate) fn add<T: Serialize>(&mut self, name: &str, mut leave: impl FnMut() -> T + 'static) {
        let is_taken = self.0.iter().any(|(taken, _)| taken == name);
        assert!(!is_taken, "two values are handed over as {name:?}");
        let leave = move || rmp_serde::to_vec_named(&leave());
        self.0.push((name.to_owned(), Box::new(leave)));
    }

    /// All of it for the successor; `None` if there is nothing. What cannot be written or is not claimed is logged and left
    /// out, and so is what has panicked, of which `report` is told.
    pub(crate) fn write(
        &mut self,
        claims: &Claims,
        report: impl Fn(&str, &Caught),
    ) -> Option<Bytes> {
        let write = |(name, leave): &mut (String, Leave)| {
            if !claims.is_claimed(name) {
                tracing::error!(
                    "{name:?} is lost and not handed over: this program does not ask for what was left under that name \
                     (Router::taken_over)"
                );
                return None;
            }
            // Unwind safety: it is called once, and what others see of its state is up to the handlers.
            match catch_unwind(AssertUnwindSafe(leave)) {
                Ok(Ok(value)) => return Some((name.clone(), value)),
                Ok(Err(error)) => {
                    tracing::error!(
                        "{name:?} cannot be handed over, it is no msgpack: {}",
                        Plain(error)
                    );
                }
                Err(panic) => {
                    let what = format!("what is handed over as {name:?}");
                    report(&what, &Caught::new(panic));
                }
            }
            None
        };
        let values: Vec<_> = self.0.iter_mut().filter_map(write).collect();
        let values = values.iter();
        let written: Written<'_> = values
            .map(|(name, value)| (&**name, serde_bytes::Bytes::new(value)))
            .collect();
        // An array of pairs of str and bin can be written, always.
        let bytes = (!written.is_empty()).then(|| rmp_serde::to_vec(&written).ok());
        bytes.flatten().map(Bytes::from)
    }
}
