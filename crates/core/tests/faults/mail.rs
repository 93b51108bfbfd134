//! More mail from other threads than a worker delivers in one turn.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ringhold_core::{
    Abandoned, Flow, Frame, Handle, Peer, Refusal, Reply, Responder, Service, Ticket,
};

use crate::bed::{Bed, Engine};
use crate::services::gated;

const CLIENTS: usize = 5;
/// Open questions of each of them, not more than a connection may have.
const EACH: usize = 4000;

const DEFER: u8 = 1;
const ASK: u8 = 2;

type Open = Arc<Mutex<Vec<Responder>>>;

/// Keeps questions open where others can drop them, each of which becomes one mail, and tells how many were.
struct Abandoning {
    open: Open,
    abandoned: u64,
}

impl Service for Abandoning {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, _: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        match frame[0] {
            DEFER => self.open.lock().unwrap().push(reply.defer(Ticket(0))),
            _ => reply.write(|out| out.extend_from_slice(&self.abandoned.to_be_bytes())),
        }
        Flow::Continue
    }

    fn abandoned(&mut self, _: &mut (), _: Ticket, _: Abandoned, _: &mut Reply<'_>) -> Flow {
        self.abandoned += 1;
        Flow::Continue
    }
}

/// How much mail had been delivered when this was asked.
fn answer(client: &mut TcpStream) -> usize {
    let mut answer = [0; 8];
    client.read_exact(&mut answer).unwrap();
    u64::from_be_bytes(answer) as usize
}

/// A request that arrives along with much mail is not answered behind all of it.
pub(crate) fn much_mail_does_not_come_before_connections(engine: Engine) {
    let config = "
        workers = 1
        [sockets.keep]
        listen = [\"127.0.0.1:0\"]";
    let open = Open::default();
    let theirs = open.clone();
    let (bed, gate) = gated(engine, config, |server| {
        server.service("keep", move |_| Abandoning {
            open: theirs.clone(),
            abandoned: 0,
        })
    });
    let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| bed.connect("keep")).collect();
    for client in &mut clients {
        client.write_all(&[DEFER; EACH]).unwrap();
    }
    let mut asking = bed.connect("keep");
    bed.until("all questions", |bed| {
        bed.name("keep").frames_in == (CLIENTS * EACH) as u64
    });
    bed.until_open_on("keep", CLIENTS as u64 + 1);
    gate.hold(&bed, 1, || {
        drop(std::mem::take(&mut *open.lock().unwrap()));
        asking.write_all(&[ASK]).unwrap();
    });
    let before = answer(&mut asking);
    // The engines need two or three turns to see a request and to answer it, each of which begins with some mail.
    assert!((1..CLIENTS * EACH / 2).contains(&before), "{before}");
    bed.until("all mail", |_| {
        asking.write_all(&[ASK]).unwrap();
        answer(&mut asking) == CLIENTS * EACH
    });
    drop((clients, asking));
    bed.finish();
}

/// Answers at once what it has promised, as a service does that finds in a cache what it would otherwise ask others for.
struct Prompt(Arc<Mutex<Option<Handle>>>);

impl Service for Prompt {
    type Session = ();

    fn connected(&mut self, peer: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        if peer.socket_name() == "hear" {
            *self.0.lock().unwrap() = Some(peer.handle());
        }
        Ok(())
    }

    fn frame(&mut self, _: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        let answer = frame.to_vec();
        reply.defer(Ticket(0)).answer(answer);
        Flow::Continue
    }
}

/// What a worker answers itself leaves room for what others have to say.
pub(crate) fn a_worker_that_answers_much_hears_others(engine: Engine) {
    const ASKED: usize = 1_000_000;
    let config = "
        workers = 1
        [sockets.ask]
        listen = [\"127.0.0.1:0\"]
        service = \"prompt\"
        [sockets.hear]
        listen = [\"127.0.0.1:0\"]
        service = \"prompt\"";
    let handle = Arc::<Mutex<Option<Handle>>>::default();
    let theirs = handle.clone();
    let bed = Bed::start(engine, config, |server| {
        server.service("prompt", move |_| Prompt(theirs.clone()))
    });
    let mut hearing = bed.connect("hear");
    bed.until_open(1);
    let handle = handle.lock().unwrap().take().unwrap();
    let asking = bed.connect("ask");
    let is_heard = AtomicBool::new(false);
    let (sender, answered) = (asking.try_clone().unwrap(), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut sender = sender;
            for _ in 0..ASKED / 10_000 {
                if is_heard.load(Ordering::Relaxed) {
                    break;
                }
                sender.write_all(&[ASK; 10_000]).unwrap();
            }
            sender.shutdown(Shutdown::Write).unwrap();
        });
        scope.spawn(|| {
            let mut asking = asking;
            let mut answers = [0; 65536];
            while let Ok(count @ 1..) = asking.read(&mut answers) {
                answered.fetch_add(count, Ordering::Relaxed);
            }
        });
        while answered.load(Ordering::Relaxed) < 50_000 {
            std::thread::yield_now();
        }
        let before = answered.load(Ordering::Relaxed);
        handle.push(vec![1]).unwrap();
        hearing.read_exact(&mut [0]).unwrap();
        let after = answered.load(Ordering::Relaxed);
        is_heard.store(true, Ordering::Relaxed);
        assert!(after < ASKED / 2, "pushed at {before}, heard at {after}");
    });
    drop(hearing);
    bed.finish();
}
