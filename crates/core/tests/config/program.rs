//! Configurations that a program has written itself, which no parser has seen.

use ringhold_core::Server;
use ringhold_core::config::{Config, RingConfig, SocketConfig, Workers};
use ringhold_core::inherit::Inherited;
use ringhold_core::limits::Limits;

#[test]
fn rings_that_cannot_be_are_a_matter_of_the_program() {
    let default = RingConfig::default;
    for (ring, why) in [
        (
            RingConfig {
                entries: 0,
                ..default()
            },
            "there cannot be a ring of 0 entries: it has a power of two from 8 to 32768",
        ),
        (
            RingConfig {
                entries: 100,
                ..default()
            },
            "there cannot be a ring of 100 entries: it has a power of two from 8 to 32768",
        ),
        (
            RingConfig {
                buffer_bytes: 1 << 62,
                ..default()
            },
            "there cannot be 64 receive buffers of 4611686018427387904 bytes: they are a power of two from 2 to 32768, each has one from \
             1024 to 1048576",
        ),
    ] {
        assert_refused(
            Config {
                ring,
                ..Config::default()
            },
            why,
        );
    }
}

/// Each way to a start says `why`, before any worker is made.
#[track_caller]
fn assert_refused(config: Config, why: &str) {
    let server = || {
        let workers = Workers::Count(1);
        Server::new(Config {
            workers,
            ..config.clone()
        })
        .inherited(Inherited::none())
    };
    for error in [
        server().start().unwrap_err(),
        server().check().unwrap_err(),
        server().check_assuming_inherited().unwrap_err(),
    ] {
        assert_eq!(error.to_string(), why);
        assert_eq!(error.exit_status(), 2);
    }
}

#[test]
fn limits_that_cannot_be_are_a_matter_of_the_program() {
    type Set = fn(&mut Limits);
    let cases: [(Set, &str); 8] = [
        (
            |limits| limits.promises = 0,
            "promises cannot be 0: it is from 1 to 1048576",
        ),
        (
            |limits| limits.frame_bytes = 0,
            "frame_bytes cannot be 0: it is from 1 to 1073741824",
        ),
        (
            |limits| limits.frame_bytes = 1 << 31,
            "frame_bytes cannot be 2147483648: it is from 1 to 1073741824",
        ),
        (
            |limits| limits.depth = 65_536,
            "depth cannot be 65536: it is from 1 to 65535",
        ),
        (
            |limits| limits.outbox_bytes = 0,
            "outbox_bytes cannot be 0: it is from 1 to 9223372036854775807",
        ),
        (
            |limits| limits.connections = 0,
            "connections cannot be 0: it is from 1 to 1048576",
        ),
        (
            |limits| limits.memory = 0,
            "memory cannot be 0: it is from 1 to 9223372036854775807",
        ),
        (
            |limits| limits.memory = 1000,
            "frame_bytes cannot be 16777216, more than limits.memory, which is 1000",
        ),
    ];
    for (set, why) in cases {
        let mut limits = Limits::default();
        set(&mut limits);
        assert_refused(
            Config {
                limits,
                ..Config::default()
            },
            &format!("limits.{why}"),
        );
    }
}

#[test]
fn limits_of_a_socket_that_cannot_be_are_too() {
    let with = |socket: SocketConfig| Config {
        sockets: [("rpc".to_owned(), socket)].into(),
        ..Config::default()
    };
    let mut socket = SocketConfig::new("rpc");
    socket.promises = Some(0);
    let why = "sockets.rpc.promises cannot be 0: it is from 1 to 1048576";
    assert_refused(with(socket), why);
    let mut socket = SocketConfig::new("rpc");
    socket.frame_bytes = Some(1 << 30);
    let mut config = with(socket);
    config.limits.memory = 1 << 29;
    let why =
        "sockets.rpc.frame_bytes cannot be 1073741824, more than limits.memory, which is 536870912";
    assert_refused(config, why);
}
