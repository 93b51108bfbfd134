//! Waiting is free: whatever a worker waits for, it sleeps, and nothing is left to a thread of the kernel.

use std::io::Write;
use std::net::{Shutdown, TcpStream};

use socket2::SockRef;

use crate::bed::{Bed, Engine, assert_no_kernel_workers};
use crate::common::client;
use crate::frames::{digest, frame};
use crate::services::{Digest, Echo};
use crate::tickets::{ANSWERED, answer, request};

const RINGS: [&str; 2] = ["", "[ring]\nentries = 8\nbuffers = 2\nbuffer_bytes = 1024"];

/// While nothing happens, workers take next to no turns.
fn assert_quiet(bed: &Bed) {
    // The portable engine asks every 10 ms whether there is room for who has ended its side: the kernel does not tell.
    let few = match bed.engine {
        Engine::Ring => 10,
        _ => 100,
    };
    // What has just happened may take some turns more; how long depends on the machine.
    bed.until("quiet", |bed| {
        let before = bed.counters().enters;
        std::thread::sleep(std::time::Duration::from_millis(100));
        bed.counters().enters - before < few
    });
    assert_no_kernel_workers();
}

/// A kernel may say that there is more to be done when everything has been.
pub(crate) fn work_that_is_done_costs_no_turns(engine: Engine) {
    let (bed, _) = crate::tickets::start(
        engine,
        "
        [sockets.echo]
        listen = [\"127.0.0.1:0\"]",
    );
    let mut clients: Vec<TcpStream> = (0..64).map(|_| bed.connect("echo")).collect();
    let asked = frame(100, 1);
    for _ in 0..20 {
        for _ in 0..50 {
            // One thread asks and reads while the workers answer, so that their work comes in while they do it.
            for client in &mut clients {
                client.write_all(&asked).unwrap();
            }
            for client in &mut clients {
                client::expect(client, &asked);
            }
        }
        assert_quiet(&bed);
    }
    drop(clients);
    bed.finish();
}

pub(crate) fn whatever_is_waited_for_costs_no_turns(engine: Engine) {
    let more = "
        [sockets.echo]
        listen = [\"127.0.0.1:0\"]";
    for ring in RINGS {
        let (bed, questions) = crate::tickets::start(engine, &format!("{ring}{more}"));
        let large = frame(5 << 20, 1);
        // Clients that say nothing, or not all.
        let idle: Vec<TcpStream> = (0..100).map(|_| bed.connect("echo")).collect();
        let mut partial = bed.connect("echo");
        partial.write_all(&large[..500]).unwrap();
        let mut half = bed.connect("echo");
        half.write_all(&large[..500_000]).unwrap();
        // Some that do not read, with and without their end, one of which keeps the server from reading more.
        let mut slow = client::connect_narrow(bed.address("echo"));
        slow.write_all(&large).unwrap();
        let mut ended = client::connect_narrow(bed.address("echo"));
        ended.write_all(&large).unwrap();
        ended.shutdown(Shutdown::Write).unwrap();
        let mut paused = client::connect_narrow(bed.address("echo"));
        paused.write_all(&large).unwrap();
        paused.write_all(&large[..100_000]).unwrap();
        // Some that wait for an answer.
        let mut asking = bed.connect("ask");
        asking.write_all(&request(0, 0)).unwrap();
        let mut asking_last = bed.connect("ask");
        asking_last.write_all(&request(1, 0)).unwrap();
        asking_last.shutdown(Shutdown::Write).unwrap();
        bed.until("all arrived", |bed| bed.total().frames_in == 5);
        assert_quiet(&bed);
        for (responder, client, number) in questions.iter().take(2) {
            responder.answer(answer(ANSWERED, client, number).to_vec());
        }
        client::expect(&mut asking, &answer(ANSWERED, 0, 0));
        client::expect(&mut asking_last, &answer(ANSWERED, 1, 0));
        client::expect_end(&mut asking_last);
        // Room is found, and the answer goes on, where nobody reads any more on the other side, too.
        client::expect(&mut slow, &large[..1 << 20]);
        client::expect(&mut ended, &large);
        client::expect_end(&mut ended);
        assert_quiet(&bed);
        drop((
            idle,
            partial,
            half,
            slow,
            ended,
            paused,
            asking,
            asking_last,
        ));
        bed.finish();
    }
}

/// More than what the kernel tries before it leaves a receive to a thread of its own, which is 128 times.
const URGENT: usize = 200;

/// Urgent bytes are awaited by nobody, and wake whoever waits for others.
pub(crate) fn urgent_data_does_no_harm(engine: Engine) {
    for ring in RINGS {
        let config = format!(
            "workers = 1\n{ring}\n[sockets.digest]\nlisten = [\"127.0.0.1:0\", \"unix:@/digest\"]\n"
        );
        let bed = Bed::start(engine, &config, |server| {
            server.service("digest", |_| Digest)
        });
        let mut witness = Witness::new(&bed);
        let crowd = crowd(&bed, ring.is_empty());
        // In a small frame, in one that is received into its own buffer, and between frames.
        let frames = [500, 500_000].map(|size| frame(size, 1));
        let tcp = [(); 2].map(|()| bed.connect("digest"));
        let unix = [(); 2].map(|()| bed.connect_unix("digest"));
        let before = bed.total().bytes_in;
        for ((mut tcp, mut unix), frame) in tcp.iter().zip(&unix).zip(&frames) {
            tcp.write_all(&frame[..frame.len() / 2]).unwrap();
            unix.write_all(&frame[..frame.len() / 2]).unwrap();
        }
        bed.until_received(before + 2 * (250 + 250_000));
        let clients = tcp.iter().map(SockRef::from);
        let clients = clients.chain(unix.iter().map(SockRef::from));
        let clients: Vec<SockRef<'_>> = clients.chain(crowd.iter().map(SockRef::from)).collect();
        for round in 0..URGENT {
            for client in &clients {
                client.send_out_of_band(b"!").unwrap();
            }
            // The worker has seen them all before it answers.
            witness.is_answered();
            // Behind an urgent byte that was not looked at, or if too many are under way over TCP, bytes that were urgent become
            // others.
            bed.until("urgent bytes were looked at", |_| {
                unix.iter().all(client::has_taken_all)
            });
            if round % 4 == 3 {
                bed.until("urgent bytes arrived", |_| {
                    crowd.iter().chain(&tcp).all(client::has_taken_all)
                });
            }
        }
        assert_quiet(&bed);
        for ((mut tcp, mut unix), frame) in tcp.iter().zip(&unix).zip(&frames) {
            tcp.write_all(&frame[frame.len() / 2..]).unwrap();
            client::expect(&mut tcp, &digest(0, frame));
            unix.write_all(&frame[frame.len() / 2..]).unwrap();
            client::expect(&mut unix, &digest(0, frame));
        }
        for mut client in &crowd {
            client.write_all(&[7]).unwrap();
            client::expect(&mut client, &digest(CROWDED_ROUNDS, &[7]));
        }
        witness.is_answered();
        assert_quiet(&bed);
        drop((tcp, unix, crowd, witness));
        bed.until_open(0);
        bed.finish();
    }
}

/// Says something and is answered.
struct Witness {
    client: TcpStream,
    answers: u32,
}

impl Witness {
    fn new(bed: &Bed) -> Self {
        Witness {
            client: bed.connect("digest"),
            answers: 0,
        }
    }

    fn is_answered(&mut self) {
        self.client.write_all(&[7]).unwrap();
        client::expect(&mut self.client, &digest(self.answers, &[7]));
        self.answers += 1;
    }
}

/// How often everybody in a crowd says something.
const CROWDED_ROUNDS: u32 = 60;

/// Connections that have said something at the same time for a while. Where there are buffers for that, the ring engine asks them
/// before it waits, and else lets them wait for buffers.
fn crowd(bed: &Bed, is_asked: bool) -> Vec<TcpStream> {
    let crowd: Vec<TcpStream> = (0..200).map(|_| bed.connect("digest")).collect();
    for round in 0..CROWDED_ROUNDS {
        for mut client in &crowd {
            client.write_all(&[7]).unwrap();
        }
        for mut client in &crowd {
            client::expect(&mut client, &digest(round, &[7]));
        }
    }
    let counters = bed.counters();
    if bed.engine == Engine::Ring {
        let count = if is_asked {
            counters.looks
        } else {
            counters.starved
        };
        assert!(count > 0, "{counters:?}");
    }
    crowd
}

/// Who is being ended and does not read costs no turns either, and what it still sends is taken, so that its answers are not
/// destroyed by a reset.
pub(crate) fn ends_cost_no_turns(engine: Engine) {
    let config = "
        workers = 1
        limits.write_timeout = \"0s\"
        [sockets.echo]
        listen = [\"127.0.0.1:0\", \"unix:@/echo\"]";
    let bed = Bed::start(engine, config, |server| server.service("echo", |_| Echo));
    let asked = frame(400_000, 1);
    // Little enough to be answered although nobody reads, and enough to be received in other ways than a first request.
    let small = frame(1000, 2).repeat(200);
    let narrow = || client::connect_narrow(bed.address("echo"));
    for (round, asked) in [&asked, &small].into_iter().enumerate() {
        let mut tcp = narrow();
        let mut unix = bed.connect_unix("echo");
        tcp.write_all(asked).unwrap();
        unix.write_all(asked).unwrap();
        bed.until("they are answered", |bed| {
            let frames = [2, 402][round];
            bed.total().frames_in == frames
        });
        for client in [&mut tcp as &mut dyn Write, &mut unix] {
            // It is no frame.
            client.write_all(&[0xc1]).unwrap();
        }
        bed.until("they are ended", |bed| {
            bed.total().bad_input == 2 * (round as u64 + 1)
        });
        // At once: whoever has been sent everything is waited for no longer than a second.
        let before = bed.total().bytes_in;
        for client in [&mut tcp as &mut dyn Write, &mut unix] {
            client.write_all(&small).unwrap();
        }
        bed.until_received(before + 2 * small.len() as u64);
        assert_quiet(&bed);
        client::expect(&mut tcp, asked);
        client::expect_end(&mut tcp);
        client::expect(&mut unix, asked);
        client::expect_end(&mut unix);
        drop((tcp, unix));
        bed.until_open(0);
    }
    bed.finish();
}
