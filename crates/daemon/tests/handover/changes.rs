//! Changes of the configuration that a reload applies.

use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;

use ringhold_client::Address;
use rmpv::Value;
use socket2::{Domain, Socket, Type};

use crate::common::until;
use crate::common::wire::{Wire, counter, field, request};
use crate::load::Load;
use crate::manager::Manager;
use crate::ports::free_address;

/// A TCP address that nobody listens on.
pub(crate) fn free() -> Address {
    Address::Tcp(free_address())
}

fn refuses(address: &Address) -> bool {
    match address {
        Address::Tcp(address) => {
            let error = std::net::TcpStream::connect(address).err();
            error.is_some_and(|error| error.kind() == ErrorKind::ConnectionRefused)
        }
        Address::Unix(path) => !Path::new(path).exists(),
        other => panic!("{other}"),
    }
}

/// Names in the order of the alphabet, each with where it listens.
pub(crate) fn sections(sections: &[(&str, &Address)]) -> String {
    let section = |(name, address): &(&str, &Address)| {
        format!("[sockets.{name}]\nservice = \"rpc\"\nlisten = [\"{address}\"]\n")
    };
    let sections: Vec<String> = sections.iter().map(section).collect();
    format!("workers = 2\n{}", sections.concat())
}

#[test]
fn names_come_and_go() {
    let (a, b) = (free(), free());
    let mut manager = Manager::new(0, &sections(&[("a", &a)]));
    manager.start();
    let mut at_a = Wire::connect(&a);
    at_a.echo(1, 1);

    // Newly there.
    manager.configure(&sections(&[("a", &a), ("b", &b)]));
    manager.reload();
    at_a.echo(2, 2);
    let mut at_b = Wire::connect(&b);
    at_b.echo(1, 1);

    // Gone: its connections end, and nobody listens.
    manager.configure(&sections(&[("b", &b)]));
    manager.reload();
    assert_eq!(at_a.rest(), b"");
    let ended = |name| {
        format!(
            "closing 1 connection: no section [sockets.{name}] is enabled any more socket={name}"
        )
    };
    manager.logged(1, &[&ended("a")]);
    assert!(refuses(&a));
    at_b.echo(2, 2);

    // Back, and the other one disabled.
    let disabled = sections(&[("a", &a), ("b", &b)]) + "enable = false\n";
    manager.configure(&disabled);
    manager.reload();
    assert_eq!(at_b.rest(), b"");
    manager.logged(1, &[&ended("b")]);
    assert!(refuses(&b));
    Wire::connect(&a).echo(1, 1);

    // And enabled again.
    manager.configure(&disabled.replace("false", "true"));
    manager.reload();
    let mut at_b = Wire::connect(&b);
    at_b.echo(1, 1);

    // Another name listens there: connections are those of a name, not of an address.
    manager.configure(&sections(&[("a", &a), ("c", &b)]));
    manager.reload();
    assert_eq!(at_b.rest(), b"");
    manager.logged(2, &[&ended("b")]);
    Wire::connect(&b).echo(1, 1);
    manager.stop();
    assert!(refuses(&a) && refuses(&b));
}

#[test]
fn who_is_there_stays_when_the_limit_is_lower() {
    for engine in ["auto", "portable"] {
        let a = free();
        let text = sections(&[("a", &a)]);
        let mut manager = Manager::on(engine, 0, &text);
        manager.start();
        let mut wires: Vec<Wire> = (0..6).map(|_| Wire::connect(&a)).collect();
        wires.iter_mut().for_each(|wire| wire.echo(1, 1));
        manager.configure(&format!("{text}connections = 1\n"));
        manager.reload();
        wires.iter_mut().for_each(|wire| wire.echo(2, 2));
        let mut next = Wire::connect(&a);
        manager.logged(
            1,
            &["every worker of its partition holds sockets.a.connections = 1."],
        );
        wires.iter_mut().for_each(|wire| wire.echo(3, 3));
        drop(wires);
        next.echo(1, 1);
        manager.stop();
    }
}

