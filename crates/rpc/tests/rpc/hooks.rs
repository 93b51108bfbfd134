//! What routers are told of the beginnings and ends of connections.

use std::cell::RefCell;
use std::rc::Rc;

use ringhold_core::limits::Limits;
use ringhold_core::testing::{Client, Exchange};
use ringhold_core::{Credentials, PeerAddress, Refusal, Worker};
use ringhold_rpc::{Fault, Gone, Notifier, Router, Rpc};
use rmpv::Value;
use serde::{Deserialize, Serialize};

use crate::client::{notification, read_all, reply, request, write};

/// Whose connection it is.
#[derive(Debug, PartialEq)]
struct User(u32);

/// What a connection was told to remember.
#[derive(Default, Debug, PartialEq, Serialize, Deserialize)]
struct Note(String);

/// Users for whom something is special.
const PANICS_FIRST: u32 = 11;
const PANICS_LAST: u32 = 12;

/// What the hooks were told, in order, by the number of the user.
type Told = Rc<RefCell<Vec<(u32, String)>>>;

/// Lets users below `end` in.
fn router(told: &Told, end: u32) -> Router {
    let [begun, ended] = [(); 2].map(|()| told.clone());
    Router::new()
        .connected(move |arrival| {
            let peer = arrival.peer();
            let uid = peer.credentials().unwrap().unwrap().uid;
            assert!(uid != PANICS_FIRST, "on purpose, when connected");
            if uid >= end {
                return Err(Refusal::new("not this user"));
            }
            let how = ["comes", "goes on"][usize::from(peer.is_handed_over())];
            begun.borrow_mut().push((uid, how.to_owned()));
            arrival.keep(User(uid));
            Ok(())
        })
        .gone(move |gone| {
            let User(uid) = gone.take_data().unwrap();
            assert!(uid != PANICS_LAST, "on purpose, when gone");
            assert_eq!(gone.take_data::<User>(), None);
            let mut how = gone.ended().why().to_string();
            if let Some(Note(note)) = gone.take_data() {
                how = format!("{note}: {how}");
            }
            ended.borrow_mut().push((uid, how));
        })
        .method_with("who", |context, ()| Ok(context.get().map(|User(uid)| *uid)))
        .method_with("note", |context, note: String| {
            context.data::<Note>().0 = note;
            Ok(())
        })
        .method_with("noted", |context, ()| {
            Ok(context.get().map(|Note(note)| note.clone()))
        })
}

fn noting(told: &Told, end: u32) -> Router {
    router(told, end).resume("note", |_, note: &mut Note| match &*note.0 {
        "lost" => Err(Fault::new("it is lost")),
        "panic" => panic!("on purpose, when resumed"),
        _ => Ok(()),
    })
}

fn serve(router: Router) -> impl FnOnce(&Worker) -> Rpc {
    |worker| Rpc::new(worker, router)
}

fn start(router: Router) -> Exchange {
    Exchange::with_worker(serve(router), Limits::default())
}

fn connect(exchange: &mut Exchange, uid: u32) -> Client {
    let pid = Some(std::process::id());
    let who = Credentials { pid, uid, gid: 0 };
    exchange.set_peer(PeerAddress::Unix, Some(who));
    exchange.connect()
}

/// The result of a call.
fn call(exchange: &mut Exchange, client: Client, method: &str, params: Vec<Value>) -> Value {
    assert!(exchange.receive(client, &write(&request(1, method, params))));
    let replies = read_all(&exchange.take_sent(client));
    let [Value::Array(reply)] = &replies[..] else {
        panic!("one reply is due, not {replies:?}");
    };
    assert_eq!(reply[2], Value::Nil);
    reply[3].clone()
}

fn told(told: &Told) -> Vec<(u32, String)> {
    let mut told = told.take();
    // Connections are handed over in any order.
    told.sort_by_key(|(uid, _)| *uid);
    told
}

fn says(expected: &[(u32, &str)]) -> Vec<(u32, String)> {
    let expected = expected.iter();
    expected
        .map(|(uid, how)| (*uid, (*how).to_owned()))
        .collect()
}

const HANDED_OVER: &str = "a successor goes on with the connection";

