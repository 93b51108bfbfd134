//! What an instrument sends as datagrams goes to whoever has subscribed, on all workers. Restarts and reloads lose neither the
//! subscriptions nor the latest sample, nor what is sent meanwhile, as far as the socket's buffer has room for it. Try it with
//! `cargo run -p ringhold-rpc --example samples`, from another terminal with `ringhold call --follow 127.0.0.1:4672 subscribe '"samples"'`,
//! which prints what comes, and from bash with `echo 21.5 > /dev/udp/127.0.0.1/4673`.
//!
//! A socket unit with `ListenDatagram=`, `ReceiveBuffer=4M` and `FileDescriptorName=samples` has the socket there before the daemon is.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringhold_core::config::Config;
use ringhold_core::{Server, Watch, Worker};
use ringhold_log::Filter;
use ringhold_rpc::{Notification, Router, Rpc};
use serde::{Deserialize, Serialize};
use serde_bytes::{ByteBuf, Bytes};

#[path = "topics.rs"]
#[expect(dead_code, reason = "its main is not called")]
pub(crate) mod topics;

use topics::Hub;

const CONFIG: &str = r#"
[sockets.samples]
service = "samples"
listen = ["127.0.0.1:4672"]
"#;

/// So many datagrams are taken before connections have their turn.
const BATCH: usize = 64;

/// A longer datagram is cut.
const DATAGRAM_BYTES: usize = 1500;

/// How many samples there were, and the last one.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Latest(u64, ByteBuf);

/// What all workers know of the samples.
#[derive(Clone, Default)]
pub(crate) struct Board(Arc<Mutex<Latest>>);

impl Board {
    fn latest(&self) -> MutexGuard<'_, Latest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, sample: &[u8]) {
        let mut latest = self.latest();
        *latest = Latest(latest.0 + 1, ByteBuf::from(sample));
    }
}

/// The methods of `topics.rs`, and one for who comes late.
pub(crate) fn router(hub: &Hub, board: &Board) -> Router {
    let board = board.clone();
    topics::router(hub)
        .method("latest", move |()| Ok(board.latest().clone()))
        .describe("latest", "how many samples there were, and the last one")
}

/// Each datagram is an event of the topic `samples`. The worker that reads goes on where the one before has stopped.
pub(crate) fn reader(worker: &Worker, hub: &Hub, board: &Board, socket: UdpSocket) -> Router {
    let socket = Rc::new(socket);
    for latest in Router::taken_over(worker, "latest") {
        *board.latest() = latest;
    }
    let (subscribed, noted, left) = (hub.clone(), board.clone(), board.clone());
    let router = router(hub, board).hand_over("latest", move || left.latest().clone());
    router.watch(socket.clone(), move |_| {
        let mut datagram = [0; DATAGRAM_BYTES];
        for _ in 0..BATCH {
            let sample = match socket.recv(&mut datagram) {
                Ok(length) => Bytes::new(&datagram[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            noted.note(sample);
            let event = Notification::new("event", &("samples", sample));
            subscribed.publish("samples", &event.map_err(io::Error::other)?);
        }
        Ok(Watch::Continue)
    })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let filter = Filter::from_env("SAMPLES_LOG")?.unwrap_or_default();
    ringhold_log::start("samples", filter);
    let (hub, board) = (Hub::default(), Board::default());
    Server::new(Config::parse(CONFIG, "built-in")?)
        .preflight(|| {
            // A mistake in its names refuses a reload.
            router(&Hub::default(), &Board::default());
            Ok(())
        })
        .datagram("samples", SocketAddr::from(([127, 0, 0, 1], 4673)))
        .service("samples", move |worker| {
            // One of the workers reads for all.
            let router = match worker.index() {
                0 => reader(worker, &hub, &board, worker.descriptor("samples").into()),
                _ => router(&hub, &board),
            };
            Rpc::new(worker, router)
        })
        .run()?;
    Ok(())
}
