//! Several services on one worker, as a daemon has them.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use ringhold_core::limits::Limits;
use ringhold_core::testing::{Exchange, Setup};
use ringhold_core::{
    Flow, Frame, Peer, Refusal, Reply, RestoreError, Saved, Service, Tick, Worker,
};

/// Adds what it is sent, over restarts and for each connection too, and answers with both sums behind its own mark.
struct Sums {
    mark: u8,
    total: u8,
    frames: Arc<AtomicU64>,
}

impl Sums {
    fn new(mark: u8) -> impl FnOnce(&Worker) -> Sums {
        move |worker| Sums {
            mark,
            total: worker.taken_over().iter().map(|left| left[0]).sum(),
            frames: worker.counter("frames", "Frames.", &[]),
        }
    }
}

impl Service for Sums {
    type Session = u8;

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<u8, Refusal> {
        Ok(0)
    }

    fn frame(&mut self, sum: &mut u8, frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        *sum += frame[0];
        self.total += frame[0];
        self.frames.fetch_add(1, Ordering::Relaxed);
        reply.write(|out| out.extend_from_slice(&[self.mark, *sum, self.total]));
        Flow::Continue
    }

    fn save(&self, sum: &u8) -> Saved {
        Saved::Bytes(vec![*sum].into())
    }

    fn restore(&mut self, _: &Peer<'_>, saved: &[u8]) -> Result<u8, RestoreError> {
        Ok(saved[0])
    }

    fn hand_over(&mut self, _: &Tick<'_>) -> Option<Bytes> {
        Some(vec![self.total].into())
    }
}

const A: u8 = 0x0a;
const B: u8 = 0x0b;
const C: u8 = 0x0c;

fn both() -> Setup<'static> {
    Setup::new(Limits::default())
        .service("a", &["a", "also-a"], Sums::new(A))
        .service("b", &["b"], Sums::new(B))
}

#[test]
fn each_socket_is_answered_by_its_service() {
    let mut exchange = both().start();
    let clients = ["a", "also-a", "b"].map(|name| exchange.connect_to(name));
    for (client, answer) in clients.into_iter().zip([[A, 1, 1], [A, 1, 2], [B, 1, 1]]) {
        exchange.receive(client, &[1]);
        assert_eq!(exchange.take_sent(client), answer);
    }
    let first = exchange.connect();
    exchange.receive(first, &[1]);
    assert_eq!(exchange.take_sent(first), [A, 1, 3]);
    let snapshot = exchange.snapshot();
    let of_sockets = ["a", "also-a", "b"].map(|name| snapshot.name(name).unwrap().frames_in);
    assert_eq!(of_sockets, [2, 1, 1]);
    let mut own: Vec<_> = snapshot.own[0].values.iter().collect();
    own.sort_by_key(|number| number.service.clone());
    let own: Vec<_> = own
        .iter()
        .map(|number| (&*number.service, number.value))
        .collect();
    assert_eq!(own, [("a", 3), ("b", 1)]);
}

#[test]
fn each_service_goes_on_with_what_is_its_own() {
    let mut exchange = both().start();
    let clients = ["a", "also-a", "b"].map(|name| exchange.connect_to(name));
    for client in clients {
        exchange.receive(client, &[1]);
        exchange.take_sent(client);
    }
    // In another order.
    let next = Setup::new(Limits::default())
        .service("b", &["b"], Sums::new(B))
        .service("a", &["also-a", "a"], Sums::new(A));
    let mut exchange = exchange.hand_over_to(next);
    for (client, answer) in clients.into_iter().zip([[A, 3, 4], [A, 3, 6], [B, 3, 3]]) {
        exchange.receive(client, &[2]);
        assert_eq!(exchange.take_sent(client), answer);
    }
    assert_eq!(exchange.counters().restored, 3);
}

#[test]
fn a_connection_ends_when_another_service_answers_on_its_socket() {
    let mut exchange = both().start();
    let [a, b] = ["a", "b"].map(|name| exchange.connect_to(name));
    let next = Setup::new(Limits::default())
        .service("a", &["a"], Sums::new(A))
        .service("c", &["b"], Sums::new(C));
    let mut exchange = exchange.hand_over_to(next);
    assert!(exchange.is_open(a) && !exchange.is_open(b));
    let again = exchange.connect_to("b");
    exchange.receive(again, &[1]);
    assert_eq!(exchange.take_sent(again), [C, 1, 1]);
}

