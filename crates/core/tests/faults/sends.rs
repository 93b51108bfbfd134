//! Answers that do not fit: short sends, gathered sends, readers that read late.

use std::io::Write;
use std::net::{Shutdown, TcpStream};

use bytes::Bytes;
use ringhold_core::inherit::Inherited;
use ringhold_core::{Flow, Frame, Peer, Refusal, Reply, Service};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::bed::{Bed, Engine, assert_no_kernel_workers};
use crate::common::client;
use crate::common::random::Random;
use crate::frames::frame;

/// Answers each frame, whose contents do not matter, with [`answer`] number so and so, part of it shared and part of it
/// written.
struct Talker;

impl Service for Talker {
    type Session = u64;

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<u64, Refusal> {
        Ok(0)
    }

    fn frame(&mut self, number: &mut u64, _: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        for (share, part) in answer(*number) {
            if share {
                reply.share(Bytes::from(part));
            } else {
                reply.write(|out| out.extend_from_slice(&part));
            }
        }
        *number += 1;
        Flow::Continue
    }
}

/// The parts of an answer, and whether they are shared: up to 300 of them, more than one send gathers.
fn answer(number: u64) -> Vec<(bool, Vec<u8>)> {
    let mut random = Random::new(number);
    let parts = [1, 3, 64, 65, 130, 300][random.below(6)];
    let part = |_| {
        let size = match random.below(10) {
            0..3 => 1 + random.below(600),
            3..9 => 513 + random.below(2000),
            _ => 1 + random.below(10_000),
        };
        (random.below(3) > 0, frame(size, random.next()))
    };
    (0..parts).map(part).collect()
}

fn answers(numbers: std::ops::Range<u64>) -> Vec<u8> {
    numbers
        .flat_map(answer)
        .flat_map(|(_, part)| part)
        .collect()
}

/// A server whose sockets have the usual room or, if they are `narrow`, next to none.
fn start(engine: Engine, narrow: bool) -> Bed {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    if narrow {
        // Accepted sockets inherit it.
        listener.set_send_buffer_size(1).unwrap();
    }
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    listener.bind(&SockAddr::from(any)).unwrap();
    listener.listen(100).unwrap();
    let inherited = Inherited::from_descriptors(vec![("talk".to_owned(), listener.into())]);
    let config = "
        workers = 1
        [limits]
        outbox_bytes = \"256KiB\"
        [sockets.talk]";
    Bed::start_inheriting(engine, config, inherited, |server| {
        server.service("talk", |_| Talker)
    })
}

/// Reads `expected` in pieces of every size.
fn read_piecemeal(stream: &mut TcpStream, expected: &[u8], seed: u64) {
    let mut random = Random::new(seed);
    let mut done = 0;
    let mut piece = vec![0; 20_000];
    while done < expected.len() {
        let most = [10, 500, 20_000][random.below(3)];
        let room = (1 + random.below(most)).min(expected.len() - done);
        let count = client::read(stream, &mut piece[..room]).unwrap();
        assert!(count > 0, "the end came after {done} bytes");
        assert!(
            piece[..count] == expected[done..done + count],
            "wrong after {done}"
        );
        done += count;
    }
}

pub(crate) fn answers_that_are_sent_in_bits_stay_whole_and_in_order(engine: Engine) {
    let bed = start(engine, true);
    let expected = answers(0..20);
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let (bed, expected) = (&bed, &expected);
            scope.spawn(move || {
                let mut client = client::connect_narrow(bed.address("talk"));
                client.write_all(&[1; 20]).unwrap();
                if seed % 2 == 0 {
                    client.shutdown(Shutdown::Write).unwrap();
                }
                // Dispatch stops at half of the outbox, when the peer does not read.
                bed.until("somebody is waited for", |bed| bed.total().pauses > 0);
                read_piecemeal(&mut client, expected, seed);
                if seed % 2 == 1 {
                    client.shutdown(Shutdown::Write).unwrap();
                }
                client::expect_end(&mut client);
            });
        }
    });
    assert_no_kernel_workers();
    let (total, counters) = (bed.total(), bed.counters());
    assert_eq!(total.bytes_out, 4 * expected.len() as u64);
    // The sockets hold a few thousand bytes, so there were many short sends.
    let least = total.bytes_out / 64 / 1024;
    assert!(counters.completions > least, "{least} {counters:?}");
    bed.finish();
}

pub(crate) fn an_answer_may_be_larger_than_the_outbox(engine: Engine) {
    let bed = start(engine, false);
    let mut client = bed.connect("talk");
    // Far more requests than may be dispatched, and all of them arrive before the first answer is read.
    client.write_all(&[1; 200]).unwrap();
    bed.until("it is waited for", |bed| bed.total().pauses > 0);
    for number in 0..200 {
        // Half the outbox, and the answer that exceeded it.
        let held = bed.memory_held();
        assert!(held < (128 << 10) + (1 << 20), "{held} bytes held");
        client::expect(&mut client, &answers(number..number + 1));
    }
    assert!(bed.total().pauses > 10);
    drop(client);
    bed.finish();
}
