//! Listeners that we bind: TCP and abstract unix names.

use std::net::{SocketAddr, TcpListener, TcpStream};

use ringhold_core::config::ListenAddress;
use ringhold_core::inherit::Inherited;
use ringhold_core::listeners::{Address, Listener, Origin};

use super::*;

fn address(listener: &Listener) -> SocketAddr {
    match listener.address {
        Address::Tcp(address) => address,
        _ => panic!("{listener:?}"),
    }
}

#[test]
fn a_bound_listener_is_as_the_section_says() {
    let listeners = opened(
        "[sockets.rpc]\nlisten = [\"127.0.0.1:0\", \"127.0.0.1:0\"]",
        Inherited::none(),
    );
    assert_eq!(listeners.len(), 2);
    for (index, listener) in listeners.iter().enumerate() {
        assert_ne!(address(listener).port(), 0, "the address is the real one");
        let listen = ListenAddress::Tcp("127.0.0.1:0".parse().unwrap());
        assert_eq!(listener.origin, Origin::Bound { listen });
        assert_eq!(listener.owner, index);
        assert!(
            listener.dealt
                && listener.enabled
                && sockopt::socket_acceptconn(&listener.socket).unwrap()
                && close_on_exec(listener)
        );
        assert!(sockopt::socket_reuseaddr(&listener.socket).unwrap());
        assert!(!sockopt::socket_reuseport(&listener.socket).unwrap());
        assert!(sockopt::tcp_nodelay(&listener.socket).unwrap());
    }
    assert_ne!(address(&listeners[0]), address(&listeners[1]));
    let client = TcpStream::connect(address(&listeners[0])).unwrap();
    let accepted = rustix::net::accept(&listeners[0].socket).unwrap();
    assert!(
        sockopt::tcp_nodelay(&accepted).unwrap(),
        "accepted sockets inherit it"
    );
    drop(client);
}

#[test]
fn nodelay_can_be_turned_off() {
    let listeners = opened(
        "[sockets.rpc]\nlisten = \"127.0.0.1:0\"\nnodelay = false",
        Inherited::none(),
    );
    assert!(!sockopt::tcp_nodelay(&listeners[0].socket).unwrap());
}

#[test]
fn the_kernel_looks_after_the_peers_of_idle_connections() {
    for (keepalive, expected) in [
        ("", Some(300)),
        ("keepalive = \"40s\"", Some(40)),
        ("keepalive = \"0s\"", None),
    ] {
        let listeners = opened(
            &format!("[sockets.rpc]\nlisten = \"127.0.0.1:0\"\n{keepalive}"),
            Inherited::none(),
        );
        let client = TcpStream::connect(address(&listeners[0])).unwrap();
        let accepted = rustix::net::accept(&listeners[0].socket).unwrap();
        assert_eq!(kept_alive(&accepted), expected, "{keepalive:?}");
        assert_eq!(asked_again(&accepted), asked_again_by_default());
        drop(client);
    }
}

#[test]
fn how_often_the_kernel_asks_is_up_to_the_configuration() {
    let (interval, probes) = asked_again_by_default();
    for (keys, expected) in [
        ("keepalive_interval = \"7s\"", (7, probes)),
        ("keepalive_probes = 4", (interval, 4)),
        (
            "keepalive_interval = \"1s\"\nkeepalive_probes = 127",
            (1, 127),
        ),
    ] {
        let listeners = opened(
            &format!("[sockets.rpc]\nlisten = \"127.0.0.1:0\"\n{keys}"),
            Inherited::none(),
        );
        let client = TcpStream::connect(address(&listeners[0])).unwrap();
        let accepted = rustix::net::accept(&listeners[0].socket).unwrap();
        assert_eq!(kept_alive(&accepted), Some(300));
        assert_eq!(asked_again(&accepted), expected, "{keys:?}");
        drop(client);
    }
}

#[test]
fn connections_have_the_congestion_control_of_the_configuration() {
    let text = "[sockets.rpc]\nlisten = \"127.0.0.1:0\"";
    let unasked = opened(text, Inherited::none());
    let default = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap();
    let found = sockopt::tcp_congestion(&unasked[0].socket).unwrap();
    assert_eq!(found, default.trim());

    // Every kernel has it, and every process may use it.
    let listeners = opened(&format!("{text}\ncongestion = \"reno\""), Inherited::none());
    let client = TcpStream::connect(address(&listeners[0])).unwrap();
    let accepted = rustix::net::accept(&listeners[0].socket).unwrap();
    assert_eq!(sockopt::tcp_congestion(&accepted).unwrap(), "reno");
    drop(client);

    let error = refused(&format!("{text}\ncongestion = \"none-such\""));
    let expected =
        "cannot listen on 127.0.0.1:0: the kernel has no congestion control \"none-such\"; ";
    assert!(error.contains(expected), "{error}");
}

