//! Connections that send at length and are not answered. The ring engine keeps one poll in flight for each.

use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use ringhold_core::{Flow, Frame, Peer, Refusal, Reply, Service};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use socket2::SockRef;

use crate::bed::{Bed, Engine, connect_unix, engines, expect, expect_end, frame};

const CONFIG: &str = "
    workers = 1
    [sockets.sink]
    listen = [\"127.0.0.1:0\", \"unix:@/sink.sock\"]
";

/// The frame that is answered: with the hash of all the others so far.
const QUESTION: u8 = 0xc0;

struct Sink;

impl Service for Sink {
    type Session = DefaultHasher;

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<DefaultHasher, Refusal> {
        Ok(DefaultHasher::new())
    }

    fn frame(&mut self, seen: &mut DefaultHasher, frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        if *frame == [QUESTION] {
            reply.write(|out| out.extend_from_slice(&seen.finish().to_be_bytes()));
        } else {
            seen.write(&frame);
        }
        Flow::Continue
    }
}

fn start(engine: Engine) -> Bed {
    Bed::start(engine, CONFIG, |server| server.service("sink", |_| Sink))
}

/// A client, and what it has sent.
struct Client<S> {
    stream: S,
    sent: DefaultHasher,
}

impl<S: Read + Write> Client<S> {
    fn new(stream: S) -> Self {
        let sent = DefaultHasher::new();
        Client { stream, sent }
    }

    fn send(&mut self, sizes: impl IntoIterator<Item = usize>) {
        let frames = sizes
            .into_iter()
            .zip(0..)
            .map(|(size, seed)| frame(size, seed));
        let frames: Vec<Vec<u8>> = frames.collect();
        frames.iter().for_each(|frame| self.sent.write(frame));
        self.stream.write_all(&frames.concat()).unwrap();
    }

    fn ask(&mut self) {
        self.stream.write_all(&[QUESTION]).unwrap();
        expect(&mut self.stream, &self.sent.finish().to_be_bytes());
    }
}

fn clients(bed: &Bed) -> (Client<TcpStream>, Client<UnixStream>) {
    let unix = connect_unix(&bed.path("sink.sock"));
    (Client::new(bed.connect("sink")), Client::new(unix))
}

/// Some hundred KiB in frames that are not large.
fn burst(round: usize) -> impl Iterator<Item = usize> {
    (0..20).map(move |index| 10_000 + 1000 * (index % 7) + round)
}

#[test]
fn bursts_arrive_whole_and_in_order() {
    for engine in engines() {
        let bed = start(engine);
        let (mut tcp, mut unix) = clients(&bed);
        for round in 0..50 {
            tcp.send(burst(round));
            unix.send(burst(round));
            // Everything was received, so that both are waited for again.
            bed.until("all frames", |bed| {
                bed.total().frames_in == 2 * 20 * (round as u64 + 1)
            });
        }
        assert_eq!(
            bed.counters().pieces > 0,
            engine == Engine::Ring,
            "{engine}"
        );
        tcp.ask();
        unix.ask();
        drop((tcp, unix));
        bed.finish();
    }
}

#[test]
fn large_frames_and_questions_in_between() {
    for engine in engines() {
        let bed = start(engine);
        let (mut tcp, mut unix) = clients(&bed);
        for round in 0..12 {
            let sizes = || burst(round).chain([100, 300_000 + round, 20, 1_000_000]);
            tcp.send(sizes());
            unix.send(sizes());
            if round % 3 == 0 {
                (0..30).for_each(|_| tcp.ask());
                unix.ask();
            }
        }
        tcp.ask();
        unix.ask();
        drop((tcp, unix));
        bed.finish();
    }
}

#[test]
fn ends_are_seen_while_nothing_is_under_way() {
    for engine in engines() {
        let bed = start(engine);
        let (mut tcp, mut unix) = clients(&bed);
        let (mut reset, mut half) = clients(&bed);
        for round in 0..3 {
            tcp.send(burst(round));
            unix.send(burst(round));
            reset.send(burst(round));
            half.send(burst(round));
            let all = 4 * 20 * (round as u64 + 1);
            bed.until("all frames", |bed| bed.total().frames_in == all);
        }
        half.stream.write_all(&frame(1000, 0)[..999]).unwrap();
        tcp.stream.shutdown(Shutdown::Write).unwrap();
        half.stream.shutdown(Shutdown::Write).unwrap();
        unix.stream.shutdown(Shutdown::Write).unwrap();
        expect_end(&mut tcp.stream);
        expect_end(&mut unix.stream);
        expect_end(&mut half.stream);
        let linger = Some(std::time::Duration::ZERO);
        SockRef::from(&reset.stream).set_linger(linger).unwrap();
        drop(reset);
        bed.until("no connection", |bed| bed.total().open == 0);
        let total = bed.finish();
        assert_eq!((total.failed, total.bad_input), (1, 1), "{engine}");
    }
}

#[test]
fn an_end_right_behind_the_last_bytes_is_seen() {
    for engine in engines() {
        let bed = start(engine);
        for round in 1..=40 {
            let (mut tcp, mut unix) = clients(&bed);
            tcp.send(burst(0));
            unix.send(burst(0));
            let all = 40 * round;
            bed.until("all frames", |bed| bed.total().frames_in >= all);
            // The server is told of both at once.
            tcp.stream.write_all(&frame(1000, 0)[..999]).unwrap();
            tcp.stream.shutdown(Shutdown::Write).unwrap();
            unix.stream.write_all(&frame(1000, 0)[..999]).unwrap();
            unix.stream.shutdown(Shutdown::Write).unwrap();
            expect_end(&mut tcp.stream);
            expect_end(&mut unix.stream);
        }
        assert_eq!(bed.finish().bad_input, 80, "{engine}");
    }
}

/// The kernel gives what is before and behind urgent data, or descriptors that are passed, in two receives, although all of it
/// is there.
#[test]
fn what_is_behind_a_gap_arrives() {
    for engine in engines() {
        let bed = start(engine);
        let (mut tcp, mut unix) = clients(&bed);
        for round in 1..=20 {
            tcp.send(burst(0));
            unix.send(burst(0));
            bed.until("all frames", |bed| bed.total().frames_in == 44 * round - 4);
            let halves = [frame(1000, 1), frame(2000, 2)];
            for half in &halves {
                tcp.sent.write(half);
                unix.sent.write(half);
            }
            // The last byte is the urgent one, which is no part of the stream.
            let urgent = [&halves[0][..], &[0xc1]].concat();
            SockRef::from(&tcp.stream)
                .send_out_of_band(&urgent)
                .unwrap();
            tcp.stream.write_all(&halves[1]).unwrap();
            pass_a_descriptor(&unix.stream, &halves[0]);
            unix.stream.write_all(&halves[1]).unwrap();
            bed.until("what is behind", |bed| bed.total().frames_in == 44 * round);
        }
        tcp.ask();
        unix.ask();
        drop((tcp, unix));
        bed.finish();
    }
}

/// Sends `bytes` with a descriptor.
fn pass_a_descriptor(stream: &UnixStream, bytes: &[u8]) {
    let fds = [stream.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let slices = [IoSlice::new(bytes)];
    let sent = rustix::net::sendmsg(stream, &slices, &mut control, SendFlags::empty()).unwrap();
    assert_eq!(sent, bytes.len());
}

#[test]
fn a_stop_ends_who_is_waited_for_and_who_is_sending() {
    for engine in engines() {
        let bed = start(engine);
        let (mut tcp, mut unix) = clients(&bed);
        let mut endless = bed.connect("sink");
        tcp.send(burst(0));
        unix.send(burst(0));
        std::thread::scope(|scope| {
            let mut writer = endless.try_clone().unwrap();
            scope.spawn(move || while writer.write_all(&frame(20_000, 1)).is_ok() {});
            bed.until("traffic", |bed| bed.total().frames_in > 200);
            bed.stop();
            expect_end(&mut tcp.stream);
            expect_end(&mut unix.stream);
            // The writer may be told by a reset.
            let _ = endless.read_to_end(&mut Vec::new());
            let _ = endless.shutdown(Shutdown::Both);
        });
        bed.finish();
    }
}
