//! Descriptors in a box: many of them inside one socketpair.
//!
//! A service manager compares each descriptor that it stores with all that it has, so a thousand stored connections
//! would cost it half a second. Two descriptors cost nothing: the ends of an AF_UNIX SOCK_SEQPACKET socketpair, in whose
//! queues, one for each direction, the others travel (SCM_RIGHTS, unix(7)), hundreds a message. What waits at an end lives
//! as long as that end is open somewhere.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::thread;
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::{setsockopt_impl, sockopt_impl};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    sockopt,
};

use crate::notify::{MEMORY_INTERVAL, Term, is_short_of_memory};

/// How long each call of [`Carton::put`] waits for memory in all. Those who are on their way wait as well, and are lost without it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Descriptors in one message; the kernel's limit is 253 (`SCM_MAX_FD`).
pub(crate) const BATCH: usize = 250;

/// The limit of each queue in bytes. The kernel caps it at net.core.wmem_max, takes twice that, and counts 768 bytes for a
/// message: with 212992 bytes, the default of most kernels, the two queues hold 277,500 descriptors.
const QUEUE_BYTES: usize = 1 << 20;

/// The two ends of the socketpair. Both are kept, so that neither shows a hang-up, for which a service manager would drop
/// it.
#[derive(Debug)]
pub(crate) struct Carton {
    /// Where descriptors wait.
    pub(crate) outlet: OwnedFd,
    /// What they are put in through. When no more go in, the two change places.
    pub(crate) inlet: OwnedFd,
}

impl Carton {
    pub(crate) fn new() -> io::Result<Self> {
        Self::with_queues(QUEUE_BYTES)
    }

    /// With queues of so many bytes, or of what the kernel makes of that.
    pub(crate) fn with_queues(bytes: usize) -> io::Result<Self> {
        let (inlet, outlet) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        for end in [&inlet, &outlet] {
            // Best effort: what it does not hold is noticed when it is put in.
            let _ = sockopt::set_socket_send_buffer_size(end, bytes);
        }
        Ok(Carton { outlet, inlet })
    }

    /// Puts descriptors in, in this order. Where the kernel has no memory for them at the moment, it waits a second for it.
    ///
    /// # Errors
    ///
    /// That it had none by then, `WouldBlock` if both queues are full, ETOOMANYREFS if more descriptors are in flight than RLIMIT_NOFILE
    /// allows (unix(7)).
    pub(crate) fn put(&self, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let term = Term::of(PATIENCE);
        for batch in descriptors.chunks(BATCH) {
            insist(term, || match send(&self.inlet, batch) {
                Err(Errno::AGAIN) => send(&self.outlet, batch),
                sent => sent,
            })?;
        }
        Ok(())
    }
}

/// Tries again within this term where the kernel had no memory for it.
fn insist(term: Term, mut attempt: impl FnMut() -> rustix::io::Result<()>) -> io::Result<()> {
    loop {
        let attempted = attempt().map_err(io::Error::from);
        let is_short = attempted.as_ref().is_err_and(is_short_of_memory);
        if !is_short || term.left().is_zero() {
            return attempted;
        }
        thread::sleep(MEMORY_INTERVAL);
    }
}

fn send(end: &OwnedFd, batch: &[BorrowedFd<'_>]) -> rustix::io::Result<()> {
    let count = (batch.len() as u16).to_be_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fits = ancillary.push(SendAncillaryMessage::ScmRights(batch));
    debug_assert!(fits, "the space is for a whole batch");
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    sendmsg(end, &[IoSlice::new(&count)], &mut ancillary, flags)?;
    Ok(())
}

/// What was found in a carton.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The descriptors, close-on-exec, in the order in which they were put in.
    pub(crate) descriptors: Vec<OwnedFd>,
    /// How many could not be received (MSG_CTRUNC), because this process may not have so many open.
    pub(crate) lost: usize,
    /// Why there may be more that was not found.
    pub(crate) failed: Option<io::Error>,
}

/// Looks at everything that waits at these ends of a carton and takes nothing out: a crash, or another look, finds it
/// whole. Each look makes new duplicates.
pub(crate) fn look(ends: &[&OwnedFd]) -> Found {
    let mut found = Found::default();
    for end in ends {
        if let Err(error) = found.add_all_from(end) {
            found.failed = Some(error);
        }
    }
    found
}

impl Found {
    fn add_all_from(&mut self, end: &OwnedFd) -> io::Result<()> {
        setsockopt(end, PeekOffset, &0)?;
        while self.add_from(end)? {}
        Ok(())
    }

