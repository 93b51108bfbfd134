//! A descriptor of the application: a datagram socket that it reads when it is asked to.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ringhold_client::Address;
use rmpv::Value;

use crate::common::wire::{Wire, request};
use crate::manager::{Manager, Stored};

/// Under which the service manager stores it.
const STORED: &str = "ringhold.fd.metrics";

const CONFIG: &str = "workers = 1\n[sockets.rpc]\n";

/// When a worker reads from it.
const RELAYS: [&str; 2] = ["relay-in-ticks", "relay-when-readable"];

/// A service that claims `metrics`, and who sends to it.
struct Bed {
    manager: Manager,
    address: Address,
    sender: UdpSocket,
    sent: u64,
}

impl Bed {
    fn new(store_max: usize) -> Self {
        let mut manager = Manager::new(store_max, CONFIG).with_test_daemon();
        let address = manager.listen_unix("rpc");
        manager.set_flag("claim-metrics", true);
        Bed {
            manager,
            address,
            sender: UdpSocket::bind("127.0.0.1:0").unwrap(),
            sent: 0,
        }
    }

    fn call(&self, method: &str) -> Value {
        let mut wire = Wire::connect(&self.address);
        wire.send(&request(0, method, &[]));
        wire.reply().1.unwrap()
    }

    fn port(&self) -> u16 {
        self.call("metrics_port").as_u64().unwrap() as u16
    }

    /// Sends one more. On loopback it is in the queue of whoever has the port when this returns.
    fn send(&mut self, port: u16) {
        self.sent += 1;
        let to = (Ipv4Addr::LOCALHOST, port);
        self.sender.send_to(&self.sent.to_be_bytes(), to).unwrap();
    }

    /// The service has received all that were sent from `first` on, in order and nothing else.
    fn has_received_from(&self, first: u64) {
        let expected: Vec<Value> = (first..=self.sent)
            .map(|number| Value::Binary(number.to_be_bytes().into()))
            .collect();
        assert_eq!(self.call("metrics"), Value::Array(expected));
    }

    /// Whether the service has a socket with this inode.
    fn has_open(&self, inode: u64) -> bool {
        let socket = format!("socket:[{inode}]");
        let mut all = std::fs::read_dir(format!("/proc/{}/fd", self.manager.pid())).unwrap();
        all.any(|fd| {
            std::fs::read_link(fd.unwrap().path()).is_ok_and(|link| link.as_os_str() == &*socket)
        })
    }

    /// How many the service manager stores.
    fn stored(&self) -> usize {
        let state = self.manager.state();
        state
            .stored()
            .iter()
            .filter(|name| **name == STORED)
            .count()
    }
}

/// Inherited or made by itself, with and without a store.
#[test]
fn nothing_that_was_sent_is_lost_by_reloads() {
    for (store_max, is_units) in [(0, true), (0, false), (16, true), (16, false)] {
        let mut bed = Bed::new(store_max);
        let units = is_units.then(|| bed.manager.listen_udp("metrics"));
        bed.manager.start();
        let port = bed.port();
        assert_eq!(units.unwrap_or(port), port);
        for round in 0..3 {
            let first = bed.sent + 1;
            bed.send(port);
            let mark = bed.manager.mark();
            bed.manager.signal(nix::sys::signal::Signal::SIGHUP);
            // Before, while and after the process replaces itself.
            while bed.manager.count(mark, "READY=1") == 0 && bed.sent < first + 100 {
                bed.send(port);
                std::thread::yield_now();
            }
            bed.manager.wait_for(mark, "READY=1");
            bed.manager.logged(round + 1, &["took over"]);
            bed.send(port);
            assert_eq!(bed.port(), port);
            bed.has_received_from(first);
        }
        assert!(!bed.manager.log().contains("the reload is refused"));
        assert_eq!(bed.stored(), usize::from(store_max > 0 && !is_units));
        bed.manager.stop_for_good();
    }
}

