//! Connections on their way in: dealing, limits, descriptors that run out.

use std::fs::File;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;

use ringhold_core::inherit::Inherited;
use rustix::process::{Resource, Rlimit, setrlimit};
use socket2::{Domain, Socket, Type};

use crate::bed::{Bed, Engine, assert_no_kernel_workers};
use crate::common::client;
use crate::services::{Echo, gated, name};

pub(crate) fn a_thousand_connections_are_dealt_evenly(engine: Engine) {
    for ring in ["", "[ring]\nentries = 8\nbuffers = 2\nbuffer_bytes = 1024"] {
        let config = format!("workers = 2\n{ring}\n[sockets.echo]\nlisten = [\"127.0.0.1:0\"]\n");
        let bed = Bed::start(engine, &config, |server| server.service("echo", |_| Echo));
        let mut clients: Vec<TcpStream> = (0..1000).map(|_| bed.connect("echo")).collect();
        for (i, client) in clients.iter_mut().enumerate() {
            client.write_all(&[i as u8 & 0x7f]).unwrap();
        }
        for (i, client) in clients.iter_mut().enumerate() {
            client::expect(client, &[i as u8 & 0x7f]);
        }
        let opened: Vec<u64> = bed
            .snapshot()
            .workers
            .iter()
            .map(|w| w.names[0].1.opened)
            .collect();
        assert_eq!(opened, [500, 500]);
        drop(clients);
        bed.finish();
    }
}