/// No successor accepts anybody above a limit, however often that happens.
#[test]
fn limits_hold_over_any_number_of_reloads_and_restarts() {
    for (engine, workers) in [("auto", 1), ("portable", 1), ("auto", 2), ("portable", 2)] {
        let config = format!(
            "workers = {workers}
            [limits]
            connections = 20
            [sockets.rpc]
            connections = 10
            [sockets.admin]
            service = \"rpc\""
        );
        let limit = 10 * workers;
        let mut manager = Manager::on(engine, 16, &config);
        let (rpc, admin) = (manager.listen_tcp("rpc"), manager.listen_unix("admin"));
        manager.start();
        let wires: Vec<Wire> = (0..60).map(|_| Wire::connect(&rpc)).collect();
        until("accepting pauses", || {
            (counter(&admin, "rpc", "accept_pauses") > 0).then_some(())
        });
        for round in 0..6 {
            if round % 2 == 0 {
                manager.reload();
            } else {
                manager.restart();
            }
            let mut operator = Wire::connect(&admin);
            let mut count = |name| operator.counter("rpc", name);
            let (accepted, open) = (count("accepted"), count("open"));
            assert_eq!((accepted, open), (0, limit), "{round}");
        }
        // A stop makes no room.
        let log = manager.log();
        assert!(!log.contains("accepting goes on"), "{log}");
        // The others are in the backlog, and nobody is lost.
        for mut wire in wires {
            wire.echo(1, 1);
        }
        manager.stop_for_good();
    }
}

/// What the predecessor promised is written, all of it, although nobody serves the name any more.
#[test]
fn connections_of_a_name_that_is_gone_get_what_they_were_promised() {
    let (a, b) = (free(), free());
    let mut manager = Manager::new(0, &sections(&[("a", &a), ("b", &b)])).with_test_daemon();
    manager.start();
    const LENGTH: usize = 4 << 20;
    let mut readers: Vec<Wire> = [&a, &b]
        .map(|address| {
            let mut wire =
                Wire::connect_with(address, |socket| socket.set_recv_buffer_size(4096).unwrap());
            wire.send(&request(1, "big", &[LENGTH.into()]));
            assert_eq!(wire.exactly(3), [0x94, 1, 1]);
            wire
        })
        .into();
    let gone = sections(&[("a", &a)])
        + "enable = false\n[sockets.c]\nservice = \"rpc\"\nlisten = [\"127.0.0.1:0\"]\n";
    manager.configure(&gone);
    manager.reload();
    for reader in &mut readers {
        assert_eq!(reader.rest().len(), 1 + 5 + LENGTH);
    }
    manager.stop();
}

#[test]
fn an_inherited_name_is_disabled_and_cannot_be_removed() {
    let on = "[sockets.a]\nservice = \"rpc\"\n[sockets.b]\nservice = \"rpc\"\n";
    let off = format!("{on}enable = false\n");
    let mut manager = Manager::new(16, on);
    let [a, b] = ["a", "b"].map(|name| manager.listen_unix(name));
    manager.start();
    let [mut at_a, mut at_b] = [&a, &b].map(|address| {
        let mut wire = Wire::connect(address);
        wire.echo(1, 1);
        wire
    });
    manager.configure(&off);
    manager.reload();
    at_a.echo(2, 2);
    assert_eq!(at_b.rest(), b"");
    // Clients do not hang.
    assert_eq!(Wire::connect(&b).rest(), b"");
    assert_eq!(counter(&a, "b", "turned_away"), 1);

    manager.configure("[sockets.a]\nservice = \"rpc\"\n");
    manager.reload();
    manager.logged(1, &["the reload is refused"]);
    manager.logged(
        1,
        &["the inherited listener \"b\" is claimed by no section"],
    );
    at_a.echo(3, 3);

    manager.configure(on);
    manager.restart();
    at_a.echo(4, 4);
    Wire::connect(&b).echo(1, 1);
    manager.stop_for_good();
}

