//! A worker that fails costs what it had, and nobody waits for it.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use ringhold_core::config::Config;
use ringhold_core::listeners::Address;
use ringhold_core::{
    Flow, Frame, Peer, Refusal, Reply, Responder, Running, Server, ServerError, Service, Ticket,
    Worker,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::bed::{Engine, LEAKS};
use crate::common::client;
use crate::services::Echo;

/// Tells which worker it is on, and can make it fail.
struct Fragile {
    worker: usize,
    owed: Vec<Responder>,
}

impl Fragile {
    fn new(worker: &Worker) -> Self {
        Fragile {
            worker: worker.index(),
            owed: Vec::new(),
        }
    }
}

const ASK: u8 = 1;
const FAIL: u8 = 2;
/// Is never answered.
const DEFER: u8 = 3;

/// Panics where no service is called: when the engine has sent it.
struct Bomb([u8; 4096]);

impl AsRef<[u8]> for Bomb {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("on purpose, outside of all services");
    }
}

impl Service for Fragile {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, _: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        match frame[0] {
            FAIL => reply.share(Bytes::from_owner(Bomb([0; 4096]))),
            DEFER => self.owed.push(reply.defer(Ticket(0))),
            _ => reply.write(|out| out.push(self.worker as u8)),
        }
        Flow::Continue
    }
}

fn server(engine: Engine, listen: SocketAddr) -> Server {
    let text = format!(
        "engine = \"{engine}\"\nworkers = 2\n[handover]\ndrain = \"1h\"\n[sockets.fragile]\nlisten = [\"{listen}\"]"
    );
    Server::new(Config::parse(&text, "test").unwrap())
}

/// Starts a server, and says where it listens.
fn start(engine: Engine, services: impl FnOnce(Server) -> Server) -> (Running, SocketAddr) {
    let any = "127.0.0.1:0".parse().unwrap();
    let running = services(server(engine, any)).start().unwrap();
    let listener = running.listeners().next().unwrap();
    let Address::Tcp(address) = listener.address else {
        panic!("{:?}", listener.address);
    };
    (running, address)
}

/// An address that nobody listens on, and that nobody else is given: all of 127/8 is loopback, and this part of it belongs to
/// the process that has this number.
fn free_address() -> SocketAddr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let listener = TcpListener::bind((Ipv4Addr::new(127, 0x80 | high, middle, low), 0)).unwrap();
    listener.local_addr().unwrap()
}

/// Whichever worker cannot be made, the start fails with its failure, which names the service. What was made is dropped, what comes
/// behind is not made, and the address is free again.
pub(crate) fn a_start_that_fails_leaves_nothing_behind(engine: Engine) {
    for (broken, panics) in [(0, false), (1, false), (0, true), (1, true)] {
        let address = free_address();
        let alive = Arc::<AtomicUsize>::default();
        let counted = || {
            let there = alive.clone();
            move |_: &Worker| {
                there.fetch_add(1, Ordering::Relaxed);
                With((Counted(there.clone()), Unwilling))
            }
        };
        let error = server(engine, address)
            .service("first", counted())
            .service("second", counted())
            .try_service("fragile", move |worker| match worker.index() == broken {
                true if panics => panic!("on purpose, when it is made"),
                true => Err("the database does not answer"),
                false => Ok(Fragile::new(worker)),
            })
            .service("last", move |worker| {
                assert_ne!(worker.index(), broken, "it comes behind");
                Fragile::new(worker)
            })
            .start()
            .unwrap_err();
        let said = match &error {
            ServerError::Worker { worker, .. } if panics => {
                assert_eq!(*worker, broken);
                "failed: service fragile panicked when it was made: on purpose, when it is made"
            }
            ServerError::Service {
                service, worker, ..
            } if !panics => {
                assert_eq!((&**service, *worker), ("fragile", broken));
                "the database does not answer"
            }
            other => panic!("{other}"),
        };
        let text = match panics {
            true => format!("worker {broken} {said}"),
            false => format!("service fragile cannot be made on worker {broken}: {said}"),
        };
        assert_eq!(error.to_string(), text);
        assert_eq!(error.exit_status(), 1);
        assert_eq!(alive.load(Ordering::Relaxed), 0);
        TcpListener::bind(address).unwrap();
    }
}

