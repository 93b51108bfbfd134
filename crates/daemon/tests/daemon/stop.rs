//! Stopping: what was received whole is answered, nothing is answered twice, and nobody is left waiting.

use std::io::{BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use ringhold_client::Address;
use rmpv::Value;

use crate::activation::passed_on;
use crate::common::wire::{self, Wire, connect, counter};
use crate::common::{PATIENCE, SMALL_MEMORY, until};
use crate::harness::{Daemon, Manager, request, with_both_engines};

with_both_engines! {
    sigterm_under_load_answers_what_was_received_whole,
    sigint_under_load_does_the_same,
    half_a_request_is_not_answered,
    a_client_that_reads_late_still_gets_every_reply,
    a_client_that_never_reads_does_not_hold_up_the_end,
    what_waits_in_the_backlog_is_served_by_the_next_process,
    a_stop_before_anything_happened_is_clean,
}

// Clients read as fast as the machine lets them, and the daemon is to wait for that.
const CONFIG: &str = "\
workers = 2
[handover]
drain = \"60s\"
[sockets.rpc]
listen = [\"127.0.0.1:0\", \"unix:DIR/rpc.sock\"]
";

/// A stream socket of either family.
trait Stream: Read + Write + Send + Sized + 'static {
    fn duplicate(&self) -> Self;
    fn end(&self);
}

impl Stream for TcpStream {
    fn duplicate(&self) -> Self {
        self.try_clone().unwrap()
    }
    fn end(&self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}

impl Stream for UnixStream {
    fn duplicate(&self) -> Self {
        self.try_clone().unwrap()
    }
    fn end(&self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}

/// What the request of this number carries: large enough that a full socket buffer holds thousands of requests, not
/// hundreds of thousands.
fn payload(id: u32) -> Value {
    let mut bytes = vec![id as u8; 300];
    bytes[..4].copy_from_slice(&id.to_be_bytes());
    Value::Binary(bytes)
}

fn numbered(id: u32) -> Vec<u8> {
    wire::request(id, "echo", &[payload(id)])
}

/// Pipelines requests for as long as the daemon takes them, and returns how many replies came, which must be those to
/// the first so many requests, in order, and end with a proper end of the stream. `replies` is how many came by now.
fn pipeline(stream: impl Stream, replies: &AtomicU64) -> u64 {
    let mut writer = stream.duplicate();
    let mut reader = BufReader::new(stream.duplicate());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut id = 0;
            loop {
                let batch: Vec<u8> = (id..id + 50).flat_map(numbered).collect();
                if writer.write_all(&batch).is_err() {
                    return;
                }
                id += 50;
            }
        });
        let mut count = 0_u32;
        loop {
            let mut first = [0];
            // A reset here would be an error, and could have destroyed replies.
            match reader.read_exact(&mut first) {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
                result => result.unwrap(),
            }
            assert_eq!(first, [0x94]);
            let mut next = || rmpv::decode::read_value(&mut reader).unwrap();
            let reply = [next(), next(), next(), next()];
            let expected = [1.into(), count.into(), Value::Nil, payload(count)];
            assert_eq!(reply, expected);
            count += 1;
            replies.fetch_add(1, Ordering::Relaxed);
        }
        stream.end();
        u64::from(count)
    })
}

/// Stops the daemon with this signal while connections pipeline, and compares what they received with what it says
/// it served.
fn stop_under_load(engine: &str, signal: Signal) {
    const CONNECTIONS: usize = 6;
    let daemon = Daemon::start_on(engine, &format!("{SMALL_MEMORY}{CONFIG}"));
    let tcp = daemon.tcp("rpc");
    let path = daemon.manager.path("rpc.sock");
    let replies: [AtomicU64; CONNECTIONS] = Default::default();
    let (received, ended) = std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (index, replies) in replies.iter().enumerate() {
            let path = &path;
            threads.push(scope.spawn(move || {
                if index % 2 == 0 {
                    let stream = TcpStream::connect(tcp).unwrap();
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    pipeline(stream, replies)
                } else {
                    let stream = UnixStream::connect(path).unwrap();
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    pipeline(stream, replies)
                }
            }));
        }
        until("load", || {
            let replies = replies
                .each_ref()
                .map(|count| count.load(Ordering::Relaxed));
            // Who has none may still wait in the backlog, which the end of the daemon resets.
            let has_all = replies.iter().all(|count| *count > 0);
            (has_all && replies.iter().sum::<u64>() > 10_000).then_some(())
        });
        daemon.signal(signal);
        let received: Vec<u64> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        (received, daemon.ended())
    });
    assert!(ended.status.success(), "{}:\n{}", ended.status, ended.log);
    assert!(received.iter().all(|count| *count > 0), "{received:?}");
    assert_eq!(
        ended.served(),
        (CONNECTIONS as u64, received.iter().sum()),
        "{received:?}:\n{}",
        ended.log
    );
    assert!(
        ended.log.contains(&format!("{signal}: stopping")),
        "{}",
        ended.log
    );
    // On older kernels the choice of the engine is worth a warning, and on a busy machine a call that had to wait; nothing
    // else is.
    let warnings = [
        "using the portable engine",
        "slow work is for another thread",
    ];
    let mut lines = ended.log.lines();
    assert!(
        lines.all(|line| line.starts_with("<6>") || warnings.iter().any(|it| line.contains(it))),
        "{}",
        ended.log
    );
}

