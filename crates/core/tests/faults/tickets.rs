//! Answers that come later, from other threads.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use ringhold_core::{Abandoned, Flow, Frame, Peer, Refusal, Reply, Responder, Service, Ticket};

use crate::bed::{Bed, Engine, assert_no_kernel_workers};
use crate::common::client;
use crate::common::random::Random;

/// A request: who asks, and the number of the question.
pub(crate) const REQUEST_BYTES: usize = 10;
/// Its answer: how it went, and the request.
pub(crate) const ANSWER_BYTES: usize = 11;

pub(crate) const ANSWERED: u8 = b'a';
pub(crate) const DROPPED: u8 = b'd';
pub(crate) const STOPPING: u8 = b's';

pub(crate) fn request(client: u32, number: u32) -> [u8; REQUEST_BYTES] {
    let mut request = [0; REQUEST_BYTES];
    request[..2].copy_from_slice(&[0xc4, REQUEST_BYTES as u8 - 2]);
    request[2..6].copy_from_slice(&client.to_be_bytes());
    request[6..].copy_from_slice(&number.to_be_bytes());
    request
}

pub(crate) fn answer(how: u8, client: u32, number: u32) -> [u8; ANSWER_BYTES] {
    let mut answer = [0; ANSWER_BYTES];
    answer[..3].copy_from_slice(&[0xc4, ANSWER_BYTES as u8 - 2, how]);
    answer[3..7].copy_from_slice(&client.to_be_bytes());
    answer[7..].copy_from_slice(&number.to_be_bytes());
    answer
}

pub(crate) type Question = (Responder, u32, u32);

/// Passes every request on to be answered.
pub(crate) struct Asking(pub(crate) Sender<Question>);

impl Service for Asking {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, _: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        let client = u32::from_be_bytes(frame[2..6].try_into().unwrap());
        let number = u32::from_be_bytes(frame[6..10].try_into().unwrap());
        let ticket = Ticket(u64::from(client) << 32 | u64::from(number));
        // Nobody answers any more at the end of a test: the responder comes back and is dropped.
        let _ = self.0.send((reply.defer(ticket), client, number));
        Flow::Continue
    }

    fn abandoned(
        &mut self,
        _: &mut (),
        ticket: Ticket,
        why: Abandoned,
        reply: &mut Reply<'_>,
    ) -> Flow {
        let how = match why {
            Abandoned::Dropped => DROPPED,
            Abandoned::Stopping => STOPPING,
            _ => b'?',
        };
        reply.write(|out| {
            out.extend_from_slice(&answer(how, (ticket.0 >> 32) as u32, ticket.0 as u32));
        });
        Flow::Continue
    }
}

/// Starts a server whose socket `ask` asks whoever has the receiver.
pub(crate) fn start(engine: Engine, more: &str) -> (Bed, Receiver<Question>) {
    let config = format!("workers = 2\n{more}\n[sockets.ask]\nlisten = [\"127.0.0.1:0\"]\n");
    let (sender, receiver) = channel();
    let sender = Mutex::new(sender);
    let bed = Bed::start(engine, &config, |server| {
        server
            .service("ask", move |_| Asking(sender.lock().unwrap().clone()))
            .service("echo", |_| crate::services::Echo)
    });
    (bed, receiver)
}