#[test]
fn limits_are_those_of_the_successor() {
    let one_byte = Limits {
        frame_bytes: 1,
        ..Limits::default()
    };
    let mut exchange = Setup::new(one_byte.clone())
        .service("a", &["a"], Sums::new(A))
        .start();
    let client = exchange.connect();
    let next = Setup::new(Limits::default()).service("a", &["a"], Sums::new(A));
    let mut exchange = exchange.hand_over_to(next);
    exchange.receive(client, b"\xa1x");
    assert!(exchange.is_open(client));
    let mut exchange =
        exchange.hand_over_to(Setup::new(one_byte).service("a", &["a"], Sums::new(A)));
    exchange.receive(client, b"\xa1x");
    assert!(!exchange.is_open(client));
}

/// Sends its own mark into what the application has, once for each frame.
struct Scribe(u8, UnixStream);

impl Service for Scribe {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, _: &mut (), _: Frame<'_>, _: &mut Reply<'_>) -> Flow {
        self.1.write_all(&[self.0]).unwrap();
        Flow::Continue
    }

    fn save(&self, _: &()) -> Saved {
        Saved::Stateless
    }
}

fn scribe(mark: u8, descriptor: &str) -> impl FnOnce(&Worker) -> Scribe {
    move |worker| Scribe(mark, worker.descriptor(descriptor).into())
}

#[test]
fn the_descriptors_of_the_application_stay_and_others_may_come() {
    let pair = || UnixStream::pair().unwrap();
    let ((mut old, its_end), (mut unused, another), (mut new, new_end)) = (pair(), pair(), pair());
    let mut exchange = Setup::new(Limits::default())
        .service("a", &["a"], scribe(1, "old"))
        .descriptor("old", its_end)
        .start();
    let client = exchange.connect();
    exchange.receive(client, &[0]);
    let next = Setup::new(Limits::default())
        .service("a", &["a"], scribe(2, "old"))
        .service("b", &["b"], scribe(3, "new"))
        .descriptor("old", another)
        .descriptor("new", new_end);
    let mut exchange = exchange.hand_over_to(next);
    let other = exchange.connect_to("b");
    exchange.receive(client, &[0]);
    exchange.receive(other, &[0]);
    // One that says nothing of descriptors has all of them.
    let next = Setup::new(Limits::default())
        .service("a", &["a"], scribe(4, "old"))
        .service("b", &["b"], scribe(5, "new"));
    let mut exchange = exchange.hand_over_to(next);
    exchange.receive(client, &[0]);
    exchange.receive(other, &[0]);
    drop(exchange);
    let read = |from: &mut UnixStream| {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).unwrap();
        bytes
    };
    assert_eq!(read(&mut old), [1, 2, 4]);
    assert_eq!(read(&mut new), [3, 5]);
    assert_eq!(read(&mut unused), []);
}

#[test]
fn what_cannot_be_is_said() {
    let said = |make: fn() -> Exchange| {
        let panic = std::panic::catch_unwind(|| drop(make())).unwrap_err();
        *panic.downcast::<String>().unwrap_or_else(|panic| {
            Box::new(
                panic
                    .downcast_ref::<&str>()
                    .copied()
                    .unwrap_or_default()
                    .to_owned(),
            )
        })
    };
    let twice = || both().service("a", &["c"], Sums::new(A)).start();
    assert_eq!(said(twice), r#"there are two services named "a""#);
    let shared = || both().service("c", &["b"], Sums::new(C)).start();
    assert_eq!(said(shared), r#"there are two sockets named "b""#);
    let alone = || both().start().hand_over(Sums::new(A));
    assert_eq!(
        said(alone),
        "there are several services, which hand_over_to takes"
    );
    let gone = || {
        let mut exchange = both().start();
        exchange.connect_to("b");
        exchange.hand_over_to(Setup::new(Limits::default()).service("a", &["a"], Sums::new(A)))
    };
    let expected = r#"the successor has no socket "b", which clients are connected to"#;
    assert_eq!(said(gone), expected);
}
