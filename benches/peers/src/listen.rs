//! What every peer does before it serves.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::exit;
use std::thread;

use clap::Parser;
use rustix::net::sockopt::set_tcp_congestion;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use socket2::{Domain, SockAddr, Socket, Type};

/// The kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// The command line of a peer.
#[derive(Debug, Parser)]
pub struct Arguments {
    /// The TCP address to listen on; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    tcp: SocketAddr,
    /// The path of the unix socket to listen on
    #[arg(long)]
    unix: PathBuf,
    /// The CPUs to run on, with a thread for each
    #[arg(long, value_delimiter = ',')]
    cpu: Vec<usize>,
    /// The congestion control of TCP connections
    #[arg(long)]
    congestion: Option<String>,
}

impl Arguments {
    /// Reads the command line.
    pub fn read() -> Self {
        Self::parse()
    }

    /// How many threads are to serve.
    pub fn threads(&self) -> usize {
        self.cpu.len().max(1)
    }
}

/// Where clients connect to. The sockets are non-blocking, and what is accepted on TCP has TCP_NODELAY.
#[derive(Debug)]
pub struct Listeners {
    /// TCP.
    pub tcp: TcpListener,
    /// Unix.
    pub unix: UnixListener,
    /// Whether they are those of the first thread.
    first: bool,
}

/// Serves in this thread, or with several CPUs in a thread on each of them, which has a TCP listener of its own
/// (SO_REUSEPORT). That does not exist for unix sockets: there all threads accept from the same listener.
///
/// # Errors
///
/// Those of the system calls, and that of `serve` in this thread; one in another thread ends the program.
pub fn serve_on_each_cpu(serve: fn(Listeners) -> io::Result<()>) -> io::Result<()> {
    let arguments = Arguments::read();
    let listeners = Listeners::open(&arguments)?;
    for &cpu in arguments.cpu.iter().skip(1) {
        let others = listeners.again(&arguments)?;
        thread::spawn(move || {
            let error = run_on(&[cpu]).and_then(|()| serve(others));
            eprintln!("CPU {cpu}: {error:?}");
            exit(1);
        });
    }
    if let Some(&cpu) = arguments.cpu.first() {
        run_on(&[cpu])?;
    }
    serve(listeners)
}

/// Moves the calling thread to these CPUs.
fn run_on(cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(*cpu));
    Ok(sched_setaffinity(None, &set)?)
}

impl Listeners {
    /// Moves the calling thread to the CPUs, allows as many descriptors as there may be, and binds.
    ///
    /// # Errors
    ///
    /// Those of the system calls.
    pub fn open(arguments: &Arguments) -> io::Result<Self> {
        if !arguments.cpu.is_empty() {
            run_on(&arguments.cpu)?;
        }
        let limit = getrlimit(Resource::Nofile);
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        setrlimit(Resource::Nofile, raised)?;
        let unix = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        listen(&unix, &SockAddr::unix(&arguments.unix)?)?;
        Ok(Self {
            tcp: listen_tcp(arguments, arguments.tcp)?,
            unix: unix.into(),
            first: true,
        })
    }

    /// Those of another thread.
    fn again(&self, arguments: &Arguments) -> io::Result<Self> {
        Ok(Self {
            tcp: listen_tcp(arguments, self.tcp.local_addr()?)?,
            unix: self.unix.try_clone()?,
            first: false,
        })
    }

    /// Says on standard output that clients may come, and where. Of several threads only the first one does.
    ///
    /// # Errors
    ///
    /// That it cannot be written.
    pub fn announce(&self) -> io::Result<()> {
        if !self.first {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        writeln!(out, "listening {}", self.tcp.local_addr()?)?;
        out.flush()
    }
}

fn listen_tcp(arguments: &Arguments, address: SocketAddr) -> io::Result<TcpListener> {
    let tcp = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    tcp.set_reuse_address(true)?;
    tcp.set_reuse_port(arguments.threads() > 1)?;
    // Accepted sockets inherit it.
    tcp.set_tcp_nodelay(true)?;
    if let Some(name) = &arguments.congestion {
        set_tcp_congestion(&tcp, name)?;
    }
    listen(&tcp, &SockAddr::from(address))?;
    Ok(tcp.into())
}

fn listen(socket: &Socket, address: &SockAddr) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
