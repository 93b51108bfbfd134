//! What a thread pushes has no gap over handovers, if what a reader was sent is counted under the lock under which it is sent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use ringhold_core::Worker;
use ringhold_core::testing::Exchange;
use ringhold_rpc::{Notification, Notifier, Router, Rpc};
use rmpv::Value;
use serde::{Deserialize, Serialize};

use crate::client::{notification, read_all, reply, request, write};

/// The thread is so many events ahead of the client, at most.
const AHEAD_MAX: u64 = 1000;

/// The number of the next event for a reader.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(from = "u64", into = "u64")]
struct Next(Arc<Mutex<u64>>);

impl Next {
    fn send(&self, reader: &Notifier, number: u64) {
        let mut next = self.0.lock().unwrap();
        let event = Notification::new("event", &(number,)).unwrap();
        if reader.send(&event).is_ok() {
            // The number that would be saved now is of an event that is sent.
            thread::yield_now();
            *next = number + 1;
        }
    }
}

impl From<u64> for Next {
    fn from(next: u64) -> Self {
        Next(Arc::new(next.into()))
    }
}

impl From<Next> for u64 {
    fn from(Next(next): Next) -> u64 {
        *next.lock().unwrap()
    }
}

/// Events are their numbers, so that a feed knows all of them.
#[derive(Clone)]
struct Feed {
    events: Arc<Mutex<Events>>,
    /// How many events the client has.
    seen: Arc<AtomicU64>,
}

#[derive(Default)]
struct Events {
    /// `None` before the state is there, and when it is left to the next process.
    next: Option<u64>,
    readers: Vec<(Next, Notifier)>,
}

impl Feed {
    fn lock(&self) -> MutexGuard<'_, Events> {
        self.events.lock().unwrap()
    }

    fn join(&self, next: &Next, reader: Notifier) {
        let mut events = self.lock();
        let from = *next.0.lock().unwrap();
        for number in from..events.next.unwrap() {
            next.send(&reader, number);
        }
        events.readers.push((next.clone(), reader));
    }

    /// Whether there are to be more.
    fn publish(&self) -> bool {
        let mut events = self.lock();
        let Events { next, readers } = &mut *events;
        let Some(next) = next else { return false };
        if *next < self.seen.load(Ordering::Relaxed) + AHEAD_MAX {
            for (sent, reader) in readers {
                sent.send(reader, *next);
            }
            *next += 1;
        }
        true
    }

    /// A process, in which a thread makes events until the state is left.
    fn make(seen: &Arc<AtomicU64>) -> impl FnOnce(&Worker) -> Rpc + use<> {
        let feed = Feed {
            events: Arc::default(),
            seen: seen.clone(),
        };
        move |worker| {
            let left = Router::taken_over::<Option<u64>>(worker, "events");
            feed.lock().next = Some(left.into_iter().flatten().next().unwrap_or_default());
            let [joined, resumed, left] = [(); 3].map(|()| feed.clone());
            thread::spawn(move || {
                while feed.publish() {
                    thread::yield_now();
                }
            });
            let router = Router::new()
                .method_with("subscribe", move |context, ()| {
                    let (next, reader) = context.subscription::<Next>();
                    joined.join(next, reader);
                    Ok(())
                })
                .resume("next", move |connection, next: &mut Next| {
                    resumed.join(next, connection.notifier());
                    Ok(())
                })
                .hand_over("events", move || left.lock().next.take());
            Rpc::new(worker, router)
        }
    }
}

#[test]
fn nothing_is_lost_and_nothing_comes_twice() {
    let seen = Arc::new(AtomicU64::new(0));
    let mut exchange = Exchange::with_worker(Feed::make(&seen), Default::default());
    let client = exchange.connect();
    assert!(exchange.receive(client, &write(&request(1, "subscribe", vec![]))));
    let mut expected = 0;
    for handover in 1..=50 {
        while expected < 100 * handover {
            exchange.deliver();
            let sent = read_all(&exchange.take_sent(client));
            for message in sent.iter().filter(|it| **it != reply(1, Value::Nil)) {
                assert_eq!(*message, notification("event", vec![expected.into()]));
                expected += 1;
            }
            seen.store(expected, Ordering::Relaxed);
            let mut comes = || exchange.deliver_within(Duration::from_secs(60));
            assert!(!sent.is_empty() || comes(), "event {expected}");
        }
        exchange = exchange.hand_over(Feed::make(&seen));
        assert!(exchange.is_open(client));
    }
    assert!(expected >= 5000);
}
