//! What the tests of both engines have in common, beside [`common`](crate::common): a service, and its clients.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use ringhold_core::inherit::Inherited;
use ringhold_core::metrics::NameTotals;
use ringhold_core::{Flow, Frame, Peer, Refusal, Reply, Service};

pub(crate) use ringhold_core::EngineKind as Engine;

pub(crate) use crate::common::bed::Bed;
use crate::common::client;
pub(crate) use crate::common::client::{connect, connect_unix, drain, expect, expect_end};

/// The engines that work here.
pub(crate) fn engines() -> Vec<Engine> {
    let mut engines = vec![Engine::Portable];
    match ringhold_core::probe::probe().unavailable {
        None => engines.push(Engine::Ring),
        Some(why) => eprintln!("{why}"),
    }
    engines
}

/// Greets each connection with one byte and sends every frame back.
pub(crate) struct Echo;

/// The frame that each connection begins with.
pub(crate) const GREETING: u8 = 0x2a;

impl Service for Echo {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, reply: &mut Reply<'_>) -> Result<(), Refusal> {
        reply.write(|out| out.push(GREETING));
        Ok(())
    }

    fn frame(&mut self, _: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        reply.write(|out| out.extend_from_slice(&frame));
        Flow::Continue
    }
}

/// Starts a server of [`Echo`], the service `echo`, with this engine and this configuration.
pub(crate) fn serve_echo(engine: Engine, config: &str) -> Bed {
    serve_echo_on(engine, config, Vec::new())
}

/// As [`serve_echo`], with these sockets inherited.
pub(crate) fn serve_echo_on(engine: Engine, config: &str, sockets: Vec<(String, OwnedFd)>) -> Bed {
    let inherited = Inherited::from_descriptors(sockets);
    Bed::start_inheriting(engine, config, inherited, |server| {
        server.service("echo", |_| Echo)
    })
}

impl Bed {
    /// As [`Bed::end`], with the counters of all names added up.
    pub(crate) fn finish(self) -> NameTotals {
        self.end().total()
    }
}

/// Sends `frames` and expects them back, both at the same time.
pub(crate) fn exchange<S>(stream: &S, frames: &[u8])
where
    S: Sync,
    for<'a> &'a S: Read + Write,
{
    client::exchange(stream, frames, frames);
}

/// A `bin 32` frame of `size` bytes in all, no two pieces of which are alike.
pub(crate) fn frame(size: usize, seed: u32) -> Vec<u8> {
    let mut frame = vec![0xc6];
    let payload = u32::try_from(size - 5).unwrap();
    frame.extend_from_slice(&payload.to_be_bytes());
    let mut word = seed;
    while frame.len() < size {
        word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        frame.extend_from_slice(&word.to_be_bytes());
    }
    frame.truncate(size);
    frame
}