#[test]
fn what_we_bound_follows_its_address() {
    let (old, new) = (free(), free());
    let mut manager = Manager::new(0, &sections(&[("a", &old)]));
    let unix = Address::Unix(manager.path("a.sock").into());
    manager.start();
    let mut wire = Wire::connect(&old);
    let mut last = old;
    for (id, next) in [new, unix, free()].into_iter().enumerate() {
        manager.configure(&sections(&[("a", &next)]));
        manager.reload();
        assert!(refuses(&last), "{last}");
        Wire::connect(&next).echo(0, 1);
        // The connection is not bound to the address that it came by.
        wire.echo(id as u32, 2);
        last = next;
    }
    manager.stop();
}

/// Each takes the address of the other, TCP and path: the old listeners must not be in the way.
#[test]
fn addresses_are_swapped() {
    let manager = Manager::new(0, "");
    let path = Address::Unix(manager.path("x.sock").into());
    let mut manager = manager;
    let (a, b) = (free(), path);
    manager.configure(&sections(&[("a", &a), ("b", &b)]));
    manager.start();
    let mut wires = [&a, &b].map(Wire::connect);
    for round in 0..4 {
        let (first, second) = if round % 2 == 0 { (&b, &a) } else { (&a, &b) };
        manager.configure(&sections(&[("a", first), ("b", second)]));
        manager.reload();
        for (name, address) in [("a", first), ("b", second)] {
            let before = counter(address, name, "opened");
            Wire::connect(address).echo(1, 1);
            assert!(counter(address, name, "opened") > before);
        }
        wires.iter_mut().for_each(|wire| wire.echo(round, 1));
    }
    // To all interfaces, with the same port.
    let Address::Tcp(tcp) = &a else {
        unreachable!()
    };
    let wide = Address::Tcp(([0, 0, 0, 0], tcp.port()).into());
    manager.configure(&sections(&[("a", &wide), ("b", &b)]));
    manager.reload();
    Wire::connect(&a).echo(1, 1);
    wires.iter_mut().for_each(|wire| wire.echo(9, 1));
    manager.stop();
}

/// The workers of the connections, as the counters say.
fn held(status: &Value) -> Vec<u64> {
    let workers = field(status, "workers");
    let workers = workers.as_array().unwrap().iter();
    workers
        .map(|worker| {
            let names = field(worker, "names");
            field(field(names, "a"), "restored").as_u64().unwrap()
        })
        .collect()
}

#[test]
fn connections_move_to_the_new_partition_and_to_new_workers() {
    let a = free();
    let with = |workers: usize, partition: &str| {
        format!(
            "workers = {workers}\n[sockets.a]\nservice = \"rpc\"\nlisten = [\"{a}\"]\nworkers = {partition}\n"
        )
    };
    let mut manager = Manager::new(0, &with(1, "\"all\""));
    manager.start();
    let mut wires: Vec<Wire> = (0..12).map(|_| Wire::connect(&a)).collect();
    let mut check = |manager: &mut Manager, config: &str, expected: &[u64]| {
        manager.configure(config);
        manager.reload();
        wires.iter_mut().for_each(|wire| wire.echo(1, 1));
        assert_eq!(held(&wires[0].status()), expected, "{config}");
    };
    check(&mut manager, &with(3, "\"all\""), &[4, 4, 4]);
    check(&mut manager, &with(3, "[1]"), &[0, 12, 0]);
    check(&mut manager, &with(4, "\"2-3\""), &[0, 0, 6, 6]);
    check(&mut manager, &with(2, "\"all\""), &[6, 6]);
    check(&mut manager, &with(1, "[0]"), &[12]);
    // A limit that is lower than what is there turns nobody away, and sends nobody elsewhere.
    let limited = |partition: &str| with(3, partition) + "[limits]\nconnections = 2\n";
    check(&mut manager, &limited("[1]"), &[0, 12, 0]);
    check(&mut manager, &limited("[0, 2]"), &[6, 0, 6]);
    manager.stop();
}