/// What the kernel keeps for a socket: of what it received, and of what it is to send.
fn buffers(socket: &OwnedFd) -> (usize, usize) {
    (
        sockopt::socket_recv_buffer_size(socket).unwrap(),
        sockopt::socket_send_buffer_size(socket).unwrap(),
    )
}

#[test]
fn connections_have_the_buffers_of_the_configuration() {
    let (tuned, _) = buffers(&tcp());
    // All of them are less than every kernel lets everybody have, and no default. It doubles them (socket(7)).
    for (keys, receive, send) in [
        ("", tuned, None),
        ("receive_buffer = \"48KiB\"", 96 << 10, None),
        ("send_buffer = \"40KiB\"", tuned, Some(80 << 10)),
        (
            "receive_buffer = 4096\nsend_buffer = \"4KiB\"\nreuse_port = true",
            8 << 10,
            Some(8 << 10),
        ),
    ] {
        let listeners = opened(
            &format!("[sockets.rpc]\nlisten = \"127.0.0.1:0\"\n{keys}"),
            Inherited::none(),
        );
        for listener in &listeners {
            rustix::io::ioctl_fionbio(&listener.socket, true).unwrap();
            // With SO_REUSEPORT, until the kernel gives a connection to this one.
            let (client, accepted) = loop {
                let client = TcpStream::connect(address(listener)).unwrap();
                match rustix::net::accept(&listener.socket) {
                    Ok(accepted) => break (client, accepted),
                    Err(error) => assert_eq!(error, rustix::io::Errno::AGAIN),
                }
            };
            let found = buffers(&accepted);
            assert_eq!(found.0, receive, "{keys:?}");
            if let Some(send) = send {
                assert_eq!(found.1, send, "{keys:?}");
            }
            drop(client);
        }
    }
}

/// Accepted unix sockets inherit nothing, so nothing is set there.
#[test]
fn unix_sockets_have_the_buffers_of_the_kernel() {
    let name = format!("ringhold-test-{}-buffers", std::process::id());
    let listeners = opened(
        &format!(
            "[sockets.rpc]\nlisten = [\"127.0.0.1:0\", \"unix:@{name}\"]\nreceive_buffer = 4096\nsend_buffer = 4096"
        ),
        Inherited::none(),
    );
    let (ours, _) = std::os::unix::net::UnixStream::pair().unwrap();
    assert_eq!(buffers(&listeners[0].socket), (8192, 8192));
    assert_eq!(buffers(&listeners[1].socket), buffers(&ours.into()));
}

#[test]
fn reuse_port_makes_one_listener_for_each_worker() {
    let name = format!("ringhold-test-{}-reuse", std::process::id());
    let text = format!(
        "[sockets.rpc]\nlisten = [\"127.0.0.1:0\", \"unix:@{name}\"]\nreuse_port = true\n\
         [sockets.log]\nlisten = \"127.0.0.1:0\"\nreuse_port = true\nworkers = [1]"
    );
    let listeners = opened(&text, Inherited::none());
    let [log, first, second, unix] = &listeners[..] else {
        panic!("{listeners:?}")
    };
    assert_eq!(
        address(first),
        address(second),
        "the second one takes the port that the first one got"
    );
    assert_eq!((first.owner, second.owner), (0, 1));
    assert!(!first.dealt && !second.dealt);
    assert!(sockopt::socket_reuseport(&first.socket).unwrap());
    assert!(unix.dealt, "there is one unix listener for all");
    assert_eq!((log.owner, log.dealt), (1, false));
    assert_ne!(address(log), address(first));
}

#[test]
fn a_port_that_is_in_use_is_an_error() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    for more in ["", "\nreuse_port = true"] {
        let error = refused(&format!("[sockets.rpc]\nlisten = \"{address}\"{more}"));
        assert!(
            error.starts_with(&format!(
                "socket \"rpc\" cannot listen on {address}: the port is in use; is another "
            )),
            "{error}"
        );
    }
    // With SO_REUSEPORT on both sides the kernel alone would not notice.
    let first = opened(
        "[sockets.rpc]\nlisten = \"127.0.0.1:0\"\nreuse_port = true",
        Inherited::none(),
    );
    let error = refused(&format!(
        "[sockets.rpc]\nlisten = \"{}\"\nreuse_port = true",
        first[0].address
    ));
    assert!(error.contains("the port is in use"), "{error}");
}

