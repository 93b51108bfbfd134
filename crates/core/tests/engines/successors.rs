//! Random clients whose connections go from one successor to the next, again and again, in the middle of everything: frames
//! in random pieces, peers that read little or nothing, that end their side or reset; replies that are written, shared or
//! deferred, and answers to those that come early, late or never; pushes of a connection to itself, to all, and from outside;
//! sessions that are saved, stateless, or cannot be handed over.
//!
//! Whatever happens, and in whichever order, each client gets every reply, every answer and every push that was accepted
//! once, and replies and pushes in their order, unless it gave a reason why not. Each frame is given to one service once.
//!
//! What happens follows from a seed; `RINGHOLD_SEEDS` chooses others than the usual ones, as for [`crate::alike`].

mod peer;
mod service;

use std::ops::Range;
use std::time::Duration;

use ringhold_core::limits::Limits;
use ringhold_core::testing::Exchange;

use self::peer::Peer;
use self::service::{Careful, How, World};
use crate::alike::seeds;
use crate::common::random::Random;

/// The seeds of an ordinary run.
const SEEDS: Range<u64> = 0..100;

const PEERS_MAX: usize = 6;
const OUTBOX_BYTES: usize = 20_000;

/// Says which seed it was if the test fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Seed(seed) = *self;
            eprintln!("again with RINGHOLD_SEEDS={seed}..{}", seed + 1);
        }
    }
}

/// Everything that happens with one seed, apart from the exchange, which changes with each handover.
struct Stage {
    random: Random,
    world: World,
    peers: Vec<Peer>,
    /// What has happened so far, to see that the usual seeds let everything happen.
    seen: Seen,
}

/// How often what happened.
#[derive(Default)]
struct Seen {
    restored: u64,
    unsaved: u64,
    overflows: u64,
    asked: u64,
    abandoned: u64,
    again: u64,
}

#[test]
fn nothing_is_lost_or_doubled_however_often_connections_are_handed_over() {
    let seeds = seeds(SEEDS);
    let mut all = Seen::default();
    for seed in seeds.clone() {
        let _seed = Seed(seed);
        let seen = Stage::new(seed).run();
        all.restored += seen.restored;
        all.unsaved += seen.unsaved;
        all.overflows += seen.overflows;
        all.asked += seen.asked;
        all.abandoned += seen.abandoned;
        all.again += seen.again;
    }
    if seeds.end - seeds.start >= SEEDS.end {
        let Seen {
            restored,
            unsaved,
            overflows,
            asked,
            abandoned,
            again,
        } = all;
        let all = [restored, unsaved, overflows, asked, abandoned, again];
        assert!(all.iter().all(|count| *count >= 5), "{all:?}");
    }
}

impl Stage {
    fn new(seed: u64) -> Self {
        Stage {
            random: Random::new(seed),
            world: World::default(),
            peers: Vec::new(),
            seen: Seen::default(),
        }
    }

    fn run(mut self) -> Seen {
        let limits = Limits {
            frame_bytes: 150_000,
            outbox_bytes: OUTBOX_BYTES,
            memory: 8_000_000,
            promises: self.random.pick(&[3, 10, 1000]),
            ..Limits::default()
        };
        let service = Careful::new(self.world.clone());
        let mut exchange = Exchange::with_limits(service, limits);
        for _ in 0..20 + self.random.below(120) {
            exchange = self.step(exchange);
            self.collect(&mut exchange);
        }
        for peer in &mut self.peers {
            peer.set_window(None, &mut exchange);
        }
        // Who is owed less is given more.
        while self.world.answer_all() {
            exchange.deliver();
        }
        // Who has not read for a while is served as far ahead as others when that was noticed.
        exchange.advance(Duration::from_millis(100));
        while self.world.answer_all() {
            exchange.deliver();
        }
        self.collect(&mut exchange);
        self.world.check();
        for peer in &self.peers {
            peer.check(&self.world, &mut exchange);
        }
        self.count(&exchange);
        self.end(exchange);
        self.seen
    }

    fn step(&mut self, mut exchange: Exchange) -> Exchange {
        let random = &mut self.random;
        let count = self.peers.len();
        if count == 0 || count < PEERS_MAX && random.once_in(8) {
            self.peers.push(Peer::new(count as u32, exchange.connect()));
            return exchange;
        }
        let number = random.below(count);
        let peer = &mut self.peers[number];
        match random.below(40) {
            0..=19 => peer.send(random, &mut exchange),
            20..=23 => {
                let some = random.below(OUTBOX_BYTES);
                let window = random.pick(&[None, Some(0), Some(0), Some(some)]);
                peer.set_window(window, &mut exchange);
            }
            24 if random.once_in(3) => peer.end(&mut exchange),
            25 if random.once_in(8) => peer.reset(&mut exchange),
            26..=30 => {
                let chosen = random.below(1 << 16);
                let how = random.pick(&[How::Drop, How::Answer, How::Answer, How::Try, How::Try]);
                if self.world.answer_one(chosen, how) && random.once_in(2) {
                    exchange.deliver();
                }
            }
            31..=34 => {
                let most = random.pick(&[100, 3000, 12_000]);
                for _ in 0..1 + random.below(4) {
                    self.world.push(number as u32, random.below(most));
                }
                if random.once_in(2) {
                    exchange.deliver();
                }
            }
            35 if random.once_in(4) => {
                self.world.close(number as u32);
                if random.once_in(2) {
                    exchange.deliver();
                }
            }
            35..=37 => exchange.advance(Duration::from_millis(random.below(60) as u64)),
            38 | 39 if random.once_in(2) => {
                let again = random.once_in(4);
                let exchange = self.hand_over(exchange);
                return match again {
                    true => self.hand_over(exchange),
                    false => exchange,
                };
            }
            _ => {}
        }
        exchange
    }

    fn hand_over(&mut self, mut exchange: Exchange) -> Exchange {
        if self.random.once_in(3) {
            exchange.deliver();
        }
        for peer in &mut self.peers {
            peer.before_handover(&self.world, &exchange);
        }
        self.count(&exchange);
        let exchange = exchange.hand_over(|_| Careful::new(self.world.clone()));
        for peer in &mut self.peers {
            peer.after_handover(&exchange);
        }
        self.seen.restored += exchange.counters().restored;
        assert_eq!(exchange.counters().open, self.open(&exchange));
        exchange
    }

    /// Adds what this exchange has counted. What happens in a handover itself is not seen.
    fn count(&mut self, exchange: &Exchange) {
        let counters = exchange.counters();
        self.seen.overflows += counters.cut;
        self.seen.asked += counters.ended_by_service;
        self.seen.abandoned += counters.abandoned;
    }

    /// How many connections are open.
    fn open(&self, exchange: &Exchange) -> u64 {
        let open = |peer: &&Peer| exchange.is_open(peer.client);
        self.peers.iter().filter(open).count() as u64
    }

    fn collect(&mut self, exchange: &mut Exchange) {
        for peer in &mut self.peers {
            peer.collect(exchange);
        }
    }

    /// All clients leave, and nothing is left of them.
    fn end(&mut self, mut exchange: Exchange) {
        self.seen.unsaved += self.world.unsaved();
        self.seen.again += self.world.asked_again();
        for peer in &mut self.peers {
            peer.end(&mut exchange);
        }
        exchange.deliver();
        exchange.advance(Duration::from_secs(3));
        assert_eq!(self.open(&exchange), 0);
        assert_eq!(exchange.counters().open, 0);
        assert_eq!(exchange.memory_held(), 0);
    }
}
