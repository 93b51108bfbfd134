//! A datagram socket of the application, whose address is a setting that changes.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use ringhold_client::Address;
use rmpv::Value;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket, sockopt};

use crate::common::wire::{Wire, request};
use crate::manager::Manager;
use crate::ports::free_address;

const CONFIG: &str = "workers = 1\n[sockets.rpc]\n";

/// A service that has the datagram socket `metrics`, and who sends to it.
struct Bed {
    manager: Manager,
    address: Address,
    sender: UdpSocket,
}

impl Bed {
    fn new(store_max: usize, address: SocketAddr) -> Self {
        Self::on("auto", store_max, address)
    }

    fn on(engine: &'static str, store_max: usize, address: SocketAddr) -> Self {
        let mut manager = Manager::on(engine, store_max, CONFIG).with_test_daemon();
        let bed = Bed {
            address: manager.listen_unix("rpc"),
            manager,
            sender: UdpSocket::bind("127.0.0.1:0").unwrap(),
        };
        bed.wants(address);
        bed
    }

    /// The setting of the program.
    fn wants(&self, address: SocketAddr) {
        self.wants_all(&[("metrics", address)]);
    }

    /// The first one is what the others of these functions are about.
    fn wants_all(&self, all: &[(&str, SocketAddr)]) {
        let flag = self.manager.path("flags/datagram");
        let lines = all
            .iter()
            .map(|(name, address)| format!("{name} {address}\n"));
        std::fs::write(flag, lines.collect::<String>()).unwrap();
    }

    fn call(&self, method: &str) -> Value {
        self.call_with(method, &[])
    }

    fn call_with(&self, method: &str, params: &[Value]) -> Value {
        let mut wire = Wire::connect(&self.address);
        wire.send(&request(0, method, params));
        wire.reply().1.unwrap()
    }

    fn send(&self, number: u8, to: SocketAddr) {
        let to = (Ipv4Addr::LOCALHOST, to.port());
        self.sender.send_to(&[number], to).unwrap();
    }

    /// It has the socket at this address, in which these were waiting.
    fn has(&self, address: SocketAddr, numbers: &[u8]) {
        assert_eq!(self.call("metrics_port"), Value::from(address.port()));
        let expected = numbers.iter().map(|number| Value::Binary(vec![*number]));
        assert_eq!(self.call("metrics"), Value::Array(expected.collect()));
    }
}

type Step = fn(&mut Manager);

/// The second one is the ring where the kernel has it.
const ENGINES: [&str; 2] = ["portable", "auto"];

/// Each way to the next process on each engine, with the size of the store.
fn ways() -> impl Iterator<Item = (&'static str, usize, Step)> {
    let steps: [(usize, Step); 3] = [
        (0, Manager::reload),
        (16, Manager::reload),
        (16, Manager::restart),
    ];
    let engines = ENGINES.into_iter();
    engines.flat_map(move |engine| steps.map(|(store_max, step)| (engine, store_max, step)))
}

/// Nobody may be there besides whoever is.
fn is_shared_with_nobody(address: SocketAddr) {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap();
    sockopt::set_socket_reuseaddr(&socket, true).unwrap();
    assert_eq!(bind(&socket, &address), Err(Errno::ADDRINUSE));
}

#[test]
fn it_stays_where_it_is_wanted_and_moves_elsewhere() {
    for (engine, store_max, step) in ways() {
        let [first, second] = [(); 2].map(|()| free_address());
        let mut bed = Bed::on(engine, store_max, first);
        bed.manager.start();
        bed.send(1, first);
        step(&mut bed.manager);
        bed.send(2, first);
        bed.has(first, &[1, 2]);

        bed.wants(second);
        step(&mut bed.manager);
        bed.send(3, second);
        bed.has(second, &[3]);
        // Nobody has the other one any more, the service manager neither.
        UdpSocket::bind(first).unwrap();

        // Its predecessor is in the way of this one.
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, second.port()));
        bed.wants(any);
        let mark = bed.manager.mark();
        step(&mut bed.manager);
        bed.send(4, any);
        bed.has(any, &[4]);
        is_shared_with_nobody(second);
        // The service manager is told once, when what it has goes.
        let mut removals = bed.manager.state().messages.split_off(mark);
        removals.retain(|text| text == "FDSTOREREMOVE=1\nFDNAME=ringhold.fd.metrics");
        assert_eq!(removals.len(), 1);
        bed.manager
            .logged(1, &[&format!("moves from {second} to {any}")]);
        let stored = bed.manager.state().stored().len();
        assert_eq!(stored, store_max.min(1));
        bed.manager.stop_for_good();
    }
}

