//! What reaches a connection from elsewhere, and what a service does to its own.

use std::io::Write;
use std::net::TcpStream;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use ringhold_core::{
    Flow, Frame, Handle, Peer, PushError, Refusal, Reply, Responder, Service, Ticket,
};

use crate::bed::{Bed, Engine, assert_no_kernel_workers};
use crate::common::client;
use crate::common::random::Random;
use crate::common::service::answering;
use crate::frames::frame;
use crate::services::Echo;

/// The readers that there are, all of them reachable from every worker.
pub(crate) type Readers = Arc<Mutex<Vec<Handle>>>;

/// Enters itself.
pub(crate) struct Read(pub(crate) Readers);

impl Service for Read {
    type Session = ();

    fn connected(&mut self, peer: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        self.0.lock().unwrap().push(peer.handle());
        Ok(())
    }

    fn frame(&mut self, _: &mut (), _: Frame<'_>, _: &mut Reply<'_>) -> Flow {
        Flow::Continue
    }
}

/// Who leaves something out for a reader that is behind has to learn that it is not any more, whatever sends it.
pub(crate) fn who_has_read_everything_is_not_behind(engine: Engine) {
    let (bed, readers) = start(engine, "");
    let mut client = bed.connect("read");
    bed.until_open(1);
    let handle = readers.lock().unwrap()[0].clone();
    for size in [100, 17_000, 65_536, 100_000] {
        handle.push(vec![7; size]).unwrap();
        client::expect(&mut client, &vec![7; size]);
        bed.until("all has been sent", |_| handle.unsent_bytes() == 0);
    }
    drop(client);
    bed.finish();
}

/// Passes every frame on to all readers, and confirms it with a byte.
fn publish_to(readers: Readers) -> impl Service {
    answering(move |frame, reply| {
        let bytes: Bytes = frame.to_bytes();
        let mut readers = readers.lock().unwrap();
        readers.retain(|reader| match reader.push(bytes.clone()) {
            Ok(()) => true,
            Err(PushError::Gone | PushError::Overflow) => false,
            Err(other) => panic!("{other}"),
        });
        reply.write(|out| out.push(1));
        Flow::Continue
    })
}

