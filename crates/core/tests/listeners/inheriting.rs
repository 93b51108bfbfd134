//! Inherited descriptors: matched by name, checked, placed.

use std::fs::File;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::time::Duration;

use ringhold_core::config::Partition;
use ringhold_core::inherit::Inherited;
use ringhold_core::listeners::{Address, Listener, Origin, plan, rehearse};
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::sockopt::{
    set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl, set_tcp_nodelay,
    tcp_nodelay,
};
use socket2::{Domain, SockAddr, Socket, Type};

use super::*;

/// Listeners that share an address (SO_REUSEPORT), as `ReusePort=yes` makes them.
fn reuse_port(count: usize) -> Vec<OwnedFd> {
    let mut address: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let made = (0..count).map(|_| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&SockAddr::from(address)).unwrap();
        socket.listen(8).unwrap();
        address = socket.local_addr().unwrap().as_socket().unwrap();
        socket.into()
    });
    made.collect()
}

#[test]
fn descriptors_are_matched_by_name_and_not_by_position() {
    let (first, second) = (
        TcpListener::bind("127.0.0.1:0").unwrap(),
        TcpListener::bind("127.0.0.1:0").unwrap(),
    );
    let addresses = (first.local_addr().unwrap(), second.local_addr().unwrap());
    let (first, second): (OwnedFd, OwnedFd) = (first.into(), second.into());
    let numbers = (number(&first), number(&second));
    let listeners = opened(
        "[sockets.log]\n[sockets.rpc]\nfd_name = \"ringhold-rpc.socket\"\nlisten = \"127.0.0.1:1\"",
        inherited([("ringhold-rpc.socket", first), ("log", second)]),
    );
    let [log, rpc] = &listeners[..] else {
        panic!("{listeners:?}")
    };
    assert_eq!((&*rpc.name, &*log.name), ("rpc", "log"));
    assert_eq!((&*rpc.service, &*log.service), ("rpc", "log"));
    assert_eq!(rpc.address, Address::Tcp(addresses.0));
    assert_eq!(log.address, Address::Tcp(addresses.1));
    let inherited_as = |name: &str, number| Origin::Inherited {
        number,
        name: name.to_owned(),
    };
    assert_eq!(rpc.origin, inherited_as("ringhold-rpc.socket", numbers.0));
    assert_eq!(log.origin, inherited_as("log", numbers.1));
    assert_eq!((log.group, rpc.group), (0, 1));
    assert!(rpc.enabled && rpc.path.is_none() && !rpc.unlink().unwrap());
}

