//! Ringhold as the bench `throughput` measures it: the RPC service on a TCP and a unix socket, with a worker for each of its CPUs unless
//! told otherwise.
//!
//! `echo` and `ping` are built in, and `fetch` answers with as many bytes as it is asked for. A connection that says `subscribe` gets an `event` for each `publish`, from whomever;
//! its bytes are encoded once and shared by all.
#![forbid(unsafe_code)]

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use clap::Parser;
use ringhold_core::Server;
use ringhold_core::config::Config;
use ringhold_rpc::{Fault, Notification, Notifier, Router, Rpc};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_bytes::Bytes;

#[derive(Parser)]
struct Arguments {
    /// Where to listen, with port 0 for any.
    #[arg(long)]
    tcp: SocketAddr,
    /// Where to make a unix socket.
    #[arg(long)]
    unix: PathBuf,
    /// The CPUs to run on.
    #[arg(long, value_delimiter = ',', required = true)]
    cpu: Vec<usize>,
    /// How long the idle worker looks for work before it sleeps.
    #[arg(long, default_value = "0s")]
    spin: String,
    /// The congestion control of TCP connections.
    #[arg(long)]
    congestion: Option<String>,
    /// How many workers share the CPUs; as many as these by default.
    #[arg(long)]
    workers: Option<usize>,
    /// Whether each worker is pinned to a CPU of its own; by default if they are as many as these.
    #[arg(long)]
    pin: Option<bool>,
    /// Which engine: auto, ring or portable.
    #[arg(long, default_value = "auto")]
    engine: String,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    // Before there is any other thread.
    let mut cpus = CpuSet::new();
    arguments.cpu.iter().for_each(|cpu| cpus.set(*cpu));
    sched_setaffinity(None, &cpus)?;
    let listen = [
        arguments.tcp.to_string(),
        format!("unix:{}", arguments.unix.display()),
    ];
    let pin = arguments
        .pin
        .map_or(String::new(), |pin| format!("pin = {pin}\n"));
    let mut config = format!(
        "{pin}engine = {:?}\nspin = {:?}\nworkers = {}\n[limits]\nconnections = 20000\n[sockets.rpc]\nlisten = {listen:?}\n",
        arguments.engine,
        arguments.spin,
        arguments.workers.unwrap_or(arguments.cpu.len())
    );
    if let Some(name) = arguments.congestion {
        config += &format!("congestion = {name:?}\n");
    }
    let subscribers = Subscribers::default();
    let running = Server::new(Config::parse(&config, "built-in")?)
        .service("rpc", move |worker| {
            Rpc::new(worker, router(subscribers.clone()))
        })
        .start()?;
    let addresses = running.listeners().map(|listener| &listener.address);
    for address in addresses.filter(|address| address.is_tcp()) {
        println!("listening {address}");
    }
    loop {
        std::thread::park();
    }
}

/// The most that can be fetched.
const FETCH_BYTES_MAX: usize = 1 << 20;

/// On whichever worker.
type Subscribers = Arc<Mutex<Vec<Notifier>>>;

fn router(subscribers: Subscribers) -> Router {
    let publishing = subscribers.clone();
    let stock = LazyLock::new(|| -> Vec<u8> {
        let bytes = (0..FETCH_BYTES_MAX).map(|at| (at % 251) as u8);
        bytes.collect()
    });
    Router::new()
        .raw("fetch", move |call, answer| match call.decode() {
            Ok((bytes,)) => match stock.get(..bytes) {
                Some(bytes) => answer.ok(Bytes::new(bytes)),
                None => answer.fault(Fault::new("there is not so much")),
            },
            Err(fault) => answer.fault(fault),
        })
        .notification_with("subscribe", move |context, ()| {
            locked(&subscribers).push(context.notifier());
        })
        .raw("publish", move |call, answer| {
            let event = call.decode().and_then(|(payload,): (&Bytes,)| {
                Notification::new("event", &(payload,)).map_err(Fault::from)
            });
            match event {
                Ok(event) => {
                    locked(&publishing).retain(|to| to.send(&event).is_ok());
                    answer.ok(&())
                }
                Err(fault) => answer.fault(fault),
            }
        })
}

fn locked(subscribers: &Subscribers) -> MutexGuard<'_, Vec<Notifier>> {
    subscribers.lock().unwrap_or_else(PoisonError::into_inner)
}
