//! The bound on what all connections hold together.

use std::io::Write;
use std::net::TcpStream;

use crate::bed::{Bed, Engine};
use crate::client;
use crate::frames::frame;
use crate::services::Echo;

pub(crate) fn whoever_announces_much_and_sends_nothing_costs_nobody_else_a_connection(
    engine: Engine,
) {
    let config = "
        workers = 1
        [limits]
        frame_bytes = \"2MiB\"
        memory = \"2MiB\"
        [sockets.echo]
        listen = [\"127.0.0.1:0\"]";
    let bed = Bed::start(engine, config, |server| server.service("echo", |_| Echo));
    let whole = frame(1_500_000, 1);
    let (sent, rest) = whole.split_at(1_200_000);
    let mut honest = bed.connect("echo");
    honest.write_all(sent).unwrap();
    bed.until_received(sent.len() as u64);
    // If what they announce counted, 50 first buffers of theirs would be too much.
    let header = &frame(1_000_000, 2)[..5];
    let silent: Vec<TcpStream> = (0..50)
        .map(|_| {
            let mut client = bed.connect("echo");
            client.write_all(header).unwrap();
            client
        })
        .collect();
    bed.until_received((sent.len() + silent.len() * header.len()) as u64);
    client::exchange(&honest, rest, &whole);
    assert_eq!(bed.total().cut, 0);
    assert_eq!(bed.total().open, 51);
    drop((honest, silent));
    bed.finish();
}