#[test]
fn a_reload_to_an_address_that_cannot_be_had_is_refused() {
    let address = free_address();
    let mut bed = Bed::new(0, address);
    bed.manager.start();
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = (taken.local_addr().unwrap(), taken);
    for (count, wanted) in [(1, taken.0), (2, "192.0.2.1:8125".parse().unwrap())] {
        bed.wants(wanted);
        bed.manager.reload();
        bed.manager
            .logged(count, &["the reload is refused, nothing has changed"]);
        let said = format!("descriptor \"metrics\" of the application cannot be had: {wanted}: ");
        bed.manager.logged(1, &[&said]);
        bed.send(count as u8, address);
    }
    bed.has(address, &[1, 2]);
    bed.manager.stop_for_good();
}

#[test]
fn a_unit_s_socket_is_where_the_unit_says_and_must_be_one() {
    let mut bed = Bed::new(0, free_address());
    let port = bed.manager.listen_udp("metrics");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    bed.manager.start();
    bed.send(1, address);
    bed.manager.reload();
    bed.manager.logged(
        2,
        &["descriptor \"metrics\" of the application (inherited, 127.0.0.1:"],
    );
    bed.has(address, &[1]);
    bed.manager.stop_for_good();

    // Another version of the program accepts there itself.
    let mut bed = Bed::new(0, address);
    bed.manager.listen_tcp("metrics");
    bed.manager.set_flag("datagram", false);
    bed.manager.set_flag("claim-metrics", true);
    bed.manager.start();
    bed.manager.set_flag("claim-metrics", false);
    bed.wants(address);
    bed.manager.reload();
    bed.manager.logged(
        1,
        &["what its socket unit passes on listens; a UDP socket is needed"],
    );
    bed.manager.stop_for_good();
}

#[test]
fn what_a_unit_passes_on_and_is_no_udp_socket_refuses_a_reload() {
    for engine in ENGINES {
        let mut bed = Bed::on(engine, 0, free_address());
        bed.wants_all(&[]);
        bed.manager.listen_unix_datagram("metrics");
        bed.manager.set_flag("claim-metrics", true);
        bed.manager.start();
        let mut wire = Wire::connect(&bed.address);
        wire.echo(1, 1);
        bed.manager.set_flag("claim-metrics", false);
        bed.wants(free_address());
        bed.manager.reload();
        bed.manager.logged(
            1,
            &["what its socket unit passes on is none; a UDP socket is needed"],
        );
        wire.echo(2, 1);
        bed.manager.stop_for_good();
    }
}

#[test]
fn it_stays_where_it_is_if_somebody_else_is_in_the_way_too() {
    for (engine, store_max, step) in ways() {
        let own = free_address();
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, own.port()));
        let third = UdpSocket::bind(("127.0.0.2", own.port())).unwrap();
        let mut bed = Bed::on(engine, store_max, own);
        bed.manager.start();
        let mut wire = Wire::connect(&bed.address);
        wire.echo(1, 1);
        bed.wants(any);
        bed.send(1, own);
        step(&mut bed.manager);
        let said = format!("stays where it is: {any}: ");
        bed.manager.logged(1, &["ERROR", &said]);
        wire.echo(2, 1);
        bed.send(2, own);
        bed.has(own, &[1, 2]);
        is_shared_with_nobody(own);

        drop(third);
        step(&mut bed.manager);
        wire.echo(3, 1);
        bed.send(3, any);
        bed.has(any, &[3]);
        bed.manager.stop_for_good();
    }
}

