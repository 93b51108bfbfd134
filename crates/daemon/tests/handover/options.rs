//! Options of sockets that a reload or restart changes on listeners that stay.

use std::net::{SocketAddr, TcpListener};

use rustix::net::sockopt;

use crate::changes::{free, sections};
use crate::common::until;
use crate::common::wire::Wire;
use crate::manager::{Manager, RINGHOLD, write_program};

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

/// What the kernel caps is said for new listeners and for those that stay, of which each reload changes the buffers.
#[test]
fn buffers_are_those_of_the_section_as_far_as_the_kernel_gives_them() {
    const MOST: usize = 512 << 20;
    let scratch = TcpListener::bind("127.0.0.1:0").unwrap();
    sockopt::set_socket_recv_buffer_size(&scratch, MOST).unwrap();
    sockopt::set_socket_send_buffer_size(&scratch, MOST).unwrap();
    // It doubles what is asked for (socket(7)).
    let received = sockopt::socket_recv_buffer_size(&scratch).unwrap() / 2;
    let sent = sockopt::socket_send_buffer_size(&scratch).unwrap() / 2;
    if received == MOST || sent == MOST {
        eprintln!("this kernel gives everybody as much as can be asked for");
        return;
    }
    let a = free();
    let base = sections(&[("a", &a)]);
    let mut manager = Manager::new(0, &format!("{base}receive_buffer = {MOST}\n"));
    if rustix::process::geteuid().is_root() {
        let script = manager.path("without-net-admin");
        let without = "setpriv --bounding-set=-net_admin --inh-caps=-net_admin";
        write_program(
            &script,
            &format!("#!/bin/sh\nexec {without} {RINGHOLD} \"$@\"\n"),
        );
        manager.run_as(&script);
    }
    manager.start();
    let mut wire = Wire::connect(&a);
    let warning = |key: &str, got: usize, wanted: usize, sysctl: &str| {
        format!(
            "the kernel gives connections to {a} a {key} of {got} bytes, not {wanted}; raise net.core.{sysctl}, or give the \
             service CAP_NET_ADMIN"
        )
    };
    let receive = warning("receive_buffer", received, MOST, "rmem_max");
    manager.logged(1, &["socket=a", &receive]);
    let lower = MOST - 1;
    for (index, (keys, expected)) in [
        (
            format!("send_buffer = {lower}"),
            warning("send_buffer", sent, lower, "wmem_max"),
        ),
        (
            format!("receive_buffer = {lower}\nreuse_port = true"),
            warning("receive_buffer", received, lower, "rmem_max"),
        ),
        (String::new(), String::new()),
        (format!("receive_buffer = {MOST}"), receive),
    ]
    .iter()
    .enumerate()
    {
        let before = manager.log().matches("the kernel gives").count();
        manager.configure(&format!("{base}{keys}\n"));
        manager.reload();
        manager.logged(index + 1, &["took over"]);
        wire.echo(index as u32, 1);
        Wire::connect(&a).echo(1, 1);
        let log = manager.log();
        let (_, new) = log.rsplit_once("the kernel gives").unwrap();
        let said = log.matches("the kernel gives").count() - before;
        assert_eq!(said, usize::from(!expected.is_empty()), "{log}");
        let is_expected =
            expected.is_empty() || format!("the kernel gives{new}").starts_with(expected);
        assert!(is_expected, "{expected}\n{log}");
    }
    manager.stop();
}