/// What is read in a tick, or when there is something, is published when all subscriptions are there, and as long as they are.
#[test]
fn what_a_service_reads_reaches_every_subscriber() {
    let engines = ["auto", "portable"].into_iter();
    for (engine, relay) in engines.flat_map(|engine| RELAYS.map(|relay| (engine, relay))) {
        let mut bed = Bed::new(16);
        bed.manager.use_engine(engine);
        bed.manager
            .configure("workers = 2\n[sockets.rpc]\n[sockets.topics]\n");
        let address = bed.manager.listen_unix("topics");
        let port = bed.manager.listen_udp("metrics");
        bed.manager.set_flag(relay, true);
        bed.manager.start();
        let mut readers = [(); 4].map(|()| {
            let mut reader = Wire::connect(&address);
            reader.send(&request(1, "subscribe", &["metrics".into()]));
            assert_eq!(reader.reply(), (1, Ok(Value::Nil)));
            reader
        });
        for step in [Manager::reload, Manager::restart].repeat(3) {
            let ends = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let (sender, sent) = (&bed.sender, &mut bed.sent);
                scope.spawn(|| {
                    // So many are in the queue of the socket if nobody reads all the while.
                    for _ in 0..200 {
                        *sent += 1;
                        let to = (Ipv4Addr::LOCALHOST, port);
                        sender.send_to(&sent.to_be_bytes(), to).unwrap();
                        if ends.load(Ordering::Relaxed) {
                            return;
                        }
                        std::thread::sleep(Duration::from_millis(1));
                    }
                });
                step(&mut bed.manager);
                ends.store(true, Ordering::Relaxed);
            });
        }
        for reader in &mut readers {
            for number in 1..=bed.sent {
                let params = vec!["metrics".into(), number.into()];
                let event = vec![2.into(), "event".into(), Value::Array(params)];
                assert_eq!(reader.value(), Value::Array(event), "of {}", bed.sent);
            }
        }
        bed.manager.stop_for_good();
    }
}

#[test]
fn what_a_service_has_opened_is_free_for_the_next_process() {
    for engine in ["auto", "portable"] {
        let mut manager = Manager::new(16, "").with_test_daemon();
        manager.use_engine(engine);
        manager.configure("workers = 2\n[sockets.topics]\n");
        let address = manager.listen_unix("topics");
        manager.set_flag("open-its-own", true);
        manager.start();
        let mut reader = Wire::connect(&address);
        for id in 0..8 {
            reader.send(&request(id, "subscribe", &["metrics".into()]));
            assert_eq!(reader.reply(), (id.into(), Ok(Value::Nil)));
            manager.reload();
            manager.restart();
        }
        manager.stop_for_good();
    }
}

#[test]
fn what_the_application_has_opened_survives_restarts_and_crashes() {
    let mut bed = Bed::new(16);
    bed.manager.start();
    let port = bed.port();
    for is_killed in [false, true, false] {
        let first = bed.sent + 1;
        bed.send(port);
        let mark = bed.manager.mark();
        match is_killed {
            true => bed.manager.kill(),
            false => bed.manager.stop(),
        }
        assert_eq!(bed.stored(), 1);
        // It is stored once more, and not removed before: a service manager that hangs then would leave it so.
        let told = bed.manager.count(mark, &format!("FDNAME={STORED}"));
        assert_eq!(told, usize::from(!is_killed));
        bed.send(port);
        bed.manager.start();
        bed.send(port);
        assert_eq!(bed.port(), port);
        bed.has_received_from(first);
    }
    assert_eq!(bed.manager.state().refused, [""; 0]);
    // Another one takes its place in the store.
    bed.manager.set_flag("open-another", true);
    bed.manager.restart();
    let next = bed.port();
    assert_ne!(next, port);
    assert_eq!(bed.stored(), 1);
    let said = |origin: &str| format!("of the application ({origin}, 127.0.0.1:{next})");
    bed.manager.logged(1, &[&said("new")]);
    bed.manager.set_flag("open-another", false);
    bed.manager.restart();
    assert_eq!(bed.port(), next);
    bed.manager.logged(1, &[&said("the predecessor's")]);
    bed.manager.stop_for_good();
}

#[test]
fn a_store_that_comes_later_is_found_when_it_matters() {
    let mut bed = Bed::new(0);
    bed.manager.start();
    let first = bed.port();
    bed.manager.restart();
    let port = bed.port();
    assert_ne!(port, first, "it was opened anew");
    bed.manager.state().store_max = 16;
    bed.send(port);
    bed.manager.restart();
    assert_eq!(bed.port(), port);
    bed.has_received_from(1);
    bed.manager.stop_for_good();
}

/// What is the application's own comes first, as at start: connections end in order if there is no room left for them.
#[test]
fn a_store_that_comes_later_without_room_for_connections_keeps_what_is_the_application_s_own() {
    let mut bed = Bed::new(0);
    bed.manager.start();
    let port = bed.port();
    let mut wire = Wire::connect(&bed.address);
    wire.echo(1, 1);
    bed.manager.state().store_max = 3;
    bed.manager.stop();
    bed.manager.logged(
        1,
        &["has room for 2 descriptors of this unit besides the application's own, and 3 are needed"],
    );
    assert!(wire.is_over());
    let log = bed.manager.log();
    assert!(!log.contains("with the service manager"), "{log}");
    assert_eq!(bed.manager.state().stored(), [STORED]);

    bed.send(port);
    bed.manager.start();
    assert_eq!(bed.port(), port);
    bed.has_received_from(1);
    // With one more there is.
    let mut wire = Wire::connect(&bed.address);
    wire.echo(1, 1);
    bed.manager.state().store_max = 4;
    bed.manager.restart();
    wire.echo(2, 2);
    assert_eq!(bed.port(), port);
    bed.manager.stop_for_good();
}

