//! Connections that have much to say. The ring engine receives from them in another way than from the others.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;

use socket2::SockRef;

use crate::bed::{
    Bed, Engine, GREETING, connect_unix, drain, engines, exchange, expect, expect_end, frame,
    serve_echo,
};

const ONE_WORKER: &str = "
    workers = 1
    [sockets.echo]
    listen = [\"127.0.0.1:0\", \"unix:@/echo.sock\"]
";

fn start(engine: Engine) -> (Bed, TcpStream, UnixStream) {
    let bed = serve_echo(engine, ONE_WORKER);
    let tcp = bed.connect("echo");
    let unix = connect_unix(&bed.path("echo.sock"));
    expect(&mut &tcp, &[GREETING]);
    expect(&mut &unix, &[GREETING]);
    (bed, tcp, unix)
}

/// So many frames of 16 KiB, give or take some.
fn many(count: u32) -> Vec<u8> {
    (0..count)
        .flat_map(|seed| frame(16_384 + seed as usize % 50, seed))
        .collect()
}

fn assert_pieces(engine: Engine, bed: &Bed) {
    assert_eq!(
        bed.counters().pieces > 0,
        engine == Engine::Ring,
        "{engine}"
    );
}

#[test]
fn what_is_sent_at_length_comes_back_in_order() {
    for engine in engines() {
        let (bed, tcp, unix) = start(engine);
        let others: Vec<TcpStream> = (0..6).map(|_| bed.connect("echo")).collect();
        for other in &others {
            expect(&mut &*other, &[GREETING]);
        }
        let frames = many(400);
        std::thread::scope(|scope| {
            scope.spawn(|| exchange(&tcp, &frames));
            scope.spawn(|| exchange(&unix, &frames));
            for other in &others {
                scope.spawn(|| exchange(other, &frames));
            }
        });
        assert_pieces(engine, &bed);
        drop((tcp, unix, others));
        assert_eq!(bed.finish().frames_in, 8 * 400);
    }
}

#[test]
fn who_never_stops_does_not_keep_others_from_being_served() {
    for engine in engines() {
        let (bed, tcp, unix) = start(engine);
        let frames = many(64);
        std::thread::scope(|scope| {
            let mut endless = bed.connect("echo");
            expect(&mut endless, &[GREETING]);
            let mut reader = endless.try_clone().unwrap();
            let writer = endless.try_clone().unwrap();
            scope.spawn(move || {
                let mut writer = writer;
                while writer.write_all(&many(64)).is_ok() {}
            });
            scope.spawn(move || drain(&mut reader));
            for seed in 0..20 {
                exchange(&unix, &frames);
                exchange(&tcp, &frame(100, seed));
            }
            endless.shutdown(Shutdown::Both).unwrap();
        });
        assert_pieces(engine, &bed);
        drop((tcp, unix));
        bed.finish();
    }
}

#[test]
fn who_turns_to_small_frames_is_treated_like_others_again() {
    for engine in engines() {
        let (bed, tcp, unix) = start(engine);
        exchange(&unix, &many(100));
        exchange(&tcp, &many(100));
        assert_pieces(engine, &bed);
        for round in 0..3 {
            let before = bed.counters().pieces;
            for seed in 0..50 {
                exchange(&unix, &frame(100, seed));
                exchange(&tcp, &frame(100, seed));
            }
            // Looks in vain count as pieces, too.
            let pieces = bed.counters().pieces - before;
            if round > 0 {
                assert_eq!(pieces, 0, "{engine}, round {round}");
            }
        }
        exchange(&unix, &many(100));
        drop((tcp, unix));
        assert_eq!(bed.finish().bad_input, 0);
    }
}

#[test]
fn the_end_of_a_connection_with_much_to_say_is_seen() {
    for engine in engines() {
        let (bed, tcp, mut unix) = start(engine);
        let mut orderly = bed.connect("echo");
        expect(&mut orderly, &[GREETING]);
        for mut client in [&tcp, &orderly] {
            exchange(client, &many(40));
            client.write_all(&many(1)[..1000]).unwrap();
        }
        exchange(&unix, &many(40));
        assert_pieces(engine, &bed);
        // In the middle of a frame, with a reset, and behind the last one.
        orderly.shutdown(Shutdown::Write).unwrap();
        expect_end(&mut orderly);
        SockRef::from(&tcp)
            .set_linger(Some(std::time::Duration::ZERO))
            .unwrap();
        drop(tcp);
        unix.write_all(&many(20)).unwrap();
        unix.shutdown(Shutdown::Write).unwrap();
        expect(&mut unix, &many(20));
        expect_end(&mut unix);
        bed.until("no connection", |bed| bed.total().open == 0);
        let total = bed.finish();
        assert_eq!((total.failed, total.bad_input), (1, 1), "{engine}");
    }
}

#[test]
fn who_has_much_to_say_and_reads_nothing_is_paused() {
    for engine in engines() {
        let config =
            ONE_WORKER.replace("[sockets", "[limits]\noutbox_bytes = \"256KiB\"\n[sockets");
        let bed = serve_echo(engine, &config);
        let mut unix = connect_unix(&bed.path("echo.sock"));
        let frames = many(500);
        std::thread::scope(|scope| {
            let mut writer = unix.try_clone().unwrap();
            let theirs = &frames;
            scope.spawn(move || {
                writer.write_all(theirs).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            bed.until("a pause", |bed| bed.total().pauses > 0);
            expect(&mut unix, &[GREETING]);
            expect(&mut unix, &frames);
            expect_end(&mut unix);
        });
        assert_eq!(bed.finish().frames_in, 500);
    }
}

#[test]
fn tiny_frames_at_length_come_back_in_order() {
    for engine in engines() {
        let (bed, tcp, unix) = start(engine);
        // More of them fit into a piece than are dispatched in one turn.
        let frames: Vec<u8> = (0..100_000).flat_map(|seed| frame(6, seed)).collect();
        exchange(&unix, &frames);
        exchange(&tcp, &frames);
        assert_pieces(engine, &bed);
        drop((tcp, unix));
        assert_eq!(bed.finish().frames_in, 200_000);
    }
}

#[test]
fn a_stop_ends_connections_with_much_to_say() {
    for engine in engines() {
        let (bed, tcp, mut unix) = start(engine);
        exchange(&tcp, &many(40));
        exchange(&unix, &many(40));
        assert_pieces(engine, &bed);
        std::thread::scope(|scope| {
            let mut writer = tcp.try_clone().unwrap();
            scope.spawn(move || while writer.write_all(&many(16)).is_ok() {});
            let mut reader = tcp.try_clone().unwrap();
            scope.spawn(move || {
                drain(&mut reader);
                // So that the writer ends, too.
                let _ = reader.shutdown(Shutdown::Both);
            });
            bed.until("traffic", |bed| bed.total().frames_in > 200);
            bed.stop();
            expect_end(&mut unix);
        });
        bed.finish();
    }
}
