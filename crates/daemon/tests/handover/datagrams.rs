//! A datagram socket of the application, whose address is a setting that changes.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use ringhold_client::Address;
use rmpv::Value;

use crate::common::wire::{Wire, request};
use crate::manager::Manager;

const CONFIG: &str = "workers = 1\n[sockets.rpc]\n";

/// A service that has the datagram socket `metrics`, and who sends to it.
struct Bed {
    manager: Manager,
    address: Address,
    sender: UdpSocket,
}

impl Bed {
    fn new(store_max: usize, address: SocketAddr) -> Self {
        let mut manager = Manager::new(store_max, CONFIG).with_test_daemon();
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
        let flag = self.manager.path("flags/datagram");
        std::fs::write(flag, address.to_string()).unwrap();
    }

    fn call(&self, method: &str) -> Value {
        let mut wire = Wire::connect(&self.address);
        wire.send(&request(0, method, &[]));
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

/// An address that nobody has at the moment.
fn free() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap()
}

#[test]
fn it_stays_where_it_is_wanted_and_moves_elsewhere() {
    type Step = fn(&mut Manager);
    let steps: [(usize, Step); 3] = [
        (0, Manager::reload),
        (16, Manager::reload),
        (16, Manager::restart),
    ];
    for (store_max, step) in steps {
        let [first, second] = [(); 2].map(|()| free());
        let mut bed = Bed::new(store_max, first);
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
        step(&mut bed.manager);
        bed.send(4, any);
        bed.has(any, &[4]);
        bed.manager
            .logged(1, &[&format!("moves from {second} to {any}")]);
        let stored = bed.manager.state().stored().len();
        assert_eq!(stored, store_max.min(1));
        bed.manager.stop_for_good();
    }
}

#[test]
fn a_reload_to_an_address_that_cannot_be_had_is_refused() {
    let address = free();
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
    let mut bed = Bed::new(0, free());
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
