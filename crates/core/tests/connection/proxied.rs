//! Sockets with `proxy_protocol`: who connects begins with a header in which a proxy says where the client is.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use ringhold_core::limits::Limits;
use ringhold_core::testing::{Client, Exchange};
use ringhold_core::{Flow, Frame, Peer, PeerAddress, Refusal, Reply, RestoreError, Saved, Service};

/// What happened, with the client's address and the proxy's.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Connected(PeerAddress, Option<PeerAddress>),
    Restored(PeerAddress, Option<PeerAddress>),
    Frame(PeerAddress, Vec<u8>),
}

/// Greets, notes everything, sends every frame back, and lets nobody in from port 1. A session is saved once it was given a frame.
#[derive(Clone, Default)]
struct Porter(Rc<RefCell<Vec<Event>>>);

const GREETING: u8 = 0x2a;

impl Porter {
    fn take(&self) -> Vec<Event> {
        self.0.take()
    }
}

impl Service for Porter {
    type Session = bool;

    fn connected(&mut self, peer: &Peer<'_>, reply: &mut Reply<'_>) -> Result<bool, Refusal> {
        let (address, proxy) = (peer.address().unwrap(), peer.proxy_address().unwrap());
        if matches!(address, PeerAddress::Tcp(address) if address.port() == 1) {
            return Err(Refusal::new("not from there"));
        }
        reply.write(|out| out.push(GREETING));
        self.0.borrow_mut().push(Event::Connected(address, proxy));
        Ok(false)
    }

    fn frame(&mut self, has_said: &mut bool, frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        *has_said = true;
        let address = reply.peer().address().unwrap();
        self.0
            .borrow_mut()
            .push(Event::Frame(address, frame.to_vec()));
        reply.write(|out| out.extend_from_slice(&frame));
        Flow::Continue
    }

    fn save(&self, has_said: &bool) -> Saved {
        match has_said {
            true => Saved::Bytes(vec![1].into()),
            false => Saved::Stateless,
        }
    }

    fn restore(&mut self, peer: &Peer<'_>, _: &[u8]) -> Result<bool, RestoreError> {
        let (address, proxy) = (peer.address().unwrap(), peer.proxy_address().unwrap());
        self.0.borrow_mut().push(Event::Restored(address, proxy));
        Ok(true)
    }
}

fn tcp(address: &str) -> PeerAddress {
    PeerAddress::Tcp(address.parse().unwrap())
}

const PROXY: &str = "198.51.100.1:40000";

/// Clients come through a proxy.
fn proxied(limits: Limits) -> (Exchange, Porter) {
    let porter = Porter::default();
    let mut exchange = Exchange::with_limits(porter.clone(), limits);
    exchange.set_proxy_protocol(true);
    exchange.set_peer(tcp(PROXY), None);
    (exchange, porter)
}

/// A header of version 2 with these bytes behind its length.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let start = b"\r\n\r\n\0\r\nQUIT\n";
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [start, &[command, family][..], &length, rest].concat()
}

/// Headers, and the client's address; `None` where that is the address of the other end.
fn headers() -> Vec<(Vec<u8>, Option<PeerAddress>)> {
    let line = b"PROXY TCP4 192.0.2.7 192.0.2.1 41312 4660\r\n";
    let addresses = [192, 0, 2, 7, 192, 0, 2, 1, 0xa1, 0x60, 0x12, 0x34];
    let v6_line = b"PROXY TCP6 2001:db8::7 2001:db8::1 41312 4660\r\n";
    let with_more = [&addresses[..], &[4, 0, 2, 1, 2]].concat();
    vec![
        (line.to_vec(), Some(tcp("192.0.2.7:41312"))),
        (v6_line.to_vec(), Some(tcp("[2001:db8::7]:41312"))),
        (b"PROXY UNKNOWN\r\n".to_vec(), None),
        (v2(0x21, 0x11, &with_more), Some(tcp("192.0.2.7:41312"))),
        (v2(0x21, 0x31, &[0; 216]), Some(PeerAddress::Unix)),
        (v2(0x20, 0x00, &[]), None),
    ]
}