/// A listener for each worker. With fewer workers, the queues of the others still hold clients.
#[test]
fn listeners_per_worker_follow_the_workers_under_load() {
    let a = free();
    let with = |workers: usize| {
        format!("workers = {workers}\n[sockets.rpc]\nlisten = [\"{a}\"]\nreuse_port = true\n")
    };
    let mut manager = Manager::new(0, &with(2));
    manager.start();
    let load = Load::start(&a, 20, 64);
    until("connections", || {
        (counter(&a, "rpc", "opened") > 40).then_some(())
    });
    for workers in [4, 1, 3, 2, 1, 4, 2, 2] {
        manager.configure(&with(workers));
        manager.reload();
        let opened = counter(&a, "rpc", "opened");
        until("more", || {
            (counter(&a, "rpc", "opened") > opened + 50).then_some(())
        });
    }
    load.end();
    manager.stop();
}

/// Where the service, which binds `count` addresses, has listened since its start number `times`.
fn listening(manager: &mut Manager, count: usize, times: usize) -> Vec<String> {
    manager.logged(count * times, &["listening on", "(bound"]);
    let log = manager.log();
    let lines = log
        .lines()
        .filter_map(|line| line.split_once("listening on "));
    let all: Vec<String> = lines
        .map(|(_, rest)| rest.split(" (").next().unwrap().to_owned())
        .collect();
    all[count * (times - 1)..].to_vec()
}

/// One address twice, since its port is another one each time.
#[test]
fn ports_that_the_kernel_chose_stay_as_many_and_where_they_were() {
    for (more, count) in [("", 2), ("reuse_port = true", 4)] {
        let listen = "listen = [\"127.0.0.1:0\", \"127.0.0.1:0\"]";
        let config = format!("workers = 2\n[sockets.rpc]\n{listen}\n{more}\n");
        let mut manager = Manager::new(0, &config);
        manager.start();
        let first = listening(&mut manager, count, 1);
        let mut wires: Vec<Wire> = first
            .iter()
            .map(|address| Wire::connect(&Address::Tcp(address.parse().unwrap())))
            .collect();
        for round in 2..5 {
            manager.reload();
            assert_eq!(listening(&mut manager, count, round), first);
            wires.iter_mut().for_each(|wire| wire.echo(1, 1));
        }
        assert_eq!(manager.log().matches("listening on").count(), 4 * count);
        manager.stop();
    }
}

#[test]
fn ports_and_paths_stay_over_a_reload_and_paths_go_at_the_stop() {
    let mut manager = Manager::new(
        0,
        "[sockets.rpc]\nlisten = [\"127.0.0.1:0\", \"[::1]:0\", \"unix:DIR/a.sock\", \"unix:@DIR\"]\n",
    );
    manager.start();
    let first = listening(&mut manager, 4, 1);
    let path = manager.path("a.sock");
    let inode = |path: &str| {
        use std::os::unix::fs::MetadataExt;
        std::fs::symlink_metadata(path).unwrap().ino()
    };
    let before = inode(&path);
    for round in 2..6 {
        manager.reload();
        assert_eq!(listening(&mut manager, 4, round), first);
        assert_eq!(inode(&path), before);
    }
    manager.stop();
    assert!(!Path::new(&path).exists());
    let abstract_socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    let name =
        socket2::SockAddr::unix(format!("\0{}", manager.path("")).trim_end_matches('/')).unwrap();
    assert!(abstract_socket.connect(&name).is_err());
}

/// The daemon leaves everything for a successor, but the service manager closes it: what was not read is lost, and the path
/// stays where it is until the next start.
#[test]
fn with_a_store_a_stop_for_good_cuts_and_leaves_paths() {
    let mut manager = Manager::new(16, "[sockets.rpc]\nlisten = [\"unix:DIR/a.sock\"]\n");
    manager.start();
    let path = manager.path("a.sock");
    let address = Address::Unix(path.clone().into());
    let mut wire = Wire::connect(&address);
    wire.echo(1, 1);
    manager.stop();
    wire.send(&request(2, "echo", &[2.into()]));
    manager.state().store.clear();
    let error = wire.socket.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(Path::new(&path).exists());
    // A child that another test is just starting may have the listener for a moment.
    let error = until("the listener's end", || UnixStream::connect(&path).err());
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    manager.start();
    Wire::connect(&address).echo(3, 3);
    manager.stop_for_good();
}