#[test]
fn two_change_places_and_one_changes_its_name() {
    for (engine, store_max, step) in ways() {
        let [one, other] = [(); 2].map(|()| free_address());
        let mut bed = Bed::on(engine, store_max, one);
        let stored = |bed: &Bed, names: &[(&str, SocketAddr)]| {
            let state = bed.manager.state();
            let stored = state.store.iter().map(|it| {
                let at = getsockname(&it.fd).unwrap().try_into().unwrap();
                (it.name.strip_prefix("ringhold.fd.").unwrap(), at)
            });
            let mut stored: Vec<(&str, SocketAddr)> = stored.collect();
            stored.sort_unstable();
            assert_eq!(stored, &names[..names.len().min(store_max)]);
        };
        bed.wants_all(&[("metrics", one), ("second", other)]);
        bed.manager.start();
        let places = [("metrics", other), ("second", one)];
        bed.wants_all(&places);
        step(&mut bed.manager);
        bed.send(1, other);
        bed.has(other, &[1]);
        stored(&bed, &places);
        is_shared_with_nobody(other);

        bed.wants_all(&[("samples", other)]);
        step(&mut bed.manager);
        bed.send(2, other);
        bed.has(other, &[2]);
        stored(&bed, &[("samples", other)]);
        UdpSocket::bind(one).unwrap();

        // Both at once: a reload cannot know that nobody else is in the way.
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, other.port()));
        bed.wants_all(&[("more", any)]);
        step(&mut bed.manager);
        bed.send(3, any);
        bed.has(any, &[3]);
        let is_reload = step as usize == Manager::reload as Step as usize;
        if is_reload {
            let why = format!(
                "{any}: the running program has {other} as descriptor \"samples\", which this one gives up, but only a restart shows"
            );
            bed.manager.logged(1, &["the reload is refused", &why]);
        }
        let refused = bed.manager.log().matches("the reload is refused").count();
        assert_eq!(refused, usize::from(is_reload));
        bed.manager.stop_for_good();
    }
}

/// Nobody else can have an address that the predecessor's has with all others.
#[test]
fn one_that_is_everywhere_makes_room_for_others_in_some_places() {
    for (engine, store_max, step) in ways() {
        let one = free_address();
        let at = |ip: [u8; 4]| SocketAddr::from((ip, one.port()));
        let (any, other) = (at([0; 4]), at([127, 0, 0, 2]));
        let mut bed = Bed::on(engine, store_max, any);
        bed.wants_all(&[("wide", any)]);
        bed.manager.start();
        let mut wire = Wire::connect(&bed.address);
        wire.echo(1, 1);
        bed.wants_all(&[("narrow", one), ("second", other)]);
        step(&mut bed.manager);
        wire.echo(2, 1);
        bed.send(1, one);
        bed.has(one, &[1]);
        for address in [one, other] {
            bed.manager.logged(1, &[&format!("(new, {address})")]);
            is_shared_with_nobody(address);
        }
        bed.manager.stop_for_good();
    }
}

#[test]
fn no_two_can_have_the_same_address() {
    let [one, other] = [(); 2].map(|()| free_address());
    let mut bed = Bed::new(16, one);
    bed.manager.start();
    for (count, address) in [(1, one), (2, other)] {
        bed.wants_all(&[("metrics", address), ("second", address)]);
        bed.manager.reload();
        let said = format!("descriptor \"second\" of the application cannot be had: {address}: ");
        bed.manager.logged(1, &[&said]);
        bed.manager.logged(count, &["the reload is refused"]);
    }
    bed.has(one, &[]);
    bed.manager.stop_for_good();
}

/// Each of them alone could have its address, since who is in the way of it goes.
#[test]
fn no_two_can_have_addresses_of_which_one_includes_the_other() {
    for engine in ENGINES {
        let one = free_address();
        let at = |ip: [u8; 4]| SocketAddr::from((ip, one.port()));
        let (any, other) = (at([0; 4]), at([127, 0, 0, 2]));
        let mut bed = Bed::on(engine, 0, one);
        let mut refused = 0;
        let mut refuses = |bed: &mut Bed, wanted: [(&str, SocketAddr); 2]| {
            bed.wants_all(&wanted);
            bed.manager.reload();
            refused += 1;
            bed.manager.logged(refused, &["the reload is refused"]);
            let [(first, there), (second, here)] = wanted;
            let said = format!("descriptor {second:?} of the application cannot be had: {here}: ");
            let why = format!("descriptor {first:?} is to be at {there}");
            bed.manager.logged(1, &[&said, &why]);
        };
        bed.wants_all(&[("metrics", one), ("second", other)]);
        bed.manager.start();
        let mut wire = Wire::connect(&bed.address);
        refuses(&mut bed, [("metrics", any), ("third", other)]);
        refuses(&mut bed, [("third", other), ("metrics", any)]);
        refuses(&mut bed, [("metrics", one), ("second", any)]);
        bed.wants_all(&[("metrics", one), ("third", any)]);
        bed.manager.reload();
        let why = format!(
            "\"third\" of the application cannot be had: {any}: the running program has {one} as descriptor \"metrics\", which stays there"
        );
        bed.manager.logged(1, &[&why]);
        bed.has(one, &[]);

        // These two have nothing in common.
        let six = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], one.port()));
        if UdpSocket::bind(six).is_ok() {
            bed.wants_all(&[("metrics", any), ("third", six)]);
            bed.manager.reload();
            bed.has(any, &[]);
            bed.manager.logged(1, &[&format!("(new, {six})")]);
        }
        wire.echo(1, 1);
        bed.manager.stop_for_good();
    }
}

