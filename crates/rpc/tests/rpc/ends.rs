//! Ends of connections, and of a router, in which several things panic: the process goes on.

use std::cell::RefCell;
use std::os::unix::net::UnixDatagram;
use std::panic::panic_any;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringhold_core::limits::Limits;
use ringhold_core::testing::Exchange;
use ringhold_core::{Refusal, Watch, Worker};
use ringhold_rpc::{Fault, Router, Rpc};
use serde::{Deserialize, Serialize};

fn start(router: Router) -> Exchange {
    let make = |worker: &Worker| Rpc::new(worker, router);
    Exchange::with_worker(make, Limits::default())
}

/// Counts itself, for as long as the count can be had.
struct Counted(Arc<Mutex<usize>>);

impl Drop for Counted {
    fn drop(&mut self) {
        *self.0.lock().unwrap() -= 1;
    }
}

#[test]
fn one_may_panic_and_what_is_dropped_then_may_do_so_too() {
    let count = Arc::new(Mutex::new(0));
    let [begun, asked, ended] = [(); 3].map(|()| count.clone());
    let router = Router::bare()
        .connected(move |arrival| {
            *begun.lock().unwrap() += 1;
            arrival.keep(Counted(begun.clone()));
            Ok(())
        })
        .method("poison", move |()| -> Result<(), Fault> {
            let _guard = asked.lock().unwrap();
            panic!("on purpose, with the lock");
        })
        .gone(move |_| assert!(*ended.lock().unwrap() > 0));
    let mut exchange = start(router);
    let client = exchange.connect();
    exchange.receive(client, b"\x94\x00\x01\xa6poison\x90");
    assert_eq!(exchange.counters().panics, 1);
    exchange.end(client);
    assert!(!exchange.is_open(client));
    assert_eq!(exchange.counters().panics, 2);
}

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("on purpose, when dropped");
    }
}

/// Counts itself before it panics, and is another type with each number.
struct Last<const NUMBER: usize>(Rc<RefCell<usize>>);

impl<const NUMBER: usize> Drop for Last<NUMBER> {
    fn drop(&mut self) {
        *self.0.borrow_mut() += 1;
        panic_any(Bomb);
    }
}

/// Or a second panic would end the process: when the connection ends, when it is refused, and while another panic unwinds.
#[test]
fn all_that_is_kept_may_panic_when_it_is_dropped() {
    let dropped = Rc::new(RefCell::new(0));
    let kept = dropped.clone();
    let mut count = 0;
    let router = Router::bare()
        .connected(move |arrival| {
            arrival.keep(Last::<1>(kept.clone()));
            arrival.keep(Last::<2>(kept.clone()));
            arrival.keep(Last::<3>(kept.clone()));
            count += 1;
            match count {
                1 => Ok(()),
                2 => Err(Refusal::new("no second one")),
                _ => panic!("no third one"),
            }
        })
        .gone(|_| panic!("no end"));
    let mut exchange = start(router);
    let client = exchange.connect();
    exchange.end(client);
    assert_eq!(*dropped.borrow(), 3);
    for times in 2..=3 {
        let client = exchange.connect();
        assert!(!exchange.is_open(client));
        assert_eq!(*dropped.borrow(), 3 * times);
    }
    assert_eq!(exchange.counters().panics, 3);
}

#[test]
fn what_they_panic_with_may_panic_when_it_is_dropped() {
    let told = Rc::new(RefCell::new(0));
    let last = told.clone();
    let router = Router::bare()
        .connected(|_| Ok(()))
        .gone(|_| panic_any(Bomb))
        .gone(|_| panic!("on purpose, behind it"))
        .gone(move |_| *last.borrow_mut() += 1);
    let mut exchange = start(router);
    let client = exchange.connect();
    exchange.end(client);
    assert_eq!((*told.borrow(), exchange.counters().panics), (1, 1));

    let router = Router::bare()
        .connected(|_| Ok(()))
        .gone(|_| panic!("on purpose"))
        .connected(|_| -> Result<(), Refusal> { panic_any(Bomb) });
    let mut exchange = start(router);
    let client = exchange.connect();
    assert!(!exchange.is_open(client));
    assert_eq!(exchange.counters().panics, 1);
}