/// Threads that answer in any order, and drop some questions instead.
fn answer_in_any_order(receiver: Receiver<Question>) -> Vec<JoinHandle<()>> {
    let receiver = Arc::new(Mutex::new(receiver));
    let answer_some = |seed: u64, receiver: Arc<Mutex<Receiver<Question>>>| {
        let mut random = Random::new(seed);
        let mut open: Vec<Question> = Vec::new();
        loop {
            // So many are kept back that they end out of order, but none for long.
            let next = receiver
                .lock()
                .unwrap()
                .recv_timeout(std::time::Duration::from_millis(1));
            let done = matches!(next, Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
            let most = if next.is_ok() { 30 } else { 0 };
            open.extend(next);
            while open.len() > most {
                let (responder, client, number) = open.swap_remove(random.below(open.len()));
                if is_dropped(number) {
                    drop(responder);
                } else {
                    responder.answer(answer(ANSWERED, client, number).to_vec());
                }
            }
            if done {
                return;
            }
        }
    };
    (0..4)
        .map(|seed| {
            let receiver = receiver.clone();
            std::thread::spawn(move || answer_some(seed, receiver))
        })
        .collect()
}

fn is_dropped(number: u32) -> bool {
    number % 10 == 3
}

/// Reads the answers to the questions of `client` from 0 on, each of which comes once, in any order.
fn expect_answers(stream: &mut TcpStream, client: u32, count: u32) {
    let mut seen = vec![false; count as usize];
    for _ in 0..count {
        let mut answer = [0; ANSWER_BYTES];
        stream.read_exact(&mut answer).unwrap();
        let number = u32::from_be_bytes(answer[7..].try_into().unwrap());
        let how = if is_dropped(number) {
            DROPPED
        } else {
            ANSWERED
        };
        assert_eq!(answer, self::answer(how, client, number));
        let before = std::mem::replace(&mut seen[number as usize], true);
        assert!(!before, "{number} is answered twice");
    }
}

pub(crate) fn each_question_is_answered_once(engine: Engine) {
    const COUNT: u32 = 300;
    let (bed, receiver) = start(engine, "");
    let threads = answer_in_any_order(receiver);
    std::thread::scope(|scope| {
        for client in 0..30 {
            let bed = &bed;
            scope.spawn(move || {
                let mut stream = bed.connect("ask");
                let requests: Vec<u8> = (0..COUNT).flat_map(|i| request(client, i)).collect();
                stream.write_all(&requests).unwrap();
                if client % 2 == 0 {
                    stream.shutdown(Shutdown::Write).unwrap();
                }
                if client % 5 == 1 {
                    // It does not wait for the answers.
                    return client::reset(stream);
                }
                expect_answers(&mut stream, client, COUNT);
                stream.shutdown(Shutdown::Write).ok();
                client::expect_end(&mut stream);
            });
        }
    });
    bed.until_open(0);
    assert_no_kernel_workers();
    let snapshot = bed.finish();
    let opened: Vec<u64> = snapshot
        .workers
        .iter()
        .map(|w| w.names[0].1.opened)
        .collect();
    assert!(
        opened.iter().all(|opened| *opened > 0),
        "both workers take part: {opened:?}"
    );
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
}

/// Asks again whenever it is answered, until the server ends the connection. Returns how many answers there were.
fn ask_to_the_end(mut stream: TcpStream, client: u32) -> u32 {
    for number in 0.. {
        // The server may have ended by now.
        let _ = stream.write_all(&request(client, number));
        let mut got = [0; ANSWER_BYTES];
        match stream.read_exact(&mut got) {
            Ok(()) => assert_eq!(got, answer(ANSWERED, client, number)),
            Err(end) => {
                assert!(matches!(
                    end.kind(),
                    ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset
                ));
                return number;
            }
        }
    }
    unreachable!("a stop ends it")
}

/// Clients on both workers ask again as soon as they are answered, until the one question of before is answered. Then the stop ends.
pub(crate) fn who_goes_on_asking_during_a_stop_is_answered_until_the_one_before_is(engine: Engine) {
    const CLIENTS: usize = 8;
    const COUNT: u32 = 50;
    let (bed, receiver) = start(engine, "[handover]\ndrain = \"1h\"");
    let mut early = bed.connect("ask");
    early.write_all(&request(0, 0)).unwrap();
    let (held, ..) = receiver.recv().unwrap();
    let streams: Vec<TcpStream> = (0..CLIENTS).map(|_| bed.connect("ask")).collect();
    bed.until_open(1 + CLIENTS as u64);
    bed.stop();
    let answering = std::thread::spawn(move || {
        let mut held = Some(held);
        let mut counts = [0; CLIENTS];
        for (responder, client, number) in receiver {
            responder.answer(answer(ANSWERED, client, number).to_vec());
            counts[client as usize - 1] += 1;
            if counts.iter().all(|count| *count >= COUNT)
                && let Some(held) = held.take()
            {
                held.answer(answer(ANSWERED, 0, 0).to_vec());
            }
        }
    });
    std::thread::scope(|scope| {
        for (stream, client) in streams.into_iter().zip(1..) {
            scope.spawn(move || assert!(ask_to_the_end(stream, client) >= COUNT));
        }
        assert_eq!(client::rest(&mut early), answer(ANSWERED, 0, 0));
        drop(early);
    });
    let snapshot = bed.finish();
    assert_eq!(snapshot.total().abandoned, 0);
    let opened = snapshot.workers.iter().map(|w| w.names[0].1.opened);
    assert!(opened.min() > Some(0), "both workers take part");
    answering.join().unwrap();
}
