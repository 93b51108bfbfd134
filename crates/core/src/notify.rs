//! Telling the service manager: sd_notify(3). Without `NOTIFY_SOCKET` all of it does nothing.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, sendmsg_addr, socket_with,
};
use sd_notify::NotifyState;

use crate::rlimit;

/// Where the service manager listens.
const PLACE: &str = "NOTIFY_SOCKET";

/// How long one attempt to send waits for a service manager that does not read.
pub(crate) const ATTEMPT: Duration = Duration::from_secs(1);

/// How soon it is tried again when the kernel had no memory or no room for it.
pub(crate) const MEMORY_INTERVAL: Duration = Duration::from_millis(10);

/// Whether there is a service manager that wants to be told.
pub(crate) fn is_wanted() -> bool {
    std::env::var_os(PLACE).is_some()
}

/// How long the service manager may take, for one thing or for several together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Term {
    whole: Duration,
    until: Instant,
}

impl Term {
    /// It begins now.
    pub(crate) fn of(whole: Duration) -> Self {
        Term {
            whole,
            until: Instant::now() + whole,
        }
    }

    /// All of it, for what is said when it is over.
    pub(crate) fn whole(self) -> Duration {
        self.whole
    }

    pub(crate) fn left(self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}

/// Sends one notification, with at most one descriptor, behind what is owed, and waits so long for a service manager that does not
/// read, or for room in the kernel. It is attempted once in any case.
///
/// # Errors
///
/// Those of sendmsg(2), and that it was not read. That it was sent does not mean that it has been read.
pub(crate) fn send(text: &str, descriptor: Option<BorrowedFd<'_>>, term: Term) -> io::Result<()> {
    insist(term, || {
        // That may be the removal of what is about to be stored.
        deliver_owed(SendFlags::empty())?;
        attempt(text, descriptor, SendFlags::empty())
    })
}

/// Tries again for so long while it may pass what an attempt fails for.
fn insist(term: Term, mut attempt: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        let Err(error) = attempt() else {
            return Ok(());
        };
        let is_short = is_short(&error);
        if !is_short && error.kind() != io::ErrorKind::WouldBlock {
            let place = std::env::var_os(PLACE).unwrap_or_default();
            let text = format!(
                "the service manager cannot be notified at NOTIFY_SOCKET={}: {error}{}",
                place.display(),
                rlimit::advice(&error)
            );
            return Err(io::Error::new(error.kind(), text));
        }
        if term.left().is_zero() {
            let whole = term.whole();
            let text = match is_short {
                true => {
                    let advice = rlimit::advice(&error);
                    format!(
                        "the kernel has had no room for notifications for {whole:?}: {error}{advice}"
                    )
                }
                false => {
                    format!("the service manager has not read its notifications for {whole:?}")
                }
            };
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        if is_short {
            // An attempt waits only for the service manager.
            std::thread::sleep(MEMORY_INTERVAL);
        }
    }
}

/// Whether the kernel had no room for it, which passes.
pub(crate) fn is_short(error: &io::Error) -> bool {
    // With a descriptor: others of this user's processes are in flight, as many as RLIMIT_NOFILE allows (unix(7)).
    is_short_of_memory(error) || error.raw_os_error() == Some(libc::ETOOMANYREFS)
}

/// Whether the kernel had no memory for it, which passes.
pub(crate) fn is_short_of_memory(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM))
}

/// Sends it if the service manager reads. Otherwise it waits for that, for [`ATTEMPT`] at most unless a flag says that it does not.
fn attempt(text: &str, descriptor: Option<BorrowedFd<'_>>, flags: SendFlags) -> io::Result<()> {
    let Some(place) = std::env::var_os(PLACE) else {
        return Ok(());
    };
    // A name that begins with "@" is in the abstract namespace (sd_notify(3)).
    let address = match place.as_bytes() {
        [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
        path => SocketAddrUnix::new(path)?,
    };
    let socket = socket()?;
    let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        let fits = ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        debug_assert!(fits, "the space is for one");
    }
    let parts = [IoSlice::new(text.as_bytes())];
    let flags = flags | SendFlags::NOSIGNAL;
    loop {
        match sendmsg_addr(socket, &address, &parts, &mut ancillary, flags) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The socket that is sent from. It is kept, so that the watchdog is fed also when there is no descriptor left.
fn socket() -> io::Result<&'static OwnedFd> {
    static SOCKET: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(socket) = SOCKET.get() {
        return Ok(socket);
    }
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(ATTEMPT))?;
    Ok(SOCKET.get_or_init(|| socket))
}

/// What the service manager must be told and has not read yet, in order.
static OWED: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

