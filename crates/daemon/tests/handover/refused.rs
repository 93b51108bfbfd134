//! Reloads that are refused, because the successor could not start: nothing has changed then.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::sys::signal::Signal;
use ringhold_client::Address;

use crate::changes::{free, sections};
use crate::common::wire::{Wire, request};
use crate::manager::{Manager, RINGHOLD, write_program};
use crate::ports::free_port;
use crate::program::install;

/// A service with one connection, which must go on whatever is refused.
pub(crate) struct Kept {
    pub(crate) manager: Manager,
    wire: Wire,
    address: Address,
    refusals: usize,
}

impl Kept {
    pub(crate) fn new(manager: Manager, address: &Address) -> Self {
        let mut kept = Kept {
            manager,
            wire: Wire::connect(address),
            address: address.clone(),
            refusals: 0,
        };
        kept.serves();
        kept
    }

    fn serves(&mut self) {
        self.wire.echo(1, 1);
        Wire::connect(&self.address).echo(2, 2);
    }

    /// A reload with this configuration is refused for this reason.
    pub(crate) fn refuses(&mut self, config: &str, why: &str) {
        self.refusals += 1;
        self.manager.configure(config);
        self.manager.reload();
        self.manager.logged(
            self.refusals,
            &["the reload is refused, nothing has changed"],
        );
        self.manager.logged(1, &[why]);
        self.serves();
    }

    pub(crate) fn accepts(&mut self, config: &str) {
        self.manager.configure(config);
        self.manager.reload();
        self.serves();
        assert_eq!(
            self.manager.log().matches("the reload is refused").count(),
            self.refusals
        );
    }
}

/// What cannot be bound is found out before anything is given up.
#[test]
fn an_address_that_is_taken_refuses_the_reload() {
    let (a, b) = (free(), free());
    let mut manager = Manager::new(0, &sections(&[("a", &a), ("b", &b)]));
    let path = manager.path("taken.sock");
    let _unix = UnixListener::bind(&path).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let missing = manager.path("no/such/directory/x.sock");
    manager.start();
    let mut wire = Wire::connect(&a);
    let taken = [
        Address::Tcp(tcp.local_addr().unwrap()),
        Address::Unix(path.into()),
        Address::Unix(missing.into()),
        // Held by `b`, who keeps it.
        b.clone(),
    ];
    for (index, address) in taken.iter().enumerate() {
        manager.configure(&sections(&[("a", address), ("b", &b)]));
        manager.reload();
        manager.logged(index + 1, &["the reload is refused"]);
        manager.logged(1, &["socket \"a\" cannot listen on", &address.to_string()]);
        wire.echo(index as u32, 3);
    }
    manager.stop();
}

/// In one line of the log, where what a service says could not pass for a line of its own.
#[test]
fn several_reasons_are_told_one_after_the_other() {
    let address = free();
    let config = sections(&[("a", &address)]);
    let mut manager = Manager::new(0, &config);
    manager.start();
    let mut kept = Kept::new(manager, &address);
    let unknown = "[sockets.x]\nservice = \"ech\"\n[sockets.y]\nservice = \"stat\"\n";
    let why = [("x", "ech"), ("y", "stat")].map(|(socket, service)| {
        format!("socket \"{socket}\" is answered by service \"{service}\", which does not exist")
    });
    kept.refuses(&format!("{config}{unknown}"), &why[1]);
    kept.manager.logged(
        1,
        &["the reload is refused", &why[0], "; socket \"y\"", &why[1]],
    );
    kept.accepts(&config);
    kept.manager.stop();
}

