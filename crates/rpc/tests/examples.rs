//! The examples do what their comments say: their routers without sockets, and one of them behind a real one.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Weak};
use std::time::Duration;

use ringhold_core::config::Config;
use ringhold_core::inherit::Inherited;
use ringhold_core::limits::Limits;
use ringhold_core::listeners::Address;
use ringhold_core::testing::{Client, Exchange};
use ringhold_core::{Server, Worker};
use ringhold_rpc::{Router, Rpc};

#[path = "../examples/calculator.rs"]
#[expect(dead_code, reason = "its main is not called")]
mod calculator;

#[path = "../examples/daemon.rs"]
#[expect(dead_code, reason = "its main is not called")]
mod daemon;

#[path = "../examples/samples.rs"]
#[expect(dead_code, reason = "its main is not called")]
mod samples;

#[path = "../examples/tokio_answers.rs"]
#[expect(dead_code, reason = "its main is not called")]
mod tokio_answers;

#[path = "../examples/writer.rs"]
#[expect(dead_code, reason = "its main is not called")]
mod writer;

use samples::topics;

fn connect(router: Router) -> (Exchange, Client) {
    let mut exchange = Exchange::with_worker(|worker| Rpc::new(worker, router), Limits::default());
    let client = exchange.connect();
    (exchange, client)
}

#[test]
fn the_calculator_calculates() {
    let (mut exchange, client) = connect(calculator::router());
    let mut call = |frame: &[u8]| {
        assert!(exchange.receive(client, frame));
        exchange.take_sent(client)
    };
    assert_eq!(
        call(b"\x94\x00\x01\xa3add\x92\x02\x03"),
        b"\x94\x01\x01\xc0\x05"
    );
    assert_eq!(
        call(b"\x94\x00\x02\xa4mean\x94\x01\x02\x03\x04"),
        b"\x94\x01\x02\xc0\xcb\x40\x04\0\0\0\0\0\0"
    );
    assert_eq!(
        call(b"\x94\x00\x03\xa4mean\x90"),
        b"\x94\x01\x03\xb3nothing has no mean\xc0"
    );
    // In a release build the sum wraps; here it panics, which costs the call.
    assert!(
        call(b"\x94\x00\x04\xa3add\x92\x01\xd3\x7f\xff\xff\xff\xff\xff\xff\xff")
            .starts_with(b"\x94\x01\x04")
    );
}

#[test]
fn topics_have_readers() {
    let hub = topics::Hub::default();
    let (mut exchange, client) = connect(topics::router(&hub));
    let other = exchange.connect();
    let publish = b"\x94\x00\x02\xa7publish\x92\xa1t\x07";
    let event = b"\x93\x02\xa5event\x92\xa1t\x07";
    let mut call = |client, frame: &[u8], sent: &[u8]| {
        assert!(exchange.receive(client, frame));
        assert_eq!(exchange.take_sent(client), sent);
    };
    for client in [client, other] {
        call(
            client,
            b"\x94\x00\x01\xa9subscribe\x91\xa1t",
            b"\x94\x01\x01\xc0\xc0",
        );
    }
    // It is subscribed already.
    call(
        other,
        b"\x94\x00\x01\xa9subscribe\x91\xa1t",
        b"\x94\x01\x01\xc0\xc0",
    );
    let [two, one] = [2, 1].map(|count| [b"\x94\x01\x02\xc0", &[count][..]].concat());
    call(client, publish, &[&two[..], event].concat());
    call(other, b"\x93\x02\xabunsubscribe\x91\xa1t", event);
    call(client, publish, &[&one[..], event].concat());
    call(other, b"", b"");
}

#[test]
fn topics_without_readers_are_forgotten() {
    let hub = topics::Hub::default();
    let (mut exchange, client) = connect(topics::router(&hub));
    for _ in 0..2 {
        assert!(exchange.receive(client, b"\x93\x02\xa7publish\x92\xa1t\x07"));
        assert!(exchange.receive(client, b"\x93\x02\xabunsubscribe\x91\xa1t"));
        assert!(hub.topics().is_empty());
        assert!(exchange.receive(client, b"\x93\x02\xa9subscribe\x91\xa1t"));
        assert_eq!(hub.topics().len(), 1);
        assert!(exchange.receive(client, b"\x93\x02\xabunsubscribe\x91\xa1t"));
        assert!(hub.topics().is_empty());
    }
    // Nothing is ever published there.
    for topic in 0..100 {
        let reader = exchange.connect();
        let frame = [&b"\x93\x02\xa9subscribe\x91\xa1"[..], &[topic]].concat();
        assert!(exchange.receive(reader, &frame));
        exchange.reset(reader);
    }
    assert!(hub.topics().is_empty());
}

