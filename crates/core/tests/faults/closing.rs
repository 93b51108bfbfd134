//! Connections that others close.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ringhold_core::{
    Ended, Flow, Frame, Handle, Peer, PushError, Refusal, Reply, Responder, Service, Ticket,
};

use crate::bed::{Bed, Engine};
use crate::common::client;
use crate::common::service::answering;
use crate::frames::frame;

const KICKED: &str = "the service ended the connection: kicked";

/// What of the connections others can get at.
#[derive(Clone, Default)]
struct Guests {
    handles: Arc<Mutex<Vec<Handle>>>,
    /// Why they ended.
    ends: Arc<Mutex<Vec<String>>>,
    promised: Arc<Mutex<Vec<Responder>>>,
}

impl Guests {
    fn handles(&self) -> Vec<Handle> {
        self.handles.lock().unwrap().clone()
    }

    fn ends(&self) -> Vec<String> {
        self.ends.lock().unwrap().clone()
    }
}

/// Enters itself, and promises an answer to every frame.
struct Stay(Guests);

impl Service for Stay {
    type Session = ();

    fn connected(&mut self, peer: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        self.0.handles.lock().unwrap().push(peer.handle());
        Ok(())
    }

    fn frame(&mut self, _: &mut (), _: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        let responder = reply.defer(Ticket(1));
        self.0.promised.lock().unwrap().push(responder);
        Flow::Continue
    }

    fn disconnected(&mut self, _: (), ended: &Ended<'_>) {
        self.0.ends.lock().unwrap().push(ended.why().to_string());
    }
}

/// Says goodbye to all with its frame, closes them, and confirms it with a byte.
fn kick_all(guests: Guests) -> impl Service {
    answering(move |frame, reply| {
        guests
            .handles()
            .iter()
            .for_each(|guest| kick(guest, &frame));
        reply.write(|out| out.push(1));
        Flow::Continue
    })
}

fn kick(guest: &Handle, goodbye: &[u8]) {
    guest.push(goodbye.to_vec()).unwrap();
    guest.close("kicked").unwrap();
    assert_eq!(guest.push(vec![2]), Err(PushError::Gone));
    assert_eq!(guest.close("kicked twice"), Err(PushError::Gone));
}

/// As many guests, on two workers, of which each has been served.
fn start(engine: Engine, count: usize) -> (Bed, Guests, Vec<TcpStream>) {
    let config = "workers = 2
        [handover]
        drain = \"100s\"
        [sockets.stay]
        listen = [\"127.0.0.1:0\"]
        [sockets.kick]
        listen = [\"127.0.0.1:0\"]";
    let guests = Guests::default();
    let (a, b) = (guests.clone(), guests.clone());
    let bed = Bed::start(engine, config, |server| {
        server
            .service("stay", move |_| Stay(a.clone()))
            .service("kick", move |_| kick_all(b.clone()))
    });
    let clients = (0..count).map(|_| bed.connect("stay")).collect();
    bed.until_open(count as u64);
    (bed, guests, clients)
}

#[track_caller]
fn expect_goodbye(clients: &mut [TcpStream], goodbye: &[u8]) {
    for client in clients {
        client::expect(client, goodbye);
        client::expect_end(client);
    }
}

pub(crate) fn another_worker_may_close_a_connection(engine: Engine) {
    let (bed, guests, mut clients) = start(engine, 100);
    let goodbye = frame(3000, 1);
    // One of them lies on the worker that does it, wherever that is.
    let kicker = bed.connect("kick");
    client::exchange(&kicker, &goodbye, &[1]);
    expect_goodbye(&mut clients, &goodbye);
    drop(clients);
    bed.until_open(1);
    assert_eq!(guests.ends(), [KICKED; 100]);
    assert_eq!(bed.name("stay").ended_by_service, 100);
    drop(kicker);
    bed.finish();
}

pub(crate) fn other_threads_may_close_a_connection(engine: Engine) {
    let (bed, guests, mut clients) = start(engine, 100);
    let goodbye = frame(200, 1);
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (handles, goodbye, done) = (guests.handles(), &goodbye, &done);
            scope.spawn(move || {
                for (number, guest) in handles.iter().enumerate() {
                    // Each has one who says goodbye, and three who are in its way.
                    if number % 4 == thread {
                        let _ = guest.push(goodbye.clone());
                    }
                    if guest.close("kicked").is_ok() {
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(done.into_inner(), 100, "one close of each was the first");
    for client in &mut clients {
        let rest = client::rest(client);
        assert!(rest.is_empty() || rest == goodbye);
    }
    drop(clients);
    bed.until_open(0);
    assert_eq!(guests.ends(), [KICKED; 100]);
    bed.finish();
}

pub(crate) fn who_reads_slowly_gets_what_was_queued_before_it_was_closed(engine: Engine) {
    let (bed, guests, _clients) = start(engine, 0);
    let mut slow = client::connect_narrow(bed.address("stay"));
    bed.until_open(1);
    let large = frame(6_000_000, 1);
    kick(&guests.handles()[0], &large);
    bed.until("it is closing", |bed| {
        bed.name("stay").ended_by_service == 1
    });
    assert!(guests.ends().is_empty());
    // What it still says is not served, nor does it make the end a reset.
    slow.write_all(&[1, 2, 3]).unwrap();
    client::expect(&mut slow, &large);
    client::expect_end(&mut slow);
    drop(slow);
    bed.until_open(0);
    assert_eq!(guests.ends(), [KICKED]);
    assert_eq!(bed.name("stay").frames_in, 0);
    bed.finish();
}

pub(crate) fn a_stop_does_not_keep_a_connection_from_being_closed(engine: Engine) {
    let (bed, guests, mut clients) = start(engine, 20);
    let goodbye = frame(3000, 1);
    // The stop waits for this one's answer.
    let mut holding = clients.pop().unwrap();
    holding.write_all(&[1]).unwrap();
    bed.until("the promise", |bed| bed.name("stay").frames_in == 1);
    // What this thread asks for next comes behind it.
    bed.stop();
    let responder = guests.promised.lock().unwrap().pop().unwrap();
    assert!(responder.is_wanted());
    let holder = responder.connection();
    let (last, handles): (Vec<_>, Vec<_>) = guests
        .handles()
        .into_iter()
        .partition(|guest| guest.id() == holder);
    handles.iter().for_each(|guest| kick(guest, &goodbye));
    expect_goodbye(&mut clients, &goodbye);
    drop(clients);
    bed.until("their ends", |_| guests.ends().len() == 19);
    // Closed as well, it is not waited for.
    kick(&last[0], &goodbye);
    assert!(!responder.is_wanted());
    expect_goodbye(std::slice::from_mut(&mut holding), &goodbye);
    drop(holding);
    bed.finish();
    assert_eq!(guests.ends(), [KICKED; 20]);
    responder.answer(vec![1]);
}
