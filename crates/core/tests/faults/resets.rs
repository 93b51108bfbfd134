//! Ends that leave nothing in the kernel, and those that must.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use ringhold_core::{Ended, Flow, Frame, Handle, Peer, Refusal, Reply, Service};

use crate::bed::{Bed, Engine};
use crate::common::client;

/// What of the connections the test can get at.
#[derive(Clone, Default)]
struct Poured {
    handles: Arc<Mutex<Vec<Handle>>>,
    /// Why they ended.
    ends: Arc<Mutex<Vec<String>>>,
}

impl Poured {
    fn ends(&self) -> Vec<String> {
        self.ends.lock().unwrap().clone()
    }
}

/// What is pushed at once. Every kernel takes so much of what nobody reads, and none 28 times as much.
const PIECE: usize = 256 * 1024;

/// Pushes as many pieces as the frame says to whoever asks, and ends the connection behind them if that is a negative number.
struct Pour(Poured);

impl Service for Pour {
    type Session = ();

    fn connected(&mut self, peer: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        self.0.handles.lock().unwrap().push(peer.handle());
        Ok(())
    }

    fn frame(&mut self, _: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        let number = frame[0] as i8;
        let handle = reply.handle();
        for _ in 0..number.unsigned_abs() {
            // It may be one too many.
            let _ = handle.push(vec![1; PIECE]);
        }
        match number {
            ..0 => Flow::close("enough"),
            _ => Flow::Continue,
        }
    }

    fn disconnected(&mut self, _: (), ended: &Ended<'_>) {
        self.0.ends.lock().unwrap().push(ended.why().to_string());
    }
}

