//! Telling the service manager: sd_notify(3). Without `NOTIFY_SOCKET` all of it does nothing.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, sendmsg_addr, socket_with,
};
use sd_notify::NotifyState;

/// Where the service manager listens.
const PLACE: &str = "NOTIFY_SOCKET";

/// Whether there is a service manager that wants to be told.
pub(crate) fn is_wanted() -> bool {
    std::env::var_os(PLACE).is_some()
}

/// Sends one notification, with at most one descriptor.
///
/// # Errors
///
/// Those of sendmsg(2). That it was sent does not mean that it has been read.
pub(crate) fn send(text: &str, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
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
    loop {
        match sendmsg_addr(
            socket,
            &address,
            &parts,
            &mut ancillary,
            SendFlags::NOSIGNAL,
        ) {
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
    Ok(SOCKET.get_or_init(|| socket))
}

fn notify(text: &str) {
    if let Err(error) = send(text, None) {
        tracing::warn!("cannot notify the service manager: {error}");
    }
}

pub(crate) fn ready() {
    notify("READY=1");
}

/// A reload begins. systemd wants to know when, to tell it from an earlier one (sd_notify(3), RELOADING=1).
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&format!("RELOADING=1\n{now}")),
        Err(error) => tracing::warn!("cannot notify the service manager: {error}"),
    }
}

pub(crate) fn stopping() {
    notify("STOPPING=1");
}

pub(crate) fn status(line: &str) {
    notify(&format!("STATUS={line}"));
}

pub(crate) fn watchdog() {
    notify("WATCHDOG=1");
}
