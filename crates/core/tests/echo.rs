//! One server, real sockets, the echo path, with each engine.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use ringhold_core::config::Config;
use ringhold_core::inherit::Inherited;
use ringhold_core::listeners::Address;
use ringhold_core::{Flow, Frame, Peer, Refusal, Reply, Running, Server, Service};

struct Echo;

impl Service for Echo {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, _: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        reply.write(|out| out.extend_from_slice(&frame));
        Flow::Continue
    }
}

/// The engines that work here, as the configuration calls them.
fn engines() -> Vec<&'static str> {
    let mut engines = vec!["portable"];
    match ringhold_core::probe::probe().unavailable {
        None => engines.push("ring"),
        Some(why) => eprintln!("{why}"),
    }
    engines
}

fn start(engine: &str, extra: &str) -> (Running, std::net::SocketAddr) {
    let text = format!(
        "engine = \"{engine}\"\n{extra}\n[sockets.echo]\nservice = \"echo\"\nlisten = [\"127.0.0.1:0\"]\n"
    );
    let config = Config::parse(&text, "test").unwrap();
    let running = Server::new(config)
        .inherited(Inherited::none())
        .service("echo", |_| Echo)
        .start()
        .unwrap();
    assert_eq!(running.engine().to_string(), engine);
    let address = running.listeners().next().unwrap().address.clone();
    match address {
        Address::Tcp(address) => (running, address),
        other => panic!("not TCP: {other}"),
    }
}

#[test]
fn answers_on_every_worker_and_after_half_close() {
    for engine in engines() {
        answers_everywhere(engine);
    }
}

fn answers_everywhere(engine: &str) {
    let (running, address) = start(engine, "workers = 2");
    let mut clients: Vec<TcpStream> = (0..10)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    for (i, client) in clients.iter_mut().enumerate() {
        for part in [&[0x93, i as u8][..], &[0xc4, 2, 7], &[8, 0xc0]] {
            client.write_all(part).unwrap();
        }
    }
    for (i, client) in clients.iter_mut().enumerate() {
        let mut all = [0; 7];
        client.read_exact(&mut all).unwrap();
        assert_eq!(all, [0x93, i as u8, 0xc4, 2, 7, 8, 0xc0]);
    }
    // All were dealt while all of them were open.
    let snapshot = running.metrics().snapshot();
    assert_eq!(snapshot.total().frames_in, 10);
    let opened: Vec<u64> = snapshot
        .workers
        .iter()
        .map(|w| w.names[0].1.opened)
        .collect();
    assert_eq!(opened, [5, 5]);
    for client in &mut clients {
        client.write_all(&[0x91, 7]).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, [0x91, 7]);
    }
    drop(clients);
    running.stop();
    running.join().unwrap();
}

#[test]
fn a_large_frame_comes_back_whole() {
    for engine in engines() {
        large_frame(engine);
    }
}

fn large_frame(engine: &str) {
    let (running, address) = start(engine, "workers = 1");
    let mut client = TcpStream::connect(address).unwrap();
    let mut frame = vec![0xc6];
    frame.extend_from_slice(&3_000_000u32.to_be_bytes());
    frame.extend((0..3_000_000u32).map(|i| ((i * 7) >> 3) as u8));
    for _ in 0..3 {
        let sent = frame.clone();
        let mut writer = client.try_clone().unwrap();
        let thread = std::thread::spawn(move || writer.write_all(&sent).unwrap());
        let mut back = vec![0; frame.len()];
        client.read_exact(&mut back).unwrap();
        thread.join().unwrap();
        assert!(back == frame);
    }
    drop(client);
    running.stop();
    running.join().unwrap();
}
