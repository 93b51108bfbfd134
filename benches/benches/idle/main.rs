//! What an idle connection costs: resident memory of the daemon with many connections that made one request each, and
//! after they have closed.
//!
//! `cargo bench -p ringhold-benches --bench idle`, and behind `--`: `--connections N`, `--rounds N`, and `--servers A,B` to
//! leave the daemon out and compare only these servers of the bench `throughput`.
//!
//! Each round has a daemon of its own. Before the count begins, its receive buffers and pools are warm and its heaps
//! trimmed, so that the difference is what the connections cost. One more connection stays open throughout, as in real
//! life. Takes some eight minutes, nearly all of it waiting, and then a few for the servers of the bench
//! `throughput`, of which ringhold is one, with less ado.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    reason = "a bench that cannot go on should say where"
)]

mod beside;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use ringhold_benches::daemon::{self, Daemon};
use ringhold_client::Client;

/// When a burst of connections is over, the daemon gives memory back at its next look, every five seconds.
const TRIMMED_WITHIN: Duration = Duration::from_secs(6);

/// What may stay when all connections have closed, in KiB.
const KEPT_KIB_TARGET: f64 = 1024.0;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Transport {
    Tcp,
    Unix,
}

/// How requests follow each other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// Each connection has its reply before the next one is made.
    Single,
    /// All connections are there before the first request, and all requests are sent before the first reply is read.
    Burst,
}

struct Case {
    transport: Transport,
    /// Size of the one request of each connection; 0 = none.
    request_bytes: usize,
    pace: Pace,
    /// Bytes of memory per connection.
    target_each: f64,
}

/// Resident memory of one round, in bytes: at first, then with the connections and without them, twice.
struct Round {
    before: u64,
    waves: [Wave; WAVES],
}

const WAVES: usize = 2;

struct Wave {
    idle: u64,
    after: u64,
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("nothing to test here; run it with cargo bench");
        return;
    }
    let option = |name: &str, default: usize| {
        let place = arguments.iter().position(|argument| argument == name);
        place.map_or(default, |place| arguments[place + 1].parse().unwrap())
    };
    let wanted = option("--connections", 10_000);
    let rounds = option("--rounds", 3);
    let room = ringhold_core::rlimit::raise().unwrap().after;
    let connections = wanted.min(usize::try_from(room.saturating_sub(100)).unwrap_or(usize::MAX));
    if connections < wanted {
        println!("the limit of descriptors allows {connections} connections only");
    }
    println!(
        "command: cargo bench -p ringhold-benches --bench idle -- --connections {connections} --rounds {rounds}"
    );
    let place = arguments
        .iter()
        .position(|argument| argument == "--servers");
    let servers = match place {
        Some(place) => arguments[place + 1].split(',').collect(),
        None => beside::all(),
    };
    // Before anything is measured.
    let programs = beside::programs(&servers);
    if place.is_none() {
        measure_daemon(connections, rounds);
    }
    beside::compare(&programs, connections, rounds);
}

fn measure_daemon(connections: usize, rounds: usize) {
    let program = daemon::build().unwrap();
    println!("resident memory of the daemon, medians over {rounds} rounds");
    println!(
        "{:<9} {:>7} {:<6} {:>10} {:>22} {:>6} {:>19} {:>6}",
        "transport",
        "request",
        "pace",
        "before/KiB",
        "B/connection 1st, 2nd",
        "target",
        "kept/KiB 1st, 2nd",
        "target"
    );
    let mut missed = 0;
    for case in cases() {
        let rounds: Vec<Round> = (0..rounds)
            .map(|_| round(&program, &case, connections))
            .collect();
        missed += usize::from(!report(&case, &rounds, connections));
    }
    println!("{missed} targets missed");
}

fn cases() -> Vec<Case> {
    use Pace::{Burst, Single};
    use Transport::{Tcp, Unix};
    let case = |transport, request_bytes, pace, target_each| Case {
        transport,
        request_bytes,
        pace,
        target_each,
    };
    vec![
        case(Tcp, 0, Single, 256.0),
        case(Tcp, 64, Single, 256.0),
        case(Tcp, 64, Burst, 256.0),
        case(Tcp, 16 * 1024, Single, 1024.0),
        case(Tcp, 16 * 1024, Burst, 1024.0),
        case(Unix, 64, Single, 256.0),
        case(Unix, 16 * 1024, Burst, 1024.0),
    ]
}