#[test]
fn what_is_kept_in_the_beginning_is_kept_anew_in_each_process() {
    let seen = Told::default();
    let mut exchange = start(router(&seen, 10));
    let clients = [1, 2].map(|uid| connect(&mut exchange, uid));
    for _ in 0..3 {
        for (client, uid) in clients.into_iter().zip([1, 2]) {
            assert_eq!(call(&mut exchange, client, "who", vec![]), uid.into());
        }
        exchange = exchange.hand_over(serve(router(&seen, 10)));
    }
    let each = [
        "comes",
        HANDED_OVER,
        "goes on",
        HANDED_OVER,
        "goes on",
        HANDED_OVER,
        "goes on",
    ];
    let [first, second] = [1, 2].map(|uid| each.map(|how| (uid, how)));
    assert_eq!(told(&seen), says(&[first, second].concat()));
    // It was stateless: another program goes on with it.
    let mut exchange = exchange.hand_over(serve(Router::new()));
    for client in clients {
        assert_eq!(call(&mut exchange, client, "ping", vec![]), "pong".into());
    }
    assert_eq!(exchange.counters().restored, 2);
}

#[test]
fn an_end_is_told_once_with_its_reason_and_what_was_kept() {
    let seen = Told::default();
    let mut exchange = start(noting(&seen, 10));
    let [ended, reset, kept, lost] = [1, 2, 3, 4].map(|uid| connect(&mut exchange, uid));
    let told_to_come = [1, 2, 3, 4].map(|uid| (uid, "comes"));
    assert_eq!(told(&seen), says(&told_to_come));
    for client in [ended, reset, kept] {
        call(&mut exchange, client, "note", vec!["a note".into()]);
    }
    call(&mut exchange, lost, "note", vec!["lost".into()]);
    exchange.end(ended);
    exchange.reset(reset);
    let ends = [
        (1, "a note: the peer ended the connection"),
        (2, "a note: the socket failed: connection reset"),
    ];
    assert_eq!(told(&seen), says(&ends));
    let mut exchange = exchange.hand_over(serve(noting(&seen, 10)));
    assert!(!exchange.is_open(lost));
    let unrestored = "its session cannot be restored: the data \"note\" is not resumed: it is lost";
    let handed_over = [
        &*format!("a note: {HANDED_OVER}"),
        &format!("lost: {HANDED_OVER}"),
    ];
    let expected = [
        (3, handed_over[0]),
        (3, "goes on"),
        (4, handed_over[1]),
        (4, "goes on"),
        (4, unrestored),
    ];
    assert_eq!(told(&seen), says(&expected));
    assert_eq!(call(&mut exchange, kept, "noted", vec![]), "a note".into());
    exchange.end(kept);
    assert_eq!(told(&seen), says(&[(3, ends[0].1)]));
}

/// What was resumed may have told somebody of the connection.
#[test]
fn what_was_resumed_before_something_else_failed_is_there_in_the_end() {
    let seen = Told::default();
    let router = |is_broken| {
        let seen = seen.clone();
        Router::new()
            .gone(move |gone| {
                let count = gone.take_data::<u32>();
                seen.borrow_mut()
                    .push((count.unwrap(), gone.ended().why().to_string()));
            })
            .method_with("keep", |context, ()| {
                *context.data::<u32>() = 7;
                context.data::<Note>();
                Ok(())
            })
            .resume("count", |_, count: &mut u32| {
                *count += 1;
                Ok(())
            })
            .resume("note", move |_, _: &mut Note| match is_broken {
                true => Err(Fault::new("out of notes")),
                false => Ok(()),
            })
    };
    let mut exchange = start(router(false));
    let client = exchange.connect();
    call(&mut exchange, client, "keep", vec![]);
    let exchange = exchange.hand_over(serve(router(true)));
    assert_eq!(exchange.counters().unrestored, 1);
    let why = "its session cannot be restored: the data \"note\" is not resumed: out of notes";
    assert_eq!(told(&seen), says(&[(7, HANDED_OVER), (8, why)]));
}