/// It comes again, so the store has no second one.
#[test]
fn what_a_socket_unit_passes_on_comes_from_there_and_comes_first() {
    let mut bed = Bed::new(16);
    bed.manager.start();
    let own = bed.port();
    bed.manager.stop();
    assert_eq!(bed.stored(), 1);
    // The unit is changed.
    let port = bed.manager.listen_udp("metrics");
    bed.manager.start();
    assert_ne!(own, port);
    bed.manager
        .logged(1, &["closing the descriptor \"metrics\"", "a socket unit"]);
    for restarts in [true, false, true] {
        assert_eq!(bed.port(), port);
        assert_eq!(bed.stored(), 0);
        bed.send(port);
        match restarts {
            true => bed.manager.restart(),
            false => bed.manager.reload(),
        }
        bed.has_received_from(bed.sent);
    }
    bed.manager.stop_for_good();
}

#[test]
fn a_reload_that_would_lose_what_a_socket_unit_passes_on_is_refused() {
    let mut bed = Bed::new(16);
    let port = bed.manager.listen_udp("metrics");
    bed.manager.start();
    let mut kept = Wire::connect(&bed.address);
    kept.echo(0, 0);
    bed.manager.set_flag("claim-metrics", false);
    bed.manager.reload();
    bed.manager.logged(
        1,
        &["the reload is refused, nothing has changed", "status: 2"],
    );
    bed.manager.logged(
        1,
        &["descriptor \"metrics\" of the application cannot be had: a socket unit passes it on"],
    );
    // Nor can a section go on with it.
    let section = "[sockets.metrics]\nservice = \"rpc\"\nlisten = \"127.0.0.1:0\"\n";
    bed.manager.configure(&format!("{CONFIG}{section}"));
    bed.manager.reload();
    bed.manager
        .logged(2, &["the reload is refused, nothing has changed"]);
    bed.manager.set_flag("claim-metrics", true);
    bed.manager.reload();
    bed.manager
        .logged(1, &["[sockets.metrics] takes what has this name"]);
    bed.manager
        .logged(3, &["the reload is refused, nothing has changed"]);
    kept.echo(1, 1);
    bed.send(port);
    bed.has_received_from(1);

    bed.manager.configure(CONFIG);
    bed.manager.reload();
    bed.manager.logged(1, &["took over"]);
    kept.echo(2, 2);
    assert_eq!(bed.port(), port);
    bed.manager.stop_for_good();
}

/// Then nobody has it, here or in the store.
#[test]
fn what_was_opened_is_closed_by_a_program_that_does_not_claim_it() {
    for restarts in [true, false] {
        let mut bed = Bed::new(16);
        bed.manager.start();
        let stored = rustix::fs::fstat(bed.manager.state().find(STORED)).unwrap();
        assert!(bed.has_open(stored.st_ino));
        let mut kept = Wire::connect(&bed.address);
        kept.echo(0, 0);
        bed.manager.set_flag("claim-metrics", false);
        match restarts {
            true => bed.manager.restart(),
            false => bed.manager.reload(),
        }
        let said = "closing the descriptor \"metrics\" that the predecessor had opened";
        bed.manager
            .logged(1, &[said, "this program does not claim it"]);
        kept.echo(1, 1);
        assert_eq!(bed.stored(), 0);
        assert!(!bed.has_open(stored.st_ino));
        bed.manager.stop_for_good();
    }
}

/// The program that knows it may be back for the next start.
#[test]
fn what_was_opened_survives_a_start_that_fails_of_a_program_that_does_not_claim_it() {
    let mut bed = Bed::new(16);
    bed.manager.start();
    let port = bed.port();
    bed.send(port);
    bed.manager.stop();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let section = format!("[sockets.taken]\nservice = \"rpc\"\nlisten = \"{taken}\"\n");
    bed.manager.configure(&format!("{CONFIG}{section}"));
    bed.manager.set_flag("claim-metrics", false);
    bed.manager.launch();
    assert_eq!(bed.manager.ended().code(), Some(1));
    assert_eq!(bed.stored(), 1);
    bed.manager.configure(CONFIG);
    bed.manager.set_flag("claim-metrics", true);
    bed.manager.start();
    assert_eq!(bed.port(), port);
    bed.has_received_from(1);
    bed.manager.stop_for_good();
}

