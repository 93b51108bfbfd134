//! Configurations that a program has written itself, which no parser has seen.

use ringhold_core::Server;
use ringhold_core::config::{Config, RingConfig, Workers};
use ringhold_core::inherit::Inherited;

/// Each way to a start says so, before any worker is made.
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
        let server = || {
            let ring = ring.clone();
            Server::new(Config {
                workers: Workers::Count(1),
                ring,
                ..Config::default()
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
}
