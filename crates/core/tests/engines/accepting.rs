//! When connections are accepted, and by whom they are served.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};

use crate::bed::{
    GREETING, connect, connect_unix, engines, expect, expect_end, frame, serve_echo, serve_echo_on,
};

#[test]
fn above_the_limit_connections_wait_and_are_served_in_order() {
    for engine in engines() {
        let bed = serve_echo(
            engine,
            "workers = 2\n[limits]\nconnections = 3\n[sockets.echo]\nlisten = [\"127.0.0.1:0\"]\n",
        );
        let mut clients: Vec<TcpStream> = (0..20).map(|_| bed.connect("echo")).collect();
        for client in &mut clients {
            client.write_all(&frame(100, 1)).unwrap();
        }
        // Six are served at a time; each that ends makes room for the next.
        for mut client in clients {
            assert!(bed.total().opened <= 20 && bed.total().open <= 6);
            expect(&mut client, &[GREETING]);
            expect(&mut client, &frame(100, 1));
        }
        let total = bed.finish();
        assert_eq!((total.accepted, total.opened), (20, 20));
        assert_eq!((total.turned_away, total.failed), (0, 0));
        // The engine may have taken several before it paused.
        assert!((1..=14).contains(&total.accept_pauses), "{total:?}");
    }
}

#[test]
fn clients_of_a_disabled_socket_see_the_end() {
    for engine in engines() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let bed = serve_echo_on(
            engine,
            "
            workers = 2
            [sockets.off]
            service = \"echo\"
            enable = false
            [sockets.echo]
            listen = [\"unix:@/echo.sock\"]
            ",
            vec![("off".to_owned(), listener.into())],
        );
        for _ in 0..10 {
            expect_end(&mut connect(address));
        }
        let mut served = connect_unix(&bed.path("echo.sock"));
        expect(&mut served, &[GREETING]);
        drop(served);
        let total = bed.finish();
        assert_eq!(total.turned_away, 10);
        assert_eq!((total.accepted, total.opened), (1, 1));
    }
}

#[test]
fn a_name_may_have_a_listener_for_each_worker() {
    for engine in engines() {
        let bed = serve_echo(
            engine,
            "workers = 2\n[sockets.echo]\nreuse_port = true\nlisten = [\"127.0.0.1:0\"]\n",
        );
        let mut clients: Vec<TcpStream> = (0..50).map(|_| bed.connect("echo")).collect();
        for client in &mut clients {
            expect(client, &[GREETING]);
        }
        drop(clients);
        let total = bed.finish();
        assert_eq!((total.opened, total.accept_pauses), (50, 0));
    }
}

#[test]
fn somebody_else_may_take_connections_from_the_same_listener() {
    for engine in engines() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let ours = listener.try_clone().unwrap();
        let bed = serve_echo_on(
            engine,
            "workers = 1\n[sockets.echo]\n",
            vec![("echo".to_owned(), ours.into())],
        );
        listener.set_nonblocking(true).unwrap();
        let (mut mine, mut theirs) = (0, 0);
        for _ in 0..200 {
            let mut client = connect(address);
            // Whoever is faster: a worker that was told of the connection must not wait for one that is gone.
            match listener.accept() {
                Ok((mut socket, _)) => {
                    socket.write_all(&[GREETING]).unwrap();
                    mine += 1;
                }
                Err(_) => theirs += 1,
            }
            expect(&mut client, &[GREETING]);
        }
        assert_eq!(bed.finish().opened, theirs, "the test took {mine}");
    }
}

/// Each backlog alone would fit when the worker begins to accept.
#[test]
fn who_floods_all_listeners_of_a_worker_gets_no_more_than_the_limit() {
    const LIMIT: u64 = 5130;
    const WAITING: usize = 1720;
    let raised = ringhold_core::rlimit::raise().unwrap();
    if raised.after < 3 * LIMIT {
        eprintln!(
            "skipped: it takes {} descriptors, and the hard limit is {}",
            3 * LIMIT,
            raised.after
        );
        return;
    }
    for engine in engines() {
        let directory = tempfile::tempdir().unwrap();
        let mut listeners = Vec::new();
        let mut clients = Vec::new();
        for name in ["echo", "echo", "other"] {
            let path = directory.path().join(listeners.len().to_string());
            let listener = UnixListener::bind(&path).unwrap();
            rustix::net::listen(&listener, 4096).unwrap();
            clients.extend((0..WAITING).map(|_| UnixStream::connect(&path).unwrap()));
            listeners.push((name.to_owned(), OwnedFd::from(listener)));
        }
        let config = format!(
            "
            workers = 1
            [limits]
            connections = {LIMIT}
            [sockets.echo]
            [sockets.other]
            service = \"echo\"
            "
        );
        let bed = serve_echo_on(engine, &config, listeners);
        bed.until("nobody else is served", |bed| bed.total().accept_pauses > 0);
        let total = bed.total();
        assert_eq!(total.open, LIMIT);
        // Each listener finds out by one more.
        assert!(total.accepted <= LIMIT + 3, "{total:?}");
        drop(clients);
        bed.until("nobody is left", |bed| bed.total().open == 0);
        assert_eq!(bed.finish().opened, 3 * WAITING as u64);
    }
}
