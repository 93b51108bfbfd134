//! The builder: from a configuration and services to a server that runs.

mod error;
mod start;

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use crate::belongings::{DescriptorClaims, Wanted};
use crate::config::Config;
use crate::cpus;
use crate::host::Hosted;
use crate::inherit::Inherited;
use crate::listeners::{self, Held};
use crate::patience::Patience;
use crate::running::Running;
use crate::service::Service;
use crate::worker::{Factory, Worker};

pub use self::error::ServerError;
pub(crate) use self::start::must_be_free;

/// The CPU of each worker.
type Cpus = Vec<Option<usize>>;

/// What the program looks at before it is asked to serve.
type Look = Box<dyn FnOnce() -> Result<(), Box<dyn Error + Send + Sync>> + Send>;

/// A server that is being put together: a configuration, and the services that its sockets name.
///
/// [`Server::run`] is all that the `main` of a daemon needs, besides a log: everything is reported as events of the crate
/// `tracing`, and nothing is seen unless the program installs a subscriber, such as that of `ringhold-log`. [`Server::start`]
/// leaves the signals alone and gives the service manager nothing, for programs that embed a server, and for tests.
pub struct Server {
    pub(crate) config: Config,
    pub(crate) services: Vec<(String, Factory)>,
    pub(crate) claims: DescriptorClaims,
    looks: Vec<Look>,
    pub(crate) inherited: Option<Inherited>,
    pub(crate) inherited_only: bool,
    /// How long it tries to get what its workers need.
    pub(crate) patience: Patience,
}

impl Server {
    /// A server without services.
    pub fn new(config: Config) -> Self {
        Server {
            config,
            services: Vec::new(),
            claims: DescriptorClaims::default(),
            looks: Vec::new(),
            inherited: None,
            inherited_only: false,
            patience: Patience::default(),
        }
    }

    /// Adds a service under the name that `service = "..."` in a socket's section means. `make` is called once on each
    /// worker's thread, whichever sockets name the service, and what it makes stays there until the worker ends, which drops it.
    /// The services of one worker are made one after the other, in the order in which they were added; the workers make theirs at the same
    /// time, and nobody is served before all are made.
    ///
    /// If that thread is pinned to a CPU (key `pin`: by default if there are as many workers as CPUs), every thread that is started
    /// from it, here or in a call of the service, inherits that: it competes with the worker. Threads that compute are better
    /// started in `main` (see [`Server::inherited`]), or set their own affinity (sched_setaffinity(2)).
    ///
    /// `make` is not called in the program that a reload asks. If it fails after a reload, the program cannot serve, and nobody
    /// can go back: what can be looked at before belongs into [`Server::preflight`], as do the names of the methods of MessagePack-RPC.
    /// One that may fail because of what it opens is for [`Server::try_service`]: a panic may be because of what the predecessor's
    /// services left ([`Worker::taken_over`]), and after three of them the program starts without that, and without its connections.
    ///
    /// # Panics
    ///
    /// If the name is taken.
    #[must_use]
    pub fn service<S: Service>(
        self,
        name: impl Into<String>,
        make: impl Fn(&Worker) -> S + Send + Sync + 'static,
    ) -> Self {
        self.try_service(name, move |worker| Ok::<S, Infallible>(make(worker)))
    }

