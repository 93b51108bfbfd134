//! What is left of a connection that was closed: nothing, not in the kernel either.

use std::io::Write;

use crate::bed::{Bed, GREETING, connect_unix, engines, expect, expect_end, serve_echo};

/// How many sockets have this path: the listener, and each accepted one until the kernel has let go of it. The kernel gives the
/// table in pieces, so that a socket may be missed or seen twice while others come and go.
fn sockets(bed: &Bed) -> usize {
    let path = bed.path("echo.sock");
    let table = std::fs::read_to_string("/proc/net/unix").unwrap();
    let path = path.to_str().unwrap();
    table.lines().filter(|line| line.ends_with(path)).count()
}

#[test]
fn the_kernel_lets_go_of_a_closed_socket() {
    for engine in engines() {
        let bed = serve_echo(
            engine,
            "workers = 1\n[sockets.echo]\nlisten = [\"unix:@/echo.sock\"]\n",
        );
        let connect = || {
            let mut stream = connect_unix(&bed.path("echo.sock"));
            expect(&mut stream, &[GREETING]);
            stream
        };
        // One that was there before the others waits all the time.
        let mut first = connect();
        for round in 0..3 {
            let mut others: Vec<_> = (0..20).map(|_| connect()).collect();
            for (number, stream) in others.iter_mut().enumerate() {
                stream.write_all(&[number as u8]).unwrap();
                expect(stream, &[number as u8]);
            }
            bed.until("all are there", |bed| sockets(bed) == 22);
            // Some end by themselves, the others because of a byte that begins no frame.
            let rest = others.split_off(10);
            drop(others);
            for mut stream in rest {
                stream.write_all(&[0xc1]).unwrap();
                expect_end(&mut stream);
            }
            bed.until("the others are gone", |bed| sockets(bed) == 2);
            first.write_all(&[round]).unwrap();
            expect(&mut first, &[round]);
        }
        drop(first);
        let total = bed.finish();
        assert_eq!((total.opened, total.open), (61, 0), "{engine}");
    }
}