/// Two sections that each list what is given.
fn both(log: &str, rpc: &str) -> String {
    format!("[sockets.log]\nlisten = {log}\n[sockets.rpc]\nlisten = {rpc}\n")
}

#[test]
fn an_address_of_another_section_is_found_before_anything_is_bound() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().display();
    std::os::unix::fs::symlink(directory.path(), directory.path().join("link")).unwrap();
    let any = "\"[::]:9\"\nipv6_only = ";
    for (one, other, first, second) in [
        (
            "\"127.0.0.1:9\"",
            "\"127.0.0.1:9\"",
            "127.0.0.1:9",
            "127.0.0.1:9",
        ),
        (
            "\"0.0.0.0:9\"",
            "\"127.0.0.1:9\"",
            "0.0.0.0:9",
            "127.0.0.1:9",
        ),
        (
            "\"127.0.0.1:9\"",
            "\"0.0.0.0:9\"",
            "127.0.0.1:9",
            "0.0.0.0:9",
        ),
        (
            "\"127.0.0.1:9\"",
            &format!("{any}false"),
            "127.0.0.1:9",
            "[::]:9",
        ),
        ("\"[::1]:9\"", &format!("{any}true"), "[::1]:9", "[::]:9"),
        (
            "\"unix:@name\"",
            "\"unix:@name\"",
            "unix:@name",
            "unix:@name",
        ),
        (
            &format!("\"unix:{path}/x\""),
            &format!("[\"127.0.0.1:9\", \"unix:{path}/link/x\"]"),
            &format!("unix:{path}/x"),
            &format!("unix:{path}/link/x"),
        ),
    ] {
        for more in ["", "reuse_port = true\n"] {
            let expected = format!(
                "socket \"rpc\" cannot listen on {second}: {first} of socket \"log\" is in the way; remove one of the two"
            );
            let text = both(one, other) + more;
            assert_eq!(problem(&text, Inherited::none()), expected);
        }
    }
    // Within a section, too; and each with the first of those that are in its way.
    let text = both(
        "\"0.0.0.0:9\"",
        "[\"127.0.0.1:9\", \"0.0.0.0:8\", \"127.0.0.1:8\"]",
    );
    let found: Vec<String> = problems(&text, Inherited::none());
    let expected = [
        "\"rpc\" cannot listen on 127.0.0.1:9: 0.0.0.0:9 of socket \"log\" is",
        "\"rpc\" cannot listen on 127.0.0.1:8: 0.0.0.0:8 of socket \"rpc\" is",
    ];
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.contains(expected), "{found}");
    }
}

#[test]
fn what_is_not_in_the_way_is_planned() {
    let any_v6 = "\"[::]:9\"\nipv6_only = true";
    for (log, rpc) in [
        ("\"127.0.0.1:9\"", "\"127.0.0.2:9\""),
        ("\"127.0.0.1:9\"", "\"127.0.0.1:8\""),
        ("[\"127.0.0.1:0\", \"127.0.0.1:0\"]", "\"127.0.0.1:0\""),
        ("\"0.0.0.0:9\"", any_v6),
        ("\"unix:@name\"", "\"unix:/nonexistent/name\""),
        // Nobody binds those.
        ("\"127.0.0.1:9\"\nenable = false", "\"127.0.0.1:9\""),
        // A listener for each worker.
        ("\"127.0.0.1:9\"\nreuse_port = true", "\"127.0.0.1:8\""),
    ] {
        let text = both(log, rpc);
        assert!(planned(&text, Inherited::none()).is_ok(), "{text}");
    }
    let text = both("\"127.0.0.1:9\"", "\"127.0.0.1:9\"");
    assert!(planned(&text, inherited([("log", tcp())])).is_ok());
    // Where nothing is to be bound, that is what is wrong.
    let error = plan(&config(&text), Inherited::none(), true, &SERVICES, 2).unwrap_err();
    let error = error.to_string();
    assert_eq!(error.matches("was not inherited").count(), 2, "{error}");
    assert!(!error.contains("in the way"), "{error}");
}