    /// Adds the next message of the queue at this end. Returns whether there may be more.
    fn add_from(&mut self, end: &OwnedFd) -> io::Result<bool> {
        let mut count = [0; 2];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let parts = &mut [IoSliceMut::new(&mut count)];
        let received = retry_on_intr(|| recvmsg(end, parts, &mut ancillary, flags));
        match received {
            Ok(received) if received.bytes > 0 => {}
            Ok(_) | Err(Errno::AGAIN) => return Ok(false),
            // Said once, if the other end was closed with something waiting there. What waits here comes after that.
            Err(Errno::CONNRESET) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
        let before = self.descriptors.len();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        let arrived = self.descriptors.len() - before;
        self.lost += usize::from(u16::from_be_bytes(count)).saturating_sub(arrived);
        Ok(true)
    }
}

sockopt_impl!(
    /// From where MSG_PEEK looks (SO_PEEK_OFF, socket(7)): with an offset, each peek moves it on by what it saw.
    PeekOffset,
    SetOnly,
    libc::SOL_SOCKET,
    libc::SO_PEEK_OFF,
    libc::c_int
);

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_look_takes_nothing_out_and_keeps_the_order() {
        let pairs: Vec<_> = (0..600).map(|_| UnixStream::pair().unwrap()).collect();
        let carton = Carton::new().unwrap();
        let descriptors: Vec<BorrowedFd<'_>> = pairs.iter().map(|(ours, _)| ours.as_fd()).collect();
        carton.put(&descriptors).unwrap();
        let cookies: Vec<u64> = descriptors
            .iter()
            .map(|fd| sockopt::socket_cookie(fd).unwrap())
            .collect();
        for _ in 0..3 {
            let contents = look(&[&carton.outlet, &carton.inlet]);
            let found: Vec<u64> = contents
                .descriptors
                .iter()
                .map(|fd| sockopt::socket_cookie(fd).unwrap())
                .collect();
            assert_eq!(found, cookies);
            assert_eq!(contents.lost, 0);
        }
    }

    #[test]
    fn memory_is_waited_for_and_nothing_else() {
        let result_of = |term: Duration, errors: &[Errno]| {
            let mut attempts = 0;
            let result = insist(Term::of(term), || {
                attempts += 1;
                errors.get(attempts - 1).map_or(Ok(()), |error| Err(*error))
            });
            (
                result.err().and_then(|error| error.raw_os_error()),
                attempts,
            )
        };
        let long = Duration::from_secs(60);
        let passing = [Errno::NOMEM, Errno::NOBUFS];
        assert_eq!(result_of(long, &passing), (None, 3));
        for error in [Errno::AGAIN, Errno::TOOMANYREFS, Errno::PERM] {
            let errors = [Errno::NOMEM, error, Errno::NOMEM];
            assert_eq!(result_of(long, &errors), (Some(error.raw_os_error()), 2));
        }
        for error in passing {
            let errors = [error, error];
            let expected = (Some(error.raw_os_error()), 1);
            assert_eq!(result_of(Duration::ZERO, &errors), expected);
        }
    }

    #[test]
    fn when_one_queue_is_full_the_other_one_is_used() {
        let (plug, _) = UnixStream::pair().unwrap();
        let carton = Carton::with_queues(1).unwrap();
        let mut batches = 0;
        while carton.put(&[plug.as_fd()]).is_ok() {
            batches += 1;
        }
        let [at_outlet, at_inlet] =
            [&carton.outlet, &carton.inlet].map(|end| look(&[end]).descriptors.len());
        assert!(at_outlet > 1);
        assert_eq!((at_inlet, at_outlet + at_inlet), (at_outlet, batches));
        assert_eq!(
            look(&[&carton.outlet, &carton.inlet]).descriptors.len(),
            batches
        );
    }

    #[test]
    fn what_waits_at_one_end_is_found_without_the_other() {
        for goes_with_something in [true, false] {
            let (plug, _) = UnixStream::pair().unwrap();
            let carton = Carton::with_queues(1).unwrap();
            let is_full = || !look(&[&carton.inlet]).descriptors.is_empty();
            carton.put(&[plug.as_fd()]).unwrap();
            while goes_with_something && !is_full() {
                carton.put(&[plug.as_fd()]).unwrap();
            }
            let waiting = look(&[&carton.outlet]).descriptors.len();
            drop(carton.inlet);
            for _ in 0..2 {
                let contents = look(&[&carton.outlet]);
                assert_eq!(contents.descriptors.len(), waiting);
                assert!(contents.failed.is_none(), "{contents:?}");
            }
        }
    }

    #[test]
    fn an_empty_carton_is_empty() {
        let carton = Carton::new().unwrap();
        assert_eq!(look(&[&carton.outlet, &carton.inlet]).descriptors.len(), 0);
        drop(carton.inlet);
        assert_eq!(look(&[&carton.outlet]).descriptors.len(), 0);
    }
}