#[test]
fn an_inherited_listener_keeps_its_flags_and_its_backlog() {
    for nonblocking in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(nonblocking).unwrap();
        let address = listener.local_addr().unwrap();
        // A client that came before us.
        let mut client = TcpStream::connect(address).unwrap();
        let listeners = opened("[sockets.rpc]", inherited([("rpc", listener.into())]));
        let flags = rustix::fs::fcntl_getfl(&listeners[0].socket).unwrap();
        assert_eq!(flags.contains(rustix::fs::OFlags::NONBLOCK), nonblocking);
        let listener: TcpListener = listeners.into_iter().next().unwrap().socket.into();
        drop(listener.accept().unwrap());
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn answers_on_an_inherited_listener_are_not_held_back_unless_the_unit_decides() {
    for (config, unit, expected) in [
        ("", false, true),
        ("nodelay = true", false, true),
        ("nodelay = false", false, false),
        ("nodelay = false", true, true),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        set_tcp_nodelay(&listener, unit).unwrap();
        let listeners = opened(
            &format!("[sockets.rpc]\n{config}"),
            inherited([("rpc", listener.into())]),
        );
        let nodelay = tcp_nodelay(&listeners[0].socket).unwrap();
        assert_eq!(nodelay, expected, "{config:?} with NoDelay={unit}");
    }
}

#[test]
fn the_peers_on_an_inherited_listener_are_looked_after_unless_the_unit_decides() {
    for (config, unit, expected) in [
        ("", None, Some(300)),
        ("keepalive = \"40s\"", None, Some(40)),
        ("keepalive = \"40s\"", Some(50), Some(40)),
        ("keepalive = \"0s\"", None, None),
        ("keepalive = \"0s\"", Some(50), Some(50)),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        if let Some(seconds) = unit {
            set_socket_keepalive(&listener, true).unwrap();
            set_tcp_keepidle(&listener, Duration::from_secs(seconds)).unwrap();
        }
        let address = listener.local_addr().unwrap();
        let listeners = opened(
            &format!("[sockets.rpc]\n{config}"),
            inherited([("rpc", listener.into())]),
        );
        let client = TcpStream::connect(address).unwrap();
        let accepted = rustix::net::accept(&listeners[0].socket).unwrap();
        let found = kept_alive(&accepted);
        assert_eq!(found, expected, "{config:?} with KeepAliveTimeSec={unit:?}");
        drop(client);
    }
}

#[test]
fn the_peers_on_an_inherited_listener_are_asked_as_often_as_the_unit_says_unless_the_configuration_does()
 {
    let unit = (6, 2);
    for (config, expected) in [
        ("", unit),
        ("keepalive_interval = \"9s\"", (9, 2)),
        ("keepalive_probes = 5", (6, 5)),
        ("keepalive = \"0s\"", unit),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        set_tcp_keepintvl(&listener, Duration::from_secs(unit.0)).unwrap();
        set_tcp_keepcnt(&listener, unit.1).unwrap();
        let listeners = opened(
            &format!("[sockets.rpc]\n{config}"),
            inherited([("rpc", listener.into())]),
        );
        assert_eq!(asked_again(&listeners[0].socket), expected, "{config:?}");
    }
}

#[test]
fn some_are_inherited_and_the_others_are_bound() {
    let listeners = opened(
        "[sockets.rpc]\nlisten = \"127.0.0.1:1\"\n[sockets.log]\nlisten = \"127.0.0.1:0\"\n\
         [sockets.off]\nservice = \"no such\"\nenable = false\nlisten = \"127.0.0.1:2\"",
        inherited([("rpc", tcp())]),
    );
    let origins: Vec<(&str, String)> = listeners
        .iter()
        .map(|listener| (&*listener.name, listener.origin.to_string()))
        .collect();
    assert_eq!(origins[0], ("log", "bound".to_owned()));
    assert_eq!(origins[1].0, "rpc");
    assert!(origins[1].1.starts_with("inherited (fd "), "{origins:?}");
    assert_eq!(
        listeners.len(),
        2,
        "what is disabled and not inherited is nothing"
    );
}

#[test]
fn only_inherited_ones_are_taken_if_that_is_wanted() {
    let text = "[sockets.rpc]\nlisten = \"127.0.0.1:0\"\nfd_name = \"r\"\n[sockets.log]\n[sockets.x]\nenable = false";
    let error = plan(
        &config(text),
        inherited([("log", tcp()), ("log", tcp())]),
        true,
        &SERVICES,
        2,
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "socket \"rpc\" was not inherited, and only inherited sockets are allowed; it needs a descriptor named \"r\", \
         inherited were \"log\""
    );
    let error = plan(&config(text), Inherited::none(), true, &SERVICES, 2).unwrap_err();
    assert_eq!(error.problems().len(), 2);
    assert!(
        error
            .to_string()
            .lines()
            .all(|line| line.ends_with("inherited were none")),
        "{error}"
    );
    let both = inherited([("log", tcp()), ("r", tcp())]);
    assert_eq!(
        plan(&config(text), both, true, &SERVICES, 2)
            .unwrap()
            .open()
            .unwrap()
            .len(),
        2
    );
}

#[test]
fn an_inherited_listener_of_a_disabled_name_is_kept_to_accept_and_close() {
    let listeners = opened(
        "[sockets.rpc]\nenable = false\nworkers = [1]",
        inherited([("rpc", tcp())]),
    );
    assert_eq!(listeners.len(), 1);
    assert!(!listeners[0].enabled && !listeners[0].dealt);
    assert_eq!(listeners[0].owner, 1);
}

#[test]
fn a_listener_that_nobody_claims_is_an_error() {
    let fd = tcp();
    let number = number(&fd);
    assert_eq!(
        problem(
            "[sockets.rpc]\nlisten = \"127.0.0.1:0\"\n[sockets.log]\nenable = false\nfd_name = \"l\"",
            inherited([("rpc.socket", fd)])
        ),
        format!(
            "the inherited listener \"rpc.socket\" (descriptor {number}) is claimed by no section, and its clients would \
             wait for ever; the sections are [sockets.log] (fd_name = \"l\"), [sockets.rpc]; it has the name of its \
             socket unit, in which FileDescriptorName= is missing; if it belongs to \
             [sockets.rpc], write fd_name = \"rpc.socket\" there, or else add a section for it, with enable = false if it is \
             not to be served"
        )
    );
    // That of the unit of this project begins like the names that the handover has.
    let all = problems("[sockets.rpc]", inherited([("ringhold.socket", tcp())]));
    let [_, text] = &all[..] else {
        panic!("{all:?}")
    };
    let advice = "FileDescriptorName= is missing; if it belongs to [sockets.rpc], write fd_name = \"ringhold.socket\" there";
    assert!(text.contains(advice), "{text}");
    let claimed = "[sockets.rpc]\nfd_name = \"ringhold.socket\"";
    let listeners = opened(claimed, inherited([("ringhold.socket", tcp())]));
    assert_eq!(listeners.len(), 1);
    // A section that was renamed, and not its unit. One with an address misses its descriptor, too.
    let renamed = "if it belongs to [sockets.ask], write fd_name = \"query\" there, or else add a section for it";
    let said = |sections: &str, names: &[&str]| {
        let refused = rehearse(&config(sections), names, false, &SERVICES, 2);
        refused.unwrap_err().to_string()
    };
    for sections in ["", "listen = \"127.0.0.1:0\"\n"] {
        let sections =
            format!("[sockets.ask]\n{sections}[sockets.log]\n[sockets.off]\nenable = false");
        let text = said(&sections, &["log", "query", "query"]);
        assert!(text.contains(renamed), "{text}");
    }
    for (sections, names) in [
        // It is not known which of them.
        ("[sockets.ask]\n[sockets.log]", &["query"][..]),
        ("[sockets.ask]", &["query", "other"]),
        // None misses one.
        ("[sockets.ask]", &["query", "ask"]),
        ("[sockets.ask]\nenable = false", &["query"]),
        // It has to be given a name first.
        ("[sockets.ask]", &["unknown"]),
    ] {
        let text = said(sections, names);
        assert!(!text.contains("write fd_name"), "{text}");
    }
    let text = problem("", inherited([("x", tcp())]));
    assert!(text.ends_with("there are no socket sections; add a section for it, with enable = false if it is not to be served"));
    // A service manager that names nothing.
    assert!(
        problem(
            "[sockets.rpc]\nlisten = \"127.0.0.1:0\"",
            inherited([("unknown", tcp())])
        )
        .ends_with(
            "the sections are [sockets.rpc]; no name was passed with it: FileDescriptorName= of its socket unit gives it \
             one, or --fdname= of systemd-socket-activate"
        )
    );
}

#[test]
fn what_is_not_a_listener_is_refused_by_what_it_is() {
    let (stream, _peer) = UnixStream::pair().unwrap();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    let socket = |domain, kind| OwnedFd::from(Socket::new(domain, kind, None).unwrap());
    let sequential = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
    sequential
        .bind(&SockAddr::unix(format!("\0ringhold-test-{}-seq", std::process::id())).unwrap())
        .unwrap();
    sequential.listen(1).unwrap();
    let (pipe, _writer) = std::io::pipe().unwrap();
    let cases: Vec<(OwnedFd, &str)> = vec![
        (
            UdpSocket::bind("127.0.0.1:0").unwrap().into(),
            "a UDP socket",
        ),
        (socket(Domain::IPV6, Type::DGRAM), "a UDP socket"),
        (
            socket(Domain::IPV4, Type::STREAM),
            "a TCP socket that is not listening",
        ),
        (
            socket(Domain::UNIX, Type::STREAM),
            "a unix socket that is not listening",
        ),
        (client.into(), "an established TCP connection"),
        (stream.into(), "an established unix connection"),
        (
            UnixDatagram::unbound().unwrap().into(),
            "a unix datagram socket",
        ),
        (sequential.into(), "a unix sequential-packet socket"),
        (tempfile::tempfile().unwrap().into(), "a regular file"),
        (File::open("/").unwrap().into(), "a directory"),
        (
            File::open("/dev/null").unwrap().into(),
            "a character device",
        ),
        (pipe.into(), "a pipe"),
        (
            eventfd(0, EventfdFlags::CLOEXEC).unwrap(),
            "a descriptor that is neither a socket nor a file",
        ),
    ];
    for (fd, found) in cases {
        let number = number(&fd);
        assert_eq!(
            problem("[sockets.rpc]", inherited([("rpc", fd)])),
            format!(
                "descriptor {number} (\"rpc\") is {found}; a listening TCP or unix stream socket is needed, which is \
                 ListenStream= with Accept=no in its socket unit"
            )
        );
    }
}

#[test]
fn every_family_that_can_be_served_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let name = format!("ringhold-test-{}-families", std::process::id());
    let abstract_one = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    abstract_one
        .bind(&SockAddr::unix(format!("\0{name}")).unwrap())
        .unwrap();
    abstract_one.listen(1).unwrap();
    let mut descriptors = vec![
        ("rpc".to_owned(), tcp()),
        ("rpc".to_owned(), UnixListener::bind(&path).unwrap().into()),
        ("rpc".to_owned(), abstract_one.into()),
    ];
    // Not every machine has IPv6.
    let six = TcpListener::bind("[::1]:0").ok();
    descriptors.extend(six.map(|listener| ("rpc".to_owned(), listener.into())));
    let listeners = opened("[sockets.rpc]", Inherited::from_descriptors(descriptors));
    assert!(listeners[0].address.to_string().starts_with("127.0.0.1:"));
    assert_eq!(listeners[1].address, Address::UnixPath(path.clone()));
    assert_eq!(
        listeners[1].address.to_string(),
        format!("unix:{}", path.display())
    );
    assert_eq!(listeners[2].address.to_string(), format!("unix:@{name}"));
    assert!(
        listeners[3..]
            .iter()
            .all(|listener| listener.address.to_string().starts_with("[::1]:"))
    );
    // Inherited paths are not ours to remove.
    listeners
        .iter()
        .for_each(|listener| assert!(!listener.unlink().unwrap()));
    assert!(path.exists());
}

