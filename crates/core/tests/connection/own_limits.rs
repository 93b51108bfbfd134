//! Sockets of one worker whose connections have different limits.

use std::time::Duration;

use ringhold_core::limits::Limits;
use ringhold_core::testing::{Client, Setup};
use ringhold_core::{Flow, Frame, Peer, PushError, Refusal, Reply, RestoreError, Saved, Service};

use crate::service::{Manner, Rig, bin, defer};

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Both sockets, with one connection each: the usual one and one with limits of its own.
fn both(limits: Limits, own: Limits) -> (Rig, [Client; 2]) {
    let manner = Manner {
        makes_handles: true,
        apology: Some(0x2b),
        ..Manner::default()
    };
    let mut rig = Rig::with_own(limits, own, manner);
    let clients = ["usual", "own"].map(|name| rig.connect_to(name));
    (rig, clients)
}

fn frame_bytes(frame_bytes: usize) -> Limits {
    Limits {
        frame_bytes,
        ..Limits::default()
    }
}

/// Those that look like one before, too, which are not read object by object.
#[test]
fn each_socket_takes_frames_up_to_its_own_length() {
    for (usual, own) in [(30, 29), (30, 1_000_000), (29, 30)] {
        let (mut rig, clients) = both(frame_bytes(usual), frame_bytes(own));
        let shorter = bin(24, 1);
        for client in clients.repeat(6) {
            rig.receive(client, &shorter);
            assert_eq!(rig.take_sent(client), shorter);
        }
        let longer = bin(25, 2);
        let [wide, narrow] = match usual < own {
            true => [clients[1], clients[0]],
            false => clients,
        };
        let is_narrow = usual.min(own) < 30;
        for _ in 0..6 {
            rig.receive(wide, &longer);
            assert_eq!(rig.take_sent(wide), longer);
        }
        rig.receive(narrow, &longer);
        assert_eq!(rig.is_shut(narrow), is_narrow);
        assert_eq!(
            rig.take_sent(narrow),
            if is_narrow { vec![] } else { longer.clone() }
        );
        rig.receive(wide, &longer);
        assert_eq!(rig.take_sent(wide), longer);
    }
}

/// Pieces of frames of both sockets come by turns.
#[test]
fn frames_in_pieces_are_held_to_the_length_of_their_socket() {
    let (mut rig, clients) = both(frame_bytes(2000), frame_bytes(100));
    let (long, short) = (bin(1995, 1), bin(95, 2));
    for piece in 0..20 {
        rig.receive(clients[0], &long[piece * 100..(piece + 1) * 100]);
        rig.receive(clients[1], &short[piece * 5..(piece + 1) * 5]);
    }
    assert!(rig.take_sent(clients[0]) == long && rig.take_sent(clients[1]) == short);
    rig.receive(clients[0], &long[..6]);
    rig.receive(clients[1], &long[..6]);
    assert!(rig.is_open(clients[0]) && rig.is_shut(clients[1]));
    rig.receive(clients[0], &long[6..]);
    assert!(rig.take_sent(clients[0]) == long);
}

#[test]
fn each_socket_has_room_for_its_own_replies_and_pushes() {
    let outbox = |outbox_bytes| Limits {
        outbox_bytes,
        ..Limits::default()
    };
    for (usual, own) in [(100_000, 10_000), (10_000, 100_000)] {
        let (mut rig, clients) = both(outbox(usual), outbox(own));
        let stream: Vec<u8> = (0..80).flat_map(|i| bin(995, i)).collect();
        let dispatched = clients.map(|client| {
            rig.set_window(client, Some(0));
            let before = rig.frames();
            rig.receive(client, &stream);
            rig.frames() - before
        });
        // One more than half of it.
        assert_eq!(dispatched, [usual, own].map(|bytes| bytes / 2000 + 1));
        for (limit, client) in [usual, own].into_iter().zip(0..) {
            let handle = rig.seen().handles[client].clone();
            assert_eq!(handle.push(vec![0xc0; limit]), Ok(()));
            assert_eq!(handle.push(vec![0xc0]), Err(PushError::Overflow));
        }
        rig.deliver();
        let why = "more was pushed to the connection than outbox_bytes allows";
        for client in clients {
            rig.set_window(client, None);
        }
        assert!(rig.reasons().iter().all(|reason| reason == why));
        rig.let_go();
    }
}

