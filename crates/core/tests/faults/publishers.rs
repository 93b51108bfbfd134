//! Several workers that publish what they count together.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

use ringhold_core::{Flow, Frame, Handle, Peer, Refusal, Reply, Service};

use crate::bed::{Bed, Engine};

const PUBLISHERS: usize = 4;
const READERS: usize = 4;
const EVENTS: u64 = 10_000;

/// Who is told each number, and which was the last.
type Counted = Arc<Mutex<(Vec<Handle>, u64)>>;

/// Counts frames, together with the other workers, and tells all readers the numbers while nobody else counts.
struct Count(Counted);

impl Service for Count {
    type Session = ();

    fn connected(&mut self, peer: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        if peer.socket_name() == "read" {
            self.0.lock().unwrap().0.push(peer.handle());
        }
        Ok(())
    }

    fn frame(&mut self, _: &mut (), _: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        let mut counted = self.0.lock().unwrap();
        counted.1 += 1;
        let number = counted.1.to_be_bytes();
        for reader in &counted.0 {
            reader.push(number.to_vec()).unwrap();
        }
        reply.write(|out| out.push(1));
        Flow::Continue
    }
}

/// Whatever worker counted a number, and whatever worker the reader is on.
pub(crate) fn readers_see_the_order_in_which_several_workers_publish(engine: Engine) {
    let config = "
        workers = 2
        [sockets.read]
        listen = [\"127.0.0.1:0\"]
        service = \"count\"
        [sockets.publish]
        listen = [\"127.0.0.1:0\"]
        service = \"count\"";
    let counted = Counted::default();
    let shared = counted.clone();
    let bed = Bed::start(engine, config, |server| {
        server.service("count", move |_| Count(shared.clone()))
    });
    let readers: Vec<_> = (0..READERS).map(|_| bed.connect("read")).collect();
    bed.until_open(READERS as u64);
    std::thread::scope(|scope| {
        for _ in 0..PUBLISHERS {
            scope.spawn(|| {
                let mut client = bed.connect("publish");
                for _ in 0..EVENTS / PUBLISHERS as u64 {
                    client.write_all(&[0]).unwrap();
                    client.read_exact(&mut [0]).unwrap();
                }
            });
        }
        for mut reader in readers {
            scope.spawn(move || {
                for expected in 1..=EVENTS {
                    let mut number = [0; 8];
                    reader.read_exact(&mut number).unwrap();
                    assert_eq!(u64::from_be_bytes(number), expected);
                }
            });
        }
    });
    counted.lock().unwrap().0.clear();
    bed.finish();
}