#[test]
fn descriptor_i_of_a_name_goes_to_worker_i_modulo_the_partition() {
    let text = "[sockets.rpc]\nworkers = [2, 0]\nconnections = 300\n[sockets.log]\n";
    let descriptors: Vec<(String, OwnedFd)> = ["rpc", "log", "rpc", "rpc", "log"]
        .iter()
        .map(|name| ((*name).to_owned(), tcp()))
        .collect();
    let given: Vec<i32> = descriptors.iter().map(|(_, fd)| number(fd)).collect();
    let plan = plan(
        &config(text),
        Inherited::from_descriptors(descriptors),
        false,
        &SERVICES,
        3,
    )
    .unwrap();
    let limits: Vec<u32> = plan.table().0.iter().map(|row| row.connections).collect();
    assert_eq!(limits, [10_000, 10_000, 300, 300, 300]);
    let listeners = plan.open().unwrap();
    let owners: Vec<(&str, usize)> = listeners
        .iter()
        .map(|listener| (&*listener.name, listener.owner))
        .collect();
    assert_eq!(
        owners,
        [("log", 0), ("log", 1), ("rpc", 2), ("rpc", 0), ("rpc", 2)]
    );
    for listener in &listeners {
        let expected: &[usize] = match listener.group {
            0 => &[0, 1, 2],
            _ => &[2, 0],
        };
        assert_eq!(listener.partition, expected);
    }
    // Within a name in the order in which they were passed on.
    let numbers: Vec<i32> = listeners.iter().map(inherited_number).collect();
    assert_eq!(numbers, [1, 4, 0, 2, 3].map(|index: usize| given[index]));
}