/// What a service is told of a connection with this client that sends these frames.
fn told(client: &Option<PeerAddress>, frames: &[&[u8]]) -> Vec<Event> {
    let address = client.clone().unwrap_or_else(|| tcp(PROXY));
    let proxy = client.as_ref().map(|_| tcp(PROXY));
    let frame = |frame: &&[u8]| Event::Frame(address.clone(), frame.to_vec());
    let mut told = vec![Event::Connected(address.clone(), proxy)];
    told.extend(frames.iter().map(frame));
    told
}

const FRAMES: [&[u8]; 2] = [&[0x93, 1, 2, 3], &[0xc0]];

#[test]
fn a_header_is_read_wherever_it_is_cut_and_frames_behind_it_as_always() {
    for (header, address) in headers() {
        let stream = [&header, &FRAMES.concat()[..]].concat();
        for cut in 0..=stream.len() {
            let (mut exchange, porter) = proxied(Limits::default());
            let client = exchange.connect();
            assert_eq!(porter.take(), []);
            exchange.receive(client, &stream[..cut]);
            if cut < header.len() {
                assert_eq!(porter.take(), [], "it is not complete");
                assert_eq!(exchange.take_sent(client), []);
                assert_eq!(exchange.memory_held(), cut as u64);
            }
            exchange.receive(client, &stream[cut..]);
            assert_eq!(porter.take(), told(&address, &FRAMES));
            let sent = [&[GREETING][..], &FRAMES.concat()].concat();
            assert_eq!(exchange.take_sent(client), sent);
            let counters = exchange.counters();
            assert_eq!((counters.opened, counters.frames_in), (1, 2));
            assert_eq!(counters.bytes_in, stream.len() as u64);
            exchange.end(client);
            assert!(!exchange.is_open(client));
            assert_eq!(
                (exchange.counters().bad_input, exchange.memory_held()),
                (0, 0)
            );
        }
        let (mut exchange, porter) = proxied(Limits::default());
        let client = exchange.connect();
        for byte in stream {
            exchange.receive(client, &[byte]);
        }
        assert_eq!(porter.take(), told(&address, &FRAMES));
    }
}

#[test]
fn a_large_frame_comes_behind_the_longest_header() {
    let header = v2(0x20, 0, &[7; 4080]);
    let frame = [&[0xc6, 0, 3, 0, 0][..], &[5; 3 << 16]].concat();
    let stream = [&header[..], &frame].concat();
    for piece in [1000, 4096, 70_000, stream.len()] {
        let (mut exchange, porter) = proxied(Limits::default());
        let client = exchange.connect();
        for piece in stream.chunks(piece) {
            exchange.receive(client, piece);
        }
        assert_eq!(porter.take(), told(&None, &[&frame]));
    }
}

#[test]
fn what_is_no_header_costs_its_connection_and_no_service_is_told() {
    let too_long = v2(0x20, 0, &[0; 4081]);
    let wrong: [&[u8]; 5] = [
        b"\x93\x01\x02\x03",
        b"GET / HTTP/1.1\r\n\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.1 41312\r\n\x01",
        b"PROXY UNKNOWN\n\x01",
        &too_long,
    ];
    for wrong in wrong {
        let (mut exchange, porter) = proxied(Limits::default());
        let [bad, good] = [exchange.connect(), exchange.connect()];
        exchange.receive(bad, wrong);
        assert!(!exchange.is_open(bad));
        assert!(exchange.is_shut(bad));
        assert_eq!(exchange.take_sent(bad), []);
        let counters = exchange.counters();
        assert_eq!(
            (counters.bad_input, counters.open, counters.frames_in),
            (1, 1, 0)
        );
        exchange.receive(good, b"PROXY UNKNOWN\r\n\x01");
        assert_eq!(porter.take(), told(&None, &[&[1]]));
    }
}

