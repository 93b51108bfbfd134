//! Connections that are paused while they wait for their turn: for a receive buffer, for the warm buffer, to be asked.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use ringhold_core::{Flow, Frame, Handle, Peer, Refusal, Reply, Service};

use crate::bed::{Bed, Engine, connect_unix, engines, frame};

/// What a message to a client begins with.
const ECHO: u8 = 0;
const PUSH: u8 = 1;

/// Sends every frame back, and can be pushed to.
struct Reachable(Arc<Mutex<Vec<Handle>>>);

impl Service for Reachable {
    type Session = ();

    fn connected(&mut self, peer: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        self.0.lock().unwrap().push(peer.handle());
        Ok(())
    }

    fn frame(&mut self, _: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        reply.write(|out| {
            out.push(ECHO);
            out.extend_from_slice(&frame);
        });
        Flow::Continue
    }
}

/// Clients that all say something in each round, and are pushed something meanwhile.
struct Crowd {
    clients: usize,
    /// What each of them says in a round: so many frames of this size, and a larger one in their midst.
    frames: u32,
    size: usize,
    large: usize,
    outbox_bytes: usize,
    /// More of the configuration.
    ring: &'static str,
}

impl Crowd {
    /// Lets them go on for so many rounds, and then until `is_enough`. A push is more than half of what the outbox may hold, so that
    /// it pauses whoever it reaches, until that is sent.
    fn run(&self, engine: Engine, rounds: u32, is_enough: impl Fn(&Bed) -> bool) {
        let config = format!(
            "workers = 1\n[limits]\noutbox_bytes = {}\n{}\n[sockets.all]\nlisten = [\"unix:@/all.sock\"]",
            self.outbox_bytes, self.ring
        );
        let handles = Arc::<Mutex<Vec<Handle>>>::default();
        let theirs = handles.clone();
        let bed = Bed::start(engine, &config, |server| {
            server.service("all", move |_| Reachable(theirs.clone()))
        });
        let path = bed.path("all.sock");
        let clients: Vec<UnixStream> = (0..self.clients).map(|_| connect_unix(&path)).collect();
        bed.until("all connections", |bed| {
            bed.total().open == clients.len() as u64
        });
        let handles = std::mem::take(&mut *handles.lock().unwrap());
        let mut round = 0;
        bed.until("enough rounds", |bed| {
            self.round(round, &clients, &handles);
            round += 1;
            round >= rounds && is_enough(bed)
        });
        let total = bed.total();
        let messages = u64::from(round) * self.clients as u64;
        assert_eq!(total.frames_in, messages * u64::from(self.frames));
        assert_eq!((total.cut, total.failed, total.bad_input), (0, 0, 0));
        assert!(total.pauses >= messages / 2, "{total:?}");
        drop(clients);
        bed.finish();
    }

    fn round(&self, round: u32, clients: &[UnixStream], handles: &[Handle]) {
        let size = |number| match number == self.frames / 2 {
            true => self.large,
            false => self.size,
        };
        let frames: Vec<Vec<u8>> = (0..self.frames)
            .map(|number| frame(size(number), round * 1000 + number))
            .collect();
        let sent = frames.concat();
        let pushed = frame(self.outbox_bytes / 2 + 1, round);
        let message = Bytes::from([&[PUSH][..], &pushed].concat());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for handle in handles {
                    handle.push_shared(&message).unwrap();
                }
            });
            for mut client in clients {
                client.write_all(&sent).unwrap();
            }
        });
        for mut client in clients {
            let (mut frames, mut pushes) = (frames.iter(), [&pushed].into_iter());
            while frames.len() + pushes.len() > 0 {
                let mut kind = [0];
                client.read_exact(&mut kind).unwrap();
                let expected = match kind[0] {
                    ECHO => frames.next().unwrap(),
                    _ => pushes.next().unwrap(),
                };
                let mut received = vec![0; expected.len()];
                client.read_exact(&mut received).unwrap();
                assert!(received == *expected, "kind {}", kind[0]);
            }
        }
    }
}

#[test]
fn who_is_paused_while_it_waits_for_a_buffer_goes_on() {
    let crowd = Crowd {
        clients: 40,
        frames: 10,
        size: 400,
        large: 9_000,
        outbox_bytes: 512 * 1024,
        ring: "[ring]\nbuffers = 2\nbuffer_bytes = 1024",
    };
    for engine in engines() {
        crowd.run(engine, 40, |bed| {
            (bed.counters().starved > 100) == (engine == Engine::Ring)
        });
    }
}

#[test]
fn who_is_paused_while_it_waits_for_the_warm_buffer_goes_on() {
    let crowd = Crowd {
        clients: 8,
        frames: 8,
        size: 16 * 1024,
        large: 70_000,
        outbox_bytes: 1024 * 1024,
        ring: "",
    };
    for engine in engines() {
        crowd.run(engine, 40, |bed| {
            (bed.counters().pieces > 100) == (engine == Engine::Ring)
        });
    }
}

#[test]
fn who_is_paused_while_it_waits_to_be_asked_goes_on() {
    let crowd = Crowd {
        clients: 100,
        frames: 20,
        size: 900,
        large: 9_000,
        outbox_bytes: 512 * 1024,
        ring: "[ring]\nbuffer_bytes = 1024",
    };
    for engine in engines() {
        crowd.run(engine, 40, |bed| {
            (bed.counters().looks > 1000) == (engine == Engine::Ring)
        });
    }
}
