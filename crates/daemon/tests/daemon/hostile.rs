//! Bad input costs the connection that sent it, is counted, and costs nobody else anything.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use ringhold_client::Address;
use rmpv::Value;
use socket2::SockRef;

use crate::common::wire::{Wire, connect, counter};
use crate::common::{PATIENCE, until};
use crate::harness::{Daemon, await_counter, await_open, request, with_both_engines};

mod rows;

use self::rows::{Fate, rows};

with_both_engines! {
    bad_input_costs_its_connection_and_is_counted,
    bad_input_is_found_wherever_the_segments_end,
    a_request_may_be_cut_anywhere,
    the_ends_that_clients_make_are_told_apart,
    clients_that_send_and_go_at_once_leave_nothing_behind,
    a_client_that_does_not_read_is_paused_and_then_gets_everything,
    limits_of_time_cost_the_connection,
}

const CONFIG: &str = "\
workers = 2
[limits]
frame_bytes = \"1MiB\"
[sockets.rpc]
listen = [\"127.0.0.1:0\"]
";

/// Sends, and reads all that the daemon answers until it ends the connection, which it is asked for only where it
/// would wait for more.
fn suffer(address: SocketAddr, bytes: &[u8], fate: Fate) -> Vec<Value> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    // The daemon may have ended it before everything is sent.
    let sent = stream.write_all(bytes);
    if !matches!(fate, Fate::Ended(_)) {
        sent.unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    }
    let mut answer = Vec::new();
    let mut buffer = [0; 65536];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&buffer[..length]),
            // Nothing follows that it could destroy, as the count of the answers shows.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{error}"),
        }
    }
    let mut answer = &answer[..];
    let mut replies = Vec::new();
    while !answer.is_empty() {
        replies.push(rmpv::decode::read_value(&mut answer).unwrap());
    }
    replies
}

/// Connections that keep asking and count the right answers.
struct Healthy {
    stop: Arc<AtomicBool>,
    answers: Vec<Arc<AtomicU64>>,
    threads: Vec<JoinHandle<()>>,
}

