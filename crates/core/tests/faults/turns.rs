//! Services that take long for each frame.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ringhold_core::metrics::Metrics;
use ringhold_core::{Flow, Frame, Peer, Refusal, Reply, Service};

use crate::bed::{Bed, Engine};
use crate::common::client;

const CONFIG: &str = "
    workers = 1
    [handover]
    drain = \"0s\"
    [sockets.slow]
    listen = [\"127.0.0.1:0\", \"unix:@/slow\"]";

/// Asks for something slow, and is the answer.
const SLOW: u8 = 1;
/// Asks how many of them were answered before it, and ends the slowness.
const COUNT: u8 = 2;

/// Asks for nothing but itself.
const FAST: u8 = 3;

#[derive(Default)]
struct Seen {
    count: AtomicU64,
    /// The most slow ones that came in one turn of the worker.
    most: AtomicU64,
}

struct Slow {
    seen: Arc<Seen>,
    metrics: Arc<Metrics>,
    /// The turn of the last frame, and how many came in it.
    turn: (u64, u64),
    is_over: bool,
}

impl Service for Slow {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, _: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        if frame[0] == FAST {
            reply.write(|out| out.push(FAST));
            return Flow::Continue;
        }
        let count = self.seen.count.fetch_add(1, Ordering::Relaxed);
        if frame[0] == COUNT {
            self.is_over = true;
            reply.write(|out| {
                out.push(0xcf);
                out.extend_from_slice(&count.to_be_bytes());
            });
            return Flow::Continue;
        }
        if !self.is_over {
            std::thread::sleep(Duration::from_millis(4));
        }
        let turn = self.metrics.snapshot().workers[0].engine.turns;
        let before = if self.turn.0 == turn { self.turn.1 } else { 0 };
        self.turn = (turn, before + 1);
        self.seen.most.fetch_max(before + 1, Ordering::Relaxed);
        reply.write(|out| out.push(SLOW));
        Flow::Continue
    }
}

fn start(engine: Engine) -> (Bed, Arc<Seen>) {
    let seen = Arc::<Seen>::default();
    let bed = Bed::start(engine, CONFIG, |server| {
        let seen = seen.clone();
        server.service("slow", move |worker| Slow {
            seen: seen.clone(),
            metrics: worker.metrics().clone(),
            turn: (0, 0),
            is_over: false,
        })
    });
    (bed, seen)
}

pub(crate) fn who_asks_for_much_that_is_slow_holds_up_nobody_else(engine: Engine) {
    const ASKED: usize = 2000;
    let (bed, seen) = start(engine);
    let [mut busy, mut other] = [(); 2].map(|()| bed.connect("slow"));
    busy.write_all(&[SLOW; ASKED]).unwrap();
    bed.until("it is slow", |_| seen.count.load(Ordering::Relaxed) > 0);
    other.write_all(&[COUNT]).unwrap();
    let mut answer = [0; 9];
    other.read_exact(&mut answer).unwrap();
    let before = u64::from_be_bytes(answer[1..].try_into().unwrap());
    assert!(before < ASKED as u64, "{before}");
    client::expect(&mut busy, &[SLOW; ASKED]);
    bed.end();
}

/// Answers leave and others are looked for in between, so that the worker is not taken for one that is stuck.
pub(crate) fn many_who_ask_for_what_is_slow_share_a_turn(engine: Engine) {
    const ASKED: usize = 40;
    let (bed, seen) = start(engine);
    let mut clients: Vec<_> = (0..20).map(|_| bed.connect("slow")).collect();
    for client in &mut clients {
        client.write_all(&[SLOW; ASKED]).unwrap();
    }
    for client in &mut clients {
        client::expect(client, &[SLOW; ASKED]);
    }
    // Some of them come before the others' frames, some behind them. 50 ms are 13 for either.
    let most = seen.most.load(Ordering::Relaxed);
    assert!(most <= 100, "{most}");
    bed.end();
}

/// However many fast ones came before them.
pub(crate) fn what_is_slow_may_follow_what_is_fast(engine: Engine) {
    let asked = [[FAST; 1025].as_slice(), &[SLOW; 500]].concat();
    let (bed, seen) = start(engine);
    let mut client = bed.connect("slow");
    client.write_all(&asked).unwrap();
    client::expect(&mut client, &asked);
    let most = seen.most.load(Ordering::Relaxed);
    assert!(most <= 200, "{most}");
    bed.end();
}