/// A path that we bound, and that somebody else has by now: that one is left alone, mode and all.
#[test]
fn a_path_that_another_process_has_taken_refuses_the_reload() {
    let mode = |path: &str| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let a = free();
    let mut manager = Manager::new(16, "");
    let path = manager.path("b.sock");
    let b = Address::Unix(path.clone().into());
    let config = sections(&[("a", &a), ("b", &b)]) + "mode = \"0660\"\n";
    manager.configure(&config);
    manager.start();
    let mut at_b = Wire::connect(&b);
    at_b.echo(1, 1);
    let mut kept = Kept::new(manager, &a);
    // Removed, it is made anew.
    fs::remove_file(&path).unwrap();
    kept.accepts(&config);
    assert_eq!(mode(&path), 0o660);
    Wire::connect(&b).echo(1, 1);

    fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    let why = format!("socket \"b\" cannot listen on {b}: another process listens there");
    kept.refuses(&config, &why);
    assert_eq!(mode(&path), 0o600);
    at_b.echo(2, 2);

    // Before a restart nobody asks. It fails, and leaves what is stored and what is not its own.
    kept.manager.stop();
    let mark = kept.manager.mark();
    kept.manager.launch();
    assert!(!kept.manager.becomes_ready(mark));
    assert!(!kept.manager.ended().success());
    kept.manager.logged(2, &[&why]);
    assert_eq!(mode(&path), 0o600);
    drop(other);
    kept.manager.start();
    assert_eq!(mode(&path), 0o660);
    at_b.echo(3, 3);
    Wire::connect(&b).echo(1, 1);
    kept.serves();
    kept.manager.stop_for_good();
}

/// Each of them alone could be bound.
#[test]
fn addresses_that_are_in_the_way_of_each_other_are_refused() {
    let a = free();
    let mut manager = Manager::new(0, &sections(&[("a", &a)]));
    let path = manager.path("new.sock");
    manager.start();
    let mut kept = Kept::new(manager, &a);
    let port = free_port();
    let config = |of_a: &str, of_b: &str, more: &str| {
        format!(
            "[sockets.a]\nservice = \"rpc\"\nlisten = [\"{a}\", {of_a}]\n\
             [sockets.b]\nservice = \"rpc\"\nlisten = [{of_b}]\n{more}\n"
        )
    };
    let own = format!("\"127.0.0.1:{}\"", free_port());
    let [any, any_v4, one, other, one_v6] =
        ["[::]", "0.0.0.0", "127.0.0.1", "127.0.0.2", "[::1]"].map(|ip| format!("\"{ip}:{port}\""));
    let mut both = |of_a: &str, of_b: &str, more: &str, culprit: &str| {
        let why = format!("socket {culprit} cannot listen on ");
        kept.refuses(&config(of_a, of_b, more), &why);
    };
    both(&format!("{any}, {any_v4}"), &own, "", "\"a\"");
    both(&one, &one, "", "\"b\"");
    both(&one, &one, "reuse_port = true", "\"b\"");
    both(&any_v4, &other, "", "\"b\"");
    both(&one, &any, "ipv6_only = false", "\"b\"");
    both(&one_v6, &any, "ipv6_only = true", "\"b\"");
    let unix = format!("\"unix:{path}\"");
    both(&unix, &unix, "", "\"b\"");
    let name = format!("\"unix:@{path}\"");
    both(&name, &name, "", "\"b\"");

    // And these are not in the way.
    kept.accepts(&config(&any_v4, &any, "ipv6_only = true"));
    kept.accepts(&config(&format!("{one}, {other}"), &one_v6, ""));
    kept.manager.stop();
}

/// That the port is ours does not mean that the new address is.
#[test]
fn an_address_of_another_process_with_the_same_port_is_refused() {
    let other = TcpListener::bind(("127.0.0.2", free_port())).unwrap();
    let taken = other.local_addr().unwrap();
    let ours = Address::Tcp(SocketAddr::from(([127, 0, 0, 1], taken.port())));
    let mut manager = Manager::new(0, &sections(&[("a", &ours)]));
    manager.start();
    let mut kept = Kept::new(manager, &ours);
    kept.refuses(
        &sections(&[("a", &Address::Tcp(taken))]),
        &format!("socket \"a\" cannot listen on {taken}: the port is in use"),
    );
    kept.manager.stop();
}

