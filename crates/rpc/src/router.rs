//! Which method is answered by what.

use std::borrow::Cow;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use ringhold_core::Watch;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::answer::{Answer, Answered};
use crate::builtin;
use crate::call::Call;
use crate::clock::Clock;
use crate::context::Context;
use crate::drops::OneByOne;
use crate::fault::Fault;
use crate::guard::Guards;
use crate::hooks::Hooks;
use crate::left::Leavings;
use crate::methods::{Entry, Methods, Promises};
use crate::responder::Responder;
use crate::resume::Resumes;
use crate::turn::{Source, Turn};

/// The methods of a service. Each worker has a router of its own, so handlers may own state that is neither `Send` nor
/// shared.
///
/// ```
/// use ringhold_rpc::{Fault, Router};
///
/// let mut total = 0;
/// let router = Router::new()
///     .method("add", |(a, b): (i64, i64)| Ok(a + b))
///     .method("divide", |(a, b): (f64, f64)| {
///         if b == 0.0 {
///             return Err(Fault::new("division by zero"));
///         }
///         Ok(a / b)
///     })
///     .method("count", move |step: u64| {
///         total += step;
///         Ok(total)
///     })
///     .describe("count", "adds to a counter that each worker has");
/// # let _ = router;
/// ```
///
/// A request for a method gets exactly one reply. A notification of the same name runs the same handler, and what it
/// answers goes nowhere.
///
/// A mistake in the names, such as two methods of one name, panics when the router is made. After a reload that is too late: the process
/// before has let go, and the daemon is down. [`ServeRpc::rpc`](crate::ServeRpc::rpc) makes one before, in the program that the reload asks; whoever
/// adds an [`Rpc`](crate::Rpc) himself does that in [`Server::preflight`](ringhold_core::Server::preflight).
///
/// [`Router::new`] has the methods `ping`, `echo`, `methods`, `time` and `status` already, [`Router::bare`] has none.
pub struct Router {
    pub(crate) methods: Methods,
    pub(crate) guards: Guards,
    pub(crate) resumes: Resumes,
    pub(crate) hooks: Hooks,
    pub(crate) leavings: Leavings,
    pub(crate) clock: Clock<Box<Work>>,
    /// From the start.
    pub(crate) sources: OneByOne<Source>,
}