fn inherited_number(listener: &Listener) -> i32 {
    match listener.origin {
        Origin::Inherited { number, .. } => number,
        Origin::Bound { .. } => panic!("{listener:?}"),
    }
}

#[test]
fn connections_are_dealt_unless_the_listeners_of_an_address_cover_the_partition() {
    let dealt = |descriptors: Vec<OwnedFd>| -> Vec<bool> {
        let descriptors = descriptors
            .into_iter()
            .map(|fd| ("rpc".to_owned(), fd))
            .collect();
        let listeners = opened("[sockets.rpc]", Inherited::from_descriptors(descriptors));
        listeners.iter().map(|listener| listener.dealt).collect()
    };
    assert_eq!(dealt(vec![tcp()]), [true]);
    assert_eq!(dealt(reuse_port(2)), [false, false]);
    assert_eq!(dealt(reuse_port(3)), [false, false, false]);
    // Two addresses on two workers: each still has one acceptor only.
    assert_eq!(dealt(vec![tcp(), tcp()]), [true, true]);
    let alone = opened("[sockets.rpc]\nworkers = [1]", inherited([("rpc", tcp())]));
    assert!(!alone[0].dealt, "there is nobody else to deal to");
    assert_eq!((alone[0].owner, &alone[0].partition[..]), (1, &[1][..]));
}