/// The store has room for the application's own, but not for connections.
#[test]
fn the_log_says_how_much_room_is_missing_besides_what_the_application_has() {
    let mut bed = Bed::new(1);
    bed.manager.start();
    bed.manager.logged(
        1,
        &[
            "no room for 3 descriptors of this unit besides the application's own",
            "FileDescriptorStoreMax= to 4",
            "a restart will close open connections, and may lose the application's own",
        ],
    );
    assert_eq!(bed.stored(), 1);
    // By then there is less.
    let mut bed = Bed::new(5);
    bed.manager.start();
    bed.manager.state().store_max = 1;
    bed.manager.stop();
    let said = "a restart closes open connections, and may lose the application's own";
    bed.manager.logged(1, &[said]);
}

/// An error of the start, that leaves all as it was for the next one.
#[test]
fn a_start_that_fails_for_it_takes_nothing() {
    let mut bed = Bed::new(16);
    // It is claimed after the one that fails.
    bed.manager.set_flag("claim-spare", true);
    bed.manager.start();
    let port = bed.port();
    let mut kept = Wire::connect(&bed.address);
    kept.echo(0, 0);
    bed.manager.stop();
    let (stray, _) = std::io::pipe().unwrap();
    let (name, fd) = ("left-behind".to_owned(), OwnedFd::from(stray));
    bed.manager.state().store.push(Stored { name, fd });
    let before: Vec<String> = bed
        .manager
        .state()
        .stored()
        .iter()
        .map(|name| name.to_string())
        .collect();
    bed.manager.set_flag("refuse-metrics", true);
    // More often than an estate is tried.
    for _ in 0..5 {
        bed.manager.launch();
        assert_eq!(bed.manager.ended().code(), Some(1));
        assert_eq!(bed.manager.state().stored(), before);
    }
    let said = "descriptor \"metrics\" of the application cannot be had: on purpose";
    assert_eq!(bed.manager.log().matches(said).count(), 5);
    assert!(!bed.manager.log().contains("closing"));
    bed.manager.set_flag("refuse-metrics", false);
    bed.send(port);
    bed.manager.start();
    assert_eq!(bed.port(), port);
    bed.has_received_from(1);
    kept.echo(1, 1);
    bed.manager.stop_for_good();
}

/// Before it is too late, and before a start opens anything.
#[test]
fn what_the_program_looks_at_itself_refuses_a_reload() {
    let objection = "the program itself objects";
    let mut bed = Bed::new(16);
    bed.manager.start();
    let port = bed.port();
    let mut kept = Wire::connect(&bed.address);
    bed.manager.set_flag("object", true);
    bed.manager.reload();
    bed.manager
        .logged(1, &["the reload is refused, nothing has changed"]);
    bed.manager.logged(1, &[objection]);
    kept.echo(0, 0);
    bed.manager.stop();
    bed.manager.launch();
    assert_eq!(bed.manager.ended().code(), Some(2));
    bed.manager.logged(2, &[objection]);
    bed.manager.set_flag("object", false);
    bed.manager.start();
    bed.manager.reload();
    bed.manager.logged(2, &["took over"]);
    assert_eq!(bed.port(), port);
    kept.echo(1, 1);
    bed.manager.stop_for_good();
}

/// Nobody is served from when the predecessor has let go until the start is through, and the program that was asked has looked.
#[test]
fn what_the_program_looks_at_itself_is_not_looked_at_again_in_a_reload() {
    let look = "the program itself looks";
    let mut bed = Bed::new(16);
    bed.manager.set_flag("tell-looks", true);
    bed.manager.start();
    bed.manager.logged(1, &[look]);
    for reload in 1..=2 {
        bed.manager.reload();
        bed.manager.logged(reload, &["took over"]);
        assert_eq!(bed.manager.log().matches(look).count(), 1 + reload);
    }
    // A restart asks nobody before.
    bed.manager.restart();
    bed.manager.logged(4, &[look]);
    assert_eq!(bed.manager.log().matches(look).count(), 4);
    bed.manager.set_flag("object", true);
    bed.manager.reload();
    bed.manager
        .logged(1, &["the reload is refused, nothing has changed"]);
    assert_eq!(bed.manager.log().matches(look).count(), 5);
    bed.manager.stop_for_good();
}

/// As a program leaves them that stores under our names, too.
#[test]
fn of_two_that_are_stored_the_first_goes_on() {
    let mut bed = Bed::new(16);
    let sockets = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    let port = sockets[0].local_addr().unwrap().port();
    for socket in sockets {
        let (name, fd) = (STORED.to_owned(), OwnedFd::from(socket));
        bed.manager.state().store.push(Stored { name, fd });
    }
    bed.manager.start();
    assert_eq!(bed.port(), port);
    assert_eq!(bed.stored(), 1);
    bed.manager.logged(
        1,
        &[
            "closing the descriptor \"metrics\" that the predecessor had opened",
            "another one of this name is stored, too",
        ],
    );
    bed.manager.stop_for_good();
}
