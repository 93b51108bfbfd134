//! What a thread pushes has no gap over handovers, if what a reader was sent is counted under the lock under which it is sent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
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
        // A test that fails ends its feed, too.
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(&self, next: &Next, reader: Notifier) {
        let mut events = self.lock();
        let from = *next.0.lock().unwrap();
        for number in from..events.next.unwrap() {
            next.send(&reader, number);
        }
        events.readers.push((next.clone(), reader));
    }

    /// Makes an event unless the client is behind. The next one is due after this; `None`: there are to be no more.
    fn publish(&self) -> Option<Duration> {
        let mut events = self.lock();
        let Events { next, readers } = &mut *events;
        let next = next.as_mut()?;
        if *next >= self.seen.load(Ordering::Relaxed) + AHEAD_MAX {
            return Some(Duration::from_micros(100));
        }
        for (sent, reader) in readers {
            sent.send(reader, *next);
        }
        *next += 1;
        Some(Duration::ZERO)
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
            let [joined, resumed] = [(); 2].map(|()| feed.clone());
            let producer = Producer::start(feed);
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
                .hand_over("events", move || producer.feed.lock().next.take());
            Rpc::new(worker, router)
        }
    }
}

/// The thread that makes events until the state is left, or the process ends without a successor.
struct Producer {
    feed: Feed,
    thread: Option<JoinHandle<()>>,
}

impl Producer {
    fn start(feed: Feed) -> Self {
        let publisher = feed.clone();
        let thread = Some(thread::spawn(move || {
            while let Some(pause) = publisher.publish() {
                thread::yield_now();
                thread::sleep(pause);
            }
        }));
        Producer { feed, thread }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.feed.lock().next = None;
        // If it has panicked, no event came after that, which fails the test.
        let _ = self.thread.take().map(JoinHandle::join);
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
