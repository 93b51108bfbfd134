//! More mail from other threads than a worker delivers in one turn.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use ringhold_core::{Abandoned, Flow, Frame, Peer, Refusal, Reply, Responder, Service, Ticket};

use crate::bed::Engine;
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