#[test]
fn samples_go_to_those_who_have_subscribed() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    socket.set_nonblocking(true).unwrap();
    let make = |worker: &Worker| {
        let (hub, board) = (topics::Hub::default(), samples::Board::default());
        Rpc::new(
            worker,
            samples::reader(worker, &hub, &board, socket.try_clone().unwrap()),
        )
    };
    let mut exchange = Exchange::with_worker(make, Limits::default());
    let client = exchange.connect();
    assert!(exchange.receive(client, b"\x94\x00\x01\xa9subscribe\x91\xa7samples"));
    assert_eq!(exchange.take_sent(client), b"\x94\x01\x01\xc0\xc0");
    let instrument = UdpSocket::bind("127.0.0.1:0").unwrap();
    for sample in [b"21.5", b"21.7"] {
        instrument.send_to(sample, address).unwrap();
    }
    exchange.deliver();
    assert_eq!(
        exchange.take_sent(client),
        b"\x93\x02\xa5event\x92\xa7samples\xc4\x0421.5\x93\x02\xa5event\x92\xa7samples\xc4\x0421.7"
    );
    // It is known how many there were in the next process, too.
    let mut exchange = exchange.hand_over(make);
    let mut latest = || {
        exchange.deliver();
        exchange.take_sent(client);
        assert!(exchange.receive(client, b"\x94\x00\x01\xa6latest\x90"));
        exchange.take_sent(client)
    };
    assert_eq!(latest(), b"\x94\x01\x01\xc0\x92\x02\xc4\x0421.7");
    instrument.send_to(b"21.9", address).unwrap();
    assert_eq!(latest(), b"\x94\x01\x01\xc0\x92\x03\xc4\x0421.9");
}

#[test]
fn a_task_answers() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()
        .unwrap();
    let (mut exchange, client) = connect(tokio_answers::router(runtime.handle().clone()));
    // The last two come first: one is refused, the other aborted with the runtime.
    let frames: [&[u8]; 3] = [
        b"\x94\x00\x01\xa4wait\x91\x00",
        b"\x94\x00\x02\xa4wait\x91\xce\x7f\xff\xff\xff",
        b"\x94\x00\x03\xa4wait\x91\xcd\xea\x60",
    ];
    assert!(exchange.receive(client, &frames.concat()));
    let expected = [
        &b"\x94\x01\x01\xc0\x00"[..],
        b"\x94\x01\x02\xb4a minute is the most\xc0",
    ];
    // Some may have come at once.
    let mut sent = exchange.take_sent(client);
    while sent.len() < expected.concat().len() {
        let in_time = exchange.deliver_within(Duration::from_secs(30));
        assert!(in_time, "{sent:x?}");
        sent.extend(exchange.take_sent(client));
    }
    for reply in expected {
        assert!(
            sent.windows(reply.len()).any(|part| part == reply),
            "{}",
            sent.escape_ascii()
        );
    }
    runtime.shutdown_timeout(Duration::from_secs(30));
    exchange.deliver();
    assert_eq!(
        exchange.take_sent(client),
        b"\x94\x01\x03\xbathe handler gave no answer\xc0"
    );
}

#[test]
fn the_calculator_serves_a_real_socket() {
    let text = calculator::CONFIG.replace("4670", "0");
    let config = Config::parse(&format!("workers = 1\n{text}"), "test").unwrap();
    let running = Server::new(config)
        .inherited(Inherited::none())
        .service("calculator", |worker| {
            Rpc::new(worker, calculator::router())
        })
        .start()
        .unwrap();
    let Address::Tcp(address) = running.listeners().next().unwrap().address.clone() else {
        panic!("the configuration says TCP");
    };
    let mut client = TcpStream::connect(address).unwrap();
    client
        .write_all(
            b"\x94\x00\x01\xa3add\x92\x02\x03\x93\x02\xa3add\x92\x02\x03\x94\x00\x02\xa4ping\x90",
        )
        .unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut replies = Vec::new();
    client.read_to_end(&mut replies).unwrap();
    assert_eq!(replies, b"\x94\x01\x01\xc0\x05\x94\x01\x02\xc0\xa4pong");
    running.stop();
    running.join().unwrap();
}

