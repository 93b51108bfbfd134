//! Descriptors of the application: what its functions are given, and what is refused.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/service.rs"]
mod service;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use ringhold_core::config::Config;
use ringhold_core::inherit::Inherited;
use ringhold_core::{Flow, Server, ServerError};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::net::sockopt;
use service::answering;

fn server(sections: &str, inherited: Vec<(&str, OwnedFd)>) -> Server {
    let config = Config::parse(&format!("workers = 1\n{sections}"), "test").unwrap();
    let inherited = inherited
        .into_iter()
        .map(|(name, fd)| (name.to_owned(), fd));
    Server::new(config).inherited(Inherited::from_descriptors(inherited.collect()))
}

fn udp() -> OwnedFd {
    UdpSocket::bind("127.0.0.1:0").unwrap().into()
}

fn inode(fd: impl AsFd) -> u64 {
    rustix::fs::fstat(fd).unwrap().st_ino
}

/// The inodes of what functions were given, by name, in the order of their calls.
type Given = Arc<Mutex<Vec<(&'static str, Option<u64>)>>>;

/// Claims this name, and goes on with what it is given.
fn claim(server: Server, name: &'static str, given: &Given) -> Server {
    let given = given.clone();
    server.descriptor(name, move |inherited| {
        let inode = inherited.as_ref().map(inode);
        given.lock().unwrap().push((name, inode));
        Ok(inherited.unwrap_or_else(udp))
    })
}

/// Starts it with these names claimed, and what they are given.
fn given(server: Server, names: &[&'static str]) -> Vec<(&'static str, Option<u64>)> {
    let given = Given::default();
    let claimed = names
        .iter()
        .fold(server, |server, name| claim(server, name, &given));
    let running = claimed.start().unwrap();
    running.stop();
    running.join().unwrap();
    let given = given.lock().unwrap();
    given.clone()
}

fn refusal(server: Server) -> String {
    let error = server.start().err().unwrap();
    // What the function says may be of the moment; how names are used is a matter of the configuration or the unit.
    let expected = match error {
        ServerError::Descriptor { .. } => 1,
        ServerError::Claim { .. } => 2,
        _ => panic!("{error}"),
    };
    assert_eq!(error.exit_status(), expected, "{error}");
    error.to_string()
}

#[test]
fn each_is_given_what_has_its_name() {
    let [metrics, own, other] = [udp(), udp(), udp()];
    let listener: OwnedFd = TcpListener::bind("127.0.0.1:0").unwrap().into();
    let expected = [
        ("listener", Some(inode(&listener))),
        ("metrics", Some(inode(&metrics))),
        ("absent", None),
        ("own", Some(inode(&own))),
        ("both", Some(inode(&other))),
    ];
    let inherited = vec![
        ("ringhold.fd.own", own),
        ("ringhold.fd.both", udp()),
        ("metrics", metrics),
        ("both", other),
        ("listener", listener),
        ("ringhold.fd.of-another-version", udp()),
    ];
    let names = expected.map(|(name, _)| name);
    assert_eq!(given(server("", inherited), &names), expected);
}

#[test]
fn services_have_duplicates() {
    let [own, metrics] = [udp(), udp()];
    let expected = [&own, &metrics].map(inode);
    let inherited = vec![("ringhold.fd.own", own), ("metrics", metrics)];
    let claimed = ["metrics", "own"].into_iter();
    let claimed = claimed.fold(server("", inherited), |server, name| {
        claim(server, name, &Given::default())
    });
    let (sender, receiver) = std::sync::mpsc::channel();
    let running = claimed
        .service("silent", move |worker| {
            let had = ["own", "metrics"].map(|name| worker.descriptor(name));
            let again = worker.descriptor("own");
            let flags = had.each_ref().map(|fd| fcntl_getfd(fd).unwrap());
            assert_eq!(flags, [FdFlags::CLOEXEC; 2]);
            sender.send((had.map(inode), inode(again))).unwrap();
            answering(|_, _| Flow::Continue)
        })
        .start()
        .unwrap();
    assert_eq!(receiver.recv().unwrap(), (expected, expected[0]));
    running.stop();
    running.join().unwrap();
}

#[test]
fn a_service_that_wants_what_is_not_claimed_fails_the_start() {
    for (claimed, hint) in [
        (
            &["other", "metrics"][..],
            "did you mean \"metrics\"? it claims \"other\", \"metrics\"",
        ),
        (&["other"], "it claims \"other\""),
        (&[], "it claims none"),
    ] {
        let claimed = claimed.iter().fold(server("", vec![]), |server, name| {
            claim(server, name, &Given::default())
        });
        let started = claimed
            .service("silent", |worker| {
                drop(worker.descriptor("metric"));
                answering(|_, _| Flow::Continue)
            })
            .start();
        let error = started.err().unwrap().to_string();
        let what =
            "service silent panicked when it was made: the server claims no descriptor \"metric\"";
        assert_eq!(error, format!("worker 0 failed: {what}; {hint}"));
    }
}

/// It must not get into programs that the application executes.
#[test]
fn what_is_held_is_closed_on_exec() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let make = move |_: Option<OwnedFd>| {
        let fd = udp();
        fcntl_setfd(&fd, FdFlags::empty())?;
        sender.send(fd.as_raw_fd()).unwrap();
        Ok(fd)
    };
    let running = server("", vec![])
        .descriptor("leaky", make)
        .start()
        .unwrap();
    let number = receiver.recv().unwrap();
    let path = format!("/proc/self/fdinfo/{number}");
    let flags = std::fs::read_to_string(path).unwrap();
    let flags = flags.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = u32::from_str_radix(flags.unwrap().trim(), 8).unwrap();
    assert_ne!(flags & rustix::fs::OFlags::CLOEXEC.bits(), 0);
    running.stop();
    running.join().unwrap();
}

#[test]
fn names_that_cannot_be_are_refused() {
    let long = "x".repeat(244);
    for (name, why) in [
        ("", "1 to 243 printable ASCII characters"),
        (&long, "1 to 243 printable ASCII characters"),
        ("a:b", "without a colon"),
        ("a\nb", "1 to 243 printable ASCII characters"),
        ("métrique", "1 to 243 printable ASCII characters"),
        (
            "ringhold.state",
            "names that begin with \"ringhold.\" are kept",
        ),
        ("taken", "there are two descriptors named \"taken\""),
    ] {
        let server = server("", vec![]).descriptor("taken", |_| Ok(udp()));
        let add = AssertUnwindSafe(|| drop(server.descriptor(name, |_| Ok(udp()))));
        let panic = catch_unwind(add).unwrap_err();
        let said = panic.downcast_ref::<String>().unwrap();
        assert!(said.contains(why), "{said}");
    }
    let longest: &'static str = "x".repeat(243).leak();
    assert_eq!(given(server("", vec![]), &[longest]), [(longest, None)]);
}

#[test]
fn a_section_that_takes_the_same_name_is_an_error() {
    for sections in [
        "[sockets.metrics]\nenable = false",
        "[sockets.rpc]\nenable = false\nfd_name = \"metrics\"",
    ] {
        let section = sections.split(['[', ']']).nth(1).unwrap();
        let claimed = || claim(server(sections, vec![]), "metrics", &Given::default());
        let error = refusal(claimed());
        assert!(
            error.starts_with("descriptor \"metrics\" of the application cannot be had: ")
                && error.contains(&format!("[{section}] takes what has this name")),
            "{error}"
        );
        let checked = claimed().check().unwrap_err();
        assert_eq!(checked.exit_status(), 2);
        assert_eq!(checked.to_string(), error);
        let checked = claimed().check_assuming_inherited().unwrap_err();
        assert_eq!(checked.to_string(), error);
    }
}

#[test]
fn two_of_one_name_are_an_error() {
    let given = Given::default();
    let inherited = vec![("metrics", udp()), ("metrics", udp())];
    let error = refusal(claim(server("", inherited), "metrics", &given));
    assert!(
        error.contains("\"metrics\"") && error.contains("2 of this name are inherited"),
        "{error}"
    );
    assert!(given.lock().unwrap().is_empty(), "nobody was asked");
}

#[test]
fn what_its_function_says_is_an_error_of_the_start() {
    let denied = |inherited: Option<OwnedFd>| {
        assert!(inherited.is_none());
        Err(io::Error::from(io::ErrorKind::PermissionDenied))
    };
    let error = refusal(server("", vec![]).descriptor("tun", denied));
    assert_eq!(
        error,
        "descriptor \"tun\" of the application cannot be had: permission denied"
    );
}

#[test]
fn what_its_function_says_of_the_unit_is_an_error_of_that() {
    let start = |name, socket| {
        let server = server("", vec![(name, socket), ("ringhold.x", udp())]);
        refusal(server.descriptor("tun", |inherited| {
            let why = match inherited {
                Some(_) => "it is no tun device",
                None => "start tun.socket",
            };
            Err(io::Error::new(io::ErrorKind::InvalidInput, why))
        }))
    };
    let said = "descriptor \"tun\" of the application cannot be had";
    assert_eq!(
        start("other", udp()),
        format!("{said}: start tun.socket; inherited were \"other\"")
    );
    assert_eq!(start("tun", udp()), format!("{said}: it is no tun device"));
    // The kernel may mean anything by its EINVAL.
    let failing = server("", vec![]).descriptor("tun", |_| Err(io::Error::from_raw_os_error(22)));
    assert!(refusal(failing).ends_with(": Invalid argument (os error 22)"));
}

/// Before anything is opened, and by whoever looks only.
#[test]
fn what_the_program_looks_at_itself_comes_first() {
    let looks = Arc::new(Mutex::new(Vec::new()));
    let given = Given::default();
    let looking = |is_right: bool| {
        let server = [("first", true), ("second", is_right), ("third", true)]
            .into_iter()
            .fold(server("", vec![]), |server, (name, is_right)| {
                let looks = looks.clone();
                server.preflight(move || {
                    looks.lock().unwrap().push(name);
                    match is_right {
                        true => Ok(()),
                        false => Err(format!("the {name} look objects").into()),
                    }
                })
            });
        claim(server, "metrics", &given)
    };
    let seen = || std::mem::take(&mut *looks.lock().unwrap());
    for error in [
        looking(false).check().unwrap_err(),
        looking(false).check_assuming_inherited().unwrap_err(),
        looking(false).start().err().unwrap(),
    ] {
        assert_eq!(error.to_string(), "the second look objects");
        assert_eq!(error.exit_status(), 2);
        assert!(matches!(error, ServerError::Preflight(_)));
    }
    assert_eq!(seen(), ["first", "second"].repeat(3));
    assert!(given.lock().unwrap().is_empty());
    looking(true).check().unwrap();
    assert_eq!(seen(), ["first", "second", "third"]);
    let running = looking(true).start().unwrap();
    running.stop();
    running.join().unwrap();
    assert_eq!(seen(), ["first", "second", "third"]);
    assert_eq!(given.lock().unwrap().len(), 1);
}

/// It knows best whether it can do without.
#[test]
fn where_only_inherited_sockets_are_allowed_its_function_decides() {
    let server = server("", vec![]).inherited_only(true);
    assert_eq!(given(server, &["metrics"]), [("metrics", None)]);
}

/// Starts it with a datagram socket at this address, which its service has.
fn datagram(inherited: Vec<(&str, OwnedFd)>, address: SocketAddr) -> UdpSocket {
    let (sender, receiver) = std::sync::mpsc::channel();
    let running = server("", inherited)
        .datagram("metrics", address)
        .service("silent", move |worker| {
            sender.send(worker.descriptor("metrics")).unwrap();
            answering(|_, _| Flow::Continue)
        })
        .start()
        .unwrap();
    running.stop();
    running.join().unwrap();
    UdpSocket::from(receiver.recv().unwrap())
}

/// It is the same socket that the successor has.
#[test]
fn what_a_service_sets_at_a_datagram_socket_stays() {
    const BYTES: usize = 50_000;
    let (sender, receiver) = std::sync::mpsc::channel();
    let running = server("", vec![])
        .datagram("metrics", ANY.parse().unwrap())
        .service("silent", move |worker| {
            let socket = worker.descriptor("metrics");
            sockopt::set_socket_recv_buffer_size(&socket, BYTES).unwrap();
            sender.send(worker.descriptor("metrics")).unwrap();
            answering(|_, _| Flow::Continue)
        })
        .start()
        .unwrap();
    let held = receiver.recv().unwrap();
    running.stop();
    running.join().unwrap();
    let address = UdpSocket::from(held.try_clone().unwrap()).local_addr();
    let inherited = vec![("ringhold.fd.metrics", held)];
    let socket = datagram(inherited, address.unwrap());
    // The kernel doubles it.
    let bytes = sockopt::socket_recv_buffer_size(&socket).unwrap();
    assert_eq!(bytes, 2 * BYTES);
}

/// Of a `Server::datagram` it does not, whoever has it.
#[test]
fn what_is_claimed_no_more_keeps_its_address_until_the_start_is_through() {
    let (socket, address) = bound();
    let old = |socket| server("", vec![("ringhold.fd.old", socket)]);
    let bind = move |_| Ok(UdpSocket::bind(address)?.into());
    let error = refusal(old(socket.try_clone().unwrap()).descriptor("new", bind));
    assert!(
        error.ends_with("Address already in use (os error 98)"),
        "{error}"
    );
    let running = old(socket).datagram("new", address).start().unwrap();
    running.stop();
    running.join().unwrap();
}

/// Also to an address that includes the one before. With a store there would be another one.
#[test]
fn what_the_application_has_closed_is_in_its_own_way_no_more() {
    let (socket, address) = bound();
    let wider = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
    let running = server("", vec![("ringhold.fd.samples", socket)])
        .descriptor("samples", move |before| {
            drop(before);
            Ok(UdpSocket::bind(wider)?.into())
        })
        .start()
        .unwrap();
    running.stop();
    running.join().unwrap();
}

/// A socket at any port, and its address.
fn bound() -> (OwnedFd, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    (socket.into(), address)
}

const ANY: &str = "127.0.0.1:0";

#[test]
fn a_datagram_socket_is_a_unit_s_or_where_it_is_wanted() {
    let any = ANY.parse().unwrap();
    let (free, elsewhere) = bound();
    drop(free);
    for (name, wanted) in [
        // The unit says where.
        ("metrics", elsewhere),
        ("metrics", any),
        ("ringhold.fd.metrics", any),
    ] {
        let (passed_on, _) = bound();
        let expected = inode(&passed_on);
        let socket = datagram(vec![(name, passed_on)], wanted);
        assert_eq!(inode(&socket), expected, "{name} for {wanted}");
        let error = socket.recv(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
    let (own, address) = bound();
    let expected = inode(&own);
    let socket = datagram(vec![("ringhold.fd.metrics", own)], address);
    assert_eq!(inode(&socket), expected);
    drop(socket);

    let socket = datagram(vec![], elsewhere);
    assert_eq!(socket.local_addr().unwrap(), elsewhere);
    let error = socket.recv(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn what_the_predecessor_had_bound_moves_to_a_new_address() {
    let (free, wanted) = bound();
    drop(free);
    let (own, before) = bound();
    let socket = datagram(vec![("ringhold.fd.metrics", own)], wanted);
    assert_eq!(socket.local_addr().unwrap(), wanted);
    // Nobody has the other one any more.
    UdpSocket::bind(before).unwrap();

    // It is itself in the way.
    let (own, mut address) = bound();
    address.set_ip([0, 0, 0, 0].into());
    let socket = datagram(vec![("ringhold.fd.metrics", own)], address);
    assert_eq!(socket.local_addr().unwrap(), address);

    // Another version had something else of this name.
    let own = TcpListener::bind(ANY).unwrap().into();
    let socket = datagram(vec![("ringhold.fd.metrics", own)], before);
    assert_eq!(socket.local_addr().unwrap(), before);
}

#[test]
fn a_unit_that_passes_on_no_datagram_socket_is_an_error() {
    let listener = TcpListener::bind(ANY).unwrap();
    for (passed_on, found) in [
        (OwnedFd::from(listener), "a listening TCP socket"),
        (
            UnixDatagram::unbound().unwrap().into(),
            "a unix datagram socket",
        ),
        (io::pipe().unwrap().0.into(), "a pipe"),
    ] {
        let expected = format!(
            "descriptor \"metrics\" of the application cannot be had: descriptor {} is {found}; a UDP socket is needed, which is \
             ListenDatagram= in its socket unit",
            passed_on.as_raw_fd()
        );
        let claimed = |passed_on| {
            let server = server("", vec![("metrics", passed_on)]);
            server.datagram("metrics", ANY.parse().unwrap())
        };
        let again = passed_on.try_clone().unwrap();
        assert_eq!(refusal(claimed(passed_on)), expected);
        let error = claimed(again).check().unwrap_err().to_string();
        assert!(error.contains(found), "{error}");
    }
}

#[test]
fn a_datagram_socket_that_only_a_unit_may_pass_on_is_missed() {
    for (inherited, names) in [
        (vec![], "none"),
        (
            vec![
                ("ringhold.fd.metrics", udp()),
                ("metrics.socket", udp()),
                ("other", udp()),
            ],
            "\"metrics.socket\", \"other\"",
        ),
    ] {
        let server = server("", inherited).inherited_only(true);
        let error = refusal(server.datagram("metrics", ANY.parse().unwrap()));
        assert_eq!(
            error,
            format!(
                "descriptor \"metrics\" of the application cannot be had: it was not inherited, and only inherited sockets are \
                 allowed; it needs FileDescriptorName=metrics in its socket unit, inherited were {names}"
            )
        );
    }
}

/// Whoever has forgotten the socket units is told of all of them.
#[test]
fn all_that_is_not_inherited_is_told_at_once() {
    let server = server(
        "[sockets.rpc]\nservice = \"silent\"\n[sockets.other]\nservice = \"silent\"",
        vec![],
    );
    let error = server
        .inherited_only(true)
        .datagram("metrics", ANY.parse().unwrap())
        .datagram("events", ANY.parse().unwrap())
        .service("silent", |_| answering(|_, _| Flow::Continue))
        .start()
        .err()
        .unwrap();
    assert_eq!(error.exit_status(), 2);
    let said = error.to_string();
    let missing: Vec<&str> = said
        .lines()
        .map(|line| line.split_once("was not inherited").unwrap().0)
        .collect();
    let expected = [
        "descriptor \"metrics\" of the application cannot be had: it ",
        "descriptor \"events\" of the application cannot be had: it ",
        "socket \"other\" ",
        "socket \"rpc\" ",
    ];
    assert_eq!(missing, expected);
}

#[test]
fn a_datagram_socket_whose_address_is_in_use_is_an_error_of_the_moment() {
    let (_taken, address) = bound();
    for inherited in [vec![], vec![("ringhold.fd.metrics", udp())]] {
        let error = refusal(server("", inherited).datagram("metrics", address));
        let port = address.port();
        assert_eq!(
            error,
            format!(
                "descriptor \"metrics\" of the application cannot be had: {address}: Address already in use (os error 98); is another \
                 instance running, or a socket unit active that this process was not started by? \"ss -uanp sport = :{port}\" shows it"
            )
        );
    }
}

#[test]
fn a_check_shows_what_the_application_claims() {
    let (socket, at) = bound();
    let elsewhere: SocketAddr = "192.0.2.1:8125".parse().unwrap();
    let first = socket.as_raw_fd();
    let pipe: OwnedFd = io::pipe().unwrap().0.into();
    let number = pipe.as_raw_fd();
    let inherited = vec![("metrics", socket), ("fifo", pipe)];
    let claiming = |inherited| {
        let server = server("[sockets.off]\nenable = false", inherited)
            .datagram("metrics", elsewhere)
            .datagram("events", elsewhere);
        ["fifo", "tun"].into_iter().fold(server, |server, name| {
            server.descriptor(name, |_| panic!("a check opens nothing"))
        })
    };
    let cells = |table: String| -> Vec<String> {
        let cells = |line: &str| {
            line.split("  ")
                .filter(|cell| !cell.is_empty())
                .map(str::trim)
                .collect::<Vec<_>>()
                .join("|")
        };
        table.lines().skip(1).map(cells).collect()
    };
    let none = "-|-|-|-|-|-|-";
    assert_eq!(
        cells(claiming(inherited).check().unwrap().to_string()),
        [
            "off|-|-|off|-|no|-|-|-|-".to_owned(),
            format!("metrics|{at}|inherited (fd {first})|{none}"),
            format!("events|{elsewhere}|would bind|{none}"),
            format!("fifo|-|inherited (fd {number})|{none}"),
            format!("tun|-|application|{none}"),
        ]
    );
    let table = claiming(vec![]).check_assuming_inherited().unwrap();
    assert_eq!(
        cells(table.to_string()),
        [
            "off|-|assumed|off|0|no|-|-|-|-".to_owned(),
            format!("metrics|-|assumed|{none}"),
            format!("events|-|assumed|{none}"),
            format!("fifo|-|application|{none}"),
            format!("tun|-|application|{none}"),
        ]
    );
}