#[test]
fn without_the_key_none_is_looked_for() {
    let (mut exchange, porter) = proxied(Limits::default());
    exchange.set_proxy_protocol(false);
    let client = exchange.connect();
    exchange.receive(client, b"PROXY UNKNOWN\r\n");
    let frames: Vec<&[u8]> = b"PROXY UNKNOWN\r\n".chunks(1).collect();
    assert_eq!(porter.take(), told(&None, &frames));
}

#[test]
fn a_service_may_refuse_a_client_by_its_address() {
    let (mut exchange, porter) = proxied(Limits::default());
    let client = exchange.connect();
    exchange.receive(client, b"PROXY TCP4 192.0.2.7 192.0.2.1 1 4660\r\n\x01");
    assert!(!exchange.is_open(client));
    assert_eq!(porter.take(), []);
    let counters = exchange.counters();
    assert_eq!((counters.refused, counters.frames_in), (1, 0));
}

#[test]
fn who_leaves_before_a_header_is_missed_only_if_it_had_begun() {
    for (bytes, bad_input) in [(&b""[..], 0), (b"P", 1), (b"\r\n\r\n", 1)] {
        for together in [false, true] {
            let (mut exchange, porter) = proxied(Limits::default());
            let client = exchange.connect();
            if together && !bytes.is_empty() {
                exchange.end_with(client, bytes);
            } else {
                exchange.receive(client, bytes);
                exchange.end(client);
            }
            assert!(!exchange.is_open(client));
            let counters = exchange.counters();
            assert_eq!((counters.bad_input, counters.open), (bad_input, 0));
            assert_eq!((porter.take(), exchange.memory_held()), (vec![], 0));
        }
    }
}

const LIMIT: Duration = Duration::from_secs(5);
const PRECISION: Duration = Duration::from_millis(33);

fn within(frame_timeout: Duration, idle_timeout: Duration) -> Limits {
    Limits {
        frame_timeout,
        idle_timeout,
        ..Limits::default()
    }
}

/// It ends `LIMIT` after now.
fn ends_at_its_time(exchange: &mut Exchange, client: Client) {
    exchange.advance(LIMIT - Duration::from_millis(1));
    assert!(exchange.is_open(client));
    exchange.advance(PRECISION);
    assert!(!exchange.is_open(client));
    assert_eq!(exchange.counters().timed_out, 1);
}

#[test]
fn a_header_has_the_time_of_a_frame_from_the_beginning_on() {
    let (mut exchange, porter) = proxied(within(LIMIT, Duration::ZERO));
    let client = exchange.connect();
    ends_at_its_time(&mut exchange, client);
    // Who sends a byte now and then has no more time.
    let slow = exchange.connect();
    for byte in b"PROX" {
        exchange.receive(slow, &[*byte]);
        exchange.advance(LIMIT / 5);
    }
    assert!(exchange.is_open(slow));
    exchange.receive(slow, b"Y");
    exchange.advance(LIMIT / 5 + PRECISION);
    assert!(!exchange.is_open(slow));
    assert_eq!(porter.take(), []);
    // Behind it there is none, until a frame begins.
    let client = exchange.connect();
    exchange.advance(LIMIT - Duration::from_millis(1));
    exchange.receive(client, b"PROXY UNKNOWN\r\n");
    exchange.advance(LIMIT * 10);
    exchange.receive(client, b"\x91");
    exchange.advance(LIMIT - Duration::from_millis(1));
    assert!(exchange.is_open(client));
    exchange.advance(PRECISION);
    assert!(!exchange.is_open(client));
    assert_eq!(exchange.counters().timed_out, 3);
}

#[test]
fn who_sends_no_header_is_idle_too() {
    let (mut exchange, _) = proxied(within(Duration::ZERO, LIMIT));
    let client = exchange.connect();
    exchange.advance(LIMIT / 2);
    exchange.receive(client, b"PROXY");
    ends_at_its_time(&mut exchange, client);
}

