//! What the tests of both engines have in common: a server, its clients, and what must be true at the end.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringhold_core::config::Config;
use ringhold_core::inherit::Inherited;
use ringhold_core::listeners::Address;
use ringhold_core::metrics::{EngineTotals, Metrics, NameTotals, Snapshot};
use ringhold_core::{Flow, Frame, Peer, Refusal, Reply, Running, Server, Service};

/// Nothing here takes so long unless it hangs.
pub(crate) const SAFETY_NET: Duration = Duration::from_secs(180);

/// The engines that work here, as the configuration calls them.
pub(crate) fn engines() -> Vec<&'static str> {
    let mut engines = vec!["portable"];
    match ringhold_core::probe::probe().unavailable {
        None => engines.push("ring"),
        Some(why) => eprintln!("{why}"),
    }
    engines
}

/// Greets each connection with one byte and sends every frame back.
pub(crate) struct Echo;

/// The frame that each connection begins with.
pub(crate) const GREETING: u8 = 0x2a;

impl Service for Echo {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, reply: &mut Reply<'_>) -> Result<(), Refusal> {
        reply.write(|out| out.push(GREETING));
        Ok(())
    }

    fn frame(&mut self, _: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        reply.write(|out| out.extend_from_slice(&frame));
        Flow::Continue
    }
}

/// A server that runs.
pub(crate) struct Bed {
    running: Running,
    metrics: Arc<Metrics>,
    /// Holds the paths of unix sockets.
    directory: tempfile::TempDir,
}

impl Bed {
    /// Starts a server of [`Echo`] with this engine and this configuration, in which `@` stands for a directory.
    pub(crate) fn start(engine: &str, config: &str) -> Self {
        Self::start_inheriting(engine, config, Vec::new())
    }

    /// As [`Bed::start`], with the services that `services` adds instead.
    pub(crate) fn start_serving(
        engine: &str,
        config: &str,
        services: impl FnOnce(Server) -> Server,
    ) -> Self {
        Self::start_with(engine, config, Vec::new(), services)
    }

    /// As [`Bed::start`], with these sockets inherited.
    pub(crate) fn start_inheriting(
        engine: &str,
        config: &str,
        sockets: Vec<(String, OwnedFd)>,
    ) -> Self {
        Self::start_with(engine, config, sockets, |server| {
            server.service("echo", |_| Echo)
        })
    }

    fn start_with(
        engine: &str,
        config: &str,
        sockets: Vec<(String, OwnedFd)>,
        services: impl FnOnce(Server) -> Server,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().display().to_string();
        let text = format!("engine = \"{engine}\"\n{}", config.replace('@', &path));
        let config = Config::parse(&text, "test").unwrap_or_else(|error| panic!("{error}"));
        let server = Server::new(config).inherited(Inherited::from_descriptors(sockets));
        let running = services(server)
            .start()
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(running.engine().to_string(), engine);
        Bed {
            metrics: running.metrics().clone(),
            running,
            directory,
        }
    }

    /// The address of the first TCP listener.
    pub(crate) fn address(&self) -> SocketAddr {
        let mut listeners = self.running.listeners();
        listeners
            .find_map(|listener| match listener.address {
                Address::Tcp(address) => Some(address),
                _ => None,
            })
            .unwrap()
    }

    /// The address of the first TCP listener of this name.
    pub(crate) fn address_of(&self, name: &str) -> SocketAddr {
        let listeners = self.running.listeners();
        let mut named = listeners.filter(|listener| &*listener.name == name);
        named
            .find_map(|listener| match listener.address {
                Address::Tcp(address) => Some(address),
                _ => None,
            })
            .unwrap()
    }

    /// A connection to the first TCP listener.
    pub(crate) fn connect(&self) -> TcpStream {
        connect(self.address())
    }

