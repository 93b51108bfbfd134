//! Options of sockets that a reload or restart changes on listeners that stay.

use std::net::SocketAddr;

use crate::changes::{free, sections};
use crate::common::until;
use crate::common::wire::Wire;
use crate::manager::Manager;

#[test]
fn changed_socket_options_are_applied() {
    let a = free();
    let base = sections(&[("a", &a)]);
    let mut manager = Manager::new(0, &base);
    manager.start();
    let mut wire = Wire::connect(&a);
    for (id, option) in [
        "reuse_port = true",
        "nodelay = false",
        "reuse_port = true\nbacklog = 7",
        "congestion = \"reno\"",
        "",
    ]
    .iter()
    .enumerate()
    {
        manager.configure(&format!("{base}{option}\n"));
        manager.reload();
        manager.logged(id + 1, &["took over"]);
        wire.echo(id as u32, 4);
        Wire::connect(&a).echo(1, 1);
    }
    manager.stop();
}

/// The timer of a connection as /proc/net/tcp has it on the server's side, and in how many seconds it ends. The kernel gives
/// that table in pieces: while other connections come and go, a row may be in none of them, or in two.
fn timer(wire: &Wire) -> Option<(String, u64)> {
    let hexadecimal = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => {
            let ip = u32::from_ne_bytes(v4.ip().octets());
            format!("{ip:08X}:{:04X}", v4.port())
        }
        SocketAddr::V6(_) => panic!("{address}"),
    };
    let ends = [wire.socket.peer_addr(), wire.socket.local_addr()];
    let [server, client] = ends.map(|end| hexadecimal(end.unwrap().as_socket().unwrap()));
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let mut rows = table
        .lines()
        .map(|row| row.split_whitespace().collect::<Vec<_>>());
    let found = rows.find(|row| row[1..3] == [&server, &client])?;
    let (timer, rest) = found[5].split_once(':').unwrap();
    let rest = u64::from_str_radix(rest, 16).unwrap();
    Some((timer.to_owned(), rest / 100))
}

/// The listener is the same one, so what was set before must be undone.
#[test]
fn a_listener_that_stays_is_given_the_keepalive_of_its_section() {
    let a = free();
    let base = sections(&[("a", &a)]);
    let mut manager = Manager::new(0, &base);
    manager.start();
    for (index, (keepalive, least, most)) in [("40s", 0, 40), ("2h", 41, 7200), ("20s", 0, 20)]
        .into_iter()
        .enumerate()
    {
        manager.configure(&format!("{base}keepalive = \"{keepalive}\"\n"));
        manager.reload();
        manager.logged(index + 1, &["took over"]);
        let mut wire = Wire::connect(&a);
        wire.echo(1, 1);
        // Until the client has acknowledged the reply another timer runs.
        until("the timer of keepalive", || {
            let (timer, seconds) = timer(&wire)?;
            (timer == "02" && (least..=most).contains(&seconds)).then_some(())
        });
    }
    manager.configure(&format!("{base}keepalive = \"0s\"\n"));
    manager.reload();
    manager.logged(4, &["took over"]);
    let mut wire = Wire::connect(&a);
    wire.echo(1, 1);
    until("no timer", || (timer(&wire)?.0 == "00").then_some(()));
    manager.stop();
}

/// Nobody asked before a restart. Better a service with another option than none.
#[test]
fn a_listener_stays_over_a_restart_if_an_option_cannot_be_set() {
    let a = free();
    let base = sections(&[("a", &a)]);
    let mut manager = Manager::new(16, &base);
    manager.start();
    let mut wire = Wire::connect(&a);
    wire.echo(1, 1);
    manager.configure(&format!("{base}congestion = \"none-such\"\n"));
    manager.restart();
    manager.logged(1, &["stays as the predecessor made it", &a.to_string()]);
    wire.echo(2, 2);
    Wire::connect(&a).echo(3, 3);
    manager.stop_for_good();
}
