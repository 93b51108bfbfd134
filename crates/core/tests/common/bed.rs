//! A server that runs, and what can be asked of it.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ringhold_core::config::Config;
use ringhold_core::inherit::Inherited;
use ringhold_core::limits::Limits;
use ringhold_core::listeners::Address;
use ringhold_core::metrics::{EngineTotals, Metrics, NameTotals, Snapshot};
use ringhold_core::{EngineKind, Running, Server};

use super::{PATIENCE, assert_no_kernel_workers, client};

/// The counters of the server that was started last, for the last words of a test that fails or hangs.
pub(crate) static WATCHED: Mutex<Option<Arc<Metrics>>> = Mutex::new(None);

/// Limits in time that a test does not set are longer than it takes, on however busy a machine: they would cut whom it keeps
/// waiting.
fn be_patient(limits: &mut Limits) {
    let usual = Limits::default();
    for (limit, usual) in [
        (&mut limits.frame_timeout, usual.frame_timeout),
        (&mut limits.write_timeout, usual.write_timeout),
    ] {
        if *limit == usual {
            *limit = 4 * PATIENCE;
        }
    }
}

/// A server that runs.
pub(crate) struct Bed {
    pub(crate) engine: EngineKind,
    running: Running,
    /// Holds the paths of unix sockets, if there are any.
    directory: Option<tempfile::TempDir>,
}

impl Bed {
    /// Starts a server with this engine and this configuration, in which `@` stands for a directory of its own.
    /// `services` adds what its sockets name.
    pub(crate) fn start(
        engine: EngineKind,
        config: &str,
        services: impl FnOnce(Server) -> Server,
    ) -> Self {
        Self::start_inheriting(engine, config, Inherited::none(), services)
    }

    /// As [`Bed::start`], with these sockets inherited.
    pub(crate) fn start_inheriting(
        engine: EngineKind,
        config: &str,
        inherited: Inherited,
        services: impl FnOnce(Server) -> Server,
    ) -> Self {
        let directory = config.contains('@').then(|| tempfile::tempdir().unwrap());
        let path = directory
            .as_ref()
            .map_or(String::new(), |dir| dir.path().display().to_string());
        let text = format!("engine = \"{engine}\"\n{}", config.replace('@', &path));
        let mut config = Config::parse(&text, "test").unwrap_or_else(|error| panic!("{error}"));
        be_patient(&mut config.limits);
        let running = services(Server::new(config).inherited(inherited))
            .start()
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(running.engine(), engine);
        *WATCHED.lock().unwrap() = Some(running.metrics().clone());
        Bed {
            engine,
            running,
            directory,
        }
    }

    /// The addresses of the TCP listeners of a name.
    pub(crate) fn addresses(&self, name: &str) -> Vec<SocketAddr> {
        let listeners = self.running.listeners();
        let named = listeners.filter(|listener| &*listener.name == name);
        named
            .filter_map(|listener| match listener.address {
                Address::Tcp(address) => Some(address),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn address(&self, name: &str) -> SocketAddr {
        self.addresses(name)[0]
    }

    /// A connection to the first TCP listener of a name.
    pub(crate) fn connect(&self, name: &str) -> TcpStream {
        client::connect(self.address(name))
    }

    /// The path `file` in the directory of this server.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.directory.as_ref().unwrap().path().join(file)
    }

    pub(crate) fn connect_unix(&self, file: &str) -> UnixStream {
        client::connect_unix(&self.path(file))
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.running.metrics().snapshot()
    }

    /// The counters of all names.
    pub(crate) fn total(&self) -> NameTotals {
        self.snapshot().total()
    }

    /// The counters of one name.
    pub(crate) fn name(&self, name: &str) -> NameTotals {
        self.snapshot().name(name).unwrap()
    }

    /// The counters of all engines.
    pub(crate) fn counters(&self) -> EngineTotals {
        let mut total = EngineTotals::default();
        for worker in &self.snapshot().workers {
            total.add(&worker.engine);
        }
        total
    }

    pub(crate) fn memory_held(&self) -> u64 {
        self.running.memory_held()
    }

    /// Waits until `condition` holds. `what` says what was waited for if it never does.
    pub(crate) fn until(&self, what: &str, mut condition: impl FnMut(&Bed) -> bool) {
        let start = Instant::now();
        while !condition(self) {
            let snapshot = self.snapshot();
            assert!(start.elapsed() < PATIENCE, "never: {what}\n{snapshot:#?}");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Waits until the server has received so many bytes in all.
    pub(crate) fn until_received(&self, bytes: u64) {
        self.until("bytes received", |bed| bed.total().bytes_in >= bytes);
    }

    /// Waits until so many connections are open.
    pub(crate) fn until_open(&self, count: u64) {
        self.until("connections open", |bed| bed.total().open == count);
    }

    /// Waits until so many connections of a name are open.
    pub(crate) fn until_open_on(&self, name: &str, count: u64) {
        self.until("connections open", |bed| bed.name(name).open == count);
    }

    /// Tells the server to stop.
    pub(crate) fn stop(&self) {
        self.running.stop();
    }

    /// Stops the server and waits for its end. Returns the last counters.
    pub(crate) fn end(self) -> Snapshot {
        assert_no_kernel_workers();
        let metrics = self.running.metrics().clone();
        self.running.stop();
        self.running.join().unwrap();
        let snapshot = metrics.snapshot();
        assert_eq!(snapshot.total().open, 0, "{snapshot:#?}");
        snapshot
    }
}
