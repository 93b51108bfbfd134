//! Time limits cut who deserves it and nobody else.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringhold_core::{
    Flow, Frame, Peer, Refusal, Reply, Responder, Service, SourceId, Tick, Ticket, Watch,
};

use crate::bed::{Bed, Engine};
use crate::common::client;
use crate::common::service::answering;
use crate::frames::{Script, frame};
use crate::services::{Digest, Echo, Gate, gated};

fn start(engine: Engine, limits: &str) -> (Bed, Arc<Mutex<Vec<Responder>>>) {
    let config = format!(
        "workers = 1
        [limits]
        {limits}
        [sockets.digest]
        listen = [\"127.0.0.1:0\"]
        [sockets.echo]
        listen = [\"127.0.0.1:0\"]
        [sockets.defer]
        listen = [\"127.0.0.1:0\"]"
    );
    let responders: Arc<Mutex<Vec<Responder>>> = Arc::default();
    let theirs = responders.clone();
    let bed = Bed::start(engine, &config, |server| {
        server
            .service("digest", |_| Digest)
            .service("echo", |_| Echo)
            .service("defer", move |_| {
                let theirs = theirs.clone();
                answering(move |_, reply| {
                    theirs.lock().unwrap().push(reply.defer(Ticket(0)));
                    Flow::Continue
                })
            })
    });
    (bed, responders)
}

pub(crate) fn a_reader_that_never_reads_is_cut(engine: Engine) {
    let (bed, _) = start(engine, "write_timeout = \"3s\"");
    let mut idle = bed.connect("echo");
    let mut slow = client::connect_narrow(bed.address("echo"));
    let mut never = client::connect_narrow(bed.address("echo"));
    let large = frame(6 << 20, 1);
    never.write_all(&large).unwrap();
    std::thread::scope(|scope| {
        let mut writer = slow.try_clone().unwrap();
        let large = &large;
        scope.spawn(move || writer.write_all(large).unwrap());
        // It reads the same answer, and takes longer than the limit for it, but it goes on reading.
        let mut piece = vec![0; 64 * 1024];
        let mut done = 0;
        while done < large.len() {
            let room = piece.len().min(large.len() - done);
            slow.read_exact(&mut piece[..room]).unwrap();
            assert!(piece[..room] == large[done..done + room]);
            done += room;
            std::thread::sleep(Duration::from_millis(12));
        }
    });
    bed.until("it is cut", |bed| bed.total().timed_out > 0);
    bed.until_open(2);
    for client in [&mut slow, &mut idle] {
        client::exchange(client, &[1, 2, 3], &[1, 2, 3]);
    }
    // What it had been sent before may still be there; the end comes, in order or not.
    let mut rest = Vec::new();
    let end = never.read_to_end(&mut rest);
    assert!(rest.len() < large.len(), "{end:?}");
    assert_eq!(bed.total().timed_out, 1);
    drop((slow, idle, never));
    bed.finish();
}

/// The kernel reports room only when much of its buffer is free. Who reads less than that within the limit is not cut.
pub(crate) fn a_reader_that_reads_slowly_is_not_cut(engine: Engine) {
    let config = "
        workers = 1
        limits.write_timeout = \"2s\"
        [sockets.echo]
        listen = [\"127.0.0.1:0\", \"unix:@/echo\"]";
    let bed = Bed::start(engine, config, |server| server.service("echo", |_| Echo));
    let large = frame(8 << 20, 1);
    let read = |client: &mut dyn ReadWrite, piece: usize| {
        client.write_all(&large).unwrap();
        let mut answer = vec![0; large.len()];
        let mut done = 0;
        // For longer than any number of time limits that could have been taken for one.
        for _ in 0..120 {
            client.read_exact(&mut answer[done..done + piece]).unwrap();
            done += piece;
            std::thread::sleep(Duration::from_millis(50));
        }
        client.read_exact(&mut answer[done..]).unwrap();
        assert!(answer == large);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| read(&mut bed.connect("echo"), 12 * 1024));
        scope.spawn(|| read(&mut bed.connect_unix("echo"), 1536));
    });
    assert_eq!(bed.total().timed_out, 0);
    bed.finish();
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

pub(crate) fn a_frame_that_never_ends_is_cut(engine: Engine) {
    let (bed, responders) = start(engine, "frame_timeout = \"1s\"");
    let mut idle = bed.connect("digest");
    let mut waiting = bed.connect("defer");
    waiting.write_all(&[1]).unwrap();
    // In a buffer that all share, in one of its own, and one that goes on sending, a byte at a time.
    let mut small = bed.connect("digest");
    small.write_all(&frame(1000, 1)[..999]).unwrap();
    let mut large = bed.connect("digest");
    large.write_all(&frame(300_000, 1)[..200_000]).unwrap();
    let mut dripping = bed.connect("digest");
    let slow_loris = frame(10_000, 1);
    let mut sent = 0;
    bed.until("all three are cut", |bed| {
        // After the cut it may fail.
        let _ = dripping.write(&slow_loris[sent..sent + 1]);
        sent = (sent + 1).min(9_998);
        bed.total().timed_out == 3
    });
    drop(dripping);
    client::expect_end(&mut small);
    client::expect_end(&mut large);
    drop((small, large));
    bed.until_open(2);
    let script = Script::of([10], 1);
    client::exchange(&idle, &script.sent, &script.answers);
    responders
        .lock()
        .unwrap()
        .drain(..)
        .for_each(|responder| responder.answer(vec![9]));
    client::expect(&mut waiting, &[9]);
    assert_eq!(bed.total().timed_out, 3);
    let _ = idle.write(&[]);
    drop((idle, waiting));
    bed.finish();
}

pub(crate) fn who_says_nothing_is_cut(engine: Engine) {
    let (bed, responders) = start(engine, "idle_timeout = \"3s\"");
    let mut waiting = bed.connect("defer");
    waiting.write_all(&[1]).unwrap();
    let busy = bed.connect("echo");
    let mut silent = bed.connect("echo");
    let mut once = bed.connect("echo");
    client::exchange(&once, &[1], &[1]);
    bed.until("the idle ones are cut", |bed| {
        client::exchange(&busy, &[1, 2], &[1, 2]);
        bed.total().timed_out == 2
    });
    client::expect_end(&mut silent);
    client::expect_end(&mut once);
    // It waits for us, not we for it. Once it has its answer, that is over.
    responders
        .lock()
        .unwrap()
        .drain(..)
        .for_each(|responder| responder.answer(vec![9]));
    client::expect(&mut waiting, &[9]);
    client::exchange(&busy, &[1], &[1]);
    drop((waiting, busy, silent, once));
    bed.finish();
}

/// The worker sleeps for longer than the limits: those begin with what wakes it up.
pub(crate) fn nobody_is_cut_for_what_was_before(engine: Engine) {
    let limits = "frame_timeout = \"3s\"\nwrite_timeout = \"3s\"";
    let (bed, _) = start(engine, limits);
    let clients = [bed.connect("echo"), bed.connect("echo")];
    let [whole, mut halves] = [&clients[0], &clients[1]];
    for client in [whole, halves] {
        client::exchange(client, &[1, 2, 3], &[1, 2, 3]);
    }
    std::thread::sleep(SILENCE);
    client::exchange(whole, &[4], &[4]);
    std::thread::sleep(SILENCE);
    halves.write_all(&[0x92, 1]).unwrap();
    bed.until_received(9);
    client::exchange(halves, &[2], &[0x92, 1, 2]);
    assert_eq!(bed.total().timed_out, 0);
    drop(clients);
    bed.finish();
}

/// As above: who connects after a long silence has said nothing for no time at all.
pub(crate) fn nobody_is_idle_from_the_start(engine: Engine) {
    let (bed, _) = start(engine, "idle_timeout = \"3s\"");
    std::thread::sleep(SILENCE);
    let client = bed.connect("echo");
    client::exchange(&client, &[1], &[1]);
    assert_eq!(bed.total().timed_out, 0);
    drop(client);
    bed.finish();
}

pub(crate) fn a_name_may_have_an_idle_time_of_its_own(engine: Engine) {
    // What the server says, and what each of its sockets says.
    for (all, short, long) in [
        ("0s", "idle_timeout = \"1s\"", ""),
        ("1s", "", "idle_timeout = \"0s\""),
        ("1h", "idle_timeout = \"1s\"", "idle_timeout = \"2h\""),
    ] {
        let config = format!(
            "workers = 1
            limits.idle_timeout = \"{all}\"
            [sockets.short]
            service = \"echo\"
            listen = [\"127.0.0.1:0\"]
            {short}
            [sockets.long]
            service = \"echo\"
            listen = [\"127.0.0.1:0\"]
            {long}"
        );
        let bed = Bed::start(engine, &config, |server| server.service("echo", |_| Echo));
        let patient = bed.connect("long");
        let mut impatient = bed.connect("short");
        for client in [&patient, &impatient] {
            client::exchange(client, &[1], &[1]);
        }
        client::expect_end(&mut impatient);
        assert_eq!(bed.name("short").timed_out, 1);
        client::exchange(&patient, &[2], &[2]);
        assert_eq!(bed.name("long").timed_out, 0);
        drop((patient, impatient));
        bed.finish();
    }
}

/// Frames of both sockets come over the same buffers, by turns, and look alike.
pub(crate) fn a_name_may_have_a_longest_frame_of_its_own(engine: Engine) {
    let config = "workers = 1
        limits.frame_bytes = \"1MiB\"
        [sockets.wide]
        service = \"echo\"
        listen = [\"127.0.0.1:0\"]
        [sockets.narrow]
        service = \"echo\"
        listen = [\"127.0.0.1:0\"]
        frame_bytes = 1000";
    let bed = Bed::start(engine, config, |server| server.service("echo", |_| Echo));
    let [wide, mut narrow] = ["wide", "narrow"].map(|name| bed.connect(name));
    let frame = |length: usize| {
        let header = [0xc5, (length >> 8) as u8, length as u8];
        [&header[..], &vec![7; length]].concat()
    };
    let (longest, longer) = (frame(997), frame(998));
    for _ in 0..5 {
        client::exchange(&narrow, &longest, &longest);
        client::exchange(&wide, &longer, &longer);
    }
    client::exchange(&wide, &frame(65_000), &frame(65_000));
    narrow.write_all(&longer).unwrap();
    client::expect_end(&mut narrow);
    client::exchange(&wide, &longer, &longer);
    assert_eq!(bed.name("narrow").frames_in, 5);
    assert_eq!(bed.name("wide").frames_in, 7);
    drop((wide, narrow));
    bed.finish();
}

/// A call holds the worker up for longer than the limits. Who has sent in time what it had to send is served, however many
/// they are, and so is who called.
pub(crate) fn nobody_is_cut_for_what_held_the_worker_up(engine: Engine) {
    for limit in ["frame_timeout", "idle_timeout"] {
        let config = format!(
            "workers = 1
            limits.{limit} = \"3s\"
            [sockets.echo]
            listen = [\"127.0.0.1:0\"]"
        );
        let (bed, gate) = gated(engine, &config, |server| server.service("echo", |_| Echo));
        let mut clients: Vec<TcpStream> = (0..60).map(|_| bed.connect("echo")).collect();
        for client in &mut clients {
            client.write_all(&[0x92, 1]).unwrap();
        }
        bed.until_received(120);
        let ((), callers) = gate.hold_and_stay(&bed, 1, || {
            for client in &mut clients {
                client.write_all(&[2]).unwrap();
            }
            std::thread::sleep(SILENCE);
        });
        for client in &mut clients {
            client::expect(client, &[0x92, 1, 2]);
        }
        gate.open();
        client::exchange(&callers[0], &[1], &[1]);
        assert_eq!(bed.total().timed_out, 0, "{limit}");
        drop((clients, callers));
        bed.finish();
    }
}

/// Answers what asks for it. A call takes long that is given [`CALL`], or that reads from the source.
struct Mute {
    gate: Gate,
    source: Arc<UnixDatagram>,
}

const SILENT: u8 = 1;
const CALL: u8 = 2;
const ASK: u8 = 3;

impl Service for Mute {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, _: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        match frame[0] {
            CALL => self.gate.pass(),
            ASK => reply.write(|out| out.push(ASK)),
            _ => {}
        }
        Flow::Continue
    }

    fn readable(&mut self, _: SourceId, _: &Tick<'_>) -> io::Result<Watch> {
        self.source.recv(&mut [0])?;
        self.gate.pass();
        Ok(Watch::Continue)
    }
}

/// A call that answers nothing holds the worker up for longer than the limit. Who has said something meanwhile is not cut, although
/// that is received in the same turn, behind the call.
pub(crate) fn nobody_is_cut_for_a_call_in_the_same_turn(engine: Engine) {
    let config = "
        workers = 1
        limits.idle_timeout = \"3s\"
        [sockets.mute]
        listen = [\"127.0.0.1:0\"]";
    for is_frame in [true, false] {
        let call = Gate::default();
        let theirs = call.clone();
        let (sender, source) = UnixDatagram::pair().unwrap();
        let source = Arc::new(source);
        let (bed, gate) = gated(engine, config, |server| {
            server.service("mute", move |worker| {
                worker.watch(source.clone());
                Mute {
                    gate: theirs.clone(),
                    source: source.clone(),
                }
            })
        });
        let idle = bed.connect("mute");
        client::exchange(&idle, &[ASK], &[ASK]);
        let mut clients: Vec<TcpStream> = (0..21).map(|_| bed.connect("mute")).collect();
        bed.until_open_on("mute", 22);
        // Who opened the gate says nothing more in that turn, not even that it is gone.
        let ((), callers) = gate.hold_and_stay(&bed, 1, || {
            if !is_frame {
                sender.send(&[0]).unwrap();
            }
            for (index, client) in clients.iter_mut().enumerate() {
                // In the midst of them, in whatever order they are received from.
                let calls = is_frame && index == 10;
                client
                    .write_all(&[if calls { CALL } else { SILENT }])
                    .unwrap();
            }
        });
        call.wait_for(1);
        std::thread::sleep(SILENCE);
        for client in &mut clients {
            client.write_all(&[SILENT]).unwrap();
        }
        call.open();
        client::expect_end(&mut &idle);
        // Limits that were found to be exceeded behind that one's take effect, too.
        std::thread::sleep(Duration::from_millis(200));
        for client in &clients {
            client::exchange(client, &[ASK], &[ASK]);
        }
        drop((clients, callers, idle));
        bed.finish();
    }
}

/// Lets clients in, of which the last one takes long, and sends every frame back.
struct Slow {
    gate: Gate,
    connected: usize,
}

impl Service for Slow {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        self.connected += 1;
        if self.connected == CLIENTS {
            self.gate.pass();
        }
        Ok(())
    }

    fn frame(&mut self, _: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        reply.write(|out| out.extend_from_slice(&frame));
        Flow::Continue
    }
}

/// More than three times what the smallest ring submits at once, and all accepted in two turns.
const CLIENTS: usize = 40;

/// The last of many that come at the same time holds the worker up for longer than the limit, and all but that one say nothing.
pub(crate) fn nobody_is_cut_before_all_have_been_looked_at(engine: Engine) {
    for entries in [8, 4096] {
        let config = format!(
            "workers = 1
            limits.idle_timeout = \"3s\"
            ring.entries = {entries}
            [sockets.slow]
            listen = [\"127.0.0.1:0\"]"
        );
        let last = Gate::default();
        let theirs = last.clone();
        let (bed, gate) = gated(engine, &config, |server| {
            server.service("slow", move |_| Slow {
                gate: theirs.clone(),
                connected: 0,
            })
        });
        let connect = || (0..CLIENTS).map(|_| bed.connect("slow")).collect();
        let (mut clients, callers): (Vec<TcpStream>, _) = gate.hold_and_stay(&bed, 1, connect);
        last.wait_for(1);
        clients[CLIENTS - 1].write_all(&[1]).unwrap();
        std::thread::sleep(SILENCE);
        last.open();
        client::expect(&mut clients[CLIENTS - 1], &[1]);
        drop((clients, callers));
        bed.finish();
    }
}

/// Longer than the limits of those who are not to be cut.
const SILENCE: Duration = Duration::from_millis(3500);