#[test]
fn every_address_that_is_in_use_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (free, taken) = (path("free.sock"), path("taken.sock"));
    let others = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [a, b, c] = [0, 1, 2].map(|index| others[index].local_addr().unwrap().to_string());
    let _unix = std::os::unix::net::UnixListener::bind(&taken).unwrap();
    let error = refused(&format!(
        "[sockets.a]\nservice = \"rpc\"\nlisten = [\"{a}\", \"unix:{free}\"]\n\
         [sockets.b]\nservice = \"rpc\"\nlisten = [\"127.0.0.1:0\", \"{b}\", \"{c}\"]\nreuse_port = true\n\
         [sockets.c]\nservice = \"rpc\"\nlisten = [\"unix:{taken}\", \"127.0.0.1:0\"]"
    ));
    let cannot: Vec<&str> = error
        .lines()
        .map(|line| line.split_once(": ").unwrap().0)
        .collect();
    // Each once, although there would be a listener for each worker.
    let expected = [
        format!("socket \"a\" cannot listen on {a}"),
        format!("socket \"b\" cannot listen on {b}"),
        format!("socket \"b\" cannot listen on {c}"),
        format!("socket \"c\" cannot listen on unix:{taken}"),
    ];
    assert_eq!(cannot, expected);
    assert!(!std::fs::exists(free).unwrap(), "what was bound is removed");
}

#[test]
fn a_port_with_old_connections_can_be_bound_again() {
    for more in ["", "\nreuse_port = true"] {
        let listeners = opened(
            &format!("[sockets.rpc]\nlisten = \"127.0.0.1:0\"{more}"),
            Inherited::none(),
        );
        let address = address(&listeners[0]);
        let client = TcpStream::connect(address).unwrap();
        let accepted = if more.is_empty() {
            Some(rustix::net::accept(&listeners[0].socket).unwrap())
        } else {
            None
        };
        drop(listeners);
        // The server's side closes first, and waits.
        drop(accepted);
        let again = opened(
            &format!("[sockets.rpc]\nlisten = \"{address}\"{more}"),
            Inherited::none(),
        );
        assert_eq!(again[0].address, Address::Tcp(address));
        drop(client);
    }
}

#[test]
fn an_address_that_is_not_ours_is_an_error() {
    // TEST-NET-1 (RFC 5737) belongs to nobody.
    let error = refused("[sockets.rpc]\nlisten = \"192.0.2.1:4660\"");
    assert!(
        error.contains("no interface of this machine has the address 192.0.2.1 ("),
        "{error}"
    );
}

#[test]
fn ipv6_is_dual_stack_unless_it_is_told_otherwise() {
    if TcpListener::bind("[::]:0").is_err() {
        eprintln!("this machine has no IPv6");
        return;
    }
    for (only, text) in [(true, "ipv6_only = true"), (false, "ipv6_only = false")] {
        let listeners = opened(
            &format!("[sockets.rpc]\nlisten = \"[::]:0\"\n{text}"),
            Inherited::none(),
        );
        let port = address(&listeners[0]).port();
        assert_eq!(TcpStream::connect(("127.0.0.1", port)).is_err(), only);
    }
}

#[test]
fn abstract_names() {
    let name = format!("ringhold-test-{}-abstract", std::process::id());
    let text = format!("[sockets.rpc]\nlisten = \"unix:@{name}\"");
    let listeners = opened(&text, Inherited::none());
    assert_eq!(
        listeners[0].address,
        Address::UnixAbstract(name.clone().into_bytes())
    );
    assert!(
        listeners[0].path.is_none()
            && close_on_exec(&listeners[0])
            && sockopt::socket_acceptconn(&listeners[0].socket).unwrap()
    );
    let error = refused(&text);
    assert!(
        error.contains(&format!(
            "cannot listen on unix:@{name}: another process listens there ("
        )),
        "{error}"
    );
}

#[test]
fn an_unknown_owner_is_found_before_anything_is_bound() {
    let text = "[sockets.rpc]\nlisten = \"unix:@x\"\nuser = \"no-such-user\"\n[sockets.log]\nlisten = \"unix:@y\"\n\
                group = \"no-such-group\"";
    assert_eq!(
        problems(text, Inherited::none()),
        [
            "group \"no-such-group\" of socket \"log\" cannot be used: there is no such group on this machine",
            "user \"no-such-user\" of socket \"rpc\" cannot be used: there is no such user on this machine",
        ]
    );
}