impl Healthy {
    fn start(address: SocketAddr, count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answers: Vec<Arc<AtomicU64>> = (0..count).map(|_| Arc::default()).collect();
        let threads = answers.iter().map(|count| {
            let (stop, count) = (stop.clone(), count.clone());
            let mut client = connect(&Address::Tcp(address));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let number = count.load(Ordering::Relaxed);
                    let answer: u64 = client.call("echo", &(number,)).unwrap();
                    assert_eq!(answer, number);
                    count.store(number + 1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_micros(200));
                }
            })
        });
        let threads = threads.collect();
        Healthy {
            stop,
            answers,
            threads,
        }
    }

    /// Every one of them gets more right answers.
    fn go_on(&self, after: &str) {
        for count in &self.answers {
            let before = count.load(Ordering::Relaxed);
            until(&format!("right answers for others after {after}"), || {
                (count.load(Ordering::Relaxed) >= before + 10).then_some(())
            });
        }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let counts = self.answers.iter();
        counts.map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

fn bad_input_costs_its_connection_and_is_counted(engine: &str) {
    // What is not logged as a warning, because there are too many of them, is logged for those who debug.
    let config = format!("engine = \"{engine}\"\n{CONFIG}");
    let daemon = Daemon::start_with(&config, |command| {
        command.env("RINGHOLD_LOG", "debug");
    });
    let (address, tcp) = (daemon.address("rpc"), daemon.tcp("rpc"));
    // One on each worker.
    let healthy = Healthy::start(tcp, 2);
    let mut bad = 0;
    let mut answered = 0;
    for (what, bytes, fate) in rows() {
        let replies = suffer(tcp, &bytes, fate);
        let (count, is_bad) = match fate {
            Fate::Ended(count) => (count, 1),
            Fate::Waits => (0, 1),
            Fate::Answered(count) => (count, 0),
        };
        assert_eq!(replies.len(), count, "{what}: {replies:?}");
        answered += count as u64;
        bad += is_bad;
        healthy.go_on(what);
    }
    await_counter(&address, "rpc", "bad_input", bad);
    for name in ["panics", "cut", "timed_out"] {
        assert_eq!(counter(&address, "rpc", name), 0, "{name}");
    }
    let right = healthy.stop();
    // Every end that was not the client's own wish is in the log, with its reason.
    let ended = daemon.stop();
    let lines = ended.log.lines();
    let closes = lines.filter(|line| line.contains(" closes: "));
    let (warnings, held): (Vec<&str>, Vec<&str>) = closes.partition(|line| line.starts_with("<4>"));
    assert_eq!((warnings.len() + held.len()) as u64, bad, "{}", ended.log);
    assert!(!warnings.is_empty());
    for reason in [
        "a frame began with byte 0x47",
        "in the middle of a frame",
        "this is not MessagePack-RPC",
    ] {
        assert!(ended.log.contains(reason), "{reason}:\n{}", ended.log);
    }
    assert!(ended.served().1 >= right + answered);
}

/// The same verdict however the bytes arrive.
fn bad_input_is_found_wherever_the_segments_end(engine: &str) {
    let daemon = Daemon::start_on(engine, CONFIG);
    let (address, tcp) = (daemon.address("rpc"), daemon.tcp("rpc"));
    let mut bad = 0;
    for (what, bytes, fate) in rows() {
        let Fate::Ended(count) = fate else { continue };
        if bytes.len() > 100 {
            continue;
        }
        let mut wire = Wire::connect(&tcp.into());
        for byte in bytes {
            if wire.socket.write_all(&[byte]).is_err() {
                break;
            }
            std::thread::yield_now();
        }
        for _ in 0..count {
            wire.value();
        }
        let mut end = [0];
        match wire.socket.read(&mut end) {
            Ok(length) => assert_eq!(length, 0, "{what}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{what}"),
        }
        bad += 1;
    }
    await_counter(&address, "rpc", "bad_input", bad);
}

fn a_request_may_be_cut_anywhere(engine: &str) {
    let daemon = Daemon::start_on(engine, CONFIG);
    let mut wire = Wire::connect(&daemon.address("rpc"));
    let mut id = 0;
    let check = |wire: &mut Wire, ids: std::ops::Range<u32>| {
        for id in ids {
            assert_eq!(wire.reply(), (u64::from(id), Ok(id.into())));
        }
    };
    let length = request(0, "echo", 0).len();
    for cut in 1..length {
        let bytes = request(id, "echo", id.into());
        wire.send(&bytes[..cut]);
        std::thread::sleep(Duration::from_millis(1));
        wire.send(&bytes[cut..]);
        check(&mut wire, id..id + 1);
        id += 1;
    }
    // Many in one segment, and a segment that ends in a request.
    let many: Vec<u8> = (id..id + 1000)
        .flat_map(|id| request(id, "echo", id.into()))
        .collect();
    let (head, tail) = many.split_at(many.len() - 3);
    wire.send(head);
    check(&mut wire, id..id + 999);
    wire.send(tail);
    check(&mut wire, id + 999..id + 1000);
}

fn the_ends_that_clients_make_are_told_apart(engine: &str) {
    let daemon = Daemon::start_on(engine, CONFIG);
    let (address, tcp) = (daemon.address("rpc"), daemon.tcp("rpc"));
    let healthy = Healthy::start(tcp, 2);

    for _ in 0..100 {
        drop(TcpStream::connect(tcp).unwrap());
    }
    healthy.go_on("empty connections");

    // The answers to what came before a half-close are still given, in order.
    let mut half = Wire::connect(&tcp.into());
    let many: Vec<u8> = (0..500)
        .flat_map(|id| request(id, "echo", id.into()))
        .collect();
    half.send(&many);
    half.finish_sending();
    for id in 0..500 {
        assert_eq!(half.reply().0, id);
    }
    assert_eq!(half.rest(), b"");
    healthy.go_on("half-closes");

    await_open(&address, "rpc", 3);
    assert_eq!(counter(&address, "rpc", "failed"), 0);
    for bytes in [&b""[..], b"\x94", &request(0, "echo", 1)] {
        for _ in 0..10 {
            let mut stream = TcpStream::connect(tcp).unwrap();
            stream.write_all(bytes).unwrap();
            SockRef::from(&stream)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
        }
    }
    healthy.go_on("resets");
    await_open(&address, "rpc", 3);
    // A reset may overtake the accept, and then there is nothing to fail.
    let failed = counter(&address, "rpc", "failed");
    assert!((1..=30).contains(&failed), "{failed}");
    assert_eq!(counter(&address, "rpc", "bad_input"), 0);
    assert!(healthy.stop() > 0);
    daemon.stop();
}

/// The end of a connection, or its reset, may come together with the last bytes, and the kernel then wakes nobody up
/// for it.
fn clients_that_send_and_go_at_once_leave_nothing_behind(engine: &str) {
    let daemon = Daemon::start_on(
        engine,
        "workers = 2\n[limits]\nframe_timeout = \"0s\"\n\
         [sockets.rpc]\nlisten = [\"127.0.0.1:0\", \"unix:DIR/rpc.sock\"]\n",
    );
    let (address, tcp) = (daemon.address("rpc"), daemon.tcp("rpc"));
    let path = daemon.manager.path("rpc.sock");
    // Part of a frame, and a notification: nothing is sent to these clients, so no send finds out.
    for bytes in [&b"\x94\x00"[..], b"\x93\x02\xa4echo\x90"] {
        let mut kept = Vec::new();
        for _ in 0..100 {
            let mut reset = TcpStream::connect(tcp).unwrap();
            SockRef::from(&reset)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
            reset.write_all(bytes).unwrap();
            drop(reset);
            TcpStream::connect(tcp).unwrap().write_all(bytes).unwrap();
            UnixStream::connect(&path)
                .unwrap()
                .write_all(bytes)
                .unwrap();
            let mut half = UnixStream::connect(&path).unwrap();
            half.write_all(bytes).unwrap();
            half.shutdown(Shutdown::Write).unwrap();
            kept.push(half);
        }
        for half in &mut kept {
            half.set_read_timeout(Some(PATIENCE)).unwrap();
            assert_eq!(half.read(&mut [0]).unwrap(), 0);
        }
        await_open(&address, "rpc", 1);
    }
    assert_eq!(counter(&address, "rpc", "panics"), 0);
    daemon.stop();
}

/// A client that asks and does not read is not read from either, and the memory for it is bounded.
fn a_client_that_does_not_read_is_paused_and_then_gets_everything(engine: &str) {
    let daemon = Daemon::start_on(
        engine,
        "workers = 1\n[limits]\noutbox_bytes = \"64KiB\"\n[sockets.rpc]\nlisten = [\"127.0.0.1:0\"]\n",
    );
    let (address, tcp) = (daemon.address("rpc"), daemon.tcp("rpc"));
    let healthy = Healthy::start(tcp, 1);
    const REQUESTS: u32 = 400;
    let payload = vec![0x5a; 100_000];
    let request = |id: u32| {
        let mut bytes = b"\x94\x00\xce".to_vec();
        bytes.extend_from_slice(&id.to_be_bytes());
        bytes.extend_from_slice(b"\xa4echo\x91\xc6");
        bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        bytes.extend_from_slice(&payload);
        bytes
    };
    let mut wire = Wire::connect(&tcp.into());
    let mut writer = wire.socket.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for id in 0..REQUESTS {
                writer.write_all(&request(id)).unwrap();
            }
        });
        until("a pause", || {
            (counter(&address, "rpc", "pauses") > 0).then_some(())
        });
        healthy.go_on("a client that does not read");
        for id in 0..REQUESTS {
            let (reply, result) = wire.reply();
            assert_eq!(reply, u64::from(id));
            assert!(result.unwrap().as_slice() == Some(&payload));
        }
    });
    healthy.stop();
    daemon.stop();
}

fn limits_of_time_cost_the_connection(engine: &str) {
    // An idle end is of interest to few.
    for (limit, bytes, priority) in [
        ("frame_timeout", &b"\x94\x00"[..], "<4>"),
        ("idle_timeout", b"", "<7>"),
    ] {
        let config = format!(
            "engine = \"{engine}\"\n[limits]\n{limit} = \"50ms\"\n[sockets.rpc]\nlisten = [\"127.0.0.1:0\"]\n"
        );
        let daemon = Daemon::start_with(&config, |command| {
            command.args(["--log", "debug"]);
        });
        let mut wire = Wire::connect(&daemon.address("rpc"));
        wire.send(bytes);
        assert_eq!(wire.rest(), b"");
        let line = daemon.logged(&[limit]);
        assert!(
            line.starts_with(priority) && line.contains("socket=rpc"),
            "{line}"
        );
    }
}
