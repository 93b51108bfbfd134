//! What the log says of connections. It is the only test of its process: a place that logs is asked once whether anybody
//! listens, and the answer is that of the thread which comes there first (tokio-rs/tracing#3611), so that a test beside this
//! one could silence it.

#![allow(clippy::unwrap_used)]

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use ringhold_core::limits::Limits;
use ringhold_core::testing::{Exchange, Setup};
use ringhold_core::{
    Close, Credentials, Ended, Flow, Frame, Peer, PeerAddress, Refusal, Reply, Responder, Service,
    SourceId, Tick, Ticket, Watch, Worker,
};
use tracing::Level;

/// Lets nobody in on the socket `closed`, and logs by itself who comes. Takes its time for the frame `SLOW`, cuts who
/// sends `UNBEARABLE`, owes an answer to `DEFER`, pushes too much for `LOUD`, and takes its time for the end of the one that is cut, for its
/// tick after an hour, which brings something to watch that has ended, and for its last call.
#[derive(Default)]
struct Doorkeeper {
    is_late: bool,
    owed: Vec<Responder>,
}

const SLOW: u8 = 42;
const UNBEARABLE: u8 = 43;
const DEFER: u8 = 44;
const LOUD: u8 = 45;

/// Much more than what is said to be slow, on a clock that moves on by up to 10 ms.
fn take_time() {
    std::thread::sleep(Duration::from_millis(150));
}

impl Service for Doorkeeper {
    type Session = ();

    fn connected(&mut self, peer: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        tracing::info!(id = ?peer.id(), "somebody comes");
        match peer.socket_name() {
            "closed" => Err(Refusal::new("you are not on the list")),
            _ => Ok(()),
        }
    }

    fn frame(&mut self, _: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        reply.write(|out| out.extend_from_slice(&frame));
        if frame[..] == [SLOW] {
            take_time();
        }
        if frame[..] == [UNBEARABLE] {
            reply.handle().cut("you are too loud").unwrap();
        }
        if frame[..] == [DEFER] {
            self.owed.push(reply.defer(Ticket(0)));
        }
        if frame[..] == [LOUD] {
            let too_much = Limits::default().outbox_bytes + 1;
            assert!(reply.handle().push(vec![0; too_much]).is_err());
        }
        Flow::Continue
    }

    fn disconnected(&mut self, (): (), ended: &Ended<'_>) {
        if matches!(ended.why(), Close::Cut(_)) {
            take_time();
        }
    }

    fn tick(&mut self, tick: &Tick<'_>) -> Option<Duration> {
        if std::mem::replace(&mut self.is_late, true) {
            take_time();
            let (one, _) = UnixStream::pair().unwrap();
            tick.watch(one);
        }
        Some(Duration::from_secs(3600))
    }

    fn readable(&mut self, _: SourceId, _: &Tick<'_>) -> io::Result<Watch> {
        Ok(Watch::End)
    }

    fn hand_over(&mut self, _: &Tick<'_>) -> Option<Bytes> {
        take_time();
        None
    }
}

