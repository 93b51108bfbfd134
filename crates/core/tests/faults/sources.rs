//! Services for which workers watch descriptors.

use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringhold_core::config::Config;
use ringhold_core::inherit::Inherited;
use ringhold_core::{
    Flow, Frame, Handle, Peer, Refusal, Reply, Server, Service, SourceId, Tick, Watch,
};

use crate::bed::{Bed, Engine};
use crate::common::client;

const CONFIG: &str = "
    workers = 2
    [sockets.relay]
    listen = [\"127.0.0.1:0\"]
    workers = [0]";

/// So many datagrams are read in a call.
const BATCH: usize = 3;

/// Passes on what it reads to its last client, and echoes what that says.
struct Relay {
    socket: Option<Arc<UnixDatagram>>,
    reader: Option<Handle>,
}

impl Service for Relay {
    type Session = ();

    fn connected(&mut self, peer: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        self.reader = Some(peer.handle());
        Ok(())
    }

    fn frame(&mut self, _: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        reply.write(|out| out.extend_from_slice(&frame));
        Flow::Continue
    }

    fn readable(&mut self, _: SourceId, _: &Tick<'_>) -> io::Result<Watch> {
        let socket = self.socket.as_ref().unwrap();
        let mut datagram = [0; 8];
        for _ in 0..BATCH {
            match socket.recv(&mut datagram) {
                Ok(length) => {
                    let reader = self.reader.as_ref().unwrap();
                    reader.push(datagram[..length].to_vec()).unwrap();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(Watch::Continue)
    }
}

/// Each of two workers reads from a socket of its own, but only the first one has clients.
pub(crate) fn what_is_watched_is_read_in_order(engine: Engine) {
    const COUNT: u64 = 3000;
    let (sender, receiver) = UnixDatagram::pair().unwrap();
    receiver.set_nonblocking(true).unwrap();
    let receiver = Mutex::new(Some(Arc::new(receiver)));
    let bed = Bed::start(engine, CONFIG, |server| {
        server.service("relay", move |worker| {
            let socket = match worker.index() {
                0 => receiver.lock().unwrap().take(),
                _ => None,
            };
            if let Some(socket) = &socket {
                worker.watch(socket.clone());
            }
            Relay {
                socket,
                reader: None,
            }
        })
    });
    let mut reader = bed.connect("relay");
    bed.until_open(1);
    // A number is a msgpack object, and fills all bytes that are read for it.
    let object = |number: u64| [&[0xc6, 0, 0, 0, 3][..], &number.to_be_bytes()[5..]].concat();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..COUNT {
                sender.send(&object(number)).unwrap();
            }
        });
        for number in 0..COUNT {
            client::expect(&mut reader, &object(number));
        }
    });
    // An idle worker is woken.
    bed.until("a sleeping worker", |bed| {
        let before = bed.counters().turns;
        std::thread::sleep(Duration::from_millis(5));
        bed.counters().turns == before
    });
    sender.send(&object(COUNT)).unwrap();
    client::expect(&mut reader, &object(COUNT));
    bed.finish();
    // Nobody has it open any more.
    let gone = sender.send(&[1]).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::ConnectionRefused);
}

/// Counts its calls, and reads nothing.
struct Idler {
    calls: Arc<AtomicUsize>,
    answer: fn() -> io::Result<Watch>,
}

impl Service for Idler {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, _: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        reply.write(|out| out.extend_from_slice(&frame));
        Flow::Continue
    }

    fn readable(&mut self, _: SourceId, _: &Tick<'_>) -> io::Result<Watch> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        (self.answer)()
    }
}

/// A server whose worker watches a socket that can be read from and never is, and how often its service was called.
fn idle(engine: Engine, answer: fn() -> io::Result<Watch>) -> (Bed, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let bed = Bed::start(engine, CONFIG, |server| {
        server.service("relay", move |worker| {
            let calls = counted.clone();
            if worker.index() == 0 {
                let (sender, receiver) = UnixDatagram::pair().unwrap();
                sender.send(&[0]).unwrap();
                worker.watch(receiver);
            }
            Idler { calls, answer }
        })
    });
    (bed, calls)
}

pub(crate) fn what_is_always_readable_holds_up_nobody(engine: Engine) {
    let (bed, calls) = idle(engine, || Ok(Watch::Continue));
    let mut clients = [bed.connect("relay"), bed.connect("relay")];
    for number in 0..100 {
        for client in &mut clients {
            client.write_all(&[number]).unwrap();
        }
        for client in &mut clients {
            client::expect(client, &[number]);
        }
    }
    bed.until("it is called again and again", |_| {
        calls.load(Ordering::Relaxed) > 1000
    });
    bed.finish();
}

