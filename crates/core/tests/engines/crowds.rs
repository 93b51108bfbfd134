//! `connections_per_client`: nobody has more connections than that, and others are served.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use rustix::process::Uid;
use rustix::thread::set_thread_res_uid;

use crate::bed::{Bed, GREETING, engines, exchange, expect, expect_end, serve_echo};
use crate::common::client::{connect_from, read, reset};

/// Clients of the second address of loopback.
fn neighbour(bed: &Bed, name: &str) -> TcpStream {
    connect_from("127.0.0.2".parse().unwrap(), bed.address(name))
}

/// Those that are served; the others have seen an orderly end.
fn served<S: Read>(clients: impl IntoIterator<Item = S>) -> Vec<S> {
    let is_served = |client: &mut S| {
        let mut greeting = [0];
        let count = read(client, &mut greeting).unwrap();
        assert!(count == 0 || greeting == [GREETING]);
        count == 1
    };
    let clients = clients.into_iter();
    let clients = clients.filter_map(|mut client| is_served(&mut client).then_some(client));
    clients.collect()
}

#[test]
fn who_floods_has_no_more_than_its_places_on_all_workers() {
    for engine in engines() {
        for reuse_port in [false, true] {
            // Without a limit for each client the flood would have all the room.
            let bed = serve_echo(
                engine,
                &format!(
                    "workers = 2
                    [limits]
                    connections = 50
                    [sockets.echo]
                    connections_per_client = 5
                    reuse_port = {reuse_port}
                    listen = [\"127.0.0.1:0\"]
                    [sockets.free]
                    service = \"echo\"
                    listen = [\"127.0.0.1:0\"]"
                ),
            );
            let flood: Vec<TcpStream> = (0..200).map(|_| bed.connect("echo")).collect();
            let mut here = served(flood);
            assert_eq!(here.len(), 5);
            let others = served((0..3).map(|_| neighbour(&bed, "echo")));
            assert_eq!(others.len(), 3);
            let free = served((0..6).map(|_| bed.connect("free")));
            assert_eq!(free.len(), 6);
            let echo = bed.name("echo");
            assert_eq!((echo.accepted, echo.crowded, echo.open), (8, 195, 8));
            assert_eq!(bed.name("free").crowded, 0);

            // Each place is given again, however its connection ended.
            let ends: [fn(TcpStream); 3] = [drop, reset, |mut client| {
                client.write_all(b"\xc1").unwrap();
                expect_end(&mut client);
            }];
            for end in ends {
                end(here.pop().unwrap());
                bed.until_open_on("echo", 7);
                here.extend(served((0..2).map(|_| bed.connect("echo"))));
                assert_eq!(here.len(), 5);
            }
            for client in here.iter().chain(&others).chain(&free) {
                exchange(client, &[1, 2, 3]);
            }
            drop((here, others, free));
            let end = bed.finish();
            assert_eq!((end.crowded, end.accept_pauses), (198, 0));
        }
    }
}

/// Connects as another user, if we may.
fn connect_as(user: u32, bed: &Bed, file: &str) -> Option<UnixStream> {
    std::thread::scope(|scope| {
        // It is the thread's own user, and the thread ends.
        let connected = scope.spawn(|| {
            let user = Uid::from_raw(user);
            set_thread_res_uid(None, user, None).ok()?;
            Some(bed.connect_unix(file))
        });
        connected.join().unwrap()
    })
}

#[test]
fn over_unix_sockets_a_client_is_a_user() {
    for engine in engines() {
        let bed = serve_echo(
            engine,
            "workers = 2
            [sockets.echo]
            connections_per_client = 3
            mode = \"0666\"
            listen = [\"unix:@/a.sock\", \"unix:@/b.sock\"]",
        );
        let path = bed.path("a.sock");
        std::fs::set_permissions(path.parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
        let mut ours = served((0..10).map(|_| bed.connect_unix("a.sock")));
        assert_eq!(ours.len(), 3);
        // Whatever the path.
        assert_eq!(served([bed.connect_unix("b.sock")]).len(), 0);
        let theirs = (0..4).filter_map(|_| connect_as(12_345, &bed, "b.sock"));
        let theirs: Vec<UnixStream> = theirs.collect();
        let asked = theirs.len();
        let theirs = served(theirs);
        assert_eq!(theirs.len(), asked.saturating_sub(1));
        ours.pop();
        bed.until_open(2 + theirs.len() as u64);
        ours.extend(served((0..2).map(|_| bed.connect_unix("b.sock"))));
        assert_eq!(ours.len(), 3);
        drop((ours, theirs));
        bed.finish();
    }
}

#[test]
fn behind_a_proxy_the_client_counts_that_the_header_says() {
    for engine in engines() {
        let bed = serve_echo(
            engine,
            "workers = 2
            [sockets.echo]
            connections_per_client = 2
            proxy_protocol = true
            listen = [\"127.0.0.1:0\"]",
        );
        let from = |header: &str| {
            let mut client = bed.connect("echo");
            write!(client, "PROXY {header}\r\n").unwrap();
            client
        };
        let ip = |ip: &str, number| {
            let family = if ip.contains(':') { 6 } else { 4 };
            from(&format!("TCP{family} {ip} {ip} {} 4660", 1024 + number))
        };
        // The proxy has as many as it likes, with clients, on the way, and of its own.
        let mut silent: Vec<TcpStream> = (0..5).map(|_| bed.connect("echo")).collect();
        let mut ours = served((0..9).map(|number| ip("192.0.2.7", number)));
        let other = served((0..9).map(|number| ip("192.0.2.8", number)));
        let hosts = (1..9).map(|host| ip(&format!("2001:db8:0:1::{host:x}"), host));
        let network = served(hosts);
        let own = served((0..9).map(|_| from("UNKNOWN")));
        let counts = [&ours, &other, &network, &own].map(|clients| clients.len());
        assert_eq!(counts, [2, 2, 2, 9]);
        assert_eq!(bed.total().crowded, 7 + 7 + 6);

        // Who came first does not matter, but whose header did.
        ours.pop();
        bed.until_open(5 + 1 + 2 + 2 + 9);
        silent.truncate(2);
        for client in &mut silent {
            write!(client, "PROXY TCP4 192.0.2.7 192.0.2.1 1 1\r\n").unwrap();
        }
        let mut late = served(silent);
        assert_eq!(late.len(), 1);
        exchange(&late[0], &[1]);
        expect(&mut ip("192.0.2.9", 0), &[GREETING]);
        late.clear();
        drop((ours, other, network, own));
        let end = bed.finish();
        // They are connections like others until it is known whose they are.
        assert_eq!((end.accepted, end.opened), (5 + 9 + 9 + 8 + 9 + 1, 41));
        assert_eq!(
            (end.crowded, end.bad_input, end.ended_by_service),
            (21, 0, 0)
        );
    }
}