/// The application has had it by itself, and only when that has begun it is known whether it still has.
#[test]
fn one_that_the_application_gives_up_is_in_nobody_s_way_after_a_restart() {
    for store_max in [0, 16] {
        let mut bed = Bed::new(store_max, free_address());
        bed.wants_all(&[]);
        bed.manager.set_flag("claim-metrics", true);
        bed.manager.start();
        let port = bed.call("metrics_port").as_u64().unwrap() as u16;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));

        // It keeps it.
        bed.wants_all(&[("second", address)]);
        let said = format!("descriptor \"second\" of the application cannot be had: {address}: ");
        let why = format!(
            "the running program has {address} as descriptor \"metrics\", and only a restart shows whether this one gives it up"
        );
        bed.manager.reload();
        bed.manager
            .logged(1, &["the reload is refused", &said, &why]);
        if store_max > 0 {
            bed.manager.stop();
            bed.manager.launch();
            assert_eq!(bed.manager.ended().code(), Some(1));
            bed.manager.logged(2, &[&said]);
            bed.wants_all(&[]);
            bed.manager.start();
            bed.has(address, &[]);
        }

        bed.manager.set_flag("open-another", true);
        bed.wants_all(&[("second", address)]);
        bed.manager.reload();
        bed.manager.logged(2, &["the reload is refused", &why]);
        bed.manager.restart();
        bed.manager.logged(
            1,
            &[&format!("\"second\" of the application (new, {address})")],
        );
        is_shared_with_nobody(address);
        assert_ne!(bed.call("metrics_port"), Value::from(port));
        let stored = bed.manager.state().stored().len();
        assert_eq!(stored, store_max.min(2));
        bed.manager.stop_for_good();
    }
}

#[test]
fn one_that_its_service_has_connected_keeps_its_queue_and_its_port() {
    for (engine, store_max, step) in ways() {
        for port in [0, free_address().port()] {
            let mut bed = Bed::on(engine, store_max, (Ipv4Addr::UNSPECIFIED, port).into());
            bed.manager.start();
            let port = bed.call("metrics_port").as_u64().unwrap() as u16;
            let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let sender = bed.sender.local_addr().unwrap().port();
            bed.call_with("metrics_connect", &[sender.into()]);
            bed.send(1, at);
            step(&mut bed.manager);
            bed.send(2, at);
            bed.has(at, &[1, 2]);
            bed.manager.stop_for_good();
        }
    }
}

#[test]
fn addresses_of_version_6_are_compared_as_the_kernel_has_them() {
    // Where there is none of them, there is nothing to see.
    if UdpSocket::bind("[::1]:0").is_err() {
        return;
    }
    for (engine, store_max, step) in ways() {
        let port = free_address().port();
        // It has no scope.
        let own: SocketAddr = format!("[::1%1]:{port}").parse().unwrap();
        let mut bed = Bed::on(engine, store_max, own);
        bed.manager.start();
        step(&mut bed.manager);
        let said = format!("(the predecessor's, [::1]:{port})");
        bed.manager.logged(1, &[&said]);
        bed.manager.stop_for_good();

        // One address in two ways of writing.
        let own = free_address();
        let wanted = format!("[::ffff:127.0.0.1]:{}", own.port());
        let mut bed = Bed::on(engine, store_max, own);
        bed.manager.start();
        bed.wants(wanted.parse().unwrap());
        step(&mut bed.manager);
        bed.send(1, own);
        bed.has(own, &[1]);
        let said = format!("moves from {own} to {wanted}");
        bed.manager.logged(1, &[&said]);
        bed.manager.stop_for_good();
    }
}

#[test]
fn an_address_that_is_none_is_an_error_of_the_machine() {
    // It is of no link.
    let mut bed = Bed::new(0, "[fe80::1]:8125".parse().unwrap());
    bed.manager.launch();
    assert_eq!(bed.manager.ended().code(), Some(1));
    let log = bed.manager.log();
    assert!(log.contains("cannot be had: [fe80::1]:8125: "), "{log}");
    assert!(!log.contains("inherited were"), "{log}");
}
