//! Peers that leave, in every way there is.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};

use ringhold_core::Flow;

use crate::bed::{Bed, Engine, assert_no_kernel_workers};
use crate::common::client;
use crate::common::random::Random;
use crate::common::service::answering;
use crate::frames::{Script, frame};
use crate::services::{Digest, Echo, Gate, Sink, gated};

fn start(engine: Engine, ring: &str) -> (Bed, Gate) {
    let config = format!(
        "workers = 2
        [limits] # None that could end what nothing else ended.
        frame_timeout = \"0s\"
        write_timeout = \"0s\"
        [ring]
        {ring}
        [sockets.digest]
        listen = [\"127.0.0.1:0\", \"unix:@/digest\"]
        [sockets.echo]
        listen = [\"127.0.0.1:0\"]
        [sockets.last]
        listen = [\"127.0.0.1:0\"]
        [sockets.sink]
        listen = [\"127.0.0.1:0\", \"unix:@/sink\"]"
    );
    gated(engine, &config, |server| {
        server
            .service("sink", |_| Sink::default())
            .service("digest", |_| Digest)
            .service("echo", |_| Echo)
            .service("last", |_| {
                answering(|frame, reply| {
                    reply.write(|out| out.extend_from_slice(&frame));
                    Flow::close("one frame is enough")
                })
            })
    })
}

const SMALL: &str = "buffers = 2\nbuffer_bytes = 1024";

/// A client that is as it should be, to see that others do not disturb it.
struct Witness {
    stream: TcpStream,
    round: u64,
}

impl Witness {
    fn new(bed: &Bed) -> Self {
        Witness {
            stream: bed.connect("echo"),
            round: 0,
        }
    }

    fn look(&mut self) {
        self.round += 1;
        let frame = frame(1 + self.round as usize % 3000, self.round);
        client::exchange(&self.stream, &frame, &frame);
    }
}

pub(crate) fn who_ends_its_side_is_answered_first(engine: Engine) {
    for ring in ["", SMALL] {
        let (bed, _) = start(engine, ring);
        for size in [1, 900, 5000, 200_000] {
            let script = Script::of([size; 10], size as u64);
            let mut client = bed.connect("digest");
            client.write_all(&script.sent).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            client::expect(&mut client, &script.answers);
            client::expect_end(&mut client);
        }
        let total = bed.total();
        assert_eq!((total.bad_input, total.failed), (0, 0));
        // The end may cut a frame: that is an end all the same, and what was whole is answered.
        for size in [2, 900, 5000, 200_000] {
            let script = Script::of([100, 1, size], 1);
            let whole = Script::of([100, 1], 1);
            let mut client = bed.connect("digest");
            client
                .write_all(&script.sent[..script.sent.len() - 1])
                .unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            client::expect(&mut client, &whole.answers);
            client::expect_end(&mut client);
        }
        assert_eq!(bed.total().bad_input, 4);
        bed.until_open(0);
        bed.finish();
    }
}

pub(crate) fn who_is_ended_by_the_server_gets_its_answer_and_no_reset(engine: Engine) {
    for ring in ["", SMALL] {
        let (bed, _) = start(engine, ring);
        for more in [0, 10, 100_000, 1_000_000] {
            let mut client = bed.connect("last");
            let request = frame(50, 1);
            let mut all = request.clone();
            all.extend_from_slice(&frame(1 + more, 2));
            client.write_all(&all).unwrap();
            client::expect(&mut client, &request);
            client::expect_end(&mut client);
        }
        assert_eq!(bed.total().frames_in, 4);
        bed.until_open(0);
        bed.finish();
    }
}

pub(crate) fn a_reset_costs_the_connection_that_was_reset(engine: Engine) {
    for ring in ["", SMALL] {
        let (bed, _) = start(engine, ring);
        let mut witness = Witness::new(&bed);
        let large = frame(300_000, 1);
        // Idle; in the middle of a small and of a large frame; with answers on their way; with unread answers.
        let before: [&[u8]; 5] = [&[], &large[..3], &large[..200_000], &[1; 100], &large];
        for (round, bytes) in before.iter().enumerate() {
            let mut client = bed.connect("echo");
            client.write_all(bytes).unwrap();
            if round % 2 == 1 {
                bed.until("it arrived", |bed| bed.name("echo").open == 2);
                witness.look();
            }
            client::reset(client);
            bed.until("it is gone", |bed| bed.name("echo").open == 1);
            witness.look();
        }
        drop(witness);
        bed.until_open(0);
        bed.until("memory back", |bed| bed.memory_held() == 0);
        bed.finish();
    }
}

/// Clients that leave right after they have sent something.
struct Leavers {
    resets: Vec<TcpStream>,
    ends: Vec<TcpStream>,
    unix_closes: Vec<UnixStream>,
    unix_ends: Vec<UnixStream>,
}

impl Leavers {
    const EACH: usize = 10;
    const COUNT: u64 = 4 * Self::EACH as u64;

    fn connect(bed: &Bed) -> Self {
        let tcp = || (0..Self::EACH).map(|_| bed.connect("sink")).collect();
        let unix = || (0..Self::EACH).map(|_| bed.connect_unix("sink")).collect();
        Leavers {
            resets: tcp(),
            ends: tcp(),
            unix_closes: unix(),
            unix_ends: unix(),
        }
    }

    fn leave(&mut self, sent: &[u8]) {
        for mut client in self.resets.drain(..) {
            client.write_all(sent).unwrap();
            client::reset(client);
        }
        for mut client in self.unix_closes.drain(..) {
            client.write_all(sent).unwrap();
        }
        for client in &mut self.ends {
            client.write_all(sent).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        }
        for client in &mut self.unix_ends {
            client.write_all(sent).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        }
    }

    fn expect_end(mut self) {
        self.ends.iter_mut().for_each(client::expect_end);
        self.unix_ends.iter_mut().for_each(client::expect_end);
    }
}

pub(crate) fn an_end_right_behind_data_is_noticed(engine: Engine) {
    for ring in ["", SMALL] {
        let (bed, gate) = start(engine, ring);
        let frame = frame(100, 1);
        // Nothing, a part of a frame, and a frame that is not answered.
        for sent in [&frame[..0], &frame[..50], &frame] {
            // Workers that wait for data find it together with the end.
            let mut leavers = Leavers::connect(&bed);
            bed.until_open_on("sink", Leavers::COUNT);
            gate.hold(&bed, 2, || leavers.leave(sent));
            leavers.expect_end();
            bed.until_open_on("sink", 0);
            // The connections have ended before they are accepted.
            let leavers = gate.hold(&bed, 2, || {
                let mut leavers = Leavers::connect(&bed);
                leavers.leave(sent);
                leavers
            });
            leavers.expect_end();
            bed.until("all were accepted", |bed| {
                bed.name("sink").opened % (2 * Leavers::COUNT) == 0
            });
            bed.until_open_on("sink", 0);
        }
        assert_eq!(bed.name("sink").frames_in, 2 * Leavers::COUNT);
        bed.finish();
    }
}

pub(crate) fn a_storm_of_resets_leaves_nothing_behind(engine: Engine) {
    for (ring, buffers) in [("buffers = 16", 16), (SMALL, 2)] {
        let (bed, gate) = start(engine, ring);
        let fresh = gate.lack(&bed, "echo", 2, buffers);
        bed.until_open(0);
        let before = bed.total().opened;
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let witnesses: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        let mut witness = Witness::new(&bed);
                        while !over.load(Ordering::Relaxed) {
                            witness.look();
                        }
                    })
                })
                .collect();
            let threads: Vec<_> = (0..2u64)
                .map(|seed| {
                    let bed = &bed;
                    scope.spawn(move || {
                        let mut random = Random::new(seed);
                        for _ in 0..250 {
                            let mut client = bed.connect("echo");
                            let size = [1, 100, 3000, 70_000, 200_000][random.below(5)];
                            let frames = frame(size, seed).repeat(1 + random.below(3));
                            let sent = random.below(frames.len() + 1);
                            client.write_all(&frames[..sent]).unwrap();
                            client::reset(client);
                        }
                    })
                })
                .collect();
            threads
                .into_iter()
                .for_each(|thread| thread.join().unwrap());
            assert_no_kernel_workers();
            // Some may have been reset in the backlog, and are accepted all the same.
            bed.until("all were accepted", |bed| {
                bed.total().opened == before + 502
            });
            bed.until_open(2);
            over.store(true, Ordering::Relaxed);
            witnesses
                .into_iter()
                .for_each(|thread| thread.join().unwrap());
        });
        bed.until_open(0);
        gate.assert_all_buffers_are_back(&bed, "echo", 2, buffers, fresh);
        bed.until("memory back", |bed| bed.memory_held() == 0);
        bed.finish();
    }
}

pub(crate) fn who_leaves_without_a_byte_is_forgotten(engine: Engine) {
    let (bed, _) = start(engine, "");
    let mut witness = Witness::new(&bed);
    // Clients and server share the descriptors of this process, so the ones must not be too far ahead.
    let storm = |hundreds: usize, connect: &dyn Fn()| {
        for _ in 0..hundreds {
            (0..100).for_each(|_| connect());
            bed.until("most are gone", |bed| bed.total().open < 500);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| storm(20, &|| drop(bed.connect("echo"))));
        scope.spawn(|| storm(100, &|| drop(bed.connect_unix("digest"))));
        (0..50).for_each(|_| witness.look());
    });
    bed.until("all of them were there", |bed| bed.total().opened == 12_001);
    bed.until_open(1);
    witness.look();
    assert_eq!(bed.total().failed, 0);
    assert_eq!(bed.total().accepted, 12_001);
    drop(witness);
    bed.finish();
}
