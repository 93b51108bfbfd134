//! Frames and segments that do not agree.

use std::io::Write;
use std::net::{Shutdown, TcpStream};

use crate::bed::{Bed, Engine, assert_no_kernel_workers};
use crate::common::client;
use crate::common::random::Random;
use crate::frames::{Script, frame};
use crate::services::Digest;

/// One ring on which everything straddles, and the one that is used if nothing is configured.
const RINGS: [&str; 2] = [
    "entries = 8\nbuffers = 2\nbuffer_bytes = 1024",
    "entries = 4096",
];

fn on_each_ring(engine: Engine, test: impl Fn(&Bed, TcpStream)) {
    for ring in RINGS {
        let config =
            format!("workers = 1\n[ring]\n{ring}\n[sockets.digest]\nlisten = [\"127.0.0.1:0\"]\n");
        let bed = Bed::start(engine, &config, |server| {
            server.service("digest", |_| Digest)
        });
        test(&bed, bed.connect("digest"));
        assert_no_kernel_workers();
        bed.finish();
    }
}

/// A message with every kind of header: array, map, numbers, strings, binary, extensions.
fn message() -> Vec<u8> {
    let mut message = vec![0x98, 0x00, 0xcd, 0x01, 0x02, 0xcb, 1, 2, 3, 4, 5, 6, 7, 8];
    message.extend_from_slice(&[
        0xa5, b'h', b'e', b'l', b'l', b'o', 0xd9, 3, b'y', b'o', b'u',
    ]);
    message.extend_from_slice(&[0xde, 0, 2, 0xc2, 0x92, 0xc0, 0x81, 1, 2, 0xc3, 0xd8, 0x05]);
    message.extend_from_slice(&[7; 16]);
    message.extend_from_slice(&[
        0xc9, 0, 0, 0, 5, 0x2a, 1, 2, 3, 4, 5, 0xdd, 0, 0, 0, 2, 0xff,
    ]);
    message.extend_from_slice(&frame(40, 3));
    message
}

pub(crate) fn a_frame_may_be_cut_anywhere(engine: Engine) {
    let message = message();
    on_each_ring(engine, |bed, mut client| {
        let mut script = Script::default();
        let mut received = 0;
        for cut in 1..message.len() {
            let before = script.answers.len();
            script.add(&message);
            let (head, tail) = message.split_at(cut);
            client.write_all(head).unwrap();
            received += head.len() as u64;
            bed.until_received(received);
            client.write_all(tail).unwrap();
            received += tail.len() as u64;
            client::expect(&mut client, &script.answers[before..]);
        }
        assert_eq!(bed.total().frames_in, message.len() as u64 - 1);
    });
}

pub(crate) fn every_byte_may_come_alone(engine: Engine) {
    on_each_ring(engine, |bed, mut client| {
        let mut script = Script::default();
        script.add(&message());
        script.add(&frame(300, 1));
        script.add(&[0xc0]);
        script.add(&message());
        for (i, byte) in script.sent.iter().enumerate() {
            client.write_all(&[*byte]).unwrap();
            // A small message arrives in as many pieces as were sent only if each is waited for.
            bed.until_received(i as u64 + 1);
        }
        client::expect(&mut client, &script.answers);
        // Without waiting, several come together, however they fall.
        let mut script = Script::default();
        (0..4).for_each(|_| script.add(&[0x01])); // Numbers that were used up above.
        let (sent, answers) = (script.sent.len(), script.answers.len());
        (1..60).for_each(|i| script.add(&frame(i, 9)));
        for byte in &script.sent[sent..] {
            client.write_all(&[*byte]).unwrap();
        }
        client::expect(&mut client, &script.answers[answers..]);
    });
}

pub(crate) fn one_segment_may_hold_many_frames(engine: Engine) {
    on_each_ring(engine, |bed, client| {
        // More of them than a connection is given in one turn, in one buffer.
        let mut sizes = vec![1; 30_000];
        sizes.extend((1..200).flat_map(|i| [i, 2, 1]));
        sizes.extend(vec![1; 10_000]);
        let script = Script::of(sizes, 11);
        client::exchange(&client, &script.sent, &script.answers);
        client.shutdown(Shutdown::Write).unwrap();
        client::expect_end(&mut &client);
        assert_eq!(bed.total().frames_in, u64::from(script.frames));
    });
}

pub(crate) fn a_frame_may_straddle_any_number_of_buffers(engine: Engine) {
    on_each_ring(engine, |bed, client| {
        let mut sizes = Vec::new();
        // Two, three and twenty small buffers, beginning anywhere in one.
        for shift in 0..48 {
            sizes.extend([
                1 + shift * 23,
                1025 + shift,
                2049 + shift,
                20 * 1024 + shift,
                1,
            ]);
        }
        // Two, three and five of the usual ones, and one byte more or less than a whole number.
        sizes.extend([16_383, 16_384, 16_385, 17_000, 33_000, 1, 80_000]);
        // Around the size from which on a frame is received into its own buffer.
        sizes.extend((65_500..65_600).step_by(7));
        sizes.extend([64, 128, 256].map(|kib| kib * 1024));
        sizes.extend([64, 128, 256].map(|kib| kib * 1024 + 5));
        let script = Script::of(sizes, 12);
        client::exchange(&client, &script.sent, &script.answers);
        client.shutdown(Shutdown::Write).unwrap();
        client::expect_end(&mut &client);
        assert_eq!(bed.total().frames_in, u64::from(script.frames));
        assert_eq!(bed.total().bytes_in, script.sent.len() as u64);
    });
}

pub(crate) fn a_frame_may_be_larger_than_everything(engine: Engine) {
    on_each_ring(engine, |bed, client| {
        let sizes = [3 << 20, 1, 500, 3 << 20, (3 << 20) + 17, 2000, 1 << 20];
        let script = Script::of(sizes, 13);
        client::exchange(&client, &script.sent, &script.answers);
        assert_eq!(bed.total().frames_in, u64::from(script.frames));
        bed.until("its memory is given back", |bed| bed.memory_held() == 0);
    });
}

pub(crate) fn segments_may_have_any_size(engine: Engine) {
    on_each_ring(engine, |bed, client| {
        let mut random = Random::new(14);
        let sizes = (0..400).map(|_| match random.below(100) {
            0..60 => 1 + random.below(200),
            60..95 => 1 + random.below(6000),
            _ => 1 + random.below(150_000),
        });
        let script = Script::of(sizes.collect::<Vec<_>>(), 15);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut random = Random::new(16);
                let mut left = &script.sent[..];
                while !left.is_empty() {
                    let most = [3, 100, 3000, 40_000][random.below(4)];
                    let (piece, rest) = left.split_at(left.len().min(1 + random.below(most)));
                    (&client).write_all(piece).unwrap();
                    left = rest;
                }
            });
            client::expect(&mut &client, &script.answers);
        });
        assert_eq!(bed.total().frames_in, u64::from(script.frames));
    });
}
