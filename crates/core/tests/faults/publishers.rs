//! Several workers that publish what they count together.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

use ringhold_core::{Flow, Frame, Handle, Peer, Refusal, Reply, Service};

use crate::bed::{Bed, Engine};
use crate::frames::push_frame;
use crate::services::gated;

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

/// Bytes that a frame of a bulk publisher has, and the event that it becomes.
const FRAME_BYTES: usize = 10_000;
const EVENT_BYTES: usize = 100;

/// Events that were told, and the most bytes that had not left for the reader when a frame came.
#[derive(Default)]
struct Told {
    reader: Option<Handle>,
    events: usize,
    unsent_most: usize,
}

/// Tells the reader of each frame.
struct Tell(Arc<Mutex<Told>>);

impl Service for Tell {
    type Session = ();

    fn connected(&mut self, peer: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        if peer.socket_name() == "read" {
            self.0.lock().unwrap().reader = Some(peer.handle());
        }
        Ok(())
    }

    fn frame(&mut self, _: &mut (), _: Frame<'_>, _: &mut Reply<'_>) -> Flow {
        let told = &mut *self.0.lock().unwrap();
        if let Some(reader) = &told.reader {
            told.unsent_most = told.unsent_most.max(reader.unsent_bytes());
            reader.push(vec![1; EVENT_BYTES]).unwrap();
        }
        told.events += 1;
        Flow::Continue
    }
}

/// What comes of a piece is told before the next piece is received, from whomever. The portable engine has no pieces: it receives from
/// all that it was told of.
pub(crate) fn readers_are_told_before_more_is_received(engine: Engine) {
    const PUBLISHERS: usize = 12;
    /// Frames that fit into the socket, and into a piece.
    const AT_ONCE: usize = 10;
    const BEFORE: usize = 100;
    if engine == Engine::Portable {
        return;
    }
    let config = "
        workers = 1
        [sockets.read]
        listen = [\"127.0.0.1:0\"]
        service = \"tell\"
        [sockets.publish]
        listen = [\"unix:@/publish.sock\"]
        service = \"tell\"";
    let told = Arc::new(Mutex::new(Told::default()));
    let shared = told.clone();
    let (bed, gate) = gated(engine, config, |server| {
        server.service("tell", move |_| Tell(shared.clone()))
    });
    let mut frames = Vec::new();
    (0..BEFORE as u64).for_each(|seed| push_frame(&mut frames, FRAME_BYTES, seed));
    let first = &frames[..AT_ONCE * FRAME_BYTES];
    let mut reader = bed.connect("read");
    let mut publishers: Vec<_> = (0..PUBLISHERS)
        .map(|_| bed.connect_unix("publish.sock"))
        .collect();
    bed.until_open(1 + PUBLISHERS as u64);
    let mut read = |events| {
        let mut all = vec![0; events * EVENT_BYTES];
        reader.read_exact(&mut all).unwrap();
        assert!(all.iter().all(|byte| *byte == 1));
    };
    // From now on they are received from piece by piece.
    for publisher in &mut publishers {
        publisher.write_all(&frames).unwrap();
        read(BEFORE);
    }
    told.lock().unwrap().unsent_most = 0;
    gate.hold(&bed, 1, || {
        for publisher in &mut publishers {
            publisher.write_all(first).unwrap();
        }
    });
    read(PUBLISHERS * AT_ONCE);
    let Told {
        reader,
        events,
        unsent_most,
    } = std::mem::take(&mut *told.lock().unwrap());
    drop(reader);
    assert_eq!(events, PUBLISHERS * (BEFORE + AT_ONCE));
    // Besides those of the piece itself: of the one that the last turn sent, and of the one that this turn sends.
    assert!(unsent_most <= 3 * AT_ONCE * EVENT_BYTES, "{unsent_most}");
    drop(publishers);
    bed.finish();
}
