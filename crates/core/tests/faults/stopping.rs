//! Stopping in the middle of everything.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use ringhold_core::inherit::Inherited;
use ringhold_core::{Ended, Flow, Frame, Peer, Refusal, Reply, Service};

use crate::bed::{Bed, Engine, assert_no_kernel_workers};
use crate::common::client;
use crate::common::random::Random;
use crate::frames::{Script, frame};
use crate::services::{Digest, Echo, Gate, gated_inheriting};
use crate::tickets::{ANSWER_BYTES, ANSWERED, STOPPING, answer, request};

/// What the server says to a new connection.
const GREETING: u8 = 1;
/// What a client asks, and the server answers.
const QUESTION: u8 = 2;
/// What the next process would say to a connection that it finds in the backlog.
const SUCCESSOR: u8 = 3;

/// Greets, and echoes.
struct Greeter;

impl Service for Greeter {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, reply: &mut Reply<'_>) -> Result<(), Refusal> {
        reply.write(|out| out.push(GREETING));
        Ok(())
    }

    fn frame(&mut self, _: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        reply.write(|out| out.extend_from_slice(&frame));
        Flow::Continue
    }
}

/// A client's side of either kind of socket.
trait Stream: Read + Write + Send + Sized + 'static {}
impl Stream for TcpStream {}
impl Stream for UnixStream {}

/// What became of the connections that were made while the server stopped.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    answered: u64,
    /// The request came when the server had looked for the last time.
    cut: u64,
    in_backlog: u64,
}

/// Connects, asks, and returns the connection and whether the question was asked before the stop began.
fn ask<S: Stream>(connect: &(impl Fn() -> S + Sync), stopping: &AtomicBool) -> (S, bool) {
    let mut stream = connect();
    stream.write_all(&[QUESTION]).unwrap();
    (stream, !stopping.load(Ordering::SeqCst))
}

/// What became of a connection. One that asked before the stop began must not have been cut.
fn judge<S: Stream>(outcome: &mut Outcome, (mut stream, early): (S, bool)) {
    let what = client::rest(&mut stream);
    match what[..] {
        [GREETING, QUESTION] => outcome.answered += 1,
        [GREETING] if !early => outcome.cut += 1,
        [SUCCESSOR] => outcome.in_backlog += 1,
        _ => panic!("{what:?}, asked before the stop: {early}"),
    }
}

/// Lets many clients connect while the server stops, and accepts what is left in the backlog with `accept_one`. Nobody
/// may be lost or reset.
fn race<S: Stream>(
    bed: Bed,
    count: u64,
    connect: impl Fn(&Bed) -> S + Sync,
    accept_one: impl Fn() -> Option<S>,
) -> Outcome {
    let stopping = AtomicBool::new(false);
    let asked = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..count / 4 {
                    let connection = ask(&|| connect(&bed), &stopping);
                    asked.lock().unwrap().push(connection);
                    // The race is to be on for longer than the stop takes.
                    std::thread::sleep(std::time::Duration::from_micros(50));
                }
            });
        }
        bed.until("the race is on", |bed| bed.total().opened > count / 8);
        stopping.store(true, Ordering::SeqCst);
        bed.stop();
    });
    let mut outcome = Outcome::default();
    let asked = asked.into_inner().unwrap();
    let snapshot = std::thread::scope(|scope| {
        // Who sees the end ends, too, so that the server need not wait for it. Those in the backlog see it last.
        let judges = asked.into_iter().map(|connection| {
            scope.spawn(move || {
                let mut outcome = Outcome::default();
                judge(&mut outcome, connection);
                outcome
            })
        });
        let judges: Vec<_> = judges.collect();
        let snapshot = bed.finish();
        while let Some(mut stream) = accept_one() {
            // It reads first: closing with unread data would reset.
            stream.read_exact(&mut [0]).unwrap();
            stream.write_all(&[SUCCESSOR]).unwrap();
        }
        for judge in judges {
            let one = judge.join().unwrap();
            outcome.answered += one.answered;
            outcome.cut += one.cut;
            outcome.in_backlog += one.in_backlog;
        }
        snapshot
    });
    assert_eq!(snapshot.total().opened, outcome.answered + outcome.cut);
    assert_eq!(snapshot.total().accepted, snapshot.total().opened);
    assert_eq!(outcome.answered + outcome.cut + outcome.in_backlog, count);
    outcome
}

/// A duplicate of a listener, which a successor will have, to be inherited under this name.
fn inherited(name: &str, listener: impl AsFd) -> Inherited {
    let duplicate = listener.as_fd().try_clone_to_owned().unwrap();
    Inherited::from_descriptors(vec![(name.to_owned(), duplicate)])
}

