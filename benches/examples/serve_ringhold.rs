//! Ringhold as the bench `throughput` measures it: the RPC service with one worker on one CPU, on a TCP and a unix socket.
//!
//! `echo` and `ping` are built in. A connection that says `subscribe` gets an `event` for each `publish`, from whomever;
//! its bytes are encoded once and shared by all.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;

use clap::Parser;
use ringhold_core::config::Config;
use ringhold_core::{Server, cpus};
use ringhold_rpc::{Fault, Notification, Notifier, Router, Rpc};
use serde_bytes::Bytes;

#[derive(Parser)]
struct Arguments {
    /// Where to listen, with port 0 for any.
    #[arg(long)]
    tcp: SocketAddr,
    /// Where to make a unix socket.
    #[arg(long)]
    unix: PathBuf,
    /// The CPU to run on.
    #[arg(long)]
    cpu: usize,
    /// How long the idle worker looks for work before it sleeps.
    #[arg(long, default_value = "0s")]
    spin: String,
    /// The congestion control of TCP connections.
    #[arg(long)]
    congestion: Option<String>,
    /// Which engine: auto, ring or portable.
    #[arg(long, default_value = "auto")]
    engine: String,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    // Before there is any other thread: one CPU in the mask is one worker.
    cpus::pin(arguments.cpu)?;
    let listen = [
        arguments.tcp.to_string(),
        format!("unix:{}", arguments.unix.display()),
    ];
    let mut config = format!(
        "engine = {:?}\nspin = {:?}\n[limits]\nconnections = 20000\n[sockets.rpc]\nlisten = {listen:?}\n",
        arguments.engine, arguments.spin
    );
    if let Some(name) = arguments.congestion {
        config += &format!("congestion = {name:?}\n");
    }
    let running = Server::new(Config::parse(&config, "built-in")?)
        .service("rpc", |worker| Rpc::new(worker, router()))
        .start()?;
    let addresses = running.listeners().map(|listener| &listener.address);
    for address in addresses.filter(|address| address.is_tcp()) {
        println!("listening {address}");
    }
    loop {
        std::thread::park();
    }
}

fn router() -> Router {
    // Each worker has a router, and so subscribers, of its own; here there is one.
    let subscribers = Rc::new(RefCell::new(Vec::<Notifier>::new()));
    let publishing = subscribers.clone();
    Router::new()
        .notification_with("subscribe", move |context, ()| {
            subscribers.borrow_mut().push(context.notifier());
        })
        .raw("publish", move |call, answer| {
            let event = call.decode().and_then(|(payload,): (&Bytes,)| {
                Notification::new("event", &(payload,)).map_err(Fault::from)
            });
            match event {
                Ok(event) => {
                    publishing.borrow_mut().retain(|to| to.send(&event).is_ok());
                    answer.ok(&())
                }
                Err(fault) => answer.fault(fault),
            }
        })
}