/// What it was not told yet, and does not come to know if this process ends.
pub(crate) fn owed() -> Vec<String> {
    let owed = OWED.lock().unwrap_or_else(PoisonError::into_inner);
    owed.iter().cloned().collect()
}

/// Tells it now, or as soon as it reads, if [`send_owed`] is called.
pub(crate) fn tell(text: String) {
    let mut owed = OWED.lock().unwrap_or_else(PoisonError::into_inner);
    owed.push_back(text);
    drop(owed);
    send_owed();
}

/// Sends what the service manager must be told, without waiting. Returns whether anything is left, to be tried again in
/// [`ATTEMPT`].
pub(crate) fn send_owed() -> bool {
    deliver_owed(SendFlags::DONTWAIT).is_err()
}

/// Sends what the service manager must be told.
///
/// # Errors
///
/// That it does not read, or that there is no memory for it. What it is not sent for another reason it is not told.
fn deliver_owed(flags: SendFlags) -> io::Result<()> {
    let mut owed = OWED.lock().unwrap_or_else(PoisonError::into_inner);
    while let Some(text) = owed.front() {
        let attempted = attempt(text, None, flags);
        if !is_done_with(&attempted) {
            return attempted;
        }
        owed.pop_front();
    }
    Ok(())
}

/// Sends what can be done without, unless it would have to wait for that. The main thread has signals to wait for. Returns
/// whether there is nothing more to be done about it.
fn mention(text: &str) -> bool {
    is_done_with(&attempt(text, None, SendFlags::DONTWAIT))
}

/// Whether what was attempted is not to be tried again.
fn is_done_with(attempted: &io::Result<()>) -> bool {
    /// That it does not read has been said.
    static IS_SAID: AtomicBool = AtomicBool::new(false);
    match attempted {
        Ok(()) => IS_SAID.store(false, Ordering::Relaxed),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            if !IS_SAID.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    "the service manager does not read its notifications; until it does, it is not told the status, and its \
                     watchdog is not fed"
                );
            }
            return false;
        }
        Err(error) if is_short(error) => {
            tracing::debug!("cannot notify the service manager yet: {error}");
            return false;
        }
        Err(error) => tracing::warn!("cannot notify the service manager: {error}"),
    }
    true
}

pub(crate) fn ready() {
    tell("READY=1".into());
}

/// A reload begins, which may take so long. systemd wants to know when, to tell it from an earlier one (sd_notify(3), RELOADING=1).
pub(crate) fn reloading(longest: Duration) {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(format!("RELOADING=1\n{now}\n{}", extension(longest))),
        Err(error) => tracing::warn!("cannot notify the service manager: {error}"),
    }
}

/// A stop begins, which may take so long.
pub(crate) fn stopping(longest: Duration) {
    tell(format!("STOPPING=1\n{}", extension(longest)));
}

/// What comes next may take so long.
pub(crate) fn extend(longest: Duration) {
    tell(extension(longest));
}

/// Puts off the time limit of the present state, `TimeoutStopSec=` for one, and the watchdog's, if they are sooner.
fn extension(longest: Duration) -> String {
    format!("EXTEND_TIMEOUT_USEC={}", longest.as_micros())
}

/// Returns whether it need not be said again.
pub(crate) fn status(line: &str) -> bool {
    mention(&format!("STATUS={line}"))
}

pub(crate) fn watchdog() {
    mention("WATCHDOG=1");
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn what_passes_is_tried_again_and_nothing_else() {
        let passing = [
            libc::ENOBUFS,
            libc::ENOMEM,
            libc::ETOOMANYREFS,
            libc::EAGAIN,
        ];
        let mut errors = passing.into_iter();
        let sent = insist(Term::of(PATIENCE), || {
            let error = errors.next().map(io::Error::from_raw_os_error);
            error.map_or(Ok(()), Err)
        });
        assert!(sent.is_ok(), "{sent:?}");

        // Whether it is there is unknown then.
        for errno in passing {
            let sent = insist(Term::of(Duration::ZERO), || {
                Err(io::Error::from_raw_os_error(errno))
            });
            assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::TimedOut);
        }
        let mut attempts = 0;
        let sent = insist(Term::of(PATIENCE), || {
            attempts += 1;
            Err(io::Error::from_raw_os_error(libc::ECONNREFUSED))
        });
        assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(attempts, 1);
    }

    #[test]
    fn what_must_be_told_is_owed_until_nothing_that_passes_is_in_the_way() {
        for errno in [libc::ENOBUFS, libc::ENOMEM, libc::EAGAIN] {
            assert!(!is_done_with(&Err(io::Error::from_raw_os_error(errno))));
        }
        assert!(is_done_with(&Err(io::Error::from_raw_os_error(
            libc::ECONNREFUSED
        ))));
        assert!(is_done_with(&Ok(())));
    }
}