/// What is due from time to time.
type Work = dyn FnMut(&mut Turn<'_>);

impl Router {
    /// With the built-in methods:
    ///
    /// | method | parameters | result |
    /// |---|---|---|
    /// | `ping` | any | the str `pong` |
    /// | `echo` | any | its parameter, byte for byte; the array of them if there are several or none |
    /// | `methods` | none | a map from the name of each method to its description |
    /// | `time` | none | a map: `seconds` and `nanoseconds` since 1970-01-01 UTC, on the server's clock |
    /// | `status` | none | a map of the server's counters: `uptime_seconds`, `memory_bytes`, `owed` (deferred replies), `names` (by socket name, over all workers) `workers` (by worker: `engine`, and `names` again) and `own` (what services count themselves, and the calls of each method: a list of maps with `name`, `help`, `kind` and `values`) |
    ///
    /// A method of one's own takes the place of a built-in one of the same name.
    pub fn new() -> Self {
        Router {
            methods: builtin::methods(),
            ..Self::bare()
        }
    }

    /// Without any method.
    pub fn bare() -> Self {
        Router {
            methods: Methods::default(),
            guards: Guards::default(),
            resumes: Resumes::default(),
            hooks: Hooks::default(),
            leavings: Leavings::default(),
            clock: Clock::default(),
            sources: OneByOne::default(),
        }
    }

    /// Adds a method whose parameters and result are types.
    ///
    /// The parameters arrive as an array. A tuple takes them one by one; an `Option` at the end of it may be missing. A
    /// struct takes them in the order of its fields, where `#[serde(default)]` makes the last ones optional; a tuple struct
    /// has both. A `Vec` takes any number of them, `()` takes none, and any other type takes the only one. So does a type
    /// that takes whatever comes (`rmpv::Value`, an enum with `#[serde(untagged)]` or `#[serde(tag)]`), but for it none or
    /// several are a list. An `Option` of any of these is `None` if there are none, and if the only one is nil. They must be
    /// owned: of a `&str` the compiler says that "implementation of `Deserialize` is not general enough". See [`Router::raw`] and
    /// [`Call::decode`] for types that borrow.
    ///
    /// A client that sends a struct usually sends it as a map, which is one parameter. So a handler takes it as a tuple of one:
    ///
    /// ```
    /// #[derive(serde::Deserialize)]
    /// struct Reading {
    ///     channel: String,
    ///     value: f64,
    /// }
    ///
    /// let router = ringhold_rpc::Router::new()
    ///     // [{"channel": "a", "value": 1.5}]
    ///     .method("put", |(reading,): (Reading,)| Ok(format!("{}={}", reading.channel, reading.value)))
    ///     // ["a", 1.5]
    ///     .method("put_values", |reading: Reading| Ok(format!("{}={}", reading.channel, reading.value)));
    /// # let _ = router;
    /// ```
    ///
    /// Binary data is a `ByteBuf` of [serde_bytes](https://docs.rs/serde_bytes), as a parameter and as a result, and a field is with
    /// `#[serde(with = "serde_bytes")]`. A `Vec<u8>` is a list of numbers, as any `Vec`, and a result of that type is sent as one.
    ///
    /// ```
    /// # use ringhold_core::testing::Exchange;
    /// # use ringhold_rpc::{Router, Rpc};
    /// use serde_bytes::ByteBuf;
    ///
    /// let router = Router::new()
    ///     .method("bytes", |data: ByteBuf| Ok(data))
    ///     .method("numbers", |data: ByteBuf| Ok(data.into_vec()));
    /// # let mut exchange = Exchange::with_worker(|worker| Rpc::new(worker, router), Default::default());
    /// # let client = exchange.connect();
    /// // A bin of two bytes comes back as one,
    /// exchange.receive(client, b"\x94\x00\x01\xa5bytes\x91\xc4\x02\xfe\xff");
    /// assert_eq!(exchange.take_sent(client), b"\x94\x01\x01\xc0\xc4\x02\xfe\xff");
    /// // and here as an array of two numbers.
    /// exchange.receive(client, b"\x94\x00\x02\xa7numbers\x91\xc4\x02\xfe\xff");
    /// assert_eq!(exchange.take_sent(client), b"\x94\x01\x02\xc0\x92\xcc\xfe\xcc\xff");
    /// ```
    ///
    /// Msgpack has integers of up to 64 bits. A result of type `i128` or `u128` is sent as a bin of its 16 bytes, the highest
    /// first, however small it is. As a parameter either takes such a bin or any integer, and `u128` does not refuse a
    /// negative one as other types do: -1 becomes 2^128 - 1. Better are types of 64 bits, whose range is checked.
    ///
    /// The result is serialized into the connection's outbox; structs become maps. `?` turns what implements
    /// [`Error`](std::error::Error) into a [`Fault`]. A `Box<dyn Error>` does not ("`dyn Error: Sized` is not satisfied"); that is for
    /// [`Fault::from_error`].
    ///
    /// # Panics
    ///
    /// If the name is taken by another method that was added. How a reload to such a program is refused: [`Router`].
    #[must_use]
    pub fn method<P, R>(
        self,
        name: &str,
        mut handler: impl FnMut(P) -> Result<R, Fault> + 'static,
    ) -> Self
    where
        P: DeserializeOwned,
        R: Serialize,
    {
        self.raw(name, move |call, answer| {
            answer.result(call.decode().and_then(&mut handler))
        })
    }

    /// As [`Router::method`], for a handler that wants to know or keep something about the connection.
    ///
    /// # Panics
    ///
    /// As [`Router::method`].
    #[must_use]
    pub fn method_with<P, R>(
        self,
        name: &str,
        mut handler: impl FnMut(&mut Context<'_>, P) -> Result<R, Fault> + 'static,
    ) -> Self
    where
        P: DeserializeOwned,
        R: Serialize,
    {
        self.raw(name, move |call, mut answer| {
            let result = call
                .decode()
                .and_then(|params| handler(&mut answer.context(), params));
            answer.result(result)
        })
    }

    /// Adds a method that is answered later, from any thread: the handler passes the [`Responder`] on and returns. A task of an
    /// asynchronous runtime answers by [`Responder::with`].
    ///
    /// A notification that fails after its parameters were read is only counted; see [`Responder`].
    ///
    /// A thread that the handler starts shares the worker's CPU, see
    /// [`Server::service`](ringhold_core::Server::service).
    ///
    /// # Panics
    ///
    /// As [`Router::method`].
    #[must_use]
    pub fn deferred<P: DeserializeOwned>(
        self,
        name: &str,
        mut handler: impl FnMut(P, Responder) + 'static,
    ) -> Self {
        self.deferred_with(name, move |_, params, responder| handler(params, responder))
    }

    /// As [`Router::deferred`], for a handler that wants to know or keep something about the connection.
    ///
    /// # Panics
    ///
    /// As [`Router::method`].
    #[must_use]
    pub fn deferred_with<P: DeserializeOwned>(
        mut self,
        name: &str,
        mut handler: impl FnMut(&mut Context<'_>, P, Responder) + 'static,
    ) -> Self {
        let mut entry = Entry::new(name, "", false, move |call, mut answer| {
            match call.decode() {
                Ok(params) => {
                    let responder = answer.promise(&call);
                    handler(&mut answer.context(), params, responder);
                    answer.promised()
                }
                Err(fault) => answer.fault(fault),
            }
        });
        entry.method.promises = Promises::Answer;
        self.methods.insert(entry);
        self
    }

    /// Says that a [deferred](Router::deferred) method may be called again for a request that has no answer yet, such as one that waits
    /// for what happens next. No stop waits for its answers then. In a restart or reload that comes first the client goes on waiting, and
    /// the successor's method of this name is called as if the request had just come, before all that the client has sent since.
    /// `docs/services.md` has an example.
    ///
    /// This process answers it no more from then on, see [`Responder::is_wanted`] and [`Responder::try_ok`]. Guards and
    /// `promise_timeout` begin anew. What counts calls counts it again. In a stop without a successor, and on a connection whose data are
    /// not [passed on](Router::resume), it is given up as soon as nothing else is waited for: the client gets the error that the server
    /// is stopping. Where the successor has no such socket name any more, or another service answers on it, the connection ends without one.
    ///
    /// A copy of each such request is kept until it is answered, which counts in `limits.memory`.
    ///
    /// # Panics
    ///
    /// If there is no such method, or it is not deferred. One that is [raw](Router::raw) says it itself, by
    /// [`Answer::defer_repeatable`].
    #[must_use]
    pub fn repeatable(mut self, name: &str) -> Self {
        match self.methods.named(name) {
            Some(method) if method.promises != Promises::Nothing => {
                method.promises = Promises::Repeatable;
            }
            Some(_) => panic!("the method {name:?} is not deferred, and needs not be repeatable"),
            None => panic!("there is no method {name:?} to be repeatable"),
        }
        self
    }

    /// Adds a method that has no result, usually sent as a notification. A request for it is answered with nil when the
    /// handler has returned. A notification whose parameters are not of this type is lost for its sender, who is told nothing: it is
    /// a warning in the log, of which a worker writes ten a second, two of each connection, and counts as a fault of the method in the [metrics](ringhold_core::Worker::counter).
    ///
    /// So is one whose handler refuses what came: a [`Router::method`] without a result. Where that is a matter of course, and only to be
    /// counted, it is a [`Router::deferred`] that answers at once. Parameters that are not of its type are a warning there, too.
    ///
    /// ```
    /// # use ringhold_rpc::{Fault, Router};
    /// /// Takes what is in range.
    /// fn put(value: f64) -> Result<(), Fault> {
    ///     match value {
    ///         0.0..100.0 => Ok(()),
    ///         _ => Err(Fault::new("out of range")),
    ///     }
    /// }
    ///
    /// let router = Router::new()
    ///     .method("put", put)
    ///     .deferred("put_quietly", |value, responder| responder.result(put(value)));
    /// # let _ = router;
    /// ```
    ///
    /// # Panics
    ///
    /// As [`Router::method`].
    #[must_use]
    pub fn notification<P: DeserializeOwned>(
        self,
        name: &str,
        mut handler: impl FnMut(P) + 'static,
    ) -> Self {
        self.method(name, move |params| {
            handler(params);
            Ok(())
        })
    }

    /// As [`Router::notification`], for a handler that wants to know or keep something about the connection.
    ///
    /// # Panics
    ///
    /// As [`Router::method`].
    #[must_use]
    pub fn notification_with<P: DeserializeOwned>(
        self,
        name: &str,
        mut handler: impl FnMut(&mut Context<'_>, P) + 'static,
    ) -> Self {
        self.method_with(name, move |context, params| {
            handler(context, params);
            Ok(())
        })
    }

    /// Adds a method that reads its parameters where they were received and writes its result where it is sent from.
    ///
    /// ```
    /// # use ringhold_rpc::Router;
    /// let router = Router::new().raw("checksum", |call, answer| {
    ///     let sum = call.params().iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    ///     answer.ok(&sum)
    /// });
    /// # let _ = router;
    /// ```
    ///
    /// # Panics
    ///
    /// As [`Router::method`].
    #[must_use]
    pub fn raw(
        mut self,
        name: &str,
        handler: impl FnMut(Call<'_>, Answer<'_>) -> Answered + 'static,
    ) -> Self {
        self.methods.insert(Entry::new(name, "", false, handler));
        self
    }

    /// Calls `work` when the worker that the router serves begins to serve, and then each time when `interval` is over, at least a
    /// millisecond: for what is due without a request, such as a device to be opened, a batch to be written, or a heartbeat by
    /// [`Notifier`](crate::Notifier)s.
    ///
    /// The first call, at each start, restart and reload, comes behind what was handed over, connections of all workers and their data
    /// too, and before any request of this worker's. With [`Duration::MAX`] it is the only one. If the worker was busy for several intervals, `work` is called once for all of
    /// them. If `work` panics that is counted and logged, and it is called again all the same. See
    /// [`Service::tick`](ringhold_core::Service::tick).
    ///
    /// The [`Turn`] tells the time, which stands still in tests, and watches what is opened meanwhile.
    #[must_use]
    pub fn every(mut self, interval: Duration, work: impl FnMut(&mut Turn<'_>) + 'static) -> Self {
        self.clock.add(interval, Box::new(work));
        self
    }

    /// Calls `read` whenever there is something to read from this descriptor, such as a datagram socket, on the worker that the router
    /// serves. `read` needs the descriptor, too: keep it in an `Rc` or `Arc` and pass a clone here. `examples/samples.rs` is a whole daemon.
    ///
    /// `read` takes a bounded amount, without blocking; as long as there is more it is called again, between the requests of connections.
    /// If it fails or panics that is logged, and it is called again in the next turn if there still is something to read; if that fails,
    /// too, a second later: what is wrong with one datagram is best dealt with in `read`, a panic of its decoder too
    /// ([`std::panic::catch_unwind`]). See [`Service::readable`](ringhold_core::Service::readable) and
    /// [`Worker::watch`](ringhold_core::Worker::watch).
    ///
    /// What is opened later, or again after [`Watch::End`], is watched by [`Turn::watch`].
    ///
    /// ```
    /// # use std::{io, net::UdpSocket, sync::Arc};
    /// use ringhold_core::Watch;
    /// # use ringhold_rpc::Router;
    ///
    /// /// The socket does not block.
    /// fn router(socket: Arc<UdpSocket>, mut publish: impl FnMut(&[u8]) + 'static) -> Router {
    ///     Router::new().watch(socket.clone(), move |_| {
    ///         let mut datagram = [0; 1500];
    ///         for _ in 0..64 {
    ///             match socket.recv(&mut datagram) {
    ///                 Ok(length) => publish(&datagram[..length]),
    ///                 Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
    ///                 Err(error) => return Err(error),
    ///             }
    ///         }
    ///         Ok(Watch::Continue)
    ///     })
    /// }
    /// # let _ = router(Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap()), |_| ());
    /// ```
    #[must_use]
    pub fn watch(
        mut self,
        descriptor: impl AsFd + 'static,
        read: impl FnMut(&mut Turn<'_>) -> io::Result<Watch> + 'static,
    ) -> Self {
        self.sources.push(Source::new(descriptor, read));
        self
    }

    /// Describes a method, for the people who ask `methods`. One line is best.
    ///
    /// # Panics
    ///
    /// If there is no such method.
    #[must_use]
    pub fn describe(mut self, name: &str, description: impl Into<Cow<'static, str>>) -> Self {
        match self.methods.named(name) {
            Some(method) => method.description = description.into(),
            None => panic!("there is no method {name:?} to describe"),
        }
        self
    }

    /// The names and descriptions of all methods, sorted by name.
    pub fn methods(&self) -> Vec<(&str, &str)> {
        self.methods.list()
    }
}

impl Default for Router {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.methods.fmt(f)
    }
}