/// Prints a line; returns whether the targets were met.
fn report(case: &Case, rounds: &[Round], connections: usize) -> bool {
    let before = median(rounds.iter().map(|round| round.before as f64));
    let added = [0, 1].map(|wave| {
        let added = |round: &Round| round.waves[wave].idle as f64 - round.before as f64;
        median(rounds.iter().map(added)) / connections as f64
    });
    let kept = [0, 1].map(|wave| {
        let kept = |round: &Round| round.waves[wave].after as f64 - round.before as f64;
        median(rounds.iter().map(kept)) / 1024.0
    });
    println!(
        "{:<9} {:>7} {:<6} {:>10.0} {:>14.0} {:>7.0} {:>6} {:>+11.0} {:>+7.0} {:>+6}",
        if case.transport == Transport::Tcp {
            "tcp"
        } else {
            "unix"
        },
        case.request_bytes,
        if case.pace == Pace::Single {
            "single"
        } else {
            "burst"
        },
        before / 1024.0,
        added[0],
        added[1],
        case.target_each,
        kept[0],
        kept[1],
        KEPT_KIB_TARGET,
    );
    added.iter().all(|added| *added <= case.target_each)
        && kept.iter().all(|kept| *kept <= KEPT_KIB_TARGET)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

fn round(program: &Path, case: &Case, connections: usize) -> Round {
    let dir = tempfile::tempdir().unwrap();
    let settings = format!("[limits]\nconnections = {}", connections + 1);
    let daemon = Daemon::start(program, dir.path(), &settings).unwrap();
    let mut watcher = daemon.client().unwrap();
    warm_up(&daemon, &mut watcher);

    let before = resident(&daemon, &mut watcher, 1);
    let waves = [(); WAVES].map(|()| wave(&daemon, &mut watcher, case, connections));
    Round { before, waves }
}

fn wave(daemon: &Daemon, watcher: &mut Client, case: &Case, connections: usize) -> Wave {
    let mut held = Vec::with_capacity(connections);
    let request = request(case.request_bytes);
    for _ in 0..connections {
        let mut stream = connect(daemon, case.transport);
        if case.pace == Pace::Single {
            ask(&mut stream, &request);
            answered(&mut stream, &request);
        }
        held.push(stream);
    }
    if case.pace == Pace::Burst {
        for stream in &mut held {
            ask(stream, &request);
        }
        for stream in &mut held {
            answered(stream, &request);
        }
    }
    let idle = resident(daemon, watcher, connections as u64 + 1);
    drop(held);
    resident(daemon, watcher, 1);
    std::thread::sleep(TRIMMED_WITHIN);
    let after = resident(daemon, watcher, 1);
    Wave { idle, after }
}

/// Makes everything resident that is not the connections' own (code, receive buffers, pools), and nothing else.
fn warm_up(daemon: &Daemon, watcher: &mut Client) {
    for transport in [Transport::Tcp, Transport::Unix] {
        let mut streams: Vec<_> = (0..128).map(|_| connect(daemon, transport)).collect();
        for request_bytes in [64, 16 * 1024] {
            let request = request(request_bytes);
            for _ in 0..10 {
                for stream in &mut streams {
                    ask(stream, &request);
                }
                for stream in &mut streams {
                    answered(stream, &request);
                }
            }
        }
    }
    let burst: Vec<_> = (0..2000)
        .map(|_| connect(daemon, Transport::Unix))
        .collect();
    resident(daemon, watcher, burst.len() as u64 + 1);
    drop(burst);
    resident(daemon, watcher, 1);
    std::thread::sleep(TRIMMED_WITHIN);
}

fn connect(daemon: &Daemon, transport: Transport) -> Box<dyn Stream> {
    connect_to(daemon.tcp, &daemon.unix, transport)
}

fn connect_to(tcp: SocketAddr, unix: &Path, transport: Transport) -> Box<dyn Stream> {
    match transport {
        Transport::Tcp => {
            let stream = TcpStream::connect(tcp).unwrap();
            stream.set_nodelay(true).unwrap();
            Box::new(stream)
        }
        Transport::Unix => Box::new(UnixStream::connect(unix).unwrap()),
    }
}

/// `[0, 7, "echo", [payload]]`, so many bytes in all.
fn request(bytes: usize) -> Vec<u8> {
    let mut request = b"\x94\x00\x07\xa4echo\x91".to_vec();
    match bytes {
        0 => request.clear(),
        1..256 => {
            let payload = bytes - request.len() - 2;
            request.extend([0xc4, payload as u8]);
        }
        _ => {
            let payload = bytes - request.len() - 3;
            request.push(0xc5);
            request.extend((payload as u16).to_be_bytes());
        }
    }
    request.resize(bytes, b'.');
    request
}

fn ask(stream: &mut impl Write, request: &[u8]) {
    stream.write_all(request).unwrap();
}

/// Reads the reply to the request, which must be `[1, 7, nil, payload]`.
fn answered(stream: &mut impl Read, request: &[u8]) {
    let Some(payload) = request.get(9..) else {
        return;
    };
    let mut reply = vec![0; 4 + payload.len()];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[..4], *b"\x94\x01\x07\xc0");
    assert_eq!(reply[4..], *payload);
}

/// The daemon's resident memory when it holds so many connections and has come to rest.
fn resident(daemon: &Daemon, watcher: &mut Client, connections: u64) -> u64 {
    while open(watcher) != connections {
        std::thread::sleep(Duration::from_millis(10));
    }
    settled(|| daemon.resident().unwrap())
}

/// A figure when it has stopped changing.
fn settled(figure: impl Fn() -> u64) -> u64 {
    let mut last = 0;
    loop {
        std::thread::sleep(Duration::from_millis(100));
        let now = figure();
        if std::mem::replace(&mut last, now) == now {
            return now;
        }
    }
}

/// How many connections the daemon holds, the watcher's among them.
fn open(watcher: &mut Client) -> u64 {
    let encoded = watcher.call_raw("status", &[0x90]).unwrap();
    let status = rmpv::decode::read_value(&mut &encoded[..]).unwrap();
    status["names"]["rpc"]["open"].as_u64().unwrap()
}
