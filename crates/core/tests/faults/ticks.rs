//! Services that are called from time to time, on workers that have nothing else to do.

use std::time::Duration;

use ringhold_core::{Flow, Frame, Handle, Peer, Refusal, Reply, Service, Tick};

use crate::bed::{Bed, Engine};
use crate::common::client;

/// Sends its one client a number each time when it is called.
#[derive(Default)]
struct Count {
    number: u8,
    reader: Option<Handle>,
}

impl Service for Count {
    type Session = ();

    fn connected(&mut self, peer: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        self.number = 0;
        self.reader = Some(peer.handle());
        Ok(())
    }

    fn frame(&mut self, _: &mut (), _: Frame<'_>, _: &mut Reply<'_>) -> Flow {
        Flow::Continue
    }

    fn tick(&mut self, _: &Tick<'_>) -> Option<Duration> {
        if let Some(reader) = &self.reader {
            self.number += 1;
            reader.push(vec![self.number]).unwrap();
            if self.number == 3 {
                reader.close("counted").unwrap();
                self.reader = None;
            }
        }
        Some(Duration::from_millis(20))
    }
}

pub(crate) fn an_idle_worker_wakes_up_for_its_services(engine: Engine) {
    let config = "
        workers = 1
        [sockets.count]
        listen = [\"127.0.0.1:0\"]";
    let bed = Bed::start(engine, config, |server| {
        server.service("count", |_| Count::default())
    });
    for _ in 0..2 {
        let mut client = bed.connect("count");
        assert_eq!(client::rest(&mut client), [1, 2, 3]);
    }
    bed.finish();
}
