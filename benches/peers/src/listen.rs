//! What every peer does before it serves.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

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
    /// The CPU to run on
    #[arg(long)]
    cpu: Option<usize>,
    /// The congestion control of TCP connections
    #[arg(long)]
    congestion: Option<String>,
}

/// Where clients connect to. The sockets are non-blocking, and what is accepted on TCP has TCP_NODELAY.
#[derive(Debug)]
pub struct Listeners {
    /// TCP.
    pub tcp: TcpListener,
    /// Unix.
    pub unix: UnixListener,
}

impl Listeners {
    /// Reads the command line, moves the calling thread to its CPU, allows as many descriptors as there may be, and
    /// binds.
    ///
    /// # Errors
    ///
    /// Those of the system calls.
    pub fn open() -> io::Result<Self> {
        let arguments = Arguments::parse();
        if let Some(cpu) = arguments.cpu {
            let mut cpus = CpuSet::new();
            cpus.set(cpu);
            sched_setaffinity(None, &cpus)?;
        }
        let limit = getrlimit(Resource::Nofile);
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        setrlimit(Resource::Nofile, raised)?;

        let tcp = Socket::new(Domain::for_address(arguments.tcp), Type::STREAM, None)?;
        tcp.set_reuse_address(true)?;
        // Accepted sockets inherit it.
        tcp.set_tcp_nodelay(true)?;
        if let Some(name) = &arguments.congestion {
            set_tcp_congestion(&tcp, name)?;
        }
        let unix = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        for (socket, address) in [
            (&tcp, SockAddr::from(arguments.tcp)),
            (&unix, SockAddr::unix(&arguments.unix)?),
        ] {
            socket.set_nonblocking(true)?;
            socket.bind(&address)?;
            socket.listen(BACKLOG)?;
        }
        Ok(Self {
            tcp: tcp.into(),
            unix: unix.into(),
        })
    }

    /// Says on standard output that clients may come, and where.
    ///
    /// # Errors
    ///
    /// That it cannot be written.
    pub fn announce(&self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "listening {}", self.tcp.local_addr()?)?;
        out.flush()
    }
}