    /// As [`Server::service`], a service that may not be had at the moment, since its database does not answer, say. An error of
    /// `make`, a text or any other, ends the start with [`ServerError::Service`]. What was made is dropped; what a predecessor left
    /// stays with the service manager for the next start, however often that happens.
    ///
    /// ```
    /// # use std::io;
    /// # use std::net::TcpStream;
    /// # use ringhold_core::config::Config;
    /// # use ringhold_core::{Flow, Frame, Peer, Refusal, Reply, Server, Service, Worker};
    /// struct Archive {
    ///     database: TcpStream,
    /// }
    ///
    /// impl Archive {
    ///     fn new(_: &Worker) -> io::Result<Self> {
    ///         let database = TcpStream::connect("127.0.0.1:1")?;
    ///         Ok(Archive { database })
    ///     }
    /// }
    /// # impl Service for Archive {
    /// #     type Session = ();
    /// #     fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> { Ok(()) }
    /// #     fn frame(&mut self, _: &mut (), _: Frame<'_>, _: &mut Reply<'_>) -> Flow { Flow::Continue }
    /// # }
    /// # let config = Config::parse("workers = 1", "example").unwrap();
    ///
    /// let server = Server::new(config).try_service("archive", Archive::new);
    /// # let error = server.start().unwrap_err();
    /// # assert!(error.to_string().starts_with("service archive cannot be made on worker 0: Connection refused"));
    /// ```
    ///
    /// # Panics
    ///
    /// If the name is taken.
    #[must_use]
    pub fn try_service<S, E>(
        mut self,
        name: impl Into<String>,
        make: impl Fn(&Worker) -> Result<S, E> + Send + Sync + 'static,
    ) -> Self
    where
        S: Service,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let name = name.into();
        assert!(
            self.services.iter().all(|(taken, _)| *taken != name),
            "there are two services named {name:?}"
        );
        let factory: Factory = Arc::new(move |worker| match make(worker) {
            Ok(service) => Ok(Box::new(Hosted::new(service))),
            Err(error) => Err(error.into()),
        });
        self.services.push((name, factory));
        self
    }

    /// Claims a descriptor that belongs to the application and is no socket of the configuration: a FIFO, a tun, perf or memory file, a
    /// unix datagram socket. (For a UDP socket there is [`Server::datagram`].) It stays open over restarts, reloads and crashes.
    ///
    /// [`Server::run`] calls `make` once, on its own thread, before the sockets are opened and the services made. It is given
    /// the descriptor of this name that was passed on, or opens one if it is given none, and returns the one that the server is to hold and
    /// to pass on. Services have a duplicate of that by [`Worker::descriptor`].
    ///
    /// What was passed on is what the configuration said when it was opened. `make` looks whether it says so still, as here for a UDP
    /// socket with an option of its own, or a change goes unnoticed until a stop:
    ///
    /// ```
    /// # use std::os::fd::OwnedFd;
    /// # use ringhold_core::config::Config;
    /// # use ringhold_core::inherit::Inherited;
    /// # use ringhold_core::{Flow, Frame, Peer, Refusal, Reply, Server, Service, Worker};
    /// use std::net::UdpSocket;
    ///
    /// # struct Samples;
    /// # impl Samples {
    /// #     fn new(_: UdpSocket) -> Self { Samples }
    /// # }
    /// # fn checked(socket: UdpSocket, expected: std::net::SocketAddr) -> UdpSocket {
    /// #     assert_eq!(socket.local_addr().unwrap(), expected);
    /// #     socket
    /// # }
    /// # impl Service for Samples {
    /// #     type Session = ();
    /// #     fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> { Ok(()) }
    /// #     fn frame(&mut self, _: &mut (), _: Frame<'_>, _: &mut Reply<'_>) -> Flow { Flow::Continue }
    /// # }
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let [before, now] = [UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?];
    /// # let [same, address] = [before.local_addr()?, now.local_addr()?];
    /// # drop(now);
    /// # for (before, address) in [(before.try_clone()?, same), (before, address)] {
    /// # let config = Config::parse("workers = 1", "example")?;
    /// # let before = vec![("ringhold.fd.samples".to_owned(), OwnedFd::from(before))];
    /// # let server = Server::new(config).inherited(Inherited::from_descriptors(before));
    /// let server = server.descriptor("samples", move |inherited| {
    ///     let there = inherited.map(UdpSocket::from);
    ///     let socket = match there.filter(|it| it.local_addr().is_ok_and(|at| at == address)) {
    ///         Some(socket) => socket,
    ///         None => UdpSocket::bind(address)?,
    ///     };
    ///     socket.set_broadcast(true)?;
    ///     socket.set_nonblocking(true)?;
    ///     Ok(socket.into())
    /// });
    /// let server = server.service("samples", move |worker| {
    ///     let socket = UdpSocket::from(worker.descriptor("samples"));
    ///     # let socket = checked(socket, address);
    ///     Samples::new(socket)
    /// });
    /// // server.run()
    /// # let running = server.start()?;
    /// # running.stop();
    /// # running.join()?;
    /// # }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// - A socket unit that says `FileDescriptorName=` with this name passes the descriptor on at every start, a listening socket too;
    ///   the application accepts on that itself. Two descriptors of one name are an error.
    /// - What `make` has opened goes to the successor of a reload, and lies in the service manager's store meanwhile if the unit has
    ///   one (`FileDescriptorStoreMax=`, one more for each such name), so that a restart and a crash leave it open as well. If a socket unit
    ///   passes on one of this name, too, that one is given to `make`, and the other closed.
    /// - `make` may return another descriptor than the one that it was given. It is held instead, but what comes from a socket
    ///   unit comes again after a restart. The address of a UDP socket that it gives up so may be that of a [`Server::datagram`], for which a
    ///   reload is refused and a restart is not. One that makes the program crash comes again as well, so look at what is in a file.
    /// - Under a new name, the address of a UDP or TCP socket that the old name has is still in use when `make` is called: keep the name, or
    ///   leave UDP to [`Server::datagram`], which is not hindered. `docs/restart.md` says why, and what a store keeps in use besides.
    /// - A program that does not claim the name any more closes what its predecessor had opened, and removes it from the
    ///   store. What a socket unit passes on it would lose: a reload to it is refused; after a restart that is closed with a
    ///   warning, or an error if it is a listening socket.
    /// - `make` is not called in the program that a reload asks. [`Server::inherited_only`] is not about it: whether a missing
    ///   descriptor is an error is for `make` to say. [`Server::start`] calls it, too, and passes the descriptor on to nobody.
    /// - What is to reach connections is best read by a service on one worker, when there is something ([`Worker::watch`]) or in
    ///   [`Service::tick`], without blocking: both are called as long as all connections are there, those of the predecessor too, and
    ///   what comes meanwhile waits in the descriptor's queue. A thread that `make` starts reads before that, and until the process has
    ///   been replaced, and what it pushes then reaches nobody.
    /// - What a thread has read and not made use of when the process replaces itself is lost; the `Drop` of a service can wait for it.
    ///
    /// # Errors
    ///
    /// Those of `make` are errors of the start, before anything is taken out of the service manager's store. After a reload, that is
    /// too late to go back: the predecessor has let go of its connections, and without a store they are lost. What `make` can fail
    /// for is best looked at in [`Server::preflight`], too. One of the kind [`InvalidInput`](io::ErrorKind::InvalidInput) is for what is not
    /// of the moment: that the unit passes on nothing, or the wrong thing. Its [exit status](ServerError::exit_status) is 2, of any other 1, and
    /// where nothing was passed on the names of what was are put behind it. A section of the configuration that takes descriptors of this
    /// name is an error that refuses a reload.
    ///
    /// ```
    /// # use std::io;
    /// # use ringhold_core::{Server, config::Config};
    /// # let config = Config::parse("workers = 1", "example").unwrap();
    /// let server = Server::new(config).descriptor("events", |inherited| {
    ///     let missing = || io::Error::new(io::ErrorKind::InvalidInput, "start station-events.socket");
    ///     inherited.ok_or_else(missing)
    /// });
    /// # let error = server.start().unwrap_err();
    /// # assert!(error.to_string().ends_with(": start station-events.socket; inherited were none"), "{error}");
    /// # assert_eq!(error.exit_status(), 2);
    /// ```
    ///
    /// # Panics
    ///
    /// If the name is taken, begins with `ringhold.`, or is none for a descriptor: 1 to 243 printable ASCII characters without a
    /// colon.
    #[must_use]
    pub fn descriptor(
        mut self,
        name: impl Into<String>,
        make: impl FnOnce(Option<OwnedFd>) -> io::Result<OwnedFd> + Send + 'static,
    ) -> Self {
        self.claims.add(name.into(), Wanted::Made(Box::new(make)));
        self
    }

    /// As [`Server::descriptor`], a UDP socket, which is what most applications want besides connections. It comes from a socket unit with
    /// `ListenDatagram=` and `FileDescriptorName=` of this name, at whatever address that says, or else is bound to `address`, which may be a
    /// setting of the program ([`Config::from_file_with_app`]). It does not block. Services have it by [`Worker::descriptor`], and set there
    /// what it is to be like, such as its receive buffer (SO_RCVBUF), which is `net.core.rmem_default` or what `ReceiveBuffer=` of the
    /// unit says: it is the same socket, which stays like that.
    ///
    /// ```
    /// # use std::net::{SocketAddr, UdpSocket};
    /// # use ringhold_core::config::Config;
    /// # use ringhold_core::{Flow, Frame, Peer, Refusal, Reply, Server, Service, Worker};
    /// # struct Metrics;
    /// # impl Metrics {
    /// #     fn new(worker: &Worker, socket: UdpSocket) -> Self {
    /// #         assert!(worker.index() == 0 && socket.local_addr().is_ok());
    /// #         Metrics
    /// #     }
    /// # }
    /// # impl Service for Metrics {
    /// #     type Session = ();
    /// #     fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> { Ok(()) }
    /// #     fn frame(&mut self, _: &mut (), _: Frame<'_>, _: &mut Reply<'_>) -> Flow { Flow::Continue }
    /// # }
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = Config::parse("workers = 1", "example")?;
    /// # let address = SocketAddr::from(([127, 0, 0, 1], 0));
    /// let server = Server::new(config)
    ///     .datagram("metrics", address)
    ///     .service("metrics", |worker| {
    ///         let socket = UdpSocket::from(worker.descriptor("metrics"));
    ///         Metrics::new(worker, socket)
    ///     });
    /// // server.run()
    /// # let running = server.start()?;
    /// # running.stop();
    /// # running.join()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// - One that was bound to another address before a restart or reload is closed, and with it what is in its queue. The new one is
    ///   bound first, and the old one is not in its way. The same goes for a new name. A reload is refused if the new address cannot be
    ///   had. What becomes of port 0, of a socket that a service has connected, and of one that another process may hinder is in
    ///   `docs/restart.md`.
    /// - Anything else under this name, such as a listening socket, and a second socket are errors, and refuse a reload. So does another
    ///   one at the same address, or at one that includes it.
    /// - With [`Server::inherited_only`] it must come from a socket unit.
    ///
    /// # Errors
    ///
    /// Those of the unit and of the program are of [exit status](ServerError::exit_status) 2, that the address cannot be had is
    /// of 1, whatever is wrong with it. All are errors of the start, as those of [`Server::descriptor`] are.
    ///
    /// # Panics
    ///
    /// As [`Server::descriptor`].
    #[must_use]
    pub fn datagram(mut self, name: impl Into<String>, address: SocketAddr) -> Self {
        self.claims.add(name.into(), Wanted::Datagram(address));
        self
    }

    /// Adds what the program itself wants to look at before it serves: whether its own settings make sense, whether a file can be
    /// read or a directory written to. It is called
    ///
    /// - in the program that a reload asks: an error refuses the reload, and nothing has changed;
    /// - by [`Server::check`] and [`Server::check_assuming_inherited`];
    /// - at every start, before anything is opened, but in the process that a reload has executed: the program that was asked has looked,
    ///   and nobody is served meanwhile. So what the service needs is opened by [`Server::descriptor`] or where the service is made, not here.
    ///
    /// So it may be called while another process of this program serves, and must leave nothing behind. What that one has open is in
    /// use: a trial of an address that it has itself fails, too, with [`AddrInUse`](io::ErrorKind::AddrInUse), while any other
    /// error of the trial is one. The program that is asked has 10 seconds in all.
    ///
    /// If several are added, they are called in their order, up to the first error. A panic ends the program, which refuses the reload as well.
    ///
    /// ```
    /// # use ringhold_core::{Server, ServerError};
    /// # use ringhold_core::config::Config;
    /// # let config = Config::parse("workers = 1", "example").unwrap();
    /// # let archive = std::path::PathBuf::from("/srv/no/such/archive");
    /// let server = Server::new(config).preflight(move || {
    ///     // That it is there does not say that it can be written to.
    ///     let tried = archive.join(format!(".tried-{}", std::process::id()));
    ///     let made = std::fs::File::create_new(&tried).and_then(|_| std::fs::remove_file(&tried));
    ///     Ok(made.map_err(|error| format!("archive {}: {error}", archive.display()))?)
    /// });
    /// # let error = server.check().unwrap_err();
    /// # assert!(error.to_string().starts_with("archive /srv/no/such/archive: "));
    /// ```
    #[must_use]
    pub fn preflight(
        mut self,
        look: impl FnOnce() -> Result<(), Box<dyn Error + Send + Sync>> + Send + 'static,
    ) -> Self {
        self.looks.push(Box::new(look));
        self
    }

    /// Makes it an error if an enabled socket, or a [datagram socket](Server::datagram), is not inherited, instead of binding it.
    #[must_use]
    pub fn inherited_only(mut self, only: bool) -> Self {
        self.inherited_only = only;
        self
    }

    /// Uses these descriptors instead of those that the environment announces.
    ///
    /// A program that has threads before it comes to [`Server::run`] takes the announced ones before it starts any: once
    /// there are threads, the announcement cannot be removed from the environment, and the server would not start under
    /// socket activation.
    ///
    /// ```no_run
    /// # use ringhold_core::config::Config;
    /// use ringhold_core::inherit::Inherited;
    /// use ringhold_core::{Server, block_signals};
    ///
    /// # fn serve(config: Config) -> Result<(), Box<dyn std::error::Error>> {
    /// block_signals()?;
    /// let inherited = Inherited::take()?;
    /// std::thread::spawn(|| { /* ... */ });
    /// Server::new(config).inherited(inherited).run()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn inherited(mut self, inherited: Inherited) -> Self {
        self.inherited = Some(inherited);
        self
    }

    /// What the server would listen on, and the descriptors that the application claims. Takes the inherited descriptors, but binds and
    /// opens nothing.
    ///
    /// # Errors
    ///
    /// Everything that stands in the way of starting, as far as it can be known without binding.
    pub fn check(mut self) -> Result<listeners::Table, ServerError> {
        let (plan, _, claimed) = self.plan()?;
        self.look()?;
        let mut table = plan.table();
        table.0.extend(self.claims.rows(Some(&claimed)));
        Ok(table)
    }

    /// As [`Server::check`], for a process that is not passed the descriptors that the server would be: it assumes one
    /// listener for each name, and each [datagram socket](Server::datagram).
    ///
    /// # Errors
    ///
    /// Everything that stands in the way of starting then.
    pub fn check_assuming_inherited(mut self) -> Result<listeners::Table, ServerError> {
        let names = self.config.sockets.iter();
        let names: Vec<String> = names
            .map(|(name, socket)| socket.descriptor_name(name).to_owned())
            .collect();
        self.rehearse(&names, &[])?;
        let mut table = listeners::Table::assumed(&self.config, self.worker_count());
        table.0.extend(self.claims.rows(None));
        Ok(table)
    }

    pub(crate) fn service_names(&self) -> impl Iterator<Item = &str> {
        self.services.iter().map(|(name, _)| name.as_str())
    }

    pub(crate) fn worker_count(&self) -> usize {
        self.cpus().len()
    }

    /// The CPU of each worker.
    fn cpus(&self) -> Cpus {
        let Config { workers, pin, .. } = self.config;
        let available = cpus::available().unwrap_or_default();
        cpus::assign(workers, pin, &available, cpus::quota())
    }

    /// Whether there would be problems if listeners with these descriptor names were inherited, and `held` were passed on
    /// by a process that has bound them; or others, in the program's own eyes.
    pub(crate) fn rehearse(
        &mut self,
        inherited: &[String],
        held: &[Held],
    ) -> Result<(), ServerError> {
        let services: Vec<&str> = self.service_names().collect();
        let workers = self.worker_count();
        self.check_program(inherited)?;
        let inherited = self.unclaimed(inherited);
        let only = self.inherited_only;
        listeners::rehearse(&self.config, &inherited, only, &services, workers)?;
        listeners::rehearse_binding(&self.config, &inherited, held)?;
        self.look()
    }

    /// How many listeners it would bind if descriptors of these names were `inherited`.
    pub(crate) fn to_be_bound(&self, inherited: &[String]) -> usize {
        listeners::to_be_bound(
            &self.config,
            &self.unclaimed(inherited),
            self.worker_count(),
        )
    }

    /// Those of the names that are left to sections.
    fn unclaimed<'n>(&self, names: &'n [String]) -> Vec<&'n str> {
        let names = names.iter().map(String::as_str);
        names.filter(|name| !self.claims.has(name)).collect()
    }

    /// What the program itself may have wrong, whatever is there: its configuration, and the names that it claims of those `inherited`.
    fn check_program(&self, inherited: &[String]) -> Result<(), ServerError> {
        self.config.check().map_err(ServerError::Config)?;
        self.claims.check(&self.config, inherited)
    }

    /// Calls what the program wants to look at.
    fn look(&mut self) -> Result<(), ServerError> {
        let mut looks = self.looks.drain(..);
        looks.try_for_each(|look| look().map_err(ServerError::Preflight))
    }

    /// Starts the workers and returns when every socket listens and every worker is set up. Who has connected by then waits in
    /// the backlog and is accepted now.
    ///
    /// What was passed on to this process is taken as by [`Server::run`], and so is what a predecessor that was run has left in the
    /// service manager's store: the server goes on with those connections, and has the store drop them, and what nobody here knows. But
    /// it puts nothing there, not at the end either: a stop closes all connections. To say that the program is ready, and to feed
    /// the watchdog, is up to the program, and nobody sees to it that new clients find other workers than one that is stuck in a call of
    /// a service. One that keeps descriptors in the store itself takes them out of what it gives to
    /// [`Server::inherited`].
    ///
    /// Where the rings of all workers might exceed the limit of locked memory, its soft limit (RLIMIT_MEMLOCK) is 0 for some microseconds of the
    /// start, to find out whether rings count at all. Who locks memory meanwhile on another thread fails, and a child that is started has
    /// that limit: start the server first.
    ///
    /// # Errors
    ///
    /// Whatever stood in the way. Nothing is left behind then.
    pub fn start(self) -> Result<Running, ServerError> {
        let running = self.start_held(0)?;
        running.resume();
        running.say_taken_over(Instant::now());
        Ok(running)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sockets: Vec<_> = self.config.sockets.keys().collect();
        let services: Vec<_> = self.services.iter().map(|(name, _)| name).collect();
        f.debug_struct("Server")
            .field("sockets", &sockets)
            .field("services", &services)
            .finish_non_exhaustive()
    }
}