/// Asks for much and leaves when the first of it is being answered.
fn leave(bed: &Bed, seen: &Seen, mut client: impl Read + Write, is_answered: bool) {
    const ASKED: usize = 100;
    let before = bed.total();
    let given = seen.count.load(Ordering::Relaxed);
    if is_answered {
        // An answer that was not read makes a reset of the close at once, and otherwise the next one does.
        client.write_all(&[FAST]).unwrap();
        bed.until("it is answered", |bed| {
            bed.total().bytes_out == before.bytes_out + 1
        });
    }
    client.write_all(&[SLOW; ASKED]).unwrap();
    bed.until("it is slow", |_| seen.count.load(Ordering::Relaxed) > given);
    drop(client);
    bed.until("it is gone", |bed| bed.total().open == 0);
    let after = bed.total();
    assert_eq!(
        after.bytes_in - before.bytes_in,
        after.frames_in - before.frames_in
    );
    assert_eq!(seen.count.load(Ordering::Relaxed), given + ASKED as u64);
    assert_eq!(after.failed, before.failed + 1);
}

pub(crate) fn what_came_before_a_reset_is_given_to_the_service(engine: Engine) {
    let (bed, seen) = start(engine);
    for is_answered in [false, true] {
        leave(&bed, &seen, bed.connect("slow"), is_answered);
        leave(&bed, &seen, bed.connect_unix("slow"), is_answered);
    }
    bed.until("memory back", |bed| bed.memory_held() == 0);
    bed.end();
}

/// The first replies come back as a reset while requests are still received, so that a send fails before they all are.
pub(crate) fn much_may_come_before_a_reset(engine: Engine) {
    const ROUNDS: usize = 60;
    let (bed, _) = start(engine);
    for round in 0..ROUNDS {
        let before = bed.total();
        let asked = 200 + round * 2477;
        let is_unix = round % 2 == 1;
        let mut client: Box<dyn Write> = match is_unix {
            true => Box::new(bed.connect_unix("slow")),
            false => Box::new(bed.connect("slow")),
        };
        client.write_all(&[FAST]).unwrap();
        if round % 4 < 2 {
            bed.until("it is answered", |bed| {
                bed.total().bytes_out > before.bytes_out
            });
        }
        for piece in vec![FAST; asked].chunks(1 + (round * 131) % 5000) {
            client.write_all(piece).unwrap();
        }
        drop(client);
        bed.until("it is gone", |bed| {
            let total = bed.total();
            total.opened > before.opened && total.open == 0
        });
        let after = bed.total();
        let received = after.bytes_in - before.bytes_in;
        assert_eq!(after.frames_in - before.frames_in, received);
        // The kernel of a client drops with its end what it has not sent, but over a unix socket it has sent everything.
        if is_unix {
            assert_eq!(received, 1 + asked as u64);
        }
    }
    bed.end();
}

pub(crate) fn many_may_reset_while_the_worker_is_busy(engine: Engine) {
    const ASKED: usize = 30;
    const COUNT: usize = 10;
    let (bed, seen) = start(engine);
    let mut clients: Vec<_> = (0..COUNT).map(|_| bed.connect("slow")).collect();
    for client in &mut clients {
        client.write_all(&[SLOW; ASKED]).unwrap();
    }
    bed.until_received((COUNT * ASKED) as u64);
    clients.into_iter().for_each(client::reset);
    bed.until("they are gone", |bed| bed.total().open == 0);
    assert_eq!(seen.count.load(Ordering::Relaxed), (COUNT * ASKED) as u64);
    assert_eq!(bed.total().failed, COUNT as u64);
    bed.end();
}

/// Whoever reads is not cut because the service takes longer than its peer is waited for.
pub(crate) fn a_stop_waits_for_the_service_longer_than_for_the_peer(engine: Engine) {
    for (count, asked) in [(1, 500), (20, 25)] {
        let (bed, seen) = start(engine);
        let mut clients: Vec<_> = (0..count).map(|_| bed.connect("slow")).collect();
        for client in &mut clients {
            client.write_all(&vec![SLOW; asked]).unwrap();
        }
        bed.until_received((count * asked) as u64);
        bed.stop();
        let readers: Vec<_> = clients
            .into_iter()
            .map(|mut client| std::thread::spawn(move || client::rest(&mut client)))
            .collect();
        for reader in readers {
            assert_eq!(reader.join().unwrap(), vec![SLOW; asked]);
        }
        assert_eq!(seen.count.load(Ordering::Relaxed), (count * asked) as u64);
        assert_eq!(bed.total().timed_out, 0);
        bed.end();
    }
}