/// A listener that stays where it is, with an option that cannot be had.
#[test]
fn options_that_an_open_listener_cannot_have_are_refused() {
    let port = free_port();
    let (v4, v6) = (format!("0.0.0.0:{port}"), format!("[::]:{port}"));
    let config = |only: bool, more: &str| {
        format!(
            "[sockets.a]\nservice = \"rpc\"\nlisten = \"{v4}\"\n{more}\n\
             [sockets.b]\nservice = \"rpc\"\nlisten = \"{v6}\"\nipv6_only = {only}\n"
        )
    };
    let mut manager = Manager::new(0, &config(true, ""));
    manager.start();
    let address = Address::Tcp(SocketAddr::from(([127, 0, 0, 1], port)));
    let mut kept = Kept::new(manager, &address);
    kept.refuses(
        &config(true, "congestion = \"none-such\""),
        &format!("socket \"a\" cannot listen on {v4}: the kernel has no congestion control"),
    );
    // Then it would take the place of the other one.
    kept.refuses(
        &config(false, ""),
        &format!("socket \"b\" cannot listen on {v6}: "),
    );
    kept.accepts(&config(true, "congestion = \"reno\""));
    kept.manager.stop();
}

/// Whoever is not root may not give files away.
#[test]
fn an_owner_that_a_path_cannot_have_is_refused() {
    const NOBODY: u32 = 65_534;
    let mut manager = Manager::new(0, "");
    let directory = manager.path("run");
    fs::create_dir(&directory).unwrap();
    let config = |more: &str, second: &str| {
        format!(
            "[sockets.a]\nservice = \"rpc\"\nlisten = [\"unix:{directory}/a.sock\"{second}]\n\
             mode = \"0666\"\n{more}\n"
        )
    };
    manager.configure(&config("", ""));
    if rustix::process::geteuid().is_root() {
        let copy = install(&manager, "ringhold");
        let become_nobody = format!("setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups");
        let script = manager.path("as-nobody");
        write_program(
            &script,
            &format!("#!/bin/sh\nexec {become_nobody} {copy} \"$@\"\n"),
        );
        manager.run_as(&script);
        chown(&directory, Some(NOBODY), Some(NOBODY)).unwrap();
        for (path, mode) in [("", 0o755), ("notify", 0o666), ("ringhold.toml", 0o644)] {
            fs::set_permissions(manager.path(path), PermissionsExt::from_mode(mode)).unwrap();
        }
    }
    manager.start();
    let address = Address::Unix(format!("{directory}/a.sock").into());
    let mut kept = Kept::new(manager, &address);
    let why = "this process may not give it that user or group";
    for (id, second) in ["", &format!(", \"unix:{directory}/b.sock\"")]
        .iter()
        .enumerate()
    {
        kept.refuses(&config("group = 0", second), why);
        kept.manager
            .logged(id + 1, &["socket \"a\" cannot listen on", why]);
    }
    assert!(!Path::new(&format!("{directory}/b.sock")).exists());
    kept.accepts(&config("", ""));
    kept.manager.stop();
}

/// The program that is asked tries the engine, too.
#[test]
fn an_engine_that_does_not_work_is_refused() {
    let a = free();
    let mut manager = Manager::new(0, &sections(&[("a", &a)]));
    let program = install(&manager, "ringhold");
    manager.run_as(&program);
    manager.start();
    let mut kept = Kept::new(manager, &a);
    // So few that no ring can be opened, and enough for everything else that is asked.
    fs::remove_file(&program).unwrap();
    let script = format!("#!/bin/sh\nulimit -n 4\nexec {RINGHOLD} \"$@\" 3>&-\n");
    write_program(&program, &script);
    kept.manager.use_engine("ring");
    kept.refuses(&sections(&[("a", &a)]), "the ring engine is not available");
    kept.manager.stop();
}

/// What carries connections cannot be made at all, which is found out while everybody is served.
#[test]
fn what_cannot_be_packed_refuses_the_reload_and_is_ended_in_order_by_a_stop() {
    const CONFIG: &str =
        "[sockets.rpc]\n[sockets.own]\nservice = \"rpc\"\nlisten = [\"unix:DIR/own.sock\"]\n";
    for store_max in [0, 16] {
        let mut manager = Manager::new(store_max, CONFIG);
        let address = manager.listen_tcp("rpc");
        let own = manager.path("own.sock");
        let program = manager.path("limited");
        let script = format!("#!/bin/sh\nulimit -f 0\nexec {RINGHOLD} \"$@\"\n");
        write_program(&program, &script);
        manager.run_as(&program);
        manager.start();
        manager.wait_until_nothing_is_stored();
        let mut at_own = Wire::connect(&Address::Unix(own.clone().into()));
        let mut kept = Kept::new(manager, &address);
        let why = "the reload is refused, nothing has changed: connections cannot be packed for a successor: File too large";
        for _ in 0..2 {
            kept.refuses(CONFIG, why);
            at_own.echo(3, 3);
        }
        let Kept {
            mut manager,
            mut wire,
            ..
        } = kept;
        wire.send(&request(4, "echo", &[4.into()]));
        manager.stop();
        assert_eq!(wire.reply(), (4, Ok(4.into())));
        assert_eq!((wire.rest(), at_own.rest()), (vec![], vec![]));
        assert_eq!(manager.state().stored(), Vec::<&str>::new());
        assert!(!Path::new(&own).exists());
        manager.logged(2, &[why, "raise LimitFSIZE="]);
        let closed = match store_max {
            0 => "closing 2 connections for want of a descriptor store",
            _ => {
                "closing 2 connections since they cannot be packed for a successor (File too large"
            }
        };
        manager.logged(1, &[closed]);
    }
}