/// What is there waits for a process that serves.
pub(crate) fn a_start_that_fails_reads_nothing(engine: Engine) {
    for _ in 0..5 {
        let (sender, receiver) = UnixDatagram::pair().unwrap();
        receiver.set_nonblocking(true).unwrap();
        sender.send(&[0]).unwrap();
        let receiver = Arc::new(receiver);
        let watched = receiver.clone();
        let text = format!(
            "engine = \"{engine}\"\nworkers = 3\n[sockets.relay]\nlisten = [\"127.0.0.1:0\"]"
        );
        let started = Server::new(Config::parse(&text, "test").unwrap())
            .inherited(Inherited::none())
            .service("relay", move |worker| {
                // The others are done by then, or soon.
                assert_ne!(worker.index(), 2, "on purpose");
                if worker.index() == 0 {
                    worker.watch(watched.clone());
                }
                Relay {
                    socket: Some(watched.clone()),
                    reader: None,
                }
            })
            .start();
        assert!(started.is_err());
        assert_eq!(receiver.recv(&mut [0; 8]).unwrap(), 1);
    }
}

/// One that panics when it is dropped, whoever has it.
struct Bomb(UnixDatagram);

impl AsFd for Bomb {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("on purpose");
    }
}

pub(crate) fn what_panics_when_it_is_let_go_of_costs_nobody_else(engine: Engine) {
    let bombs = [(); 2].map(|()| UnixDatagram::pair().unwrap());
    let (senders, receivers): (Vec<_>, Vec<_>) = bombs.into_iter().unzip();
    let receivers = Mutex::new(receivers);
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let bed = Bed::start(engine, CONFIG, |server| {
        server.service("relay", move |worker| {
            if worker.index() == 0 {
                for receiver in receivers.lock().unwrap().drain(..) {
                    worker.watch(Bomb(receiver));
                }
            }
            Idler {
                calls: counted.clone(),
                answer: || Ok(Watch::End),
            }
        })
    });
    let mut client = bed.connect("relay");
    senders[0].send(&[0]).unwrap();
    bed.until("a call", |_| calls.load(Ordering::Relaxed) == 1);
    client.write_all(&[1]).unwrap();
    client::expect(&mut client, &[1]);
    // The other one goes with the worker.
    drop(client);
    bed.finish();
}

pub(crate) fn an_idle_worker_looks_again_at_what_has_failed(engine: Engine) {
    let (bed, calls) = idle(engine, || Err(io::Error::other("on purpose")));
    bed.until("a third call", |_| calls.load(Ordering::Relaxed) >= 3);
    // Each takes a turn, and what was before and behind it; and not as many as there would be without a rest.
    let turns = bed.counters().turns;
    let calls = calls.load(Ordering::Relaxed) as u64;
    assert!(turns < 100 * calls, "{turns} turns for {calls} calls");
    bed.finish();
}

/// So often is the socket opened again.
const OPENINGS: usize = 50;

/// Opens a socket of this name again and again, as one does that hears nothing from an instrument, and counts that; then it passes
/// on what it reads to its client.
struct Reopener {
    name: SocketAddr,
    socket: Option<Arc<UnixDatagram>>,
    source: Option<SourceId>,
    openings: Arc<AtomicUsize>,
    reader: Option<Handle>,
}

impl Service for Reopener {
    type Session = ();

    fn connected(&mut self, peer: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        self.reader = Some(peer.handle());
        Ok(())
    }

    fn frame(&mut self, _: &mut (), _: Frame<'_>, _: &mut Reply<'_>) -> Flow {
        Flow::Continue
    }

    fn tick(&mut self, tick: &Tick<'_>) -> Option<Duration> {
        if let Some(source) = self.source.take() {
            tick.unwatch(source);
        }
        self.socket = None;
        // The name is in use for as long as anybody has the last one open.
        let socket = Arc::new(UnixDatagram::bind_addr(&self.name).unwrap());
        self.source = Some(tick.watch(socket.clone()));
        self.socket = Some(socket);
        let before = self.openings.fetch_add(1, Ordering::Relaxed);
        (before + 1 < OPENINGS).then_some(Duration::from_millis(1))
    }

    fn readable(&mut self, source: SourceId, _: &Tick<'_>) -> io::Result<Watch> {
        assert_eq!(self.source, Some(source));
        let mut datagram = [0; 8];
        let length = self.socket.as_ref().unwrap().recv(&mut datagram)?;
        let reader = self.reader.as_ref().unwrap();
        reader.push(datagram[..length].to_vec()).unwrap();
        Ok(Watch::Continue)
    }
}

pub(crate) fn what_is_silent_can_be_opened_again(engine: Engine) {
    let name = format!("ringhold-{}-{engine}-silent", std::process::id());
    let name = SocketAddr::from_abstract_name(name).unwrap();
    let openings = Arc::new(AtomicUsize::new(0));
    let (own, counted) = (name.clone(), openings.clone());
    let bed = Bed::start(
        engine,
        "workers = 1\n[sockets.relay]\nlisten = [\"127.0.0.1:0\"]",
        |server| {
            server.service("relay", move |_| Reopener {
                name: own.clone(),
                socket: None,
                source: None,
                openings: counted.clone(),
                reader: None,
            })
        },
    );
    let mut reader = bed.connect("relay");
    bed.until_open(1);
    bed.until("the last opening", |_| {
        openings.load(Ordering::Relaxed) == OPENINGS
    });
    let sender = UnixDatagram::unbound().unwrap();
    sender.send_to_addr(&[7], &name).unwrap();
    client::expect(&mut reader, &[7]);
    bed.finish();
}
