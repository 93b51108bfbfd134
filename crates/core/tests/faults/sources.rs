//! Services for which workers watch descriptors.

use std::io::{self, ErrorKind, Write};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ringhold_core::{Flow, Frame, Handle, Peer, Refusal, Reply, Service, Source, Tick, Watch};

use crate::bed::{Bed, Engine};
use crate::common::client;

const CONFIG: &str = "
    workers = 2
    [sockets.relay]
    listen = [\"127.0.0.1:0\"]
    workers = 0";

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

    fn readable(&mut self, _: Source, _: &Tick<'_>) -> io::Result<Watch> {
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
        std::thread::sleep(std::time::Duration::from_millis(5));
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
    fails: bool,
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

    fn readable(&mut self, _: Source, _: &Tick<'_>) -> io::Result<Watch> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        match self.fails {
            true => Err(io::Error::other("on purpose")),
            false => Ok(Watch::Continue),
        }
    }
}

/// A server whose worker watches a socket that can be read from and never is, and how often its service was called.
fn idle(engine: Engine, fails: bool) -> (Bed, Arc<AtomicUsize>) {
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
            Idler { calls, fails }
        })
    });
    (bed, calls)
}

pub(crate) fn what_is_always_readable_holds_up_nobody(engine: Engine) {
    let (bed, calls) = idle(engine, false);
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

pub(crate) fn an_idle_worker_looks_again_at_what_has_failed(engine: Engine) {
    let (bed, calls) = idle(engine, true);
    bed.until("a second call", |_| calls.load(Ordering::Relaxed) >= 2);
    // Each takes a turn, and what was before and behind it; and not as many as there would be without a rest.
    let turns = bed.counters().turns;
    let calls = calls.load(Ordering::Relaxed) as u64;
    assert!(turns < 100 * calls, "{turns} turns for {calls} calls");
    bed.finish();
}