fn start(engine: Engine, limits: &str) -> (Bed, Readers) {
    let config = format!(
        "workers = 2
        [limits]
        {limits}
        [sockets.read]
        listen = [\"127.0.0.1:0\"]
        [sockets.publish]
        listen = [\"127.0.0.1:0\"]"
    );
    let readers = Readers::default();
    let (a, b) = (readers.clone(), readers.clone());
    let bed = Bed::start(engine, &config, |server| {
        server
            .service("read", move |_| Read(a.clone()))
            .service("publish", move |_| publish_to(b.clone()))
    });
    (bed, readers)
}

/// Small ones, which are copied, and large ones, which are shared.
fn messages(count: u64) -> Vec<Vec<u8>> {
    let mut random = Random::new(1);
    (0..count)
        .map(|i| {
            let size = match random.below(10) {
                0 => 513 + random.below(3000),
                _ => 1 + random.below(100),
            };
            frame(size, i)
        })
        .collect()
}

/// Publishes the messages, each after the one before was passed on.
fn publish(bed: &Bed, messages: &[Vec<u8>]) {
    let client = bed.connect("publish");
    client::exchange(&client, &messages.concat(), &vec![1; messages.len()]);
}

pub(crate) fn every_reader_gets_every_message_in_order(engine: Engine) {
    let (bed, readers) = start(engine, "");
    let mut clients: Vec<TcpStream> = (0..200).map(|_| bed.connect("read")).collect();
    bed.until_open(200);
    let messages = messages(1000);
    publish(&bed, &messages);
    let expected = messages.concat();
    for client in &mut clients {
        client::expect(client, &expected);
    }
    assert_no_kernel_workers();
    readers.lock().unwrap().clear();
    drop(clients);
    bed.finish();
}

pub(crate) fn readers_may_leave_in_the_middle(engine: Engine) {
    let (bed, readers) = start(engine, "");
    let clients: Vec<TcpStream> = (0..200).map(|_| bed.connect("read")).collect();
    bed.until_open(200);
    let all = readers.lock().unwrap().clone();
    let messages = messages(300);
    let expected = messages.concat();
    std::thread::scope(|scope| {
        scope.spawn(|| publish(&bed, &messages));
        for (group, clients) in split(clients, 8).into_iter().enumerate() {
            let expected = &expected;
            scope.spawn(move || {
                let mut random = Random::new(group as u64);
                for (i, mut client) in clients.into_iter().enumerate() {
                    match i % 4 {
                        0 => client::expect(&mut client, expected),
                        1 => client::reset(client),
                        2 => client::expect(&mut client, &expected[..random.below(expected.len())]),
                        _ => drop(client),
                    }
                }
            });
        }
    });
    bed.until_open_on("read", 0);
    // Who is gone is not pushed to any more, and nobody gets it instead.
    let mut others: Vec<TcpStream> = (0..200).map(|_| bed.connect("publish")).collect();
    for client in &mut others {
        client::exchange(client, &[5], &[1]);
    }
    for reader in all {
        assert_eq!(reader.push(vec![9]), Err(PushError::Gone));
    }
    for client in &mut others {
        client.shutdown(std::net::Shutdown::Write).unwrap();
        client::expect_end(client);
    }
    assert_eq!(readers.lock().unwrap().len(), 0);
    bed.until("memory back", |bed| bed.memory_held() == 0);
    bed.finish();
}

fn split(mut clients: Vec<TcpStream>, groups: usize) -> Vec<Vec<TcpStream>> {
    let size = clients.len() / groups;
    (0..groups)
        .map(|_| clients.drain(..size).collect())
        .collect()
}

pub(crate) fn a_reader_that_does_not_keep_up_is_closed(engine: Engine) {
    let (bed, readers) = start(engine, "outbox_bytes = \"64KiB\"");
    let mut good: Vec<TcpStream> = (0..10).map(|_| bed.connect("read")).collect();
    bed.until_open(10);
    let mut bad = client::connect_narrow(bed.address("read"));
    bed.until_open(11);
    let message = frame(3000, 1);
    let mut client = bed.connect("publish");
    let mut rounds = 0;
    while bed.total().cut == 0 {
        client::exchange(&client, &message, &[1]);
        for client in &mut good {
            client::expect(client, &message);
        }
        rounds += 1;
        assert!(rounds < 10_000, "it is never closed");
    }
    bed.until_open(11);
    client.write_all(&message).unwrap();
    for client in &mut good {
        client::expect(client, &message);
    }
    assert_eq!(bed.total().cut, 1);
    assert_eq!(readers.lock().unwrap().len(), 10);
    // What it gets before the end is what it was sent, but not all of it.
    let mut rest = Vec::new();
    let _ = std::io::Read::read_to_end(&mut bad, &mut rest);
    assert!(rest.len() < rounds * message.len());
    assert!(
        rest.chunks(message.len())
            .all(|part| message.starts_with(part))
    );
    readers.lock().unwrap().clear();
    drop((good, bad, client));
    bed.finish();
}

pub(crate) fn many_threads_may_push_at_once(engine: Engine) {
    let (bed, readers) = start(engine, "");
    let mut clients: Vec<TcpStream> = (0..6).map(|_| bed.connect("read")).collect();
    bed.until_open(6);
    const EACH: u32 = 1000;
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let readers = readers.lock().unwrap().clone();
            scope.spawn(move || {
                for number in 0..EACH {
                    let mut message = vec![0xc4, 5, thread];
                    message.extend_from_slice(&number.to_be_bytes());
                    let message = Bytes::from(message);
                    for reader in &readers {
                        reader.push(message.clone()).unwrap();
                    }
                }
            });
        }
        for client in &mut clients {
            let mut next = [0; 4];
            let mut message = [0; 7];
            for _ in 0..4 * EACH {
                std::io::Read::read_exact(client, &mut message).unwrap();
                let thread = message[2] as usize;
                let number = u32::from_be_bytes(message[3..].try_into().unwrap());
                assert_eq!(number, next[thread], "what one thread pushed is in order");
                next[thread] += 1;
            }
            assert_eq!(next, [EACH; 4]);
        }
    });
    readers.lock().unwrap().clear();
    drop(clients);
    bed.finish();
}