/// Panics with what it owns when it is dropped, and is another type with each number.
struct Thrown<const NUMBER: usize>(Option<Counted>);

impl<const NUMBER: usize> Drop for Thrown<NUMBER> {
    fn drop(&mut self) {
        panic_any(self.0.take());
    }
}

/// Or whoever can cause them takes memory each time.
#[test]
fn nothing_of_several_panics_in_one_end_is_left() {
    let count = Arc::new(Mutex::new(0));
    let counting = count.clone();
    let counted = move || {
        *counting.lock().unwrap() += 1;
        Counted(counting.clone())
    };
    let [kept, first, second, refused] = [(); 4].map(|()| counted.clone());
    let mut is_first = true;
    let router = Router::bare()
        .connected(move |arrival| {
            arrival.keep(Thrown::<1>(Some(kept())));
            arrival.keep(Thrown::<2>(Some(kept())));
            Ok(())
        })
        .gone(move |_| panic_any(first()))
        .gone(move |_| panic_any(second()))
        .connected(move |_| match std::mem::take(&mut is_first) {
            true => Ok(()),
            false => panic_any(refused()),
        });
    let mut exchange = start(router);
    let client = exchange.connect();
    exchange.end(client);
    assert_eq!((*count.lock().unwrap(), exchange.counters().panics), (0, 1));
    let client = exchange.connect();
    assert!(!exchange.is_open(client));
    assert_eq!((*count.lock().unwrap(), exchange.counters().panics), (0, 2));
}

#[derive(Default, Serialize, Deserialize)]
struct Reads(bool);

#[test]
fn what_a_resumption_panics_with_may_panic_when_it_is_dropped_behind_it() {
    let router = Router::bare()
        .method_with("subscribe", |context, ()| {
            context.data::<Reads>().0 = true;
            Ok(())
        })
        .resume("reads", |_, _: &mut Reads| Ok(()));
    let mut exchange = start(router);
    let client = exchange.connect();
    exchange.receive(client, b"\x94\x00\x01\xa9subscribe\x90");
    let router = Router::bare()
        .resume("reads", |_, _: &mut Reads| panic_any(Bomb))
        .gone(|_| panic!("on purpose, behind it"));
    let exchange = exchange.hand_over(|worker: &Worker| Rpc::new(worker, router));
    assert!(!exchange.is_open(client));
    assert_eq!(exchange.counters().panics, 1);
}

/// Has the closure in which it is called own something.
fn with<T>(_: &Last<0>, result: T) -> T {
    result
}

/// Or a second panic would end the process in the middle of a handover.
#[test]
fn all_that_closures_of_a_router_own_may_panic_when_it_is_dropped() {
    let dropped = Rc::new(RefCell::new(0));
    let [a, b, c, d, e, f, g] = [(); 7].map(|()| Last::<0>(dropped.clone()));
    let [h, i, j, k, l, m, n] = [(); 7].map(|()| Last::<0>(dropped.clone()));
    let [first, second] = [(); 2].map(|()| UnixDatagram::unbound().unwrap());
    let router = Router::bare()
        .method("first", move |()| with(&a, Ok(())))
        .method("second", move |()| with(&b, Ok(())))
        .connected(move |_| with(&c, Ok(())))
        .connected(move |_| with(&d, Ok(())))
        .gone(move |_| with(&e, ()))
        .gone(move |_| with(&f, ()))
        .resume("first", move |_, _: &mut u8| with(&g, Ok(())))
        .resume("second", move |_, _: &mut u16| with(&h, Ok(())))
        .hand_over("first", move || with(&i, ()))
        .hand_over("second", move || with(&j, ()))
        .every(Duration::MAX, move |_| with(&k, ()))
        .every(Duration::MAX, move |_| with(&l, ()))
        .watch(first, move |_| with(&m, Ok(Watch::End)))
        .watch(second, move |_| with(&n, Ok(Watch::End)));
    let mut exchange = start(router);
    let client = exchange.connect();
    let exchange = exchange.hand_over(|worker: &Worker| Rpc::new(worker, Router::bare()));
    assert!(exchange.is_open(client));
    assert_eq!(*dropped.borrow(), 14);
}