fn make_writer(worker: &Worker, open: impl FnOnce() -> io::Result<File>) -> Rpc {
    writer::make(worker, &Mutex::new(Weak::new()), open).unwrap()
}

/// What is answered when this line is to be written.
fn note(exchange: &mut Exchange, client: Client, line: u8) -> Vec<u8> {
    let request = [&b"\x94\x00\x01\xa4note\x91\xa1"[..], &[line]].concat();
    exchange.receive(client, &request);
    exchange.take_sent(client)
}

const NOTED: &[u8] = b"\x94\x01\x01\xc0\xc0";

/// The file is complete when the process ends, and what the disk did not take before goes on with the successor.
#[test]
fn a_thread_that_writes_is_ended_with_its_process() {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("written");
    let _ = fs::remove_file(&file);
    let file = file.to_str().unwrap();
    let make = |worker: &Worker, path: &str| {
        make_writer(worker, || {
            File::options().append(true).create(true).open(path)
        })
    };
    let on = |path| Exchange::with_worker(move |worker| make(worker, path), Limits::default());

    let mut exchange = on(file);
    let client = exchange.connect();
    for line in [b'a', b'b'] {
        assert_eq!(note(&mut exchange, client, line), NOTED);
    }
    // A stop without a store: nobody is asked what is handed over.
    drop(exchange);
    assert_eq!(fs::read_to_string(file).unwrap(), "a\nb\n");

    let mut exchange = on("/dev/full");
    let client = exchange.connect();
    for _ in 0..writer::WAITING_MAX {
        assert_eq!(note(&mut exchange, client, b'c'), NOTED);
    }
    let refused = b"\x94\x01\x01\xb9the disk does not keep up\xc0";
    assert_eq!(note(&mut exchange, client, b'd'), refused);
    let exchange = exchange.hand_over(|worker| make(worker, file));
    // It is in the file before anybody is told who comes after this process: there may be nobody.
    let exchange = exchange.hand_over(|worker| make(worker, "/dev/full"));
    let waited = "c\n".repeat(writer::WAITING_MAX);
    assert_eq!(fs::read_to_string(file).unwrap(), format!("a\nb\n{waited}"));
    drop(exchange);
}

/// A socket that nobody reads takes the place of a disk that hangs.
#[test]
fn a_thread_that_is_stuck_holds_nothing_up() {
    let (mut stuck, peer) = UnixStream::pair().unwrap();
    stuck.set_nonblocking(true).unwrap();
    while stuck.write(&[0; 4096]).is_ok() {}
    while stuck.write(b"0").is_ok() {}
    stuck.set_nonblocking(false).unwrap();
    let stuck = File::from(OwnedFd::from(stuck));
    let make = |worker: &Worker| make_writer(worker, || Ok(stuck));
    let mut exchange = Exchange::with_worker(make, Limits::default());
    let client = exchange.connect();
    for line in [b'a', b'b'] {
        assert_eq!(note(&mut exchange, client, line), NOTED);
    }
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("written-later");
    let _ = fs::remove_file(&file);
    let mut exchange = exchange.hand_over(|worker| make_writer(worker, || File::create(&file)));
    assert_eq!(note(&mut exchange, client, b'c'), NOTED);
    drop(exchange);
    assert_eq!(fs::read_to_string(&file).unwrap(), "a\nb\nc\n");
    drop(peer);
}

/// A directory of its own, and the arguments with which the daemon reads this configuration there, its name first.
fn notes(name: &str, text: &str) -> (PathBuf, [String; 2]) {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    let config = directory.join("notes.toml");
    let text = text.replace("HERE", directory.to_str().unwrap());
    fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap().to_owned();
    (directory, ["--config".to_owned(), config])
}