#[test]
fn what_belongs_to_the_handover_is_set_aside_unchecked() {
    let text = "[sockets.rpc]\nlisten = \"127.0.0.1:0\"";
    let (pipe, _writer) = std::io::pipe().unwrap();
    let (connection, _peer) = UnixStream::pair().unwrap();
    let inherited = inherited([
        ("ringhold.state", pipe.into()),
        ("rpc", tcp()),
        ("ringhold.listener", tcp()),
        ("conn-17", connection.into()),
        ("stored", tcp()),
    ]);
    let mut plan = planned(text, inherited).unwrap();
    let names = |descriptors: Vec<ringhold_core::inherit::NamedDescriptor>| -> Vec<String> {
        descriptors
            .into_iter()
            .map(|descriptor| descriptor.name)
            .collect()
    };
    assert_eq!(
        names(plan.take_reserved()),
        ["ringhold.state", "ringhold.listener"]
    );
    assert_eq!(names(plan.take_strays()), ["conn-17", "stored"]);
    assert!(plan.take_reserved().is_empty() && plan.take_strays().is_empty());
    assert_eq!(plan.open().unwrap().len(), 1);
}

#[test]
fn all_problems_are_reported() {
    let mut config = config(
        "[sockets.rpc]\nservice = \"rcp\"\n[sockets.log]\nworkers = [5]\nlisten = \"127.0.0.1:0\"\n\
         [sockets.other]\nservice = \"log\"",
    );
    let fds = inherited([
        ("other", tempfile::tempfile().unwrap().into()),
        ("more", tcp()),
    ]);
    let error = plan(&config, fds, false, &SERVICES, 2).unwrap_err();
    let lines: Vec<String> = error.to_string().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 5, "{error}");
    assert_eq!(
        lines[0],
        "socket \"log\" is placed on worker 5, but there are only workers 0 to 1"
    );
    assert_eq!(
        lines[1],
        "socket \"rpc\" is answered by service \"rcp\", which does not exist; did you mean \"rpc\"? the services are \
         \"rpc\", \"log\""
    );
    assert_eq!(
        lines[2],
        "socket \"rpc\" has nothing to listen on: no descriptor named \"rpc\" was inherited, and [sockets.rpc] has no \
         \"listen\"; start its socket unit, or add an address"
    );
    assert!(
        lines[3].starts_with("the inherited listener \"more\" "),
        "{error}"
    );
    assert!(
        lines[4].contains("(\"other\") is a regular file; "),
        "{error}"
    );

    config.sockets.retain(|name, _| name == "rpc");
    config.sockets.get_mut("rpc").unwrap().workers = Partition::Only(vec![]);
    let error = plan(&config, Inherited::none(), true, &[], 2).unwrap_err();
    let lines: Vec<String> = error.to_string().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 3, "{error}");
    assert!(
        lines[0].ends_with("which does not exist; the services are none"),
        "{error}"
    );
    assert_eq!(
        lines[1],
        "socket \"rpc\" is placed on no worker; to serve nothing, disable it"
    );
}