/// Of a type that is resumed, what the successor keeps is there for those of whom nothing was passed on.
#[test]
fn what_is_kept_in_the_beginning_may_be_resumed() {
    let router = |text: &'static str| {
        Router::new()
            .connected(move |arrival| {
                arrival.keep(Note("replaced".to_owned()));
                arrival.keep(Note(text.to_owned()));
                Ok(())
            })
            .method_with("noted", |context, ()| Ok(context.data::<Note>().0.clone()))
            .resume("note", |_, _: &mut Note| Ok(()))
    };
    let mut exchange = start(Router::new());
    let early = exchange.connect();
    let mut exchange = exchange.hand_over(serve(router("first")));
    let late = exchange.connect();
    for text in ["second", "third"] {
        for client in [early, late] {
            assert_eq!(call(&mut exchange, client, "noted", vec![]), "first".into());
        }
        exchange = exchange.hand_over(serve(router(text)));
    }
    let other = exchange.connect();
    assert_eq!(call(&mut exchange, other, "noted", vec![]), "third".into());
}

#[test]
fn a_panic_costs_one_connection() {
    let seen = Told::default();
    let mut exchange = start(noting(&seen, 20));
    let witness = connect(&mut exchange, 1);
    for round in 1..=2 {
        let first = connect(&mut exchange, PANICS_FIRST);
        assert!(!exchange.is_open(first));
        assert!(!exchange.receive(first, b"\x94\x00\x01\xa4ping\x90"));
        let last = connect(&mut exchange, PANICS_LAST);
        call(&mut exchange, last, "ping", vec![]);
        exchange.end(last);
        assert_eq!(exchange.counters().panics, 2 * round);
        assert_eq!(call(&mut exchange, witness, "who", vec![]), 1.into());
        assert_eq!(exchange.counters().open, 1);
    }
    let comes = [(1, "comes"), (PANICS_LAST, "comes"), (PANICS_LAST, "comes")];
    assert_eq!(told(&seen), says(&comes));

    // When data is resumed: who has begun ends.
    let resumed = connect(&mut exchange, 2);
    call(&mut exchange, resumed, "note", vec!["panic".into()]);
    let last = connect(&mut exchange, PANICS_LAST);
    seen.take();
    let mut exchange = exchange.hand_over(serve(noting(&seen, 20)));
    let [there, here] = [&*format!("panic: {HANDED_OVER}"), "the service panicked"];
    let expected = [
        (1, HANDED_OVER),
        (1, "goes on"),
        (2, there),
        (2, "goes on"),
        (2, here),
        (PANICS_LAST, "goes on"),
    ];
    assert_eq!(told(&seen), says(&expected));
    assert!(!exchange.is_open(resumed) && exchange.is_open(last));
    assert_eq!(exchange.counters().panics, 1);
    assert_eq!(call(&mut exchange, witness, "who", vec![]), 1.into());
}

/// Another process may have other rules, for those who keep nothing as for those who are resumed.
#[test]
fn who_is_let_in_no_more_is_counted_alike_with_data_and_without() {
    let seen = Told::default();
    let mut exchange = start(noting(&seen, 4));
    let [kept, plain, noted, stranger] = [1, 2, 3, 4].map(|uid| connect(&mut exchange, uid));
    assert!(!exchange.is_open(stranger));
    assert_eq!(exchange.counters().refused, 1);
    for client in [kept, noted] {
        call(&mut exchange, client, "note", vec!["me".into()]);
    }
    seen.take();
    let mut exchange = exchange.hand_over(serve(noting(&seen, 2)));
    assert_eq!(
        [kept, plain, noted].map(|client| exchange.is_open(client)),
        [true, false, false]
    );
    let counters = exchange.counters();
    assert_eq!((counters.refused, counters.unrestored), (2, 0));
    // Who has not begun does not end.
    let handed_over = format!("me: {HANDED_OVER}");
    let expected = [
        (1, &*handed_over),
        (1, "goes on"),
        (2, HANDED_OVER),
        (3, &handed_over),
    ];
    assert_eq!(told(&seen), says(&expected));
    assert_eq!(call(&mut exchange, kept, "noted", vec![]), "me".into());
}