fn sigterm_under_load_answers_what_was_received_whole(engine: &str) {
    for _ in 0..3 {
        stop_under_load(engine, Signal::SIGTERM);
    }
}

fn sigint_under_load_does_the_same(engine: &str) {
    for _ in 0..2 {
        stop_under_load(engine, Signal::SIGINT);
    }
}

/// The part of a frame that was received is not answered, and the rest of the connection's replies are whole.
fn half_a_request_is_not_answered(engine: &str) {
    let daemon = Daemon::start_on(engine, CONFIG);
    let mut wire = Wire::connect(&daemon.address("rpc"));
    wire.send(&[request(0, "echo", 5), request(1, "echo", 6)[..8].to_vec()].concat());
    assert_eq!(wire.reply().0, 0);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(wire.rest(), b"");
    assert_eq!(daemon.ended().served(), (1, 1));
}

/// The replies wait in the daemon when it is told to stop.
fn a_client_that_reads_late_still_gets_every_reply(engine: &str) {
    const REQUESTS: u32 = 100;
    let mut daemon = Daemon::start_on(engine, CONFIG);
    let address = daemon.address("rpc");
    let payload = vec![7; 30_000];
    let mut wire = Wire::connect(&daemon.address("rpc"));
    for id in 0..REQUESTS {
        let mut bytes = b"\x94\x00\xce".to_vec();
        bytes.extend_from_slice(&id.to_be_bytes());
        bytes.extend_from_slice(b"\xa4echo\x91\xc5");
        bytes.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        bytes.extend_from_slice(&payload);
        wire.send(&bytes);
    }
    until("all requests", || {
        (counter(&address, "rpc", "frames_in") >= u64::from(REQUESTS)).then_some(())
    });
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for("STOPPING=1");
    for id in 0..REQUESTS {
        let (reply, result) = wire.reply();
        assert_eq!(reply, u64::from(id));
        assert_eq!(result.unwrap().as_slice(), Some(&payload[..]));
    }
    assert_eq!(wire.rest(), b"");
    assert!(daemon.ended().status.success());
}

/// The service manager waits for the daemon, so a peer may not hold it up for ever.
fn a_client_that_never_reads_does_not_hold_up_the_end(engine: &str) {
    let config = CONFIG.replace("60s", "100ms");
    let daemon = Daemon::start_on(engine, &config);
    let address = daemon.address("rpc");
    let mut stream = TcpStream::connect(daemon.tcp("rpc")).unwrap();
    stream.set_nonblocking(true).unwrap();
    let mut request = b"\x94\x00\x01\xa4echo\x91\xc5\xff\xff".to_vec();
    request.resize(request.len() + 0xffff, 1);
    // Until neither side takes any more.
    let mut stuck = 0;
    while stuck < 20 {
        match stream.write(&request) {
            Ok(length) => {
                request.rotate_left(length);
                stuck = 0;
            }
            Err(_) => {
                stuck += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
    // More than once if the kernel found room for a little more meanwhile.
    until("a pause", || {
        (counter(&address, "rpc", "pauses") >= 1).then_some(())
    });
    let ended = daemon.stop();
    assert!(
        ended
            .notifications
            .iter()
            .any(|text| text.contains("STOPPING=1"))
    );
    drop(stream);
}

/// Connections that nobody has accepted stay with the service manager's socket, for the next process.
fn what_waits_in_the_backlog_is_served_by_the_next_process(engine: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = || {
        let manager = Manager::new();
        let config = manager.write(
            "ringhold.toml",
            &format!(
                "engine = \"{engine}\"\n[sockets.a]\nservice = \"rpc\"\n[sockets.b]\nservice = \"rpc\"\n"
            ),
        );
        let passed = [listener.try_clone().unwrap(), other.try_clone().unwrap()];
        let arguments = ["serve", "--inherited-only", "--config", &config];
        let mut daemon = Daemon::launch(passed_on(passed, "a:b", &arguments), manager);
        daemon.wait_for("READY=1");
        daemon
    };
    let first = serve();
    let pong: String = connect(&Address::Tcp(address)).call("ping", &()).unwrap();
    assert_eq!(pong, "pong");
    first.stop();

    // The kernel completes these; nobody is there to accept.
    let mut waiting: Vec<Wire> = (0..100).map(|_| Wire::connect(&address.into())).collect();
    for (id, wire) in waiting.iter_mut().enumerate() {
        wire.send(&request(id as u32, "echo", 1));
    }
    let second = serve();
    for (id, wire) in waiting.iter_mut().enumerate() {
        assert_eq!(wire.reply().0, id as u64);
    }
    drop(waiting);
    assert_eq!(second.stop().served(), (100, 100));
}

fn a_stop_before_anything_happened_is_clean(engine: &str) {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let daemon = Daemon::start_on(engine, CONFIG);
        daemon.signal(signal);
        let ended = daemon.ended();
        assert!(ended.status.success(), "{}", ended.log);
        assert_eq!(ended.served(), (0, 0));
    }
}