#[test]
fn a_broken_configuration_is_refused() {
    let mut manager = Manager::new(16, "[sockets.rpc]\n");
    let address = manager.listen_tcp("rpc");
    manager.start();
    let mut wire = Wire::connect(&address);
    let broken = [
        "[sockets.rpc",
        "[sockets.rpc]\nworker = 3\n",
        "[sockets.rpc]\nservice = \"nothing\"\n",
        "workers = 1\n[sockets.rpc]\nworkers = [5]\n",
    ];
    for (index, config) in broken.iter().enumerate() {
        manager.configure(config);
        manager.reload();
        manager.logged(index + 1, &["the reload is refused, nothing has changed"]);
        wire.echo(index as u32, 5);
    }
    fs::remove_file(manager.path("ringhold.toml")).unwrap();
    manager.reload();
    wire.echo(9, 9);
    manager.configure("[sockets.rpc]\n");
    manager.reload();
    manager.logged(1, &["took over 1 connection"]);
    wire.echo(10, 10);
    manager.stop_for_good();
}

/// It is too late to refuse then, but what is stored is not lost.
#[test]
fn a_configuration_that_breaks_after_the_answer_costs_nobody_a_connection_if_there_is_a_store() {
    let config = "[handover]\ndrain = \"60s\"\n[sockets.rpc]\n";
    let mut manager = Manager::new(16, config).with_test_daemon();
    let address = manager.listen_unix("rpc");
    manager.start();
    let [mut held, mut other] = [(); 2].map(|()| Wire::connect(&address));
    held.send(&request(1, "hold", &[]));
    held.echo(2, 2);
    manager.signal(Signal::SIGHUP);
    manager.logged(1, &["waiting for deferred replies (1 open)"]);
    manager.configure("[sockets.rpc]\nworker = 3\n");
    other.send(&request(3, "release", &[]));
    assert_eq!(manager.ended().code(), Some(2));
    manager.configure(config);
    manager.start();
    assert_eq!(other.reply(), (3, Ok(1.into())));
    assert_eq!(held.reply(), (1, Ok("released".into())));
    held.echo(4, 4);
    other.echo(5, 5);
    manager.stop_for_good();
}

/// It panics, in the program that is asked and not in its workers when everybody has let go.
#[test]
fn a_router_with_two_methods_of_one_name_refuses_the_reload() {
    let mut manager = Manager::new(0, "[sockets.rpc]\n").with_test_daemon();
    let address = manager.listen_unix("rpc");
    manager.start();
    manager.logged(1, &["service keeper answers on no socket"]);
    let mut kept = Kept::new(manager, &address);
    kept.manager.set_flag("name-twice", true);
    kept.refuses("[sockets.rpc]\n", "there are two methods named \"hold\"");
    kept.manager.set_flag("name-twice", false);
    kept.accepts("[sockets.rpc]\n");
    kept.manager.stop();
}

/// Descriptors can be taken only while there is one thread, which the old process finds out before it lets go.
#[test]
fn a_program_that_starts_threads_first_is_refused_unless_it_takes_what_it_inherits_before() {
    let mut manager = Manager::new(0, "[sockets.rpc]\n").with_test_daemon();
    let address = manager.listen_unix("rpc");
    manager.start();
    let mut kept = Kept::new(manager, &address);
    kept.manager.set_flag("thread-first", true);
    kept.refuses("[sockets.rpc]\n", "Inherited::take");
    kept.manager.set_flag("take-first", true);
    kept.accepts("[sockets.rpc]\n");
    kept.accepts("[sockets.rpc]\n");
    kept.manager.stop();
}