#[test]
fn a_rehearsal_needs_names_only() {
    let config = config("[sockets.rpc]\n[sockets.log]\nlisten = \"127.0.0.1:0\"\n");
    assert!(rehearse(&config, &["rpc", "ringhold.state"], false, &SERVICES, 2).is_ok());
    let error = rehearse(&config, &["x"], false, &SERVICES, 2).unwrap_err();
    assert_eq!(error.problems().len(), 2);
    assert!(
        error
            .to_string()
            .contains("the inherited listener \"x\" is claimed by no section"),
        "{error}"
    );
    let error = rehearse(&config, &["rpc"], true, &SERVICES, 2).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("socket \"log\" was not inherited"),
        "{error}"
    );
}

#[test]
fn the_table_shows_what_would_be_and_what_is() {
    let fd = tcp();
    let number = number(&fd);
    let text = "[sockets.log]\nlisten = [\"127.0.0.1:0\", \"unix:@a\"]\nworkers = [1]\n[sockets.off]\nenable = false\n\
                [sockets.rpc]\nlisten = \"127.0.0.1:0\"\nreuse_port = true\nconnections = 20\nconnections_per_client = 4\nidle_timeout = \"90s\"\nproxy_protocol = true\n[sockets.x]\nenable = false\nservice = \"rpc\"";
    let plan = planned(text, inherited([("x", fd)])).unwrap();
    let rows = plan.table();
    let address = rows.0[5].address.clone();
    let expected = [
        "NAME|ADDRESS|SOURCE|SERVICE|WORKERS|ENABLED|CONNECTIONS|PER CLIENT|IDLE|PROXY".to_owned(),
        "log|127.0.0.1:0|would bind|log|1|yes|10000|any|never|no".to_owned(),
        "log|unix:@a|would bind|log|1|yes|10000|any|never|no".to_owned(),
        "off|-|-|off|-|no|-|-|-|-".to_owned(),
        "rpc|127.0.0.1:0|would bind|rpc|0|yes|20|4|90s|yes".to_owned(),
        "rpc|127.0.0.1:0|would bind|rpc|1|yes|20|4|90s|yes".to_owned(),
        format!("x|{address}|inherited (fd {number})|rpc|0|no|-|-|-|-"),
    ];
    assert_eq!(cells(&rows.to_string()), expected);
    // Columns begin below each other.
    let table = rows.to_string();
    let column = |line: &str, word: &str| line.find(word);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(column(lines[0], "SOURCE"), column(lines[1], "would bind"));
    assert_eq!(column(lines[0], "ENABLED"), lines[3].rfind("no"));

    let wide = planned("[sockets.rpc]\nlisten = \"127.0.0.1:0\"", Inherited::none()).unwrap();
    assert_eq!(wide.table().0[0].workers, [0, 1]);
    assert!(wide.table().to_string().contains("  0-1  "));
}

/// The lines of a table, with the cells apart from each other by one character.
fn cells(table: &str) -> Vec<String> {
    let split = |line: &str| {
        let cells = line
            .split("  ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty());
        cells.collect::<Vec<_>>().join("|")
    };
    table.lines().map(split).collect()
}
