//! Time limits on connections that are not read, or not written to: they do not run.

use std::time::Duration;

use super::setup::Left;
use super::{Client, Exchange, alone};
use crate::crew::Step;
use crate::frame::Frame;
use crate::limits::Limits;
use crate::peer::Peer;
use crate::reply::Reply;
use crate::service::{Flow, Refusal, Saved, Service};

/// Answers every frame with a byte, and is handed over.
struct Plain;

impl Service for Plain {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, _: &mut (), _: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        reply.write(|out| out.push(7));
        Flow::Continue
    }

    fn save(&self, _: &()) -> Saved {
        Saved::Stateless
    }
}

const LIMIT: Duration = Duration::from_secs(2);

fn limits() -> Limits {
    Limits {
        idle_timeout: LIMIT,
        frame_timeout: LIMIT,
        write_timeout: LIMIT,
        ..Limits::default()
    }
}

fn are_open(exchange: &Exchange, clients: &[Client]) -> bool {
    clients.iter().all(|client| exchange.is_open(*client))
}

/// They are served until all workers know that nothing is waited for. Then they are read no more, and not handed over before
/// all workers rest.
#[test]
fn nobody_is_cut_while_a_handover_waits_for_a_busy_worker() {
    let mut exchange = Exchange::with_limits(Plain, limits());
    let _mailbox = exchange.add_busy_worker(1 << 30);
    let crew = exchange.shard.desk.crew.clone();
    // One says nothing, and one is in the middle of a frame.
    let clients = [exchange.connect(), exchange.connect()];
    exchange.receive(clients[1], &[0x92]);
    exchange.begin_stop(Duration::ZERO, true);
    assert!(clients.iter().all(|client| exchange.reads(*client)));
    let now = exchange.now;
    let next_due = exchange.shard.next_due();
    assert!(next_due.is_none_or(|due| due > now), "it sleeps");
    assert!(crew.all_part(1));
    exchange.deliver();
    assert!(clients.iter().all(|client| !exchange.reads(*client)));
    for _ in 0..4 {
        // What they send meanwhile waits for the successor.
        exchange.receive(clients[0], &[0x01]);
        exchange.receive(clients[1], &[0x01]);
        exchange.advance(LIMIT);
        assert!(are_open(&exchange, &clients));
    }
    crew.reach(1, Step::Rests);
    exchange.deliver();
    assert_eq!(exchange.counters().handed_over, 2);
    assert_eq!(exchange.counters().timed_out, 0);
}

/// The service manager may take its time to let go of them, and the predecessor answers for them until then.
#[test]
fn a_successor_waits_for_nobody_before_it_may_serve() {
    let mut exchange = alone(|_| Plain, limits()).make(Left::default());
    let clients = [(); 3].map(|()| exchange.connect());
    let [idle, halfway, slow] = clients;
    exchange.set_window(slow, Some(0));
    // What the predecessor handed over with them.
    exchange.shard.received(halfway.0 as u32, &[0x92], None);
    exchange.shard.received(slow.0 as u32, &[0x01], None);
    exchange.advance(LIMIT * 3);
    assert_eq!(exchange.counters().timed_out, 0);
    let now = exchange.now;
    let next_due = exchange.shard.next_due();
    assert!(next_due.is_none_or(|due| due > now), "it sleeps");
    // Each has all its time from when it can do something.
    let mut exchange = exchange.begun();
    exchange.deliver();
    exchange.advance(LIMIT - Duration::from_millis(1));
    assert!(are_open(&exchange, &clients));
    exchange.receive(halfway, &[0x01, 0x02]);
    exchange.set_window(slow, None);
    assert_eq!(exchange.take_sent(slow), [7]);
    exchange.advance(Duration::from_millis(1 + 32));
    assert!(!exchange.is_open(idle) && are_open(&exchange, &[halfway, slow]));
    assert_eq!(exchange.counters().timed_out, 1);
}

/// A worker that is late does not read on, so that a frame cannot be completed meanwhile.
#[test]
fn what_waits_for_a_late_worker_is_in_time() {
    let mut exchange = Exchange::with_limits(Plain, limits());
    let client = exchange.connect();
    exchange.receive(client, &[0x93]);
    exchange.advance(LIMIT / 4 * 3);
    exchange.shard.desk.stopwatch.make_late();
    exchange.shard.received(client.0 as u32, &[0x01], None);
    assert!(!exchange.reads(client));
    for quarters in [3, 1] {
        exchange.advance(LIMIT / 4 * quarters);
        assert!(exchange.reads(client) && exchange.is_open(client));
    }
    exchange.receive(client, &[0x02, 0x03]);
    assert_eq!(exchange.take_sent(client), [7]);
}