#[test]
fn the_daemon_checks_its_own_section_and_says_where_it_is_wrong() {
    let socket = "[sockets.notes]\nlisten = \"127.0.0.1:0\"\n[app]\n";
    let check = |app: &str| {
        let (_, arguments) = notes("checked", &format!("{socket}{app}"));
        let words = ["check".to_owned()].into_iter().chain(arguments.clone());
        let error = daemon::run(words).err()?;
        let [_, file] = &arguments;
        let said = error.to_string().replace(file, "FILE");
        Some((daemon::exit_status(&*error), said))
    };
    assert_eq!(check("file = \"HERE/notes\""), None);
    for (app, expected) in [
        (
            "file = \"notes\"",
            "FILE:4: bad value for \"file\" in [app]: notes is no absolute path",
        ),
        (
            "\nfiel = \"/tmp/notes\"",
            "FILE:5: bad section [app]: unknown field `fiel`, expected `file`",
        ),
        (
            "file = \"/no/such/notes\"",
            "FILE: file /no/such/notes in [app] cannot be written to: No such file or directory (os error 2)",
        ),
        (
            "file = \"/proc/self/notes\"",
            "FILE: file /proc/self/notes in [app] cannot be written to: No such file or directory (os error 2)",
        ),
        (
            "file = \"/\"",
            "FILE: file / in [app] cannot be written to: Is a directory (os error 21)",
        ),
    ] {
        assert_eq!(check(app), Some((2, expected.to_owned())));
    }
    // What is in the way at the moment is no mistake of the configuration.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = socket.replace("127.0.0.1:0", &taken.local_addr().unwrap().to_string());
    let (_, arguments) = notes("failed", &format!("{socket}file = \"HERE/notes\""));
    let arguments = daemon::arguments(arguments.into_iter()).unwrap();
    let server = daemon::server(arguments).unwrap();
    let error = server.inherited(Inherited::none()).start().unwrap_err();
    assert_eq!(daemon::exit_status(&error), 1, "{error}");
    let unknown = daemon::run(["--chekc".to_owned()].into_iter()).unwrap_err();
    assert_eq!(daemon::exit_status(&*unknown), 2);
}

#[test]
fn the_daemon_serves_as_its_file_says() {
    let text =
        "workers = 1\n[sockets.notes]\nlisten = \"127.0.0.1:0\"\n[app]\nfile = \"HERE/notes\"";
    let (directory, arguments) = notes("served", text);
    let arguments = daemon::arguments(arguments.into_iter()).unwrap();
    let server = daemon::server(arguments).unwrap();
    let running = server.inherited(Inherited::none()).start().unwrap();
    let Address::Tcp(address) = running.listeners().next().unwrap().address.clone() else {
        panic!("the configuration says TCP");
    };
    let mut client = TcpStream::connect(address).unwrap();
    client
        .write_all(b"\x94\x00\x01\xa4note\x91\xa2it\x94\x00\x02\xa4note\x91\xa5rains")
        .unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut replies = Vec::new();
    client.read_to_end(&mut replies).unwrap();
    assert_eq!(replies, b"\x94\x01\x01\xc0\xc0\x94\x01\x02\xc0\xc0");
    running.stop();
    running.join().unwrap();
    assert_eq!(
        fs::read_to_string(directory.join("notes")).unwrap(),
        "it\nrains\n"
    );
}

/// A `main` that returns its error, as those of the examples do, has it printed with `Debug`.
#[test]
fn a_main_that_fails_says_why_in_words() {
    let unknown = Config::parse("worker = 1\n[limits]\ndept = 1\n", "test.toml").unwrap_err();
    let lines = [
        "test.toml:1: unknown key \"worker\"; did you mean \"workers\"?",
        "test.toml:3: unknown key \"dept\" in [limits]; did you mean \"depth\"?",
    ];
    assert_eq!(format!("{unknown:?}"), lines.join("\n"));
    let config = Config::parse("[sockets.calculater]\n", "test").unwrap();
    let table = Server::new(config)
        .inherited(Inherited::none())
        .service("calculator", |worker| {
            Rpc::new(worker, calculator::router())
        })
        .check();
    let error = table.err().unwrap();
    let said = format!("{error:?}");
    assert!(
        said.starts_with("socket \"calculater\" is answered by"),
        "{said}"
    );
    assert_eq!(said, error.to_string());
    assert_eq!(error.exit_status(), 2);
}
