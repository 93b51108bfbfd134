//! What a load makes of the time that passes, one turn after the other.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use super::*;

/// Gives `act` a worker with one connection that has made its first turn, and the server's end of that.
fn with_worker(
    change: impl FnOnce(&mut LoadPlan),
    act: impl FnOnce(Worker<'_>, &mut UnixStream, &LoadPlan),
) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("server.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let mut plan = LoadPlan::new(crate::Address::Unix(path.clone()));
    plan.duration = Duration::from_secs(3600);
    change(&mut plan);
    let template = Template::new(&plan);
    let endpoint = SockAddr::unix(&path).unwrap();
    let share = Share {
        streams: vec![Stream::connect_endpoint(&endpoint, None).unwrap()],
        short_lived: 0,
        count: plan.count,
        rate: plan.rate,
        salt: 1,
    };
    let (mut server, _) = listener.accept().unwrap();
    let mut worker = Worker::new(&plan, &template, &endpoint, share, Instant::now()).unwrap();
    worker.begin(&AtomicBool::new(false));
    assert!(worker.turn(&AtomicBool::new(false)).unwrap());
    act(worker, &mut server, &plan);
}

/// Reads one request: the right reply to it.
fn reply(server: &mut UnixStream, plan: &LoadPlan) -> Vec<u8> {
    let mut request = vec![0; Template::new(plan).message_len()];
    server.read_exact(&mut request).unwrap();
    let mut reply = vec![0x94, 0x01];
    reply.extend_from_slice(&request[2..7]);
    reply.push(0xc0);
    reply.extend_from_slice(&request[request.len() - plan.payload - 2..]);
    reply
}

fn answer(server: &mut UnixStream, plan: &LoadPlan) {
    let reply = reply(server, plan);
    server.write_all(&reply).unwrap();
}

/// Turns that go on, and then have answered so many.
fn turns(worker: &mut Worker<'_>, stop: bool, answered: u64) {
    let stop = AtomicBool::new(stop);
    assert!(worker.turn(&stop).unwrap());
    assert!(!worker.stalled);
    assert_eq!(worker.context.counts.answered, answered);
}

const LONG: Duration = Duration::from_secs(10);

#[test]
fn a_load_that_was_frozen_looks_before_it_finds_a_stall() {
    with_worker(
        |plan| plan.drain = LONG / 2,
        |mut worker, server, plan| {
            answer(server, plan);
            worker.context.freeze(LONG);
            turns(&mut worker, false, 1);
            // The next request was written meanwhile; this one is never answered.
            turns(&mut worker, false, 1);
            worker.context.freeze(LONG);
            turns(&mut worker, false, 1);
            while worker.turn(&AtomicBool::new(false)).unwrap() {}
            assert!(worker.stalled);
        },
    );
}

#[test]
fn a_load_that_was_frozen_looks_before_its_drain_is_over() {
    with_worker(
        |plan| plan.drain = Duration::from_secs(5),
        |mut worker, server, plan| {
            turns(&mut worker, true, 0);
            answer(server, plan);
            worker.context.freeze(LONG);
            turns(&mut worker, true, 1);
            let outcome = worker.settle();
            assert_eq!(outcome.counts.lost, 0, "{:?}", outcome.problems);
        },
    );
}

#[test]
fn a_load_that_was_frozen_looks_before_the_end_of_stream_is_overdue() {
    with_worker(
        |plan| (plan.mode, plan.drain, plan.count) = (Mode::Notify, LONG / 2, Some(1)),
        |mut worker, server, plan| {
            let mut message = vec![0; Template::new(plan).message_len()];
            server.read_exact(&mut message).unwrap();
            assert_eq!(server.read(&mut [0]).unwrap(), 0);
            server.shutdown(std::net::Shutdown::Both).unwrap();
            worker.context.freeze(LONG);
            while worker.turn(&AtomicBool::new(false)).unwrap() {}
            let outcome = worker.settle();
            assert_eq!(outcome.counts.unfinished, 0, "{:?}", outcome.problems);
        },
    );
}

#[test]
fn a_reply_that_comes_slowly_is_no_stall() {
    with_worker(
        |plan| plan.drain = Duration::ZERO,
        |mut worker, server, plan| {
            let reply = reply(server, plan);
            let (last, first) = reply.split_last().unwrap();
            for byte in first {
                server.write_all(&[*byte]).unwrap();
                worker.context.freeze(STALL * 9 / 10);
                turns(&mut worker, false, 0);
            }
            server.write_all(&[*last]).unwrap();
            turns(&mut worker, false, 1);
        },
    );
}

/// A reply that takes more reads than one turn has is read to its end in the next turn, and no event tells of that.
#[test]
fn an_open_loop_goes_on_after_a_reply_that_is_read_without_an_event() {
    with_worker(
        |plan| (plan.rate, plan.drain) = (Some(1000.0), LONG * 2),
        |mut worker, server, plan| {
            worker.context.freeze(LONG);
            turns(&mut worker, false, 0);
            assert!(worker.blocked);
            answer(server, plan);
            // The event is taken, and the connection goes on as if it had read a part of the reply.
            worker.poll.poll(&mut worker.events, None).unwrap();
            assert!(!worker.events.is_empty());
            worker.connections[0].queue(&mut worker.context);
            turns(&mut worker, false, 1);
            assert_eq!(worker.context.counts.sent, 2);
            answer(server, plan);
            turns(&mut worker, false, 2);
        },
    );
}

#[test]
fn what_an_open_loop_did_not_send_is_counted_and_has_its_latency() {
    for (warmup, measured) in [(0, 3999), (2, 4000)] {
        with_worker(
            |plan| {
                plan.rate = Some(1000.0);
                plan.warmup = Duration::from_secs(warmup);
                plan.duration = Duration::from_secs(4);
            },
            |mut worker, server, plan| {
                worker.context.freeze(LONG);
                turns(&mut worker, false, 0);
                answer(server, plan);
                turns(&mut worker, false, 1);
                let outcome = worker.settle();
                assert_eq!(outcome.counts.sent, 1);
                assert_eq!(outcome.overdue, (warmup + 4) * 1000 - 1);
                // The one that was sent is measured, too, unless it was due before the warm-up was over.
                let sent = u64::from(warmup == 0);
                assert_eq!(outcome.latency.count(), measured + sent);
                // All were due before the end, and waited since.
                assert!(outcome.latency.min() >= 3_990_000_000);
                assert!(outcome.latency.max() >= 9_980_000_000 - warmup * 1_000_000_000);
            },
        );
    }
}

#[test]
fn what_is_due_at_the_end_is_sent_if_there_is_room() {
    with_worker(
        |plan| {
            (plan.rate, plan.depth) = (Some(1000.0), 100_000);
            plan.duration = Duration::from_secs(4);
        },
        |mut worker, server, plan| {
            server.set_nonblocking(true).unwrap();
            worker.context.freeze(LONG);
            turns(&mut worker, false, 0);
            let mut buffer = vec![0; 1 << 20];
            let mut received = 0;
            let begun = Instant::now();
            while received < 4000 * Template::new(plan).message_len() {
                match server.read(&mut buffer) {
                    Ok(n) => received += n,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        assert!(begun.elapsed() < Duration::from_secs(120), "{received}");
                        worker.turn(&AtomicBool::new(false)).unwrap();
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            let outcome = worker.settle();
            assert_eq!((outcome.counts.sent, outcome.overdue), (4000, 0));
        },
    );
}

#[test]
fn a_frame_that_is_begun_is_waited_for_as_long_as_the_drain_allows() {
    with_worker(
        |plan| (plan.drain, plan.count) = (LONG, Some(1)),
        |mut worker, server, plan| {
            let chatter = b"\x93\x02\xa1a\x90";
            answer(server, plan);
            server.write_all(&chatter[..2]).unwrap();
            turns(&mut worker, false, 1);
            for _ in 0..3 {
                worker.context.freeze(LONG / 4);
                turns(&mut worker, false, 1);
            }
            server.write_all(&chatter[2..]).unwrap();
            server.shutdown(std::net::Shutdown::Both).unwrap();
            while worker.turn(&AtomicBool::new(false)).unwrap() {}
            let outcome = worker.settle();
            assert_eq!(outcome.counts.notifications, 1);
            assert!(outcome.counts.is_clean(), "{:?}", outcome.problems);
        },
    );
}
