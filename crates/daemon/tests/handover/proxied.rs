//! Clients behind a proxy: a header that a restart or reload cuts, and what a successor knows of who has sent one.

use ringhold_client::Address;
use rmpv::Value;

use crate::common::until;
use crate::common::wire::{Wire, counter, request};
use crate::manager::Manager;

fn config(is_proxied: bool) -> String {
    format!(
        "workers = 2
        [sockets.plain]
        service = \"rpc\"
        [sockets.proxied]
        service = \"rpc\"
        proxy_protocol = {is_proxied}
        "
    )
}

/// Headers of both versions, and where they say that the client is; `None` where that is the address of the other end.
fn headers() -> [(Vec<u8>, Option<&'static str>); 4] {
    let start = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x27";
    let addresses = [&[0x20; 16][..], &[0x30; 16], &[0x12, 0x34, 0, 80]].concat();
    let v6 = "[2020:2020:2020:2020:2020:2020:2020:2020]:4660";
    [
        (
            b"PROXY TCP4 192.0.2.7 192.0.2.1 41312 4660\r\n".to_vec(),
            Some("192.0.2.7:41312"),
        ),
        (b"PROXY UNKNOWN\r\n".to_vec(), None),
        ([&start[..], &addresses, &[4, 0, 0]].concat(), Some(v6)),
        (b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec(), None),
    ]
}

/// A client, the rest of its header, and its address.
struct Cut(Wire, Vec<u8>, String);

impl Cut {
    /// Asks where it is.
    fn check(&mut self, id: u32) {
        self.0.send(&std::mem::take(&mut self.1));
        self.0.send(&request(id, "where", &[]));
        let expected: Value = self.2.as_str().into();
        assert_eq!(self.0.reply(), (u64::from(id), Ok(expected)));
    }
}

/// Clients whose headers are cut at every byte, or not at all. What they have sent has arrived: who is still in the backlog when
/// the configuration changes is under the new one.
fn cut_everywhere(addresses: &[Address], plain: &Address) -> Vec<Cut> {
    let received = || counter(plain, "proxied", "bytes_in") as usize;
    let before = received();
    let mut clients = Vec::new();
    let mut sent = 0;
    for address in addresses {
        for (header, client) in headers() {
            for cut in 0..=header.len() {
                let mut wire = Wire::connect(address);
                let own = wire.socket.local_addr().unwrap().as_socket();
                let own = own.map_or("unix".to_owned(), |own| own.to_string());
                wire.send(&header[..cut]);
                sent += cut;
                let rest = header[cut..].to_vec();
                clients.push(Cut(wire, rest, client.map_or(own, str::to_owned)));
            }
        }
    }
    until("everything has arrived", || {
        (received() == before + sent).then_some(())
    });
    clients
}

#[test]
fn a_header_that_is_cut_is_read_on_and_clients_stay_where_they_are() {
    for engine in ["auto", "portable"] {
        let mut manager = Manager::on(engine, 16, &config(true)).with_test_daemon();
        let plain = manager.listen_unix("plain");
        let addresses = [
            manager.listen_tcp("proxied"),
            manager.listen_unix("proxied"),
        ];
        manager.start();
        for step in [Manager::restart, Manager::reload] {
            let mut clients = cut_everywhere(&addresses, &plain);
            step(&mut manager);
            clients.iter_mut().for_each(|client| client.check(1));
            // Nobody who is here is asked otherwise because of another configuration.
            clients.extend(cut_everywhere(&addresses, &plain));
            manager.configure(&config(false));
            step(&mut manager);
            clients.iter_mut().for_each(|client| client.check(2));
            Wire::connect(&addresses[0]).echo(1, 1);
            manager.configure(&config(true));
            step(&mut manager);
            clients.iter_mut().for_each(|client| client.check(3));
            let mut without = Wire::connect(&addresses[0]);
            without.send(&request(1, "where", &[]));
            assert_eq!(without.rest(), b"");
            assert_eq!(counter(&plain, "proxied", "bad_input"), 1);
        }
        manager.stop_for_good();
    }
}