#[test]
fn a_look_creates_nothing() {
    let seen = Told::default();
    let mut exchange = start(router(&seen, 10));
    let [looks, notes] = [1, 2].map(|uid| connect(&mut exchange, uid));
    assert_eq!(call(&mut exchange, looks, "noted", vec![]), Value::Nil);
    call(&mut exchange, notes, "note", vec!["mine".into()]);
    assert_eq!(call(&mut exchange, notes, "noted", vec![]), "mine".into());
    // Without `resume`.
    let mut exchange = exchange.hand_over(serve(router(&seen, 10)));
    assert!(exchange.is_open(looks) && !exchange.is_open(notes));
    assert_eq!(call(&mut exchange, looks, "noted", vec![]), Value::Nil);
}

#[test]
fn notifiers_of_the_beginning_go_on_and_are_closed_in_the_end() {
    let router = |readers: &Rc<RefCell<Vec<Notifier>>>| {
        let [joined, left, told] = [(); 3].map(|()| readers.clone());
        Router::new()
            .connected(move |arrival| {
                let notifier = arrival.notifier();
                assert_eq!(notifier.connection(), arrival.peer().id());
                joined.borrow_mut().push(notifier);
                Ok(())
            })
            .gone(move |gone| {
                assert_eq!(gone.ended().socket_name(), "test");
                left.borrow_mut().retain(|reader| {
                    let is_gone = reader.connection() == gone.ended().connection();
                    assert!(!is_gone || !reader.is_open());
                    let told = reader.notify("left", &());
                    assert!(!is_gone || told.is_err());
                    !is_gone
                });
            })
            .method("publish", move |()| {
                for reader in told.borrow().iter() {
                    reader.notify("event", &())?;
                }
                Ok(())
            })
    };
    let readers = Rc::default();
    let mut exchange = start(router(&readers));
    let [first, second] = [(); 2].map(|()| exchange.connect());
    let before = readers.clone();
    let readers = Rc::default();
    let mut exchange = exchange.hand_over(serve(router(&readers)));
    assert_eq!((before.borrow().len(), readers.borrow().len()), (0, 2));
    exchange.take_sent(first);
    exchange.take_sent(second);
    let publish = write(&request(1, "publish", vec![]));
    assert!(exchange.receive(first, &publish));
    let event = notification("event", vec![]);
    let sent = read_all(&exchange.take_sent(first));
    assert_eq!(sent, [reply(1, Value::Nil), event.clone()]);
    exchange.end(second);
    assert_eq!(read_all(&exchange.take_sent(second)), [event]);
    let sent = read_all(&exchange.take_sent(first));
    assert_eq!(sent, [notification("left", vec![])]);
    assert_eq!(readers.borrow().len(), 1);
    assert_eq!(exchange.counters().panics, 0);
}

