//! Bytes in and bytes out.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use socket2::SockRef;

use crate::bed::{
    GREETING, connect_unix, engines, exchange, expect, expect_end, frame, serve_echo,
};

const BOTH: &str = "
    workers = 2
    [sockets.echo]
    listen = [\"127.0.0.1:0\", \"unix:@/echo.sock\"]
";

#[test]
fn many_connections_are_served_by_all_workers() {
    for engine in engines() {
        const CLIENTS: usize = 600;
        let bed = serve_echo(engine, BOTH);
        let clients: Vec<TcpStream> = (0..CLIENTS).map(|_| bed.connect("echo")).collect();
        for round in 0..5u32 {
            let frames = |i: usize| {
                let seed = round * 10_000 + i as u32;
                [frame(10 + i, seed), frame(6, seed), frame(5, seed)].concat()
            };
            for (i, mut client) in clients.iter().enumerate() {
                // In two pieces, cut in the middle of a frame.
                let frames = frames(i);
                let (head, tail) = frames.split_at(7 + i / 2);
                client.write_all(head).unwrap();
                client.write_all(tail).unwrap();
            }
            for (i, mut client) in clients.iter().enumerate() {
                if round == 0 {
                    expect(&mut client, &[GREETING]);
                }
                expect(&mut client, &frames(i));
            }
        }
        let snapshot = bed.snapshot();
        for worker in &snapshot.workers {
            assert_eq!(worker.names[0].1.open, CLIENTS as u64 / 2, "{snapshot:#?}");
            assert!(worker.engine.turns > 0 && worker.engine.completions > 0);
        }
        drop(clients);
        let total = bed.finish();
        assert_eq!(total.frames_in, CLIENTS as u64 * 5 * 3);
        assert_eq!(total.bytes_in + CLIENTS as u64, total.bytes_out);
    }
}

#[test]
fn frames_of_any_size_come_back_whole() {
    for engine in engines() {
        let bed = serve_echo(engine, BOTH);
        let tcp = bed.connect("echo");
        let unix = connect_unix(&bed.path("echo.sock"));
        expect(&mut &tcp, &[GREETING]);
        expect(&mut &unix, &[GREETING]);
        // Around the sizes of buffers and the size from which a frame is large, several frames to a buffer, a frame
        // to several buffers.
        let sizes = [
            5, 6, 100, 16_383, 16_384, 16_385, 32_768, 65_535, 65_536, 65_541, 70_000, 262_144,
            262_150, 1_000_000, 5_000_000,
        ];
        let all: Vec<u8> = (0u32..)
            .zip(sizes)
            .flat_map(|(seed, size)| frame(size, seed))
            .collect();
        for (seed, size) in (0u32..).zip(sizes) {
            exchange(&tcp, &frame(size, seed));
            exchange(&unix, &frame(size, seed));
        }
        exchange(&tcp, &all);
        exchange(&unix, &all);
        drop((tcp, unix));
        let total = bed.finish();
        assert_eq!(total.frames_in, 4 * sizes.len() as u64);
        assert_eq!(total.bad_input, 0);
    }
}

#[test]
fn a_peer_that_has_ended_its_side_gets_all_its_answers() {
    for engine in engines() {
        let bed = serve_echo(engine, BOTH);
        let frames: Vec<u8> = (0..50).flat_map(|seed| frame(3000, seed)).collect();
        let mut tcp = bed.connect("echo");
        let mut unix = connect_unix(&bed.path("echo.sock"));
        tcp.write_all(&frames).unwrap();
        tcp.shutdown(Shutdown::Write).unwrap();
        expect(&mut tcp, &[GREETING]);
        expect(&mut tcp, &frames);
        expect_end(&mut tcp);
        std::thread::scope(|scope| {
            let writer = &unix;
            scope.spawn(move || {
                let mut writer = writer;
                writer.write_all(&frames).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            let mut all = Vec::new();
            (&mut &unix).read_to_end(&mut all).unwrap();
            assert_eq!(all.len(), 1 + 50 * 3000);
        });
        expect_end(&mut unix);
        // Both ends are seen, so nothing is left.
        bed.until("no connection", |bed| bed.total().open == 0);
        let total = bed.finish();
        assert_eq!((total.failed, total.bad_input), (0, 0));
    }
}

#[test]
fn a_peer_that_reads_late_misses_nothing() {
    for engine in engines() {
        let config = BOTH.replace("[sockets", "[limits]\noutbox_bytes = \"64KiB\"\n[sockets");
        let bed = serve_echo(engine, &config);
        let frames: Vec<u8> = (0..6000).flat_map(|seed| frame(1500, seed)).collect();
        let tcp = bed.connect("echo");
        let unix = connect_unix(&bed.path("echo.sock"));
        // The kernel shall not hold it all.
        SockRef::from(&tcp).set_recv_buffer_size(64 * 1024).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| (&tcp).write_all(&frames).unwrap());
            scope.spawn(|| (&unix).write_all(&frames).unwrap());
            bed.until("both paused", |bed| bed.total().pauses >= 2);
            scope.spawn(|| expect(&mut &tcp, &[&[GREETING], &frames[..]].concat()));
            scope.spawn(|| expect(&mut &unix, &[&[GREETING], &frames[..]].concat()));
        });
        drop((tcp, unix));
        let total = bed.finish();
        assert_eq!(total.frames_in, 2 * 6000);
        assert_eq!(total.failed, 0);
    }
}

#[test]
fn a_reset_or_bad_input_costs_its_connection_only() {
    for engine in engines() {
        let bed = serve_echo(engine, BOTH);
        let mut good = bed.connect("echo");
        expect(&mut good, &[GREETING]);
        for _ in 0..20 {
            let mut reset = bed.connect("echo");
            expect(&mut reset, &[GREETING]);
            reset.write_all(&frame(2000, 1)[..1000]).unwrap();
            SockRef::from(&reset)
                .set_linger(Some(std::time::Duration::ZERO))
                .unwrap();
            drop(reset);
            let mut bad = bed.connect("echo");
            // 0xc1 is no msgpack; what was whole before it is answered.
            bad.write_all(&[7, 0xc1, 8]).unwrap();
            expect(&mut bad, &[GREETING, 7]);
            expect_end(&mut bad);
        }
        exchange(&good, &frame(100_000, 2));
        bed.until("one connection", |bed| bed.total().open == 1);
        drop(good);
        let total = bed.finish();
        assert_eq!(total.bad_input, 20);
        assert_eq!(total.failed, 20);
    }
}

#[test]
fn a_small_queue_carries_many_connections() {
    for engine in engines() {
        let config = BOTH.replace("[sockets", "[ring]\nentries = 8\nbuffers = 4\n[sockets");
        let bed = serve_echo(engine, &config);
        let clients: Vec<TcpStream> = (0..300).map(|_| bed.connect("echo")).collect();
        for round in 0..3 {
            for (i, mut client) in clients.iter().enumerate() {
                client.write_all(&frame(200 + i, round)).unwrap();
            }
            for (i, mut client) in clients.iter().enumerate() {
                if round == 0 {
                    expect(&mut client, &[GREETING]);
                }
                expect(&mut client, &frame(200 + i, round));
            }
        }
        drop(clients);
        assert_eq!(bed.finish().frames_in, 900);
    }
}
