//! When connections are accepted, and by whom they are served.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

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

#[test]
fn who_floods_all_listeners_of_a_worker_gets_no_more_than_the_limit() {
    for engine in engines() {
        let listeners: Vec<TcpListener> = (0..3)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let address = |listener: &TcpListener| listener.local_addr().unwrap();
        let addresses: Vec<SocketAddr> = listeners.iter().map(address).collect();
        // All of them wait when the worker begins to accept.
        let clients = (0..30).map(|number| connect(addresses[number % 3]));
        let clients: Vec<TcpStream> = clients.collect();
        let names = ["echo", "echo", "other"].map(str::to_owned);
        let sockets = listeners.into_iter().map(OwnedFd::from);
        let bed = serve_echo_on(
            engine,
            "
            workers = 1
            [limits]
            connections = 5
            [sockets.echo]
            [sockets.other]
            service = \"echo\"
            ",
            names.into_iter().zip(sockets).collect(),
        );
        bed.until("all listeners to pause", |bed| {
            bed.total().accept_pauses == 3
        });
        let total = bed.total();
        assert_eq!((total.accepted, total.open), (5, 5));
        // Each that ends makes room for another one.
        std::thread::scope(|scope| {
            for mut client in clients {
                scope.spawn(move || expect(&mut client, &[GREETING]));
            }
        });
        let total = bed.finish();
        assert_eq!((total.accepted, total.opened), (30, 30));
    }
}