pub(crate) fn more_connections_may_wait_than_are_accepted_in_a_turn(engine: Engine) {
    // Nor do so many completions fit: eight entries make a queue of 32.
    let config = "
        workers = 1
        [ring]
        entries = 8
        [sockets.echo]
        listen = [\"127.0.0.1:0\"]";
    let (bed, gate) = gated(engine, config, |server| server.service("echo", |_| Echo));
    for round in 1..=5 {
        let mut clients: Vec<TcpStream> =
            gate.hold(&bed, 1, || (0..200).map(|_| bed.connect("echo")).collect());
        for client in &mut clients {
            client::exchange(client, &[1], &[1]);
        }
        assert_eq!(bed.name("echo").opened, 200 * round, "accepting goes on");
        drop(clients);
        bed.until_open_on("echo", 0);
    }
    bed.finish();
}

pub(crate) fn each_listener_leads_to_its_own_service(engine: Engine) {
    let config = "
        workers = 2
        [sockets.one]
        listen = [\"127.0.0.1:0\", \"127.0.0.1:0\", \"unix:@/one\"]
        [sockets.two]
        listen = [\"127.0.0.1:0\", \"[::1]:0\"]
        workers = [1]
        [sockets.three]
        listen = [\"127.0.0.1:0\"]
        reuse_port = true";
    let bed = Bed::start(engine, config, |server| {
        server
            .service("one", |_| name())
            .service("two", |_| name())
            .service("three", |_| name())
    });
    for name in ["one", "two", "three"] {
        for address in bed.addresses(name) {
            for _ in 0..10 {
                let mut client = client::connect(address);
                client.write_all(&[1]).unwrap();
                client::expect(&mut client, name.as_bytes());
            }
        }
    }
    for _ in 0..10 {
        let mut client = bed.connect_unix("one");
        client.write_all(&[1]).unwrap();
        client::expect(&mut client, b"one");
    }
    let opened = |name| bed.name(name).opened;
    assert_eq!(
        [opened("one"), opened("two"), opened("three")],
        [30, 20, 20]
    );
    let worker_0 = &bed.snapshot().workers[0];
    let (_, two) = worker_0
        .names
        .iter()
        .find(|(name, _)| name == "two")
        .unwrap();
    assert_eq!(two.opened, 0, "it belongs to worker 1");
    bed.finish();
}

pub(crate) fn above_the_limit_connections_wait_their_turn(engine: Engine) {
    for workers in [1, 2] {
        let config = format!(
            "workers = {workers}\n[limits]\nconnections = 10\n[sockets.echo]\nlisten = [\"127.0.0.1:0\"]\n"
        );
        let bed = Bed::start(engine, &config, |server| server.service("echo", |_| Echo));
        let limit = 10 * workers;
        let mut clients: Vec<TcpStream> = (0..100)
            .map(|i| {
                let mut client = bed.connect("echo");
                client.write_all(&[i]).unwrap();
                client
            })
            .collect();
        bed.until("as many as may be are served", |bed| {
            bed.total().frames_in == limit
        });
        // The others wait, and nobody waits for them in a hurry.
        let before = bed.counters().enters;
        std::thread::sleep(std::time::Duration::from_millis(200));
        let counters = bed.counters();
        assert!(counters.enters - before < 100, "{counters:?}");
        assert_eq!(bed.total().open, limit);
        // One after the other leaves and makes room. All of them were connected in order and are served in order,
        // but on two workers any of the first ones may come first.
        let mut left = clients.len();
        for (i, client) in clients.iter_mut().enumerate() {
            client::expect(client, &[i as u8]);
            assert!(bed.total().open <= limit);
            client.shutdown(std::net::Shutdown::Both).unwrap();
            left -= 1;
            let served = (100 - left as u64 + limit).min(100);
            bed.until("the next one is served", |bed| {
                bed.total().frames_in == served
            });
        }
        assert_eq!(bed.total().accepted, 100);
        assert_no_kernel_workers();
        drop(clients);
        bed.finish();
    }
}

/// With one worker its listener's connections stay, with two they are dealt.
pub(crate) fn a_name_at_its_limit_waits_alone(engine: Engine) {
    for workers in [1, 2] {
        let config = format!(
            "workers = {workers}
            [limits]
            connections = 10
            [sockets.ingest]
            service = \"echo\"
            listen = [\"127.0.0.1:0\"]
            connections = 4
            [sockets.admin]
            service = \"echo\"
            listen = [\"127.0.0.1:0\"]
            workers = [0]"
        );
        let bed = Bed::start(engine, &config, |server| server.service("echo", |_| Echo));
        let limit = 4 * workers;
        let mut flood: Vec<TcpStream> = (0..30)
            .map(|i| {
                let mut client = bed.connect("ingest");
                client.write_all(&[i]).unwrap();
                client
            })
            .collect();
        bed.until("the others wait", |bed| {
            let ingest = bed.name("ingest");
            ingest.frames_in == limit && ingest.accept_pauses > 0
        });
        // What they leave of worker 0 is for the other name.
        let others: Vec<TcpStream> = (0..6).map(|_| bed.connect("admin")).collect();
        for client in &others {
            client::exchange(client, &[1, 2], &[1, 2]);
        }
        assert_eq!(bed.name("admin").accept_pauses, 0);
        assert_eq!(bed.name("ingest").open, limit);
        // That worker is full now, so that the next one there waits for whoever leaves first.
        let mut late = bed.connect("admin");
        late.write_all(&[3]).unwrap();
        bed.until("it waits", |bed| bed.name("admin").accept_pauses == 1);
        drop(others);
        client::expect(&mut late, &[3]);
        // The flood is served one after the other.
        for (i, client) in flood.iter_mut().enumerate() {
            client::expect(client, &[i as u8]);
            for worker in &bed.snapshot().workers {
                let counters = worker.names.iter().find(|(name, _)| name == "ingest");
                assert!(counters.unwrap().1.open <= 4);
            }
            client.shutdown(std::net::Shutdown::Both).unwrap();
        }
        assert_eq!(bed.name("ingest").opened, 30);
        drop((flood, late));
        bed.finish();
    }
}

/// They are there all at once, so that an accept that takes more than one would take them all.
pub(crate) fn who_finds_no_room_stays_in_the_backlog(engine: Engine) {
    let config = "
        workers = 1
        [sockets.echo]
        listen = [\"127.0.0.1:0\"]
        connections = 10";
    let (bed, gate) = gated(engine, config, |server| server.service("echo", |_| Echo));
    let clients: Vec<TcpStream> =
        gate.hold(&bed, 1, || (0..100).map(|_| bed.connect("echo")).collect());
    bed.until("accepting pauses", |bed| bed.name("echo").accept_pauses > 0);
    for (place, client) in clients.into_iter().enumerate() {
        let echo = bed.name("echo");
        // One is accepted before it is known that there is no room for it.
        assert!(echo.accepted <= place as u64 + 11, "{place}: {echo:?}");
        client::exchange(&client, &[1], &[1]);
    }
    bed.finish();
}

fn listener() -> Socket {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    listener.bind(&any.into()).unwrap();
    listener.listen(4096).unwrap();
    listener
}

pub(crate) fn a_disabled_socket_turns_its_clients_away(engine: Engine) {
    let listener = listener();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let inherited = Inherited::from_descriptors(vec![("off".to_owned(), listener.into())]);
    let config = "
        workers = 2
        [sockets.off]
        service = \"echo\"
        enable = false
        [sockets.echo]
        listen = [\"127.0.0.1:0\"]";
    let bed = Bed::start_inheriting(engine, config, inherited, |server| {
        server.service("echo", |_| Echo)
    });
    for _ in 0..200 {
        client::expect_end(&mut client::connect(address));
    }
    assert_eq!(bed.name("off").turned_away, 200);
    assert_eq!(bed.total().opened, 0);
    let client = bed.connect("echo");
    client::exchange(&client, &[1], &[1]);
    drop(client);
    bed.finish();
}

/// Takes every descriptor that is left.
pub(crate) fn take_all_descriptors() -> Vec<OwnedFd> {
    std::iter::from_fn(|| File::open("/dev/null").ok().map(OwnedFd::from)).collect()
}

pub(crate) fn descriptors_may_run_out(engine: Engine) {
    const CLIENTS: u8 = 50;
    let limit = Some(200);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit,
            maximum: limit,
        },
    )
    .unwrap();
    let config = "workers = 1\n[sockets.echo]\nlisten = [\"127.0.0.1:0\"]\n";
    let bed = Bed::start(engine, config, |server| server.service("echo", |_| Echo));
    let address = bed.address("echo").into();
    // The clients are of this process, too, and need their descriptors before there are none.
    let sockets = (0..CLIENTS).map(|_| Socket::new(Domain::IPV4, Type::STREAM, None).unwrap());
    let sockets: Vec<Socket> = sockets.collect();
    let mut taken = take_all_descriptors();
    taken.truncate(taken.len() - 10);
    let connect = |(i, socket): (usize, Socket)| {
        socket.connect(&address).unwrap();
        let mut client = TcpStream::from(socket);
        client.write_all(&[i as u8]).unwrap();
        client
    };
    let mut clients: Vec<TcpStream> = sockets.into_iter().enumerate().map(connect).collect();
    let mut answered = 0..;
    bed.until("some are served", |bed| bed.total().frames_in == 10);
    bed.until("the lack is noticed", |bed| {
        bed.counters().accept_backoffs >= 2
    });
    let before = bed.counters();
    bed.until("it is tried again", |bed| {
        bed.counters().accept_backoffs >= before.accept_backoffs + 5
    });
    let after = bed.counters();
    let tries = after.accept_backoffs - before.accept_backoffs;
    assert!(
        after.enters - before.enters <= 4 * tries,
        "{before:?} {after:?}"
    );
    assert_eq!(bed.total().opened, 10);
    for client in &mut clients[..10] {
        client::expect(client, &[answered.next().unwrap()]);
    }
    // Others of the process give some back; then connections end, which frees their descriptors on both sides.
    taken.truncate(taken.len() - 15);
    for client in &mut clients[10..25] {
        client::expect(client, &[answered.next().unwrap()]);
    }
    clients.drain(..25);
    for client in &mut clients {
        client::expect(client, &[answered.next().unwrap()]);
    }
    assert_eq!(bed.total().opened, u64::from(CLIENTS));
    drop((clients, taken));
    bed.finish();
}
