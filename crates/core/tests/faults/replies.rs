//! Replies that are larger than what asked for them.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use ringhold_core::{Flow, Frame, Peer, Refusal, Reply, Service};
use rustix::io::ioctl_fionread;

use crate::bed::{Bed, Engine};
use crate::common::client;
use crate::services::{Gate, gated};

const CLIENTS: usize = 24;
const REPLY_BYTES: usize = 20_000;

/// So many bytes of replies may wait to be sent when somebody else is answered.
const UNSENT_MAX: usize = 256 * 1024;

fn reply() -> Vec<u8> {
    let mut reply = vec![0xc5];
    reply.extend_from_slice(&(REPLY_BYTES as u16 - 3).to_be_bytes());
    reply.resize(REPLY_BYTES, b'.');
    reply
}

#[derive(Default)]
struct Answered {
    /// Those of the clients, who read nothing as long as they are here.
    sockets: Vec<UnixStream>,
    bytes: usize,
    /// How much of it had not arrived when somebody was answered, at most.
    unsent_most: usize,
}

struct Large(Arc<Mutex<Answered>>);

impl Service for Large {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, _: &mut (), _: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        let mut answered = self.0.lock().unwrap();
        let arrived = answered.sockets.iter();
        let arrived: u64 = arrived.map(|it| ioctl_fionread(it).unwrap()).sum();
        let unsent = answered.bytes - arrived as usize;
        answered.unsent_most = answered.unsent_most.max(unsent);
        answered.bytes += REPLY_BYTES;
        reply.write(|out| out.extend_from_slice(&self::reply()));
        Flow::Continue
    }
}

fn start(engine: Engine, limits: &str) -> (Bed, Gate, Arc<Mutex<Answered>>) {
    let config = format!(
        "
        workers = 1
        [sockets.large]
        listen = [\"unix:@/large.sock\"]
        {limits}"
    );
    let answered = Arc::new(Mutex::new(Answered::default()));
    let shared = answered.clone();
    let (bed, gate) = gated(engine, &config, |server| {
        server.service("large", move |_| Large(shared.clone()))
    });
    (bed, gate, answered)
}

/// How much waits to be sent, at most, when somebody is answered of many who each ask so often at the same time.
fn unsent_most(engine: Engine, limits: &str, often: usize) -> usize {
    let (bed, gate, answered) = start(engine, limits);
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|_| bed.connect_unix("large.sock"))
        .collect();
    bed.until_open(CLIENTS as u64);
    let sockets = clients.iter().map(|client| client.try_clone().unwrap());
    answered.lock().unwrap().sockets = sockets.collect();
    gate.hold(&bed, 1, || {
        for client in &mut clients {
            client.write_all(&vec![1; often]).unwrap();
        }
    });
    let all = CLIENTS * often * REPLY_BYTES;
    bed.until("they are answered", |bed| {
        // The gate answers, too.
        bed.total().bytes_out >= all as u64
    });
    let Answered {
        sockets,
        bytes,
        unsent_most,
    } = std::mem::take(&mut *answered.lock().unwrap());
    drop(sockets);
    assert_eq!(bytes, all);
    for mut client in clients {
        client::expect(&mut client, &reply().repeat(often));
    }
    bed.finish();
    unsent_most
}

pub(crate) fn they_are_sent_before_much_more_is_answered(engine: Engine) {
    let unsent = unsent_most(engine, "", 1);
    assert!(unsent <= UNSENT_MAX + REPLY_BYTES, "{unsent}");
}

/// Each has two replies under way, and then waits until they are sent.
pub(crate) fn they_are_sent_before_much_more_that_waits_is_answered(engine: Engine) {
    let unsent = unsent_most(engine, "outbox_bytes = \"64 KiB\"", 6);
    assert!(unsent <= UNSENT_MAX + 2 * REPLY_BYTES, "{unsent}");
}
