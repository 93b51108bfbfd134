//! Every counter, exactly.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ringhold_core::limits::Limits;
use ringhold_core::metrics::{Metrics, NameTotals};
use ringhold_core::testing::Exchange;
use ringhold_core::{
    Ended, Flow, Frame, Peer, Refusal, Reply, RestoreError, Saved, Service, Worker,
};

use crate::service::{Manner, Rig, ask, bin, defer, verb};

#[test]
fn one_connection_of_every_fate() {
    let limits = Limits {
        outbox_bytes: 10_000,
        frame_timeout: Duration::from_secs(1),
        ..Limits::default()
    };
    let manner = Manner {
        makes_handles: true,
        greeting: b"\xa2hi",
        ..Manner::default()
    };
    let mut rig = Rig::with(limits, manner);
    let clients: Vec<_> = (0..11).map(|_| rig.connect()).collect();
    assert_eq!(rig.counters().open, 11);
    let mut received = 0;
    let mut receive = |rig: &mut Rig, number: usize, bytes: &[u8]| {
        rig.receive(clients[number], bytes);
        received += bytes.len() as u64;
    };
    // 0: ends well. Three frames; the reply to the last one pauses the connection for as long as it takes to send it.
    receive(&mut rig, 0, &[1]);
    receive(&mut rig, 0, &[&[2][..], &bin(100_000, 1)].concat());
    rig.end(clients[0]);
    // 1: ends in mid-frame.
    receive(&mut rig, 1, &[0x92]);
    rig.end(clients[1]);
    // 2: reserved byte behind a frame.
    receive(&mut rig, 2, &[3, 0xc1]);
    // 3: the service ends it.
    receive(&mut rig, 3, &[0x91, verb::CLOSE]);
    // 4: a reset.
    rig.reset(clients[4]);
    // 5: the service panics.
    receive(&mut rig, 5, &[0x91, verb::PANIC]);
    // 6: pushed too much.
    assert!(rig.seen().handles[6].push(vec![0; 20_000]).is_err());
    rig.deliver();
    // 7: takes its time for a frame.
    receive(&mut rig, 7, &[0x92]);
    rig.advance(Duration::from_secs(2));
    // 8: a pause, and a push. The first five bytes of its reply are read, then nothing.
    rig.set_window(clients[8], Some(5));
    receive(&mut rig, 8, &ask(6000));
    // 9: an abandoned ticket.
    receive(&mut rig, 9, &defer(1));
    rig.let_go();
    // 10 stays as it is.
    let counters = rig.counters();
    let expected = [
        ("accepted", counters.accepted, 0),
        ("turned_away", counters.turned_away, 0),
        ("crowded", counters.crowded, 0),
        ("opened", counters.opened, 11),
        ("open", counters.open, 2),
        ("frames_in", counters.frames_in, 3 + 1 + 1 + 1 + 1 + 1),
        ("bytes_in", counters.bytes_in, received),
        ("bad_input", counters.bad_input, 2),
        ("refused", counters.refused, 0),
        ("ended_by_service", counters.ended_by_service, 2),
        ("timed_out", counters.timed_out, 1),
        ("cut", counters.cut, 1),
        ("failed", counters.failed, 1),
        ("panics", counters.panics, 1),
        ("abandoned", counters.abandoned, 1),
        ("pauses", counters.pauses, 2),
    ];
    for (name, value, expected) in expected {
        assert_eq!(value, expected, "{name}");
    }
    let sent: usize = clients
        .iter()
        .map(|client| rig.take_sent(*client).len())
        .sum();
    assert_eq!(sent, 11 * 3 + (2 + 100_005) + 1 + 2 + 1 + 5);
    assert_eq!(counters.bytes_out, sent as u64);
    rig.stop();
    rig.advance(Duration::from_secs(40));
    rig.assert_empty(&clients);
    let counters = rig.counters();
    assert_eq!(counters.timed_out, 2, "the one whose peer did not read");
    assert_eq!((counters.opened, counters.open), (11, 0));
}

#[test]
fn bytes_are_counted_as_the_peer_takes_them() {
    let mut rig = Rig::new();
    let client = rig.connect();
    rig.set_window(client, Some(0));
    rig.receive(client, &ask(1000));
    assert_eq!(rig.counters().bytes_out, 0);
    for i in 1..=10 {
        rig.set_window(client, Some(100));
        assert_eq!(rig.counters().bytes_out, i * 100);
    }
    assert_eq!(rig.counters().bytes_in, 7);
}

#[test]
fn every_pause_is_counted_once() {
    let mut rig = Rig::with_limits(Limits {
        outbox_bytes: 1000,
        ..Limits::default()
    });
    let client = rig.connect();
    for i in 1..=20 {
        rig.set_window(client, Some(0));
        rig.receive(client, &ask(501));
        rig.receive_unasked(client, &[1]);
        rig.advance(Duration::from_millis(100));
        assert_eq!(rig.counters().pauses, i);
        rig.set_window(client, None);
        assert_eq!(rig.counters().pauses, i);
    }
}

/// What a service was told, and how many connections were counted as begun and as open then.
type Told = (&'static str, u64, u64);

/// Notes it.
struct Census {
    metrics: Arc<Metrics>,
    told: Rc<RefCell<Vec<Told>>>,
}

impl Census {
    fn note(&self, what: &'static str) {
        let NameTotals { opened, open, .. } = self.metrics.snapshot().total();
        self.told.borrow_mut().push((what, opened, open));
    }
}

impl Service for Census {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        self.note("connected");
        Ok(())
    }

    fn frame(&mut self, (): &mut (), _: Frame<'_>, _: &mut Reply<'_>) -> Flow {
        self.note("frame");
        Flow::Continue
    }

    fn disconnected(&mut self, (): (), _: &Ended<'_>) {
        self.note("disconnected");
    }

    fn save(&self, (): &()) -> Saved {
        Saved::Bytes(Vec::new().into())
    }

    fn restore(&mut self, _: &Peer<'_>, _: &[u8]) -> Result<(), RestoreError> {
        self.note("restored");
        Ok(())
    }
}

/// Who waits for a number of open connections may then ask the service for each of them.
#[test]
fn a_connection_counts_as_open_for_as_long_as_its_service_knows_it() {
    let told = Rc::default();
    let census = |worker: &Worker| Census {
        metrics: worker.metrics().clone(),
        told: Rc::clone(&told),
    };
    let mut exchange = Exchange::with_worker(census, Limits::default());
    let clients = [(); 2].map(|()| exchange.connect());
    exchange.receive(clients[0], &[1]);
    let mut exchange = exchange.hand_over(census);
    for client in clients {
        exchange.end(client);
    }
    let expected = [
        ("connected", 0, 0),
        ("connected", 1, 1),
        ("frame", 2, 2),
        ("disconnected", 2, 2),
        ("disconnected", 2, 1),
        ("restored", 0, 0),
        ("restored", 1, 1),
        ("disconnected", 2, 2),
        ("disconnected", 2, 1),
    ];
    assert_eq!(*told.borrow(), expected);
}