#[test]
fn each_socket_has_its_own_number_of_promises() {
    let promises = |promises| Limits {
        promises,
        ..Limits::default()
    };
    let (mut rig, clients) = both(promises(4), promises(9));
    let mut kept = Vec::new();
    for (client, most) in clients.into_iter().zip([4, 9]) {
        rig.receive(client, &defer(1).repeat(20));
        let responders = rig.take_responders();
        assert_eq!(responders.len(), most);
        // It goes on when fewer than half of them are left.
        let half = most.div_ceil(2);
        let mut left = responders.into_iter();
        for (answered, responder) in left.by_ref().enumerate().take(most - half + 1) {
            assert_eq!(rig.seen().responders.len(), 0, "{answered} are answered");
            responder.answer(vec![0xc0]);
            rig.deliver();
        }
        let next = rig.take_responders();
        assert_eq!(next.len(), most - half + 1);
        // Those of this client that are dropped would have it go on.
        kept.extend(left.chain(next));
    }
    rig.let_go();
}

/// Of each limit the one of the socket holds, whether it is shorter or longer, and whether the other is one at all.
#[test]
fn each_socket_has_its_own_times() {
    type Set = fn(&mut Limits, Duration);
    let idle: Set = |limits, time| limits.idle_timeout = time;
    let frame: Set = |limits, time| limits.frame_timeout = time;
    let write: Set = |limits, time| limits.write_timeout = time;
    let reply: Set = |limits, time| limits.reply_timeout = time;
    let promise: Set = |limits, time| limits.promise_timeout = time;
    for (number, set) in [idle, frame, write, reply, promise].into_iter().enumerate() {
        for times in [[1000, 3000], [3000, 1000], [0, 1000], [1000, 0]] {
            let [usual, own] = times.map(|time| {
                let mut limits = Limits::default();
                for set in [idle, frame, write, reply, promise] {
                    set(&mut limits, Duration::ZERO);
                }
                set(&mut limits, ms(time));
                limits
            });
            let (mut rig, clients) = both(usual, own);
            for client in clients {
                rig.set_window(client, (number == 2).then_some(0));
                match number {
                    0 => {}
                    1 => drop(rig.receive(client, &bin(9, 1)[..7])),
                    2 => drop(rig.receive(client, &bin(9, 1))),
                    _ => drop(rig.receive(client, &defer(1))),
                }
                if number == 3 {
                    rig.end(client);
                }
            }
            let over = |rig: &Rig| match number {
                3 | 4 => rig
                    .seen()
                    .abandoned
                    .iter()
                    .map(|(client, ..)| *client)
                    .collect(),
                _ => rig
                    .seen()
                    .ends
                    .iter()
                    .map(|(client, _)| *client)
                    .collect::<Vec<_>>(),
            };
            let mut expected = Vec::new();
            for (step, now) in [(999, 0), (33, 1000), (1967, 0), (33, 3000), (100_000, 0)] {
                rig.advance(ms(step));
                expected.extend((0..2).filter(|client| now > 0 && times[*client] == now));
                assert_eq!(over(&rig), expected, "limit {number} of {times:?}");
            }
            rig.let_go();
        }
    }
}

/// Doubles what it is sent.
struct Twice;

impl Service for Twice {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, _: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        reply.write(|out| out.extend_from_slice(&frame.repeat(2)));
        Flow::Continue
    }

    fn save(&self, _: &()) -> Saved {
        Saved::Stateless
    }

    fn restore(&mut self, _: &Peer<'_>, _: &[u8]) -> Result<(), RestoreError> {
        Ok(())
    }
}

/// Also to a frame that had begun in the predecessor.
#[test]
fn a_successor_holds_connections_to_its_own_limits() {
    let setup = |bytes| {
        let setup = Setup::new(frame_bytes(100)).service("twice", &["usual"], |_| Twice);
        setup.socket("own", frame_bytes(bytes))
    };
    let mut exchange = setup(1000).start();
    let clients = ["own", "own", "usual"].map(|name| exchange.connect_to(name));
    let [long, short] = [bin(195, 1), bin(45, 2)];
    for (client, frame) in clients.into_iter().zip([&long, &short, &short]) {
        exchange.receive(client, &frame[..20]);
    }
    let mut exchange = exchange.hand_over_to(setup(100));
    for (client, frame) in clients.into_iter().zip([&long, &short, &short]) {
        exchange.receive(client, &frame[20..]);
    }
    assert!(exchange.is_shut(clients[0]));
    assert_eq!(exchange.take_sent(clients[0]), []);
    for client in &clients[1..] {
        assert_eq!(exchange.take_sent(*client), short.repeat(2));
    }
}