    /// The path `file` in the directory of this server.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.metrics.snapshot()
    }

    /// The counters of all names.
    pub(crate) fn total(&self) -> NameTotals {
        self.snapshot().total()
    }

    /// The counters of all engines.
    pub(crate) fn engine(&self) -> EngineTotals {
        let mut total = EngineTotals::default();
        for worker in &self.snapshot().workers {
            total.add(&worker.engine);
        }
        total
    }

    /// Waits until `condition` holds.
    pub(crate) fn until(&self, what: &str, mut condition: impl FnMut(&Bed) -> bool) {
        let start = Instant::now();
        while !condition(self) {
            let snapshot = self.snapshot();
            assert!(start.elapsed() < SAFETY_NET, "never: {what}\n{snapshot:#?}");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    pub(crate) fn stop(&self) {
        self.running.stop();
    }

    /// Stops the server and waits for its end. Returns the last counters.
    pub(crate) fn finish(self) -> NameTotals {
        self.end().total()
    }

    /// As [`Bed::finish`], with the counters of each name.
    pub(crate) fn end(self) -> Snapshot {
        assert_no_kernel_workers();
        self.running.stop();
        self.running.join().unwrap();
        let snapshot = self.metrics.snapshot();
        assert_eq!(snapshot.total().open, 0, "{snapshot:#?}");
        snapshot
    }
}

/// The kernel makes a thread of such a name when an operation cannot be done without blocking: none of ours may.
pub(crate) fn assert_no_kernel_workers() {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names: Vec<String> = tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .collect();
    assert!(
        !names.iter().any(|name| name.starts_with("iou-wrk")),
        "{names:?}"
    );
}

/// A connection that gives up only where a test hangs.
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(SAFETY_NET)).unwrap();
    stream.set_write_timeout(Some(SAFETY_NET)).unwrap();
    stream
}

/// As [`connect`], on a unix socket.
pub(crate) fn connect_unix(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(SAFETY_NET)).unwrap();
    stream.set_write_timeout(Some(SAFETY_NET)).unwrap();
    stream
}

/// Expects these bytes next.
pub(crate) fn expect(stream: &mut impl Read, expected: &[u8]) {
    let mut buffer = vec![0; expected.len().min(256 * 1024)];
    let mut done = 0;
    while done < expected.len() {
        let room = buffer.len().min(expected.len() - done);
        match stream.read(&mut buffer[..room]) {
            Ok(0) => panic!("the end came after {done} of {} bytes", expected.len()),
            Ok(count) => {
                let wrong = (0..count).find(|i| buffer[*i] != expected[done + i]);
                assert_eq!(wrong.map(|i| done + i), None, "position of a wrong byte");
                done += count;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("after {done} of {} bytes: {error}", expected.len()),
        }
    }
}

/// Reads up to the end, in whatever way it comes.
pub(crate) fn drain(stream: &mut impl Read) {
    let mut buffer = vec![0; 1 << 20];
    loop {
        match stream.read(&mut buffer) {
            Ok(1..) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            _ => return,
        }
    }
}

/// Expects the orderly end, and nothing before it.
pub(crate) fn expect_end(stream: &mut impl Read) {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, [] as [u8; 0]);
}

/// Sends `frames` and expects them back, both at the same time.
pub(crate) fn exchange<S>(stream: &S, frames: &[u8])
where
    S: Sync,
    for<'a> &'a S: Read + Write,
{
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = stream;
            writer.write_all(frames).unwrap();
        });
        let mut reader = stream;
        expect(&mut reader, frames);
    });
}

/// A `bin 32` frame of `size` bytes in all, no two pieces of which are alike.
pub(crate) fn frame(size: usize, seed: u32) -> Vec<u8> {
    let mut frame = vec![0xc6];
    let payload = u32::try_from(size - 5).unwrap();
    frame.extend_from_slice(&payload.to_be_bytes());
    let mut word = seed;
    while frame.len() < size {
        word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        frame.extend_from_slice(&word.to_be_bytes());
    }
    frame.truncate(size);
    frame
}