/// What the parts of a router have said of a connection so far.
#[derive(Default)]
struct Trace(Vec<&'static str>);

/// Which part does not let somebody in, by the number of the user.
const REFUSED: [(u32, &str); 3] = [(1, "a"), (2, "b"), (3, "c")];
const PANICS: [(u32, &str); 3] = [(4, "a"), (5, "b"), (6, "c")];

/// For whom this part panics in the end, whatever lets it in.
const PANICS_IN_THE_END: [(u32, &str); 2] = [(2, "a"), (7, "b")];

/// One of several parts, which notes whom it lets in, and of whose end it is told.
fn part(router: Router, name: &'static str, seen: &Told) -> Router {
    let [begun, ended] = [(); 2].map(|()| seen.clone());
    router
        .connected(move |arrival| {
            let uid = arrival.peer().credentials().unwrap().unwrap().uid;
            assert!(!PANICS.contains(&(uid, name)), "on purpose, when connected");
            if REFUSED.contains(&(uid, name)) {
                return Err(Refusal::new(format!("not by {name}")));
            }
            match arrival.get() {
                Some(Trace(names)) => names.push(name),
                None => arrival.keep(Trace(vec![name])),
            }
            arrival.keep(User(uid));
            begun.borrow_mut().push((uid, format!("{name} lets it in")));
            Ok(())
        })
        .gone(move |gone| {
            let User(uid) = *gone.get().unwrap();
            let Trace(names) = gone.get().unwrap();
            assert!(names.contains(&name));
            let why = gone.ended().why();
            ended.borrow_mut().push((uid, format!("{name}: {why}")));
            let panics = PANICS_IN_THE_END.contains(&(uid, name));
            assert!(!panics, "on purpose, when gone");
        })
}

#[test]
fn each_part_is_told_of_the_end_of_what_it_has_let_in() {
    for order in [["a", "b", "c"], ["b", "c", "a"], ["c", "b", "a"]] {
        let seen = Told::default();
        let parts = |router| {
            order
                .into_iter()
                .fold(router, |it, name| part(it, name, &seen))
        };
        // Who is told of ends alone, before or behind all, is told of whom all have let in.
        let alone = |name: &'static str| {
            let seen = seen.clone();
            move |gone: &mut Gone<'_>| {
                let user = gone.get().map_or(0, |User(uid)| *uid);
                seen.borrow_mut().push((user, format!("{name} alone")));
            }
        };
        let router = || parts(Router::new().gone(alone("first"))).gone(alone("last"));
        let mut exchange = start(router());
        let mut panics = 0;
        for (uid, refuser) in REFUSED.into_iter().chain(PANICS) {
            let client = connect(&mut exchange, uid);
            assert!(!exchange.is_open(client));
            let let_in: Vec<_> = order.into_iter().take_while(|it| *it != refuser).collect();
            let why = match uid < PANICS[0].0 {
                true => format!("the service refused the connection: not by {refuser}"),
                false => "the service panicked".to_owned(),
            };
            let begun = let_in
                .iter()
                .map(|name| (uid, format!("{name} lets it in")));
            let ended = let_in.iter().map(|name| (uid, format!("{name}: {why}")));
            assert_eq!(seen.take(), begun.chain(ended).collect::<Vec<_>>());
            let panics_last = let_in
                .iter()
                .any(|it| PANICS_IN_THE_END.contains(&(uid, it)));
            let is_refused = uid < PANICS[0].0 && !panics_last;
            panics += u64::from(!is_refused);
            let counters = exchange.counters();
            assert_eq!(counters.panics, panics);
            assert_eq!(counters.refused + panics, u64::from(uid));
        }
        // None keeps the others from being told.
        for uid in [7, 8] {
            let client = connect(&mut exchange, uid);
            assert!(exchange.is_open(client));
            seen.take();
            exchange.end(client);
            let ends = order.map(|name| format!("{name}: the peer ended the connection"));
            let [first, last] = ["first", "last"].map(|name| vec![format!("{name} alone")]);
            let ends = [first, ends.to_vec(), last].concat();
            let ends: Vec<_> = ends.into_iter().map(|end| (uid, end)).collect();
            assert_eq!(seen.take(), ends);
            panics += u64::from(uid == 7);
            assert_eq!(exchange.counters().panics, panics);
        }
    }
}

/// With data that is resumed, and without.
#[test]
fn each_part_is_told_of_what_it_has_let_in_of_the_predecessor() {
    let seen = Told::default();
    let note = |router: Router| {
        router
            .resume("note", |_, _: &mut Note| Ok(()))
            .method_with("note", |context, ()| {
                context.data::<Note>();
                Ok(())
            })
    };
    let mut exchange = start(note(Router::new()));
    let clients = [2, 2, 3, 3, 8, 8].map(|uid| connect(&mut exchange, uid));
    for client in clients.into_iter().step_by(2) {
        call(&mut exchange, client, "note", vec![]);
    }
    let parts = |router| part(part(router, "b", &seen), "c", &seen);
    let exchange = exchange.hand_over(serve(note(parts(Router::new()))));
    let open = clients.map(|client| exchange.is_open(client));
    assert_eq!(open, [false, false, false, false, true, true]);
    let refused = "b: the service refused the connection: not by c";
    let in_b = "b lets it in";
    let in_c = "c lets it in";
    let expected = [(3, in_b), (3, refused), (3, in_b), (3, refused)];
    let expected = [&expected[..], &[(8, in_b), (8, in_c)].repeat(2)].concat();
    assert_eq!(told(&seen), says(&expected));
    let counters = exchange.counters();
    assert_eq!((counters.refused, counters.panics), (4, 0));
}
