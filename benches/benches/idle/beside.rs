//! All servers of the bench `throughput`, each with many connections that have their replies.
//!
//! Only the process's own memory is counted. What the kernel keeps for a socket, or for a ring, is not in it.

use ringhold_benches::server::{BARE, PEERS, Program, RINGHOLD, Server};

use super::{Pace, Stream, Transport, ask, connect_to, median, request, settled};

/// What is compared: every column of the table.
const CASES: [(Transport, usize, Pace); 4] = [
    (Transport::Tcp, 64, Pace::Single),
    (Transport::Tcp, 16 * 1024, Pace::Burst),
    (Transport::Unix, 64, Pace::Single),
    (Transport::Unix, 16 * 1024, Pace::Burst),
];

pub(crate) fn all() -> Vec<&'static str> {
    std::iter::once(RINGHOLD).chain(PEERS).collect()
}

/// Builds these servers.
pub(crate) fn programs(names: &[&str]) -> Vec<Program> {
    let mut programs = Vec::new();
    if names.contains(&RINGHOLD) {
        programs.push(Program::ringhold().unwrap());
    }
    let mut peers = PEERS.to_vec();
    peers.retain(|peer| names.contains(peer));
    programs.extend(Program::peers(&peers).unwrap());
    programs
}

/// Measures these servers and prints a table: bytes of memory per connection.
pub(crate) fn compare(programs: &[Program], connections: usize, rounds: usize) {
    println!(
        "\nB of resident memory per connection, of {connections}, medians over {rounds} rounds\n"
    );
    println!(
        "| server      | tcp, 64 B | tcp, 16 KiB at once | unix, 64 B | unix, 16 KiB at once |"
    );
    println!(
        "|-------------|----------:|--------------------:|-----------:|---------------------:|"
    );
    for program in programs {
        let [a, b, c, d] = CASES.map(|(transport, bytes, pace)| {
            let each = (0..rounds).map(|_| each(program, transport, bytes, pace, connections));
            median(each)
        });
        println!(
            "| {:<11} | {a:>9.0} | {b:>19.0} | {c:>10.0} | {d:>20.0} |",
            program.name
        );
    }
}

/// Bytes per connection, of a server of its own.
fn each(
    program: &Program,
    transport: Transport,
    bytes: usize,
    pace: Pace,
    connections: usize,
) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let cpu = *ringhold_core::cpus::available().unwrap().last().unwrap();
    let server = Server::start(program, dir.path(), &[cpu], None).unwrap();
    let connect = || connect_to(server.tcp, &server.unix, transport);
    let request = request(bytes);
    let reply = reply(&server, &request);

    // What it needs for any connection at all is no part of it.
    let mut few: Vec<_> = (0..128).map(|_| connect()).collect();
    for _ in 0..10 {
        exchange(&mut few, &request, &reply, Pace::Burst);
    }
    let before = settled(|| server.resident().unwrap());
    let mut many: Vec<_> = (0..connections).map(|_| connect()).collect();
    exchange(&mut many, &request, &reply, pace);
    let with = settled(|| server.resident().unwrap());
    (with as f64 - before as f64) / connections as f64
}

/// What the server is to answer.
fn reply(server: &Server, request: &[u8]) -> Vec<u8> {
    if server.name == BARE {
        return request.to_vec();
    }
    [b"\x94\x01\x07\xc0", &request[9..]].concat()
}

fn exchange(streams: &mut [Box<dyn Stream>], request: &[u8], reply: &[u8], pace: Pace) {
    let mut received = vec![0; reply.len()];
    let mut await_reply = |stream: &mut Box<dyn Stream>| {
        stream.read_exact(&mut received).unwrap();
        assert!(received == reply);
    };
    if pace == Pace::Burst {
        streams.iter_mut().for_each(|stream| ask(stream, request));
        return streams.iter_mut().for_each(await_reply);
    }
    for stream in streams {
        ask(stream, request);
        await_reply(stream);
    }
}
