//! The bound on what all connections hold together, and on the buffers that they share.

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use ringhold_core::Flow;
use socket2::SockRef;

use crate::bed::{Bed, Engine};
use crate::common::client;
use crate::common::service::answering;
use crate::frames::frame;
use crate::pushes::{Read, Readers};
use crate::services::{Echo, Sink, gated};

pub(crate) fn whoever_announces_much_and_sends_nothing_costs_nobody_else_a_connection(
    engine: Engine,
) {
    let config = "
        workers = 1
        [limits]
        frame_bytes = \"2MiB\"
        memory = \"2MiB\"
        [sockets.echo]
        listen = [\"127.0.0.1:0\"]";
    let bed = Bed::start(engine, config, |server| server.service("echo", |_| Echo));
    let whole = frame(1_500_000, 1);
    let (sent, rest) = whole.split_at(1_200_000);
    let mut honest = bed.connect("echo");
    honest.write_all(sent).unwrap();
    bed.until_received(sent.len() as u64);
    // If what they announce counted, 50 first buffers of theirs would be too much.
    let header = &frame(1_000_000, 2)[..5];
    let silent: Vec<TcpStream> = (0..50)
        .map(|_| {
            let mut client = bed.connect("echo");
            client.write_all(header).unwrap();
            client
        })
        .collect();
    bed.until_received((sent.len() + silent.len() * header.len()) as u64);
    client::exchange(&honest, rest, &whole);
    assert_eq!(bed.total().cut, 0);
    assert_eq!(bed.total().open, 51);
    drop((honest, silent));
    bed.finish();
}

/// However little it is: nobody tells of it later.
pub(crate) fn a_worker_that_sleeps_has_told_what_it_holds(engine: Engine) {
    let config = "
        workers = 2
        [sockets.echo]
        listen = [\"127.0.0.1:0\"]";
    let bed = Bed::start(engine, config, |server| server.service("echo", |_| Echo));
    let whole = frame(2000, 1);
    let (sent, rest) = whole.split_at(1000);
    let mut clients = [bed.connect("echo"), bed.connect("echo")];
    for client in &mut clients {
        client.write_all(sent).unwrap();
    }
    bed.until("both parts are known of", |bed| {
        bed.memory_held() >= 2 * sent.len() as u64
    });
    for client in &clients {
        client::exchange(client, rest, &whole);
    }
    bed.until("memory back", |bed| bed.memory_held() == 0);
    drop(clients);
    bed.finish();
}

/// Nothing of an answer is sent for which there is no room, or whether its connection is cut would depend on how much the kernel takes
/// at once.
pub(crate) fn an_answer_that_memory_has_no_room_for_is_not_begun(engine: Engine) {
    const ANSWER: usize = 2 << 20;
    let config = "
        workers = 1
        [limits]
        frame_bytes = \"64KiB\"
        memory = \"1MiB\"
        [sockets.much]
        listen = [\"unix:@/much\"]";
    let bed = Bed::start(engine, config, |server| {
        server.service("much", |_| {
            answering(|_, reply| {
                reply.write(|out| out.extend_from_slice(&frame(ANSWER, 1)));
                Flow::Continue
            })
        })
    });
    let mut client = bed.connect_unix("much");
    client.write_all(&[1]).unwrap();
    client::expect_end(&mut client);
    assert_eq!((bed.total().cut, bed.total().bytes_out), (1, 0));
    drop(client);
    bed.finish();
}

/// However much it sends that its service has still to get.
pub(crate) fn who_sends_tiny_frames_holds_no_more_than_one_receive(engine: Engine) {
    const TINY: usize = 1 << 20;
    // 192 KiB are received at once, and they are given in a hundred turns.
    let config = "
        workers = 1
        [limits]
        frame_bytes = \"128KiB\"
        memory = \"256KiB\"
        [sockets.sink]
        listen = [\"unix:@/sink\"]";
    let sink = Sink::default();
    let theirs = sink.clone();
    let bed = Bed::start(engine, config, |server| {
        server.service("sink", move |_| theirs.clone())
    });
    let mut client = bed.connect_unix("sink");
    SockRef::from(&client)
        .set_send_buffer_size(1 << 20)
        .unwrap();
    // From now on the ring engine receives as much at once.
    client.write_all(&frame(100_000, 1)).unwrap();
    bed.until_received(100_000);
    client.write_all(&vec![1; TINY]).unwrap();
    bed.until("all are given", |bed| {
        bed.total().open == 0 || sink.0.load(Ordering::Relaxed) == 1 + TINY as u64
    });
    assert_eq!((bed.total().cut, bed.total().open), (0, 1));
    drop(client);
    bed.finish();
}

pub(crate) fn buffers_take_no_memory_before_they_are_used(engine: Engine) {
    // 66 MiB a worker, in all.
    let config = "
        workers = 2
        [ring]
        buffers = 1024
        buffer_bytes = \"64KiB\"
        [sockets.echo]
        listen = [\"127.0.0.1:0\"]";
    let before = resident();
    let bed = Bed::start(engine, config, |server| server.service("echo", |_| Echo));
    let request = frame(100, 1);
    client::exchange(&bed.connect("echo"), &request, &request);
    let taken = resident() - before;
    // The program itself comes into memory as it is used.
    assert!(taken < 50 << 20, "{taken} bytes");
    bed.finish();
}

pub(crate) fn whoever_is_being_ended_in_a_large_frame_holds_nothing_of_it(engine: Engine) {
    const AT_ONCE: usize = 3;
    const ROUNDS: usize = 6;
    // What they are answered waits for them for as long as the test takes.
    let config = "
        workers = 1
        [limits]
        memory = \"64MiB\"
        frame_timeout = \"1s\"
        write_timeout = \"0s\"
        [sockets.echo]
        listen = [\"unix:@/echo\"]";
    let bed = Bed::start(engine, config, |server| server.service("echo", |_| Echo));
    let answered = frame(450_000, 1);
    let large = frame(16 << 20, 2);
    let part = &large[..15 << 20];
    let before = resident();
    let mut clients: Vec<UnixStream> = Vec::new();
    for round in 1..=ROUNDS {
        let fresh = (0..AT_ONCE).map(|_| {
            let mut client = bed.connect_unix("echo");
            client.write_all(&answered).unwrap();
            client.write_all(part).unwrap();
            client
        });
        clients.extend(fresh);
        bed.until("they are ended", |bed| {
            bed.total().timed_out == (round * AT_ONCE) as u64
        });
    }
    // All of it would be 270 MiB. What an allocator keeps is not much more than was in use at a time.
    bed.until("memory is free", |_| resident() < before + (128 << 20));
    let total = bed.total();
    assert_eq!((total.open, total.cut), (clients.len() as u64, 0));
    for client in &mut clients {
        client::expect(client, &answered);
        client::expect_end(client);
    }
    drop(clients);
    bed.until_open(0);
    bed.finish();
}

/// How much memory this process has, in bytes.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = pages.split(' ').nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size()
}

/// The most memory that this process has had at once, in bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = peak.unwrap().trim().trim_end_matches(" kB");
    kilobytes.parse::<usize>().unwrap() * 1024
}

/// Whoever is ready at the same time to be received from or sent to takes buffers as they come back, not all at once.
pub(crate) fn a_crowd_shares_the_buffers(engine: Engine) {
    const CLIENTS: usize = 1000;
    /// All receive buffers have 4 MiB; one for each of a thousand would have 64.
    const ROOM: usize = 24 << 20;
    let config = "
        workers = 1
        [sockets.read]
        listen = [\"unix:@/read\"]";
    let readers = Readers::default();
    let theirs = readers.clone();
    let (bed, gate) = gated(engine, config, |server| {
        server.service("read", move |_| Read(theirs.clone()))
    });
    let mut clients: Vec<UnixStream> = (0..CLIENTS).map(|_| bed.connect_unix("read")).collect();
    bed.until_open_on("read", CLIENTS as u64);
    let readers = std::mem::take(&mut *readers.lock().unwrap());
    let before = peak();
    for round in 1..=2 {
        gate.hold(&bed, 1, || {
            for client in &mut clients {
                client.write_all(&[1]).unwrap();
            }
        });
        bed.until("everybody is heard", |bed| {
            bed.name("read").bytes_in == (round * CLIENTS) as u64
        });
        let message = Bytes::from(frame(60_000, round as u64));
        gate.hold(&bed, 1, || {
            for reader in &readers {
                reader.push_shared(&message).unwrap();
            }
        });
        for client in &mut clients {
            client::expect(client, &message);
        }
    }
    let more = peak() - before;
    assert!(more < ROOM, "{more} bytes more for {CLIENTS} clients");
    assert_eq!(bed.total().open, CLIENTS as u64);
    drop((clients, readers));
    bed.finish();
}
