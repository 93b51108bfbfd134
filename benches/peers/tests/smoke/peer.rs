//! A peer as a process, and connections to it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use io_uring::{Builder, IoUring};
use tempfile::TempDir;

/// So long a read may take; a peer that hangs would otherwise hang the test.
pub(crate) const READ_TIME_MAX: Duration = Duration::from_secs(60);

/// What a peer needs of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ring {
    /// Nothing.
    No,
    /// io_uring with a single issuer, of Linux 6.0 or newer.
    Cooperating,
    /// io_uring with deferred work, of Linux 6.1 or newer.
    Deferring,
}

/// Killed when the value is dropped.
pub(crate) struct Peer {
    child: Child,
    tcp: SocketAddr,
    unix: PathBuf,
    _dir: TempDir,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Tcp,
    Unix,
}

impl Peer {
    /// Starts it with so many threads, which share a CPU. `None`, and a line that says so, where the kernel does not have what it needs.
    pub(crate) fn start(program: &str, ring: Ring, threads: usize) -> Option<Self> {
        if let Some(missing) = missing(ring) {
            eprintln!("not tested: {missing}");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let unix = dir.path().join("peer.sock");
        let cpus = vec![rustix::thread::sched_getcpu().to_string(); threads];
        let mut child = Command::new(program)
            .args(["--tcp", "127.0.0.1:0", "--cpu", &cpus.join(",")])
            .arg("--unix")
            .arg(&unix)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("listening ");
        let tcp = address.expect("it says where it listens").parse().unwrap();
        Some(Self {
            child,
            tcp,
            unix,
            _dir: dir,
        })
    }

    pub(crate) fn connect(&self, kind: Kind) -> Stream {
        match kind {
            Kind::Tcp => {
                let stream = TcpStream::connect(self.tcp).unwrap();
                stream.set_nodelay(true).unwrap();
                stream.set_read_timeout(Some(READ_TIME_MAX)).unwrap();
                Stream::Tcp(stream)
            }
            Kind::Unix => {
                let stream = UnixStream::connect(&self.unix).unwrap();
                stream.set_read_timeout(Some(READ_TIME_MAX)).unwrap();
                Stream::Unix(stream)
            }
        }
    }

    /// How many descriptors it has open.
    pub(crate) fn descriptors(&self) -> usize {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.child.id()));
        open.unwrap().count()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn missing(ring: Ring) -> Option<String> {
    let mut builder: Builder = IoUring::builder();
    let made = match ring {
        Ring::No => return None,
        Ring::Cooperating => builder.setup_single_issuer().setup_coop_taskrun().build(8),
        Ring::Deferring => builder.setup_single_issuer().setup_defer_taskrun().build(8),
    };
    let error = made.err()?;
    Some(format!("an io_uring ({ring:?}) cannot be made: {error}"))
}

/// A blocking connection.
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    pub(crate) fn try_clone(&self) -> Self {
        match self {
            Self::Tcp(stream) => Self::Tcp(stream.try_clone().unwrap()),
            Self::Unix(stream) => Self::Unix(stream.try_clone().unwrap()),
        }
    }

    pub(crate) fn shutdown(&self, how: Shutdown) {
        match self {
            Self::Tcp(stream) => stream.shutdown(how).unwrap(),
            Self::Unix(stream) => stream.shutdown(how).unwrap(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