/// Not refused, this would end the daemon: it is too late when the workers are made.
#[test]
fn what_the_workers_of_the_new_configuration_cannot_have_is_refused() {
    let a = free();
    let config = sections(&[("a", &a)]);
    for (engine, sizes) in [("ring", true), ("portable", false)] {
        let mut manager = Manager::on(engine, 0, &config);
        // Each worker's stack has 16 MiB of it.
        let script = format!("#!/bin/sh\nulimit -v 1048576\nexec {RINGHOLD} \"$@\"\n");
        let path = manager.path("limited");
        write_program(&path, &script);
        manager.run_as(&path);
        manager.start();
        let mut kept = Kept::new(manager, &a);
        let more = config.replace("workers = 2", "workers = 100");
        kept.refuses(&more, "the new program refuses");
        kept.manager
            .logged(1, &["the thread of worker ", "TasksMax="]);
        let large = format!("{config}[ring]\nbuffers = 32768\nbuffer_bytes = \"1MiB\"\n");
        if sizes {
            kept.refuses(&large, "ask for less with ring.buffers, ring.buffer_bytes");
        }
        kept.accepts(&config);
        kept.accepts(&config.replace("workers = 2", "workers = 5"));
        kept.accepts(&config);
        kept.manager.stop();
    }
}

/// Whoever starts the daemon may ignore SIGCHLD, which it inherits then: the kernel keeps no status of its children.
#[test]
fn the_answer_counts_where_children_leave_no_status() {
    let a = free();
    let config = sections(&[("a", &a)]);
    let mut manager = Manager::new(0, &config);
    let script = manager.path("ignores-children");
    let text = format!("#!/bin/sh\nexec env --ignore-signal=CHLD {RINGHOLD} \"$@\"\n");
    write_program(&script, &text);
    manager.run_as(&script);
    manager.start();
    let ignored = fs::read_to_string(format!("/proc/{}/status", manager.pid())).unwrap();
    let ignored = ignored
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = u64::from_str_radix(ignored.unwrap().trim(), 16).unwrap();
    assert_ne!(ignored & 1 << (Signal::SIGCHLD as u32 - 1), 0);
    let mut kept = Kept::new(manager, &a);
    kept.accepts(&config);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = Address::Tcp(taken.local_addr().unwrap());
    let why = format!("socket \"a\" cannot listen on {taken}: the port is in use");
    kept.refuses(&sections(&[("a", &taken)]), &why);
    kept.accepts(&config);
    kept.manager.stop();
}

/// It is tried, and nothing is left of the attempt.
#[test]
fn a_path_that_cannot_be_made_is_refused() {
    let a = free();
    let config = sections(&[("a", &a)]);
    let mut manager = Manager::new(0, &config);
    let [directory, deep] = [20, 100].map(|length| {
        let path = manager.path("");
        let path = format!(
            "{path}{}",
            "d".repeat(length.max(path.len() + 1) - path.len())
        );
        fs::create_dir(&path).unwrap();
        path
    });
    manager.start();
    let mut kept = Kept::new(manager, &a);
    // The system's administrator may write there, and yet nobody can make a file.
    for nowhere in ["/proc/b.sock", "/dev/pts/b.sock"] {
        let nowhere = Address::Unix(nowhere.into());
        let why = format!("socket \"b\" cannot listen on {nowhere}: ");
        kept.refuses(&sections(&[("a", &a), ("b", &nowhere)]), &why);
    }
    let entries = |path: &str| fs::read_dir(path).unwrap().count();
    // In the other directory the path of the attempt would be too long.
    for directory in [directory, deep] {
        let path = Address::Unix(format!("{directory}/b").into());
        kept.accepts(&sections(&[("a", &a), ("b", &path)]));
        Wire::connect(&path).echo(3, 3);
        assert_eq!(entries(&directory), 1);
        kept.accepts(&config);
        assert_eq!(entries(&directory), 0);
    }
    kept.manager.stop();
}
