//! `connections_per_client`: those that a predecessor handed over count as before.

use std::net::SocketAddr;

use ringhold_client::Address;

use crate::common::until;
use crate::common::wire::{Wire, counter};
use crate::manager::Manager;

fn config(limit: u32) -> String {
    format!(
        "workers = 2
        [sockets.admin]
        service = \"rpc\"
        [sockets.plain]
        service = \"rpc\"
        connections_per_client = {limit}
        [sockets.proxied]
        service = \"rpc\"
        connections_per_client = {limit}
        proxy_protocol = true
        "
    )
}

const HEADER: &[u8] = b"PROXY TCP4 192.0.2.7 192.0.2.1 41312 4660\r\n";

/// A client that has sent so much already.
fn sent(address: &Address, bytes: &[u8]) -> Wire {
    let mut wire = Wire::connect(address);
    wire.send(bytes);
    wire
}

fn turned_away(mut wire: Wire) {
    assert_eq!(wire.rest(), b"");
}

#[test]
fn who_is_there_stays_and_counts_when_the_limit_is_lower() {
    let steps: [fn(&mut Manager); 2] = [Manager::restart, Manager::reload];
    for (engine, step) in ["auto", "portable"]
        .into_iter()
        .flat_map(|engine| steps.map(|step| (engine, step)))
    {
        let mut manager = Manager::on(engine, 16, &config(3));
        let admin = manager.listen_unix("admin");
        let [plain, proxied] = ["plain", "proxied"].map(|name| manager.listen_tcp(name));
        manager.start();
        let mut direct: Vec<Wire> = (0..3).map(|_| Wire::connect(&plain)).collect();
        let mut behind: Vec<Wire> = (0..3).map(|_| sent(&proxied, HEADER)).collect();
        let mut own = sent(&proxied, b"PROXY UNKNOWN\r\n");
        let echo = |wires: &mut Vec<Wire>| wires.iter_mut().for_each(|wire| wire.echo(1, 1));
        echo(&mut direct);
        echo(&mut behind);
        own.echo(1, 1);
        turned_away(Wire::connect(&plain));
        let (start, rest) = HEADER.split_at(20);
        let received = || counter(&admin, "proxied", "bytes_in") as usize;
        let before = received();
        let mut halfway = sent(&proxied, start);
        until("half of a header", || {
            (received() == before + start.len()).then_some(())
        });

        manager.configure(&config(2));
        step(&mut manager);
        echo(&mut direct);
        echo(&mut behind);
        own.echo(2, 2);
        turned_away(Wire::connect(&plain));
        turned_away(sent(&proxied, HEADER));
        // It was nobody's until now.
        halfway.send(rest);
        turned_away(halfway);
        let mut neighbour = Wire::connect_with(&plain, |socket| {
            let address: SocketAddr = "127.0.0.2:0".parse().unwrap();
            socket.bind(&address.into()).unwrap();
        });
        neighbour.echo(1, 1);
        sent(&proxied, b"PROXY TCP4 192.0.2.8 192.0.2.1 1 1\r\n").echo(1, 1);
        manager.logged(
            1,
            &[
                "closed a connection of plain at once: 127.0.0.1 has as many others as \
                 sockets.plain.connections_per_client = 2 allows",
            ],
        );
        manager.logged(
            2,
            &[
                " of proxied from 192.0.2.7:41312 through 127.0.0.1:",
                "closes: its client has as many others as connections_per_client of the socket allows",
            ],
        );
        let crowded = ["plain", "proxied"].map(|name| counter(&admin, name, "crowded"));
        assert_eq!(crowded, [1, 2]);

        // They have their places until they go.
        for (wires, name, address, first) in [
            (direct, "plain", &plain, &[][..]),
            (behind, "proxied", &proxied, HEADER),
        ] {
            let mut wires = wires;
            for left in [2, 1] {
                wires.pop();
                // Besides the neighbour, or the proxy itself.
                until("its end", || {
                    (counter(&admin, name, "open") == left + 1).then_some(())
                });
                let mut next = sent(address, first);
                match left {
                    2 => turned_away(next),
                    _ => next.echo(1, 1),
                }
            }
        }
        manager.stop_for_good();
    }
}