/// Panics where its peer wants it to.
struct Panicking;

impl Service for Panicking {
    type Session = bool;

    fn connected(&mut self, _: &Peer<'_>, reply: &mut Reply<'_>) -> Result<bool, Refusal> {
        if reply.peer().socket_name() == "unconnectable" {
            panic!("on purpose, when connected");
        }
        Ok(false)
    }

    fn frame(&mut self, late: &mut bool, frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        match frame[0] {
            0 => panic!("on purpose, in a frame"),
            1 => *late = true,
            2 => reply.write(|out| {
                out.extend_from_slice(b"this is taken back");
                panic!("on purpose, in an answer");
            }),
            _ => {}
        }
        reply.write(|out| out.extend_from_slice(&frame));
        Flow::Continue
    }

    fn disconnected(&mut self, late: bool, _: &ringhold_core::Ended<'_>) {
        if late {
            panic!("on purpose, when disconnected");
        }
    }
}

pub(crate) fn a_panic_costs_one_connection(engine: Engine) {
    let config = "
        workers = 2
        [sockets.panicking]
        listen = [\"127.0.0.1:0\"]
        [sockets.unconnectable]
        service = \"panicking\"
        listen = [\"127.0.0.1:0\"]
        [sockets.echo]
        listen = [\"127.0.0.1:0\"]";
    let bed = Bed::start(engine, config, |server| {
        server
            .service("panicking", |_| Panicking)
            .service("echo", |_| Echo)
    });
    let witnesses: Vec<TcpStream> = (0..4)
        .map(|i| bed.connect(["echo", "panicking"][i / 2]))
        .collect();
    let look = || {
        for witness in &witnesses {
            client::exchange(witness, &[7], &[7]);
        }
    };
    look();
    std::panic::set_hook(Box::new(|_| {}));
    let large = frame(200_000, 1);
    for round in 0..20 {
        // What came before is answered, what comes after is not, and the end is orderly all the same.
        let mut client = bed.connect("panicking");
        let mut sent = vec![5, 6, [0, 2][round % 2], 7];
        sent.extend_from_slice(&large);
        client.write_all(&sent).unwrap();
        client::expect(&mut client, &[5, 6]);
        client::expect_end(&mut client);
        let mut client = bed.connect("unconnectable");
        client::expect_end(&mut client);
        let client = bed.connect("panicking");
        client::exchange(&client, &[1], &[1]);
        drop(client);
        look();
    }
    bed.until_open(4);
    let _ = std::panic::take_hook();
    let snapshot = bed.snapshot();
    assert_eq!(snapshot.total().panics, 60);
    for worker in &snapshot.workers {
        let panics: u64 = worker
            .names
            .iter()
            .map(|(_, counters)| counters.panics)
            .sum();
        assert!(panics > 0, "both workers had some");
    }
    drop(witnesses);
    bed.finish();
}

/// The peer may end its side right behind its requests, or the service the connection behind its push.
pub(crate) fn what_was_pushed_before_the_end_is_delivered(engine: Engine) {
    let config = "workers = 1\n[sockets.pushing]\nlisten = [\"127.0.0.1:0\"]";
    let bed = Bed::start(engine, config, |server| {
        server.service("pushing", |_| {
            // Instead of answering.
            answering(|frame, reply| {
                reply.handle().push(frame.to_bytes()).unwrap();
                match frame[0] {
                    0 => Flow::close("asked to"),
                    _ => Flow::Continue,
                }
            })
        })
    });
    for last in [1, 0] {
        for _ in 0..300 {
            let mut client = bed.connect("pushing");
            client.write_all(&[5, 6, last]).unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(client::rest(&mut client), [5, 6, last]);
        }
    }
    bed.finish();
}

/// A first byte.
mod how {
    pub(super) const WRITES: u8 = 1;
    pub(super) const SHARES: u8 = 2;
    pub(super) const CLOSES: u8 = 3;
    pub(super) const DEFERS: u8 = 4;
}

const MUCH_BYTES: usize = 30_000;
const PUSHED: u8 = 2;

/// Answers with much at once, or asks somebody else, who does so, and pushes behind that.
fn generous(others: Sender<(Responder, Handle)>) -> impl Service {
    answering(move |frame, reply| {
        let handle = reply.handle();
        match frame[0] {
            how::DEFERS => {
                others.send((reply.defer(Ticket(0)), handle)).unwrap();
                return Flow::Continue;
            }
            how::SHARES => reply.share(vec![1; MUCH_BYTES].into()),
            _ => reply.write(|out| out.resize(out.len() + MUCH_BYTES, 1)),
        }
        handle.push(vec![PUSHED]).unwrap();
        match frame[0] {
            how::CLOSES => Flow::close("done"),
            _ => Flow::Continue,
        }
    })
}

/// The mail of a turn comes before its sends: so nobody is found to be slow who was sent nothing yet.
pub(crate) fn who_reads_is_not_cut_for_what_is_pushed_behind_large_replies(engine: Engine) {
    let config = "workers = 1
        [limits]
        outbox_bytes = \"20KiB\"
        [sockets.generous]
        listen = [\"127.0.0.1:0\"]";
    let bed = Bed::start(engine, config, |server| {
        server.service("generous", |_| generous(channel().0))
    });
    let expected = [vec![1; MUCH_BYTES], vec![PUSHED]].concat();
    for how in [how::WRITES, how::SHARES, how::CLOSES] {
        let mut client = bed.connect("generous");
        client.write_all(&[how]).unwrap();
        client::expect(&mut client, &expected);
        client.shutdown(std::net::Shutdown::Write).unwrap();
        client::expect_end(&mut client);
    }
    let total = bed.total();
    assert_eq!((total.cut, total.ended_by_service), (0, 1));
    bed.finish();
}

/// More deferred answers than the outbox has room for come at once, and with them a little that is pushed.
pub(crate) fn who_reads_is_not_cut_for_what_is_pushed_among_deferred_answers(engine: Engine) {
    const ANSWERS: usize = 1000;
    const ANSWER_BYTES: usize = 20_000;
    let config = "workers = 1\n[sockets.generous]\nlisten = [\"127.0.0.1:0\"]";
    let (questions, asked) = channel();
    let bed = Bed::start(engine, config, |server| {
        server.service("generous", move |_| generous(questions.clone()))
    });
    let mut client = bed.connect("generous");
    client.write_all(&[how::DEFERS; ANSWERS]).unwrap();
    let answers = std::thread::spawn(move || {
        let asked: Vec<(Responder, Handle)> = asked.iter().take(ANSWERS).collect();
        let answer = Bytes::from(vec![1; ANSWER_BYTES]);
        for (number, (responder, handle)) in asked.into_iter().enumerate() {
            responder.answer(answer.clone());
            if number % 100 == 99 {
                handle.push(vec![PUSHED]).unwrap();
            }
        }
    });
    let hundred = [vec![1; 100 * ANSWER_BYTES], vec![PUSHED]].concat();
    for _ in 0..ANSWERS / 100 {
        client::expect(&mut client, &hundred);
    }
    answers.join().unwrap();
    assert_eq!(bed.total().cut, 0);
    drop(client);
    bed.finish();
}
