//! Descriptors in a box: many of them inside one socketpair.
//!
//! A service manager compares each descriptor that it stores with all that it has, so a thousand stored connections
//! would cost it half a second. Two descriptors cost nothing: the ends of an AF_UNIX SOCK_SEQPACKET socketpair, in whose
//! queue the others travel (SCM_RIGHTS, unix(7)), hundreds a message. The queue lives as long as either end is open
//! somewhere.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::sys::socket::setsockopt;
use nix::{setsockopt_impl, sockopt_impl};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    sockopt,
};

/// Descriptors in one message; the kernel's limit is 253 (`SCM_MAX_FD`).
pub(crate) const BATCH: usize = 250;

/// The queue's limit in bytes; the kernel counts each message with its overhead and caps this at net.core.wmem_max.
const QUEUE_BYTES: usize = 1 << 20;

/// The two ends of the socketpair.
#[derive(Debug)]
pub(crate) struct Carton {
    /// What the successor reads from.
    pub(crate) outlet: OwnedFd,
    /// What descriptors are put in through. Kept with the other end, so that the outlet never shows a hang-up, for
    /// which a service manager would drop it.
    pub(crate) inlet: OwnedFd,
}

impl Carton {
    pub(crate) fn new() -> io::Result<Self> {
        let (inlet, outlet) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        // Best effort: what it does not hold is noticed when it is put in.
        let _ = sockopt::set_socket_send_buffer_size(&inlet, QUEUE_BYTES);
        Ok(Carton { outlet, inlet })
    }

    /// Puts descriptors in, in this order.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if the queue is full, ETOOMANYREFS if more descriptors are in flight than RLIMIT_NOFILE allows
    /// (unix(7)).
    pub(crate) fn put(&self, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        for batch in descriptors.chunks(BATCH) {
            let count = (batch.len() as u16).to_be_bytes();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            let fits = ancillary.push(SendAncillaryMessage::ScmRights(batch));
            debug_assert!(fits, "the space is for a whole batch");
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            sendmsg(&self.inlet, &[IoSlice::new(&count)], &mut ancillary, flags)?;
        }
        Ok(())
    }
}

/// What was found in a carton.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// The descriptors, close-on-exec, in the order in which they were put in.
    pub(crate) descriptors: Vec<OwnedFd>,
    /// How many could not be received (MSG_CTRUNC), because this process may not have so many open.
    pub(crate) lost: usize,
}

/// Looks at everything in the carton and takes nothing out: a crash, or another look, finds it whole. Each look makes
/// new duplicates.
pub(crate) fn look(outlet: &OwnedFd) -> io::Result<Contents> {
    let mut contents = Contents::default();
    setsockopt(outlet, PeekOffset, &0)?;
    loop {
        let mut count = [0; 2];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = match recvmsg(
            outlet,
            &mut [IoSliceMut::new(&mut count)],
            &mut ancillary,
            flags,
        ) {
            Ok(received) => received,
            Err(rustix::io::Errno::AGAIN) => return Ok(contents),
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        if received.bytes == 0 {
            return Ok(contents);
        }
        let before = contents.descriptors.len();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                contents.descriptors.extend(descriptors);
            }
        }
        let arrived = contents.descriptors.len() - before;
        contents.lost += usize::from(u16::from_be_bytes(count)).saturating_sub(arrived);
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
            let contents = look(&carton.outlet).unwrap();
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
    fn an_empty_carton_is_empty() {
        let carton = Carton::new().unwrap();
        assert_eq!(look(&carton.outlet).unwrap().descriptors.len(), 0);
        drop(carton.inlet);
        assert_eq!(look(&carton.outlet).unwrap().descriptors.len(), 0);
    }
}