#[test]
fn a_stop_does_not_wait_for_headers_and_answers_what_has_arrived() {
    let (mut exchange, porter) = proxied(Limits::default());
    let [silent, halfway, whole] = [(); 3].map(|()| exchange.connect());
    exchange.receive(halfway, b"PROXY UNK");
    exchange.stop_unread(whole, b"PROXY UNKNOWN\r\n\x01\x91");
    assert!(
        [silent, halfway, whole]
            .iter()
            .all(|client| !exchange.is_open(*client))
    );
    assert_eq!(exchange.take_sent(whole), [GREETING, 1]);
    assert_eq!(porter.take(), told(&None, &[&[1]]));
    let counters = exchange.counters();
    assert_eq!(
        (counters.open, counters.bad_input, counters.timed_out),
        (0, 0, 0)
    );
}

#[test]
fn a_header_may_be_cut_by_a_handover() {
    for (header, address) in headers() {
        for cut in 0..header.len() {
            for stays in [true, false] {
                let (mut exchange, porter) = proxied(Limits::default());
                let client = exchange.connect();
                exchange.receive(client, &header[..cut]);
                let mut exchange = exchange.hand_over(|_| porter.clone());
                // What is awaited of those who are here does not depend on the new configuration.
                exchange.set_proxy_protocol(stays);
                assert_eq!((porter.take(), exchange.counters().restored), (vec![], 1));
                // And once more, at the same place.
                let mut exchange = exchange.hand_over(|_| porter.clone());
                exchange.receive(client, &header[cut..]);
                exchange.receive(client, &FRAMES.concat());
                assert_eq!(porter.take(), told(&address, &FRAMES));
                let sent = [&[GREETING][..], &FRAMES.concat()].concat();
                assert_eq!(exchange.take_sent(client), sent);
                assert_eq!(exchange.counters().open, 1);
            }
        }
    }
}

#[test]
fn a_successor_knows_where_clients_are() {
    for (header, address) in headers() {
        for stays in [true, false] {
            let (mut exchange, porter) = proxied(Limits::default());
            let [stateless, saved] = [(); 2].map(|()| {
                let client = exchange.connect();
                exchange.receive(client, &header);
                client
            });
            exchange.receive(saved, &[1, 0x91]);
            porter.take();
            let mut exchange = exchange.hand_over(|_| porter.clone());
            exchange.set_proxy_protocol(stays);
            let mut restored = porter.take();
            restored.sort_by_key(|event| matches!(event, Event::Restored(..)));
            let [Event::Connected(at, proxy)] = &told(&address, &[])[..] else {
                unreachable!()
            };
            let again = Event::Restored(at.clone(), proxy.clone());
            assert_eq!(restored, [told(&address, &[])[0].clone(), again]);
            // Neither is expected to send another header.
            exchange.receive(stateless, &[2]);
            exchange.receive(saved, &[3]);
            let frames = [
                Event::Frame(at.clone(), vec![2]),
                Event::Frame(at.clone(), vec![0x91, 3]),
            ];
            assert_eq!(porter.take(), frames);
        }
    }
}

#[test]
fn who_connected_without_a_header_is_not_asked_for_one_by_a_successor() {
    let (mut exchange, porter) = proxied(Limits::default());
    exchange.set_proxy_protocol(false);
    let client = exchange.connect();
    let mut exchange = exchange.hand_over(|_| porter.clone());
    exchange.set_proxy_protocol(true);
    porter.take();
    exchange.receive(client, &[1]);
    assert_eq!(porter.take(), [Event::Frame(tcp(PROXY), vec![1])]);
    let next = exchange.connect();
    exchange.receive(next, &[1]);
    assert!(!exchange.is_open(next));
}

#[test]
fn a_successor_gives_a_header_its_whole_time() {
    let (mut exchange, porter) = proxied(within(LIMIT, Duration::ZERO));
    let client = exchange.connect();
    exchange.receive(client, b"PROXY ");
    exchange.advance(LIMIT - Duration::from_millis(10));
    let mut exchange = exchange.hand_over(|_| porter);
    ends_at_its_time(&mut exchange, client);
}
