//! Peers that reset while a handover waits for another worker.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Running;
use crate::config::Config;
use crate::crew::Step;
use crate::frame::Frame;
use crate::inherit::Inherited;
use crate::listeners::Address;
use crate::peer::Peer;
use crate::reply::Reply;
use crate::server::Server;
use crate::service::{Flow, Refusal, Saved, Service};

/// More than a connection may have unsent, so that a peer which does not read is given nothing more behind a few.
const REPLY_BYTES: usize = 100_000;

/// Answers each frame with so many bytes.
struct Replies {
    bytes: usize,
    given: Arc<AtomicU64>,
    /// Each frame takes its time as long as this is so.
    is_slow: Arc<AtomicBool>,
}

impl Service for Replies {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, _: &mut (), _: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        if self.is_slow.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.given.fetch_add(1, Ordering::SeqCst);
        reply.write(|out| out.resize(out.len() + self.bytes, 1));
        Flow::Continue
    }

    fn save(&self, (): &()) -> Saved {
        Saved::Stateless
    }
}

fn connect(running: &Running, name: &str) -> TcpStream {
    let listener = running.listeners().find(|listener| &*listener.name == name);
    match listener.unwrap().address {
        Address::Tcp(address) => TcpStream::connect(address).unwrap(),
        _ => panic!("{name} is one of TCP"),
    }
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Its own worker is at rest, and has given nothing to the service any more.
#[test]
fn what_waits_of_them_is_handed_over() {
    const SENT: usize = 3000;
    for engine in ["ring", "portable"] {
        let config = format!(
            "engine = \"{engine}\"\nworkers = 2\n[handover]\ndrain = \"0s\"\n[limits]\noutbox_bytes = \"64KiB\"\n
             [sockets.kept]\nlisten = [\"127.0.0.1:0\"]\nworkers = \"0\"\n
             [sockets.slow]\nlisten = [\"127.0.0.1:0\"]\nworkers = \"1\"\n"
        );
        let given: [Arc<AtomicU64>; 2] = Default::default();
        let is_slow = Arc::new(AtomicBool::new(true));
        let [kept, slow] = given.clone();
        let slowness = is_slow.clone();
        let running = Server::new(Config::parse(&config, "test").unwrap())
            .inherited(Inherited::none())
            .service("kept", move |_| Replies {
                bytes: REPLY_BYTES,
                given: kept.clone(),
                is_slow: Arc::default(),
            })
            .service("slow", move |_| Replies {
                bytes: 1,
                given: slow.clone(),
                is_slow: slowness.clone(),
            })
            .start()
            .unwrap();
        let total = || running.metrics().snapshot().total();
        let [mut kept, mut slow] = ["kept", "slow"].map(|name| connect(&running, name));
        kept.write_all(&[1; SENT]).unwrap();
        until("it is received", || total().bytes_in == SENT as u64);
        // A reply that is not read makes a reset of its end.
        slow.write_all(&[1; 1500]).unwrap();
        slow.read_exact(&mut [0]).unwrap();
        drop(slow);
        until("it has reset", || total().failed == 1);
        running.stop_to_hand_over();
        until("one is at rest", || {
            running.crew.has_reached(0, Step::Rests)
        });
        let turns = || running.metrics().worker(0).engine.turns.value();
        let before = turns();
        drop(kept);
        until("it is noticed", || {
            turns() > before || running.have_ended()[0]
        });
        is_slow.store(false, Ordering::SeqCst);
        let metrics = running.metrics().clone();
        let parcels = running.release().parcels;
        let waited: usize = parcels.iter().map(|parcel| parcel.state.input.len()).sum();
        let [kept, slow] = given.map(|given| given.load(Ordering::SeqCst));
        assert_eq!(slow, 1500, "{engine}");
        assert!(waited > 0, "{engine}");
        assert_eq!(kept as usize + waited, SENT, "{engine}");
        let total = metrics.snapshot().total();
        assert_eq!((total.failed, total.handed_over), (1, 1), "{engine}");
    }
}