fn start(engine: Engine, limits: &str) -> (Bed, Poured) {
    let config = format!(
        "workers = 1
        [limits]
        {limits}
        [sockets.pour]
        listen = [\"127.0.0.1:0\", \"unix:@/pour\"]"
    );
    let poured = Poured::default();
    let theirs = poured.clone();
    let bed = Bed::start(engine, &config, |server| {
        server.service("pour", move |_| Pour(theirs.clone()))
    });
    (bed, poured)
}

/// How many sockets of this process's side the kernel has for the connection, in whatever state.
fn kernel_has(bed: &Bed, client: &TcpStream) -> usize {
    let port = |address: &str| u16::from_str_radix(address.split(':').nth(1)?, 16).ok();
    let pair = [bed.address("pour"), client.local_addr().unwrap()].map(|it| Some(it.port()));
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let lines = table.lines().map(|line| line.split_whitespace().collect());
    lines
        .filter(|line: &Vec<&str>| [port(line[1]), port(line[2])] == pair)
        .count()
}

/// Asks for so many pieces, of which no byte is read before the connection is gone.
fn ask(bed: &Bed, pieces: i8) -> TcpStream {
    let mut client = client::connect_narrow(bed.address("pour"));
    bed.until_open(1);
    assert_eq!(kernel_has(bed, &client), 1);
    client.write_all(&pieces.to_ne_bytes()).unwrap();
    bed.until_open(0);
    client
}

/// It was reset, before it had got all of this.
#[track_caller]
fn assert_reset(bed: &Bed, mut client: TcpStream, pieces: usize) {
    assert_eq!(kernel_has(bed, &client), 0);
    let mut rest = Vec::new();
    let end = client.read_to_end(&mut rest).unwrap_err();
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
    assert!(rest.len() < pieces * PIECE);
}

pub(crate) fn who_takes_nothing_leaves_nothing_in_the_kernel(engine: Engine) {
    let (bed, poured) = start(engine, "write_timeout = \"1s\"");
    let client = ask(&bed, 28);
    assert_reset(&bed, client, 28);
    let why = poured.ends().concat();
    assert!(why.contains("took nothing for write_timeout"), "{why}");
    // Over a unix socket it has what it was sent, and then the end.
    let mut client = bed.connect_unix("pour");
    client.write_all(&[28]).unwrap();
    bed.until("it is cut", |bed| bed.total().timed_out == 2);
    let rest = client::rest(&mut client);
    assert!(rest.len() < 28 * PIECE);
    bed.finish();
}

pub(crate) fn who_is_pushed_too_much_leaves_nothing_in_the_kernel(engine: Engine) {
    let (bed, poured) = start(engine, "outbox_bytes = \"6MiB\"");
    let client = ask(&bed, 48);
    assert_reset(&bed, client, 48);
    let why = poured.ends().concat();
    assert!(why.contains("than outbox_bytes allows"), "{why}");
    assert_eq!(bed.total().cut, 1);
    bed.finish();
}

pub(crate) fn who_holds_too_much_leaves_nothing_in_the_kernel(engine: Engine) {
    let (bed, poured) = start(engine, "memory = \"16MiB\"\noutbox_bytes = \"64MiB\"");
    let client = ask(&bed, 100);
    assert_reset(&bed, client, 100);
    let why = poured.ends().concat();
    assert!(why.contains("limits.memory was exceeded"), "{why}");
    assert_eq!(bed.total().cut, 1);
    bed.finish();
}

/// Nothing waits here by then, and what is lost never has.
pub(crate) fn who_is_pushed_too_much_at_once_is_reset_too(engine: Engine) {
    let (bed, poured) = start(engine, "outbox_bytes = \"200KiB\"");
    let client = ask(&bed, 1);
    assert_reset(&bed, client, 1);
    let why = poured.ends().concat();
    assert!(why.contains("than outbox_bytes allows"), "{why}");
    bed.finish();
}

/// What exceeds the memory is its own frame, and all that it was sent is the kernel's.
pub(crate) fn who_holds_too_much_of_a_frame_leaves_nothing_in_the_kernel(engine: Engine) {
    let (bed, _) = start(engine, "memory = \"16MiB\"");
    let mut client = client::connect_narrow(bed.address("pour"));
    client.write_all(&[1]).unwrap();
    bed.until("the kernel has all", |bed| {
        bed.total().bytes_out == PIECE as u64
    });
    let mut other = bed.connect("pour");
    // They stay below what a frame may have, and both together above what all may hold.
    for (client, bytes) in [(&mut client, 12 << 20), (&mut other, 6 << 20)] {
        client.write_all(&[0xc6, 0, 0xf0, 0, 0]).unwrap();
        client.write_all(&vec![0; bytes]).unwrap();
    }
    bed.until_open(1);
    assert_eq!(bed.total().cut, 1);
    assert_reset(&bed, client, 1);
    drop(other);
    bed.finish();
}

pub(crate) fn who_is_ended_and_takes_nothing_leaves_nothing_in_the_kernel(engine: Engine) {
    let (bed, poured) = start(engine, "write_timeout = \"1s\"");
    let client = ask(&bed, -28);
    assert_reset(&bed, client, 28);
    assert_eq!(poured.ends(), ["the service ended the connection: enough"]);
    assert_eq!(bed.total().timed_out, 1);
    bed.finish();
}

/// While it is open, while it is being closed, and when all is in the kernel, where it waits.
pub(crate) fn who_is_cut_leaves_nothing_in_the_kernel(engine: Engine) {
    let (bed, poured) = start(engine, "");
    let cut = |number: usize, pieces: i8| {
        let mut client = client::connect_narrow(bed.address("pour"));
        client.write_all(&pieces.to_ne_bytes()).unwrap();
        bed.until("the frame", |bed| bed.total().frames_in > number as u64);
        assert_eq!(kernel_has(&bed, &client), 1);
        let handle = poured.handles.lock().unwrap()[number].clone();
        handle.cut("too slow").unwrap();
        bed.until_open(0);
        assert_reset(&bed, client, usize::from(pieces.unsigned_abs()));
    };
    cut(0, 28);
    cut(1, -28);
    cut(2, 1);
    let was_cut = "the service cut the connection: too slow";
    let ended = "the service ended the connection: enough";
    assert_eq!(poured.ends(), [was_cut, ended, was_cut]);
    let mut client = bed.connect_unix("pour");
    client.write_all(&[28]).unwrap();
    bed.until("the frame", |bed| bed.total().frames_in == 4);
    let handle = poured.handles.lock().unwrap()[3].clone();
    handle.cut("too slow").unwrap();
    let rest = client::rest(&mut client);
    assert!(rest.len() < 28 * PIECE);
    bed.until_open(0);
    let totals = bed.total();
    assert_eq!((totals.cut, totals.ended_by_service), (4, 1));
    bed.finish();
}

/// It was all written: whoever reads it late has it all.
pub(crate) fn what_the_kernel_has_at_an_end_is_delivered(engine: Engine) {
    let (bed, _) = start(engine, "write_timeout = \"1s\"");
    let mut client = ask(&bed, -1);
    let rest = client::rest(&mut client);
    assert!(rest == vec![1; PIECE]);
    bed.finish();
}

/// Nobody has waited for it for long.
pub(crate) fn what_the_kernel_has_at_a_stop_is_delivered(engine: Engine) {
    let (bed, poured) = start(engine, "");
    let mut client = client::connect_narrow(bed.address("pour"));
    bed.until_open(1);
    client.write_all(&[28]).unwrap();
    bed.until("the push", |bed| bed.total().frames_in == 1);
    bed.finish();
    let rest = client::rest(&mut client);
    assert!(rest.len() < 28 * PIECE);
    assert!(rest.iter().all(|byte| *byte == 1));
    let why = poured.ends().concat();
    assert!(why.contains("waited no longer for the peer"), "{why}");
}