#[test]
fn the_log_says_who_ends_and_why_and_how_often() {
    let log = Log::default();
    let sink = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(Level::DEBUG)
        .with_writer(move || sink.clone())
        .finish();
    let _default = tracing::subscriber::set_default(subscriber);
    let limits = Limits {
        frame_timeout: Duration::from_secs(5),
        ..Limits::default()
    };
    let mut exchange = Setup::new(limits.clone())
        .service("door", &["open", "closed"], |_| Doorkeeper::default())
        .socket(
            "narrow",
            Limits {
                frame_bytes: 8,
                ..limits
            },
        )
        .start();

    // Whom a service refuses is told nothing, so the log says why.
    let refused = exchange.connect_to("closed");
    assert!(!exchange.is_open(refused));
    let lines = log.take();
    assert_eq!(lines.len(), 3, "{lines:?}");
    let who = "connection 0.0.0 of closed over a unix socket";
    let fields = "socket=closed connection=0.0.0 peer=unix";
    let why = "the service refused the connection: you are not on the list";
    assert!(lines[0].contains(" DEBUG ") && lines[0].ends_with(&format!("{who} opens {fields}")));
    assert!(lines[1].contains(" INFO ") && lines[1].ends_with("somebody comes id=0.0.0"));
    assert!(
        lines[2].contains(" WARN ") && lines[2].contains(&format!("{who} closes: {why} {fields}"))
    );
    assert_eq!(exchange.counters().refused, 1);
    // One client is told of twice, and others get the rest.
    for _ in 0..7 {
        exchange.connect_to("closed");
    }
    for uid in 1..=8 {
        from(&mut exchange, uid);
        exchange.connect_to("closed");
    }
    exchange.advance(Duration::from_secs(1));
    let warnings = log.take_warnings();
    assert_eq!(warnings.len(), 10, "{warnings:?}");
    assert!(warnings[..9].iter().all(|line| line.contains(why)));
    assert!(warnings[8].contains("connection 0.0.15 of"), "{warnings:?}");
    let held =
        "6 connections that closed were not logged one by one (the service refused the connection)";
    assert!(warnings[9].contains(held), "{warnings:?}");

    // Whoever causes one kind of warning as often as he likes does not hide another kind.
    let slow = exchange.connect();
    exchange.receive(slow, b"\x93\x01");
    exchange.advance(Duration::from_millis(4_999));
    log.take();
    for uid in 0..100 {
        from(&mut exchange, uid);
        let bad = exchange.connect();
        exchange.receive(bad, b"\xc1");
    }
    exchange.advance(Duration::from_millis(500));
    assert!(!exchange.is_open(slow));
    let warnings = log.take_warnings();
    assert_eq!(warnings.len(), 11, "{warnings:?}");
    let bad = " of open over a unix socket closes: the input is not acceptable msgpack";
    assert!(warnings[..10].iter().all(|line| line.contains(bad)));
    assert!(warnings[10].contains("a frame was not complete within frame_timeout"));

    // When the second is over it says what it held back, though nothing happens any more.
    exchange.advance(Duration::from_millis(500));
    let warnings = log.take_warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].contains(
            "90 connections that closed were not logged one by one (the input is not acceptable msgpack); \
             ringhold status counts them worker=0"
        ),
        "{warnings:?}"
    );
    exchange.advance(Duration::from_secs(10));
    assert_eq!(log.take_warnings(), [""; 0]);

    // A limit of frames is there to be read, and where it is written.
    for (socket, input, why) in [
        (
            "narrow",
            &b"\xc5\x10\x00"[..],
            "allows: 4099 bytes at least (at byte 0 of the frame); see frame_bytes in [sockets.narrow], which is 8 bytes socket=narrow",
        ),
        (
            "open",
            b"\xc6\x02\x00\x00\x00",
            "allows: 33554437 bytes at least (at byte 0 of the frame); see frame_bytes in [limits], which is 16777216 bytes socket=open",
        ),
        (
            "open",
            &[0x91; 129],
            "allows (at byte 128 of the frame); see limits.depth, which is 128 socket=open",
        ),
    ] {
        exchange.advance(Duration::from_secs(1));
        let refused = exchange.connect_to(socket);
        exchange.receive(refused, input);
        let warnings = log.take_warnings();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains(why), "{warnings:?}");
    }
    exchange.advance(Duration::from_secs(1));

    // Who has ended and does not take what it asked for is told of, too.
    let ended = exchange.connect();
    exchange.set_window(ended, Some(0));
    exchange.receive(ended, &[1, 2, 3]);
    exchange.end(ended);
    exchange.advance(Duration::from_secs(31));
    exchange.advance(Duration::from_secs(31));
    let warnings = log.take_warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let why = "the peer took nothing for write_timeout socket=open";
    let lost = " of open over a unix socket ends without the last 3 bytes that it owed: ";
    assert!(
        warnings[0].contains(&format!("{lost}{why}")),
        "{warnings:?}"
    );

    // And who is closed for what it sent and takes what it had asked for too slowly, for that.
    let slow = exchange.connect();
    exchange.set_window(slow, Some(0));
    exchange.receive(slow, &[&[7; 100][..], b"\xc1"].concat());
    log.take();
    for _ in 0..10 {
        exchange.set_window(slow, Some(1));
        exchange.advance(Duration::from_secs(29));
    }
    assert_eq!(log.take_warnings(), [""; 0]);
    exchange.set_window(slow, Some(1));
    exchange.advance(Duration::from_secs(11));
    assert!(!exchange.is_open(slow));
    let warnings = log.take_warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let rest = " of open over a unix socket ends without the last 89 bytes that it owed: \
                the peer had not taken all of it within reply_timeout socket=open";
    assert!(warnings[0].contains(rest), "{warnings:?}");

    // Whoever is still owed something that has not come is told of as well.
    let lost_too = " of open over a unix socket ends without the last 0 bytes and 1 deferred reply that it owed: ";
    let owed = exchange.connect();
    exchange.receive(owed, &[DEFER, 0xc1]);
    log.take();
    exchange.reset(owed);
    let lines = log.take();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains(&format!("{lost_too}the socket failed: ")));
    exchange.advance(Duration::from_secs(1));
    log.take();
    let loud = exchange.connect();
    exchange.receive(loud, &[DEFER, LOUD, 0xc1]);
    let warnings = log.take_warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains(bad));
    let why = " 1 deferred reply that it owed: more was pushed to the connection than outbox_bytes allows";
    assert!(warnings[1].contains(why), "{warnings:?}");

    // Whoever resets it then is told of as of those who reset theirs before: where it is looked for.
    let ended = exchange.connect();
    exchange.set_window(ended, Some(0));
    exchange.receive(ended, &[1, 2, 3]);
    exchange.end(ended);
    log.take();
    exchange.reset(ended);
    let lines = log.take();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let why = "the socket failed: connection reset";
    assert!(
        lines[0].contains(" DEBUG ") && lines[0].contains(&format!("{lost}{why}")),
        "{lines:?}"
    );

    // So is a service that does not return for long: in a busy process all others wait for it, whoever they are.
    let client = exchange.connect();
    let before = exchange.counters().slow;
    exchange.receive(client, &[1, SLOW, 3]);
    let lines = log.take_all();
    let call = |line: &String| {
        line.contains(" WARN ")
            && line.contains("a call of the service lasted ")
            && line.contains(" ms for 3 frames on connection ")
            && line.contains(" of open over a unix socket, ")
    };
    assert!(lines.iter().any(call), "{lines:?}");
    exchange.advance(Duration::from_secs(3600));
    let lines = log.take_all();
    let tick = |line: &String| {
        line.contains(" WARN ") && line.contains("a call of service door (tick) lasted ")
    };
    assert!(lines.iter().any(tick), "{lines:?}");
    // Services may end what they watch as often as they like.
    let ends = lines.iter();
    let ends = ends.filter(|line| line.contains("service door has ended what it watched"));
    assert!(
        ends.clone().all(|line| line.contains(" DEBUG ")),
        "{lines:?}"
    );
    assert_eq!(ends.count(), 1, "{lines:?}");
    // More if the machine stalled in another call.
    assert!(exchange.counters().slow - before >= 2);

    // Whom its service cuts is told of as of those whom a limit cuts.
    let loud = exchange.connect();
    exchange.receive(loud, &[UNBEARABLE]);
    let warnings = log.take_all();
    let why = "closes: the service cut the connection: you are too loud socket=open";
    assert!(
        warnings.iter().any(|line| line.contains(why)),
        "{warnings:?}"
    );
    // That its end was what took so long is told, too.
    let end = " ms in disconnected on connection ";
    assert!(
        warnings.iter().any(|line| line.contains(end)),
        "{warnings:?}"
    );

    // Who comes through a proxy is called by its own address, and the proxy is named beside it.
    exchange.set_proxy_protocol(true);
    exchange.set_peer(
        PeerAddress::Tcp("198.51.100.1:40000".parse().unwrap()),
        None,
    );
    let client = exchange.connect();
    exchange.receive(client, b"PROXY TCP4 192.0.2.7 192.0.2.1 41312 4660\r\n\xc1");
    let lines = log.take();
    let contain = |line: &String, parts: &[&str]| parts.iter().all(|part| line.contains(part));
    let opens = ["of open from 198.51.100.1:40000 opens"];
    let who = "of open from 192.0.2.7:41312 through 198.51.100.1:40000";
    let told = ["DEBUG", who, "has sent its PROXY protocol header"];
    let comes = ["somebody comes"];
    let closes = ["WARN", who, "closes: the input is", "peer=192.0.2.7:41312"];
    let expected: [&[&str]; 4] = [&opens, &told, &comes, &closes];
    assert_eq!(lines.len(), expected.len(), "{lines:?}");
    let mut pairs = lines.iter().zip(expected);
    assert!(pairs.all(|(line, parts)| contain(line, parts)), "{lines:?}");

    let [silent, bad] = [exchange.connect(), exchange.connect()];
    exchange.receive(bad, &[1]);
    exchange.advance(Duration::from_millis(5_033));
    assert!(!exchange.is_open(silent));
    let warnings = log.take_warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    for (line, why) in warnings.iter().zip([
        "but begins otherwise; see proxy_protocol of the socket",
        "which was not complete within frame_timeout; see proxy_protocol of the socket",
    ]) {
        let begin = "of open from 198.51.100.1:40000 closes: it is expected to begin with a PROXY protocol header,";
        assert!(line.contains(&format!("{begin} {why}")), "{line}");
    }

    // And counts by itself, whoever else comes through the same proxy.
    exchange.advance(Duration::from_secs(1));
    log.take();
    for client in [7, 7, 7, 8] {
        let header = format!("PROXY TCP4 192.0.2.{client} 192.0.2.1 41312 4660\r\n");
        let bad = exchange.connect();
        exchange.receive(bad, &[header.as_bytes(), b"\xc1"].concat());
    }
    let warnings = log.take_warnings();
    let of = |client| move |line: &&String| line.contains(client);
    let counts =
        ["from 192.0.2.7:", "from 192.0.2.8:"].map(|it| warnings.iter().filter(of(it)).count());
    assert_eq!(counts, [2, 1], "{warnings:?}");

    // In a stop or reload nobody can ask any more what this process has counted.
    exchange.stop_within(Duration::from_secs(5));
    exchange.advance(Duration::from_secs(1));
    let warnings = log.take_warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let held =
        "1 connection that closed was not logged (the input is not acceptable msgpack) worker=0";
    assert!(warnings[0].ends_with(held), "{warnings:?}");

    // Another thread could not help in a handover.
    let make = |_: &Worker| Doorkeeper::default();
    let _ = Exchange::with_worker(make, Limits::default()).hand_over(make);
    let lines = log.take_all();
    let last = |line: &&String| line.contains("a call of service service (hand_over) lasted ");
    let last: Vec<_> = lines.iter().filter(last).collect();
    assert_eq!(last.len(), 1, "{lines:?}");
    let advice =
        "nobody is served until it has returned; unless the machine is overloaded, it leaves much";
    assert!(last[0].contains(advice), "{last:?}");
}

/// Clients that connect from now on are of this user.
fn from(exchange: &mut Exchange, uid: u32) {
    let user = Credentials {
        pid: None,
        uid,
        gid: 100,
    };
    exchange.set_peer(PeerAddress::Unix, Some(user));
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// The lines that were logged since the last call.
    fn take_all(&self) -> Vec<String> {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap());
        let text = String::from_utf8(bytes).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// As [`Log::take_all`], without what is said of slow calls: any call is one if the machine stalls.
    fn take(&self) -> Vec<String> {
        let is_slow = |line: &str| {
            line.contains("unless the machine is overloaded")
                || line.contains("slow calls of services were not logged")
        };
        let lines = self.take_all().into_iter();
        lines.filter(|line| !is_slow(line)).collect()
    }

    fn take_warnings(&self) -> Vec<String> {
        let lines = self.take().into_iter();
        lines.filter(|line| line.contains(" WARN ")).collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