/// Sends every frame back, and has something that is dropped with it.
struct With<T>(T);

impl<T: 'static> Service for With<T> {
    type Session = ();

    fn connected(&mut self, peer: &Peer<'_>, reply: &mut Reply<'_>) -> Result<(), Refusal> {
        Echo.connected(peer, reply)
    }

    fn frame(&mut self, session: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        Echo.frame(session, frame, reply)
    }
}

/// Is counted for as long as it is there.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Descriptors run out earlier and earlier in the start: wherever that is, the workers that have begun end, too.
pub(crate) fn an_engine_that_fails_on_one_worker_ends_the_others(engine: Engine) {
    // Nobody connects; a port that was free a moment ago may be somebody else's by now.
    let any = "127.0.0.1:0".parse().unwrap();
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    let (mut started, mut engines, mut others) = (0, 0, Vec::new());
    for more in (2..40).rev() {
        let limit = Some(open + more);
        let limit = Rlimit {
            current: limit,
            maximum: limit,
        };
        setrlimit(Resource::Nofile, limit).unwrap();
        let (made, alive) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (all, there) = (made.clone(), alive.clone());
        let result = server(engine, any)
            .service("fragile", move |_| {
                all.fetch_add(1, Ordering::Relaxed);
                there.fetch_add(1, Ordering::Relaxed);
                With(Counted(there.clone()))
            })
            .start();
        match result {
            Ok(running) => {
                started += 1;
                running.stop();
                running.join().unwrap();
            }
            // Before there are workers, no engine is found to work.
            Err(ServerError::Engine(_)) if made.load(Ordering::Relaxed) == 0 => {}
            Err(ServerError::Engine(why)) => {
                assert!(why.contains("Too many open files"), "{why}");
                assert_eq!(made.load(Ordering::Relaxed), 2);
                engines += 1;
            }
            Err(error @ (ServerError::System(_) | ServerError::Listeners(_))) => {
                others.push(error.to_string())
            }
            Err(other) => panic!("{other}"),
        }
        assert_eq!(alive.load(Ordering::Relaxed), 0, "{more} descriptors");
    }
    assert!(started > 0 && engines > 0, "{started} {engines} {others:?}");
}

/// The one that accepts fails: the others serve on until they are told to stop, and then end, without waiting for what it owed.
pub(crate) fn a_failed_worker_does_not_hold_up_a_stop(engine: Engine) {
    let (running, address) = start(engine, |server| server.service("fragile", Fragile::new));
    let mut clients: [Vec<TcpStream>; 2] = Default::default();
    for _ in 0..4 {
        let mut client = client::connect(address);
        client.write_all(&[ASK]).unwrap();
        let mut worker = [0];
        std::io::Read::read_exact(&mut client, &mut worker).unwrap();
        clients[usize::from(worker[0])].push(client);
    }
    let [failing, serving] = &mut clients;
    assert_eq!((failing.len(), serving.len()), (2, 2));
    // The kernel might still use what such a worker had.
    LEAKS.store(true, Ordering::Relaxed);
    failing[0].write_all(&[DEFER, FAIL]).unwrap();
    client::expect(&mut failing[0], &[0; 4096]);
    // What the ring engine has sent it drops in its next turn. Another worker would have dropped it by now, and failed.
    let _ = failing[1].write_all(&[ASK]);
    let ended = running.ended();
    poll(&mut [PollFd::new(&ended, PollFlags::IN)], None).unwrap();
    for client in &*serving {
        client::exchange(client, &[ASK], &[1]);
    }
    running.stop();
    for client in serving {
        client::expect_end(client);
    }
    match running.join() {
        Err(ServerError::Worker { worker: 0, .. }) => {}
        other => panic!("{other:?}"),
    }
}

/// Panics when its worker ends.
struct Unwilling;

impl Drop for Unwilling {
    fn drop(&mut self) {
        panic!("on purpose, when it is dropped");
    }
}

pub(crate) fn services_may_panic_when_they_go(engine: Engine) {
    let (running, address) = start(engine, |server| {
        server
            .service("fragile", |_| With(Unwilling))
            .service("another", |_| With(Unwilling))
    });
    let mut client = client::connect(address);
    client::exchange(&client, &[1], &[1]);
    running.stop();
    client::expect_end(&mut client);
    running.join().unwrap();
}
