//! Services that keep frames past the call: leases on receive buffers.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use ringhold_core::{Flow, Frame, Peer, Refusal, Reply, Service};

use crate::bed::{Bed, Engine, assert_no_kernel_workers};
use crate::common::client;
use crate::common::random::Random;
use crate::frames::{DIGEST_BYTES, Script, digest, frame};
use crate::services::{Gate, gated};

/// What a service keeps: the number of a frame on its connection, what was lent, and what it was then.
type Kept = (u32, Bytes, [u8; DIGEST_BYTES]);

/// After this frame a service keeps nothing.
const LAST: &[u8] = &[0x7f];

fn check(kept: &Kept) {
    let (number, bytes, then) = kept;
    assert_eq!(digest(*number, bytes), *then, "kept bytes changed");
}

/// Answers with digests as `Digest` does, and keeps every frame by `keep`.
struct Keeper<K>(K);

impl<K: FnMut(Kept) + 'static> Service for Keeper<K> {
    type Session = u32;

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<u32, Refusal> {
        Ok(0)
    }

    fn frame(&mut self, number: &mut u32, frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        let digest = digest(*number, &frame);
        (self.0)((*number, frame.to_bytes(), digest));
        *number += 1;
        reply.write(|out| out.extend_from_slice(&digest));
        Flow::Continue
    }
}

fn start<K: FnMut(Kept) + 'static>(
    engine: Engine,
    buffers: usize,
    make: impl Fn() -> K + Send + Sync + 'static,
) -> (Bed, Gate) {
    let config = format!(
        "workers = 1
        [ring]
        buffers = {buffers}
        buffer_bytes = 4096
        [sockets.keep]
        listen = [\"127.0.0.1:0\"]"
    );
    gated(engine, &config, |server| {
        server.service("keep", move |_| Keeper(make()))
    })
}

/// Frames that can be lent in a buffer of 4 KiB, many in one buffer or one alone, and some that cannot: too small, or
/// in several buffers, or shared as a whole.
fn script(seed: u64) -> Script {
    let mut random = Random::new(seed);
    let sizes = (0..300).map(|_| match random.below(20) {
        0 => 1 + random.below(1000),
        1 => 30_000 + random.below(10_000),
        2 => 66_000 + random.below(50_000),
        3..10 => 1024 + random.below(300),
        _ => 1024 + random.below(3000),
    });
    Script::of(sizes.collect::<Vec<_>>(), seed)
}

/// A client sends frames that can be lent, one at a time, until half of the buffers are. A crowd may do without: whoever has much to
/// say is heard in pieces, of which what is kept is copied.
fn lend_half(bed: &Bed, buffers: usize) {
    // The portable engine lends none.
    let is_ring = bed.engine == Engine::Ring;
    let half = if is_ring { buffers as u64 / 2 } else { 0 };
    let mut client = bed.connect("keep");
    let frame = frame(2000, 0);
    let mut number = 0;
    bed.until("half of the buffers lent", |bed| {
        client.write_all(&frame).unwrap();
        client::expect(&mut client, &digest(number, &frame));
        number += 1;
        bed.counters().leased == half
    });
}

/// Several clients send at once, and everything is answered. Returns the most leases that were seen.
fn drive(bed: &Bed, clients: usize) -> u64 {
    let clients: Vec<_> = (0..clients)
        .map(|i| (bed.connect("keep"), script(i as u64)))
        .collect();
    let mut most = 0;
    std::thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter()
            .map(|(client, script)| {
                scope.spawn(|| client::exchange(client, &script.sent, &script.answers))
            })
            .collect();
        while !threads.iter().all(|thread| thread.is_finished()) {
            most = most.max(bed.counters().leased);
            std::thread::yield_now();
        }
    });
    assert_no_kernel_workers();
    most.max(bed.counters().leased)
}

/// A worker counts its leases when it takes a turn.
fn until_nothing_is_leased(bed: &Bed) {
    let mut client = bed.connect("keep");
    let mut number = 0;
    bed.until("all leases back", |bed| {
        client.write_all(LAST).unwrap();
        client::expect(&mut client, &digest(number, LAST));
        number += 1;
        bed.counters().leased == 0
    });
}

/// At most half of the receive buffers are lent at a time, and in the end all are there again.
fn assert_buffers_are_lent_and_come_back(bed: &Bed, gate: &Gate, buffers: usize) {
    let fresh = gate.lack(bed, "keep", 1, buffers);
    let most = drive(bed, 8);
    assert!(most <= buffers as u64 / 2, "{most} leases");
    lend_half(bed, buffers);
    until_nothing_is_leased(bed);
    gate.assert_all_buffers_are_back(bed, "keep", 1, buffers, fresh);
}

pub(crate) fn a_service_may_keep_more_frames_than_there_are_buffers(engine: Engine) {
    for buffers in [2, 4, 16] {
        let (bed, gate) = start(engine, buffers, || {
            let mut last: VecDeque<Kept> = VecDeque::new();
            move |kept| {
                last.push_back(kept);
                if last.len() > 100 {
                    check(&last.pop_front().unwrap());
                }
                // A client that only nudges clears the rest.
                if last.back().unwrap().1 == LAST {
                    last.drain(..).for_each(|kept| check(&kept));
                }
            }
        });
        assert_buffers_are_lent_and_come_back(&bed, &gate, buffers);
        bed.finish();
    }
}

pub(crate) fn frames_may_be_dropped_on_another_thread(engine: Engine) {
    for buffers in [2, 16] {
        let (sender, receiver): (Sender<Kept>, Receiver<Kept>) = channel();
        let holder = std::thread::spawn(move || {
            let mut random = Random::new(1);
            let mut held: Vec<Kept> = Vec::new();
            for kept in receiver {
                held.push(kept);
                // In any order, so that of the frames of one buffer now the first, now the last goes last.
                while held.len() > 60 {
                    check(&held.swap_remove(random.below(held.len())));
                }
            }
            held.iter().for_each(check);
        });
        let sender = Mutex::new(Some(sender));
        let (bed, gate) = start(engine, buffers, move || {
            // There is one worker.
            let mut sender = Some(sender.lock().unwrap().take().unwrap());
            move |kept: Kept| {
                let ends = kept.1 == LAST;
                if let Some(open) = &sender {
                    open.send(kept).unwrap();
                }
                if ends {
                    sender = None;
                }
            }
        });
        assert_buffers_are_lent_and_come_back(&bed, &gate, buffers);
        holder.join().unwrap();
        bed.finish();
    }
}

pub(crate) fn frames_may_outlive_their_worker(engine: Engine) {
    let all: Arc<Mutex<Vec<Kept>>> = Arc::default();
    let kept = all.clone();
    let (bed, _) = start(engine, 8, move || {
        let all = kept.clone();
        move |kept| all.lock().unwrap().push(kept)
    });
    drive(&bed, 4);
    lend_half(&bed, 8);
    let snapshot = bed.finish_with_leases();
    if engine == Engine::Ring {
        assert_eq!(snapshot.workers[0].engine.leased, 4, "half of the buffers");
    }
    let all = std::mem::take(&mut *all.lock().unwrap());
    assert!(all.len() > 4 * 300);
    all.iter().for_each(check);
}
