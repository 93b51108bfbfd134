//! Whether this engine works here, found out by trying what it is built on.

use std::any::Any;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use io_uring_for_tokio::IoUring;
use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown, recv, shutdown};
use tokio_uring::Runtime;

use super::flights::{Flights, Operation};
use super::send::send_slices;
use super::setup::{self, Unavailable};
use crate::panics;

/// The ring of the probe.
const ENTRIES: u32 = 8;

/// No answer of the kernel takes this long on sockets that have data already.
const PATIENCE: Duration = Duration::from_secs(20);

const READABLE: Operation = Operation::Readable {
    slot: 0,
    generation: 0,
};

/// Tries it on a thread of its own, since a runtime belongs to the thread that made it.
///
/// # Errors
///
/// Why this engine does not work here.
pub(crate) fn probe() -> Result<(), Unavailable> {
    let failed = |error| Unavailable::at("trying it out")(error);
    let tried = std::thread::Builder::new()
        .name("ringhold-probe".into())
        .spawn(move || {
            enter()?;
            let (runtime, entries) = setup::runtime(ENTRIES)?;
            attempt(&runtime, entries).map_err(failed)
        })
        .map_err(Unavailable::at(setup::THREAD))?
        .join();
    let panicked = |panic: Box<dyn Any + Send>| {
        let text = format!("the probe panicked: {}", panics::message(&*panic));
        failed(io::Error::other(text))
    };
    tried.map_err(panicked)?
}

/// A ring can be made and used: seccomp filters may allow the one without the other. tokio-uring ignores that, and aborts the
/// process when its runtime is dropped.
fn enter() -> Result<(), Unavailable> {
    let ring = IoUring::new(ENTRIES).map_err(Unavailable::at("io_uring_setup"))?;
    ring.submit().map_err(Unavailable::at("io_uring_enter"))?;
    Ok(())
}

/// A send of one slice and one of several must go, a poll must wait, what it announces a receive must find, and a socket that is shut
/// down must end its poll: that is how connections are closed.
fn attempt(runtime: &Runtime, entries: u32) -> io::Result<()> {
    let mut flights = Flights::new(entries);
    let (ours, mut theirs) = UnixStream::pair()?;
    let ours = OwnedFd::from(ours);

    for (call, slices) in [("send", vec![b"!"]), ("sendmsg", vec![b"!"; 2])] {
        let (sent, _) = send_slices(&ours, slices.into_iter().map(|slice| &slice[..]));
        sent.map_err(|errno| forbidden(call, errno))?;
    }

    flights.readable(READABLE, ours.as_fd());
    flights.turn();
    let (first, result) = landed(&mut flights, runtime)?;
    if first != Operation::Turn {
        return Err(unexpected("a poll without data", result));
    }
    theirs.write_all(b"?")?;
    let (_, result) = landed(&mut flights, runtime)?;
    if result < 0 {
        return Err(unexpected("a poll with data", result));
    }
    recv(&ours, &mut [0; 8], RecvFlags::DONTWAIT).map_err(|errno| forbidden("recv", errno))?;

    flights.readable(READABLE, ours.as_fd());
    flights.turn();
    landed(&mut flights, runtime)?;
    shutdown(&ours, Shutdown::Both).map_err(|errno| forbidden("shutdown", errno))?;
    let (_, result) = landed(&mut flights, runtime)?;
    if result < 0 {
        return Err(unexpected("a poll of what is shut down", result));
    }
    Ok(())
}

/// The next operation that completes.
fn landed(flights: &mut Flights, runtime: &Runtime) -> io::Result<(Operation, i32)> {
    if !flights.has_landed() {
        flights.park(runtime, Some(Instant::now() + PATIENCE));
    }
    flights.collect();
    flights
        .next()
        .ok_or_else(|| io::Error::other("an operation does not complete"))
}

/// These calls fail on no socket that is connected, unless somebody forbids them.
fn forbidden(call: &str, errno: Errno) -> io::Error {
    io::Error::other(format!(
        "{call}: {errno}; a seccomp filter forbids it (a container profile, or SystemCallFilter= in the unit)"
    ))
}

fn unexpected(what: &str, result: i32) -> io::Error {
    io::Error::other(format!("{what} completes with {result}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::deny;

    #[test]
    fn works_where_io_uring_does() {
        if crate::engine::ring::probe().unavailable.is_none() {
            probe().unwrap();
        }
    }

    /// Without enter a ring can be made but not used. Without receives and sends no connection would live. Without shutdown one would
    /// stay open when it is closed, and no stop would end.
    #[test]
    fn what_a_filter_forbids_is_reported() {
        if probe().is_err() {
            return;
        }
        for (call, failed) in [
            (libc::SYS_io_uring_enter, "io_uring_enter: "),
            (libc::SYS_recvfrom, "trying it out: recv: "),
            (libc::SYS_sendto, "trying it out: send: "),
            (libc::SYS_sendmsg, "trying it out: sendmsg: "),
            (libc::SYS_shutdown, "trying it out: shutdown: "),
        ] {
            for errno in [libc::EPERM, libc::ENOSYS] {
                let probing = std::thread::spawn(move || {
                    deny(call, errno);
                    probe().unwrap_err().to_string()
                });
                let refusal = probing.join().unwrap();
                let begin = format!("the portable engine is not available: {failed}");
                assert!(refusal.starts_with(&begin), "{refusal}");
                assert!(refusal.contains("seccomp"), "{refusal}");
            }
        }
    }
}
