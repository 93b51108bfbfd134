//! What one process, one worker and one connection may use.

use std::time::Duration;

/// The limits of section `[limits]`. Each has a default that suits a data daemon on a small machine. A socket may have its own of those
/// that concern a connection, which are all but `depth` and `memory`: see
/// [`SocketConfig::limits`](crate::config::SocketConfig::limits).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest frame, in bytes. A larger one costs its connection, as soon as a header announces it.
    /// Default 16 MiB, at most 1 GiB ([`Limits::MAX_FRAME_BYTES`]).
    pub frame_bytes: usize,
    /// How deep arrays and maps may nest. A deeper frame costs its connection. Default 128, at most
    /// [`Limits::MAX_DEPTH`]. What a service decodes by recursion takes stack for each level: a worker has 16 MiB, enough for the 1024 at
    /// which rmp-serde and rmpv stop, in debug builds too, and no more than that, whatever `RUST_MIN_STACK` says.
    pub depth: u32,
    /// Bytes that may wait for one peer. Above half of it, dispatch stops and reading pauses until the peer has
    /// caught up; while it reads, that happens above 512 KiB already. A single reply may exceed it, and so may deferred ones
    /// that come at once, of which `promises` bounds the number. What others push to the connection may not, as far as it still waits,
    /// whatever it waits behind: the connection is closed. What other threads push and its worker has not looked at counts with 96 bytes
    /// for each push, which it takes until then. Default 8 MiB.
    pub outbox_bytes: usize,
    /// Deferred replies that a connection may wait for. With so many it is given no more frames until fewer than half of them are left.
    /// Whatever their size, they may come at once and wait beside `outbox_bytes`: a service whose answers are large does with few.
    /// Default 4096, at least 1, at most [`Limits::MAX_PROMISES`].
    pub promises: u32,
    /// Connections that one worker holds. At the limit accepting pauses and the backlog of the listener holds the
    /// rest. That of a socket is no higher. Default 10000, at most [`Limits::MAX_CONNECTIONS`].
    pub connections: u32,
    /// Bytes of partial frames and outboxes of the whole process. Above it the connection that holds most is cut; as
    /// long as its worker is busy, others are cut if the limit is exceeded by a sixteenth. With what was
    /// pushed from other threads and has not reached its connection, because a worker is stuck, a push that would exceed it
    /// closes its connection instead. There shared bytes that are pushed to many count once, and each push with what it takes
    /// besides them; the first 64 KiB to each connection do not count.
    /// Default 1 GiB, at least `frame_bytes`. A handover takes up to twice that for a moment, and what services save of
    /// their sessions on top; a warning at the start says if the process's control group may not take twice that.
    pub memory: usize,
    /// A connection on which nothing was received or sent for this long, and that waits for nothing (a deferred reply,
    /// or a peer that does not read), is closed. Default zero, which is never.
    pub idle_timeout: Duration,
    /// A frame that was started must be complete within this time, so that slow senders cannot collect. It
    /// begins anew after a pause in which the connection was not read because of `outbox_bytes`. So must be the header that
    /// `proxy_protocol` of a socket demands, counted from when the connection was made. Default 30 seconds; zero is never.
    pub frame_timeout: Duration,
    /// A peer that takes nothing for this long while bytes wait for it is cut, at the latest after twice as long, since the
    /// kernel has to be asked twice whether it takes any. What the kernel holds for it goes as well. Default 30 seconds; zero is never.
    pub write_timeout: Duration,
    /// A peer that has ended its side, or has sent what is of no use, and waits for deferred replies gets none of them any more, when since
    /// then nothing was sent to it and none of them was given for this long: whoever has really gone looks the same. And from when a
    /// connection is to be closed for another reason than that the peer or the service has said all that it wanted to, what is still queued
    /// must be taken within this time, all of it: `write_timeout` alone would let a peer that takes a byte now and then keep its place.
    /// Default 5 minutes; zero is never.
    pub reply_timeout: Duration,
    /// A deferred reply that is not given within this time from when it was promised is given up: the client gets an error, and the
    /// answer goes nowhere if it comes later. Otherwise what never comes is waited for as long as the client waits, and for
    /// `handover.drain` by each stop, restart and reload. Default zero, which is never.
    pub promise_timeout: Duration,
}

impl Limits {
    /// The largest `frame_bytes` that can be configured: 1 GiB.
    pub const MAX_FRAME_BYTES: usize = 1 << 30;
    /// The largest `depth` that can be configured.
    pub const MAX_DEPTH: u32 = 65_535;
    /// The largest `promises` that can be configured.
    pub const MAX_PROMISES: u32 = 1 << 20;
    /// The largest `connections` that can be configured: the kernel's default ceiling for descriptors of one
    /// process (`fs.nr_open`, proc_sys_fs(5)).
    pub const MAX_CONNECTIONS: u32 = 1 << 20;

    /// Whether there can be such limits of `section`: a program may have written the values itself, which no parser has seen.
    ///
    /// # Errors
    ///
    /// Which of them there cannot be.
    pub(crate) fn check(&self, section: &str) -> Result<(), String> {
        let largest = isize::MAX as u64;
        for (key, value, most) in [
            (
                "frame_bytes",
                self.frame_bytes as u64,
                Self::MAX_FRAME_BYTES as u64,
            ),
            ("depth", self.depth.into(), Self::MAX_DEPTH.into()),
            ("outbox_bytes", self.outbox_bytes as u64, largest),
            ("promises", self.promises.into(), Self::MAX_PROMISES.into()),
            (
                "connections",
                self.connections.into(),
                Self::MAX_CONNECTIONS.into(),
            ),
            ("memory", self.memory as u64, largest),
        ] {
            if !(1..=most).contains(&value) {
                return Err(format!(
                    "{section}.{key} cannot be {value}: it is from 1 to {most}"
                ));
            }
        }
        if self.memory < self.frame_bytes {
            return Err(format!(
                "{section}.frame_bytes cannot be {}, more than limits.memory, which is {}",
                self.frame_bytes, self.memory
            ));
        }
        Ok(())
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes: 16 << 20,
            depth: 128,
            outbox_bytes: 8 << 20,
            promises: 4096,
            connections: 10_000,
            memory: 1 << 30,
            idle_timeout: Duration::ZERO,
            frame_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            reply_timeout: Duration::from_secs(300),
            promise_timeout: Duration::ZERO,
        }
    }
}