fn start_greeter(engine: Engine, workers: usize, ring: &str, inherited: Inherited) -> Bed {
    let config = format!(
        "workers = {workers}
        [handover]
        drain = \"1h\"
        [ring]
        {ring}
        [sockets.tcp]
        service = \"greet\"
        listen = [\"127.0.0.1:0\"]
        [sockets.unix]
        service = \"greet\"
        listen = [\"unix:@/unix\"]"
    );
    Bed::start_inheriting(engine, &config, inherited, |server| {
        server.service("greet", |_| Greeter)
    })
}

const RINGS: [&str; 2] = ["", "entries = 8\nbuffers = 2\nbuffer_bytes = 1024"];

pub(crate) fn no_connection_is_lost_in_a_stop(engine: Engine) {
    let directory = tempfile::tempdir().unwrap();
    for workers in [1, 2] {
        for ring in RINGS {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            rustix::net::listen(&listener, 4096).unwrap();
            let bed = start_greeter(engine, workers, ring, inherited("tcp", &listener));
            let accept = || listener.accept().ok().map(|(stream, _)| stream);
            let outcome = race(bed, 1500, |bed| bed.connect("tcp"), accept);
            println!("{workers} {ring:?} {outcome:?}");
            let path = directory.path().join(format!("{workers}{}", ring.len()));
            let listener = UnixListener::bind(&path).unwrap();
            rustix::net::listen(&listener, 4096).unwrap();
            let bed = start_greeter(engine, workers, ring, inherited("unix", &listener));
            let accept = || listener.accept().ok().map(|(stream, _)| stream);
            let outcome = race(bed, 1500, |_| client::connect_unix(&path), accept);
            println!("{workers} {ring:?} {outcome:?}");
        }
    }
}

/// Takes its time to forget a connection.
struct Slow(Gate);

impl Service for Slow {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, _: &mut (), _: Frame<'_>, _: &mut Reply<'_>) -> Flow {
        Flow::Continue
    }

    fn disconnected(&mut self, _: (), _: &Ended<'_>) {
        self.0.pass();
    }
}

pub(crate) fn no_connection_is_lost_between_two_workers(engine: Engine) {
    let config = "
        workers = 2
        [sockets.first]
        listen = [\"127.0.0.1:0\"]
        workers = [0]
        [sockets.second]
        listen = [\"127.0.0.1:0\"]
        workers = [0]
        [sockets.slow]
        listen = [\"127.0.0.1:0\"]
        workers = [1]
        [sockets.greet]
        listen = [\"127.0.0.1:0\"]";
    let gates: [Gate; 3] = Default::default();
    let [first, second, slow] = gates.clone();
    // A stop would refuse who waits on one of the server's own.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let inherited = inherited("greet", listener);
    let bed = Bed::start_inheriting(engine, config, inherited, |server| {
        server
            .service("greet", |_| Greeter)
            .service("first", move |_| first.clone())
            .service("second", move |_| second.clone())
            .service("slow", move |_| Slow(slow.clone()))
    });
    let [first, second, slow] = gates;
    let mut last = bed.connect("slow");
    let mut keepers = [bed.connect("first"), bed.connect("second")];
    bed.until_open(3);
    // Worker 0 is held up, and then again with a new connection behind the frame that holds it up. It is worker 1's
    // turn to be dealt it.
    keepers[0].write_all(&[1]).unwrap();
    first.wait_for(1);
    keepers[1].write_all(&[1]).unwrap();
    let mut client = bed.connect("greet");
    client.write_all(&[QUESTION]).unwrap();
    first.open();
    second.wait_for(1);
    // Worker 1 is told to stop and about to have nothing left.
    bed.stop();
    client::expect_end(&mut last);
    drop(last);
    slow.wait_for(1);
    // Worker 0 passes the connection on, then it stops, too, and its connections see that.
    second.open();
    for keeper in &mut keepers {
        client::expect(keeper, &[1]);
        client::expect_end(keeper);
    }
    slow.open();
    client::expect(&mut client, &[GREETING, QUESTION]);
    client::expect_end(&mut client);
    drop((keepers, client));
    let worker_1 = &bed.finish().workers[1];
    let greet = |(name, _): &&(String, _)| name == "greet";
    let (_, greeted) = worker_1.names.iter().find(greet).unwrap();
    assert_eq!(greeted.opened, 1, "the test is about the other worker");
}

fn start(engine: Engine, workers: usize, more: &str) -> (Bed, Gate) {
    start_inheriting(engine, workers, more, Inherited::none())
}

fn start_inheriting(
    engine: Engine,
    workers: usize,
    more: &str,
    inherited: Inherited,
) -> (Bed, Gate) {
    let config = format!(
        "workers = {workers}
        {more}
        [sockets.digest]
        listen = [\"127.0.0.1:0\"]
        [sockets.local]
        service = \"digest\"
        listen = [\"unix:@/digest\"]
        [sockets.echo]
        listen = [\"127.0.0.1:0\"]"
    );
    gated_inheriting(engine, &config, inherited, |server| {
        server
            .service("digest", |_| Digest)
            .service("echo", |_| Echo)
    })
}

pub(crate) fn whoever_is_connected_sees_an_orderly_end(engine: Engine) {
    for ring in RINGS {
        let (bed, _) = start(engine, 2, &format!("[ring]\n{ring}"));
        let mut idle: Vec<TcpStream> = (0..100).map(|_| bed.connect("echo")).collect();
        let mut idle_unix: Vec<UnixStream> = (0..100).map(|_| bed.connect_unix("digest")).collect();
        let mut used: Vec<TcpStream> = (0..100).map(|_| bed.connect("echo")).collect();
        for client in &mut used {
            client::exchange(client, &[1], &[1]);
        }
        bed.until_open(300);
        bed.stop();
        idle.iter_mut().for_each(client::expect_end);
        idle_unix.iter_mut().for_each(client::expect_end);
        used.iter_mut().for_each(client::expect_end);
        drop((idle, idle_unix, used));
        bed.finish();
    }
}

pub(crate) fn what_arrived_before_a_stop_is_answered(engine: Engine) {
    let directory = tempfile::tempdir().unwrap();
    for ring in RINGS {
        let path = directory.path().join(ring.len().to_string());
        let listener = UnixListener::bind(&path).unwrap();
        let connect = || client::connect_unix(&path);
        let inherited = inherited("local", &listener);
        let (bed, gate) = start_inheriting(engine, 2, &format!("[ring]\n{ring}"), inherited);
        let scripts: Vec<Script> = (0..100).map(|i| Script::of([700; 20], i)).collect();
        let waiting: Vec<UnixStream> = (0..50).map(|_| connect()).collect();
        bed.until_open(50);
        // The workers learn of all requests, of connections, and of the stop at once.
        let mut clients = gate.hold(&bed, 2, || {
            let fresh = (0..50).map(|_| connect());
            let mut clients: Vec<UnixStream> = waiting.into_iter().chain(fresh).collect();
            for (client, script) in clients.iter_mut().zip(&scripts) {
                client.write_all(&script.sent).unwrap();
            }
            bed.stop();
            clients
        });
        let fresh = clients.split_off(50);
        for (mut client, script) in clients.into_iter().zip(&scripts) {
            client::expect(&mut client, &script.answers);
            client::expect_end(&mut client);
        }
        // Of the connections that were in the backlog, each was accepted in time and answered, or stayed there.
        let judges = std::thread::spawn(move || {
            let judge = |(mut client, script): (UnixStream, &Script)| {
                let what = client::rest(&mut client);
                assert!(what == script.answers || what == [SUCCESSOR], "{what:?}");
                what != [SUCCESSOR]
            };
            let judged = fresh.into_iter().zip(&scripts[50..]).map(judge);
            judged.filter(|served| *served).count() as u64
        });
        let snapshot = bed.finish();
        let mut left = 0;
        while let Ok((mut stream, _)) = listener.accept() {
            stream.read_exact(&mut [0; 14_000]).unwrap();
            stream.write_all(&[SUCCESSOR]).unwrap();
            left += 1;
        }
        assert_eq!(judges.join().unwrap() + left, 50);
        assert_eq!(snapshot.name("local").unwrap().opened + left, 100);
    }
}

pub(crate) fn a_slow_reader_gets_the_rest_of_its_answer(engine: Engine) {
    let (bed, _) = start(engine, 2, "[handover]\ndrain = \"1h\"");
    let large = frame(5 << 20, 1);
    let mut ended = client::connect_narrow(bed.address("echo"));
    let mut open = client::connect_narrow(bed.address("echo"));
    for client in [&mut ended, &mut open] {
        client.write_all(&large).unwrap();
    }
    ended.shutdown(Shutdown::Write).unwrap();
    bed.until("both are being answered", |bed| bed.total().frames_in == 2);
    bed.stop();
    // At once: whoever waits for the other one takes nothing meanwhile.
    std::thread::scope(|scope| {
        for client in [&mut open, &mut ended] {
            scope.spawn(|| {
                client::expect(client, &large);
                client::expect_end(client);
            });
        }
    });
    assert_no_kernel_workers();
    drop((ended, open));
    bed.finish();
}

pub(crate) fn a_reader_that_never_reads_does_not_hold_up_a_stop(engine: Engine) {
    let (bed, _) = start(engine, 2, "[handover]\ndrain = \"0s\"");
    let mut never = client::connect_narrow(bed.address("echo"));
    never.write_all(&frame(6 << 20, 1)).unwrap();
    bed.until("it is being answered", |bed| bed.total().frames_in == 1);
    bed.finish();
    drop(never);
}

pub(crate) fn a_half_received_frame_does_not_hold_up_a_stop(engine: Engine) {
    for ring in RINGS {
        let (bed, _) = start(engine, 2, &format!("[ring]\n{ring}"));
        let large = frame(3 << 20, 1);
        let mut clients: Vec<TcpStream> = (0..10).map(|_| bed.connect("digest")).collect();
        for (i, client) in clients.iter_mut().enumerate() {
            client.write_all(&large[..1 + 100_000 * i]).unwrap();
        }
        bed.until_received(10 + 100_000 * 45);
        assert!(bed.memory_held() > 1 << 20);
        bed.stop();
        clients.iter_mut().for_each(client::expect_end);
        drop(clients);
        bed.finish();
    }
}

pub(crate) fn a_stop_may_meet_a_storm_of_resets(engine: Engine) {
    for ring in RINGS {
        let (bed, _) = start(engine, 2, &format!("[ring]\n{ring}"));
        let address = bed.address("echo");
        let over = Arc::new(AtomicBool::new(false));
        let threads: Vec<_> = (0..4)
            .map(|seed| {
                let over = over.clone();
                std::thread::spawn(move || {
                    let mut random = Random::new(seed);
                    let frame = frame(200_000, seed);
                    while !over.load(Ordering::Relaxed) {
                        // Once the server is gone, there is nobody to connect to.
                        let Ok(mut client) = TcpStream::connect(address) else {
                            return;
                        };
                        let _ = client.write_all(&frame[..random.below(frame.len())]);
                        client::reset(client);
                    }
                })
            })
            .collect();
        bed.until("the storm rages", |bed| bed.total().opened > 100);
        bed.finish();
        over.store(true, Ordering::Relaxed);
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    }
}

const ECHO: &str = "[sockets.echo]\nlisten = [\"127.0.0.1:0\"]";

pub(crate) fn a_stop_waits_for_open_questions(engine: Engine) {
    let (bed, questions) =
        crate::tickets::start(engine, &format!("[handover]\ndrain = \"1h\"\n{ECHO}"));
    let mut asking: Vec<TcpStream> = (0..20).map(|_| bed.connect("ask")).collect();
    let mut other = bed.connect("echo");
    for (i, client) in asking.iter_mut().enumerate() {
        (0..3).for_each(|number| client.write_all(&request(i as u32, number)).unwrap());
    }
    bed.until("all have asked", |bed| bed.total().frames_in == 60);
    bed.stop();
    // All are served meanwhile, and who waits may ask more.
    for round in 0..100 {
        client::exchange(&other, &[round], &[round]);
    }
    for (i, client) in asking.iter_mut().enumerate() {
        client.write_all(&request(i as u32, 3)).unwrap();
    }
    // When those are answered that were there before, who still waits is not read any more.
    let answering = std::thread::spawn(move || {
        for (responder, client, number) in questions {
            responder.answer(answer(ANSWERED, client, number).to_vec());
        }
    });
    client::expect_end(&mut other);
    drop(other);
    for (i, client) in asking.iter_mut().enumerate() {
        let answers: Vec<u8> = (0..4).flat_map(|n| answer(ANSWERED, i as u32, n)).collect();
        let (three, _) = answers.split_at(3 * ANSWER_BYTES);
        let got = client::rest(client);
        assert!(got == answers || got == three, "{got:?}");
    }
    drop(asking);
    bed.finish();
    answering.join().unwrap();
}

pub(crate) fn questions_that_stay_open_are_abandoned(engine: Engine) {
    let (bed, questions) =
        crate::tickets::start(engine, &format!("[handover]\ndrain = \"200ms\"\n{ECHO}"));
    let mut asking: Vec<TcpStream> = (0..20).map(|_| bed.connect("ask")).collect();
    for (i, client) in asking.iter_mut().enumerate() {
        (0..3).for_each(|number| client.write_all(&request(i as u32, number)).unwrap());
    }
    let open: Vec<_> = questions.iter().take(60).collect();
    bed.stop();
    for (i, client) in asking.iter_mut().enumerate() {
        let mut numbers = [false; 3];
        for _ in 0..3 {
            let mut abandoned = [0; ANSWER_BYTES];
            client.read_exact(&mut abandoned).unwrap();
            let number = u32::from(abandoned[ANSWER_BYTES - 1]);
            assert_eq!(abandoned, answer(STOPPING, i as u32, number));
            assert!(!std::mem::replace(&mut numbers[number as usize], true));
        }
        client::expect_end(client);
    }
    // Too late.
    for (responder, client, number) in open {
        responder.answer(answer(ANSWERED, client, number).to_vec());
    }
    drop(asking);
    assert_eq!(bed.finish().total().abandoned, 60);
}
