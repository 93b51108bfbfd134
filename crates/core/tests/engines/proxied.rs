//! Clients that come through a proxy, which says where they are.

use std::io::{Read, Write};
use std::net::TcpStream;

use ringhold_core::{Flow, Frame, Peer, Refusal, Reply, Service};

use crate::bed::{Bed, Engine, engines, exchange, expect, expect_end, frame};

/// Greets with the client's address, as a string of msgpack, and sends every frame back.
struct Welcome;

impl Service for Welcome {
    type Session = ();

    fn connected(&mut self, peer: &Peer<'_>, reply: &mut Reply<'_>) -> Result<(), Refusal> {
        let address = peer
            .address()
            .map_err(|error| Refusal::new(error.to_string()))?;
        reply.write(|out| out.extend_from_slice(&welcome(&address.to_string())));
        Ok(())
    }

    fn frame(&mut self, _: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        reply.write(|out| out.extend_from_slice(&frame));
        Flow::Continue
    }
}

fn welcome(address: &str) -> Vec<u8> {
    [&[0xd9, address.len() as u8], address.as_bytes()].concat()
}

fn serve(engine: Engine, more: &str) -> Bed {
    let config = format!(
        "workers = 2
        {more}
        [sockets.proxied]
        service = \"welcome\"
        proxy_protocol = true
        listen = [\"127.0.0.1:0\", \"unix:@/proxied.sock\"]
        [sockets.plain]
        service = \"welcome\"
        listen = \"127.0.0.1:0\"
        "
    );
    Bed::start(engine, &config, |server| {
        server.service("welcome", |_| Welcome)
    })
}

/// A header of version 1 or 2 for this client, and its address.
fn header(number: u16) -> (Vec<u8>, String) {
    let port = 1024 + number;
    let header = match number % 2 {
        0 => format!("PROXY TCP4 192.0.2.7 192.0.2.1 {port} 4660\r\n").into_bytes(),
        _ => {
            let start = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0f\xc0\0\x02\x07\xc0\0\x02\x01";
            [&start[..], &port.to_be_bytes(), &[0x12, 0x34, 4, 0, 0]].concat()
        }
    };
    (header, format!("192.0.2.7:{port}"))
}

#[test]
fn many_headers_in_pieces_and_frames_behind_them() {
    const CLIENTS: u16 = 200;
    for engine in engines() {
        let bed = serve(engine, "");
        let clients: Vec<TcpStream> = (0..CLIENTS).map(|_| bed.connect("proxied")).collect();
        let stream = |number| [header(number).0, frame(100, u32::from(number))].concat();
        // Each is cut elsewhere, and all are under way at once.
        for (number, mut client) in (0..).zip(&clients) {
            let stream = stream(number);
            let cut = usize::from(number) % stream.len();
            client.write_all(&stream[..cut]).unwrap();
        }
        for (number, mut client) in (0..).zip(&clients) {
            let stream = stream(number);
            let cut = usize::from(number) % stream.len();
            client.write_all(&stream[cut..]).unwrap();
        }
        for (number, mut client) in (0..).zip(&clients) {
            expect(&mut client, &welcome(&header(number).1));
            expect(&mut client, &frame(100, u32::from(number)));
            exchange(client, &frame(70_000, 1));
        }
        drop(clients);
        let end = bed.finish();
        assert_eq!((end.frames_in, end.bad_input), (2 * u64::from(CLIENTS), 0));
    }
}

#[test]
fn bytes_come_one_by_one_over_tcp_and_unix_sockets() {
    for engine in engines() {
        let bed = serve(engine, "");
        let tcp = bed.connect("proxied");
        let unix = bed.connect_unix("proxied.sock");
        let mut sent = 0;
        for byte in header(1).0 {
            (&tcp).write_all(&[byte]).unwrap();
            (&unix).write_all(&[byte]).unwrap();
            sent += 2;
            // So that they are received one by one.
            bed.until_received(sent);
        }
        expect(&mut &tcp, &welcome(&header(1).1));
        expect(&mut &unix, &welcome(&header(1).1));
        exchange(&tcp, &[1, 2, 3]);
        exchange(&unix, &[1, 2, 3]);
        drop((tcp, unix));
        bed.finish();
    }
}

#[test]
fn the_other_end_is_the_client_where_the_proxy_knows_no_other_or_nobody_asks_it() {
    for engine in engines() {
        let bed = serve(engine, "");
        let proxy = bed.connect("proxied");
        (&proxy).write_all(b"PROXY UNKNOWN\r\n").unwrap();
        let plain = bed.connect("plain");
        for stream in [&proxy, &plain] {
            let address = stream.local_addr().unwrap().to_string();
            expect(&mut &*stream, &welcome(&address));
        }
        // There a header is what it looks like: fifteen frames of a byte.
        exchange(&plain, b"PROXY UNKNOWN\r\n");
        drop((proxy, plain));
        bed.finish();
    }
}

fn ends(mut stream: impl Read + Write, bytes: &[u8]) {
    stream.write_all(bytes).unwrap();
    expect_end(&mut stream);
}

#[test]
fn who_sends_something_else_is_turned_away() {
    for engine in engines() {
        let bed = serve(engine, "");
        ends(bed.connect("proxied"), &[1]);
        ends(bed.connect_unix("proxied.sock"), b"PROXY TCP4\r\n");
        let end = bed.finish();
        assert_eq!((end.opened, end.bad_input, end.frames_in), (2, 2, 0));
    }
}

#[test]
fn who_sends_no_whole_header_in_time_is_turned_away() {
    for engine in engines() {
        let bed = serve(engine, "[limits]\nframe_timeout = \"1s\"");
        let halfway = bed.connect("proxied");
        (&halfway).write_all(b"PROXY ").unwrap();
        expect_end(&mut &bed.connect("proxied"));
        expect_end(&mut &halfway);
        drop(halfway);
        let end = bed.finish();
        assert_eq!((end.opened, end.timed_out, end.bad_input), (2, 2, 0));
    }
}

#[test]
fn a_stop_does_not_wait_for_headers() {
    for engine in engines() {
        let bed = serve(engine, "");
        let silent = bed.connect("proxied");
        let halfway = bed.connect("proxied");
        (&halfway).write_all(b"PROXY TCP4 192.0").unwrap();
        bed.until_open(2);
        bed.until_received(16);
        bed.stop();
        expect_end(&mut &silent);
        expect_end(&mut &halfway);
        drop((silent, halfway));
        let end = bed.finish();
        assert_eq!((end.bad_input, end.timed_out), (0, 0));
    }
}
